"""What the native core reports, acted upon: in-sync changes asked of Raft, fenced engines removed.

The core repeats a wanted change until it is answered, so a failure here is only told to it, never
retried. Changes of different segments are asked for at the same time, each segment's one by one.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from uuid import UUID

from blockd.host import branches
from blockd.host.attachments import Attachments
from blockd.host.branches import Branches
from blockd.host.metadata import MetadataClient
from blockd.host.reports import Reports
from blockd.host.topology import Topology, error_name
from blockd.model.errors import (
    BlockdError,
    EpochFenced,
    MetadataUnreachable,
    NoSpace,
    NotAttached,
    NotFound,
    StaleGeneration,
    StoreForeign,
    Unsupported,
)
from blockd.native import core as native
from blockd.rpc.gen import meta_pb2, types_pb2

log = logging.getLogger(__name__)

# Notices that belong into the cluster's event log: as what, and in which words.
TOLD = {
    "block-repaired": ("block.repaired", "rewritten from another replica"),
    "repair-failed": ("repair.failed", "could not be rewritten from another replica"),
    "unacknowledged-write-dropped": (
        "write.dropped",
        "a write, by what the replicas show never acknowledged, cannot be read and was taken back",
    ),
    "acknowledged-writes-lost": (
        "writes.lost",
        "acknowledged writes, not flushed, went with the power of too many hosts; a flush fails",
    ),
    "diverged-unreadable": (
        "writes.unreadable",
        "what this replica has, and the volume has not, cannot be read, all or in part, to be kept",
    ),
    "preserve-blocked": (
        "branch.blocked",
        "a resync waits: what this replica has, and the volume has not, cannot be kept",
    ),
    "resync-blocked": ("resync.blocked", "no replica can read what the resync has to copy"),
    "resync-mismatch": (
        "resync.mismatch",
        "the checksums are not the source's though the versions are: copied again",
    ),
    "reconcile-blocked": (
        "opening.blocked",
        "what may have been acknowledged cannot be read where it is newest; the volume waits",
    ),
}
PEER_REFUSED = "peer-refused"
REFUSALS = {
    Unsupported.code: "they speak no common version of the peer protocol: upgrade the older one",
    StoreForeign.code: "it belongs to another cluster",
    NotFound.code: "another host answers at its address",
}
REPLICA_DIFFERS = "replica-differs"
REPLICA_MISSING, MEMBER_IN_SYNC = "replica-missing", "member-in-sync"
TELL_AGAIN_S = 300.0  # what the engine says again and again
STORE_FULL, STORE_HAS_SPACE, MEMBER_LOST = "store-full", "store-has-space", "member-lost"
REPORT_RETRY_S = 1.0
GATHER_S = 0.5  # a store that is lost is found so segment by segment
SEGMENTS_NAMED = 8


def is_full(event: native.Notice) -> bool:
    """Whether a member lacks space: its store says so, or has had to refuse a write."""
    refused = event.kind == MEMBER_LOST and event.value == NoSpace.code
    return event.kind == STORE_FULL or refused


class EventPump:
    """The one consumer of Core.events().

    on_superseded: called (as a task) with a volume whose attachment seems to have gone elsewhere.
    """

    def __init__(
        self,
        core: native.Core,
        metadata: MetadataClient,
        attachments: Attachments,
        topology: Topology,
        on_superseded: Callable[[UUID], Awaitable[None]],
        reports: Reports,
        branches: Branches,
    ) -> None:
        self._branches = branches
        self._core = core
        self._metadata = metadata
        self._attachments = attachments
        self._topology = topology
        self._on_superseded = on_superseded
        self._reports = reports
        self._asking: dict[tuple[UUID, int], asyncio.Task[None]] = {}
        self._space: dict[tuple[UUID, UUID], native.Notice] = {}  # the newest of each member
        self._missing: set[tuple[UUID, int, UUID]] = set()  # replicas that were told of
        self._gathered: dict[tuple[UUID, UUID], list[int]] = {}  # missing: segments of a member
        self._said: dict[tuple[UUID, int, str], float] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Handle events until the core is closed."""
        try:
            async for event in self._core.events():
                try:
                    self._handle(event)
                except Exception:  # a bug in one event must not stop those that follow
                    log.exception("event %r", event)
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _handle(self, event: native.Event) -> None:
        if isinstance(event, native.InSyncChangeWanted):
            self._want(event)
        elif isinstance(event, native.VolumeStateChanged):
            self._state_changed(event)
        else:
            self._notice(event)

    async def _report_space(self, event: native.Notice) -> None:
        """Have it known, unless the opposite comes first or the volume goes away."""
        key = (event.volume_id, event.host_id)
        self._space[key] = event
        while self._space.get(key) is event:
            try:
                request = meta_pb2.ReportSpaceRequest(
                    volume_id=str(event.volume_id),
                    epoch=self._attachments.epoch(event.volume_id),
                    host_id=str(event.host_id),
                    full=is_full(event),
                )
                await self._metadata.report_space(request)
            except MetadataUnreachable:
                await asyncio.sleep(REPORT_RETRY_S)
                continue
            except (EpochFenced, NotAttached, NotFound) as error:
                log.info("volume %s is gone, its space is not reported: %s", key[0], error)
            if self._space.get(key) is event:
                del self._space[key]

    def _notice(self, event: native.Notice) -> None:
        host = self._topology.names.get(event.host_id, str(event.host_id))
        if event.kind == PEER_REFUSED:
            self._tell_refused(event, host)
            return
        name = self._name(event.volume_id)
        log.info("%s/%d: %s %s %d", name, event.segment, event.kind, host, event.value)
        if event.kind in branches.KINDS:
            self._branches.notice(event)
        if event.kind == STORE_HAS_SPACE or is_full(event):
            self._spawn(self._report_space(event))
        if event.kind == REPLICA_DIFFERS:
            self._tell_differs(event, host)
        replica = (event.volume_id, event.segment, event.host_id)
        if event.kind == MEMBER_IN_SYNC:
            self._missing.discard(replica)
        if event.kind == REPLICA_MISSING and replica not in self._missing:
            self._missing.add(replica)  # each opening finds it missing again
            gathered = self._gathered.setdefault((event.volume_id, event.host_id), [])
            gathered.append(event.segment)
            if len(gathered) == 1:
                self._spawn(self._tell_missing(event.volume_id, event.host_id))
        told = TOLD.get(event.kind)
        if told is not None and self._is_news(event):
            kind, text = told
            self._reports.tell(
                kind,
                f"{text}: segment {event.segment}, chunk {event.value}, at {host}",
                volume_id=event.volume_id,
                segment=str(event.segment),
                chunk=str(event.value),
                replica_host=host,
                replica_host_id=str(event.host_id),
            )

    def _tell_differs(self, event: native.Notice, host: str) -> None:
        mends = "it is resynced" if event.value else "nobody can tell which is right"
        self._reports.tell(
            "replica.differs",
            f"segment {event.segment}: {host} counts as in sync, and its checksums are not the "
            f"others'; {mends}",
            volume_id=event.volume_id,
            segment=str(event.segment),
            replica_host=host,
            replica_host_id=str(event.host_id),
        )

    def _tell_refused(self, event: native.Notice, host: str) -> None:
        why = REFUSALS.get(event.value, f"error {event.value}")
        self._reports.tell(
            "peer.refused",
            f"no replica at {host} can be used: {why}",
            peer_host=host,
            peer_host_id=str(event.host_id),
        )

    async def _tell_missing(self, volume_id: UUID, host_id: UUID) -> None:
        """One event for all the segments of a volume that a host has lost."""
        await asyncio.sleep(GATHER_S)
        segments = sorted(self._gathered.pop((volume_id, host_id)))
        host = self._topology.names.get(host_id, str(host_id))
        named = ", ".join(map(str, segments[:SEGMENTS_NAMED]))
        more = len(segments) - SEGMENTS_NAMED
        self._reports.tell(
            "replicas.missing",
            f"segment{'s' if len(segments) > 1 else ''} {named}"
            f"{f' and {more} more' if more > 0 else ''}: {host} counts as in sync, and its store "
            "has no replica",
            volume_id=volume_id,
            segments=str(len(segments)),
            replica_host=host,
            replica_host_id=str(host_id),
        )

    def _is_news(self, event: native.Notice) -> bool:
        if not event.kind.endswith("-blocked"):
            return True
        now = time.monotonic()
        self._said = {key: at for key, at in self._said.items() if now < at + TELL_AGAIN_S}
        return self._said.setdefault((event.volume_id, event.segment, event.kind), now) == now

    def _name(self, volume_id: UUID) -> str:
        held = self._attachments.held.get(volume_id)
        return held.name if held is not None else str(volume_id)

    def _state_changed(self, event: native.VolumeStateChanged) -> None:
        level = logging.WARNING if event.state in ("stalled", "fenced") else logging.INFO
        cause = "" if event.error == "Ok" else f" ({event.error})"
        log.log(level, "volume %s is %s%s", self._name(event.volume_id), event.state, cause)
        self._attachments.note_state(event.volume_id, event.state)
        if event.state == "fenced":
            self._spawn(self._end_fenced(event.volume_id))

    async def _end_fenced(self, volume_id: UUID) -> None:
        """A fenced engine never serves again: end its exports, unless it was replaced meanwhile."""
        held = self._attachments.held.get(volume_id)
        if held is not None and held.state == "fenced":
            await self._attachments.detach(volume_id)

    def _want(self, event: native.InSyncChangeWanted) -> None:
        key = (event.volume_id, event.segment)
        if key in self._asking:
            return  # the core asks again if the answer does not content it
        task = self._spawn(self._ask(event))
        self._asking[key] = task
        task.add_done_callback(lambda _: self._asking.pop(key, None))

    async def _ask(self, event: native.InSyncChangeWanted) -> None:
        """One compare-and-set, and its answer back to the core."""
        try:
            segment = await self._change(event)
            await self._core.in_sync_changed(event.volume_id, self._topology.segment(segment))
        except (NotAttached, NotFound) as error:
            log.info("in-sync change of %s/%d: %s", event.volume_id, event.segment, error)
            self._spawn(self._on_superseded(event.volume_id))
        except BlockdError as error:
            name = self._name(event.volume_id)
            log.warning("%s/%d: in-sync change refused: %s", name, event.segment, error)
            await self._tell_failure(event, error)
            if isinstance(error, EpochFenced):
                self._spawn(self._on_superseded(event.volume_id))

    async def _change(self, event: native.InSyncChangeWanted) -> types_pb2.Segment:
        request = meta_pb2.ChangeInSyncRequest(
            volume_id=str(event.volume_id),
            segment=event.segment,
            epoch=self._attachments.epoch(event.volume_id),
            generation=event.generation,
            in_sync_host_ids=[str(host_id) for host_id in event.in_sync],
            reason=event.reason,
        )
        try:
            return await self._metadata.change_in_sync(request)
        except StaleGeneration:
            volume = await self._metadata.get_volume(str(event.volume_id))
            for segment in volume.segments:
                if segment.index == event.segment:
                    return segment
            raise

    async def _tell_failure(self, event: native.InSyncChangeWanted, error: BlockdError) -> None:
        try:
            await self._core.in_sync_change_failed(
                event.volume_id, event.segment, error_name(error)
            )
        except NotAttached:
            log.debug("volume %s was detached meanwhile", event.volume_id)

    def _spawn(self, work: Awaitable[None]) -> asyncio.Task[None]:
        async def guarded() -> None:
            try:
                await work
            except BlockdError as error:
                log.warning("%s", error)
            except Exception:
                log.exception("acting on an event failed")

        task = asyncio.create_task(guarded())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
