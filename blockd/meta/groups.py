"""Groups of volumes, and snapshots of all of a group's volumes at one moment.

The engines of all volumes hold new mutations; when all do, one commit ends the era of every volume;
each engine begins its next era, while it still holds; then they go on. Why that is one moment: say
B was submitted, in one volume, after A was acknowledged in another, and B is in its snapshot. Then
B was sequenced before its engine held, so A was sequenced before any engine began its era, so A
is in its snapshot. This needs that no engine begins before all hold, which the order here gives,
and that each holds without a gap until it begins. Only the host can vouch for that: a hold ends by
itself, BeginEra carries its token, and is refused when the hold had ended by then.

A volume that is attached nowhere has nothing under way, and an engine that opens it after the
commit does so in the next era.

All or nothing: the snapshots are CREATING until one commit makes all of them final. Nobody else
makes them final (snapshots.py). If anything fails they are deleted; if this instance dies, the
leader deletes them, since the mark working/group/NAME is gone.
"""

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass

from blockd.meta.context import Instance
from blockd.meta.eras import Eras
from blockd.meta.etcd import Delete, Guard, Op, Unchanged
from blockd.meta.recall import Recall
from blockd.meta.records import (
    CONFLICTS_MAX,
    GROUPS,
    SNAPSHOTS,
    WORKING,
    HostView,
    Stored,
    check_available,
    conflict,
    decode,
    put,
    snapshot_key,
)
from blockd.meta.snapshot_records import (
    SnapshotRecords,
    Taken,
    era_of,
    snapshot_set,
)
from blockd.meta.snapshots import made_final, name_taken, next_era
from blockd.model.errors import AlreadyExists, BlockdError, Busy, InvalidArgument, NotFound
from blockd.rpc.gen.types_pb2 import (
    SNAPSHOT_STATE_CREATING,
    Attachment,
    Group,
    GroupMember,
    Snapshot,
    Volume,
)
from blockd.rpc.status import hinted
from blockd.rules.snapshots import GROUP_VOLUMES_MAX, check_snapshot_name
from blockd.rules.volume_spec import check_volume_name

log = logging.getLogger("blockd.meta")

HOLD_SECONDS = 5.0


@dataclass(frozen=True)
class Participant:
    """One volume of a group, as it was when its snapshot was prepared. view: of its holder."""

    stored: Stored[Volume]
    held: Stored[Attachment]
    taken: Taken
    view: HostView | None

    @property
    def is_attached(self) -> bool:
        return bool(self.held.value.host_id)

    @property
    def name(self) -> str:
        return self.stored.value.name


class Groups:
    """Stateless; every call reads etcd."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        self._records = instance.records
        self._etcd = instance.records.etcd
        self._taken = SnapshotRecords(instance.records)
        self._eras = Eras(instance)
        self._recall = Recall(instance)

    # Which groups there are.

    async def create(self, name: str, volumes: list[str]) -> Group:
        """Raises InvalidArgument, AlreadyExists, NotFound: a volume."""
        check_group_name(name)
        if not volumes:
            raise InvalidArgument("a group has at least one volume", field="volumes")
        for _ in range(CONFLICTS_MAX):
            if await self._etcd.get(GROUPS + name) is not None:
                raise hinted(
                    AlreadyExists(f"a group named {name} exists", field="name"),
                    f"blockctl group show {name}",
                )
            members = {one.value.id: one for one in await self._volumes(volumes)}
            if len(members) > GROUP_VOLUMES_MAX:
                raise InvalidArgument(
                    f"a group has at most {GROUP_VOLUMES_MAX} volumes, not {len(members)}",
                    field="volumes",
                )
            if await self._create(name, list(members.values())):
                return await self.get(name)
        raise conflict(f"group {name}")

    async def _volumes(self, names: list[str]) -> list[Stored[Volume]]:
        found = [await self._records.volume(name) for name in names]
        for stored in found:
            check_available(stored.value)
        return sorted(found, key=lambda one: one.value.name)

    async def _create(self, name: str, members: list[Stored[Volume]]) -> bool:
        """The volumes are written as they were: a deletion under way looks again for groups."""
        group = Group(
            name=name,
            volumes=[
                GroupMember(volume_id=one.value.id, volume_name=one.value.name) for one in members
            ],
        )
        return await self._records.commit(
            [Unchanged(GROUPS + name, 0), *(one.unchanged for one in members)],
            [put(GROUPS + name, group), *(put(one.key, one.value) for one in members)],
            "group.created",
            f"group/{name}",
            f"group {name} of {', '.join(one.value.name for one in members)}",
        )

    async def all(self) -> list[Group]:
        """By name."""
        return [decode(entry, Group).value for entry in await self._etcd.scan(GROUPS)]

    async def get(self, name: str) -> Group:
        """Raises NotFound."""
        return (await self._group(name)).value

    async def _group(self, name: str) -> Stored[Group]:
        entry = await self._etcd.get(GROUPS + name)
        if entry is None:
            raise hinted(NotFound(f"no group named {name!r}"), "blockctl group list")
        return decode(entry, Group)

    async def delete(self, name: str) -> None:
        """Its volumes and snapshots stay. Raises NotFound."""
        for _ in range(CONFLICTS_MAX):
            stored = await self._group(name)
            if await self._records.commit(
                [stored.unchanged],
                [Delete(stored.key)],
                "group.deleted",
                f"group/{name}",
                f"group {name} is gone; its volumes and their snapshots are not",
            ):
                return
        raise conflict(f"group {name}")

    # Snapshots of a group.

    async def snapshot(self, group_name: str, name: str) -> list[Snapshot]:
        """A snapshot of every volume, at one moment; none at all when it fails.

        Raises InvalidArgument, NotFound, AlreadyExists; NotAttached: a volume was not detached
        cleanly; Busy: it took longer than engines hold, or others were at it; what a host raised.
        """
        check_snapshot_name(name)
        group = await self._group(group_name)
        mark = f"group/{group_name}"
        if await self._etcd.get(WORKING + mark) is not None:
            raise Busy(f"a snapshot of group {group_name} is being taken right now")
        participants = [await self._prepare(one.volume_id, name) for one in group.value.volumes]
        token = secrets.token_hex(8)
        async with self._instance.hold(mark):
            try:
                await self._hold_all(participants, token)
                await self._commit(group, participants, name)
                try:
                    await self._begin_all(participants, token)
                    return await self._publish(group_name, participants, name)
                except BaseException:
                    await self.undo(group_name)
                    raise
            except BlockdError as error:
                raise _failed(group_name, name, error) from error
            finally:
                await self._release_all(participants, token)

    async def _prepare(self, volume_id: str, name: str) -> Participant:
        stored = await self._records.volume(volume_id)
        check_available(stored.value)
        taken = await self._taken.taken(volume_id)
        if name in taken.snapshots:
            raise name_taken(stored.value, name)
        held = await self._records.attachment(volume_id)
        if not held.value.host_id:
            await self._recall.check_untouched(stored.value, held.value)
        view = (await self._records.hosts()).get(held.value.host_id)
        return Participant(stored, held, taken, view)

    async def _hold_all(self, participants: list[Participant], token: str) -> None:
        await _all([self._hold(one, token) for one in participants if one.is_attached])

    async def _hold(self, one: Participant, token: str) -> None:
        met = await self._eras.hold(one.view, one.held.value, token, HOLD_SECONDS)
        await self._check_era(one, met, era_of(one.stored.value))

    async def _check_era(self, one: Participant, met: int, era: int) -> None:
        """Raises Busy: the engine is in a later era than the record knew of, until now."""
        if met > era and await self._recall.raise_era(one.stored.value.id, met):
            raise _was_later(one)

    async def _commit(
        self, group: Stored[Group], participants: list[Participant], name: str
    ) -> None:
        """All volumes into their next era, all snapshots on record, or nothing."""
        mark = self._instance.working_on(f"group/{group.value.name}")
        guards: list[Guard] = [group.unchanged, Unchanged(mark.key, 0)]
        ops: list[Op] = [mark]
        for one in participants:
            volume, snapshot = next_era(one.stored.value, name, group.value.name)
            key = snapshot_key(volume.id, name)
            guards += [
                one.stored.unchanged,
                one.held.unchanged,
                one.taken.unchanged,
                Unchanged(key, 0),
            ]
            ops += [
                put(one.stored.key, volume),
                put(key, snapshot),
                snapshot_set(volume, [*one.taken.values(), snapshot]),
            ]
        if not await self._records.commit(
            guards,
            ops,
            "group.snapshotting",
            f"group/{group.value.name}",
            f"snapshot {name} of group {group.value.name}: engines begin their next era",
            {"snapshot": name},
        ):
            raise conflict(f"a volume of group {group.value.name}")

    async def _begin_all(self, participants: list[Participant], token: str) -> None:
        await _all([self._begin(one, token) for one in participants if one.is_attached])

    async def _begin(self, one: Participant, token: str) -> None:
        era = era_of(one.stored.value) + 1
        met = await self._eras.begin(one.view, one.held.value, era, hold_token=token)
        await self._check_era(one, met, era)

    async def _release_all(self, participants: list[Participant], token: str) -> None:
        """Holds that cannot be ended end by themselves."""
        results = await asyncio.gather(
            *(
                self._eras.release(one.view, one.held.value, token)
                for one in participants
                if one.is_attached
            ),
            return_exceptions=True,
        )
        for result in results:
            if isinstance(result, BlockdError):
                log.info("a hold was not released: %s", result)

    async def _publish(
        self, group_name: str, participants: list[Participant], name: str
    ) -> list[Snapshot]:
        """All of them are final: while engines held, nobody else can have taken a volume without
        its attachment changing."""
        guards: list[Guard] = []
        ops: list[Op] = [Delete(f"{WORKING}group/{group_name}")]
        final = []
        for one in participants:
            creating = await self._taken.named(one.stored.value, name)
            if creating.value.era != era_of(one.stored.value):
                raise _was_later(one)  # somebody else found out, and gave it the era that runs now
            final.append(made_final(creating.value))
            guards.append(creating.unchanged)
            if one.is_attached:
                guards.append(one.held.unchanged)
            ops.append(put(creating.key, final[-1]))
        if not await self._records.commit(
            guards,
            ops,
            "group.snapshot_created",
            f"group/{group_name}",
            f"snapshot {name} of group {group_name}: "
            f"{', '.join(one.volume_name for one in final)} at one moment",
            {"snapshot": name},
        ):
            raise Busy(f"a volume of group {group_name} was attached elsewhere meanwhile")
        return final

    async def undo(self, group_name: str) -> None:
        """Delete what is not final of a group's snapshots. The eras stay counted."""
        for _ in range(CONFLICTS_MAX):
            entries = await self._etcd.scan(SNAPSHOTS)
            found = [decode(entry, Snapshot).value for entry in entries]
            volume_ids = {
                one.volume_id
                for one in found
                if one.group == group_name and one.state == SNAPSHOT_STATE_CREATING
            }
            if not volume_ids or await self._undo(group_name, sorted(volume_ids)):
                return
        raise conflict(f"the snapshots of group {group_name}")

    async def _undo(self, group_name: str, volume_ids: list[str]) -> bool:
        guards: list[Guard] = []
        ops: list[Op] = [Delete(f"{WORKING}group/{group_name}")]
        for volume_id in volume_ids:
            stored = await self._records.volume(volume_id)
            taken = await self._taken.taken(volume_id)
            gone = taken.creating(group=group_name)
            names = [one.value.name for one in gone]
            guards += [stored.unchanged, taken.unchanged, *(one.unchanged for one in gone)]
            ops += [Delete(one.key) for one in gone]
            ops.append(snapshot_set(stored.value, taken.values(without=names)))
        return await self._records.commit(
            guards,
            ops,
            "group.snapshot_failed",
            f"group/{group_name}",
            f"a snapshot of group {group_name} came to nothing",
        )

    async def finish(self) -> None:
        """For the leader: undo what an instance that is gone has left."""
        entries = await self._etcd.scan(SNAPSHOTS)
        found = [decode(entry, Snapshot).value for entry in entries]
        for name in sorted({one.group for one in found if one.state == SNAPSHOT_STATE_CREATING}):
            if name and await self._etcd.get(f"{WORKING}group/{name}") is None:
                await self.undo(name)


async def _all(calls: Sequence[Awaitable[None]]) -> None:
    """Every call at once, each to its end. Raises the first failure."""
    for result in await asyncio.gather(*calls, return_exceptions=True):
        if isinstance(result, BaseException):
            raise result


def check_group_name(name: str) -> None:
    """Raises InvalidArgument. As a volume's."""
    try:
        check_volume_name(name)
    except InvalidArgument as error:
        raise InvalidArgument(
            error.message.replace("volume name", "group name"), field="name"
        ) from None


def _was_later(one: Participant) -> Busy:
    return Busy(f"volume {one.name} was in a later era than its record said, which is mended")


def _failed(group: str, name: str, error: BlockdError) -> BlockdError:
    failed = type(error)(
        f"snapshot {name} of group {group} was not taken: {error.message}", **error.context
    )
    for note in getattr(error, "__notes__", ()):
        failed.add_note(note)
    if isinstance(error, Busy):
        failed.add_note("nothing is left of it; try again")
    return failed
