"""The end of volumes: marked at once, and gone when every host has dropped its replicas.

A host that is away holds up nothing but the record, and whoever does not want to wait for it
forgets the volume: the order to drop the replicas stays, and the host follows it when it is back.
"""

import asyncio
from collections.abc import Sequence

from blockd.meta.context import Instance
from blockd.meta.etcd import Delete, Guard, Put, Unchanged
from blockd.meta.records import (
    ATTACHMENTS,
    CONFLICTS_MAX,
    DEGRADED,
    DROP,
    GROUPS,
    ORDERS,
    SEGMENTS,
    SNAPSHOT_SETS,
    VOLUME_NAMES,
    VOLUMES,
    WORKING,
    Stored,
    conflict,
    decode,
    order_key,
    put,
)
from blockd.meta.replicas import Replicas
from blockd.meta.snapshot_records import SnapshotRecords
from blockd.model.errors import Busy, InUse, InvalidArgument, NotFound, VolumeAttached
from blockd.rpc.gen.types_pb2 import (
    VOLUME_STATE_CREATING,
    VOLUME_STATE_DELETING,
    Group,
    Volume,
)
from blockd.rpc.status import hinted
from blockd.rules.branches import BRANCH_PREFIX


class Deletions:
    """Stateless; every call reads etcd."""

    def __init__(self, instance: Instance) -> None:
        self._records = instance.records
        self._etcd = instance.records.etcd
        self._replicas = Replicas(instance)
        self._taken = SnapshotRecords(instance.records)

    async def delete(self, name_or_id: str) -> list[str]:
        """The names of hosts that have not dropped their replicas: the leader goes on asking them.
        Raises NotFound, VolumeAttached, Busy; InUse: it has snapshots, or is in a group."""
        for _ in range(CONFLICTS_MAX):
            stored = await self._records.volume(name_or_id)
            volume = stored.value
            if volume.state == VOLUME_STATE_CREATING and await self._etcd.get(WORKING + volume.id):
                raise Busy(f"volume {volume.name} is being created")
            if volume.state == VOLUME_STATE_DELETING or await self.mark(
                stored, "deletion was asked for"
            ):
                done = await self.finish(volume.id)
                return [] if done else await self._waiting_hosts(volume.id)
        raise conflict(f"volume {name_or_id}")

    async def forget(self, name_or_id: str) -> list[str]:
        """Delete the record of a volume whose deletion waits for hosts; returns their names. Their
        orders to drop it stay. Raises NotFound; InvalidArgument: it is not being deleted, or there
        are several of the name."""
        stored = await self._being_deleted(name_or_id)
        if await self.finish(stored.value.id):
            return []
        waiting = await self._waiting_hosts(stored.value.id)
        if not await self._erase(
            stored,
            [],
            "volume.forgotten",
            f"volume {stored.value.name} is forgotten; {', '.join(waiting)} drop their replicas of "
            "it when they are back, which take space until then",
        ):
            raise conflict(f"volume {name_or_id}")
        return waiting

    async def _being_deleted(self, name_or_id: str) -> Stored[Volume]:
        """By name only among those: the name may be another volume's by now."""
        records = [decode(entry, Volume) for entry in await self._etcd.scan(VOLUMES)]
        named = [one for one in records if name_or_id in (one.value.id, one.value.name)]
        found = [one for one in named if one.value.state == VOLUME_STATE_DELETING]
        if len(found) == 1:
            return found[0]
        if len(found) > 1:
            ids = ", ".join(one.value.id for one in found)
            raise InvalidArgument(f"several volumes {name_or_id} are being deleted: {ids}")
        if named:
            raise hinted(
                InvalidArgument(
                    f"volume {name_or_id} is not being deleted, which --force would end"
                ),
                f"blockctl volume delete {name_or_id}",
            )
        raise hinted(NotFound(f"no volume named {name_or_id!r}"), "blockctl volume list")

    async def _waiting_hosts(self, volume_id: str) -> list[str]:
        """Names of the hosts with an order to drop the volume."""
        hosts = await self._records.hosts()
        entries = await self._etcd.scan(ORDERS, keys_only=True)
        ids = [entry.key.removeprefix(ORDERS).split("/") for entry in entries]
        waiting = [host for host, volume in ids if volume == volume_id]
        return sorted(hosts[one].host.name if one in hosts else one for one in waiting)

    async def finish_forgotten(self) -> None:
        """Have hosts that are back drop the replicas of volumes that were forgotten."""
        entries = await self._etcd.scan(ORDERS, keys_only=True)
        if not entries:
            return
        hosts = await self._records.hosts()
        for entry in entries:
            host_id, volume_id = entry.key.removeprefix(ORDERS).split("/")
            if await self._records.volume_by_id(volume_id) is None:
                await self._replicas.drop(hosts.get(host_id), host_id, volume_id)

    async def mark(self, stored: Stored[Volume], why: str) -> bool:
        """False: somebody else changed the volume meanwhile. Raises VolumeAttached, InUse.

        Whoever takes a snapshot of it or puts it into a group writes its record: so neither can
        come in between.
        """
        await self._check_unused(stored.value)
        attachment = await self._records.attachment(stored.value.id)
        volume = Volume()
        volume.CopyFrom(stored.value)
        if attachment.value.host_id:
            raise hinted(
                VolumeAttached(f"volume {volume.name} is attached at {attachment.value.host_name}"),
                f"blockctl volume detach {volume.name}",
            )
        volume.state = VOLUME_STATE_DELETING
        members = await self._records.members(volume.id)
        return await self._records.commit(
            [stored.unchanged, attachment.unchanged],
            [
                put(stored.key, volume),
                Delete(VOLUME_NAMES + volume.name),
                Delete(WORKING + volume.id),
                *(Put(order_key(host_id, volume.id), DROP) for host_id in sorted(members)),
            ],
            "volume.deleting",
            f"volume/{volume.name}",
            f"volume {volume.name}: {why}",
            {"volume_id": volume.id},
        )

    async def _check_unused(self, volume: Volume) -> None:
        """A snapshot of it may be the base of others; and a group is about its members."""
        snapshots = sorted((await self._taken.taken(volume.id)).snapshots)
        branches = [one for one in snapshots if one.startswith(BRANCH_PREFIX)]
        if branches:
            raise hinted(
                InUse(f"volume {volume.name} has branches: {', '.join(branches)}"),
                f"see what they have kept: blockctl volume branch show {volume.name} {branches[0]}",
            )
        if snapshots:
            raise hinted(
                InUse(f"volume {volume.name} has snapshots: {', '.join(snapshots)}"),
                f"blockctl volume snapshot delete {volume.name} {snapshots[0]}",
            )
        for entry in await self._etcd.scan(GROUPS):
            group = decode(entry, Group).value
            if any(member.volume_id == volume.id for member in group.volumes):
                raise hinted(
                    InUse(f"volume {volume.name} is a member of group {group.name}"),
                    f"blockctl group delete {group.name}",
                )

    async def finish(self, volume_id: str) -> bool:
        """Have every host that can be reached drop its replicas; when all have, forget the volume.
        False: some have not yet."""
        stored = await self._records.volume(volume_id)
        assert stored.value.state == VOLUME_STATE_DELETING
        members = sorted(await self._records.members(volume_id))
        hosts = await self._records.hosts()
        dropped = await asyncio.gather(
            *(self._replicas.drop(hosts.get(host_id), host_id, volume_id) for host_id in members)
        )
        if not all(dropped):
            return False
        return await self._erase(
            stored,
            [Unchanged(order_key(host, volume_id), 0) for host in members],
            "volume.deleted",
            f"volume {stored.value.name} and all its replicas are gone",
        )

    async def _erase(
        self, stored: Stored[Volume], guards: Sequence[Guard], kind: str, message: str
    ) -> bool:
        """All records of it but the orders to hosts. False: one of the guards does not hold."""
        volume_id = stored.value.id
        return await self._records.commit(
            [stored.unchanged, *guards],
            [
                Delete(stored.key),
                Delete(ATTACHMENTS + volume_id),
                Delete(SNAPSHOT_SETS + volume_id),
                Delete(f"{SEGMENTS}{volume_id}/", prefix=True),
                Delete(f"{DEGRADED}{volume_id}/", prefix=True),
            ],
            kind,
            f"volume/{stored.value.name}",
            message,
            {"volume_id": volume_id},
        )
