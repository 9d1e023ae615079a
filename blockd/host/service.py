"""HostService: what the metadata service orders of this host, and what it tells about itself.

Handlers raise errors of the table; the server turns them into gRPC statuses (blockd/rpc). Orders
are idempotent, see attachments.py and replicas.py.
"""

from collections.abc import AsyncIterator
from typing import Any

import grpc

from blockd.host.agent import Agent
from blockd.host.attachments import Attachments, Held
from blockd.host.comparison import Comparisons
from blockd.host.eras import Eras
from blockd.host.exports import NbdEndpoints
from blockd.host.flattening import Flattening
from blockd.host.readings import Readings
from blockd.host.replicas import Replicas
from blockd.host.scrub import Scrubs
from blockd.host.scrub_state import ScrubState
from blockd.host.snapshots import SnapshotExports
from blockd.host.topology import Topology
from blockd.model.errors import InvalidArgument, NotFound
from blockd.model.ids import parse_id
from blockd.model.units import BLOCKS_PER_SEGMENT
from blockd.native import core as native
from blockd.native.values import ChunkView
from blockd.rpc.gen import host_pb2, host_pb2_grpc, meta_pb2

DIGESTS_PER_BATCH = 1024

Context = grpc.aio.ServicerContext[Any, Any]


class HostService(host_pb2_grpc.HostServiceServicer):
    """One instance a daemon."""

    def __init__(
        self,
        core: native.Core,
        agent: Agent,
        topology: Topology,
        attachments: Attachments,
        replicas: Replicas,
        endpoints: NbdEndpoints,
        scrubs: Scrubs,
        comparisons: Comparisons,
        eras: Eras,
        flattening: Flattening,
        snapshot_exports: SnapshotExports,
    ) -> None:
        self._core = core
        self._agent = agent
        self._topology = topology
        self._attachments = attachments
        self._replicas = replicas
        self._endpoints = endpoints
        self._scrubs = scrubs
        self._comparisons = comparisons
        self._eras = eras
        self._flattening = flattening
        self._snapshot_exports = snapshot_exports

    async def GetStatus(
        self, request: host_pb2.GetStatusRequest, context: Context
    ) -> host_pb2.HostStatus:
        readings = await Readings.take(self._core, self._attachments)
        return host_pb2.HostStatus(
            host=await self._agent.host_message(),
            attachments=[self._status(held, readings) for held in readings.held],
            counters=readings.daemon_counters(),
            nbd_endpoints=self._endpoints.names(),
        )

    async def GetAttachment(
        self, request: host_pb2.GetAttachmentRequest, context: Context
    ) -> host_pb2.AttachmentStatus:
        held = self._attachments.get(parse_id(request.volume_id, "volume"))
        readings = await Readings.take(self._core, self._attachments)
        return self._status(held, readings)

    def _status(self, held: Held, readings: Readings) -> host_pb2.AttachmentStatus:
        return host_pb2.AttachmentStatus(
            volume_id=str(held.volume_id),
            volume_name=held.name,
            epoch=held.epoch,
            size_bytes=held.size_bytes,
            state=readings.state(held),
            segments=[
                host_pb2.SegmentStatus(
                    index=segment.index,
                    generation=segment.generation,
                    state=segment.state,
                    in_sync=map(str, segment.in_sync),
                    joining=map(str, segment.joining),
                    absent=map(str, segment.absent),
                    resync_bytes_done=segment.resync_bytes_done,
                    resync_bytes_total=segment.resync_bytes_total,
                    in_flight=segment.in_flight,
                    behind=map(str, segment.behind),
                    resync_us=segment.resync_us,
                    differing=map(str, segment.differing),
                    proven_ago_us=segment.proven_ago_us,
                )
                for segment in readings.segments.get(held.volume_id, ())
            ],
            counters=readings.volume_counters(held.volume_id),
            nbd_uris=self._attachments.uris(held),
        )

    async def EnsureReplicas(
        self, request: host_pb2.EnsureReplicasRequest, context: Context
    ) -> host_pb2.EnsureReplicasResponse:
        used = await self._replicas.used(request.replicas)
        await self._replicas.ensure(request.replicas)
        return host_pb2.EnsureReplicasResponse(used=used)

    async def DropReplicas(
        self, request: host_pb2.DropReplicasRequest, context: Context
    ) -> host_pb2.DropReplicasResponse:
        await self._replicas.drop_volume(parse_id(request.volume_id, "volume"))
        return host_pb2.DropReplicasResponse()

    async def Attach(
        self, request: host_pb2.HostAttachRequest, context: Context
    ) -> host_pb2.HostAttachResponse:
        await self._topology.learn(request.peers)
        held = await self._attachments.attach(request.volume, request.bases)
        return host_pb2.HostAttachResponse(nbd_uris=self._attachments.uris(held), era=held.era)

    async def Detach(
        self, request: host_pb2.HostDetachRequest, context: Context
    ) -> host_pb2.HostDetachResponse:
        volume_id = parse_id(request.volume_id, "volume")
        drained = await self._attachments.detach(volume_id, request.epoch)
        return host_pb2.HostDetachResponse(drained_epoch=drained.epoch, era=drained.era)

    async def Grow(
        self, request: host_pb2.HostGrowRequest, context: Context
    ) -> host_pb2.HostGrowResponse:
        await self._topology.learn(request.peers)
        await self._attachments.grow(request.volume)
        return host_pb2.HostGrowResponse()

    async def Shrink(
        self, request: host_pb2.HostShrinkRequest, context: Context
    ) -> host_pb2.HostShrinkResponse:
        volume_id = parse_id(request.volume_id, "volume")
        await self._attachments.shrink(volume_id, request.epoch, request.size_bytes)
        return host_pb2.HostShrinkResponse()

    async def BeginEra(
        self, request: host_pb2.BeginEraRequest, context: Context
    ) -> host_pb2.BeginEraResponse:
        volume_id = parse_id(request.volume_id, "volume")
        era = await self._eras.begin(volume_id, request.epoch, request.era, request.hold_token)
        return host_pb2.BeginEraResponse(era=era)

    async def HoldMutations(
        self, request: host_pb2.HoldMutationsRequest, context: Context
    ) -> host_pb2.HoldMutationsResponse:
        volume_id = parse_id(request.volume_id, "volume")
        era = await self._eras.hold(volume_id, request.epoch, request.token, request.hold_us)
        return host_pb2.HoldMutationsResponse(era=era)

    async def Flatten(
        self, request: host_pb2.HostFlattenRequest, context: Context
    ) -> host_pb2.HostFlattenResponse:
        await self._flattening.start(parse_id(request.volume_id, "volume"), request.epoch)
        return host_pb2.HostFlattenResponse()

    async def AttachSnapshot(
        self, request: host_pb2.HostAttachSnapshotRequest, context: Context
    ) -> host_pb2.HostAttachSnapshotResponse:
        await self._topology.learn(request.peers)
        uris = await self._snapshot_exports.attach(request.view)
        return host_pb2.HostAttachSnapshotResponse(nbd_uris=uris)

    async def DetachSnapshot(
        self, request: host_pb2.HostDetachSnapshotRequest, context: Context
    ) -> host_pb2.HostDetachSnapshotResponse:
        await self._snapshot_exports.detach(parse_id(request.snapshot_id, "snapshot"))
        return host_pb2.HostDetachSnapshotResponse()

    async def ListChangedChunks(
        self, request: host_pb2.ListChangedChunksRequest, context: Context
    ) -> host_pb2.ListChangedChunksResponse:
        before = chunk_view(getattr(request, "from")) if request.HasField("from") else None
        chunks = await self._core.changed_chunks(
            parse_id(request.volume_id, "volume"), request.segment, before, chunk_view(request.to)
        )
        return host_pb2.ListChangedChunksResponse(chunks=chunks)

    async def ListReplicas(
        self, request: host_pb2.ListReplicasRequest, context: Context
    ) -> host_pb2.ListReplicasResponse:
        volume_id = parse_id(request.volume_id, "volume") if request.volume_id else None
        return host_pb2.ListReplicasResponse(replicas=await self._replicas.stored(volume_id))

    async def ListDigests(
        self, request: host_pb2.ListDigestsRequest, context: Context
    ) -> AsyncIterator[host_pb2.DigestBatch]:
        volume_id = parse_id(request.volume_id, "volume")
        digests = await self._core.list_digests(volume_id, request.segment, read=request.read)
        for start in range(0, len(digests), DIGESTS_PER_BATCH):
            yield host_pb2.DigestBatch(
                digests=[
                    host_pb2.ChunkDigest(
                        chunk=digest.chunk,
                        epoch=digest.version[0],
                        seq=digest.version[1],
                        valid_mask=digest.valid_mask,
                        digest=digest.digest,
                    )
                    for digest in digests[start : start + DIGESTS_PER_BATCH]
                ]
            )

    async def Locate(
        self, request: host_pb2.LocateRequest, context: Context
    ) -> host_pb2.LocateResponse:
        if request.block >= BLOCKS_PER_SEGMENT:
            raise InvalidArgument(f"block {request.block} is beyond a segment's end")
        volume_id = parse_id(request.volume_id, "volume")
        found = await self._core.locate(volume_id, request.segment, request.block)
        return host_pb2.LocateResponse(
            store_id=str(found.store_id),
            allocated=found.allocated,
            device_offset_bytes=found.device_offset_bytes,
            in_journal=found.in_journal,
            epoch=found.chunk_version[0],
            seq=found.chunk_version[1],
            crc32c=found.crc32c,
            store_path=await self._store_path(found),
        )

    async def _store_path(self, found: native.BlockLocation) -> str:
        for info in await self._core.store_infos():
            if info.store_id == found.store_id:
                return info.path
        raise NotFound(f"store {found.store_id} was closed meanwhile")

    async def StartScrub(
        self, request: host_pb2.StartScrubRequest, context: Context
    ) -> host_pb2.ScrubStatus:
        return self._scrub_status(await self._scrubs.start(request.store_id, request.rate_bytes))

    async def StopScrub(
        self, request: host_pb2.StopScrubRequest, context: Context
    ) -> host_pb2.ScrubStatus:
        return self._scrub_status(await self._scrubs.stop(request.store_id))

    async def GetScrub(
        self, request: host_pb2.GetScrubRequest, context: Context
    ) -> host_pb2.ScrubStatus:
        return self._scrub_status(await self._scrubs.look(request.store_id))

    def _scrub_status(self, states: list[ScrubState]) -> host_pb2.ScrubStatus:
        return host_pb2.ScrubStatus(
            stores=map(self._scrubs.message, states),
            comparisons=[one.message() for one in self._comparisons.latest()],
        )

    async def RepairChunk(
        self, request: meta_pb2.RepairChunkRequest, context: Context
    ) -> meta_pb2.RepairChunkResponse:
        await self._core.repair_chunk(
            parse_id(request.volume_id, "volume"),
            request.segment,
            request.chunk,
            parse_id(request.host_id, "host"),
            born=request.born,
        )
        return meta_pb2.RepairChunkResponse()


def chunk_view(message: host_pb2.ChunkView) -> ChunkView:
    """As the core wants it."""
    return ChunkView(message.era, message.base_era, message.since)
