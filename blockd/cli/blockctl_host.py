"""`blockctl host`."""

import typer

from blockd.cli.blockctl_output import (
    local_time,
    print_facts,
    print_json,
    print_table,
    state_text,
)
from blockd.cli.blockctl_session import Clients, Format, HostName, Output, run, session_of
from blockd.cli.blockctl_views import host_state, host_status_view, host_view
from blockd.model.errors import BlockdError
from blockd.model.units import format_size
from blockd.rpc.gen import host_pb2
from blockd.rpc.gen.types_pb2 import Host, Store

app = typer.Typer(help="Hosts: machines with stores.", no_args_is_help=True)

ASK_SECONDS = 3.0
STALLED = "stalled"


@app.command("list")
def list_hosts(context: typer.Context, output: Output = None) -> None:
    """List all hosts."""
    hosts = list(run(context, lambda clients: clients.list_hosts()).values())
    if session_of(context).chosen(output) is Format.JSON:
        print_json({"hosts": [host_view(host) for host in hosts]})
        return
    columns = [
        "host",
        "site",
        "state",
        "stores>",
        "used>",
        "capacity>",
        "segments>",
        "release",
        "gRPC",
    ]
    print_table(columns, [_row(host) for host in hosts], "no hosts")


def _row(host: Host) -> list[str]:
    return [
        host.name,
        host.site,
        state_text(host_state(host)),
        _store_count(host),
        format_size(sum(store.allocated_bytes for store in host.stores)),
        format_size(sum(store.capacity_bytes for store in host.stores)),
        str(sum(store.segment_count for store in host.stores)),
        host.release or "-",
        host.grpc_endpoint,
    ]


def _store_count(host: Host) -> str:
    failed = sum(bool(store.failed) for store in host.stores)
    stalled = sum(store.state == STALLED for store in host.stores)
    counts = ((failed, "failed"), (stalled, "stalled"))
    bad = ", ".join(f"{count} {what}" for count, what in counts if count)
    return f"{len(host.stores)}" + (f" [red]({bad})[/]" if bad else "")


def _store_state(store: Store) -> str:
    if store.failed:
        return f"[red]failed: {store.failed}[/]"
    return f"[red]{STALLED}[/]" if store.state == STALLED else "[green]good[/]"


@app.command("show")
def show(context: typer.Context, name: HostName, output: Output = None) -> None:
    """Show a host: its stores, what it serves, and what its daemon counts."""
    host, status = run(context, lambda clients: _ask(clients, name))
    if session_of(context).chosen(output) is Format.JSON:
        view = host_view(host)
        view["daemon"] = host_status_view(status) if status is not None else None
        print_json(view)
        return
    _print(host, status)


async def _ask(clients: Clients, name: str) -> tuple[Host, host_pb2.HostStatus | None]:
    """The record, and the daemon's own answer, None when it gives none."""
    host = await clients.host(name)
    try:
        status = await clients.hosts.call(
            host.grpc_endpoint,
            lambda stub: stub.GetStatus,
            host_pb2.GetStatusRequest(),
            timeout=ASK_SECONDS,
        )
    except BlockdError:
        return host, None
    return host, status


def _print(host: Host, status: host_pb2.HostStatus | None) -> None:
    print_facts(
        [
            ("host", host.name),
            ("id", host.id),
            ("site", host.site),
            ("state", state_text(host_state(host))),
            ("last heartbeat", local_time(host.last_heartbeat_unix_us)),
            ("started", f"{host.incarnation} times"),
            ("release", host.release or "not told"),
            ("gRPC", host.grpc_endpoint),
            ("peers", host.peer_endpoint),
            ("NBD", ", ".join(status.nbd_endpoints) if status else "the daemon does not answer"),
        ]
    )
    columns = [
        "store",
        "path",
        "state",
        "used>",
        "capacity>",
        "journal used>",
        "journal>",
        "segments>",
    ]
    rows = [
        [
            store.id,
            store.path,
            _store_state(store),
            format_size(store.allocated_bytes),
            format_size(store.capacity_bytes),
            format_size(store.journal_used_bytes),
            format_size(store.journal_bytes),
            str(store.segment_count),
        ]
        for store in host.stores
    ]
    print_table(columns, rows, "no stores")
    if status is not None:
        rows = [
            [one.volume_name, state_text(one.state), str(one.epoch), "\n".join(one.nbd_uris)]
            for one in status.attachments
        ]
        print_table(["volume", "engine", "epoch>", "NBD"], rows, "serves no volume")
