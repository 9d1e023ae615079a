"""`blockctl scrub`: have stores read and checked, and see what was found.

The hosts are found through the metadata service; each is asked itself. Without --host all hosts are
meant, without --store all stores of a host.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from rich.markup import escape

from blockd.cli.blockctl_output import local_time, print_json, print_table, state_text
from blockd.cli.blockctl_session import Clients, Format, Output, complete_host, run, session_of
from blockd.model.errors import BlockdError, ChecksumMismatch, InvalidArgument, LinkLost, NotFound
from blockd.model.units import BLOCK_BYTES, SEGMENT_BYTES, format_size, parse_size
from blockd.rpc.gen import host_pb2, meta_pb2
from blockd.rpc.gen.types_pb2 import Host

app = typer.Typer(
    help="Scrubs: every stored block is read and checked, what is damaged repaired.",
    no_args_is_help=True,
)

ASK_SECONDS = 10.0

HostOption = Annotated[
    str | None,
    typer.Option("--host", help="Name or id; else every host.", autocompletion=complete_host),
]
StoreOption = Annotated[
    str | None, typer.Option("--store", help="Id or path of a store; else every store.")
]
# (connections, the host's endpoint, a store's id or "") -> the answer
Ask = Callable[[Clients, str, str], Awaitable[host_pb2.ScrubStatus]]


@dataclass
class Answers:
    """What each host has answered. volumes: names by id."""

    hosts: list[tuple[Host, host_pb2.ScrubStatus | BlockdError]]
    volumes: dict[str, str]

    @property
    def scrubs(self) -> list[tuple[Host, host_pb2.StoreScrub]]:
        """Every store's."""
        return [
            (host, scrub)
            for host, got in self.hosts
            if not isinstance(got, BlockdError)
            for scrub in got.stores
        ]

    @property
    def comparisons(self) -> list[tuple[Host, host_pb2.ReplicaComparison]]:
        """Every volume's, with its holder."""
        return [
            (host, one)
            for host, got in self.hosts
            if not isinstance(got, BlockdError)
            for one in got.comparisons
        ]

    @property
    def failures(self) -> list[tuple[Host, BlockdError]]:
        """The hosts that gave none."""
        return [(host, got) for host, got in self.hosts if isinstance(got, BlockdError)]

    @property
    def is_damaged(self) -> bool:
        """Some block is damaged and not repaired, or replicas differ."""
        return any(one.differing_chunks for _, one in self.comparisons) or any(
            scrub.findings_dropped or any(not one.repaired_unix_us for one in scrub.findings)
            for _, scrub in self.scrubs
        )


@app.command("start")
def start(
    context: typer.Context,
    host: HostOption = None,
    store: StoreOption = None,
    rate: Annotated[
        str | None, typer.Option(help="Bytes a second and store, as 50MiB; else as set there.")
    ] = None,
    output: Output = None,
) -> None:
    """Start scrubs; one that runs begins anew."""
    rate_bytes = parse_size(rate) if rate is not None else 0
    if rate is not None and rate_bytes == 0:
        raise InvalidArgument("--rate must be positive (`blockctl scrub stop` stops a scrub)")

    async def ask(clients: Clients, endpoint: str, store_id: str) -> host_pb2.ScrubStatus:
        request = host_pb2.StartScrubRequest(store_id=store_id, rate_bytes=rate_bytes)
        return await clients.hosts.call(
            endpoint, lambda stub: stub.StartScrub, request, timeout=ASK_SECONDS
        )

    _show(context, run(context, lambda clients: _ask_all(clients, host, store, ask)), output)


@app.command("status")
def status(
    context: typer.Context,
    host: HostOption = None,
    store: StoreOption = None,
    output: Output = None,
) -> None:
    """Show progress and findings; exits with 6 while a block is damaged and not repaired, or
    replicas differ."""

    async def ask(clients: Clients, endpoint: str, store_id: str) -> host_pb2.ScrubStatus:
        request = host_pb2.GetScrubRequest(store_id=store_id)
        return await clients.hosts.call(
            endpoint, lambda stub: stub.GetScrub, request, timeout=ASK_SECONDS
        )

    answers = run(context, lambda clients: _ask_all(clients, host, store, ask))
    _show(context, answers, output, damage_exits=True)


@app.command("stop")
def stop(
    context: typer.Context,
    host: HostOption = None,
    store: StoreOption = None,
    output: Output = None,
) -> None:
    """Stop scrubs; the schedule starts the next one in its time."""

    async def ask(clients: Clients, endpoint: str, store_id: str) -> host_pb2.ScrubStatus:
        request = host_pb2.StopScrubRequest(store_id=store_id)
        return await clients.hosts.call(
            endpoint, lambda stub: stub.StopScrub, request, timeout=ASK_SECONDS
        )

    _show(context, run(context, lambda clients: _ask_all(clients, host, store, ask)), output)


async def _ask_all(clients: Clients, host: str | None, store: str | None, ask: Ask) -> Answers:
    """Raises NotFound: no such host, or no host has such a store."""
    known = await clients.list_hosts()
    hosts = [await clients.host(host)] if host is not None else list(known.values())
    if store is not None:
        hosts = [one for one in hosts if _store_id(one, store)]
        if not hosts:
            raise NotFound(f"no store {store} (`blockctl host show NAME` lists a host's stores)")
    listed = await clients.meta.call(
        lambda meta: meta.ListVolumes, meta_pb2.ListVolumesRequest(), idempotent=True
    )
    got = await asyncio.gather(*(_ask_one(clients, one, store, ask) for one in hosts))
    names = {volume.id: volume.name for volume in listed.volumes}
    return Answers(list(zip(hosts, got, strict=True)), names)


def _store_id(host: Host, store: str | None) -> str:
    """Of the store that is called so, by its id or path; else ""."""
    return next((one.id for one in host.stores if store in (one.id, one.path)), "")


async def _ask_one(
    clients: Clients, host: Host, store: str | None, ask: Ask
) -> host_pb2.ScrubStatus | BlockdError:
    try:
        return await ask(clients, host.grpc_endpoint, _store_id(host, store))
    except BlockdError as error:
        return error


def _show(
    context: typer.Context, answers: Answers, output: Format | None, *, damage_exits: bool = False
) -> None:
    """Print, and exit as the command's help says; with 5 when a host did not answer."""
    if session_of(context).chosen(output) is Format.JSON:
        print_json(_view(answers))
    else:
        _print(answers)
    if damage_exits and answers.is_damaged:
        raise typer.Exit(ChecksumMismatch.exit_code)
    if answers.failures:
        raise typer.Exit(LinkLost.exit_code)


def _view(answers: Answers) -> dict[str, Any]:
    return {
        "damaged": answers.is_damaged,
        "stores": [_scrub_view(answers, host, scrub) for host, scrub in answers.scrubs],
        "comparisons": [
            {
                "volume": answers.volumes.get(one.volume_id),
                "volume_id": one.volume_id,
                "host": host.name,
                "unix_us": one.unix_us,
                "segments": one.segments,
                "replicas": one.replicas,
                "failures": one.failures,
                "differing_chunks": one.differing_chunks,
                "offsets_bytes": list(one.offsets_bytes),
            }
            for host, one in answers.comparisons
        ],
        "failures": [
            {"host": host.name, "error": error.name, "message": error.message}
            for host, error in answers.failures
        ],
    }


def _scrub_view(answers: Answers, host: Host, scrub: host_pb2.StoreScrub) -> dict[str, Any]:
    return {
        "host": host.name,
        "store": scrub.store_id,
        "path": scrub.store_path,
        "state": scrub.state,
        "started_unix_us": scrub.started_unix_us,
        "ended_unix_us": scrub.ended_unix_us,
        "estimated_end_unix_us": scrub.estimated_end_unix_us,
        "next_unix_us": scrub.next_unix_us,
        "rate_bytes": scrub.rate_bytes,
        "bytes_done": scrub.bytes_done,
        "bytes_total": scrub.bytes_total,
        "findings": [
            {
                "volume": answers.volumes.get(one.volume_id),
                "volume_id": one.volume_id,
                "segment": one.segment,
                "chunk": one.chunk,
                "block": one.block,
                "offset_bytes": _offset(one),
                "snapshots_of_era": one.born,
                "error": one.error,
                "found_unix_us": one.found_unix_us,
                "repaired_unix_us": one.repaired_unix_us,
                "note": one.note,
            }
            for one in scrub.findings
        ],
        "findings_dropped": scrub.findings_dropped,
    }


def _offset(finding: host_pb2.ScrubFinding) -> int:
    """In the volume."""
    return finding.segment * SEGMENT_BYTES + finding.block * BLOCK_BYTES


def _print(answers: Answers) -> None:
    columns = ["host", "store", "scrub", "since", "done>", "of>", "rate>", "end", "findings"]
    rows = [_row(host, scrub) for host, scrub in answers.scrubs]
    rows += [
        [host.name, f"[red]{escape(error.message)}[/]", *[""] * (len(columns) - 2)]
        for host, error in answers.failures
    ]
    print_table(columns, rows, "no stores")
    found = [
        [
            host.name,
            answers.volumes.get(one.volume_id, one.volume_id),
            str(one.segment),
            str(one.chunk),
            str(_offset(one)),
            f"{one.error} (in snapshots)" if one.born else one.error,
            local_time(one.found_unix_us),
            f"[green]repaired {local_time(one.repaired_unix_us)}[/]"
            if one.repaired_unix_us
            else f"[red]damaged[/]{escape(f', {one.note}' if one.note else '')}",
        ]
        for host, scrub in answers.scrubs
        for one in scrub.findings
    ]
    if found:
        columns = ["host", "volume", "segment>", "chunk>", "offset>", "error", "found", "now"]
        print_table(columns, found, "")
    compared = [
        [
            answers.volumes.get(one.volume_id, one.volume_id),
            local_time(one.unix_us),
            str(one.segments),
            str(one.replicas),
            _verdict(one),
        ]
        for _, one in answers.comparisons
    ]
    if compared:
        print_table(["volume", "compared", "segments>", "replicas>", "result"], compared, "")


def _verdict(one: host_pb2.ReplicaComparison) -> str:
    missing = f"[yellow], {one.failures} not compared[/]" if one.failures else ""
    if one.differing_chunks:
        first = ", ".join(map(str, one.offsets_bytes[:4]))
        return f"[red]{one.differing_chunks} chunks differ, at {first}[/]{missing}"
    return f"[green]the same[/]{missing}"


def _row(host: Host, scrub: host_pb2.StoreScrub) -> list[str]:
    if scrub.state == "running":
        end = f"about {local_time(scrub.estimated_end_unix_us)}"
    elif scrub.ended_unix_us:
        end = local_time(scrub.ended_unix_us)
    else:
        end = f"first {local_time(scrub.next_unix_us)}" if scrub.next_unix_us else "-"
    damaged = sum(not one.repaired_unix_us for one in scrub.findings) + scrub.findings_dropped
    repaired = sum(one.repaired_unix_us > 0 for one in scrub.findings)
    counts = [f"[red]{damaged} damaged[/]"] * (damaged > 0)
    counts += [f"{repaired} repaired"] * (repaired > 0)
    return [
        host.name,
        scrub.store_path,
        state_text(scrub.state),
        local_time(scrub.started_unix_us),
        format_size(scrub.bytes_done),
        format_size(scrub.bytes_total),
        f"{format_size(scrub.rate_bytes)}/s" if scrub.rate_bytes else "-",
        end,
        ", ".join(counts) or ("none" if scrub.state != "never" else "-"),
    ]
