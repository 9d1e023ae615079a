"""What host daemons tell and ask beside their duties: events, and repairs by a volume's holder."""

from blockd.meta.context import Instance
from blockd.model.errors import InvalidArgument, NotAttached, NotFound
from blockd.model.ids import parse_id
from blockd.rpc.gen.meta_pb2 import RepairChunkRequest, ReportEventRequest

KINDS = (
    "scrub.",
    "damage.",
    "block.",
    "repair.",
    "replicas.",
    "store.",
    "resync.",
    "opening.",
    "branch.",
    "write.",
    "writes.",
)
MESSAGE_MAX = 1000
REPAIR_SECONDS = 25.0


class HostReports:
    """Stateless; every call reads etcd."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        self._records = instance.records

    async def report_event(self, request: ReportEventRequest) -> None:
        """Raises InvalidArgument; NotFound: the host has never registered."""
        if not request.kind.startswith(KINDS):
            raise InvalidArgument(f"hosts do not report {request.kind!r}", field="kind")
        if len(request.message) > MESSAGE_MAX:
            raise InvalidArgument(f"a message has at most {MESSAGE_MAX} letters", field="message")
        host_id = str(parse_id(request.host_id, "host_id"))
        view = (await self._records.hosts()).get(host_id)
        if view is None:
            raise NotFound(f"no host {host_id}", field="host_id")
        subject = f"host/{view.host.name}"
        details = dict(request.details) | {"host_id": host_id, "host": view.host.name}
        if request.volume_id:
            subject = f"volume/{await self._volume_name(request.volume_id)}"
            details["volume_id"] = request.volume_id
        message = f"{view.host.name}: {request.message}"
        await self._records.commit([], [], request.kind, subject, message, details)

    async def _volume_name(self, volume_id: str) -> str:
        try:
            return (await self._records.volume(volume_id)).value.name
        except NotFound:
            return volume_id  # deleted meanwhile

    async def repair_chunk(self, request: RepairChunkRequest) -> None:
        """Has the holder of the volume repair it. Raises NotFound, NotAttached, and what the
        holder raises: NotInSync, ChecksumMismatch, LinkLost, Timeout."""
        volume_id = str(parse_id(request.volume_id, "volume_id"))
        volume = (await self._records.volume(volume_id)).value
        held = (await self._records.attachment(volume_id)).value
        holder = (await self._records.hosts()).get(held.host_id)
        if holder is None:
            raise NotAttached(
                f"volume {volume.name} is attached nowhere: its replicas are repaired once it is"
            )
        await self._instance.hosts.call(
            holder.host.grpc_endpoint,
            lambda host: host.RepairChunk,
            request,
            timeout=REPAIR_SECONDS,
        )
