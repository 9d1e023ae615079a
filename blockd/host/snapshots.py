"""Snapshots at this host: which there are, for its stores; and those it exports, read-only.

A store gives nothing of the past back before it was told which snapshots there are, and is told
anew whenever that changes (docs/SNAPSHOTS.md). The sets come with the metadata service's answers,
in the order of its revisions, and the revision goes back with the next heartbeat: what did not
arrive, or could not be told to the core, is sent again.
"""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from dataclasses import dataclass
from uuid import UUID

from blockd.host.exports import NbdEndpoints
from blockd.host.topology import Topology, volumes_beneath
from blockd.model.errors import BlockdError, NotAttached, NotFound
from blockd.model.ids import parse_id
from blockd.native import core as native
from blockd.native.values import SnapshotSpec
from blockd.rpc.gen import types_pb2

log = logging.getLogger(__name__)

RETRY_S = 2.0

# A snapshot's view by volume and name. Raises NotFound, MetadataUnreachable.
Look = Callable[[str, str], Awaitable[types_pb2.VolumeView]]


class SnapshotSets:
    """What is known of all volumes' snapshots; used on the event loop only."""

    def __init__(self, core: native.Core) -> None:
        self._core = core
        self._sets: dict[UUID, types_pb2.SnapshotSet] = {}
        self.revision = 0  # as of which everything here is so

    async def learn(self, sets: Iterable[types_pb2.SnapshotSet], revision: int) -> None:
        """Take up what changed up to a revision. Raises what the core raised: then the revision
        stays, and the same changes come again."""
        for one in sets:
            volume_id = parse_id(one.volume_id, "volume")
            self._sets[volume_id] = one
            await self.tell(volume_id)
        self.revision = revision

    async def tell(self, volume_id: UUID) -> None:
        """Tell the stores about a volume, if they have replicas of it; also of a new replica."""
        known = self._sets.get(volume_id)
        if known is None:
            return
        try:
            await self._core.set_snapshots(
                volume_id, known.known_below, list(known.eras), known.uncovered_below
            )
        except NotFound:
            log.debug("no replica of volume %s is here", volume_id)

    def forget(self, volume_id: UUID) -> None:
        """The volume was deleted."""
        self._sets.pop(volume_id, None)


@dataclass(frozen=True, eq=False)
class Exported:
    """A snapshot that is served here, this time. reads: the volumes it is read from."""

    snapshot_id: UUID
    export: str
    reads: frozenset[UUID]


class SnapshotExports:
    """The snapshots exported by this host; used on the event loop only."""

    def __init__(self, core: native.Core, topology: Topology, endpoints: NbdEndpoints) -> None:
        self._core = core
        self._topology = topology
        self._endpoints = endpoints
        self._locks: defaultdict[UUID, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._restoring: dict[UUID, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.exported: dict[UUID, Exported] = {}

    async def attach(self, view: types_pb2.VolumeView) -> list[str]:
        """Export a snapshot; returns its URIs. Idempotent. Raises InvalidArgument, NotFound,
        LinkLost: no member answers; then nothing is exported."""
        spec = self._topology.snapshot(view)
        name = f"{view.volume_name}@{view.snapshot_name}"
        async with self._locks[spec.snapshot_id]:
            if spec.snapshot_id not in self.exported:
                await self._start(spec, name)
                self.exported[spec.snapshot_id] = Exported(
                    spec.snapshot_id, name, volumes_beneath(spec.base) | {spec.volume_id}
                )
                log.info("snapshot %s is exported, read-only", name)
        return self._endpoints.uris(name)

    async def _start(self, spec: SnapshotSpec, name: str) -> None:
        try:
            await self._core.attach_snapshot(spec)
            await self._core.nbd_export(spec.snapshot_id, name, read_only=True)
        except BaseException:
            # Also when the caller gave up waiting: a reader that nobody knows of must not stay.
            await self._to_end(self._discard(spec.snapshot_id))
            raise

    async def detach(self, snapshot_id: UUID, only: Exported | None = None) -> None:
        """End the export; one that is not there is gone already. It goes on when the caller gives
        up: reads that wait for members that are away hold it up. only: leave another one alone."""
        await self._to_end(self._detach(snapshot_id, only))

    def end(self, snapshot_id: UUID, this: Exported) -> None:
        """Detach in the background, if it is this export still."""
        self._start_task(self._detach(snapshot_id, this))

    async def _detach(self, snapshot_id: UUID, only: Exported | None) -> None:
        if only is None:
            await self._stop_restoring(snapshot_id)
        async with self._locks[snapshot_id]:
            exported = self.exported.get(snapshot_id)
            if exported is None or only not in (None, exported):
                return
            await self._discard(snapshot_id)
            del self.exported[snapshot_id]
            log.info("snapshot %s is exported no more", exported.export)

    async def _stop_restoring(self, snapshot_id: UUID) -> None:
        restoring = self._restoring.pop(snapshot_id, None)
        if restoring is not None:
            restoring.cancel()
            await asyncio.gather(restoring, return_exceptions=True)

    async def _discard(self, snapshot_id: UUID) -> None:
        """With its export, if it has one."""
        try:
            await self._core.detach(snapshot_id)
        except NotAttached as error:
            log.debug("the reader was gone: %s", error)

    async def _to_end(self, work: Coroutine[None, None, None]) -> None:
        """Await `work`, which goes on when the caller is cancelled."""
        await asyncio.shield(self._start_task(work))

    def _start_task(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def restore(
        self,
        views: Iterable[types_pb2.VolumeView],
        look: Look,
        *,
        known_before: Iterable[UUID],
    ) -> None:
        """Export what the record says, in the background and until it works; end what it no longer
        says. look: asks for a view as it is by now. known_before: what was exported when the record
        was asked for; whatever came since is on record, too, but perhaps not in this answer."""
        wanted = {parse_id(view.snapshot_id, "snapshot"): view for view in views}
        for snapshot_id in known_before:
            if snapshot_id not in wanted:
                await self.detach(snapshot_id)
        for snapshot_id in list(self._restoring):
            if snapshot_id not in wanted:
                await self._stop_restoring(snapshot_id)
        for snapshot_id, view in wanted.items():
            if snapshot_id not in self.exported and snapshot_id not in self._restoring:
                task = asyncio.create_task(self._restore(view, look))
                self._restoring[snapshot_id] = task
                task.add_done_callback(
                    lambda _, snapshot_id=snapshot_id: self._restoring.pop(snapshot_id, None)  # type: ignore[misc]
                )

    async def _restore(self, view: types_pb2.VolumeView, look: Look) -> None:
        while True:
            try:
                await self.attach(view)
                return
            except BlockdError as error:
                log.warning(
                    "snapshot %s of %s is not exported yet: %s",
                    view.snapshot_name,
                    view.volume_name,
                    error,
                )
            except Exception:
                log.exception("exporting snapshot %s failed", view.snapshot_name)
            await asyncio.sleep(RETRY_S)
            view = await self._look_again(view, look)

    async def _look_again(self, view: types_pb2.VolumeView, look: Look) -> types_pb2.VolumeView:
        """Others may be in sync by now, of its bases, too. Whether it is to be exported still, a
        registration says."""
        try:
            now = await look(view.volume_id, view.snapshot_name)
        except BlockdError as error:
            log.info("snapshot %s of %s: %s", view.snapshot_name, view.volume_name, error)
            return view
        return now if now.snapshot_id == view.snapshot_id else view

    async def close(self) -> None:
        """End what is being restored; the core ends the exports."""
        tasks = [*self._restoring.values(), *self._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
