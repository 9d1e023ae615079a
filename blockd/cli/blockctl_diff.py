"""`blockctl volume diff`: what changed between two snapshots of a volume, for incremental backup.

The metadata service says what each of the two shows; which comparisons that takes is decided in
blockd/rules/snapshots.py; a replica in sync answers each for its segment.
"""

import asyncio
from collections.abc import Sequence
from typing import Annotated

import typer

from blockd.cli.blockctl_output import print_json, print_line, print_table, status
from blockd.cli.blockctl_session import (
    Clients,
    Format,
    Output,
    VolumeName,
    run,
    session_of,
)
from blockd.cli.blockctl_views import View
from blockd.model.errors import BlockdError, LinkLost
from blockd.model.units import CHUNKS_PER_SEGMENT, format_size, segment_count
from blockd.rpc.gen import host_pb2, meta_pb2
from blockd.rpc.gen.types_pb2 import Host, Member, Segment, VolumeView
from blockd.rpc.status import hinted
from blockd.rules.snapshots import Comparison, Layer, Shown, merge_extents, plan_diff

ASK_SECONDS = 30.0
ASKED_AT_ONCE = 8


def diff(
    context: typer.Context,
    volume: VolumeName,
    since: Annotated[
        str, typer.Option("--from", help="A snapshot; without: all that there is.")
    ] = "",
    until: Annotated[str, typer.Option("--to", help="A snapshot; without: as it is now.")] = "",
    output: Output = None,
) -> None:
    """List the extents in which two snapshots of a volume differ, in chunks of 64 KiB.

    What is not listed is the same in both; what is listed may be. Of a volume that is being written
    to take a snapshot first.
    """
    with status(f"comparing {volume}"):
        view = run(context, lambda clients: compare(clients, volume, since, until))
    if session_of(context).chosen(output) is Format.JSON:
        print_json(view)
        return
    rows = [[str(one["offset_bytes"]), str(one["length_bytes"])] for one in view["extents"]]
    print_table(["offset>", "length>"], rows, "no difference")
    print_line(f"{format_size(view['changed_bytes'])} in {len(rows)} extents")


async def compare(clients: Clients, volume: str, since: str, until: str) -> View:
    """The document that is printed. Raises NotFound, Busy: a snapshot that is not final; LinkLost:
    no replica in sync of a segment answers."""
    after = await _view(clients, volume, until)
    before = await _view(clients, volume, since) if since else None
    plan = plan_diff(_layers(before) if before is not None else None, _layers(after))
    changed = await _changed(clients, plan, before, after)
    return changed | {"from": since or None, "to": until or None}


async def compare_own(clients: Clients, volume: str) -> View:
    """Likewise, of what a volume has itself, without what shows through it."""
    after = await _view(clients, volume, "")
    return await _changed(clients, plan_diff(None, _layers(after)[:1]), None, after)


async def _changed(
    clients: Clients, plan: Sequence[Comparison], before: VolumeView | None, after: VolumeView
) -> View:
    places = _places([after] if before is None else [after, before])
    hosts = await clients.list_hosts()
    gate = asyncio.Semaphore(ASKED_AT_ONCE)

    async def ask(one: Comparison, segment: Segment) -> list[int]:
        async with gate:
            return await _ask(clients, hosts, one, segment)

    answers = await asyncio.gather(
        *(
            ask(one, segment)
            for one in plan
            for segment in places[one.volume_id]
            if segment.index < segment_count(min(one.size_bytes, after.size_bytes))
        )
    )
    extents = merge_extents((chunk for answer in answers for chunk in answer), after.size_bytes)
    return {
        "volume": after.volume_name,
        "volume_id": after.volume_id,
        "size_bytes": after.size_bytes,
        "changed_bytes": sum(length for _, length in extents),
        "extents": [{"offset_bytes": at, "length_bytes": length} for at, length in extents],
    }


async def _view(clients: Clients, volume: str, snapshot: str) -> VolumeView:
    request = meta_pb2.GetViewRequest(volume=volume, snapshot=snapshot)
    return await clients.meta.call(lambda meta: meta.GetView, request, idempotent=True)


def _layers(view: VolumeView) -> list[Layer]:
    return [
        Layer(view.volume_id, view.era, view.size_bytes),
        *(
            Layer(
                layer.base.volume_id,
                layer.base.era,
                layer.base.size_bytes,
                layer.base.since,
                layer.base.rolled_back,
            )
            for layer in view.bases
        ),
    ]


def _places(views: Sequence[VolumeView]) -> dict[str, list[Segment]]:
    """By volume: where its segments are, as many as any of the views names."""
    found: dict[str, list[Segment]] = {}
    for view in views:
        named = [(view.volume_id, view.segments)]
        named += [(layer.base.volume_id, layer.segments) for layer in view.bases]
        for volume_id, segments in named:
            if len(segments) > len(found.get(volume_id, [])):
                found[volume_id] = list(segments)
    return found


async def _ask(
    clients: Clients, hosts: dict[str, Host], comparison: Comparison, segment: Segment
) -> list[int]:
    """Chunks of the volume that a segment names; from the first replica in sync that answers."""
    request = host_pb2.ListChangedChunksRequest(
        volume_id=comparison.volume_id,
        segment=segment.index,
        to=_shown(comparison.after),
    )
    if comparison.before is not None:
        getattr(request, "from").CopyFrom(_shown(comparison.before))
    reasons = []
    for member in segment.members:
        if not member.in_sync:
            continue
        try:
            chunks = await _ask_member(clients, hosts.get(member.host_id), member, request)
        except BlockdError as error:
            reasons.append(f"{member.host_name}: {error.message}")
            continue
        return [segment.index * CHUNKS_PER_SEGMENT + chunk for chunk in chunks]
    raise hinted(
        LinkLost(
            f"no replica of segment {segment.index} of volume {comparison.volume_id} says what "
            f"changed: {'; '.join(reasons) or 'none is in sync'}"
        ),
        "see which hosts are up: blockctl host list",
    )


async def _ask_member(
    clients: Clients,
    host: Host | None,
    member: Member,
    request: host_pb2.ListChangedChunksRequest,
) -> list[int]:
    if host is None:
        raise LinkLost(f"the host {member.host_id} is not known")
    answer = await clients.hosts.call(
        host.grpc_endpoint, lambda stub: stub.ListChangedChunks, request, timeout=ASK_SECONDS
    )
    return list(answer.chunks)


def _shown(shown: Shown) -> host_pb2.ChunkView:
    return host_pb2.ChunkView(era=shown.era, base_era=shown.base_era, since=shown.since)
