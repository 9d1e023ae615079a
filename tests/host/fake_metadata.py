"""A metadata service in memory, served on a real gRPC port: just what a host daemon calls."""

from typing import Any
from uuid import UUID, uuid4

from blockd.model.errors import BlockdError, EpochFenced, NotAttached, NotFound, StaleGeneration
from blockd.rpc.gen import meta_pb2, meta_pb2_grpc, types_pb2
from blockd.rpc.server import Server


class FakeMetadata(meta_pb2_grpc.MetadataServicer):
    """`hosts` and `volumes` are what it would keep in etcd; tests edit them at will."""

    def __init__(self) -> None:
        self.cluster_id = uuid4()
        self.hosts: dict[str, types_pb2.Host] = {}
        self.volumes: dict[str, types_pb2.Volume] = {}
        self.orders: list[meta_pb2.ReplicaOrder] = []
        self.deleted: list[str] = []
        self.heartbeats = 0
        self.space_reports: list[meta_pb2.ReportSpaceRequest] = []
        self.events: list[meta_pb2.ReportEventRequest] = []
        self.repairs: list[meta_pb2.RepairChunkRequest] = []
        self.repair_fails: BlockdError | None = None
        self.snapshot_sets: list[types_pb2.SnapshotSet] = []
        self.snapshots_revision = 0
        self.ended_snapshots: list[str] = []
        self.reads: list[tuple[str, int]] = []  # what the last heartbeat wanted to know
        self.read_segments: dict[str, meta_pb2.ReadSegments] = {}
        self.snapshots: list[types_pb2.VolumeView] = []
        self.eras_missed = 0  # how many a volume is in later, once a renewal was answered
        self.flattened: list[tuple[str, int]] = []
        self.flatten_fails: list[BlockdError] = []
        self.branch: types_pb2.Volume | None = None
        self.branch_is_new = True
        self.branch_fails: BlockdError | None = None
        self.branch_requests: list[meta_pb2.OpenBranchRequest] = []
        self.sealed: list[tuple[str, bool]] = []
        self.seal_epochs: list[int] = []
        self.seal_fails: list[BlockdError] = []
        self.server: Server | None = None

    async def serve(self, listen: str = "127.0.0.1:0") -> str:
        """Start listening; returns HOST:PORT."""
        self.server = Server(listen)
        meta_pb2_grpc.add_MetadataServicer_to_server(self, self.server.server)
        await self.server.start(["blockd.v1.Metadata"])
        return self.server.endpoint

    async def stop(self) -> None:
        """Stop listening; what it knows stays."""
        if self.server is not None:
            await self.server.stop(0)
            self.server = None

    async def GetCluster(self, request: Any, context: Any) -> meta_pb2.Cluster:
        return meta_pb2.Cluster(cluster_id=str(self.cluster_id))

    async def RegisterHost(self, request: Any, context: Any) -> meta_pb2.RegisterHostResponse:
        host = request.host
        self.hosts[host.id] = host
        return meta_pb2.RegisterHostResponse(
            host=host,
            cluster_id=str(self.cluster_id),
            peers=[other for other in self.hosts.values() if other.id != host.id],
            attached=[v for v in self.volumes.values() if v.attachment.host_id == host.id],
            replicas=self.orders,
            deleted_volume_ids=self.deleted,
            snapshot_sets=self.snapshot_sets,
            snapshots_revision=self.snapshots_revision,
            snapshots=self.snapshots,
        )

    async def Heartbeat(self, request: Any, context: Any) -> meta_pb2.HeartbeatResponse:
        self.heartbeats += 1
        self.reads = [(one.volume_id, one.revision) for one in request.reads]
        return meta_pb2.HeartbeatResponse(
            peers=[other for other in self.hosts.values() if other.id != request.host_id],
            deleted_volume_ids=self.deleted,
            replicas=self.orders,
            unknown_host=request.host_id not in self.hosts,
            snapshot_sets=self.snapshot_sets
            if request.snapshots_revision < self.snapshots_revision
            else [],
            snapshots_revision=self.snapshots_revision,
            reads=[self._segments_since(one) for one in request.reads],
            ended_snapshot_ids=[
                one for one in request.exported_snapshot_ids if one in self.ended_snapshots
            ],
        )

    def _segments_since(self, read: meta_pb2.ReadVolume) -> meta_pb2.ReadSegments:
        known = self.read_segments.get(
            read.volume_id, meta_pb2.ReadSegments(volume_id=read.volume_id, revision=1)
        )
        if read.revision < known.revision:
            return known
        return meta_pb2.ReadSegments(volume_id=read.volume_id, revision=known.revision)

    async def GetVolume(self, request: Any, context: Any) -> types_pb2.Volume:
        return self._volume(request.name_or_id)

    async def GetView(self, request: Any, context: Any) -> types_pb2.VolumeView:
        for view in self.snapshots:
            if (view.volume_id, view.snapshot_name) == (request.volume, request.snapshot):
                return view
        raise NotFound("no such snapshot")

    async def RenewAttachment(self, request: Any, context: Any) -> meta_pb2.RenewAttachmentResponse:
        volume = self._volume(request.volume_id)
        if volume.attachment.host_id != request.host_id:
            raise NotAttached("attached elsewhere or nowhere")
        if volume.attachment.epoch != request.epoch:
            raise EpochFenced(f"the epoch is {volume.attachment.epoch}")
        volume.attachment.epoch += 1
        answer = meta_pb2.RenewAttachmentResponse(volume=volume)
        volume.era += self.eras_missed
        return answer

    async def FlattenDone(self, request: Any, context: Any) -> meta_pb2.FlattenDoneResponse:
        if self.flatten_fails:
            raise self.flatten_fails.pop(0)
        self.flattened.append((request.volume_id, request.epoch))
        return meta_pb2.FlattenDoneResponse()

    async def OpenBranch(self, request: Any, context: Any) -> meta_pb2.OpenBranchResponse:
        self.branch_requests.append(request)
        if self.branch_fails is not None:
            raise self.branch_fails
        assert self.branch is not None
        return meta_pb2.OpenBranchResponse(branch=self.branch, is_new=self.branch_is_new)

    async def SealBranch(self, request: Any, context: Any) -> meta_pb2.SealBranchResponse:
        self.sealed.append((request.branch_id, request.empty))
        self.seal_epochs.append(request.epoch)
        if self.seal_fails:
            raise self.seal_fails.pop(0)
        return meta_pb2.SealBranchResponse()

    async def ChangeInSync(self, request: Any, context: Any) -> types_pb2.Segment:
        volume = self._volume(request.volume_id)
        if volume.attachment.epoch != request.epoch:
            raise EpochFenced(f"the epoch is {volume.attachment.epoch}")
        segment = volume.segments[request.segment]
        if segment.generation != request.generation:
            raise StaleGeneration(f"the generation is {segment.generation}")
        segment.generation += 1
        for member in segment.members:
            member.in_sync = member.host_id in request.in_sync_host_ids
        return segment

    async def ReportSpace(self, request: Any, context: Any) -> meta_pb2.ReportSpaceResponse:
        if self._volume(request.volume_id).attachment.epoch != request.epoch:
            raise EpochFenced("another epoch")
        self.space_reports.append(request)
        return meta_pb2.ReportSpaceResponse()

    async def RepairChunk(self, request: Any, context: Any) -> meta_pb2.RepairChunkResponse:
        self.repairs.append(request)
        if self.repair_fails is not None:
            raise self.repair_fails
        return meta_pb2.RepairChunkResponse()

    async def ReportEvent(self, request: Any, context: Any) -> meta_pb2.ReportEventResponse:
        self.events.append(request)
        return meta_pb2.ReportEventResponse()

    def _volume(self, volume_id: str) -> types_pb2.Volume:
        if volume_id not in self.volumes:
            raise NotFound(f"no volume {volume_id}")
        return self.volumes[volume_id]


def make_volume(
    host_id: UUID, *others: UUID, name: str = "v", size_bytes: int = 1 << 20, epoch: int = 1
) -> types_pb2.Volume:
    """A volume of one segment attached at `host_id`, replicated there and at the others."""
    volume_id = str(uuid4())
    return types_pb2.Volume(
        id=volume_id,
        name=name,
        size_bytes=size_bytes,
        policy=types_pb2.Policy(replicas=1 + len(others), min_in_sync=1),
        segments=[
            types_pb2.Segment(
                index=0,
                generation=1,
                members=[
                    types_pb2.Member(host_id=str(host), store_id=str(uuid4()), in_sync=True)
                    for host in (host_id, *others)
                ],
            )
        ],
        attachment=types_pb2.Attachment(
            volume_id=volume_id, host_id=str(host_id), host_name="here", epoch=epoch
        ),
    )
