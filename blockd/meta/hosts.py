"""Hosts: registration, liveness, and what each has been ordered to do.

A host lives as long as its etcd lease, which its heartbeats renew through whichever instance they
reach; no instance remembers anything. To announce it up or down is the leader's duty (duties.py).
"""

import asyncio
import contextlib
import logging
from collections.abc import Iterable, Sequence

from blockd.meta.etcd import Entry, Put, Unchanged
from blockd.meta.layers import exported_by
from blockd.meta.records import (
    ALIVE,
    CONFLICTS_MAX,
    HOST_NAMES,
    HOSTS,
    ORDERS,
    REPORTS,
    SEGMENTS,
    SITES,
    SNAPSHOT_ATTACHMENTS,
    SNAPSHOT_SETS,
    HostView,
    Records,
    conflict,
    decode,
    last_part,
    now_us,
    put,
)
from blockd.meta.snapshot_records import attachment_key
from blockd.model.errors import AlreadyExists, Busy, InvalidArgument, NotFound
from blockd.model.ids import parse_id
from blockd.model.units import BLOCKS_PER_SEGMENT
from blockd.rpc.gen.meta_pb2 import (
    HeartbeatRequest,
    HeartbeatResponse,
    ReadSegments,
    ReadVolume,
    RegisterHostResponse,
    ReplicaOrder,
)
from blockd.rpc.gen.types_pb2 import (
    HOST_STATE_DOWN,
    HOST_STATE_UP,
    Host,
    Segment,
    SnapshotSet,
    Store,
)
from blockd.rpc.status import hinted
from blockd.rules.volume_spec import check_place_name

log = logging.getLogger("blockd.meta")

LIVENESS_SECONDS = 3  # three heartbeats; also the shortest lease that etcd's defaults grant
REPORT_US = 5_000_000  # how old a report may get before an unchanged one is written again


def present(view: HostView) -> Host:
    """A host as callers see it."""
    host = Host()
    host.CopyFrom(view.host)
    host.state = HOST_STATE_UP if view.is_up else HOST_STATE_DOWN
    report = view.report or view.last
    if report is not None:
        del host.stores[:]
        host.stores.extend(report.stores)
        host.last_heartbeat_unix_us = report.last_heartbeat_unix_us
    return host


def order(volume_id: str, segment: Segment, store_id: str) -> ReplicaOrder:
    """A replica always has a whole segment's blocks, also of a volume's short last one: thin, so it
    costs nothing, and growing the volume inside the segment touches no replica."""
    return ReplicaOrder(
        volume_id=volume_id,
        segment=segment.index,
        store_id=store_id,
        block_count=BLOCKS_PER_SEGMENT,
    )


class Hosts:
    """Stateless; every call reads etcd."""

    def __init__(self, records: Records, cluster_id: str) -> None:
        self._records = records
        self._cluster_id = cluster_id

    async def register(self, host: Host) -> RegisterHostResponse:
        """Raises InvalidArgument; NotFound: its site; AlreadyExists: the name is another host's;
        Busy: a newer daemon of the same host is alive."""
        check_host(host)
        if await self._records.etcd.get(SITES + host.site) is None:
            raise hinted(
                NotFound(f"no site named {host.site!r}", field="site"),
                f"create it first: blockctl site create {host.site} --operator NAME",
            )
        await self._store(host)
        await self._report(host, await self._records.etcd.grant(LIVENESS_SECONDS))
        return await self._welcome(host)

    async def _store(self, host: Host) -> None:
        etcd = self._records.etcd
        for _ in range(CONFLICTS_MAX):
            owner = await etcd.get(HOST_NAMES + host.name)
            old = await etcd.get(HOSTS + host.id)
            if owner is not None and owner.value.decode() != host.id:
                raise hinted(
                    AlreadyExists(
                        f"the name {host.name} is that of host {owner.value.decode()}", field="name"
                    ),
                    "give this host another name, or start it with the data directory it had",
                )
            known = decode(old, Host).value if old is not None else None
            await self._check_incarnation(host, known)
            if known is not None and known.name != host.name:
                raise InvalidArgument(
                    f"host {host.id} is called {known.name}, not {host.name}", field="name"
                )
            record = Host()
            record.CopyFrom(host)
            record.ClearField("state")
            record.ClearField("last_heartbeat_unix_us")
            guards = [
                Unchanged(HOST_NAMES + host.name, owner.mod_revision if owner else 0),
                Unchanged(HOSTS + host.id, old.mod_revision if old else 0),
            ]
            ops = [put(HOSTS + host.id, record), Put(HOST_NAMES + host.name, host.id.encode())]
            if known == record or await self._records.commit(
                guards,
                ops,
                "host.registered",
                f"host/{host.name}",
                f"host {host.name} of site {host.site} started at {host.grpc_endpoint}",
                {"host_id": host.id, "incarnation": str(host.incarnation)},
            ):
                return
        raise conflict(f"host {host.name}")

    async def _check_incarnation(self, host: Host, known: Host | None) -> None:
        """An old daemon that comes back from a pause does not displace its successor."""
        if known is None or host.incarnation >= known.incarnation:
            return
        if await self._records.etcd.get(ALIVE + host.id) is not None:
            raise Busy(
                f"a newer daemon of host {host.name} is running (incarnation "
                f"{known.incarnation}, this one {host.incarnation})"
            )

    async def _report(self, host: Host, lease: int) -> None:
        report = Host(
            id=host.id,
            incarnation=host.incarnation,
            stores=host.stores,
            last_heartbeat_unix_us=now_us(),
        )
        value = report.SerializeToString(deterministic=True)
        await self._records.etcd.commit(
            [], [Put(ALIVE + host.id, value, lease), Put(REPORTS + host.id, value)]
        )

    async def _welcome(self, host: Host) -> RegisterHostResponse:
        """Everything that a daemon which may have forgotten all needs to know."""
        hosts = await self._records.hosts()
        response = RegisterHostResponse(
            host=present(hosts[host.id]), cluster_id=self._cluster_id, peers=peers(hosts, host.id)
        )
        for volume_id, attachment in (await self._records.attachments()).items():
            if attachment.host_id == host.id:
                with contextlib.suppress(NotFound):  # deleted since the scan
                    stored = await self._records.volume(volume_id)
                    response.attached.append(await self._records.whole_volume(stored, hosts))
        response.deleted_volume_ids.extend(await self._dropped(host.id))
        response.replicas.extend(await replicas_of(self._records, host.id))
        response.snapshots.extend(await exported_by(self._records, host.id))
        sets, response.snapshots_revision = await self._snapshot_sets(0)
        response.snapshot_sets.extend(sets)
        return response

    async def heartbeat(self, request: HeartbeatRequest) -> HeartbeatResponse:
        """Keep the host alive. Raises InvalidArgument; Busy: a newer daemon is running."""
        host_id = str(parse_id(request.host_id, "host_id"))
        etcd = self._records.etcd
        registered = await etcd.get(HOSTS + host_id)
        alive = await etcd.get(ALIVE + host_id)
        if registered is None:
            return HeartbeatResponse(unknown_host=True)
        known = decode(registered, Host).value
        if request.incarnation < known.incarnation:
            raise Busy(f"a newer daemon of host {known.name} has registered")
        if request.incarnation > known.incarnation:
            return HeartbeatResponse(unknown_host=True)
        report = decode(alive, Host).value if alive is not None else None
        lease = alive.lease if alive is not None else 0
        kept = lease != 0 and await etcd.keep_alive(lease)
        if not kept or report is None or _is_news(request.stores, report):
            lease = lease if kept else await etcd.grant(LIVENESS_SECONDS)
            current = Host(id=host_id, incarnation=request.incarnation, stores=request.stores)
            await self._report(current, lease)
        return await self._instructions(host_id, request)

    async def _instructions(self, host_id: str, request: HeartbeatRequest) -> HeartbeatResponse:
        sets, revision = await self._snapshot_sets(request.snapshots_revision)
        return HeartbeatResponse(
            peers=peers(await self._records.hosts(), host_id),
            deleted_volume_ids=await self._dropped(host_id),
            snapshot_sets=sets,
            snapshots_revision=revision,
            reads=await asyncio.gather(*map(self._segments_since, request.reads)),
            ended_snapshot_ids=await self._ended(host_id, request.exported_snapshot_ids),
        )

    async def _ended(self, host_id: str, snapshot_ids: Sequence[str]) -> list[str]:
        """Exports that are not on record. What a host exports was put on record before it was asked
        to; so what is not there has been released since."""
        if not snapshot_ids:
            return []
        entries = await self._records.etcd.scan(SNAPSHOT_ATTACHMENTS, keys_only=True)
        recorded = {entry.key for entry in entries}
        return [one for one in snapshot_ids if attachment_key(one, host_id) not in recorded]

    async def _segments_since(self, read: ReadVolume) -> ReadSegments:
        """For those that read the volume's snapshots: no engine of theirs tells them who is in sync
        (any more). Raises InvalidArgument."""
        volume_id = str(parse_id(read.volume_id, "reads.volume_id"))
        entries, revision = await self._changed(f"{SEGMENTS}{volume_id}/", read.revision)
        segments = [decode(entry, Segment).value for entry in entries]
        return ReadSegments(volume_id=volume_id, segments=segments, revision=revision)

    async def _snapshot_sets(self, after_revision: int) -> tuple[list[SnapshotSet], int]:
        """Those that changed since, and the revision as of which that is so: one read, which finds
        nothing nearly always. They go to every host: which of them has replicas of the volume
        changes, and a set is small."""
        entries, revision = await self._changed(SNAPSHOT_SETS, after_revision)
        return [decode(entry, SnapshotSet).value for entry in entries], revision

    async def _changed(self, prefix: str, after_revision: int) -> tuple[list[Entry], int]:
        etcd = self._records.etcd
        entries, revision = await etcd.scan_at(prefix, after_revision=after_revision)
        if revision < after_revision:  # etcd was restored from a backup
            entries, revision = await etcd.scan_at(prefix)
        return entries, revision

    async def _dropped(self, host_id: str) -> list[str]:
        """Volumes whose replicas the host has not confirmed to have dropped."""
        entries = await self._records.etcd.scan(f"{ORDERS}{host_id}/", keys_only=True)
        return [last_part(entry.key) for entry in entries]

    async def all(self) -> list[Host]:
        """By name."""
        views = (await self._records.hosts()).values()
        return sorted((present(view) for view in views), key=lambda host: host.name)

    async def get(self, name_or_id: str) -> Host:
        """Raises NotFound."""
        host_id = await self._records.host_id(name_or_id)
        view = (await self._records.hosts()).get(host_id)
        if view is None:
            raise NotFound(f"no host named {name_or_id!r}")
        return present(view)


async def replicas_of(records: Records, host_id: str) -> list[ReplicaOrder]:
    """Every replica that a host must hold, but for those that are in sync: one of these that is not
    there is lost. Made anew, and empty, it would be believed; it has to leave the set first, and is
    then made by the engine that resyncs it."""
    found = []
    for volume_id in await records.volumes_in_use():
        for segment in await records.volume_segments(volume_id):
            for member in segment.members:
                if member.host_id == host_id and not member.in_sync:
                    found.append(order(volume_id, segment, member.store_id))
    return found


def peers(hosts: dict[str, HostView], but: str) -> list[Host]:
    """Every other host."""
    return [present(view) for host_id, view in hosts.items() if host_id != but]


def check_host(host: Host) -> None:
    """Normalises the ids of a registration. Raises InvalidArgument."""
    host.id = str(parse_id(host.id, "host.id"))
    check_place_name(host.name, "host.name")
    check_place_name(host.site, "host.site")
    if not host.grpc_endpoint or not host.peer_endpoint:
        raise InvalidArgument(
            "a host has a grpc_endpoint and a peer_endpoint", field="host.grpc_endpoint"
        )
    for store in host.stores:
        store.id = str(parse_id(store.id, "host.stores.id"))
    if len({store.id for store in host.stores}) != len(host.stores):
        raise InvalidArgument("a store occurs twice", field="host.stores")


def _is_news(stores: Iterable[Store], report: Host) -> bool:
    return list(stores) != list(report.stores) or (
        now_us() - report.last_heartbeat_unix_us > REPORT_US
    )
