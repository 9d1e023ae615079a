"""The gRPC face of the metadata service: one line a call; what it means is elsewhere.

Calls that take several steps run to their end even when the caller hangs up.
"""

from collections.abc import AsyncIterator
from typing import Any

from blockd.meta.attachments import Attachments
from blockd.meta.context import Instance
from blockd.meta.events import Events
from blockd.meta.holders import Holders
from blockd.meta.host_reports import HostReports
from blockd.meta.hosts import Hosts
from blockd.meta.places import Places
from blockd.meta.records import LEADER, META
from blockd.meta.stores import Stores
from blockd.meta.volumes import Volumes
from blockd.rpc.gen import meta_pb2, meta_pb2_grpc
from blockd.rpc.gen.types_pb2 import Attachment, Event, Host, Operator, Segment, Site, Volume

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
        self._attachments = Attachments(instance)
        self._holders = Holders(instance)
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
            self._volumes.resize(request.name_or_id, request.size_bytes)
        )

    async def DeleteVolume(
        self, request: meta_pb2.DeleteVolumeRequest, context: Any
    ) -> meta_pb2.DeleteVolumeResponse:
        await self._instance.to_end(self._volumes.delete(request.name_or_id))
        return meta_pb2.DeleteVolumeResponse()

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
        volume = await self._holders.renew(request)
        return meta_pb2.RenewAttachmentResponse(volume=volume)

    async def ChangeInSync(self, request: meta_pb2.ChangeInSyncRequest, context: Any) -> Segment:
        return await self._holders.change_in_sync(request)

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
    def events(self) -> Events:
        """For the leader's duties."""
        return self._events
