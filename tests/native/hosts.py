"""Hosts for tests of the native core: cores of one store each, and metadata kept in a dict."""

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self
from uuid import UUID, uuid4

from blockd.model.units import SEGMENT_BYTES, segment_block_count, segment_count
from blockd.native.core import Core, format_store
from blockd.native.values import Event, InSyncChangeWanted, Member, Segment, VolumeSpec

MIB = 1 << 20
STORE_BYTES = 160 * MIB
BUFFER_BYTES = 32 * MIB


@dataclass
class Host:
    """One core with one store, formatted when it is first started."""

    directory: Path
    cluster_id: UUID
    host_id: UUID = field(default_factory=uuid4)
    store_id: UUID = field(default_factory=uuid4)
    store_bytes: int = STORE_BYTES
    peer_endpoint: str = ""
    core: Core = field(init=False)
    running: bool = False

    @property
    def store_path(self) -> Path:
        return self.directory / f"{self.host_id}.store"

    async def start(self) -> Self:
        if not self.store_path.exists():
            format_store(
                str(self.store_path),
                store_id=self.store_id,
                cluster_id=self.cluster_id,
                size_bytes=self.store_bytes,
            )
        self.core = Core(
            host_id=self.host_id,
            cluster_id=self.cluster_id,
            buffer_bytes=BUFFER_BYTES,
            attach_timeout_us=20_000_000,
        )
        await self.core.start()
        self.running = True
        await self.core.open_store(str(self.store_path))
        self.peer_endpoint = await self.core.listen_peers(self.peer_endpoint or "tcp:127.0.0.1:0")
        return self

    async def stop(self) -> None:
        if self.running:
            self.running = False
            await self.core.close()

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()


async def introduce(hosts: list[Host]) -> None:
    """Tell every running host where the others are."""
    for host in hosts:
        for peer in hosts:
            if host.running and peer is not host:
                await host.core.set_peer(peer.host_id, peer.peer_endpoint)


class Cluster:
    """Hosts and one volume on all of them; answers what the engine asks of the metadata service."""

    def __init__(self, hosts: list[Host], size_bytes: int, min_in_sync: int = 1) -> None:
        self.hosts = hosts
        self.volume_id = uuid4()
        self.size_bytes = size_bytes
        self.min_in_sync = min_in_sync
        self.epoch = 0
        self.in_sync = [{host.host_id for host in hosts} for _ in range(segment_count(size_bytes))]
        self.generations = [1] * len(self.in_sync)
        self.events: list[Event] = []
        self._duties: list[asyncio.Task[None]] = []

    async def create_replicas(self) -> None:
        for host in self.hosts:
            for index in range(len(self.in_sync)):
                blocks = segment_block_count(self.size_bytes, index)
                await host.core.create_replica(host.store_id, self.volume_id, index, blocks)

    def segment(self, index: int, at: Host) -> Segment:
        members = tuple(
            Member(
                host_id=host.host_id,
                store_id=host.store_id,
                distance=0 if host is at else 2,
                in_sync=host.host_id in self.in_sync[index],
            )
            for host in self.hosts
        )
        return Segment(index=index, generation=self.generations[index], members=members)

    def spec(self, at: Host, epoch: int) -> VolumeSpec:
        return VolumeSpec(
            volume_id=self.volume_id,
            name="demo",
            size_bytes=self.size_bytes,
            epoch=epoch,
            min_in_sync=self.min_in_sync,
            segments=tuple(self.segment(index, at) for index in range(len(self.in_sync))),
        )

    async def attach(self, at: Host) -> None:
        """Attach under a new epoch and serve the engine's wishes from then on."""
        self.epoch += 1
        self._duties.append(asyncio.create_task(self._serve(at)))
        await at.core.attach(self.spec(at, self.epoch))

    async def _serve(self, at: Host) -> None:
        async for event in at.core.events():
            self.events.append(event)
            if isinstance(event, InSyncChangeWanted):
                index = event.segment
                if event.generation == self.generations[index]:
                    self.in_sync[index] = set(event.in_sync)
                    self.generations[index] += 1
                if at.running:
                    await at.core.in_sync_changed(self.volume_id, self.segment(index, at))

    async def until_in_sync(self, at: Host, count: int, seconds: float = 30) -> None:
        """Wait until every segment has `count` members in sync and none on its way."""
        async with asyncio.timeout(seconds):
            while True:
                status = await at.core.volume_status(self.volume_id)
                if all(len(s.in_sync) == count and not s.joining for s in status):
                    return
                await asyncio.sleep(0.05)

    async def close(self) -> None:
        for host in self.hosts:
            await host.stop()
        await asyncio.gather(*self._duties)


async def single(directory: Path, size_bytes: int = SEGMENT_BYTES // 16) -> tuple[Host, Cluster]:
    """One host with an attached volume of one replica."""
    host = await Host(directory, uuid4()).start()
    cluster = Cluster([host], size_bytes)
    await cluster.create_replicas()
    await cluster.attach(host)
    return host, cluster
