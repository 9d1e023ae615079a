"""A whole metadata service around a real etcd, with fake hosts, in the test's event loop."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from blockd.config.meta import MetaSettings
from blockd.meta.etcd import Delete, Etcd
from blockd.meta.main import start
from blockd.meta.records import ROOT
from blockd.rpc.channel import MetaClient
from blockd.rpc.gen import meta_pb2, types_pb2
from tests.meta.fake_host import FakeHost

GIB = 1 << 30
SITES = ("paris", "lyon", "marseille")


async def wait_until(check: Callable[[], Awaitable[Any]], seconds: float = 15.0) -> Any:
    """The first true result of `check`."""
    async with asyncio.timeout(seconds):
        while not (result := await check()):
            await asyncio.sleep(0.05)
        return result


class Rig:
    """client: of the instance; hosts: by name, heartbeating unless in `silent`."""

    def __init__(self, etcd_endpoint: str) -> None:
        self.etcd_endpoint = etcd_endpoint
        self.client: MetaClient
        self.endpoint = ""
        self.hosts: dict[str, FakeHost] = {}
        self.silent: set[str] = set()
        self.instructions: dict[str, meta_pb2.HeartbeatResponse] = {}

    async def call(self, method: str, request: Any, timeout: float = 25.0) -> Any:
        return await self.client.call(lambda meta: getattr(meta, method), request, timeout=timeout)

    async def add_places(self, sites: tuple[str, ...] = SITES) -> None:
        await self.call("CreateOperator", types_pb2.Operator(name="andromede"))
        for site in sites:
            await self.call(
                "CreateSite", types_pb2.Site(name=site, operator="andromede", jurisdiction="FR")
            )

    async def add_host(self, name: str, site: str, **options: Any) -> FakeHost:
        host = FakeHost(name, site, **options)
        await host.start()
        self.hosts[name] = host
        await self.call("RegisterHost", meta_pb2.RegisterHostRequest(host=host.message()))
        return host

    async def add_cluster(self, **options: Any) -> None:
        await self.add_places()
        for site in SITES:
            await self.add_host(f"{site}-1", site, **options)

    async def heartbeats(self) -> None:
        while True:
            for name, host in self.hosts.items():
                if name not in self.silent:
                    answer = await self.call("Heartbeat", host.heartbeat())
                    self.instructions[name] = answer
            await asyncio.sleep(0.3)

    async def kill_host(self, name: str) -> None:
        """It stops heartbeating and answering; returns when the service has noticed."""
        self.silent.add(name)
        await self.hosts[name].stop()

        async def is_down() -> bool:
            host = await self.call("GetHost", meta_pb2.GetHostRequest(name_or_id=name))
            return bool(host.state == types_pb2.HOST_STATE_DOWN)

        await wait_until(is_down)

    async def create(self, name: str = "vol", size: int = 2 * GIB, **policy: int) -> Any:
        return await self.call(
            "CreateVolume",
            meta_pb2.CreateVolumeRequest(
                name=name, size_bytes=size, policy=types_pb2.Policy(**policy)
            ),
        )

    async def volume(self, name: str = "vol") -> Any:
        return await self.call("GetVolume", meta_pb2.GetVolumeRequest(name_or_id=name))

    async def attach(
        self,
        name: str = "vol",
        host: str = "",
        *,
        force: bool = False,
        standbys: tuple[str, ...] = (),
    ) -> Any:
        return await self.call(
            "AttachVolume",
            meta_pb2.AttachVolumeRequest(
                name_or_id=name, host=host, force=force, standbys=standbys
            ),
        )

    async def detach(self, name: str = "vol", *, force: bool = False) -> None:
        await self.call("DetachVolume", meta_pb2.DetachVolumeRequest(name_or_id=name, force=force))

    async def delete(self, name: str = "vol", *, force: bool = False) -> Any:
        request = meta_pb2.DeleteVolumeRequest(name_or_id=name, force=force)
        return await self.call("DeleteVolume", request)

    async def snapshot(self, name: str, volume: str = "vol") -> Any:
        return await self.call(
            "CreateSnapshot", meta_pb2.CreateSnapshotRequest(volume=volume, name=name)
        )

    async def snapshots(self, volume: str = "vol") -> list[Any]:
        answer = await self.call("ListSnapshots", meta_pb2.ListSnapshotsRequest(volume=volume))
        return list(answer.snapshots)

    async def delete_snapshot(self, name: str, volume: str = "vol") -> None:
        await self.call("DeleteSnapshot", meta_pb2.DeleteSnapshotRequest(volume=volume, name=name))

    async def event_kinds(self) -> list[str]:
        """Of the whole log so far."""
        return [event.kind for event in await self.events()]

    async def events(self) -> list[Any]:
        """The whole log so far."""
        found = []
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.5):
                stream = self.client.stream(
                    lambda meta: meta.WatchEvents,
                    meta_pb2.WatchEventsRequest(history=10_000),
                )
                async for event in stream:
                    found.append(event)
        return found


@contextlib.asynccontextmanager
async def running_rig(etcd_endpoint: str, name: str = "meta") -> AsyncIterator[Rig]:
    """A service over an emptied etcd."""
    etcd = Etcd([etcd_endpoint])
    await etcd.commit([], [Delete(ROOT, prefix=True)])
    await etcd.close()
    rig = Rig(etcd_endpoint)
    settings = MetaSettings(name=name, site="paris", listen="127.0.0.1:0", etcd=(etcd_endpoint,))
    async with contextlib.AsyncExitStack() as stack:
        rig.endpoint = await start(settings, stack)
        rig.client = MetaClient([rig.endpoint])
        beating = asyncio.create_task(rig.heartbeats())
        try:
            yield rig
        finally:
            beating.cancel()
            await asyncio.gather(beating, return_exceptions=True)
            await rig.client.close()
            for host in rig.hosts.values():
                await host.stop()
