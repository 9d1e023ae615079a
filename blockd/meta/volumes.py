"""Volumes: creation, resizing, deletion.

A volume is CREATING until every host has confirmed its replicas, then AVAILABLE, and DELETING
until every host has confirmed that they are gone. Each step is one commit and may be repeated:
whatever an instance leaves half-done by dying, the leader finishes or undoes (duties.py).
"""

import logging
from dataclasses import dataclass

from blockd.meta.context import Instance
from blockd.meta.deletions import Deletions
from blockd.meta.etcd import Delete, Guard, Op, Put, Unchanged
from blockd.meta.records import (
    ATTACHMENTS,
    CONFLICTS_MAX,
    DEGRADED,
    SEGMENTS,
    VOLUME_NAMES,
    VOLUMES,
    WORKING,
    Stored,
    add_attachment,
    check_available,
    check_writable,
    conflict,
    decode,
    last_part,
    now_us,
    put,
)
from blockd.meta.replicas import Replicas, fresh_segments
from blockd.meta.snapshot_records import snapshot_set, touch
from blockd.model.errors import (
    AlreadyExists,
    BlockdError,
    Busy,
    InUse,
    NotAttached,
    NotFound,
)
from blockd.model.ids import new_id
from blockd.model.units import format_duration, format_size, segment_count
from blockd.rpc.gen import host_pb2
from blockd.rpc.gen.meta_pb2 import ChangePolicyRequest, CreateVolumeRequest
from blockd.rpc.gen.types_pb2 import (
    VOLUME_STATE_AVAILABLE,
    VOLUME_STATE_CREATING,
    Attachment,
    Base,
    Branch,
    Policy,
    Segment,
    Snapshot,
    Volume,
)
from blockd.rpc.status import hinted
from blockd.rules.volume_spec import (
    IO_TIMEOUT_MS_DEFAULT,
    check_io_timeout,
    check_lowered,
    check_resize,
    check_size,
    check_volume_name,
    complete_policy,
)

log = logging.getLogger("blockd.meta")

GROW_SECONDS = 10.0
SHRINK_SECONDS = 100.0  # requests under way are waited for, then every segment behind is cleared


@dataclass(frozen=True)
class Parent:
    """Of a clone or a branch: the snapshot, as it was read, and the base it makes. A branch's may
    become final meanwhile, and must not be written as it was then."""

    snapshot: Stored[Snapshot]
    base: Base
    branch: Branch | None = None

    @property
    def guard(self) -> Guard:
        """That the snapshot is there, and touching it changes nothing."""
        return self.snapshot.unchanged if self.branch is not None else self.snapshot.same_life


class Volumes:
    """Stateless; every call reads etcd."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        self._records = instance.records
        self._etcd = instance.records.etcd
        self._replicas = Replicas(instance)
        self._deletions = Deletions(instance)

    # Reading.

    async def get(self, name_or_id: str) -> Volume:
        """Whole. Raises NotFound."""
        return await self._records.whole_volume(await self._records.volume(name_or_id))

    async def all(self) -> list[Volume]:
        """By name, without segments."""
        volumes, attachments, degraded = await self._etcd.read_many(
            [VOLUMES, ATTACHMENTS, DEGRADED]
        )
        held = {last_part(entry.key): decode(entry, Attachment).value for entry in attachments}
        broken = [entry.key.removeprefix(DEGRADED).split("/") for entry in degraded]
        lowest: dict[str, int] = {}
        for volume_id, index in broken:
            lowest[volume_id] = min(int(index), lowest.get(volume_id, int(index)))
        found = []
        for entry in volumes:
            volume = decode(entry, Volume).value
            if volume.id in held:
                add_attachment(volume, held[volume.id])
            count = segment_count(volume.size_bytes)  # a leftover's mark says nothing of the volume
            volume.degraded = lowest.get(volume.id, count) < count
            found.append(volume)
        return sorted(found, key=lambda volume: (volume.name, volume.id))

    # Creation.

    async def create(self, request: CreateVolumeRequest, parent: Parent | None = None) -> Volume:
        """Raises InvalidArgument, AlreadyExists, PolicyUnsatisfiable, and what a host raised; of a
        clone also NotFound: its snapshot was deleted meanwhile."""
        volume = _new_volume(request)
        if parent is not None:
            volume.base.CopyFrom(parent.base)
            if parent.branch is not None:
                volume.branch.CopyFrom(parent.branch)
        if await self._etcd.get(VOLUME_NAMES + volume.name) is not None:
            raise _name_taken(volume.name)
        places = await self._replicas.place(volume, 0, segment_count(volume.size_bytes), set())
        async with self._instance.hold(volume.id):
            stored = await self._claim(volume, parent)
            try:
                if not await self._replicas.write_segments(stored, fresh_segments(0, places)):
                    raise conflict(f"volume {volume.name}")
                await self._replicas.ensure(volume.id, await self._records.segments(volume))
                return await self._publish(stored)
            except BlockdError as error:
                log.warning("creating volume %s failed: %s", volume.name, error)
                await self.abandon(volume.id, f"creation failed: {error.message}")
                raise

    async def _claim(self, volume: Volume, parent: Parent | None) -> Stored[Volume]:
        """The record with its name, in this instance's hands."""
        key = VOLUMES + volume.id
        guards: list[Guard] = [Unchanged(VOLUME_NAMES + volume.name, 0)]
        ops: list[Op] = [
            Put(VOLUME_NAMES + volume.name, volume.id.encode()),
            put(key, volume),
            put(ATTACHMENTS + volume.id, Attachment(volume_id=volume.id, clean=True)),
            snapshot_set(volume, []),
            self._instance.working_on(volume.id),
        ]
        if parent is not None:
            guards.append(parent.guard)
            ops.append(touch(parent.snapshot))
        done = await self._records.commit(
            guards,
            ops,
            "volume.creating",
            f"volume/{volume.name}",
            f"volume {volume.name} of {format_size(volume.size_bytes)}, "
            f"{volume.policy.replicas} replicas",
            {"volume_id": volume.id},
        )
        entry = await self._etcd.get(key) if done else None
        if entry is not None:
            return decode(entry, Volume)
        if parent is not None and await self._etcd.get(VOLUME_NAMES + volume.name) is None:
            raise NotFound(
                f"snapshot {parent.snapshot.value.name} was deleted, or changed, meanwhile"
            )
        raise _name_taken(volume.name)

    async def _publish(self, stored: Stored[Volume]) -> Volume:
        volume = Volume()
        volume.CopyFrom(stored.value)
        volume.state = VOLUME_STATE_AVAILABLE
        volume.made_segments = _made_segments(volume)
        done = await self._records.commit(
            [stored.unchanged],
            [put(stored.key, volume), Delete(WORKING + volume.id)],
            "volume.created",
            f"volume/{volume.name}",
            f"volume {volume.name} is available",
            {"volume_id": volume.id},
        )
        if not done:
            raise Busy(f"creating volume {volume.name} took too long and was undone; try again")
        return await self.get(volume.id)

    async def abandon(self, volume_id: str, why: str) -> None:
        """Undo a creation as far as the hosts allow; the rest is the leader's duty."""
        try:
            await self._deletions.mark(await self._records.volume(volume_id), why)
            await self._deletions.finish(volume_id)
        except BlockdError as error:
            log.warning("volume %s is not cleaned up yet: %s", volume_id, error)

    # Resizing.

    async def resize(self, name_or_id: str, size_bytes: int, *, force: bool = False) -> Volume:
        """Grow, or with `force` shrink. Raises InvalidArgument, NotFound, Busy,
        PolicyUnsatisfiable, what a host raised; NotAttached: to shrink it must be attached."""
        for _ in range(CONFLICTS_MAX):
            stored = await self._records.volume(name_or_id)
            check_writable(stored.value)
            check_resize(stored.value.size_bytes, size_bytes, force=force)
            if size_bytes < stored.value.size_bytes:
                return await self._shrink(stored.value.id, size_bytes)
            if size_bytes == stored.value.size_bytes or await self._grow(stored, size_bytes):
                whole = await self.get(stored.value.id)
                await self._tell_holder(whole)
                return whole
        raise conflict(f"volume {name_or_id}")

    async def _grow(self, stored: Stored[Volume], size_bytes: int) -> bool:
        """False: the volume was changed meanwhile, by a snapshot perhaps."""
        if not await self._add_segments(stored, size_bytes):
            return False
        volume = Volume()
        volume.CopyFrom(stored.value)
        volume.size_bytes = size_bytes
        volume.made_segments = max(_made_segments(stored.value), segment_count(size_bytes))
        return await self._records.commit(
            [stored.unchanged],
            [put(stored.key, volume)],
            "volume.resized",
            f"volume/{volume.name}",
            f"volume {volume.name} grew from {format_size(stored.value.size_bytes)} to "
            f"{format_size(size_bytes)}",
            _resize_details(stored.value, size_bytes),
        )

    async def _add_segments(self, stored: Stored[Volume], size_bytes: int) -> bool:
        """Records and replicas for what is new. Leftovers, of a failed growth or of what the volume
        shrank from, are used again: no host keeps a replica which no record names. Only those of a
        growth that failed may still have to be made: a replica that was in use and is in sync, and
        not there, is lost, and made anew it would be believed to be empty. False: the volume was
        changed meanwhile. Raises InUse: see _check_alike()."""
        volume_id = stored.value.id
        first, count = segment_count(stored.value.size_bytes), segment_count(size_bytes)
        entries = await self._etcd.scan(f"{SEGMENTS}{volume_id}/")
        known = len(entries)
        assert known >= first
        if known < count:
            members = await self._records.members(volume_id)
            wanted = Volume()
            wanted.CopyFrom(stored.value)
            wanted.size_bytes = size_bytes
            places = await self._replicas.place(wanted, known, count, members)
            if not await self._replicas.write_segments(stored, fresh_segments(known, places)):
                return False
        larger = Volume(id=volume_id, size_bytes=size_bytes)
        made = _made_segments(stored.value)
        fresh = (await self._records.segments(larger))[made:]
        used = await self._replicas.ensure(volume_id, fresh)
        now = await self._records.volume(volume_id)
        if now.revision != stored.revision:
            return False  # somebody else has grown it, and an engine has opened them
        for segment in fresh:
            _check_alike(stored.value, segment.value, used.get(segment.value.index, set()))
        return True

    async def _shrink(self, volume_id: str, size_bytes: int) -> Volume:
        """The holder destroys what lies behind the new end, then the size changes; dying in between
        leaves the old size, and a repeated call finishes.

        Segments behind the end keep their records and replicas: a later growth takes them up with
        their in-sync sets, so that a member which missed the end is brought up to date before it
        is read. Fresh ones in other places would leave the first ones to nobody.
        """
        for _ in range(CONFLICTS_MAX):
            stored = await self._records.volume(volume_id)
            check_available(stored.value)
            if stored.value.size_bytes <= size_bytes:
                break  # somebody else was faster
            held = await self._records.attachment(volume_id)
            await self._cut(stored.value, held.value, size_bytes)
            if await self._commit_shrunk(stored, held, size_bytes):
                return await self.get(volume_id)
        whole = await self.get(volume_id)
        if whole.size_bytes == size_bytes:
            return whole
        await self._tell_holder(whole)  # its engine may have been cut
        raise conflict(f"volume {whole.name}")

    async def _cut(self, volume: Volume, held: Attachment, size_bytes: int) -> None:
        """Raises NotAttached, and what the holder raised."""
        view = (await self._records.hosts()).get(held.host_id)
        if view is None:
            raise hinted(
                NotAttached(
                    f"volume {volume.name} is attached nowhere: its holder is what can destroy, on "
                    "all replicas, what lies behind the new end"
                ),
                f"blockctl volume attach {volume.name}",
            )
        request = host_pb2.HostShrinkRequest(
            volume_id=volume.id, epoch=held.epoch, size_bytes=size_bytes
        )
        try:
            await self._instance.hosts.call(
                view.host.grpc_endpoint,
                lambda host: host.Shrink,
                request,
                timeout=SHRINK_SECONDS,
            )
        except BlockdError as error:
            error.add_note(
                f"{volume.name} has its old size, {format_size(volume.size_bytes)}, on record; "
                f"part of what lies behind {format_size(size_bytes)} may be destroyed already; "
                "repeat the command to finish"
            )
            raise

    async def _commit_shrunk(
        self, stored: Stored[Volume], held: Stored[Attachment], size_bytes: int
    ) -> bool:
        """Guarded by the attachment, too: an engine that has opened since has the old size."""
        volume = Volume()
        volume.CopyFrom(stored.value)
        volume.size_bytes = size_bytes
        volume.made_segments = _made_segments(stored.value)
        return await self._records.commit(
            [stored.unchanged, held.unchanged],
            [put(stored.key, volume)],
            "volume.shrunk",
            f"volume/{volume.name}",
            f"volume {volume.name} shrank from {format_size(stored.value.size_bytes)} to "
            f"{format_size(size_bytes)}; what was behind is destroyed",
            _resize_details(stored.value, size_bytes),
        )

    async def _tell_holder(self, volume: Volume) -> None:
        if not volume.HasField("attachment"):
            return
        hosts = await self._records.hosts()
        holder = hosts.get(volume.attachment.host_id)
        if holder is None:
            return
        request = host_pb2.HostGrowRequest(
            volume=volume, peers=[view.host for view in hosts.values()]
        )
        try:
            await self._instance.hosts.call(
                holder.host.grpc_endpoint,
                lambda host: host.Grow,
                request,
                timeout=GROW_SECONDS,
            )
        except BlockdError as error:
            error.add_note(
                f"{volume.name} has its new size; {holder.host.name} will show it once the volume "
                "is attached again, or after another resize to the same size"
            )
            raise

    # Policy.

    async def change_policy(self, request: ChangePolicyRequest) -> Volume:
        """An engine that runs goes on with what it had: as to min_in_sync that is stricter. Raises
        InvalidArgument, NotFound, Busy."""
        for _ in range(CONFLICTS_MAX):
            stored = await self._records.volume(request.name_or_id)
            check_available(stored.value)
            volume = Volume()
            volume.CopyFrom(stored.value)
            changes = _change(volume.policy, request)
            if not changes or await self._records.commit(
                [stored.unchanged],
                [put(stored.key, volume)],
                "volume.policy_changed",
                f"volume/{volume.name}",
                f"volume {volume.name}, from its next attachment on, {' and '.join(changes)}",
                {"volume_id": volume.id},
            ):
                return await self.get(volume.id)
        raise conflict(f"volume {request.name_or_id}")


def _new_volume(request: CreateVolumeRequest) -> Volume:
    check_volume_name(request.name)
    check_size(request.size_bytes)
    given = request.policy
    replicas, min_in_sync, io_timeout_ms = complete_policy(
        given.replicas, given.min_in_sync, given.io_timeout_ms
    )
    return Volume(
        id=str(new_id()),
        name=request.name,
        tenant=request.tenant,
        size_bytes=request.size_bytes,
        policy=Policy(replicas=replicas, min_in_sync=min_in_sync, io_timeout_ms=io_timeout_ms),
        state=VOLUME_STATE_CREATING,
        created_unix_us=now_us(),
        era=1,
    )


def _change(policy: Policy, request: ChangePolicyRequest) -> list[str]:
    """What is other than before, in words. Raises InvalidArgument."""
    changes = []
    if request.HasField("min_in_sync"):
        check_lowered(policy.min_in_sync, request.min_in_sync)
        if policy.min_in_sync != request.min_in_sync:
            changes.append(
                f"needs {request.min_in_sync} replicas in sync, no longer {policy.min_in_sync}"
            )
        policy.min_in_sync = request.min_in_sync
    if request.HasField("io_timeout_ms"):
        check_io_timeout(request.io_timeout_ms)
        old_ms = policy.io_timeout_ms or IO_TIMEOUT_MS_DEFAULT
        if old_ms != request.io_timeout_ms:
            changes.append(
                f"lets requests wait {format_duration(request.io_timeout_ms)} for a quorum, no "
                f"longer {format_duration(old_ms)}"
            )
        policy.io_timeout_ms = request.io_timeout_ms
    return changes


def _check_alike(volume: Volume, segment: Segment, used: set[str]) -> None:
    """Restored metadata may have forgotten an earlier growth. Where that had its replicas in the
    same places they come back with what they hold. Where some of them are elsewhere, those that are
    left and the empty ones beside them would not be replicas of the same. Raises InUse."""
    if 0 < len(used) < len(segment.members):
        raise hinted(
            InUse(
                f"{len(used)} of the {len(segment.members)} hosts chosen for segment "
                f"{segment.index} of volume {volume.name} have a replica of it that was in use: "
                "the volume was larger once, and its metadata does not know"
            ),
            "copy it to a new volume of the size wanted; this one goes on with the size it has",
        )


def _made_segments(volume: Volume) -> int:
    """How many segments, from the first on, have had all their replicas made."""
    return max(volume.made_segments, segment_count(volume.size_bytes))


def _resize_details(old: Volume, size_bytes: int) -> dict[str, str]:
    return {
        "volume_id": old.id,
        "old_size_bytes": str(old.size_bytes),
        "size_bytes": str(size_bytes),
    }


def _name_taken(name: str) -> BlockdError:
    return hinted(
        AlreadyExists(f"a volume named {name} exists", field="name"), f"blockctl volume show {name}"
    )
