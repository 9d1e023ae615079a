"""Snapshots: taking one, listing, deleting; and when one is final.

Taking a snapshot is one commit that ends the volume's era (docs/SNAPSHOTS.md). It is final, and
AVAILABLE, once no mutation of that era can be under way, which one of three says:

* the holder's engine, told to begin the next era (BeginEra);
* the opening of the volume under a later era and a new epoch (attachments.py), which settles what
  any earlier engine left in flight;
* a clean detach.

Metadata that was restored from a backup may count fewer eras than the stores have met. So an engine
says in which era it is whenever it makes a snapshot final: one that is later than any on record is
put on record first, and the snapshot becomes one of it (recall.py).

Which era an engine runs under. AttachVolume and RenewAttachment read the volume's record, and give
out the epoch in a commit that is guarded by it; the engine opens with that era, some time after. A
snapshot that is taken in between finds the new holder on record, and may ask it before it has an
engine, or even before it was told to attach: then the snapshot stays CREATING, and whoever opens
must look again. AttachVolume puts "volume.attached" on record only under the guard that
the volume's record still has the era that the engine was told; a daemon that has renewed reads the
record again after opening (blockd/host/agent.py). A snapshot that is taken after that reaches an
engine that is there. And whoever waits at a CREATING snapshot, the leader at last, asks the holder
on record again: until the engine has answered for this era the snapshot is not shown as final, so a
late answer moves the moment of the snapshot, and breaks nothing.
"""

import asyncio
import logging

from blockd.meta.context import Instance
from blockd.meta.eras import Eras
from blockd.meta.etcd import Delete, Unchanged
from blockd.meta.recall import Recall
from blockd.meta.records import (
    CONFLICTS_MAX,
    Stored,
    check_available,
    check_sealed,
    conflict,
    now_us,
    put,
    snapshot_key,
)
from blockd.meta.snapshot_records import (
    SnapshotRecords,
    Taken,
    base_of,
    era_of,
    is_clean,
    snapshot_details,
    snapshot_set,
)
from blockd.model.errors import (
    AlreadyExists,
    BlockdError,
    EpochFenced,
    InUse,
    LinkLost,
    NotAttached,
    NotFound,
)
from blockd.model.ids import new_id
from blockd.rpc.gen.types_pb2 import (
    SNAPSHOT_STATE_AVAILABLE,
    SNAPSHOT_STATE_CREATING,
    Attachment,
    Snapshot,
    Volume,
)
from blockd.rpc.status import hinted
from blockd.rules.snapshots import check_snapshot_name, unsettled

log = logging.getLogger("blockd.meta")

OPENING_SECONDS = 3.0  # how long to wait for a holder that is about to open the volume
PAUSE_SECONDS = 0.3
FINAL_PER_COMMIT = 50  # a holder that was away for long leaves many


class Snapshots:
    """Stateless; every call reads etcd."""

    def __init__(self, instance: Instance) -> None:
        self._records = instance.records
        self._taken = SnapshotRecords(instance.records)
        self._eras = Eras(instance)
        self._recall = Recall(instance)

    # Reading.

    async def all(self, volume: str) -> list[Snapshot]:
        """With their attachments, by volume and era; of one volume (name or id), or of all. Raises
        NotFound."""
        found = await self._taken.all()
        if not volume:
            return found
        wanted = (await self._records.volume(volume)).value.id
        return [one for one in found if one.volume_id == wanted]

    # Taking one.

    async def create(self, volume_name: str, name: str) -> Snapshot:
        """Take a snapshot; wait for one of that name that is not final yet.

        Raises InvalidArgument, NotFound, AlreadyExists; NotAttached: attached nowhere, and not
        detached cleanly; Busy: neither, and too few of its hosts answer; LinkLost: taken, and not
        final before its holder has answered.
        """
        check_snapshot_name(name)
        for _ in range(CONFLICTS_MAX):
            stored = await self._records.volume(volume_name)
            check_available(stored.value)
            check_sealed(stored.value)
            taken = await self._taken.taken(stored.value.id)
            known = taken.snapshots.get(name)
            if known is not None and known.value.state != SNAPSHOT_STATE_CREATING:
                raise name_taken(stored.value, name)
            if known is not None or await self._take(stored, taken, name):
                return await self._wait_final(stored.value, name)
        raise conflict(f"volume {volume_name}")

    async def take(self, volume_id: str, name: str) -> None:
        """Take a snapshot, which becomes final by and by. Raises as create() does."""
        for _ in range(CONFLICTS_MAX):
            stored = await self._records.volume(volume_id)
            check_available(stored.value)
            if await self._take(stored, await self._taken.taken(volume_id), name):
                return
        raise conflict(f"volume {volume_id}")

    async def _take(self, stored: Stored[Volume], taken: Taken, name: str) -> bool:
        """The commit. False: a guard failed."""
        held = await self._records.attachment(stored.value.id)
        is_final = not held.value.host_id
        if is_final:
            await self._recall.check_untouched(stored.value, held.value)
        volume, snapshot = next_era(stored.value, name)
        if is_final:
            snapshot.state = SNAPSHOT_STATE_AVAILABLE
        key = snapshot_key(volume.id, name)
        what = "taken" if is_final else "taken; mutations under way are waited for"
        return await self._records.commit(
            [stored.unchanged, held.unchanged, taken.unchanged, Unchanged(key, 0)],
            [
                put(stored.key, volume),
                put(key, snapshot),
                snapshot_set(volume, [*taken.values(), snapshot]),
            ],
            "snapshot.created" if is_final else "snapshot.creating",
            f"volume/{volume.name}",
            f"snapshot {name} of {volume.name}: {what}",
            snapshot_details(snapshot),
        )

    async def _wait_final(self, volume: Volume, name: str) -> Snapshot:
        """Raises LinkLost: the holder does not answer; the snapshot becomes final later."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + OPENING_SECONDS
        while True:
            try:
                await self.finish(volume.id)
                break
            except (
                NotAttached,
                EpochFenced,
            ) as error:  # the holder is opening it, or somebody will
                failure: BlockdError = error
            except BlockdError as error:
                raise _not_final(volume, name, error) from error
            if loop.time() > deadline:
                raise _not_final(volume, name, failure) from failure
            await asyncio.sleep(PAUSE_SECONDS)
        snapshot = (await self._taken.named(volume, name)).value
        if snapshot.state == SNAPSHOT_STATE_CREATING:  # of a group that is under way
            raise AlreadyExists(f"snapshot {name} of {volume.name} is being taken with its group")
        return snapshot

    # Finality.

    async def finish(self, volume_id: str) -> None:
        """Make the volume's snapshots final, as far as they can be: those of a group under way are
        the group's (groups.py).

        Raises NotAttached, EpochFenced: the holder has not opened the volume yet, or nobody is
        going to; and what the holder raised.
        """
        for _ in range(CONFLICTS_MAX):
            creating = (await self._taken.taken(volume_id)).creating()
            stored = await self._records.volume_by_id(volume_id)
            if not creating or stored is None:
                return
            held = await self._records.attachment(volume_id)
            era = era_of(stored.value)
            if held.value.host_id:
                hosts = await self._records.hosts()
                met = await self._eras.begin(hosts.get(held.value.host_id), held.value, era)
                if met > era:  # another was taken since, or the record had forgotten that era
                    await self._recall.raise_era(volume_id, met)
                    continue
            elif not is_clean(held.value):
                raise unsettled(stored.value.name)
            if await self.settled(held.value, era):
                return
        raise conflict(f"the attachment of volume {volume_id}")

    async def settled(self, held: Attachment, era: int) -> bool:
        """On record: no mutation of an era before `era` is under way under this attachment.

        Guarded by the attachment on record: had another host taken the volume meanwhile, what it
        settles while opening could still be changing what the snapshot shows. False: it has.
        """
        lost = 0
        while lost < CONFLICTS_MAX:
            taken = await self._taken.taken(held.volume_id)
            creating = [one for one in taken.creating() if one.value.era < era]
            now = await self._records.attachment(held.volume_id)
            if (now.value.host_id, now.value.epoch) != (held.host_id, held.epoch):
                return False
            if not creating:
                return True
            creating.sort(key=lambda one: one.value.era)
            if not await self._make_final(now, creating[:FINAL_PER_COMMIT]):
                lost += 1
        return False

    async def _make_final(self, held: Stored[Attachment], creating: list[Stored[Snapshot]]) -> bool:
        """False: a guard failed."""
        final = [made_final(one.value) for one in creating]
        names = ", ".join(one.name for one in final)
        return await self._records.commit(
            [held.unchanged, *(one.unchanged for one in creating)],
            [put(old.key, new) for old, new in zip(creating, final, strict=True)],
            "snapshot.created",
            f"volume/{final[0].volume_name}",
            f"snapshot {names} of {final[0].volume_name} is available",
            snapshot_details(final[0]),
        )

    # Deletion.

    async def delete(self, volume_name: str, name: str) -> None:
        """Raises NotFound; InUse: something shows it, or it is attached."""
        for _ in range(CONFLICTS_MAX):
            stored = await self._records.volume(volume_name)
            taken = await self._taken.taken(stored.value.id)
            snapshot = taken.snapshots.get(name)
            if snapshot is None:
                snapshot = await self._taken.named(stored.value, name)  # says what is missing
            await self._check_unused(stored.value, snapshot.value)
            # The set is derived from the volume, too: so the volume must be as it was.
            if await self._records.commit(
                [stored.unchanged, snapshot.unchanged, taken.unchanged],
                [
                    Delete(snapshot.key),
                    snapshot_set(stored.value, taken.values(without=[name])),
                ],
                "snapshot.deleted",
                f"volume/{stored.value.name}",
                f"snapshot {name} of {stored.value.name} is gone; hosts give its space back",
                snapshot_details(snapshot.value),
            ):
                return
        raise conflict(f"snapshot {name} of {volume_name}")

    async def _check_unused(self, volume: Volume, snapshot: Snapshot) -> None:
        if snapshot.group and snapshot.state == SNAPSHOT_STATE_CREATING:
            raise InUse(f"snapshot {snapshot.name} is being taken with group {snapshot.group}")
        attached = [one.value for one in await self._taken.attachments(snapshot.id)]
        if attached:
            hosts = ", ".join(sorted(one.host_name for one in attached))
            raise hinted(
                InUse(f"snapshot {snapshot.name} of {volume.name} is attached at {hosts}"),
                f"blockctl volume snapshot detach {volume.name} {snapshot.name}",
            )
        dependents = await self._taken.dependents(snapshot.id)
        if dependents:
            raise hinted(
                InUse(
                    f"snapshot {snapshot.name} of {volume.name} is the base of "
                    f"{', '.join(dependents)}"
                ),
                "a volume shows its base until it was flattened: blockctl volume flatten NAME; a "
                "snapshot as long as it exists",
            )


def next_era(volume: Volume, name: str, group: str = "") -> tuple[Volume, Snapshot]:
    """The volume in its next era, and the snapshot of the one that ends, not final yet."""
    changed = Volume()
    changed.CopyFrom(volume)
    changed.era = era_of(volume) + 1
    snapshot = Snapshot(
        id=str(new_id()),
        volume_id=volume.id,
        volume_name=volume.name,
        name=name,
        era=era_of(volume),
        size_bytes=volume.size_bytes,
        created_unix_us=now_us(),
        state=SNAPSHOT_STATE_CREATING,
        group=group,
        base=base_of(volume),
    )
    return changed, snapshot


def made_final(snapshot: Snapshot) -> Snapshot:
    """A copy that is available."""
    final = Snapshot()
    final.CopyFrom(snapshot)
    final.state = SNAPSHOT_STATE_AVAILABLE
    return final


def name_taken(volume: Volume, name: str) -> BlockdError:
    """For a second snapshot of the same name."""
    return hinted(
        AlreadyExists(f"volume {volume.name} has a snapshot {name}", field="name"),
        f"blockctl volume snapshot list {volume.name}",
    )


def _not_final(volume: Volume, name: str, error: BlockdError) -> BlockdError:
    if isinstance(error, NotFound):
        return error
    log.info("snapshot %s of %s is not final: %s", name, volume.name, error)
    return hinted(
        LinkLost(
            f"snapshot {name} of {volume.name} was taken and is not final yet: {error.message}"
        ),
        "it becomes available once its holder answers, or the volume is attached again; see "
        f"blockctl volume snapshot list {volume.name}, or repeat the command to wait",
    )
