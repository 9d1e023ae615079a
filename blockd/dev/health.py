"""Asks the daemons of a cluster how they are, over the same gRPC that everybody uses."""

import asyncio
import contextlib
from collections.abc import Sequence
from pathlib import Path

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from blockd.dev.layout import OPERATOR, site_message
from blockd.dev.process import last_line
from blockd.dev.state import Process
from blockd.model.errors import AlreadyExists, BlockdError, Timeout
from blockd.rpc.channel import HostClient, MetaClient, open_channel
from blockd.rpc.gen import host_pb2, meta_pb2, types_pb2

POLL_S = 0.1


async def is_serving(endpoint: str, timeout: float = 1.0) -> bool:
    """Whether the daemon's health service says SERVING."""
    async with open_channel(endpoint) as channel:
        try:
            answer = await health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(), timeout=timeout
            )
        except grpc.aio.AioRpcError:
            return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


async def wait_serving(processes: Sequence[Process], seconds: float) -> None:
    """Until all serve. Raises BlockdError with its last line when one ends, Timeout."""
    waiting = list(processes)
    deadline = asyncio.get_running_loop().time() + seconds
    while waiting:
        check_alive(waiting)
        served = await asyncio.gather(*(is_serving(p.endpoints["grpc"]) for p in waiting))
        waiting = [p for p, serves in zip(waiting, served, strict=True) if not serves]
        await out_of_time(deadline, waiting, "does not serve")


async def wait_up(meta: MetaClient, hosts: Sequence[Process], seconds: float) -> None:
    """Until the metadata service counts all hosts as up. Raises as wait_serving()."""
    deadline = asyncio.get_running_loop().time() + seconds
    while True:
        check_alive(hosts)
        try:
            answer = await meta.call(
                lambda stub: stub.ListHosts, meta_pb2.ListHostsRequest(), idempotent=True
            )
            up = {host.name for host in answer.hosts if host.state == types_pb2.HOST_STATE_UP}
        except BlockdError:
            up = set()
        waiting = [host for host in hosts if host.name not in up]
        if not waiting:
            return
        await out_of_time(deadline, waiting, "is not registered")


def check_alive(processes: Sequence[Process]) -> None:
    """Raises BlockdError for the first that has ended, with what it said last."""
    for process in processes:
        if process.state() == "dead":
            raise BlockdError(f"{process.name} ended: {last_line(Path(process.log))}")


async def out_of_time(deadline: float, waiting: Sequence[Process], what: str) -> None:
    """Sleep a little, or raise Timeout for the first of those waited for."""
    if not waiting:
        return
    if asyncio.get_running_loop().time() > deadline:
        raise Timeout(f"{waiting[0].name} {what}; its log is {waiting[0].log}")
    await asyncio.sleep(POLL_S)


async def settle(meta: MetaClient, sites: Sequence[str]) -> str:
    """Make the operator and sites known; they may be already. Returns the cluster's id."""
    cluster = await meta.call(
        lambda stub: stub.GetCluster, meta_pb2.GetClusterRequest(), idempotent=True
    )
    with contextlib.suppress(AlreadyExists):
        await meta.call(lambda stub: stub.CreateOperator, types_pb2.Operator(name=OPERATOR))
    for site in sites:
        with contextlib.suppress(AlreadyExists):
            await meta.call(lambda stub: stub.CreateSite, site_message(site))
    return cluster.cluster_id


async def release_volumes(hosts: Sequence[Process], seconds: float = 10.0) -> None:
    """Have every engine drain while all replicas are still there; the records of the attachments
    stay. Hosts that do not answer are left as they are."""
    client = HostClient()

    async def release(host: Process) -> None:
        endpoint = host.endpoints["grpc"]
        status = await client.call(
            endpoint, lambda stub: stub.GetStatus, host_pb2.GetStatusRequest(), timeout=2.0
        )
        for attachment in status.attachments:
            await client.call(
                endpoint,
                lambda stub: stub.Detach,
                host_pb2.HostDetachRequest(volume_id=attachment.volume_id),
                timeout=seconds,
            )

    try:
        results = await asyncio.gather(*(release(host) for host in hosts), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException) and not isinstance(result, BlockdError):
                raise result
    finally:
        await client.close()
