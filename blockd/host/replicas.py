"""Replica orders of the metadata service: create what this host must hold, drop what was deleted.

Orders may be repeated, in any number and by several metadata instances at once: each is idempotent.
"""

import asyncio
import logging
from collections.abc import Iterable
from uuid import UUID

from blockd.host.attachments import Attachments
from blockd.host.snapshots import SnapshotSets
from blockd.model.errors import AlreadyExists, NotFound
from blockd.model.ids import parse_id
from blockd.model.units import CHUNK_BYTES
from blockd.native import core as native
from blockd.rpc.gen import host_pb2, meta_pb2

log = logging.getLogger(__name__)


class Replicas:
    """The replicas on this host's stores; used on the event loop only."""

    def __init__(
        self, core: native.Core, attachments: Attachments, snapshot_sets: SnapshotSets
    ) -> None:
        self._core = core
        self._attachments = attachments
        self._snapshot_sets = snapshot_sets
        self._lock = asyncio.Lock()  # creations and drops of one volume must not interleave

    async def used(self, orders: Iterable[meta_pb2.ReplicaOrder]) -> list[meta_pb2.ReplicaOrder]:
        """Those that are here, and that an engine has opened."""
        opened = {
            (str(replica.volume_id), replica.segment)
            for replica in await self._core.list_replicas()
            if replica.promised_epoch > 0
        }
        return [order for order in orders if (order.volume_id, order.segment) in opened]

    async def ensure(self, orders: Iterable[meta_pb2.ReplicaOrder]) -> None:
        """Create the replicas that are missing. Raises NotFound (store), NoSpace, DiskError."""
        async with self._lock:
            for order in orders:
                await self._ensure_one(order)

    async def _ensure_one(self, order: meta_pb2.ReplicaOrder) -> None:
        store_id = parse_id(order.store_id, "store")
        volume_id = parse_id(order.volume_id, "volume")
        try:
            await self._core.create_replica(store_id, volume_id, order.segment, order.block_count)
        except AlreadyExists:
            return
        log.info("replica of volume %s segment %d created", volume_id, order.segment)
        await self._snapshot_sets.tell(volume_id)

    async def stored(self, volume_id: UUID | None) -> list[host_pb2.StoredReplicas]:
        """What is stored here of one volume, or of all: by volume and store."""
        found: dict[tuple[UUID, UUID], host_pb2.StoredReplicas] = {}
        for replica in await self._core.list_replicas():
            if volume_id not in (None, replica.volume_id):
                continue
            entry = found.setdefault(
                (replica.volume_id, replica.store_id),
                host_pb2.StoredReplicas(
                    volume_id=str(replica.volume_id), store_id=str(replica.store_id)
                ),
            )
            entry.segment_count += 1
            entry.promised_epoch = max(entry.promised_epoch, replica.promised_epoch)
            entry.lease_us = max(entry.lease_us, replica.lease_us)
            entry.stored_bytes += replica.chunk_count * CHUNK_BYTES
            entry.past_bytes += replica.past_count * CHUNK_BYTES
        return list(found.values())

    async def drop_volume(self, volume_id: UUID) -> None:
        """Drop every replica of a deleted volume; none is fine. Raises DiskError."""
        await self._attachments.detach(volume_id)
        self._snapshot_sets.forget(volume_id)
        async with self._lock:
            mine = [r for r in await self._core.list_replicas() if r.volume_id == volume_id]
            for replica in mine:
                try:
                    await self._core.drop_replica(volume_id, replica.segment)
                except NotFound:
                    continue
            if mine:
                log.info("%d replicas of deleted volume %s dropped", len(mine), volume_id)
