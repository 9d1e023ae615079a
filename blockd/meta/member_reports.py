"""What the hosts of a volume's members say that they hold of it."""

import asyncio
import logging

from blockd.meta.context import Instance
from blockd.meta.records import HostView
from blockd.model.errors import BlockdError
from blockd.rpc.gen import host_pb2
from blockd.rpc.gen.types_pb2 import Segment, Volume

log = logging.getLogger("blockd.meta")

ASK_SECONDS = 1.0  # for a host to list what it has of a volume
DOWN_SECONDS = 0.3  # for one that is taken to be down

Reports = dict[tuple[str, str], host_pb2.StoredReplicas]  # by host and store


class MemberReports:
    """Stateless; every call reads etcd."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        self._records = instance.records

    async def of(
        self, volume: Volume, hosts: dict[str, HostView] | None = None
    ) -> tuple[list[Segment], Reports]:
        """The volume's segments, and the reports of those hosts that answer now."""
        if hosts is None:
            hosts = await self._records.hosts()
        segments = [stored.value for stored in await self._records.segments(volume)]
        names = {member.host_id for segment in segments for member in segment.members}
        views = [hosts[host_id] for host_id in names if host_id in hosts]
        reports: Reports = {}
        for one in await asyncio.gather(*(self._ask(view, volume.id) for view in views)):
            reports.update(one)
        return segments, reports

    async def _ask(self, view: HostView, volume_id: str) -> Reports:
        try:
            answer = await self._instance.hosts.call(
                view.host.grpc_endpoint,
                lambda host: host.ListReplicas,
                host_pb2.ListReplicasRequest(volume_id=volume_id),
                timeout=ASK_SECONDS if view.is_up else DOWN_SECONDS,
                idempotent=True,
            )
        except BlockdError as error:
            log.info("host %s does not list what it has promised: %s", view.host.name, error)
            return {}
        return {(view.host.id, one.store_id): one for one in answer.replicas}
