"""`blockctl group`: volumes of which snapshots are taken at one moment."""

from typing import Annotated

import typer

from blockd.cli.blockctl_output import print_facts, print_json, print_line, print_table, status
from blockd.cli.blockctl_session import (
    Clients,
    Format,
    Output,
    complete_volume,
    run,
    session_of,
)
from blockd.cli.blockctl_views import group_view, snapshot_view
from blockd.rpc.gen import meta_pb2

app = typer.Typer(
    help="Groups: volumes of which snapshots are taken at one moment.", no_args_is_help=True
)

SNAPSHOT_SECONDS = 40.0

GroupName = Annotated[str, typer.Argument(metavar="GROUP", help="Name of a group.")]


@app.command("create")
def create(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="GROUP", help="Letters, digits, . _ -")],
    volumes: Annotated[
        list[str],
        typer.Argument(
            metavar="VOLUME...", help="Names or ids of volumes.", autocompletion=complete_volume
        ),
    ],
    output: Output = None,
) -> None:
    """Make a group of volumes. A volume may be in several."""
    request = meta_pb2.CreateGroupRequest(name=name, volumes=volumes)
    group = run(
        context,
        lambda clients: clients.meta.call(lambda meta: meta.CreateGroup, request),
    )
    if session_of(context).chosen(output) is Format.JSON:
        print_json(group_view(group))
    else:
        print_line(f"group {group.name}: {', '.join(one.volume_name for one in group.volumes)}")


@app.command("list")
def list_groups(context: typer.Context, output: Output = None) -> None:
    """List all groups."""
    answer = run(
        context,
        lambda clients: clients.meta.call(
            lambda meta: meta.ListGroups, meta_pb2.ListGroupsRequest(), idempotent=True
        ),
    )
    if session_of(context).chosen(output) is Format.JSON:
        print_json({"groups": [group_view(one) for one in answer.groups]})
        return
    rows = [
        [one.name, ", ".join(volume.volume_name for volume in one.volumes)] for one in answer.groups
    ]
    print_table(["group", "volumes"], rows, "no groups")


@app.command("show")
def show(context: typer.Context, name: GroupName, output: Output = None) -> None:
    """Show a group: its volumes."""
    request = meta_pb2.GetGroupRequest(name=name)
    group = run(
        context,
        lambda clients: clients.meta.call(lambda meta: meta.GetGroup, request, idempotent=True),
    )
    if session_of(context).chosen(output) is Format.JSON:
        print_json(group_view(group))
        return
    volumes = [("volume", one.volume_name) for one in group.volumes]
    print_facts([("group", group.name), *volumes])


@app.command("delete")
def delete(context: typer.Context, name: GroupName, output: Output = None) -> None:
    """Delete a group. Its volumes and their snapshots stay."""
    request = meta_pb2.DeleteGroupRequest(name=name)

    async def call(clients: Clients) -> None:
        await clients.meta.call(lambda meta: meta.DeleteGroup, request)

    run(context, call)
    if session_of(context).chosen(output) is Format.JSON:
        print_json({"name": name, "deleted": True})
    else:
        print_line(f"group {name} is deleted")


@app.command("snapshot")
def snapshot(
    context: typer.Context,
    group: GroupName,
    name: Annotated[str, typer.Argument(metavar="SNAPSHOT", help="Letters, digits, . _ -")],
    output: Output = None,
) -> None:
    """Take a snapshot of every volume of a group, at one moment: all of them or none."""
    request = meta_pb2.SnapshotGroupRequest(group=group, name=name)
    with status(f"taking snapshot {name} of group {group}"):
        answer = run(
            context,
            lambda clients: clients.meta.call(
                lambda meta: meta.SnapshotGroup, request, timeout=SNAPSHOT_SECONDS
            ),
        )
    if session_of(context).chosen(output) is Format.JSON:
        print_json({"snapshots": [snapshot_view(one) for one in answer.snapshots]})
    else:
        names = ", ".join(one.volume_name for one in answer.snapshots)
        print_line(f"snapshot {name} of {names}, at one moment")
