"""The metadata service as a host calls it: whichever instance answers, each call under a deadline.

Every call may be repeated at another instance: it is idempotent, or a compare-and-set whose second
execution is refused. When no instance answers the caller gets MetadataUnreachable and decides when
to try again.
"""

from collections.abc import Sequence

from blockd.rpc.channel import MetaClient
from blockd.rpc.gen import meta_pb2, types_pb2

CALL_TIMEOUT_S = 4.0
REPAIR_TIMEOUT_S = 30.0
BRANCH_TIMEOUT_S = 45.0  # a volume is made, and attached


class MetadataClient:
    """Used on the event loop only."""

    def __init__(self, endpoints: Sequence[str]) -> None:
        self._client = MetaClient(endpoints)

    async def close(self) -> None:
        """Close the channels; calls in flight fail."""
        await self._client.close()

    async def get_cluster(self) -> meta_pb2.Cluster:
        """Which cluster this is."""
        return await self._client.call(
            lambda meta: meta.GetCluster,
            meta_pb2.GetClusterRequest(),
            timeout=CALL_TIMEOUT_S,
            idempotent=True,
        )

    async def register(self, host: types_pb2.Host) -> meta_pb2.RegisterHostResponse:
        """Make this host known; also the answer to "what should I be holding?"."""
        return await self._client.call(
            lambda meta: meta.RegisterHost,
            meta_pb2.RegisterHostRequest(host=host),
            timeout=CALL_TIMEOUT_S,
            idempotent=True,
        )

    async def heartbeat(self, request: meta_pb2.HeartbeatRequest) -> meta_pb2.HeartbeatResponse:
        """Keep the liveness lease."""
        return await self._client.call(
            lambda meta: meta.Heartbeat, request, timeout=CALL_TIMEOUT_S, idempotent=True
        )

    async def get_volume(self, name_or_id: str) -> types_pb2.Volume:
        """A volume, whole. Raises NotFound."""
        return await self._client.call(
            lambda meta: meta.GetVolume,
            meta_pb2.GetVolumeRequest(name_or_id=name_or_id),
            timeout=CALL_TIMEOUT_S,
            idempotent=True,
        )

    async def get_view(self, volume: str, snapshot: str) -> types_pb2.VolumeView:
        """What a reader of a snapshot needs to know. Raises NotFound, Busy."""
        return await self._client.call(
            lambda meta: meta.GetView,
            meta_pb2.GetViewRequest(volume=volume, snapshot=snapshot),
            timeout=CALL_TIMEOUT_S,
            idempotent=True,
        )

    async def renew_attachment(
        self, volume_id: str, host_id: str, epoch: int
    ) -> meta_pb2.RenewAttachmentResponse:
        """A new epoch for this host's attachment. Raises EpochFenced, NotAttached, NotFound."""
        return await self._client.call(
            lambda meta: meta.RenewAttachment,
            meta_pb2.RenewAttachmentRequest(volume_id=volume_id, host_id=host_id, epoch=epoch),
            timeout=CALL_TIMEOUT_S,
            idempotent=True,
        )

    async def flatten_done(self, volume_id: str, epoch: int) -> None:
        """Nothing shows the volume's base any more. Raises EpochFenced, NotAttached, NotFound."""
        await self._client.call(
            lambda meta: meta.FlattenDone,
            meta_pb2.FlattenDoneRequest(volume_id=volume_id, epoch=epoch),
            timeout=CALL_TIMEOUT_S,
            idempotent=True,
        )

    async def open_branch(self, request: meta_pb2.OpenBranchRequest) -> meta_pb2.OpenBranchResponse:
        """Where to keep what a resync would take; attached here when it is answered. Raises
        EpochFenced, NotAttached, PolicyUnsatisfiable, Busy, and what hosts raised."""
        return await self._client.call(
            lambda meta: meta.OpenBranch, request, timeout=BRANCH_TIMEOUT_S, idempotent=True
        )

    async def seal_branch(self, request: meta_pb2.SealBranchRequest) -> None:
        """Nothing more is added; the branch is detached here. Raises NotFound, EpochFenced."""
        await self._client.call(
            lambda meta: meta.SealBranch, request, timeout=BRANCH_TIMEOUT_S, idempotent=True
        )

    async def report_space(self, request: meta_pb2.ReportSpaceRequest) -> None:
        """Tell that a member's full store stops a volume's writes, or no longer does. Raises
        EpochFenced, NotAttached, NotFound."""
        await self._client.call(lambda meta: meta.ReportSpace, request, timeout=CALL_TIMEOUT_S)

    async def change_in_sync(self, request: meta_pb2.ChangeInSyncRequest) -> types_pb2.Segment:
        """Agree a segment's new in-sync set. Raises StaleGeneration, EpochFenced, NotAttached."""
        return await self._client.call(
            lambda meta: meta.ChangeInSync, request, timeout=CALL_TIMEOUT_S, idempotent=True
        )

    async def repair_chunk(self, request: meta_pb2.RepairChunkRequest) -> None:
        """Have the holder repair a chunk of this host's replica. Raises NotAttached, NotInSync,
        NotFound, ChecksumMismatch."""
        await self._client.call(
            lambda meta: meta.RepairChunk, request, timeout=REPAIR_TIMEOUT_S, idempotent=True
        )

    async def report_event(self, request: meta_pb2.ReportEventRequest) -> None:
        """Add to the event log. When the outcome is unknown (LinkLost, Timeout) a repetition may
        add it twice."""
        await self._client.call(lambda meta: meta.ReportEvent, request, timeout=CALL_TIMEOUT_S)
