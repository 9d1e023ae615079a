"""`blockctl events`: what happened, and with --follow what happens."""

import asyncio
from typing import Annotated

import typer
from rich.markup import escape

from blockd.cli.blockctl_output import local_time, print_json_line, print_line
from blockd.cli.blockctl_session import Clients, Format, Output, run, session_of
from blockd.cli.blockctl_views import event_view
from blockd.model.errors import LinkLost, MetadataUnreachable, Timeout
from blockd.rpc.gen import meta_pb2
from blockd.rpc.gen.types_pb2 import Event

RETRY_SECONDS = 1.0

_COLOURS = {
    "host.down": "red",
    "volume.attach_failed": "red",
    "damage.found": "red",
    "repair.failed": "red",
    "replicas.differ": "red",
    "store.failed": "red",
    "store.stalled": "red",
    "store.failing": "red",
    "branch.blocked": "red",
    "writes.preserved": "yellow",
    "block.repaired": "green",
    "segment.in_sync_changed": "yellow",
    "host.up": "green",
    "volume.created": "green",
    "volume.attached": "green",
}


def events(
    context: typer.Context,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until Ctrl-C, also through outages.")
    ] = False,
    history: Annotated[
        int, typer.Option("--history", "-n", min=0, max=10_000, help="How many old ones first.")
    ] = 50,
    output: Output = None,
) -> None:
    """Print events, oldest first; with -o json one document a line."""
    as_json = session_of(context).chosen(output) is Format.JSON
    run(context, lambda clients: _print_events(clients, history, follow=follow, as_json=as_json))


async def _print_events(clients: Clients, history: int, *, follow: bool, as_json: bool) -> None:
    if not follow and history == 0:
        return
    last = 0
    while True:
        request = meta_pb2.WatchEventsRequest(
            after_revision=last, history=0 if last else history, no_follow=not follow
        )
        try:
            async for event in clients.meta.stream(lambda meta: meta.WatchEvents, request):
                last = event.revision
                _print_event(event, as_json=as_json)
            if not follow:
                return
        except (LinkLost, MetadataUnreachable, Timeout) as error:
            if not follow or not last:
                raise
            typer.echo(f"blockctl: {error.message}; going on as soon as one does", err=True)
        await asyncio.sleep(RETRY_SECONDS)


def _print_event(event: Event, *, as_json: bool) -> None:
    if as_json:
        print_json_line(event_view(event))
        return
    colour = _COLOURS.get(event.kind, "default")
    when, kind = local_time(event.unix_us), f"[{colour}]{event.kind:<24}[/]"
    print_line(f"[dim]{when}[/]  {kind}  {escape(event.message)}")
