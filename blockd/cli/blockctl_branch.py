"""`blockctl volume branch`: what a volume's hosts had and its history has not, kept by resyncs.

A branch is a volume, VOLUME.BRANCH, over a snapshot of the other one; what is done here with one is
what is done with volumes.
"""

from typing import Annotated

import typer

from blockd.cli.blockctl_diff import compare_own
from blockd.cli.blockctl_output import local_time, print_json, print_line, print_table, status
from blockd.cli.blockctl_session import (
    Clients,
    Format,
    Output,
    VolumeName,
    complete_host,
    run,
    session_of,
)
from blockd.cli.blockctl_views import View, attachment_view
from blockd.model.errors import NotFound
from blockd.model.units import format_size
from blockd.rpc.gen import meta_pb2
from blockd.rpc.gen.types_pb2 import Attachment, Volume
from blockd.rpc.status import hinted

app = typer.Typer(
    help="What a fenced writer or a host that came back had, and the volume has not: kept, "
    "read-only.",
    no_args_is_help=True,
)

ATTACH_SECONDS = 40.0
DELETE_SECONDS = 60.0

BranchName = Annotated[str, typer.Argument(metavar="BRANCH", help="Name of a branch.")]


@app.command("list")
def list_branches(
    context: typer.Context,
    volume: Annotated[
        str, typer.Argument(metavar="[VOLUME]", help="Of this volume only.", show_default=False)
    ] = "",
    output: Output = None,
) -> None:
    """List branches, of all volumes or of one."""
    found = run(context, lambda clients: branches_of(clients, volume))
    views = [branch_view(one) for one in found]
    if session_of(context).chosen(output) is Format.JSON:
        print_json({"branches": views})
        return
    rows = [
        [
            view["volume"],
            view["branch"],
            view["host"],
            local_time(view["created_unix_us"]),
            view["state"],
            view["attachment"]["host"] if view["attachment"] else "-",
        ]
        for view in views
    ]
    columns = ["volume", "branch", "had by", "created", "state", "attached at"]
    print_table(columns, rows, "no branches")


@app.command("show")
def show(
    context: typer.Context, volume: VolumeName, branch: BranchName, output: Output = None
) -> None:
    """Show a branch, and the extents that it has kept."""
    shown = run(context, lambda clients: _with_extents(clients, volume, branch))
    if session_of(context).chosen(output) is Format.JSON:
        print_json(shown)
        return
    print_line(f"branch {shown['branch']} of {shown['volume']}: {shown['state']}")
    print_line(f"  had by      {shown['host']}, written under epoch {shown['epoch']}")
    print_line(f"  kept        {format_size(shown['kept_bytes'])}")
    print_line(f"  created     {local_time(shown['created_unix_us'])}")
    where = shown["attachment"]["host"] if shown["attachment"] else "nowhere"
    print_line(f"  attached    {where}")
    print_line(f"  is volume   {shown['name']}")
    _print_extents(shown)


@app.command("diff")
def diff(
    context: typer.Context, volume: VolumeName, branch: BranchName, output: Output = None
) -> None:
    """List the extents of a branch that it has kept, in chunks of 64 KiB: only there it may differ
    from the volume as it was when the branch was made."""
    shown = run(context, lambda clients: _with_extents(clients, volume, branch))
    if session_of(context).chosen(output) is Format.JSON:
        print_json(shown)
        return
    _print_extents(shown)


@app.command("attach")
def attach(
    context: typer.Context,
    volume: VolumeName,
    branch: BranchName,
    host: Annotated[
        str, typer.Option("--host", help="Name or id.", autocompletion=complete_host)
    ] = "",
    output: Output = None,
) -> None:
    """Export a branch at a host, read-only, and print its NBD URIs: the volume as it was when the
    branch was made, and over it what the branch has kept."""

    async def call(clients: Clients) -> Attachment:
        found = await _branch(clients, volume, branch)
        request = meta_pb2.AttachVolumeRequest(name_or_id=found.id, host=host)
        return await clients.meta.call(
            lambda meta: meta.AttachVolume, request, timeout=ATTACH_SECONDS
        )

    with status(f"attaching branch {branch} of {volume}"):
        attachment = run(context, call)
    if session_of(context).chosen(output) is Format.JSON:
        print_json(attachment_view(attachment))
        return
    print_line(f"branch {branch} of {volume} is attached at {attachment.host_name}, read-only")
    for uri in attachment.nbd_uris:
        typer.echo(uri)


@app.command("detach")
def detach(
    context: typer.Context, volume: VolumeName, branch: BranchName, output: Output = None
) -> None:
    """End the export of a branch."""

    async def call(clients: Clients) -> None:
        found = await _branch(clients, volume, branch)
        request = meta_pb2.DetachVolumeRequest(name_or_id=found.id)
        await clients.meta.call(lambda meta: meta.DetachVolume, request, timeout=ATTACH_SECONDS)

    run(context, call)
    if session_of(context).chosen(output) is Format.JSON:
        print_json({"volume": volume, "branch": branch, "attached": False})
    else:
        print_line(f"branch {branch} of {volume} is not attached")


@app.command("delete")
def delete(
    context: typer.Context, volume: VolumeName, branch: BranchName, output: Output = None
) -> None:
    """Delete a branch and what it has kept, for good."""

    async def call(clients: Clients) -> tuple[Volume, list[str]]:
        found = await _branch(clients, volume, branch)
        request = meta_pb2.DeleteVolumeRequest(name_or_id=found.id)
        answer = await clients.meta.call(
            lambda meta: meta.DeleteVolume, request, timeout=DELETE_SECONDS
        )
        return found, list(answer.waiting_hosts)

    found, waiting = run(context, call)
    if session_of(context).chosen(output) is Format.JSON:
        print_json({"volume": volume, "branch": branch, "deleted": True, "waiting_hosts": waiting})
    elif not waiting:
        print_line(f"branch {branch} of {volume} is deleted")
    else:
        print_line(
            f"branch {branch} of {volume} is being deleted: {', '.join(waiting)} still to drop it, "
            f"when reached; for hosts that stay away: blockctl volume delete {found.name} --force"
        )


async def branches_of(clients: Clients, volume: str) -> list[Volume]:
    """Of one volume (name or id), or of all; by volume and age. Raises NotFound."""
    wanted = (await clients.volume(volume)).id if volume else ""
    answer = await clients.meta.call(
        lambda meta: meta.ListVolumes, meta_pb2.ListVolumesRequest(), idempotent=True
    )
    found = [
        one
        for one in answer.volumes
        if one.HasField("branch") and wanted in ("", one.branch.volume_id)
    ]
    return sorted(found, key=lambda one: (one.branch.volume_name, one.created_unix_us))


async def _branch(clients: Clients, volume: str, branch: str) -> Volume:
    for one in await branches_of(clients, volume):
        if one.branch.name == branch:
            return one
    raise hinted(
        NotFound(f"volume {volume} has no branch {branch!r}"),
        f"blockctl volume branch list {volume}",
    )


async def _with_extents(clients: Clients, volume: str, branch: str) -> View:
    found = await _branch(clients, volume, branch)
    kept = await compare_own(clients, found.id)
    return branch_view(found) | {
        "kept_bytes": kept["changed_bytes"],
        "extents": kept["extents"],
    }


def branch_view(volume: Volume) -> View:
    """A branch, without what it has kept."""
    branch = volume.branch
    return {
        "volume": branch.volume_name,
        "volume_id": branch.volume_id,
        "branch": branch.name,
        "host": branch.host_name,
        "host_id": branch.host_id,
        "epoch": branch.epoch,
        "state": "kept" if branch.sealed else "filling",
        "created_unix_us": volume.created_unix_us,
        "size_bytes": volume.size_bytes,
        "id": volume.id,
        "name": volume.name,
        "attachment": attachment_view(volume.attachment) if volume.HasField("attachment") else None,
    }


def _print_extents(shown: View) -> None:
    rows = [[str(one["offset_bytes"]), str(one["length_bytes"])] for one in shown["extents"]]
    print_table(["offset>", "length>"], rows, "nothing")
