"""A daemon's parts around a fake core and a fake metadata service, all in one event loop."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import grpc
import pytest

from blockd.host import agent as agent_module
from blockd.host.agent import Agent, Presence
from blockd.host.attachments import Attachments
from blockd.host.branches import Branches
from blockd.host.comparison import Comparisons
from blockd.host.eras import Eras
from blockd.host.events import EventPump
from blockd.host.exports import NbdEndpoints
from blockd.host.flattening import Flattening
from blockd.host.metadata import MetadataClient
from blockd.host.read_members import ReadMembers
from blockd.host.replicas import Replicas
from blockd.host.reports import Reports
from blockd.host.scrub import ScrubPlan, Scrubs
from blockd.host.service import HostService
from blockd.host.snapshots import SnapshotExports, SnapshotSets
from blockd.host.space import SpaceWatch, Thresholds
from blockd.host.topology import Topology
from blockd.host.volume_io import VolumeIO
from blockd.rpc.channel import HostClient, open_channel
from blockd.rpc.gen import host_pb2_grpc, volume_io_pb2_grpc
from blockd.rpc.server import Server
from tests.host.fake_core import Core
from tests.host.fake_metadata import FakeMetadata


@dataclass
class Rig:
    """One host. `host` and `io` are stubs of its own gRPC server."""

    core: Core
    metadata: FakeMetadata
    attachments: Attachments
    replicas: Replicas
    topology: Topology
    agent: Agent
    reports: Reports
    scrubs: Scrubs
    comparisons: Comparisons
    host: Any  # HostServiceStub
    io: Any  # VolumeIOStub
    endpoints: NbdEndpoints
    snapshot_sets: SnapshotSets
    snapshot_exports: SnapshotExports
    flattening: Flattening
    branches: Branches

    @property
    def host_id(self) -> UUID:
        return self.core.host_id

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """The agent runs inside the context, registered at its start."""
        task = asyncio.create_task(self.agent.run())
        try:
            await asyncio.wait_for(self.agent.registered.wait(), 5)
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
async def metadata() -> AsyncIterator[FakeMetadata]:
    service = FakeMetadata()
    yield service
    await service.stop()


@pytest.fixture
async def rig(
    metadata: FakeMetadata, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> AsyncIterator[Rig]:
    monkeypatch.setattr(agent_module, "HEARTBEAT_S", 0.05)
    monkeypatch.setattr(agent_module, "RETRY_S", (0.02,))
    endpoint = await metadata.serve()
    core = Core(host_id=uuid4(), cluster_id=metadata.cluster_id)
    client = MetadataClient([endpoint])
    topology = Topology(core, core.host_id, "paris")  # type: ignore[arg-type]
    nbd = NbdEndpoints(unix=Path("/run/x/nbd.sock"), tcp="127.0.0.1:10809")
    attachments = Attachments(core, topology, nbd)  # type: ignore[arg-type]
    snapshot_sets = SnapshotSets(core)  # type: ignore[arg-type]
    snapshot_exports = SnapshotExports(core, topology, nbd)  # type: ignore[arg-type]
    replicas = Replicas(core, attachments, snapshot_sets)  # type: ignore[arg-type]
    server = Server("127.0.0.1:0")
    presence = Presence(
        host_id=core.host_id,
        cluster_id=metadata.cluster_id,
        name="here",
        site="paris",
        grpc_endpoint=server.endpoint,
        peer_endpoint="tcp:127.0.0.1:1",
        incarnation=1,
    )
    space = SpaceWatch(Thresholds())
    agent = Agent(
        presence,
        core,  # type: ignore[arg-type]
        client,
        topology,
        attachments,
        replicas,
        space,
        snapshot_sets,
        snapshot_exports,
        ReadMembers(core, topology, attachments, snapshot_exports),  # type: ignore[arg-type]
    )
    flattening = Flattening(core, client, attachments, 1 << 20)  # type: ignore[arg-type]
    reports = Reports(client, core.host_id)
    plan = ScrubPlan(interval_s=0, rate_bytes=1 << 20)
    hosts = HostClient()
    topology.serve_grpc_at(server.endpoint)
    comparisons = Comparisons(client, topology, attachments, reports, hosts)
    scrubs = Scrubs(
        core,  # type: ignore[arg-type]
        client,
        reports,
        tmp_path,
        plan,
        core.host_id,
        comparisons.want,
    )
    check = agent.check_holding
    branches = Branches(core, client, attachments, topology, reports)  # type: ignore[arg-type]
    pump = EventPump(core, client, attachments, topology, check, reports, branches)  # type: ignore[arg-type]
    host_pb2_grpc.add_HostServiceServicer_to_server(
        HostService(
            core,  # type: ignore[arg-type]
            agent,
            topology,
            attachments,
            replicas,
            nbd,
            scrubs,
            comparisons,
            Eras(core, attachments),  # type: ignore[arg-type]
            flattening,
            snapshot_exports,
        ),
        server.server,
    )
    volume_io_pb2_grpc.add_VolumeIOServicer_to_server(
        VolumeIO(core, attachments),  # type: ignore[arg-type]
        server.server,
    )
    await server.start(["blockd.v1.HostService", "blockd.v1.VolumeIO"])
    pumping = asyncio.create_task(pump.run())
    reporting = asyncio.create_task(reports.run())
    async with open_channel(server.endpoint) as channel:
        yield Rig(
            core,
            metadata,
            attachments,
            replicas,
            topology,
            agent,
            reports,
            scrubs,
            comparisons,
            host_pb2_grpc.HostServiceStub(channel),  # type: ignore[arg-type]
            volume_io_pb2_grpc.VolumeIOStub(channel),  # type: ignore[arg-type]
            nbd,
            snapshot_sets,
            snapshot_exports,
            flattening,
            branches,
        )
    await flattening.close()
    await branches.close()
    await snapshot_exports.close()
    await core.close()
    await asyncio.wait_for(pumping, 5)
    reporting.cancel()
    await hosts.close()
    await server.stop(0)
    await client.close()


@pytest.fixture
def eventually() -> Callable[[Callable[[], object]], Awaitable[None]]:
    """Wait for a condition that other tasks bring about."""

    async def wait(condition: Callable[[], object], seconds: float = 5) -> None:
        async with asyncio.timeout(seconds):
            while not condition():
                await asyncio.sleep(0.01)

    return wait


@pytest.fixture
def status_of() -> Callable[[Awaitable[object]], Awaitable[grpc.StatusCode]]:
    """The status code with which a call fails."""

    async def run(call: Awaitable[object]) -> grpc.StatusCode:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        return caught.value.code()

    return run
