"""A host daemon as the metadata service sees one: it confirms orders, and fails when told to."""

from collections.abc import Callable
from typing import Any
from uuid import uuid4

from blockd.model.errors import BlockdError, Busy, EpochFenced, NotAttached
from blockd.rpc.gen import host_pb2, host_pb2_grpc, meta_pb2, types_pb2
from blockd.rpc.server import Server

SERVICE = host_pb2.DESCRIPTOR.services_by_name["HostService"].full_name


class FakeHost(host_pb2_grpc.HostServiceServicer):
    """failures: method name -> the error to raise, or a callable that may do anything first."""

    def __init__(self, name: str, site: str, capacity_bytes: int = 1 << 40) -> None:
        self.name, self.site = name, site
        self.id, self.store_id = str(uuid4()), str(uuid4())
        self.capacity_bytes = capacity_bytes
        self.allocated_bytes = 0
        self.store_state = "ok"
        self.stored: dict[str, int] = {}  # by volume id
        self.incarnation = 1
        self.replicas: dict[tuple[str, int], int] = {}
        self.used: set[tuple[str, int]] = set()  # of them, those that an engine has opened
        self.attached: dict[str, types_pb2.Volume] = {}
        self.calls: list[str] = []
        self.failures: dict[str, BlockdError | Callable[[], Any]] = {}
        self.digests: dict[tuple[str, int], list[host_pb2.ChunkDigest]] = {}
        self.segments: list[host_pb2.SegmentStatus] = []
        self.scrub = host_pb2.StoreScrub(
            store_id=self.store_id, store_path=f"/srv/{name}.img", state="never"
        )
        self.repairs: list[meta_pb2.RepairChunkRequest] = []
        self.eras: dict[str, int] = {}  # by volume id
        self.holds: dict[str, str] = {}  # tokens by volume id
        self.order: list[str] = []  # of holds and eras, over all hosts when shared
        self.bases: dict[str, list[types_pb2.BaseLayer]] = {}
        self.flattening: list[str] = []
        self.shrunk: list[int] = []
        self.snapshots: dict[str, types_pb2.VolumeView] = {}
        self.changed: dict[tuple[str, int], list[int]] = {}
        self.asked: list[host_pb2.ListChangedChunksRequest] = []
        self.counters: dict[str, int] = {}  # of every attachment
        self.past: dict[str, int] = {}  # by volume id
        self.past_bytes = 0
        self.is_drained = True
        self.met_eras: dict[str, int] = {}  # by volume id: that its stores know of
        self.promised: dict[str, int] = {}  # epochs by volume id
        self.leases_us: dict[str, int | None] = {}  # that its engine has, by volume id
        self.server: Server | None = None
        self.endpoint = "127.0.0.1:1"

    async def start(self) -> None:
        self.server = Server("127.0.0.1:0")
        self.endpoint = self.server.endpoint
        host_pb2_grpc.add_HostServiceServicer_to_server(self, self.server.server)
        await self.server.start([SERVICE])

    async def stop(self) -> None:
        if self.server is not None:
            await self.server.stop(0)
            self.server = None

    def message(self) -> types_pb2.Host:
        return types_pb2.Host(
            id=self.id,
            name=self.name,
            site=self.site,
            grpc_endpoint=self.endpoint,
            peer_endpoint=f"tcp:{self.endpoint}",
            stores=self.stores(),
            incarnation=self.incarnation,
        )

    def stores(self) -> list[types_pb2.Store]:
        return [
            types_pb2.Store(
                id=self.store_id,
                path=f"/dev/{self.name}",
                capacity_bytes=self.capacity_bytes,
                allocated_bytes=self.allocated_bytes,
                journal_bytes=8 << 20,
                journal_used_bytes=1 << 20,
                segment_count=len(self.replicas),
                state=self.store_state,
                past_bytes=self.past_bytes,
            )
        ]

    def heartbeat(self) -> meta_pb2.HeartbeatRequest:
        return meta_pb2.HeartbeatRequest(
            host_id=self.id, incarnation=self.incarnation, stores=self.stores()
        )

    async def _called(self, method: str) -> None:
        self.calls.append(method)
        failure = self.failures.get(method)
        if isinstance(failure, BlockdError):
            raise failure
        if failure is not None:
            await failure()

    async def GetStatus(self, request, context):
        await self._called("GetStatus")
        return host_pb2.HostStatus(
            host=self.message(),
            counters={"reads": 1},
            nbd_endpoints=[f"unix:/run/{self.name}.sock"],
        )

    async def EnsureReplicas(self, request, context):
        await self._called("EnsureReplicas")
        for order in request.replicas:
            assert order.store_id == self.store_id
            self.replicas[order.volume_id, order.segment] = order.block_count
        used = [one for one in request.replicas if (one.volume_id, one.segment) in self.used]
        return host_pb2.EnsureReplicasResponse(used=used)

    async def DropReplicas(self, request, context):
        await self._called("DropReplicas")
        self.replicas = {k: v for k, v in self.replicas.items() if k[0] != request.volume_id}
        return host_pb2.DropReplicasResponse()

    async def Attach(self, request, context):
        await self._called("Attach")
        self.attached[request.volume.id] = request.volume
        era = max(request.volume.era, self.met_eras.get(request.volume.id, 0))
        self.eras[request.volume.id] = era
        self.bases[request.volume.id] = list(request.bases)
        return host_pb2.HostAttachResponse(nbd_uris=[self.uri(request.volume.name)], era=era)

    def uri(self, name: str) -> str:
        return f"nbd+unix:///{name}?socket=/run/{self.name}.sock"

    async def Detach(self, request, context):
        await self._called("Detach")
        volume = self.attached.get(request.volume_id)
        if volume is None or volume.attachment.epoch > request.epoch:
            raise NotAttached("not here")
        del self.attached[request.volume_id]
        epoch = volume.attachment.epoch if self.is_drained else 0
        era = self.eras.get(request.volume_id, 0)
        return host_pb2.HostDetachResponse(drained_epoch=epoch, era=era if epoch else 0)

    def _opened(self, request):
        if request.volume_id not in self.attached:
            raise NotAttached("not here")
        epoch = self.attached[request.volume_id].attachment.epoch
        if epoch != request.epoch:
            raise EpochFenced(f"the epoch is {epoch}")

    async def BeginEra(self, request, context):
        await self._called("BeginEra")
        self._opened(request)
        if request.hold_token and self.holds.get(request.volume_id) != request.hold_token:
            raise Busy("not held")
        self.eras[request.volume_id] = max(self.eras[request.volume_id], request.era)
        self.order.append("begin")
        return host_pb2.BeginEraResponse(era=self.eras[request.volume_id])

    async def HoldMutations(self, request, context):
        await self._called("HoldMutations" if request.hold_us else "Release")
        if request.hold_us == 0:
            self.holds.pop(request.volume_id, None)
            return host_pb2.HoldMutationsResponse()
        self._opened(request)
        self.holds[request.volume_id] = request.token
        self.order.append("hold")
        return host_pb2.HoldMutationsResponse(era=self.eras.get(request.volume_id, 0))

    async def Flatten(self, request, context):
        await self._called("Flatten")
        self._opened(request)
        self.flattening.append(request.volume_id)
        return host_pb2.HostFlattenResponse()

    async def AttachSnapshot(self, request, context):
        await self._called("AttachSnapshot")
        view = request.view
        self.snapshots[view.snapshot_id] = view
        name = f"{view.volume_name}@{view.snapshot_name}"
        return host_pb2.HostAttachSnapshotResponse(nbd_uris=[self.uri(name)])

    async def DetachSnapshot(self, request, context):
        await self._called("DetachSnapshot")
        self.snapshots.pop(request.snapshot_id, None)
        return host_pb2.HostDetachSnapshotResponse()

    async def ListChangedChunks(self, request, context):
        await self._called("ListChangedChunks")
        self.asked.append(request)
        chunks = self.changed.get((request.volume_id, request.segment), [])
        return host_pb2.ListChangedChunksResponse(chunks=chunks)

    async def Shrink(self, request, context):
        await self._called("Shrink")
        self._opened(request)
        volume = types_pb2.Volume()
        volume.CopyFrom(self.attached[request.volume_id])
        volume.size_bytes = request.size_bytes
        self.attached[request.volume_id] = volume
        self.shrunk.append(request.size_bytes)
        return host_pb2.HostShrinkResponse()

    async def Grow(self, request, context):
        await self._called("Grow")
        self.attached[request.volume.id] = request.volume
        return host_pb2.HostGrowResponse()

    async def GetAttachment(self, request, context):
        await self._called("GetAttachment")
        if request.volume_id not in self.attached:
            raise NotAttached("not here")
        volume = self.attached[request.volume_id]
        return host_pb2.AttachmentStatus(
            volume_id=volume.id,
            volume_name=volume.name,
            epoch=volume.attachment.epoch,
            state="serving",
            segments=self.segments,
            counters=self.counters,
            nbd_uris=[self.uri(volume.name)],
        )

    async def ListReplicas(self, request, context):
        await self._called("ListReplicas")
        return host_pb2.ListReplicasResponse(
            replicas=[
                host_pb2.StoredReplicas(
                    volume_id=volume_id,
                    store_id=self.store_id,
                    segment_count=1,
                    stored_bytes=self.stored.get(volume_id, 0),
                    past_bytes=self.past.get(volume_id, 0),
                    promised_epoch=self.promised.get(volume_id, 0),
                    lease_us=self.leases_us.get(volume_id, 0),
                )
                for volume_id in sorted({*self.stored, *(one for one, _ in self.replicas)})
                if request.volume_id in ("", volume_id)
            ]
        )

    async def ListDigests(self, request, context):
        await self._called("ListDigests")
        digests = self.digests.get((request.volume_id, request.segment), [])
        yield host_pb2.DigestBatch(digests=digests)

    async def Locate(self, request, context):
        await self._called("Locate")
        return host_pb2.LocateResponse(
            store_id=self.store_id,
            allocated=True,
            device_offset_bytes=request.block * 4096 + (1 << 20),
            epoch=1,
            seq=7,
            crc32c=0xABCD,
            store_path=f"/srv/{self.name}.img",
        )

    async def StartScrub(self, request, context):
        await self._called("StartScrub")
        assert request.store_id in ("", self.store_id)
        self.scrub.state, self.scrub.rate_bytes = "running", request.rate_bytes
        return host_pb2.ScrubStatus(stores=[self.scrub])

    async def StopScrub(self, request, context):
        await self._called("StopScrub")
        self.scrub.state = "stopped"
        return host_pb2.ScrubStatus(stores=[self.scrub])

    async def GetScrub(self, request, context):
        await self._called("GetScrub")
        return host_pb2.ScrubStatus(stores=[self.scrub])

    async def RepairChunk(self, request, context):
        await self._called("RepairChunk")
        self.repairs.append(request)
        return meta_pb2.RepairChunkResponse()
