"""What stores remember of a volume when the metadata does not: it was restored from a backup.

Two counts may then be behind what the stores have met, and each is brought up again before anything
rests on it.

* The epoch. Before an engine may change a segment, its epoch is promised, durably, by so many of
  the members agreed in sync that they meet every write quorum of them (docs/REPLICATION.md, O1). So
  once a write quorum of those on record says, for every segment, that it has promised nothing above
  the epoch on record, no engine has touched the volume since that record was written. Epochs that
  are issued after a restore lie far above all that was heard of: some host may know of later ones.
* The era. An engine is in no era before one that a member of it has met, and says in which it is
  when it has opened, begun an era, or ended. What it says is put on record before a snapshot may
  become final by it (docs/SNAPSHOTS.md, "Metadata from a backup").
"""

import logging
from collections.abc import Iterable
from dataclasses import dataclass

from blockd.meta.context import Instance
from blockd.meta.member_reports import MemberReports, Reports
from blockd.meta.records import CONFLICTS_MAX, HostView, Stored, conflict, put
from blockd.meta.snapshot_records import SnapshotRecords, Taken, era_of, is_clean, snapshot_set
from blockd.model.errors import Busy
from blockd.rpc.gen.types_pb2 import Attachment, Segment, Snapshot, Volume
from blockd.rpc.status import hinted
from blockd.rules.attachments import Promised, write_quorum
from blockd.rules.snapshots import unsettled

log = logging.getLogger("blockd.meta")


@dataclass(frozen=True)
class Raised:
    """A volume in a later era, and its snapshots that were not final, of later eras as well."""

    volume: Volume
    snapshots: list[Snapshot]


class Recall:
    """Stateless; every call reads etcd."""

    def __init__(self, instance: Instance) -> None:
        self._records = instance.records
        self._members = MemberReports(instance)
        self._taken = SnapshotRecords(instance.records)

    # Epochs.

    async def promised(self, volume: Volume, hosts: dict[str, HostView] | None = None) -> Promised:
        """What those members of the volume have promised that answer now."""
        segments, reports = await self._members.of(volume, hosts)
        return Promised(
            max((int(report.promised_epoch) for report in reports.values()), default=0),
            is_certain=all(
                _meets_quorum(segment, reports, volume.policy.min_in_sync) for segment in segments
            ),
        )

    async def check_untouched(self, volume: Volume, held: Attachment) -> None:
        """Of a volume that is attached nowhere, on record: whether nothing is under way, nor has
        been since the record was written. Raises NotAttached; Busy: too few members answer."""
        if not is_clean(held):
            raise unsettled(volume.name)
        promised = await self.promised(volume)
        if promised.epoch > held.epoch:
            log.warning(
                "volume %s is at epoch %d on record, and has met epoch %d: the metadata is older "
                "than its replicas",
                volume.name,
                held.epoch,
                promised.epoch,
            )
            raise unsettled(volume.name)
        if not promised.is_certain:
            raise hinted(
                Busy(
                    f"too few hosts with replicas of {volume.name} answer to be sure that nothing "
                    "has been written since it was detached"
                ),
                "start them (blockctl host list), or attach the volume",
            )

    # Eras.

    async def raise_era(self, volume_id: str, met: int) -> bool:
        """Put on record that the volume's stores have met an era. A snapshot of an earlier one that
        is not final becomes one of that era, or of the next ones when there are several: its moment
        is now, since the engine has not been told of it. False: the record says so already."""
        for _ in range(CONFLICTS_MAX):
            stored = await self._records.volume_by_id(volume_id)
            if stored is None or era_of(stored.value) >= met:
                return False
            taken = await self._taken.taken(volume_id)
            if await self._commit(stored, taken, met):
                return True
        raise conflict(f"volume {volume_id}")

    async def _commit(self, stored: Stored[Volume], taken: Taken, met: int) -> bool:
        creating = sorted(taken.creating(), key=lambda one: one.value.era)
        raised = _raised(stored.value, [one.value for one in creating], met)
        moved = {one.name: one for one in raised.snapshots}
        others = taken.values(without=list(moved))
        return await self._records.commit(
            [stored.unchanged, taken.unchanged, *(one.unchanged for one in creating)],
            [
                put(stored.key, raised.volume),
                *(put(one.key, moved[one.value.name]) for one in creating),
                snapshot_set(raised.volume, [*others, *raised.snapshots]),
            ],
            "volume.era_raised",
            f"volume/{stored.value.name}",
            f"volume {stored.value.name} was in era {era_of(stored.value)} on record, and its "
            f"stores have met era {met}: the metadata was older than they are",
            {
                "volume_id": stored.value.id,
                "era": str(raised.volume.era),
                "era_on_record": str(era_of(stored.value)),
            },
        )


def _raised(volume: Volume, creating: Iterable[Snapshot], met: int) -> Raised:
    changed = Volume()
    changed.CopyFrom(volume)
    changed.era = met
    moved = []
    for snapshot in creating:
        later = Snapshot()
        later.CopyFrom(snapshot)
        later.era = changed.era
        changed.era += 1
        moved.append(later)
    return Raised(changed, moved)


def _meets_quorum(segment: Segment, reports: Reports, min_in_sync: int) -> bool:
    agreed = [one for one in segment.members if one.in_sync]
    answered = sum((one.host_id, one.store_id) in reports for one in agreed)
    return answered >= write_quorum(len(agreed), min_in_sync)
