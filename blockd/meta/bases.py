"""Bases: clones, rollback, and flattening, after which a volume has no base any more.

Each is one commit, whatever the size of the volume: what the base shows is read from where it is
(docs/SNAPSHOTS.md, "Base").
"""

import logging

from blockd.meta.context import Instance
from blockd.meta.layers import Layers
from blockd.meta.recall import Recall
from blockd.meta.records import (
    CONFLICTS_MAX,
    Stored,
    check_available,
    check_writable,
    conflict,
    put,
)
from blockd.meta.snapshot_records import (
    SnapshotRecords,
    base_of,
    check_detached,
    era_of,
    snapshot_details,
    snapshot_set,
    touch,
)
from blockd.meta.volumes import Parent, Volumes
from blockd.model.errors import BlockdError, InvalidArgument, NotAttached
from blockd.model.ids import parse_id
from blockd.model.units import format_size
from blockd.rpc.gen import host_pb2
from blockd.rpc.gen.meta_pb2 import (
    CloneVolumeRequest,
    CreateVolumeRequest,
    FlattenDoneRequest,
)
from blockd.rpc.gen.types_pb2 import Base, Policy, Snapshot, Volume
from blockd.rpc.status import hinted
from blockd.rules.in_sync import check_epoch

log = logging.getLogger("blockd.meta")

FLATTEN_SECONDS = 5.0


class Bases:
    """Stateless; every call reads etcd."""

    def __init__(self, instance: Instance, volumes: Volumes) -> None:
        self._instance = instance
        self._volumes = volumes
        self._records = instance.records
        self._taken = SnapshotRecords(instance.records)
        self._layers = Layers(instance.records)
        self._recall = Recall(instance)

    async def clone(self, request: CloneVolumeRequest) -> Volume:
        """A new volume with the snapshot as its base. Raises as CreateVolume does; NotFound, Busy:
        the snapshot; InvalidArgument: smaller than it; InUse: too many bases."""
        parent = (await self._records.volume(request.volume)).value
        check_available(parent)
        snapshot = await self._taken.final(parent, request.snapshot)
        await self._layers.check_depth(snapshot.value)
        size_bytes = request.size_bytes or snapshot.value.size_bytes
        if size_bytes < snapshot.value.size_bytes:
            raise InvalidArgument(
                f"a clone is at least as large as its snapshot, "
                f"{format_size(snapshot.value.size_bytes)}",
                field="size_bytes",
            )
        replicas = request.policy.replicas or parent.policy.replicas
        inherits = request.policy.replicas in (0, parent.policy.replicas)
        min_in_sync = request.policy.min_in_sync or (parent.policy.min_in_sync if inherits else 0)
        return await self._volumes.create(
            CreateVolumeRequest(
                name=request.name,
                size_bytes=size_bytes,
                policy=Policy(
                    replicas=replicas,
                    min_in_sync=min_in_sync,
                    io_timeout_ms=request.policy.io_timeout_ms or parent.policy.io_timeout_ms,
                ),
                tenant=request.tenant or parent.tenant,
            ),
            Parent(snapshot, base_on(snapshot.value, since=1)),
        )

    async def rollback(self, volume_name: str, snapshot_name: str) -> Volume:
        """The volume shows the snapshot again. Raises NotFound; VolumeAttached, NotAttached: it is
        not detached, or was not cleanly; Busy: the snapshot is not final; InUse: too many bases."""
        for _ in range(CONFLICTS_MAX):
            stored = await self._records.volume(volume_name)
            check_writable(stored.value)
            taken = await self._taken.taken(stored.value.id)
            snapshot = await self._taken.final(stored.value, snapshot_name)
            held = await self._records.attachment(stored.value.id)
            check_detached(stored.value, held.value)
            await self._recall.check_untouched(stored.value, held.value)
            await self._layers.check_depth(snapshot.value)
            volume = _rolled_back(stored.value, snapshot.value)
            if await self._records.commit(
                [stored.unchanged, held.unchanged, taken.unchanged, snapshot.unchanged],
                [
                    put(stored.key, volume),
                    touch(snapshot),
                    snapshot_set(volume, taken.values()),
                ],
                "volume.rolled_back",
                f"volume/{volume.name}",
                f"volume {volume.name} shows snapshot {snapshot_name} again",
                snapshot_details(snapshot.value),
            ):
                return await self._volumes.get(volume.id)
        raise conflict(f"volume {volume_name}")

    async def flatten(self, volume_name: str) -> Volume:
        """Have the holder copy up what shows the base; it goes on in the background, also after a
        restart or at another holder. Raises NotFound; NotAttached; LinkLost, Timeout: the holder
        does not answer, and does it once the volume is attached again."""
        for _ in range(CONFLICTS_MAX):
            stored = await self._records.volume(volume_name)
            check_writable(stored.value)
            if base_of(stored.value) is None:
                return await self._volumes.get(stored.value.id)
            held = await self._records.attachment(stored.value.id)
            if not held.value.host_id:
                raise hinted(
                    NotAttached(
                        f"volume {stored.value.name} is attached nowhere: its holder does the work"
                    ),
                    f"blockctl volume attach {stored.value.name}",
                )
            if stored.value.flattening or await self._commit_flattening(stored):
                await self._tell_holder(
                    stored.value.name, held.value.host_id, held.value.volume_id, held.value.epoch
                )
                return await self._volumes.get(stored.value.id)
        raise conflict(f"volume {volume_name}")

    async def _commit_flattening(self, stored: Stored[Volume]) -> bool:
        volume = Volume()
        volume.CopyFrom(stored.value)
        volume.flattening = True
        return await self._records.commit(
            [stored.unchanged],
            [put(stored.key, volume)],
            "volume.flattening",
            f"volume/{volume.name}",
            f"volume {volume.name} takes in what shows its base",
            {"volume_id": volume.id},
        )

    async def _tell_holder(self, name: str, host_id: str, volume_id: str, epoch: int) -> None:
        view = (await self._records.hosts()).get(host_id)
        if view is None:
            return  # whoever attaches it next does it
        try:
            await self._instance.hosts.call(
                view.host.grpc_endpoint,
                lambda host: host.Flatten,
                host_pb2.HostFlattenRequest(volume_id=volume_id, epoch=epoch),
                timeout=FLATTEN_SECONDS,
            )
        except BlockdError as error:
            error.add_note(
                f"the order is on record: {name} is flattened once it is attached again, or after "
                "another volume flatten"
            )
            raise

    async def flatten_done(self, request: FlattenDoneRequest) -> None:
        """The volume has no base any more. Idempotent. Raises EpochFenced, NotAttached, NotFound.

        Only the holder of the current epoch may say so: a rollback needs a detached volume, so
        what an earlier holder has flattened may not be today's base.
        """
        volume_id = str(parse_id(request.volume_id, "volume_id"))
        for _ in range(CONFLICTS_MAX):
            stored = await self._records.volume(volume_id)
            held = await self._records.attachment(volume_id)
            check_epoch(request.epoch, held.value.epoch, is_attached=bool(held.value.host_id))
            if base_of(stored.value) is None:
                return
            taken = await self._taken.taken(volume_id)
            volume = Volume()
            volume.CopyFrom(stored.value)
            volume.ClearField("base")
            volume.flattening = False
            if await self._records.commit(
                [stored.unchanged, held.unchanged, taken.unchanged],
                [put(stored.key, volume), snapshot_set(volume, taken.values())],
                "volume.flattened",
                f"volume/{volume.name}",
                f"volume {volume.name} has all its content itself; its base is let go",
                {"volume_id": volume_id},
            ):
                return
        raise conflict(f"volume {volume_id}")


def base_on(snapshot: Snapshot, *, since: int, rolled_back: bool = False) -> Base:
    """What shows the snapshot wherever content was born before `since`."""
    return Base(
        volume_id=snapshot.volume_id,
        era=snapshot.era,
        since=since,
        rolled_back=rolled_back,
        size_bytes=snapshot.size_bytes,
        snapshot_id=snapshot.id,
    )


def _rolled_back(volume: Volume, snapshot: Snapshot) -> Volume:
    """The volume over its own snapshot, in a new era: what was born in between counts no more.

    What was born in the snapshot's era or before is taken for the volume's own, unless the snapshot
    shows a snapshot of the volume itself: then some of it did not count in the snapshot either, and
    all is read through it. A volume that has shrunk since gets the snapshot's size back: the
    segments behind its end were kept.
    """
    changed = Volume()
    changed.CopyFrom(volume)
    changed.era = era_of(volume) + 1
    changed.flattening = False
    changed.size_bytes = max(volume.size_bytes, snapshot.size_bytes)
    plain = not snapshot.HasField("base") or snapshot.base.volume_id != volume.id
    changed.base.CopyFrom(base_on(snapshot, since=changed.era, rolled_back=plain))
    return changed
