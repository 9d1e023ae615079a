"""The volumes attached at this host: their engines and exports, from attach to detach.

One lock a volume orders attach, grow, shrink and detach; calls about different volumes run at once.
An attachment is listed in `held` exactly while its engine runs. Attaching what runs already under
the same epoch changes nothing, a newer epoch replaces the engine, an older one is refused: so
orders may be repeated and may arrive late.
"""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from uuid import UUID

from blockd.host.exports import NbdEndpoints
from blockd.host.topology import Topology, volumes_beneath
from blockd.model.errors import BlockdError, EpochFenced, NotAttached, NotFound
from blockd.model.ids import parse_id
from blockd.native import core as native
from blockd.rpc.gen import types_pb2

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Held:
    """One attached volume. segment_count: how many its engine has, more than its size needs when it
    has shrunk; era: the newest that it has said it is in; flatten: what shows its base is to be
    copied up; reads: the volumes that its bases are snapshots of."""

    volume_id: UUID
    name: str
    epoch: int
    size_bytes: int
    segment_count: int
    state: str = "serving"
    era: int = 1
    has_base: bool = False
    flatten: bool = False
    is_filled: bool = False  # a branch that resyncs add to: not exported
    is_read_only: bool = False
    reads: frozenset[UUID] = frozenset()


@dataclass(frozen=True)
class Drained:
    """The epoch and the era of an engine that ended in good order; 0: none did."""

    epoch: int
    era: int


NOTHING = Drained(0, 0)


def check_epoch(held: Held, epoch: int) -> None:
    """Raises EpochFenced: an order about another attachment."""
    if held.epoch != epoch:
        raise EpochFenced(
            f"volume {held.name} is attached here under epoch {held.epoch}, not {epoch}"
        )


class Attachments:
    """All attachments of this host; used on the event loop only."""

    def __init__(self, core: native.Core, topology: Topology, endpoints: NbdEndpoints) -> None:
        self._core = core
        self._topology = topology
        self._endpoints = endpoints
        self._locks: defaultdict[UUID, asyncio.Lock] = defaultdict(asyncio.Lock)
        self.held: dict[UUID, Held] = {}
        self.on_attached: Callable[[Held], None] = lambda _: None
        self._opening: dict[UUID, int] = {}  # volume -> epoch, while core.attach() runs

    def get(self, volume_id: UUID) -> Held:
        """The attachment. Raises NotAttached."""
        held = self.held.get(volume_id)
        if held is None:
            raise NotAttached(f"volume {volume_id} is not attached at this host")
        return held

    def epoch(self, volume_id: UUID) -> int:
        """The epoch of the engine, which may still be opening. Raises NotAttached."""
        opening = self._opening.get(volume_id)
        return self.get(volume_id).epoch if opening is None else opening

    async def opened(self, volume_id: UUID, epoch: int) -> Held:
        """The attachment of this epoch, once it has opened if it is about to. Raises NotAttached;
        EpochFenced: it is of another one."""
        async with self._locks[volume_id]:
            held = self.get(volume_id)
        check_epoch(held, epoch)
        return held

    async def begin_era(self, volume_id: UUID, era: int) -> int:
        """Returns when every mutation of an earlier era has left the engine: the era it is in.
        Raises NotAttached."""
        self._in_era(volume_id, era)
        return self._in_era(volume_id, await self._core.begin_era(volume_id, era))

    def _in_era(self, volume_id: UUID, era: int) -> int:
        held = self.get(volume_id)
        self.held[volume_id] = replace(held, era=max(held.era, era))
        return self.held[volume_id].era

    def is_busy(self, volume_id: UUID) -> bool:
        """Whether the volume is being attached, resized or detached right now."""
        return self._locks[volume_id].locked()

    def uris(self, held: Held) -> list[str]:
        """Where hypervisors reach the volume."""
        if held.is_filled:
            return []
        return self._endpoints.uris(held.name)

    async def attach(
        self, message: types_pb2.Volume, bases: Iterable[types_pb2.BaseLayer] = ()
    ) -> Held:
        """Open the volume under the epoch it carries, over its bases, and export it.

        Raises EpochFenced (a newer epoch exists), QuorumLost, Timeout, LeaseHeld; then nothing
        runs.
        """
        spec = self._topology.volume(message, bases)
        async with self._locks[spec.volume_id]:
            running = self.held.get(spec.volume_id)
            if running is not None and running.epoch == spec.epoch and running.state != "fenced":
                return running
            if running is not None and running.epoch > spec.epoch:
                raise EpochFenced(
                    f"volume {spec.name} is attached here under epoch {running.epoch}, "
                    f"newer than {spec.epoch}"
                )
            if running is not None:
                await self._stop(running)
            # After a rollback by itself, of a clone when that was asked for.
            is_self = spec.base is not None and spec.base.volume_id == spec.volume_id
            held = await self._start(
                spec,
                flatten=is_self or message.flattening,
                is_branch=message.HasField("branch"),
                is_sealed=message.branch.sealed,
            )
            self.on_attached(held)
            return held

    async def _start(
        self, spec: native.VolumeSpec, *, flatten: bool, is_branch: bool, is_sealed: bool
    ) -> Held:
        self._opening[spec.volume_id] = spec.epoch
        try:
            era = await self._core.attach(spec)
            if is_sealed or not is_branch:
                await self._core.nbd_export(spec.volume_id, spec.name, read_only=is_branch)
        except BaseException:
            # Also when the caller gave up waiting: an engine that nobody knows of must not go on.
            await asyncio.shield(self._discard(spec.volume_id, spec.name))
            raise
        finally:
            del self._opening[spec.volume_id]
        held = Held(
            spec.volume_id,
            spec.name,
            spec.epoch,
            spec.size_bytes,
            segment_count=len(spec.segments),
            era=max(era, spec.era),
            has_base=spec.base is not None,
            flatten=flatten and spec.base is not None,
            is_filled=is_branch and not is_sealed,
            is_read_only=is_branch,
            reads=volumes_beneath(spec.base),
        )
        self.held[spec.volume_id] = held
        log.info("volume %s attached under epoch %d", spec.name, spec.epoch)
        return held

    async def grow(self, message: types_pb2.Volume) -> Held:
        """Make the running engine as large as the volume has become. Raises NotAttached."""
        volume_id = parse_id(message.id, "volume")
        async with self._locks[volume_id]:
            held = self.get(volume_id)
            if message.size_bytes <= held.size_bytes:
                return held
            segments = self._topology.segments(message.segments)
            added = [segment for segment in segments if segment.index >= held.segment_count]
            await self._core.grow(volume_id, message.size_bytes, added)
            held = replace(
                self.get(volume_id),
                size_bytes=message.size_bytes,
                segment_count=max(held.segment_count, len(segments)),
            )
            self.held[volume_id] = held
            return held

    async def shrink(self, volume_id: UUID, epoch: int, size_bytes: int) -> Held:
        """Make the running engine smaller; returns when what lies behind the new end is gone.

        One that is smaller already, by a shrink that did not get on record, grows to that size.
        Raises NotAttached; EpochFenced: it is attached under another epoch; Busy, QuorumLost.
        """
        async with self._locks[volume_id]:
            held = self.get(volume_id)
            check_epoch(held, epoch)
            if size_bytes > held.size_bytes:
                await self._core.grow(volume_id, size_bytes, [])
                return self._resized(volume_id, size_bytes)
            # Before it is done: a caller that gives up leaves the engine at work.
            self._resized(volume_id, size_bytes)
            try:
                await self._core.shrink(volume_id, size_bytes)
            except BlockdError:
                if volume_id in self.held:
                    self._resized(volume_id, held.size_bytes)
                raise
            log.info("volume %s shrank to %d bytes", held.name, size_bytes)
            return self.get(volume_id)

    def _resized(self, volume_id: UUID, size_bytes: int) -> Held:
        held = replace(self.get(volume_id), size_bytes=size_bytes)
        self.held[volume_id] = held
        return held

    async def detach(self, volume_id: UUID, epoch: int = 0) -> Drained:
        """Drain, flush and release the engine; what is not attached is detached already. One of a
        later epoch than is given is left alone: the order is old.

        Returns the engine that ended in good order: nothing of it is under way any more; nothing
        when there was none, or it was not well: then the next opening settles what it left.
        """
        async with self._locks[volume_id]:
            held = self.held.get(volume_id)
            if held is None or (epoch and held.epoch > epoch):
                return NOTHING
            era = await self._stop(held)
            log.info("volume %s detached", held.name)
            return Drained(held.epoch, era) if era and held.state == "serving" else NOTHING

    async def detach_all(self) -> None:
        """Detach everything, at once; a volume that fails to does not keep the others."""
        results = await asyncio.gather(
            *(self.detach(volume_id) for volume_id in list(self.held)), return_exceptions=True
        )
        for result in results:
            if isinstance(result, BlockdError):
                log.warning("detach: %s", result)
            elif isinstance(result, BaseException):
                raise result

    def note_state(self, volume_id: UUID, state: str) -> None:
        """What the engine says of itself."""
        held = self.held.get(volume_id)
        if held is not None:
            self.held[volume_id] = replace(held, state=state)

    async def _stop(self, held: Held) -> int:
        """End an engine whatever state it is in; the volume is not held afterwards. Returns the era
        that it was in; 0: the engine had gone by itself."""
        try:
            await self._core.nbd_unexport(held.name)
        except NotFound:
            log.debug("export %s was gone already", held.name)
        try:
            era = await self._core.detach(held.volume_id)
        except NotAttached:
            log.debug("engine of %s was gone already", held.name)
            return 0
        finally:
            self.held.pop(held.volume_id, None)
        return era

    async def _discard(self, volume_id: UUID, name: str) -> None:
        """Remove what an attach that failed has left."""
        for step in (self._core.nbd_unexport(name), self._core.detach(volume_id)):
            try:
                await step
            except BlockdError as error:
                log.debug("after a failed attach of %s: %s", name, error)
