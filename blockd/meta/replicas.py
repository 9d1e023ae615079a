"""Replicas on hosts: choosing their places, having hosts make them, having hosts drop them."""

import asyncio
import logging
import random
from collections.abc import Iterable, Sequence

from blockd.meta.context import Instance
from blockd.meta.etcd import Delete, Unchanged
from blockd.meta.hosts import order
from blockd.meta.records import (
    SEGMENTS,
    SITES,
    VOLUMES,
    HostView,
    Stored,
    last_part,
    order_key,
    put,
    segment_key,
)
from blockd.meta.stores import STALLED, placed_bytes
from blockd.model.errors import BlockdError, LinkLost, NotFound, Timeout, WriteUnresolved
from blockd.model.units import segment_bytes
from blockd.rpc.gen import host_pb2
from blockd.rpc.gen.meta_pb2 import ReplicaOrder
from blockd.rpc.gen.types_pb2 import Member, Segment, Volume
from blockd.rpc.status import hinted
from blockd.rules.placement import Candidate, Place, StoreRoom, bounded, place_segments

log = logging.getLogger("blockd.meta")

SEGMENTS_PER_COMMIT = 100
ORDERS_PER_CALL = 1024
ENSURE_SECONDS = 15.0
DROP_SECONDS = 5.0


class Replicas:
    """Stateless; every call reads etcd."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        self._records = instance.records
        self._etcd = instance.records.etcd

    async def place(
        self, volume: Volume, first: int, end: int, members: set[str]
    ) -> list[tuple[Place, ...]]:
        """Places for segments [first, end). Raises PolicyUnsatisfiable."""
        rng = random.Random(f"{volume.id}/{first}")
        hosts = await self._candidates()
        sites = [last_part(entry.key) for entry in await self._etcd.scan(SITES, keys_only=True)]
        sizes = [segment_bytes(volume.size_bytes, index) for index in range(first, end)]
        return await asyncio.to_thread(  # a large volume takes longer than the loop may stand still
            place_segments,
            sizes,
            volume.policy.replicas,
            bounded(hosts, members, rng=rng),
            sites,
            rng=rng,
            overcommit=self._instance.overcommit,
        )

    async def _candidates(self) -> list[Candidate]:
        hosts = await self._records.hosts()
        volumes, segments = await self._etcd.read_many([VOLUMES, SEGMENTS])
        promised = placed_bytes(volumes, segments)
        return [_candidate(view, promised) for view in hosts.values()]

    async def write_segments(self, stored: Stored[Volume], segments: Sequence[Segment]) -> bool:
        """False: the volume's record was changed since, and not all are written."""
        for start in range(0, len(segments), SEGMENTS_PER_COMMIT):
            batch = segments[start : start + SEGMENTS_PER_COMMIT]
            keys = [segment_key(stored.value.id, segment.index) for segment in batch]
            done = await self._etcd.commit(
                [stored.unchanged, *(Unchanged(key, 0) for key in keys)],
                [put(key, segment) for key, segment in zip(keys, batch, strict=True)],
            )
            if done is None:
                return False
        return True

    async def ensure(
        self, volume_id: str, segments: Iterable[Stored[Segment]]
    ) -> dict[int, set[str]]:
        """Have every host make its replicas. Returns those that were there, and that an engine had
        opened: hosts by segment. Raises what a host raised, naming it."""
        hosts = await self._records.hosts()
        orders: dict[str, list[ReplicaOrder]] = {}
        for stored in segments:
            for member in stored.value.members:
                orders.setdefault(member.host_id, []).append(
                    order(volume_id, stored.value, member.store_id)
                )
        results = await asyncio.gather(
            *(self._ensure_at(hosts[host_id], batch) for host_id, batch in orders.items()),
            return_exceptions=True,
        )
        used: dict[int, set[str]] = {}
        for host_id, result in zip(orders, results, strict=True):
            if isinstance(result, BaseException):
                raise result
            for segment in result:
                used.setdefault(segment, set()).add(host_id)
        return used

    async def _ensure_at(self, view: HostView, orders: list[ReplicaOrder]) -> list[int]:
        used: list[int] = []
        for start in range(0, len(orders), ORDERS_PER_CALL):
            request = host_pb2.EnsureReplicasRequest(
                replicas=orders[start : start + ORDERS_PER_CALL]
            )
            try:
                answer = await self._instance.hosts.call(
                    view.host.grpc_endpoint,
                    lambda host: host.EnsureReplicas,
                    request,
                    timeout=ENSURE_SECONDS,
                )
                used.extend(order.segment for order in answer.used)
            except (LinkLost, Timeout) as error:
                raise hinted(
                    type(error)(f"host {view.host.name} does not make its replicas: {error}"),
                    f"see whether it runs: blockctl host show {view.host.name}; then try again",
                ) from error
            except BlockdError as error:
                raise type(error)(f"host {view.host.name}: {error.message}") from error
        return used

    async def drop(self, view: HostView | None, host_id: str, volume_id: str) -> bool:
        """Whether the host has no replica of the volume any more; then its order goes."""
        key = order_key(host_id, volume_id)
        if await self._etcd.get(key) is None:
            return True
        if view is None or not view.is_up:
            return False
        try:
            await self._instance.hosts.call(
                view.host.grpc_endpoint,
                lambda host: host.DropReplicas,
                host_pb2.DropReplicasRequest(volume_id=volume_id),
                timeout=DROP_SECONDS,
            )
        except NotFound:
            pass
        except BlockdError as error:
            log.info("host %s has not dropped volume %s: %s", view.host.name, volume_id, error)
            return False
        try:
            await self._etcd.commit([], [Delete(key)])
        except WriteUnresolved:
            return False  # the leader asks again
        return True


def fresh_segments(first: int, places: Sequence[tuple[Place, ...]]) -> list[Segment]:
    """Fresh replicas are all empty, hence all in sync."""
    return [
        Segment(
            index=first + offset,
            generation=1,
            members=[
                Member(host_id=place.host_id, store_id=place.store_id, in_sync=True)
                for place in chosen
            ],
        )
        for offset, chosen in enumerate(places)
    ]


def _candidate(view: HostView, promised: dict[str, int]) -> Candidate:
    stores = (view.report or view.host).stores
    return Candidate(
        host_id=view.host.id,
        name=view.host.name,
        site=view.host.site,
        is_up=view.is_up,
        stores=tuple(
            StoreRoom(
                store.id,
                store.capacity_bytes,
                store.allocated_bytes,
                promised.get(store.id, 0),
                is_failed=bool(store.failed) or store.state == STALLED,
            )
            for store in stores
        ),
    )
