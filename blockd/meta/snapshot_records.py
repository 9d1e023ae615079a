"""The records of snapshots, and who depends on one.

snapshots/VOLUME is written in every commit that changes what it is derived from, and every such
commit is guarded by it: so two of them cannot cross, and what hosts are told is never older than
what a commit before it said. Whoever comes to depend on a snapshot writes its record anew, as it
was (touch): a deletion that has looked for dependents before that fails its guard, and looks again.
A record that is final changes no more: so dependents that come at once need not wait for each
other; each is guarded only by the record's life (same_life).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from blockd.meta.etcd import Put, Unchanged
from blockd.meta.records import (
    SNAPSHOT_ATTACHMENTS,
    SNAPSHOT_SETS,
    SNAPSHOTS,
    VOLUMES,
    Records,
    Stored,
    decode,
    put,
    snapshot_key,
)
from blockd.model.errors import Busy, NotFound
from blockd.rpc.gen.types_pb2 import (
    SNAPSHOT_STATE_CREATING,
    VOLUME_STATE_DELETING,
    Attachment,
    Base,
    Snapshot,
    SnapshotAttachment,
    SnapshotSet,
    Volume,
)
from blockd.rpc.status import hinted
from blockd.rules.snapshots import check_quiet, known_snapshots


def era_of(volume: Volume) -> int:
    """Records of before snapshots have none."""
    return max(1, volume.era)


def base_of(record: Volume | Snapshot) -> Base | None:
    """What shows through, if anything does."""
    return record.base if record.HasField("base") else None


def is_clean(attachment: Attachment) -> bool:
    """Of a volume attached nowhere: whether nothing is under way. Never attached is clean."""
    return not attachment.host_id and (attachment.clean or attachment.epoch == 0)


def check_detached(volume: Volume, attachment: Attachment) -> None:
    """Raises VolumeAttached, NotAttached: see check_quiet."""
    check_quiet(volume.name, attachment.host_name, clean=is_clean(attachment))


def attachment_key(snapshot_id: str, host_id: str) -> str:
    """See the table in records.py."""
    return f"{SNAPSHOT_ATTACHMENTS}{snapshot_id}/{host_id}"


def snapshot_set(volume: Volume, snapshots: Iterable[Snapshot]) -> Put:
    """The operation that stores what hosts are told of the volume and these snapshots of it."""
    base = base_of(volume)
    known = known_snapshots(
        era_of(volume),
        base.since if base is not None else None,
        [(one.era, one.base.since if one.HasField("base") else None) for one in snapshots],
    )
    return put(
        SNAPSHOT_SETS + volume.id,
        SnapshotSet(
            volume_id=volume.id,
            known_below=known.known_below,
            eras=known.eras,
            uncovered_below=known.uncovered_below,
        ),
    )


@dataclass(frozen=True)
class Taken:
    """A volume's snapshots by name; unchanged: guard that they, and the set, are still so."""

    unchanged: Unchanged
    snapshots: dict[str, Stored[Snapshot]]

    def values(self, *, without: Sequence[str] = ()) -> list[Snapshot]:
        """The records, but those of these names."""
        return [one.value for name, one in self.snapshots.items() if name not in without]

    def creating(self, *, group: str = "") -> list[Stored[Snapshot]]:
        """Those that are not final; of a group, or taken alone."""
        return [
            one
            for one in self.snapshots.values()
            if one.value.state == SNAPSHOT_STATE_CREATING and one.value.group == group
        ]


class SnapshotRecords:
    """Stateless; every call reads etcd."""

    def __init__(self, records: Records) -> None:
        self._records = records
        self._etcd = records.etcd

    async def taken(self, volume_id: str) -> Taken:
        """All of a volume, as of one revision."""
        key = SNAPSHOT_SETS + volume_id
        sets, entries = await self._etcd.read_many([key, f"{SNAPSHOTS}{volume_id}/"])
        found = [decode(entry, Snapshot) for entry in entries]
        revision = sets[0].mod_revision if sets else 0
        return Taken(Unchanged(key, revision), {one.value.name: one for one in found})

    async def named(self, volume: Volume, name: str) -> Stored[Snapshot]:
        """Raises NotFound."""
        entry = await self._etcd.get(snapshot_key(volume.id, name))
        if entry is None:
            raise hinted(
                NotFound(f"volume {volume.name} has no snapshot {name!r}"),
                f"blockctl volume snapshot list {volume.name}",
            )
        return decode(entry, Snapshot)

    async def final(self, volume: Volume, name: str) -> Stored[Snapshot]:
        """One that can be read. Raises NotFound, Busy: it is being created."""
        stored = await self.named(volume, name)
        if stored.value.state == SNAPSHOT_STATE_CREATING:
            raise hinted(
                Busy(f"snapshot {name} of {volume.name} is not final yet"),
                f"blockctl volume snapshot list {volume.name} says when it is",
            )
        return stored

    async def all(self) -> list[Snapshot]:
        """Of all volumes, with their attachments."""
        entries, attached = await self._etcd.read_many([SNAPSHOTS, SNAPSHOT_ATTACHMENTS])
        found = [decode(entry, Snapshot).value for entry in entries]
        by_id = {one.id: one for one in found}
        for entry in attached:
            attachment = decode(entry, SnapshotAttachment).value
            if attachment.snapshot_id in by_id:
                by_id[attachment.snapshot_id].attachments.append(attachment)
        return sorted(found, key=lambda one: (one.volume_name, one.volume_id, one.era))

    async def attachments(self, snapshot_id: str = "") -> list[Stored[SnapshotAttachment]]:
        """Of one snapshot, or of all."""
        prefix = f"{SNAPSHOT_ATTACHMENTS}{snapshot_id}/" if snapshot_id else SNAPSHOT_ATTACHMENTS
        return [decode(entry, SnapshotAttachment) for entry in await self._etcd.scan(prefix)]

    async def dependents(self, snapshot_id: str) -> list[str]:
        """What would lose its base with the snapshot, for people."""
        volumes, snapshots = await self._etcd.read_many([VOLUMES, SNAPSHOTS])
        found = []
        for entry in volumes:
            volume = decode(entry, Volume).value
            if volume.base.snapshot_id == snapshot_id and volume.state != VOLUME_STATE_DELETING:
                found.append(f"volume {volume.name}")
        for entry in snapshots:
            snapshot = decode(entry, Snapshot).value
            if snapshot.base.snapshot_id == snapshot_id:
                found.append(f"snapshot {snapshot.name} of {snapshot.volume_name}")
        return sorted(found)


def touch(snapshot: Stored[Snapshot]) -> Put:
    """The operation that makes deletions under way look again for dependents. Of a final one."""
    return put(snapshot.key, snapshot.value)


def snapshot_details(snapshot: Snapshot) -> dict[str, str]:
    """Of an event."""
    details = {
        "volume_id": snapshot.volume_id,
        "snapshot_id": snapshot.id,
        "snapshot": snapshot.name,
        "era": str(snapshot.era),
    }
    return details | ({"group": snapshot.group} if snapshot.group else {})
