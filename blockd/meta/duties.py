"""What the leader does in the background: announce hosts, finish what others left half-done.

Each duty compares the records with the world and closes the gap; it may be interrupted anywhere
and started again by another instance.
"""

import asyncio
import logging

from blockd.meta.branches import Branches
from blockd.meta.context import Instance
from blockd.meta.deletions import Deletions
from blockd.meta.etcd import Put, Unchanged
from blockd.meta.events import Events
from blockd.meta.failover import Failover
from blockd.meta.groups import Groups
from blockd.meta.records import (
    HOST_STATES,
    SNAPSHOTS,
    VOLUMES,
    WORKING,
    HostView,
    decode,
    last_part,
)
from blockd.meta.snapshots import Snapshots
from blockd.meta.stores import Stores
from blockd.meta.volumes import Volumes
from blockd.model.errors import BlockdError
from blockd.rpc.gen.types_pb2 import (
    SNAPSHOT_STATE_CREATING,
    VOLUME_STATE_CREATING,
    VOLUME_STATE_DELETING,
    Snapshot,
    Volume,
)

log = logging.getLogger("blockd.meta")

TICK_SECONDS = 0.5
VOLUMES_EVERY = 4  # ticks
SNAPSHOTS_SECONDS = 2.0
TRIM_EVERY = 60


class Duties:
    """run() until cancelled."""

    def __init__(
        self, instance: Instance, volumes: Volumes, branches: Branches, events: Events
    ) -> None:
        self._records = instance.records
        self._etcd = instance.records.etcd
        self._stores = Stores(instance.records)
        self._volumes = volumes
        self._deletions = Deletions(instance)
        self._snapshots = Snapshots(instance)
        self._groups = Groups(instance)
        self._branches = branches
        self._events = events
        self._failover = Failover(instance)

    async def run(self) -> None:
        """All duties, each in its turn; one that fails is tried again in the next. Those that wait
        for holders of volumes hold up only each other."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._run_records())
            tasks.create_task(self._run_snapshots())
            tasks.create_task(self._failover.run())

    async def _run_snapshots(self) -> None:
        while True:
            try:
                await self._groups.finish()
                await self.finish_snapshots()
            except BlockdError as error:
                log.warning("duties: %s", error)
            await asyncio.sleep(SNAPSHOTS_SECONDS)

    async def _run_records(self) -> None:
        tick = 0
        while True:
            try:
                await self.announce_hosts()
                await self._stores.announce()
                if tick % VOLUMES_EVERY == 0:
                    await self.finish_volumes()
                    await self._branches.seal_left()
                    await self._branches.drop_left()
                if tick % TRIM_EVERY == 0:
                    await self._events.trim()
            except BlockdError as error:
                log.warning("duties: %s", error)
            tick += 1
            await asyncio.sleep(TICK_SECONDS)

    async def announce_hosts(self) -> None:
        """Events host.up and host.down, each change once, whoever leads."""
        hosts = await self._records.hosts()
        states = {last_part(entry.key): entry for entry in await self._etcd.scan(HOST_STATES)}
        for host_id, view in hosts.items():
            state = "up" if view.is_up else "down"
            entry = states.get(host_id)
            if entry is None and state == "down":
                continue  # registered and not heard of yet
            if entry is None or entry.value.decode() != state:
                await self._announce(view, state, entry.mod_revision if entry else 0)

    async def _announce(self, view: HostView, state: str, revision: int) -> None:
        host = view.host
        key = HOST_STATES + host.id
        why = "its heartbeats arrive" if state == "up" else "its heartbeats have stopped"
        await self._records.commit(
            [Unchanged(key, revision)],
            [Put(key, state.encode())],
            f"host.{state}",
            f"host/{host.name}",
            f"host {host.name} at {host.site} is {state}: {why}",
            {"host_id": host.id, "site": host.site},
        )

    async def finish_volumes(self) -> None:
        """Complete deletions; undo creations whose instance is gone."""
        for entry in await self._etcd.scan(VOLUMES):
            volume = decode(entry, Volume).value
            try:
                if volume.state == VOLUME_STATE_DELETING:
                    await self._deletions.finish(volume.id)
                elif volume.state == VOLUME_STATE_CREATING:
                    await self._undo_if_orphaned(volume)
            except BlockdError as error:
                log.info("volume %s: %s", volume.name, error)

        await self._deletions.finish_forgotten()

    async def _undo_if_orphaned(self, volume: Volume) -> None:
        if await self._etcd.get(WORKING + volume.id) is None:
            await self._volumes.abandon(volume.id, "its creation was interrupted")

    async def finish_snapshots(self) -> None:
        """Ask for those that are not final again; a holder that does not answer holds up others
        for as long as it is waited for, so all are asked at once."""
        entries = await self._etcd.scan(SNAPSHOTS)
        found = [decode(entry, Snapshot).value for entry in entries]
        waiting = sorted({one.volume_id for one in found if one.state == SNAPSHOT_STATE_CREATING})
        results = await asyncio.gather(
            *(self._snapshots.finish(volume_id) for volume_id in waiting), return_exceptions=True
        )
        for volume_id, result in zip(waiting, results, strict=True):
            if isinstance(result, BlockdError):
                log.info("a snapshot of volume %s is not final: %s", volume_id, result)
            elif isinstance(result, BaseException):
                raise result
