"""The gRPC face of the metadata service: one line a call; what it means is elsewhere.

Calls that take several steps run to their end even when the caller hangs up.
"""

from collections.abc import AsyncIterator
from typing import Any

from blockd.meta.attachments import Attachments
from blockd.meta.bases import Bases
from blockd.meta.branches import Branches
from blockd.meta.context import Instance
from blockd.meta.deletions import Deletions
from blockd.meta.events import Events
from blockd.meta.exports import SnapshotExports
from blockd.meta.groups import Groups
from blockd.meta.holders import Holders
from blockd.meta.host_reports import HostReports
from blockd.meta.hosts import Hosts
from blockd.meta.layers import Layers
from blockd.meta.places import Places
from blockd.meta.records import LEADER, META
from blockd.meta.snapshots import Snapshots
from blockd.meta.stores import Stores
from blockd.meta.volumes import Volumes
from blockd.rpc.gen import meta_pb2, meta_pb2_grpc
from blockd.rpc.gen.types_pb2 import (
    Attachment,
    Event,
    Group,
    Host,
    Operator,
    Segment,
    Site,
    Snapshot,
    SnapshotAttachment,
    Volume,
    VolumeView,
)

SERVICE_NAME = meta_pb2.DESCRIPTOR.services_by_name["Metadata"].full_name


class MetadataService(meta_pb2_grpc.MetadataServicer):
    """Bound to one instance."""

    def __init__(self, instance: Instance, cluster_id: str) -> None:
        self._instance = instance
        self._cluster_id = cluster_id
        self._places = Places(instance.records)
        self._hosts = Hosts(instance.records, cluster_id)
        self._stores = Stores(instance.records)
        self._volumes = Volumes(instance)
        self._deletions = Deletions(instance)
        self._attachments = Attachments(instance)
        self._holders = Holders(instance)
        self._snapshots = Snapshots(instance)
        self._exports = SnapshotExports(instance)
        self._layers = Layers(instance.records)
        self._bases = Bases(instance, self._volumes)
        self._branches = Branches(instance, self._volumes, self._attachments)
        self._groups = Groups(instance)
        self._host_reports = HostReports(instance)
        self._events = Events(instance.records)

    async def GetCluster(
        self, request: meta_pb2.GetClusterRequest, context: Any
    ) -> meta_pb2.Cluster:
        etcd = self._instance.records.etcd
        instances = await etcd.scan(META)
        leader = await etcd.get(LEADER)
        return meta_pb2.Cluster(
            cluster_id=self._cluster_id,
            meta_endpoints=[entry.value.decode() for entry in instances],
            leader=leader.value.decode() if leader is not None else "",
        )

    async def CreateOperator(self, request: Operator, context: Any) -> Operator:
        return await self._places.create_operator(request)

    async def ListOperators(
        self, request: meta_pb2.ListOperatorsRequest, context: Any
    ) -> meta_pb2.ListOperatorsResponse:
        return meta_pb2.ListOperatorsResponse(operators=await self._places.list_operators())

    async def CreateSite(self, request: Site, context: Any) -> Site:
        return await self._places.create_site(request)

    async def ListSites(
        self, request: meta_pb2.ListSitesRequest, context: Any
    ) -> meta_pb2.ListSitesResponse:
        return meta_pb2.ListSitesResponse(sites=await self._places.list_sites())

    async def RegisterHost(
        self, request: meta_pb2.RegisterHostRequest, context: Any
    ) -> meta_pb2.RegisterHostResponse:
        return await self._hosts.register(request.host)

    async def Heartbeat(
        self, request: meta_pb2.HeartbeatRequest, context: Any
    ) -> meta_pb2.HeartbeatResponse:
        return await self._hosts.heartbeat(request)

    async def ListHosts(
        self, request: meta_pb2.ListHostsRequest, context: Any
    ) -> meta_pb2.ListHostsResponse:
        return meta_pb2.ListHostsResponse(hosts=await self._hosts.all())

    async def GetHost(self, request: meta_pb2.GetHostRequest, context: Any) -> Host:
        return await self._hosts.get(request.name_or_id)

    async def ListStores(
        self, request: meta_pb2.ListStoresRequest, context: Any
    ) -> meta_pb2.ListStoresResponse:
        return meta_pb2.ListStoresResponse(stores=await self._stores.all())

    async def CreateVolume(self, request: meta_pb2.CreateVolumeRequest, context: Any) -> Volume:
        return await self._instance.to_end(self._volumes.create(request))

    async def ListVolumes(
        self, request: meta_pb2.ListVolumesRequest, context: Any
    ) -> meta_pb2.ListVolumesResponse:
        return meta_pb2.ListVolumesResponse(volumes=await self._volumes.all())

    async def GetVolume(self, request: meta_pb2.GetVolumeRequest, context: Any) -> Volume:
        return await self._volumes.get(request.name_or_id)

    async def ResizeVolume(self, request: meta_pb2.ResizeVolumeRequest, context: Any) -> Volume:
        return await self._instance.to_end(
            self._volumes.resize(request.name_or_id, request.size_bytes, force=request.force)
        )

    async def ChangePolicy(self, request: meta_pb2.ChangePolicyRequest, context: Any) -> Volume:
        return await self._volumes.change_policy(request)

    async def DeleteVolume(
        self, request: meta_pb2.DeleteVolumeRequest, context: Any
    ) -> meta_pb2.DeleteVolumeResponse:
        waiting = await self._instance.to_end(
            self._deletions.forget(request.name_or_id)
            if request.force
            else self._branches.delete(request.name_or_id)
        )
        return meta_pb2.DeleteVolumeResponse(waiting_hosts=waiting)

    async def AttachVolume(self, request: meta_pb2.AttachVolumeRequest, context: Any) -> Attachment:
        return await self._instance.to_end(self._attachments.attach(request))

    async def DetachVolume(
        self, request: meta_pb2.DetachVolumeRequest, context: Any
    ) -> meta_pb2.DetachVolumeResponse:
        await self._instance.to_end(
            self._attachments.detach(request.name_or_id, force=request.force)
        )
        return meta_pb2.DetachVolumeResponse()

    async def RenewAttachment(
        self, request: meta_pb2.RenewAttachmentRequest, context: Any
    ) -> meta_pb2.RenewAttachmentResponse:
        return await self._holders.renew(request)

    async def ChangeInSync(self, request: meta_pb2.ChangeInSyncRequest, context: Any) -> Segment:
        return await self._holders.change_in_sync(request)

    async def CreateSnapshot(
        self, request: meta_pb2.CreateSnapshotRequest, context: Any
    ) -> Snapshot:
        return await self._instance.to_end(self._snapshots.create(request.volume, request.name))

    async def ListSnapshots(
        self, request: meta_pb2.ListSnapshotsRequest, context: Any
    ) -> meta_pb2.ListSnapshotsResponse:
        found = await self._snapshots.all(request.volume)
        return meta_pb2.ListSnapshotsResponse(snapshots=found)

    async def DeleteSnapshot(
        self, request: meta_pb2.DeleteSnapshotRequest, context: Any
    ) -> meta_pb2.DeleteSnapshotResponse:
        await self._instance.to_end(self._snapshots.delete(request.volume, request.name))
        return meta_pb2.DeleteSnapshotResponse()

    async def AttachSnapshot(
        self, request: meta_pb2.AttachSnapshotRequest, context: Any
    ) -> SnapshotAttachment:
        return await self._instance.to_end(self._exports.attach(request))

    async def DetachSnapshot(
        self, request: meta_pb2.DetachSnapshotRequest, context: Any
    ) -> meta_pb2.DetachSnapshotResponse:
        await self._instance.to_end(self._exports.detach(request))
        return meta_pb2.DetachSnapshotResponse()

    async def GetView(self, request: meta_pb2.GetViewRequest, context: Any) -> VolumeView:
        return await self._layers.view(request.volume, request.snapshot)

    async def CloneVolume(self, request: meta_pb2.CloneVolumeRequest, context: Any) -> Volume:
        return await self._instance.to_end(self._bases.clone(request))

    async def RollbackVolume(self, request: meta_pb2.RollbackVolumeRequest, context: Any) -> Volume:
        return await self._instance.to_end(self._bases.rollback(request.volume, request.snapshot))

    async def FlattenVolume(self, request: meta_pb2.FlattenVolumeRequest, context: Any) -> Volume:
        return await self._instance.to_end(self._bases.flatten(request.volume))

    async def FlattenDone(
        self, request: meta_pb2.FlattenDoneRequest, context: Any
    ) -> meta_pb2.FlattenDoneResponse:
        await self._bases.flatten_done(request)
        return meta_pb2.FlattenDoneResponse()

    async def OpenBranch(
        self, request: meta_pb2.OpenBranchRequest, context: Any
    ) -> meta_pb2.OpenBranchResponse:
        return await self._instance.to_end(self._branches.open(request))

    async def SealBranch(
        self, request: meta_pb2.SealBranchRequest, context: Any
    ) -> meta_pb2.SealBranchResponse:
        await self._instance.to_end(self._branches.seal(request))
        return meta_pb2.SealBranchResponse()

    async def CreateGroup(self, request: meta_pb2.CreateGroupRequest, context: Any) -> Group:
        return await self._groups.create(request.name, list(request.volumes))

    async def ListGroups(
        self, request: meta_pb2.ListGroupsRequest, context: Any
    ) -> meta_pb2.ListGroupsResponse:
        return meta_pb2.ListGroupsResponse(groups=await self._groups.all())

    async def GetGroup(self, request: meta_pb2.GetGroupRequest, context: Any) -> Group:
        return await self._groups.get(request.name)

    async def DeleteGroup(
        self, request: meta_pb2.DeleteGroupRequest, context: Any
    ) -> meta_pb2.DeleteGroupResponse:
        await self._groups.delete(request.name)
        return meta_pb2.DeleteGroupResponse()

    async def SnapshotGroup(
        self, request: meta_pb2.SnapshotGroupRequest, context: Any
    ) -> meta_pb2.SnapshotGroupResponse:
        taken = await self._instance.to_end(self._groups.snapshot(request.group, request.name))
        return meta_pb2.SnapshotGroupResponse(snapshots=taken)

    async def ReportSpace(
        self, request: meta_pb2.ReportSpaceRequest, context: Any
    ) -> meta_pb2.ReportSpaceResponse:
        await self._holders.report_space(request)
        return meta_pb2.ReportSpaceResponse()

    async def RepairChunk(
        self, request: meta_pb2.RepairChunkRequest, context: Any
    ) -> meta_pb2.RepairChunkResponse:
        await self._host_reports.repair_chunk(request)
        return meta_pb2.RepairChunkResponse()

    async def ReportEvent(
        self, request: meta_pb2.ReportEventRequest, context: Any
    ) -> meta_pb2.ReportEventResponse:
        await self._host_reports.report_event(request)
        return meta_pb2.ReportEventResponse()

    async def WatchEvents(
        self, request: meta_pb2.WatchEventsRequest, context: Any
    ) -> AsyncIterator[Event]:
        async for event in self._events.watch(
            request.after_revision, request.history, follow=not request.no_follow
        ):
            yield event

    @property
    def volumes(self) -> Volumes:
        """For the leader's duties."""
        return self._volumes

    @property
    def branches(self) -> Branches:
        """For the leader's duties."""
        return self._branches

    @property
    def events(self) -> Events:
        """For the leader's duties."""
        return self._events
