"""`blockd meta`: one instance of the metadata service, from settings to exit."""

import asyncio
import contextlib
import logging
import signal
from collections.abc import Sequence

from blockd.config.meta import MetaSettings
from blockd.meta.context import Instance
from blockd.meta.duties import Duties
from blockd.meta.etcd import Etcd, Unchanged
from blockd.meta.etcd_member import EtcdMember
from blockd.meta.membership import Membership
from blockd.meta.records import CLUSTER, Records, decode, put
from blockd.meta.service import SERVICE_NAME, MetadataService
from blockd.model.errors import BlockdError, InvalidArgument, MetadataUnreachable
from blockd.model.ids import new_id
from blockd.rpc.channel import HostClient
from blockd.rpc.gen.meta_pb2 import Cluster
from blockd.rpc.gen.meta_pb2_grpc import add_MetadataServicer_to_server
from blockd.rpc.server import Server
from blockd.rpc.status import hinted

log = logging.getLogger("blockd.meta")

ETCD_SECONDS = 30.0  # to reach an existing cluster at start
DRAIN_SECONDS = 5.0
LEARN_SECONDS = 30.0


async def run(settings: MetaSettings) -> None:
    """Serve until SIGTERM or SIGINT. Raises BlockdError when it cannot start."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with contextlib.AsyncExitStack() as stack:
        starting = asyncio.create_task(start(settings, stack))
        stopping = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if starting.done():
                endpoint = starting.result()
                log.info("metadata service %s serves on %s", settings.name, endpoint)
                await stopping
            log.info("stopping")
        finally:
            for task in (starting, stopping):
                task.cancel()
            await asyncio.gather(starting, stopping, return_exceptions=True)


async def start(settings: MetaSettings, stack: contextlib.AsyncExitStack) -> str:
    """Bring everything up; what must come down again is pushed on `stack`. Returns HOST:PORT.

    The address is taken first: a second instance fails before it touches anything.
    """
    server = Server(settings.listen)
    stack.push_async_callback(server.stop, 0.5)
    etcd = await _connect(settings, stack)
    records = Records(etcd)
    cluster_id = await _cluster_id(records, settings)
    hosts = HostClient()
    stack.push_async_callback(hosts.close)
    instance = Instance(settings.name, records, hosts, overcommit=settings.overcommit)
    service = MetadataService(instance, cluster_id)
    duties = Duties(instance, service.volumes, service.branches, service.events)
    membership = Membership(instance, settings.advertised(server.endpoint), duties.run)
    await membership.join()
    stack.push_async_callback(membership.leave)
    stack.push_async_callback(_cancel, [asyncio.create_task(membership.run())])
    stack.push_async_callback(instance.drain, DRAIN_SECONDS)
    add_MetadataServicer_to_server(service, server.server)
    await server.start([SERVICE_NAME])
    stack.push_async_callback(server.stop)
    return server.endpoint


async def _connect(settings: MetaSettings, stack: contextlib.AsyncExitStack) -> Etcd:
    """A client of the cluster, either way; healthy when it returns."""
    if settings.etcd_dir is None:
        etcd = Etcd(settings.etcd)
        stack.push_async_callback(etcd.close)
        await _wait_for(etcd)
    else:
        etcd = Etcd([settings.etcd_client_url])
        member = EtcdMember(settings)
        stack.push_async_callback(member.stop)
        stack.push_async_callback(etcd.close)
        await member.start(etcd)
    stack.push_async_callback(_cancel, [asyncio.create_task(_keep_learning(etcd))])
    return etcd


async def _wait_for(etcd: Etcd) -> None:
    deadline = asyncio.get_running_loop().time() + ETCD_SECONDS
    while True:
        try:
            await etcd.get("/")
            return
        except MetadataUnreachable as error:
            if asyncio.get_running_loop().time() > deadline:
                raise hinted(error, "check the setting etcd, and that the cluster runs") from None
            log.warning("%s; trying again", error.message)
            await asyncio.sleep(0.5)


async def _keep_learning(etcd: Etcd) -> None:
    """Know the other members before one is lost."""
    while True:
        with contextlib.suppress(BlockdError):
            await etcd.learn_members()
        await asyncio.sleep(LEARN_SECONDS)


async def _cluster_id(records: Records, settings: MetaSettings) -> str:
    """The id on record; the first instance of a new cluster writes it.

    Raises InvalidArgument: the settings name another cluster.
    """
    wanted = str(settings.cluster_id or new_id())
    await records.commit(
        [Unchanged(CLUSTER, 0)],
        [put(CLUSTER, Cluster(cluster_id=wanted))],
        "cluster.created",
        "cluster",
        f"cluster {wanted}",
    )
    entry = await records.etcd.get(CLUSTER)
    if entry is None:
        raise MetadataUnreachable("etcd has lost the cluster's record")
    found = decode(entry, Cluster).value.cluster_id
    if settings.cluster_id is not None and found != wanted:
        raise InvalidArgument(
            f"this etcd belongs to cluster {found}, not to {wanted} (setting cluster_id)",
            field="cluster_id",
        )
    return found


async def _cancel(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
