"""What a reader of a volume, or of a snapshot, must know: where it is stored, and what shows
through it from beneath (docs/SNAPSHOTS.md, "Base")."""

import logging

from blockd.meta.records import HostView, Records, check_available, named
from blockd.meta.snapshot_records import SnapshotRecords, base_of
from blockd.model.errors import InUse, NotFound
from blockd.rpc.gen.types_pb2 import Base, BaseLayer, Segment, Snapshot, Volume, VolumeView
from blockd.rpc.status import hinted
from blockd.rules.snapshots import BASES_MAX

log = logging.getLogger("blockd.meta")


class Layers:
    """What shows through what. Stateless; every call reads etcd."""

    def __init__(self, records: Records) -> None:
        self._records = records
        self._taken = SnapshotRecords(records)

    async def served_on(
        self, volume: Volume, hosts: dict[str, HostView] | None = None
    ) -> list[BaseLayer]:
        """What goes with served_as(). Raises as beneath()."""
        return await self.beneath(base_of(served_as(volume)), hosts)

    async def beneath(
        self, base: Base | None, hosts: dict[str, HostView] | None = None
    ) -> list[BaseLayer]:
        """The base with its base and so on. Raises NotFound: a record is missing, which only a
        restored backup of etcd can bring about."""
        hosts = await self._records.hosts() if hosts is None and base is not None else hosts or {}
        layers: list[BaseLayer] = []
        while base is not None:
            layers.append(BaseLayer(base=base, segments=await self._segments(base, hosts)))
            base = await self._base_of_snapshot(base)
        return layers

    async def _segments(self, base: Base, hosts: dict[str, HostView]) -> list[Segment]:
        owner = Volume(id=base.volume_id, size_bytes=base.size_bytes)
        segments = [named(one.value, hosts) for one in await self._records.segments(owner)]
        if not segments:
            raise NotFound(f"the volume {base.volume_id} of a base is gone")
        return segments

    async def _base_of_snapshot(self, base: Base) -> Base | None:
        taken = await self._taken.taken(base.volume_id)
        for stored in taken.snapshots.values():
            if stored.value.id == base.snapshot_id:
                return base_of(stored.value)
        raise NotFound(f"the snapshot {base.snapshot_id} of a base is gone")

    async def view(self, volume_name: str, snapshot_name: str) -> VolumeView:
        """A snapshot, or without a name the current state. Raises NotFound, Busy: not final."""
        stored = await self._records.volume(volume_name)
        check_available(stored.value)
        if snapshot_name:
            return await self.snapshot(
                stored.value, (await self._taken.final(stored.value, snapshot_name)).value
            )
        return await self._view(stored.value, stored.value.size_bytes, base_of(stored.value))

    async def snapshot(self, volume: Volume, snapshot: Snapshot) -> VolumeView:
        """What a reader of it needs."""
        view = await self._view(volume, snapshot.size_bytes, base_of(snapshot))
        view.snapshot_id, view.snapshot_name, view.era = snapshot.id, snapshot.name, snapshot.era
        return view

    async def _view(self, volume: Volume, size_bytes: int, base: Base | None) -> VolumeView:
        hosts = await self._records.hosts()
        owner = Volume(id=volume.id, size_bytes=size_bytes)
        return VolumeView(
            volume_id=volume.id,
            volume_name=volume.name,
            size_bytes=size_bytes,
            segments=[named(one.value, hosts) for one in await self._records.segments(owner)],
            bases=await self.beneath(base, hosts),
        )

    async def check_depth(self, snapshot: Snapshot) -> None:
        """Raises InUse: it stands on as many others as may stand on each other."""
        depth = len(await self.beneath(base_of(snapshot)))
        if depth >= BASES_MAX:
            raise hinted(
                InUse(
                    f"snapshot {snapshot.name} of {snapshot.volume_name} shows {depth} others "
                    "through each other, which is the most there may be"
                ),
                f"flatten {snapshot.volume_name} and take a new snapshot: blockctl volume flatten "
                f"{snapshot.volume_name}",
            )


def served_as(volume: Volume) -> Volume:
    """As its holder gets it: without its base, which may not be final, as long as it is a branch
    that only takes whole chunks."""
    if not volume.HasField("branch") or volume.branch.sealed:
        return volume
    plain = Volume()
    plain.CopyFrom(volume)
    plain.ClearField("base")
    return plain


async def exported_by(records: Records, host_id: str) -> list[VolumeView]:
    """What a host that registers is to export."""
    taken, layers = SnapshotRecords(records), Layers(records)
    wanted = {
        one.value.snapshot_id for one in await taken.attachments() if one.value.host_id == host_id
    }
    if not wanted:
        return []
    views = []
    for snapshot in await taken.all():
        stored = await records.volume_by_id(snapshot.volume_id)
        if snapshot.id in wanted and stored is not None:
            try:
                views.append(await layers.snapshot(stored.value, snapshot))
            except NotFound as error:  # must not keep the host from registering
                log.warning("snapshot %s of %s: %s", snapshot.name, snapshot.volume_name, error)
    return views
