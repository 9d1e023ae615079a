"""Where the other hosts are: their endpoints for the native core, their distance for reads.

What is learnt is never forgotten: a host that the metadata service stops naming is only
unreachable, and an attached volume may still have a replica there.
"""

from collections.abc import Iterable
from uuid import UUID

from blockd.model.errors import BlockdError, InvalidArgument
from blockd.model.ids import is_id, parse_id
from blockd.native import core as native
from blockd.native.values import BaseSpec, SnapshotSpec
from blockd.rpc.gen import types_pb2

LOCAL, SAME_SITE, OTHER_SITE = 0, 1, 2


class Topology:
    """This host's view of the hosts of the cluster; used on the event loop only."""

    def __init__(self, core: native.Core, host_id: UUID, site: str, name: str = "") -> None:
        self._core = core
        self._host_id = host_id
        self._site = site
        self._sites: dict[UUID, str] = {}
        self._endpoints: dict[UUID, str] = {}
        self._grpc_endpoints: dict[UUID, str] = {}
        self.names: dict[UUID, str] = {host_id: name} if name else {}

    async def learn(self, hosts: Iterable[types_pb2.Host]) -> None:
        """Take up what the metadata service says about hosts; this host's own entry is ignored."""
        for host in hosts:
            if not is_id(host.id) or parse_id(host.id) == self._host_id:
                continue
            host_id = parse_id(host.id)
            self._sites[host_id] = host.site
            self.names[host_id] = host.name
            self._grpc_endpoints[host_id] = host.grpc_endpoint
            if host.peer_endpoint and self._endpoints.get(host_id) != host.peer_endpoint:
                await self._core.set_peer(host_id, host.peer_endpoint)
                self._endpoints[host_id] = host.peer_endpoint

    def serve_grpc_at(self, endpoint: str) -> None:
        """Where this host's own daemon answers."""
        self._grpc_endpoints[self._host_id] = endpoint

    def grpc_endpoint(self, host_id: UUID) -> str | None:
        """Where a host's daemon answers; None: the host is not known."""
        return self._grpc_endpoints.get(host_id)

    def distance(self, host_id: UUID, site: str = "") -> int:
        """0 for this host, 1 for its site, 2 beyond. site: of a host not learnt yet."""
        if host_id == self._host_id:
            return LOCAL
        return SAME_SITE if self._sites.get(host_id, site) == self._site else OTHER_SITE

    def segment(self, message: types_pb2.Segment) -> native.Segment:
        """A segment as the core wants it. Raises InvalidArgument for malformed ids."""
        return native.Segment(
            index=message.index,
            generation=message.generation,
            members=tuple(
                native.Member(
                    host_id=(host_id := parse_id(member.host_id, "member's host")),
                    store_id=parse_id(member.store_id, "member's store"),
                    distance=self.distance(host_id, member.site),
                    in_sync=member.in_sync,
                )
                for member in message.members
            ),
        )

    def segments(self, messages: Iterable[types_pb2.Segment]) -> tuple[native.Segment, ...]:
        """By index. Raises InvalidArgument."""
        return tuple(sorted(map(self.segment, messages), key=lambda segment: segment.index))

    def base(self, layers: Iterable[types_pb2.BaseLayer]) -> BaseSpec | None:
        """What shows through, each layer being the base of the one before. Raises
        InvalidArgument."""
        found: BaseSpec | None = None
        for layer in reversed(list(layers)):
            found = BaseSpec(
                volume_id=parse_id(layer.base.volume_id, "base"),
                era=layer.base.era,
                since=layer.base.since,
                rolled_back=layer.base.rolled_back,
                size_bytes=layer.base.size_bytes,
                segments=self.segments(layer.segments),
                base=found,
            )
        return found

    def snapshot(self, view: types_pb2.VolumeView) -> SnapshotSpec:
        """A snapshot to be exported as the core wants it. Raises InvalidArgument."""
        return SnapshotSpec(
            snapshot_id=parse_id(view.snapshot_id, "snapshot"),
            name=f"{view.volume_name}@{view.snapshot_name}",
            volume_id=parse_id(view.volume_id, "volume"),
            era=view.era,
            size_bytes=view.size_bytes,
            segments=self.segments(view.segments),
            base=self.base(view.bases),
        )

    def volume(
        self, message: types_pb2.Volume, bases: Iterable[types_pb2.BaseLayer] = ()
    ) -> native.VolumeSpec:
        """An attached volume, over its bases, as the core wants it. Raises InvalidArgument."""
        layers = list(bases)
        if message.HasField("base") != bool(layers):
            raise InvalidArgument(f"volume {message.name} comes without its base's replicas")
        return native.VolumeSpec(
            volume_id=parse_id(message.id, "volume"),
            name=message.name,
            size_bytes=message.size_bytes,
            epoch=message.attachment.epoch,
            min_in_sync=max(1, message.policy.min_in_sync),
            segments=self.segments(message.segments),
            era=max(1, message.era),
            base=self.base(layers),
            io_timeout_us=message.policy.io_timeout_ms * 1000,
        )


def volumes_beneath(base: BaseSpec | None) -> frozenset[UUID]:
    """Which the base, and its base and so on, are snapshots of."""
    found = set()
    while base is not None:
        found.add(base.volume_id)
        base = base.base
    return frozenset(found)


def store_message(info: native.StoreInfo, state: str) -> types_pb2.Store:
    """A store as it is reported to the metadata service; state: see space.py."""
    return types_pb2.Store(
        id=str(info.store_id),
        path=info.path,
        capacity_bytes=info.capacity_bytes,
        allocated_bytes=info.allocated_bytes,
        journal_bytes=info.journal_bytes,
        journal_used_bytes=info.journal_used_bytes,
        segment_count=info.segment_count,
        past_bytes=info.past_bytes,
        state=state,
        failed=info.failed,
    )


def error_name(error: BlockdError) -> str:
    """What to tell the core about a failure of the metadata service."""
    return error.name if error.code != BlockdError.code else "MetadataUnreachable"
