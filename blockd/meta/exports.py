"""Snapshots that hosts export, read-only: any number of hosts each.

snapshot-attachment/SNAPSHOT/HOST is written before the host is asked and deleted after it has let
go: so what a host may be exporting is on record, a daemon that starts again is told of it when it
registers, and the snapshot cannot be deleted.
"""

import contextlib

from blockd.meta.context import Instance
from blockd.meta.etcd import Delete, Unchanged
from blockd.meta.layers import Layers
from blockd.meta.records import (
    CONFLICTS_MAX,
    HostView,
    Stored,
    check_available,
    conflict,
    decode,
    now_us,
    put,
)
from blockd.meta.snapshot_records import (
    SnapshotRecords,
    attachment_key,
    snapshot_details,
    touch,
)
from blockd.model.errors import BlockdError, InvalidArgument, NotAttached, NotFound
from blockd.rpc.gen import host_pb2
from blockd.rpc.gen.meta_pb2 import AttachSnapshotRequest, DetachSnapshotRequest
from blockd.rpc.gen.types_pb2 import Snapshot, SnapshotAttachment, Volume
from blockd.rpc.status import hinted
from blockd.rules.attachments import HostChoice, choose_host

OPEN_SECONDS = 20.0
CLOSE_SECONDS = 8.0  # reads that wait for members are given 5 s by the host


class SnapshotExports:
    """Stateless; every call reads etcd."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        self._records = instance.records
        self._etcd = instance.records.etcd
        self._taken = SnapshotRecords(instance.records)
        self._layers = Layers(instance.records)

    # Attaching.

    async def attach(self, request: AttachSnapshotRequest) -> SnapshotAttachment:
        """Idempotent. Raises NotFound, Busy: the snapshot is not final; what the host raised."""
        for _ in range(CONFLICTS_MAX):
            volume = (await self._records.volume(request.volume)).value
            check_available(volume)
            snapshot = await self._taken.final(volume, request.name)
            hosts = await self._records.hosts()
            target = await self._target(volume, snapshot.value, request.host, hosts)
            key = attachment_key(snapshot.value.id, target.host.id)
            known = await self._etcd.get(key)
            if known is not None or await self._claim(key, snapshot, target):
                return await self._open(volume, snapshot.value, target, hosts, is_new=not known)
        raise conflict(f"snapshot {request.name} of {request.volume}")

    async def _target(
        self, volume: Volume, snapshot: Snapshot, wanted: str, hosts: dict[str, HostView]
    ) -> HostView:
        """The host that is named, else one that exports it already, else the best."""
        if wanted:
            return hosts[await self._records.host_id(wanted)]
        for stored in await self._taken.attachments(snapshot.id):
            view = hosts.get(stored.value.host_id)
            if view is not None and view.is_up:
                return view
        in_sync = dict.fromkeys(hosts, 0)
        for segment in await self._records.segments(volume):
            for member in segment.value.members:
                if member.in_sync and member.host_id in in_sync:
                    in_sync[member.host_id] += 1
        choices = [
            HostChoice(host_id, view.host.name, view.is_up, in_sync[host_id], 0)
            for host_id, view in hosts.items()
        ]
        return hosts[choose_host(f"{volume.name}@{snapshot.name}", choices)]

    async def _claim(self, key: str, snapshot: Stored[Snapshot], target: HostView) -> bool:
        record = SnapshotAttachment(
            snapshot_id=snapshot.value.id,
            host_id=target.host.id,
            host_name=target.host.name,
            since_unix_us=now_us(),
        )
        one = snapshot.value
        return await self._records.commit(
            [snapshot.same_life, Unchanged(key, 0)],
            [put(key, record), touch(snapshot)],
            "snapshot.attached",
            f"volume/{one.volume_name}",
            f"snapshot {one.name} of {one.volume_name} goes to {target.host.name}, read-only",
            snapshot_details(one) | {"host": target.host.name},
        )

    async def _open(
        self,
        volume: Volume,
        snapshot: Snapshot,
        target: HostView,
        hosts: dict[str, HostView],
        *,
        is_new: bool,
    ) -> SnapshotAttachment:
        """Have the host export it. When it cannot, what was put on record for that goes again."""
        key = attachment_key(snapshot.id, target.host.id)
        try:
            answer = await self._instance.hosts.call(
                target.host.grpc_endpoint,
                lambda host: host.AttachSnapshot,
                host_pb2.HostAttachSnapshotRequest(
                    view=await self._layers.snapshot(volume, snapshot),
                    peers=[view.host for view in hosts.values()],
                ),
                timeout=OPEN_SECONDS,
            )
        except BlockdError as error:
            if is_new:
                with contextlib.suppress(BlockdError):
                    await self._close(target, snapshot.id)
                    await self._forget(snapshot, key, target.host.name, "could not be attached")
            raise type(error)(
                f"{target.host.name} could not attach snapshot {snapshot.name} of "
                f"{volume.name}: {error.message}",
                **error.context,
            ) from error
        for _ in range(CONFLICTS_MAX):
            entry = await self._etcd.get(key)
            if entry is None:
                raise NotAttached(f"snapshot {snapshot.name} of {volume.name} was detached again")
            stored = decode(entry, SnapshotAttachment)
            record = SnapshotAttachment()
            record.CopyFrom(stored.value)
            del record.nbd_uris[:]
            record.nbd_uris.extend(answer.nbd_uris)
            if record == stored.value:
                return record
            if await self._etcd.commit([stored.unchanged], [put(key, record)]) is not None:
                return record
        raise conflict(f"snapshot {snapshot.name} of {volume.name}")

    # Detaching.

    async def detach(self, request: DetachSnapshotRequest) -> None:
        """Idempotent. Raises NotFound; InvalidArgument: which host? LinkLost, Timeout: it does not
        answer, and the caller did not insist."""
        volume = (await self._records.volume(request.volume)).value
        snapshot = (await self._taken.named(volume, request.name)).value
        held = [one.value for one in await self._taken.attachments(snapshot.id)]
        if request.host:
            host_id = await self._records.host_id(request.host)
            held = [one for one in held if one.host_id == host_id]
        if not held:
            return
        if len(held) > 1:
            names = ", ".join(sorted(one.host_name for one in held))
            raise InvalidArgument(
                f"snapshot {request.name} of {volume.name} is attached at {names}: say which, with "
                "--host",
                field="host",
            )
        view = (await self._records.hosts()).get(held[0].host_id)
        try:
            if view is not None:
                await self._close(view, snapshot.id)
        except BlockdError as error:
            if not request.force:
                raise hinted(
                    type(error)(
                        f"{held[0].host_name} did not detach snapshot {request.name} of "
                        f"{volume.name}: {error.message}"
                    ),
                    "with --force it is released all the same: the host ends its export as soon as "
                    "it is told, with a heartbeat",
                ) from error
        key = attachment_key(snapshot.id, held[0].host_id)
        await self._forget(snapshot, key, held[0].host_name, "is detached")

    async def _close(self, view: HostView, snapshot_id: str) -> None:
        """Raises LinkLost, Timeout; that the host does not have it is fine."""
        with contextlib.suppress(NotAttached, NotFound):
            await self._instance.hosts.call(
                view.host.grpc_endpoint,
                lambda host: host.DetachSnapshot,
                host_pb2.HostDetachSnapshotRequest(snapshot_id=snapshot_id),
                timeout=CLOSE_SECONDS,
                idempotent=True,
            )

    async def _forget(self, snapshot: Snapshot, key: str, host_name: str, what: str) -> None:
        await self._records.commit(
            [],
            [Delete(key)],
            "snapshot.detached",
            f"volume/{snapshot.volume_name}",
            f"snapshot {snapshot.name} of {snapshot.volume_name} {what} at {host_name}",
            snapshot_details(snapshot) | {"host": host_name},
        )
