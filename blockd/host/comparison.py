"""Whether the replicas of the volumes attached here hold the same: asked at the end of each scrub.

A scrub finds blocks that do not match their own checksum; only a comparison finds replicas that are
sound each and yet differ. Each in-sync replica's host lists its chunks' versions and digests, which
reads no data; a chunk that differs while writes are under way is asked for again. The verdict is
that of `blockctl volume verify` (rules/digests.py).
"""

import asyncio
import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from uuid import UUID

from blockd.host.attachments import Attachments
from blockd.host.metadata import MetadataClient
from blockd.host.reports import Reports
from blockd.host.topology import Topology
from blockd.model.errors import BlockdError
from blockd.model.units import CHUNK_BYTES, SEGMENT_BYTES
from blockd.rpc.channel import HostClient
from blockd.rpc.gen import host_pb2, types_pb2
from blockd.rules.digests import Difference, Digest, compare

log = logging.getLogger(__name__)

LIST_S = 60.0
RETRIES = 10
RETRY_S = 0.3
LISTED_MAX = 64  # differing chunks that are named

Listing = dict[int, Digest]


@dataclass
class Comparison:
    """What was found of one volume. failures: replicas that could not be listed."""

    volume_id: UUID
    unix_us: int
    segments: int = 0
    replicas: int = 0
    failures: int = 0
    differing: list[int] = field(default_factory=list)  # offsets in the volume

    def message(self) -> host_pb2.ReplicaComparison:
        """As clients see it."""
        return host_pb2.ReplicaComparison(
            volume_id=str(self.volume_id),
            unix_us=self.unix_us,
            segments=self.segments,
            replicas=self.replicas,
            failures=self.failures,
            differing_chunks=len(self.differing),
            offsets_bytes=self.differing[:LISTED_MAX],
        )


class Comparisons:
    """The latest of each volume, since the daemon's start; used on the event loop only."""

    def __init__(
        self,
        metadata: MetadataClient,
        topology: Topology,
        attachments: Attachments,
        reports: Reports,
        hosts: HostClient,
    ) -> None:
        self._metadata = metadata
        self._topology = topology
        self._attachments = attachments
        self._reports = reports
        self._hosts = hosts
        self._latest: dict[UUID, Comparison] = {}
        self._wanted = asyncio.Event()

    def want(self) -> None:
        """Compare soon."""
        self._wanted.set()

    def latest(self) -> list[Comparison]:
        """Of the volumes that are attached here."""
        return [one for one in self._latest.values() if one.volume_id in self._attachments.held]

    async def run(self) -> None:
        """Compare whenever it is wanted, until cancelled."""
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            for volume_id in list(self._attachments.held):
                try:
                    self._latest[volume_id] = await self.compare(volume_id)
                except BlockdError as error:
                    log.warning("replicas of volume %s are not compared: %s", volume_id, error)
                except Exception:
                    log.exception("comparing the replicas of volume %s failed", volume_id)

    async def compare(self, volume_id: UUID) -> Comparison:
        """All segments of a volume. Raises NotFound, MetadataUnreachable."""
        volume = await self._metadata.get_volume(str(volume_id))
        result = Comparison(volume_id, time.time_ns() // 1000)
        for segment in volume.segments:
            differences = await self._compare_segment(volume, segment, result)
            result.differing += [
                segment.index * SEGMENT_BYTES + one.chunk * CHUNK_BYTES for one in differences
            ]
        if result.differing:
            self._reports.tell(
                "replicas.differ",
                f"{len(result.differing)} chunks are not the same in all replicas in sync, the "
                f"first at offset {result.differing[0]}: `blockctl volume verify {volume.name}` "
                "lists them",
                volume_id=volume_id,
                level=logging.ERROR,
                chunks=str(len(result.differing)),
            )
        return result

    async def _compare_segment(
        self, volume: types_pb2.Volume, segment: types_pb2.Segment, result: Comparison
    ) -> list[Difference]:
        members = [member for member in segment.members if member.in_sync]
        listings = await self._list(volume.id, segment.index, members)
        result.segments += 1
        result.replicas += len(listings)
        result.failures += len(members) - len(listings)
        differences = compare(listings)
        for _ in range(RETRIES):
            if all(one.is_damage for one in differences):
                break
            await asyncio.sleep(RETRY_S)
            now = await self._metadata.get_volume(volume.id)
            members = [one for one in now.segments[segment.index].members if one.in_sync]
            listings = await self._list(volume.id, segment.index, members)
            differences = compare(listings, [one.chunk for one in differences])
        return differences

    async def _list(
        self, volume_id: str, index: int, members: Iterable[types_pb2.Member]
    ) -> dict[str, Listing]:
        """By host, of those that answer."""
        chosen = list(members)
        found = await asyncio.gather(*(self._list_one(volume_id, index, one) for one in chosen))
        return {
            member.host_id: listing
            for member, listing in zip(chosen, found, strict=True)
            if listing is not None
        }

    async def _list_one(
        self, volume_id: str, index: int, member: types_pb2.Member
    ) -> Listing | None:
        endpoint = self._topology.grpc_endpoint(UUID(member.host_id))
        if endpoint is None:
            return None
        request = host_pb2.ListDigestsRequest(volume_id=volume_id, segment=index)
        listing: Listing = {}
        try:
            async for batch in self._hosts.stream(
                endpoint, lambda stub: stub.ListDigests, request, timeout=LIST_S
            ):
                for one in batch.digests:
                    listing[one.chunk] = Digest((one.epoch, one.seq), one.valid_mask, one.digest)
        except BlockdError as error:
            log.info("digests of %s/%d at %s: %s", volume_id, index, member.host_name, error)
            return None
        return listing
