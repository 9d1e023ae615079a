"""`blockctl volume snapshot`."""

from typing import Annotated

import typer

from blockd.cli.blockctl_output import (
    local_time,
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
from blockd.cli.blockctl_views import (
    snapshot_attachment_view,
    snapshot_state,
    snapshot_view,
    volume_view,
)
from blockd.model.units import format_size
from blockd.rpc.gen import meta_pb2
from blockd.rpc.gen.types_pb2 import Snapshot

app = typer.Typer(help="Snapshots of a volume: as it was at a moment.", no_args_is_help=True)

CREATE_SECONDS = 30.0
ATTACH_SECONDS = 40.0

SnapshotName = Annotated[
    str, typer.Argument(metavar="SNAPSHOT", help="Name of a snapshot of the volume.")
]
Host = Annotated[str, typer.Option("--host", help="Name or id.", autocompletion=complete_host)]


@app.command("create")
def create(
    context: typer.Context,
    volume: VolumeName,
    name: Annotated[str, typer.Argument(metavar="SNAPSHOT", help="Letters, digits, . _ -")],
    output: Output = None,
) -> None:
    """Take a snapshot, attached or not. It takes no space until the volume changes."""
    request = meta_pb2.CreateSnapshotRequest(volume=volume, name=name)
    with status(f"taking snapshot {name} of {volume}"):
        snapshot = run(
            context,
            lambda clients: clients.meta.call(
                lambda meta: meta.CreateSnapshot, request, timeout=CREATE_SECONDS
            ),
        )
    if session_of(context).chosen(output) is Format.JSON:
        print_json(snapshot_view(snapshot))
    else:
        print_line(f"snapshot {snapshot.name} of {snapshot.volume_name}")


@app.command("list")
def list_snapshots(context: typer.Context, volume: VolumeName, output: Output = None) -> None:
    """List the snapshots of a volume, oldest first."""
    snapshots = run(context, lambda clients: snapshots_of(clients, volume))
    if session_of(context).chosen(output) is Format.JSON:
        print_json({"snapshots": [snapshot_view(one) for one in snapshots]})
        return
    rows = [
        [
            one.name,
            str(one.era),
            format_size(one.size_bytes),
            local_time(one.created_unix_us),
            state_text(snapshot_state(one)),
            one.group or "-",
            ", ".join(sorted(at.host_name for at in one.attachments)) or "-",
        ]
        for one in snapshots
    ]
    columns = ["snapshot", "era>", "size>", "created", "state", "group", "attached at"]
    print_table(columns, rows, "no snapshots")


async def snapshots_of(clients: Clients, volume: str) -> list[Snapshot]:
    """By era. Raises NotFound."""
    request = meta_pb2.ListSnapshotsRequest(volume=volume)
    answer = await clients.meta.call(lambda meta: meta.ListSnapshots, request, idempotent=True)
    return list(answer.snapshots)


@app.command("delete")
def delete(
    context: typer.Context, volume: VolumeName, name: SnapshotName, output: Output = None
) -> None:
    """Delete a snapshot; hosts give its space back in the background. Refused while a clone shows
    it, or while it is attached."""
    request = meta_pb2.DeleteSnapshotRequest(volume=volume, name=name)

    async def call(clients: Clients) -> None:
        await clients.meta.call(lambda meta: meta.DeleteSnapshot, request, timeout=CREATE_SECONDS)

    run(context, call)
    if session_of(context).chosen(output) is Format.JSON:
        print_json({"volume": volume, "name": name, "deleted": True})
    else:
        print_line(f"snapshot {name} of {volume} is deleted")


@app.command("rollback")
def rollback(
    context: typer.Context, volume: VolumeName, name: SnapshotName, output: Output = None
) -> None:
    """Make a volume show a snapshot again; it must be detached. What was written since is lost,
    unless another snapshot has it."""
    request = meta_pb2.RollbackVolumeRequest(volume=volume, snapshot=name)
    changed = run(
        context,
        lambda clients: clients.meta.call(
            lambda meta: meta.RollbackVolume, request, timeout=CREATE_SECONDS
        ),
    )
    if session_of(context).chosen(output) is Format.JSON:
        print_json(volume_view(changed, segments=False))
    else:
        print_line(f"volume {changed.name} shows snapshot {name}")


@app.command("attach")
def attach(
    context: typer.Context,
    volume: VolumeName,
    name: SnapshotName,
    host: Host = "",
    output: Output = None,
) -> None:
    """Export a snapshot at a host, read-only, and print its NBD URIs. Several hosts may."""
    request = meta_pb2.AttachSnapshotRequest(volume=volume, name=name, host=host)
    with status(f"attaching snapshot {name} of {volume}"):
        attachment = run(
            context,
            lambda clients: clients.meta.call(
                lambda meta: meta.AttachSnapshot, request, timeout=ATTACH_SECONDS
            ),
        )
    if session_of(context).chosen(output) is Format.JSON:
        print_json(snapshot_attachment_view(attachment))
        return
    print_line(f"snapshot {name} of {volume} is attached at {attachment.host_name}, read-only")
    for uri in attachment.nbd_uris:
        typer.echo(uri)


@app.command("detach")
def detach(
    context: typer.Context,
    volume: VolumeName,
    name: SnapshotName,
    host: Host = "",
    force: Annotated[
        bool, typer.Option("--force", help="Even when the host does not answer.")
    ] = False,
    output: Output = None,
) -> None:
    """End the export of a snapshot at a host."""
    request = meta_pb2.DetachSnapshotRequest(volume=volume, name=name, host=host, force=force)

    async def call(clients: Clients) -> None:
        await clients.meta.call(lambda meta: meta.DetachSnapshot, request, timeout=ATTACH_SECONDS)

    run(context, call)
    if session_of(context).chosen(output) is Format.JSON:
        print_json({"volume": volume, "name": name, "host": host, "attached": False})
    else:
        where = f" at {host}" if host else ""
        print_line(f"snapshot {name} of {volume} is not attached{where}")
