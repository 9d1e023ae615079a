"""`blockctl volume show`: segments that are alike in one row, and how far resync has come."""

import asyncio
from collections.abc import Sequence
from itertools import groupby
from math import ceil

from blockd.cli.blockctl_output import (
    local_time,
    print_facts,
    print_table,
    progress_bar,
    state_text,
)
from blockd.cli.blockctl_session import Clients
from blockd.cli.blockctl_stored import stored_text
from blockd.cli.blockctl_views import View, volume_state
from blockd.model.errors import BlockdError
from blockd.model.units import CHUNK_BYTES, format_duration, format_size
from blockd.rpc.gen import host_pb2, meta_pb2
from blockd.rpc.gen.types_pb2 import Member, Policy, Segment, Snapshot, Volume
from blockd.rules.volume_spec import IO_TIMEOUT_MS_DEFAULT

ASK_SECONDS = 3.0
POLL_SECONDS = 0.5


def policy_text(policy: Policy) -> str:
    """What the volume asks for, in words."""
    timeout_ms = policy.io_timeout_ms or IO_TIMEOUT_MS_DEFAULT
    return (
        f"{policy.replicas} replicas, at least {policy.min_in_sync} in sync; requests wait "
        f"{format_duration(timeout_ms)} for them"
    )


async def ask_engine(clients: Clients, volume: Volume) -> host_pb2.AttachmentStatus | None:
    """What the holder says; None when there is none or it does not answer."""
    if not volume.HasField("attachment"):
        return None
    try:
        holder = await clients.host(volume.attachment.host_id)
        return await clients.hosts.call(
            holder.grpc_endpoint,
            lambda stub: stub.GetAttachment,
            host_pb2.GetAttachmentRequest(volume_id=volume.id),
            timeout=ASK_SECONDS,
        )
    except BlockdError:
        return None


async def find_base(clients: Clients, volume: Volume) -> Snapshot | None:
    """The snapshot that shows through."""
    if not volume.HasField("base"):
        return None
    request = meta_pb2.ListSnapshotsRequest(volume=volume.base.volume_id)
    answer = await clients.meta.call(lambda meta: meta.ListSnapshots, request, idempotent=True)
    found = [one for one in answer.snapshots if one.id == volume.base.snapshot_id]
    return found[0] if found else None


def resync_text(segments: Sequence[host_pb2.SegmentStatus]) -> str:
    """How far those with a replica joining are, how fast, for how long; "" when there is none."""
    joining = [one for one in segments if one.joining]
    done = sum(one.resync_bytes_done for one in joining)
    total = sum(one.resync_bytes_total for one in joining)
    if total == 0:
        return ""
    text = f"{format_size(done)} of {format_size(total)}"
    seconds = max(one.resync_us for one in joining) / 1e6
    if done == 0 or seconds == 0 or done >= total:
        return text
    left = ceil((total - done) * seconds / done)
    return f"{text}, {format_size(int(done / seconds))}/s, {format_duration(left * 1000)} left"


async def wait_in_sync(clients: Clients, name: str) -> None:
    """Return when no segment is degraded; a bar shows segments, and bytes while resync runs."""
    with progress_bar(unit="segments") as progress:
        task = progress.add_task(f"{name} in sync")
        while True:
            volume = await clients.volume(name)
            whole = sum(_is_whole(volume, segment) for segment in volume.segments)
            engine = await ask_engine(clients, volume)
            copied = resync_text(engine.segments) if engine is not None else ""
            progress.update(
                task,
                description=f"{name} in sync{copied and ', ' + copied}",
                completed=whole,
                total=len(volume.segments),
            )
            if whole == len(volume.segments):
                return
            await asyncio.sleep(POLL_SECONDS)


def _is_whole(volume: Volume, segment: Segment) -> bool:
    return sum(member.in_sync for member in segment.members) >= volume.policy.replicas


def print_volume(
    volume: Volume,
    engine: host_pb2.AttachmentStatus | None,
    stored: View,
    base: Snapshot | None = None,
) -> None:
    """The facts, then a row for each run of segments that are alike."""
    facts = [
        ("volume", volume.name),
        ("id", volume.id),
        ("size", f"{format_size(volume.size_bytes)} ({volume.size_bytes} bytes)"),
        ("stored", _stored(stored)),
        ("policy", policy_text(volume.policy)),
        ("state", state_text(volume_state(volume))),
        ("health", "[yellow]degraded[/]" if volume.degraded else "[green]all in sync[/]"),
        ("created", local_time(volume.created_unix_us)),
        *_base_facts(volume, engine, base),
        *_attachment_facts(volume, engine),
    ]
    if volume.tenant:
        facts.insert(2, ("tenant", volume.tenant))
    print_facts(facts)
    print_table(
        ["segments", "in sync", "not in sync", "engine", "resync"],
        _segment_rows(volume, engine),
        "no segments",
    )


def _base_facts(
    volume: Volume, engine: host_pb2.AttachmentStatus | None, base: Snapshot | None
) -> list[tuple[str, str]]:
    if not volume.HasField("base"):
        return []
    name = f"{base.name} of {base.volume_name}" if base is not None else volume.base.snapshot_id
    facts = [("base", f"snapshot {name} shows through")]
    is_rolled_back = volume.base.volume_id == volume.id
    if not (volume.flattening or is_rolled_back):
        return facts
    left = "goes on once the volume is attached"
    if engine is not None and "base_chunks" in engine.counters:
        left = f"{format_size(engine.counters['base_chunks'] * CHUNK_BYTES)} left to copy"
    return [*facts, ("flatten", left)]


def _stored(stored: View) -> str:
    places = [
        f"{one['host']} "
        + ("unknown" if one["stored_bytes"] is None else format_size(one["stored_bytes"]))
        for one in stored["hosts"]
    ]
    total = stored_text(stored["stored_bytes"], complete=stored["complete"])
    past = stored_text(stored["past_bytes"], complete=stored["complete"])
    beside = f"; {past} more in snapshots only" if stored["past_bytes"] else ""
    return f"{total} in all: {', '.join(places)}{beside}"


def _attachment_facts(
    volume: Volume, engine: host_pb2.AttachmentStatus | None
) -> list[tuple[str, str]]:
    if not volume.HasField("attachment"):
        return [("attached", "nowhere")]
    attachment = volume.attachment
    state = state_text(engine.state) if engine is not None else "[red]the host does not answer[/]"
    uris = engine.nbd_uris if engine is not None else attachment.nbd_uris
    return [
        ("attached", f"{attachment.host_name}, epoch {attachment.epoch}, {state}"),
        ("since", local_time(attachment.since_unix_us)),
        ("if lost", ", ".join(attachment.standby_host_names) or "stays until it is attached"),
        *([("checksums", _proof_text(engine))] if engine is not None else []),
        *(("NBD", uri) for uri in uris),
    ]


def _proof_text(engine: host_pb2.AttachmentStatus) -> str:
    """When the replicas in sync were last seen to hold the same."""
    ages = [one.proven_ago_us for one in engine.segments if one.HasField("proven_ago_us")]
    unproven = len(engine.segments) - len(ages)
    if any(one.differing for one in engine.segments):
        return "[red]differ[/]"
    if unproven:
        return f"not compared yet in {unproven} of {len(engine.segments)} segments"
    seconds = max(1, max(ages, default=0) // 1_000_000)
    return f"agreed {format_duration(seconds * 1000)} ago"


def _segment_rows(volume: Volume, engine: host_pb2.AttachmentStatus | None) -> list[list[str]]:
    by_index = {one.index: one for one in engine.segments} if engine is not None else {}
    described = [
        (segment.index, _describe(segment, by_index.get(segment.index)))
        for segment in volume.segments
    ]
    rows = []
    for text, run in groupby(described, key=lambda pair: pair[1]):
        indices = [index for index, _ in run]
        span = str(indices[0]) if len(indices) == 1 else f"{indices[0]}-{indices[-1]}"
        rows.append([span, *text])
    return rows


def _describe(segment: Segment, engine: host_pb2.SegmentStatus | None) -> tuple[str, ...]:
    return (
        ", ".join(
            member.host_name
            for member in segment.members
            if member.in_sync and _doubt(member, engine) == ""
        ),
        _doubts(segment, engine) or "-",
        state_text(engine.state) if engine is not None else "-",
        (resync_text([engine]) if engine is not None else "") or "-",
    )


def _doubts(segment: Segment, engine: host_pb2.SegmentStatus | None) -> str:
    why = [(one.host_name, _doubt(one, engine)) for one in segment.members]
    told = [f"{name} ({doubt})" for name, doubt in why if doubt]
    return f"[yellow]{', '.join(told)}[/]" if told else ""


def _doubt(member: Member, engine: host_pb2.SegmentStatus | None) -> str:
    """Why the replica is not, or may not be, in sync; "" when it is."""
    if engine is not None and member.host_id in engine.behind:
        return "behind, and counts as in sync until the metadata agrees"
    if engine is not None and member.host_id in engine.differing:
        return "its checksums are not the others'"
    if member.in_sync:
        return ""
    return "joining" if engine is not None and member.host_id in engine.joining else "absent"
