"""The host daemon from start to end: `run(settings)`.

Start: data directory, core, stores, peers, NBD, gRPC, metrics, in that order, so that every mistake
of an operator ends the start with one line. Only a host that has never joined a cluster waits for
the metadata service here; any other serves its replicas at once and registers when it can.

End (SIGTERM, SIGINT): registration stops, volumes drain and release their leases, and the record of
the attachments stays, so that a restarted daemon takes them up again without waiting for a lease.
"""

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import AsyncIterator, Coroutine
from typing import Any
from uuid import UUID

from blockd.config.host import HostSettings
from blockd.host.agent import Agent, Complaint, Presence
from blockd.host.attachments import Attachments
from blockd.host.branches import Branches
from blockd.host.comparison import Comparisons
from blockd.host.eras import Eras
from blockd.host.events import EventPump
from blockd.host.exports import NbdEndpoints
from blockd.host.flattening import Flattening
from blockd.host.identity import DataDir
from blockd.host.metadata import MetadataClient
from blockd.host.metrics import HostCollector, MetricsServer
from blockd.host.openings import Openings
from blockd.host.read_members import ReadMembers
from blockd.host.replicas import Replicas
from blockd.host.reports import Reports
from blockd.host.scrub import ScrubPlan, Scrubs
from blockd.host.service import HostService
from blockd.host.snapshots import SnapshotExports, SnapshotSets
from blockd.host.space import SpaceWatch, Thresholds
from blockd.host.store_health import StoreHealth
from blockd.host.store_watch import StoreWatch
from blockd.host.stores import open_stores
from blockd.host.topology import Topology
from blockd.host.volume_io import VolumeIO
from blockd.model.errors import AddressInUse, BlockdError, InvalidArgument, StoreForeign, Timeout
from blockd.model.ids import parse_id
from blockd.native import core as native
from blockd.rpc.channel import HostClient
from blockd.rpc.gen import host_pb2_grpc, volume_io_pb2_grpc
from blockd.rpc.server import Server

log = logging.getLogger(__name__)

SERVICES = ("blockd.v1.HostService", "blockd.v1.VolumeIO")
RETRY_S = 0.5
STOP_GRACE_S = 1.0
ATTACH_S = 18  # the metadata service waits for 20: it must hear what was in the way
DRAIN_S = 20
CLOSE_S = 10


async def run(settings: HostSettings) -> None:
    """Serve until SIGTERM or SIGINT. Raises what kept the daemon from starting or going on."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    with contextlib.closing(DataDir.open(settings.data_dir)) as data_dir:
        metadata = MetadataClient(settings.meta)
        try:
            cluster_id = await cluster_of(settings, data_dir, metadata, stop)
            if cluster_id is None:
                return
            core = native.Core(
                host_id=data_dir.identity.host_id,
                cluster_id=cluster_id,
                buffer_bytes=settings.buffer_size,
                attach_timeout_us=ATTACH_S * 1_000_000,
                wire_version_max=settings.peer_version or 0,
                rebuild_bytes_per_second=settings.rebuild_rate,
                cpu=settings.cpu,
            )
            await core.start()
            try:
                await serve(settings, data_dir, cluster_id, core, metadata, stop)
            finally:
                await end(core)
        finally:
            await metadata.close()
    log.info("stopped")


async def end(core: native.Core) -> None:
    """Close the core. One that a stuck device holds up is left behind: what it acknowledged is on
    its devices, and an operator who stops a daemon must not have to wait for a broken disk."""
    try:
        await asyncio.wait_for(core.close(), CLOSE_S)
    except TimeoutError:
        log.error("the data plane does not end within %d s; leaving it behind", CLOSE_S)
        logging.shutdown()
        os._exit(Timeout.exit_code)


async def cluster_of(
    settings: HostSettings, data_dir: DataDir, metadata: MetadataClient, stop: asyncio.Event
) -> UUID | None:
    """The cluster this host belongs to, asked for until known; None: told to stop meanwhile.

    Raises StoreForeign: settings, data directory and metadata service do not agree.
    """
    complaint = Complaint("waiting for the metadata service to join its cluster")
    while data_dir.identity.cluster_id is None and not stop.is_set():
        try:
            cluster = await metadata.get_cluster()
            cluster_id = parse_id(cluster.cluster_id, "cluster")
            if settings.cluster_id not in (None, cluster_id):
                raise StoreForeign(
                    f"settings say cluster {settings.cluster_id}, "
                    f"the metadata service is of cluster {cluster_id}"
                )
            data_dir.join(cluster_id)
        except StoreForeign:
            raise
        except BlockdError as error:
            complaint.failed(error)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), RETRY_S)
    known = data_dir.identity.cluster_id
    if known is not None and settings.cluster_id is not None:
        data_dir.join(settings.cluster_id)
    return known


async def serve(
    settings: HostSettings,
    data_dir: DataDir,
    cluster_id: UUID,
    core: native.Core,
    metadata: MetadataClient,
    stop: asyncio.Event,
) -> None:
    """Everything between a started core and its end."""
    host_id = data_dir.identity.host_id
    await open_stores(
        core,
        settings.stores,
        cluster_id,
        Openings(data_dir.path),
        format_empty=settings.format,
        journal=settings.journal_size,
    )
    peer_endpoint = await listen_peers(core, settings)
    nbd = await listen_nbd(core, settings)
    server = Server(settings.listen)
    topology = Topology(core, host_id, settings.site, settings.name)
    attachments = Attachments(core, topology, nbd)
    snapshot_sets = SnapshotSets(core)
    snapshot_exports = SnapshotExports(core, topology, nbd)
    replicas = Replicas(core, attachments, snapshot_sets)
    presence = Presence(
        host_id=host_id,
        cluster_id=cluster_id,
        name=settings.name,
        site=settings.site,
        grpc_endpoint=settings.advertised(server.endpoint),
        peer_endpoint="tcp:" + settings.advertised(peer_endpoint),
        incarnation=data_dir.identity.incarnation,
    )
    reports = Reports(metadata, host_id)
    health = StoreHealth(core, reports)
    space = SpaceWatch(Thresholds(settings.store_warning, settings.store_critical), health.stalled)
    agent = Agent(
        presence,
        core,
        metadata,
        topology,
        attachments,
        replicas,
        space,
        snapshot_sets,
        snapshot_exports,
        ReadMembers(core, topology, attachments, snapshot_exports),
    )
    flattening = Flattening(core, metadata, attachments, settings.flatten_rate)
    plan = ScrubPlan(settings.scrub_interval, settings.scrub_rate)
    hosts = HostClient()
    topology.serve_grpc_at(settings.advertised(server.endpoint))
    comparisons = Comparisons(metadata, topology, attachments, reports, hosts)
    scrubs = Scrubs(core, metadata, reports, data_dir.path, plan, host_id, comparisons.want)
    branches = Branches(core, metadata, attachments, topology, reports)
    pump = EventPump(core, metadata, attachments, topology, agent.check_holding, reports, branches)
    host_pb2_grpc.add_HostServiceServicer_to_server(
        HostService(
            core,
            agent,
            topology,
            attachments,
            replicas,
            nbd,
            scrubs,
            comparisons,
            Eras(core, attachments),
            flattening,
            snapshot_exports,
        ),
        server.server,
    )
    volume_io_pb2_grpc.add_VolumeIOServicer_to_server(VolumeIO(core, attachments), server.server)
    await server.start(SERVICES)
    pumping = asyncio.create_task(pump.run())
    try:
        async with (
            exporting_metrics(settings, core, attachments, agent, space, scrubs),
            running(
                reports.run(),
                scrubs.run(),
                comparisons.run(),
                branches.run(),
                StoreWatch(core, reports).run(),
                health.run(),
            ),
        ):
            log.info("%s serves at %s, peers at %s", settings.name, server.endpoint, peer_endpoint)
            await until_stopped(stop, agent, pumping)
    finally:
        await server.stop(STOP_GRACE_S)
        await hosts.close()
        await flattening.close()
        await branches.close()
        await snapshot_exports.close()
        await drain(attachments)
        # Only now: a volume that drains may still need a smaller in-sync set.
        pumping.cancel()
        await asyncio.gather(pumping, return_exceptions=True)


@contextlib.asynccontextmanager
async def running(*work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """The work goes on inside the context; it handles its own errors."""
    tasks = [asyncio.create_task(one) for one in work]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def until_stopped(stop: asyncio.Event, agent: Agent, pumping: asyncio.Task[None]) -> None:
    """Run the agent until told to stop. Raises what ended a duty early."""
    stopping = asyncio.create_task(stop.wait())
    duty = asyncio.create_task(agent.run())
    try:
        await asyncio.wait([stopping, duty, pumping], return_when=asyncio.FIRST_COMPLETED)
        for task in (duty, pumping):
            if task.done():
                task.result()
    finally:
        stopping.cancel()
        duty.cancel()
        await asyncio.gather(stopping, duty, return_exceptions=True)


async def drain(attachments: Attachments) -> None:
    """Detach every volume; one that cannot drain, for want of a quorum, is cut off."""
    log.info("stopping: %d volumes to drain", len(attachments.held))
    try:
        await asyncio.wait_for(attachments.detach_all(), DRAIN_S)
    except TimeoutError:
        log.warning("volumes still busy after %d s are cut off", DRAIN_S)


@contextlib.asynccontextmanager
async def exporting_metrics(
    settings: HostSettings,
    core: native.Core,
    attachments: Attachments,
    agent: Agent,
    space: SpaceWatch,
    scrubs: Scrubs,
) -> AsyncIterator[None]:
    """Metrics are served inside the context, when they are wanted."""
    if settings.metrics_listen is None:
        yield
        return
    loop = asyncio.get_running_loop()
    collector = HostCollector(loop, core, attachments, agent, space, scrubs)
    exporter = MetricsServer.start(settings.metrics_listen, collector)
    try:
        yield
    finally:
        await asyncio.to_thread(exporter.close)


async def listen_peers(core: native.Core, settings: HostSettings) -> str:
    """Serve replicas to other hosts; returns HOST:PORT. Raises AddressInUse."""
    try:
        bound = await core.listen_peers("tcp:" + settings.peer_listen)
    except AddressInUse as error:
        raise AddressInUse(f"peer_listen {settings.peer_listen}: the address is taken") from error
    return bound.removeprefix("tcp:")


async def listen_nbd(core: native.Core, settings: HostSettings) -> NbdEndpoints:
    """Listen for hypervisors. Raises AddressInUse, InvalidArgument (the socket's directory)."""
    socket = settings.nbd_socket
    try:
        socket.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
        # The data directory's lock is held: a socket that is still there was left by a killed
        # daemon.
        socket.unlink(missing_ok=True)
    except OSError as error:
        raise InvalidArgument(f"nbd_unix {socket}: {error.strerror}") from error
    await listen_at(core, f"unix:{socket}")
    if settings.nbd_tcp is None:
        return NbdEndpoints(unix=socket, tcp=None)
    bound = await listen_at(core, "tcp:" + settings.nbd_tcp)
    return NbdEndpoints(unix=socket, tcp=settings.advertised(bound.removeprefix("tcp:")))


async def listen_at(core: native.Core, endpoint: str) -> str:
    """Offer NBD there; returns the bound endpoint. Raises AddressInUse, which names it."""
    try:
        return await core.nbd_listen(endpoint)
    except AddressInUse as error:
        raise AddressInUse(f"cannot serve NBD at {endpoint}: the address is taken") from error
