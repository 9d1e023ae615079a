"""`blockctl volume`."""

from typing import Annotated, Any

import typer
from rich.markup import escape

from blockd.cli import blockctl_verify
from blockd.cli.blockctl_output import (
    print_facts,
    print_json,
    print_line,
    print_table,
    state_text,
    status,
)
from blockd.cli.blockctl_session import (
    Clients,
    Format,
    Output,
    VolumeName,
    complete_host,
    run,
    session_of,
)
from blockd.cli.blockctl_show import (
    ask_engine,
    find_base,
    policy_text,
    print_volume,
    wait_in_sync,
)
from blockd.cli.blockctl_stored import (
    Answers,
    Stored,
    ask_hosts,
    stored_in_all,
    stored_of,
    stored_text,
)
from blockd.cli.blockctl_views import (
    View,
    attachment_status_view,
    attachment_view,
    volume_state,
    volume_view,
)
from blockd.model.errors import BlockdError, ExtentOutOfRange, InvalidArgument
from blockd.model.units import (
    BLOCK_BYTES,
    SEGMENT_BYTES,
    format_size,
    parse_duration_ms,
    parse_size,
)
from blockd.rpc.gen import host_pb2, meta_pb2
from blockd.rpc.gen.types_pb2 import Attachment, Host, Member, Policy, Snapshot, Volume

app = typer.Typer(help="Volumes: replicated virtual disks.", no_args_is_help=True)

CREATE_SECONDS = 120.0
ATTACH_SECONDS = 40.0
LOCATE_SECONDS = 5.0

IoTimeout = Annotated[
    str,
    typer.Option(help="How long a request waits for a quorum before it fails, as 30s or 5m."),
]
Size = Annotated[str, typer.Option("--size", help="As 10GiB, 512M, or bytes.")]


@app.command("create")
def create(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Letters, digits, . _ -")],
    size: Size,
    replicas: Annotated[int, typer.Option(min=1, help="Copies, on different sites.")] = 3,
    min_in_sync: Annotated[
        int, typer.Option(min=0, help="Fewest copies in sync to accept writes; 0: the default.")
    ] = 0,
    io_timeout: IoTimeout = "",
    tenant: Annotated[str, typer.Option(help="Whose it is.")] = "",
    output: Output = None,
) -> None:
    """Create a volume. It is thin: space is taken as it is written."""
    request = meta_pb2.CreateVolumeRequest(
        name=name,
        size_bytes=_bytes(size),
        policy=Policy(
            replicas=replicas,
            min_in_sync=min_in_sync,
            io_timeout_ms=parse_duration_ms(io_timeout) if io_timeout else 0,
        ),
        tenant=tenant,
    )
    with status(f"creating {name}"):
        volume = run(
            context,
            lambda clients: clients.meta.call(
                lambda meta: meta.CreateVolume, request, timeout=CREATE_SECONDS
            ),
        )
    if session_of(context).chosen(output) is Format.JSON:
        print_json(volume_view(volume, segments=True))
    else:
        print_line(
            f"volume {volume.name}: {format_size(volume.size_bytes)}, {volume.policy.replicas} "
            f"replicas at {', '.join(_sites(volume))}"
        )


def _bytes(text: str) -> int:
    size = parse_size(text)
    if size >= 1 << 63:
        raise InvalidArgument(f"--size: {text} is more than a volume may have")
    return size


def _sites(volume: Volume) -> list[str]:
    return sorted({member.site for segment in volume.segments for member in segment.members})


@app.command("list")
def list_volumes(context: typer.Context, output: Output = None) -> None:
    """List all volumes."""

    async def ask(clients: Clients) -> tuple[list[Volume], Answers]:
        answer = await clients.meta.call(
            lambda meta: meta.ListVolumes, meta_pb2.ListVolumesRequest(), idempotent=True
        )
        hosts = await clients.list_hosts()
        return list(answer.volumes), await ask_hosts(clients, hosts)

    volumes, answers = run(context, ask)
    stored = stored_in_all(answers)
    complete = all(answer is not None for answer in answers.values())
    if session_of(context).chosen(output) is Format.JSON:
        views = [
            volume_view(one, segments=False)
            | {
                "stored": {
                    "stored_bytes": stored.get(one.id, Stored()).stored_bytes,
                    "past_bytes": stored.get(one.id, Stored()).past_bytes,
                    "complete": complete,
                }
            }
            for one in volumes
        ]
        print_json({"volumes": views})
        return
    rows = [
        [
            volume.name,
            format_size(volume.size_bytes),
            stored_text(stored.get(volume.id, Stored()).stored_bytes, complete=complete),
            stored_text(stored.get(volume.id, Stored()).past_bytes, complete=complete),
            f"{volume.policy.replicas} (min {volume.policy.min_in_sync})",
            state_text(volume_state(volume)),
            "[yellow]degraded[/]" if volume.degraded else "[green]in sync[/]",
            volume.attachment.host_name or "-",
        ]
        for volume in volumes
    ]
    columns = ["volume", "size>", "stored>", "in snapshots>", "replicas", "state", "health"]
    print_table([*columns, "attached at"], rows, "no volumes")


@app.command("show")
def show(
    context: typer.Context,
    name: VolumeName,
    wait: Annotated[
        bool, typer.Option("--wait", help="Until all replicas are in sync, with progress.")
    ] = False,
    output: Output = None,
) -> None:
    """Show a volume: its segments, their replicas, and what its engine does."""

    async def ask(
        clients: Clients,
    ) -> tuple[Volume, host_pb2.AttachmentStatus | None, View, Snapshot | None]:
        if wait:
            await wait_in_sync(clients, name)
        volume = await clients.volume(name)
        engine, base = await ask_engine(clients, volume), await find_base(clients, volume)
        return volume, engine, await stored_of(clients, volume), base

    volume, engine, stored, base = run(context, ask)
    if session_of(context).chosen(output) is Format.JSON:
        view = volume_view(volume, segments=True)
        view["engine"] = attachment_status_view(engine) if engine is not None else None
        view["stored"] = stored
        if base is not None:
            view["base"] |= {"volume": base.volume_name, "snapshot": base.name}
        print_json(view)
    else:
        print_volume(volume, engine, stored, base)


@app.command("resize")
def resize(
    context: typer.Context,
    name: VolumeName,
    size: Size,
    force: Annotated[
        bool,
        typer.Option("--force", help="Shrink it, too: what lies behind the new end is destroyed."),
    ] = False,
    output: Output = None,
) -> None:
    """Grow a volume, attached or not; or shrink it, attached and with --force.

    Clients of NBD see the new size when they connect again.
    """
    request = meta_pb2.ResizeVolumeRequest(name_or_id=name, size_bytes=_bytes(size), force=force)
    with status(f"resizing {name}"):
        volume = run(
            context,
            lambda clients: clients.meta.call(
                lambda meta: meta.ResizeVolume, request, timeout=CREATE_SECONDS
            ),
        )
    if session_of(context).chosen(output) is Format.JSON:
        print_json(volume_view(volume, segments=True))
    else:
        print_line(f"volume {volume.name}: {format_size(volume.size_bytes)}")


@app.command("policy")
def policy(
    context: typer.Context,
    name: VolumeName,
    min_in_sync: Annotated[
        int | None, typer.Option(min=1, help="Fewest copies in sync; can only be lowered.")
    ] = None,
    io_timeout: IoTimeout = "",
    output: Output = None,
) -> None:
    """Change what a volume asks for, from its next attachment on."""
    request = meta_pb2.ChangePolicyRequest(
        name_or_id=name,
        min_in_sync=min_in_sync,
        io_timeout_ms=parse_duration_ms(io_timeout) if io_timeout else None,
    )
    if min_in_sync is None and not io_timeout:
        raise InvalidArgument("nothing to change: give --min-in-sync or --io-timeout")
    volume = run(
        context,
        lambda clients: clients.meta.call(lambda meta: meta.ChangePolicy, request),
    )
    if session_of(context).chosen(output) is Format.JSON:
        print_json(volume_view(volume, segments=True))
    else:
        print_line(f"volume {volume.name}: {policy_text(volume.policy)}")


@app.command("delete")
def delete(
    context: typer.Context,
    name: VolumeName,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Forget one that is being deleted, though hosts still have replicas of it: they "
            "take space until those hosts are back, which drop them then.",
        ),
    ] = False,
    output: Output = None,
) -> None:
    """Delete a volume and all its data. It must not be attached, and have no snapshots."""
    request = meta_pb2.DeleteVolumeRequest(name_or_id=name, force=force)
    with status(f"deleting {name}"):
        answer = run(
            context,
            lambda clients: clients.meta.call(
                lambda meta: meta.DeleteVolume, request, timeout=CREATE_SECONDS
            ),
        )
    if session_of(context).chosen(output) is Format.JSON:
        print_json({"name": name, "deleted": True, "waiting_hosts": list(answer.waiting_hosts)})
        return
    if not answer.waiting_hosts:
        print_line(f"volume {name} is deleted")
        return
    waiting = ", ".join(answer.waiting_hosts)
    if force:
        print_line(f"volume {name} is forgotten; dropped when they are back by {waiting}")
    else:
        print_line(
            f"volume {name} is being deleted: {waiting} still to drop it, when reached; for hosts "
            "that stay away: --force"
        )


@app.command("attach")
def attach(
    context: typer.Context,
    name: VolumeName,
    host: Annotated[
        str, typer.Option(help="Default: one that holds replicas.", autocompletion=complete_host)
    ] = "",
    force: Annotated[
        bool, typer.Option("--force", help="Take it from a host that serves it.")
    ] = False,
    standby: Annotated[
        list[str] | None,
        typer.Option(
            help="A host to attach it at when that one is lost; may be given several times.",
            autocompletion=complete_host,
        ),
    ] = None,
    output: Output = None,
) -> None:
    """Attach a volume at a host and print its NBD URIs.

    With standbys it moves to the first of them that can serve it once that host is lost: the host
    answers nobody, and its engine serves nothing.
    """
    request = meta_pb2.AttachVolumeRequest(
        name_or_id=name, host=host, force=force, standbys=standby or []
    )

    async def call(clients: Clients) -> Attachment:
        return await clients.meta.call(
            lambda meta: meta.AttachVolume, request, timeout=ATTACH_SECONDS
        )

    with status(f"attaching {name}"):
        attachment = run(context, call)
    if session_of(context).chosen(output) is Format.JSON:
        print_json(attachment_view(attachment))
        return
    print_line(f"volume {name} is attached at {attachment.host_name}, epoch {attachment.epoch}")
    for uri in attachment.nbd_uris:
        typer.echo(uri)


@app.command("detach")
def detach(
    context: typer.Context,
    name: VolumeName,
    force: Annotated[
        bool, typer.Option("--force", help="Even when the host does not answer.")
    ] = False,
    output: Output = None,
) -> None:
    """Detach a volume from the host that serves it."""
    request = meta_pb2.DetachVolumeRequest(name_or_id=name, force=force)

    async def call(clients: Clients) -> None:
        await clients.meta.call(lambda meta: meta.DetachVolume, request, timeout=ATTACH_SECONDS)

    with status(f"detaching {name}"):
        run(context, call)
    if session_of(context).chosen(output) is Format.JSON:
        print_json({"name": name, "attached": False})
    else:
        print_line(f"volume {name} is attached nowhere")


@app.command("verify")
def verify(
    context: typer.Context,
    name: VolumeName,
    read: Annotated[
        bool, typer.Option("--read", help="Hosts also read every block and check its CRC-32C.")
    ] = False,
    output: Output = None,
) -> None:
    """Compare the checksums of all in-sync replicas.

    Exit code 0: all the same. 6: replicas differ or a block is damaged. 5: a replica that counts as
    in sync could not be asked.
    """
    report = run(context, lambda clients: blockctl_verify.verify(clients, name, read=read))
    if session_of(context).chosen(output) is Format.JSON:
        print_json(report.view())
    else:
        blockctl_verify.print_report(report)
    raise typer.Exit(report.exit_code)


@app.command("map")
def map_offset(
    context: typer.Context,
    name: VolumeName,
    offset: Annotated[str, typer.Option(help="In the volume: bytes, or as 1GiB.")],
    output: Output = None,
) -> None:
    """Say which hosts, stores and device offsets hold the block at an offset."""
    view = run(context, lambda clients: _locate(clients, name, parse_size(offset)))
    if session_of(context).chosen(output) is Format.JSON:
        print_json(view)
        return
    print_facts(
        [
            ("volume", view["volume"]),
            ("offset", str(view["offset_bytes"])),
            ("segment", str(view["segment"])),
            ("block", f"{view['block']} of the segment"),
        ]
    )
    columns = ["host", "site", "in sync", "store", "path", "device offset>", "version", "crc32c"]
    print_table(columns, [_location_row(one) for one in view["replicas"]], "no replicas")


async def _locate(clients: Clients, name: str, offset: int) -> dict[str, Any]:
    volume = await clients.volume(name)
    if offset >= volume.size_bytes:
        raise ExtentOutOfRange(
            f"offset {offset} is beyond the end of {volume.name}, which has {volume.size_bytes} "
            "bytes"
        )
    hosts = await clients.list_hosts()
    index, block = offset // SEGMENT_BYTES, offset % SEGMENT_BYTES // BLOCK_BYTES
    request = host_pb2.LocateRequest(volume_id=volume.id, segment=index, block=block)
    replicas = [
        await _locate_at(clients, hosts.get(member.host_id), member, request)
        for member in volume.segments[index].members
    ]
    return {
        "volume": volume.name,
        "volume_id": volume.id,
        "offset_bytes": offset,
        "segment": index,
        "block": block,
        "replicas": replicas,
    }


async def _locate_at(
    clients: Clients, host: Host | None, member: Member, request: host_pb2.LocateRequest
) -> dict[str, Any]:
    """One replica's answer; `error` says why there is none."""
    view: dict[str, Any] = {
        "host": member.host_name,
        "host_id": member.host_id,
        "site": member.site,
        "store_id": member.store_id,
        "in_sync": member.in_sync,
        "store_path": None,
        "allocated": None,
        "in_journal": None,
        "device_offset_bytes": None,
        "epoch": None,
        "seq": None,
        "crc32c": None,
        "error": None,
    }
    if host is None:
        return view | {"error": "the host is unknown"}
    try:
        found = await clients.hosts.call(
            host.grpc_endpoint, lambda stub: stub.Locate, request, timeout=LOCATE_SECONDS
        )
    except BlockdError as error:
        return view | {"error": error.message}
    return view | {
        "store_id": found.store_id,
        "store_path": found.store_path,
        "allocated": found.allocated,
        "in_journal": found.in_journal,
        "device_offset_bytes": found.device_offset_bytes if found.allocated else None,
        "epoch": found.epoch,
        "seq": found.seq,
        "crc32c": f"{found.crc32c:08x}",
    }


def _location_row(one: dict[str, Any]) -> list[str]:
    if one["error"] is not None:
        place = [f"[red]{escape(one['error'])}[/]", "-", "-", "-"]
    else:
        offset = one["device_offset_bytes"]
        where = "not allocated" if offset is None else str(offset)
        if one["in_journal"]:
            where += " (newest content in the journal)"
        place = [str(one["store_path"]), where, f"{one['epoch']}.{one['seq']}", str(one["crc32c"])]
    in_sync = "yes" if one["in_sync"] else "[yellow]no[/]"
    return [str(one["host"]), str(one["site"]), in_sync, str(one["store_id"]), *place]
