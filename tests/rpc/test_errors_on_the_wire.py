"""An error raised in a handler arrives as the same class, with its context and hints."""

import socket
from collections.abc import AsyncIterator

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from blockd.model.errors import (
    AddressInUse,
    BlockdError,
    EpochFenced,
    LinkLost,
    MetadataUnreachable,
    NotFound,
    Timeout,
)
from blockd.rpc.channel import MetaClient, open_channel
from blockd.rpc.gen import meta_pb2, meta_pb2_grpc, types_pb2
from blockd.rpc.server import Server
from blockd.rpc.status import from_rpc_error, hinted, hints_of

SERVICE = meta_pb2.DESCRIPTOR.services_by_name["Metadata"].full_name


class Service(meta_pb2_grpc.MetadataServicer):
    """Raises what `error` says, or answers."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.calls = 0

    async def GetCluster(self, request, context):
        self.calls += 1
        if self.error is not None:
            raise self.error
        return meta_pb2.Cluster(cluster_id="c")

    async def WatchEvents(self, request, context):
        yield types_pb2.Event(revision=1)
        raise EpochFenced("fenced in the middle")


for _name in [name for name in dir(meta_pb2_grpc.MetadataServicer) if name[0].isupper()]:
    if _name not in Service.__dict__:
        setattr(Service, _name, None)
Service.__abstractmethods__ = frozenset()


@pytest.fixture
async def service() -> AsyncIterator[tuple[Service, str]]:
    server, service = Server("127.0.0.1:0"), Service()
    meta_pb2_grpc.add_MetadataServicer_to_server(service, server.server)
    await server.start([SERVICE])
    yield service, server.endpoint
    await server.stop(0)


def free_endpoint() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


async def get_cluster(client: MetaClient, *, idempotent: bool = False) -> meta_pb2.Cluster:
    return await client.call(
        lambda meta: meta.GetCluster,
        meta_pb2.GetClusterRequest(),
        timeout=3,
        idempotent=idempotent,
    )


async def test_class_context_and_hints_survive(service):
    raised = hinted(NotFound("no volume named x", name="x"), "blockctl volume list")
    service[0].error = raised
    async with MetaClient([service[1]]) as client:
        with pytest.raises(NotFound) as caught:
            await get_cluster(client)
    assert caught.value.message == "no volume named x"
    assert caught.value.context == {"name": "x"}
    assert hints_of(caught.value) == ["blockctl volume list"]


async def test_any_client_sees_the_tables_code_and_the_line(service):
    service[0].error = EpochFenced("fenced")
    channel = open_channel(service[1])
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await meta_pb2_grpc.MetadataStub(channel).GetCluster(
            meta_pb2.GetClusterRequest(), timeout=3
        )
    await channel.close(None)
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert caught.value.details() == "fenced"
    assert isinstance(from_rpc_error(caught.value), EpochFenced)


async def test_a_bug_in_a_handler_is_internal_and_the_server_lives_on(service):
    service[0].error = KeyError("oops")
    async with MetaClient([service[1]]) as client:
        with pytest.raises(BlockdError) as caught:
            await get_cluster(client)
        assert caught.value.context == {"grpc": "INTERNAL"}
        service[0].error = None
        assert (await get_cluster(client)).cluster_id == "c"


async def test_error_in_the_middle_of_a_stream(service):
    async with MetaClient([service[1]]) as client:
        stream = client.stream(lambda meta: meta.WatchEvents, meta_pb2.WatchEventsRequest())
        assert (await anext(stream)).revision == 1
        with pytest.raises(EpochFenced):
            await anext(stream)


async def test_fails_over_to_an_instance_that_answers(service):
    async with MetaClient([free_endpoint(), service[1]]) as client:
        assert (await get_cluster(client)).cluster_id == "c"


async def test_nobody_answers(service):
    endpoints = [free_endpoint(), free_endpoint()]
    async with MetaClient(endpoints) as client:
        with pytest.raises(MetadataUnreachable) as caught:
            await get_cluster(client)
    assert endpoints[0] in caught.value.message
    assert hints_of(caught.value)


async def test_an_instance_without_etcd_is_passed_over(service):
    service[0].error = MetadataUnreachable("etcd does not answer")
    async with MetaClient([service[1], service[1]]) as client:
        with pytest.raises(MetadataUnreachable, match="etcd does not answer"):
            await get_cluster(client)
    assert service[0].calls == 2


async def test_a_silent_instance_costs_a_deadline_only_when_nothing_may_be_repeated(service):
    with socket.socket() as silent:  # accepts connections in the kernel and never answers
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        endpoint = f"127.0.0.1:{silent.getsockname()[1]}"
        async with MetaClient([endpoint, service[1]]) as client:
            assert (await get_cluster(client)).cluster_id == "c"


async def test_deadline_and_lost_connection_have_their_own_classes(service):
    class Error(grpc.aio.AioRpcError):
        pass

    def failed(code: grpc.StatusCode) -> BlockdError:
        none = grpc.aio.Metadata()
        return from_rpc_error(Error(code, none, none, "gone", ""), "host at h:1")

    assert isinstance(failed(grpc.StatusCode.DEADLINE_EXCEEDED), Timeout)
    assert isinstance(failed(grpc.StatusCode.UNAVAILABLE), LinkLost)
    assert failed(grpc.StatusCode.UNAVAILABLE).message.startswith("host at h:1")


async def test_a_taken_address_is_refused(service):
    with pytest.raises(AddressInUse, match=r"127\.0\.0\.1"):
        Server(service[1])


async def test_health_and_reflection(service):
    channel = open_channel(service[1])
    health = await health_pb2_grpc.HealthStub(channel).Check(
        health_pb2.HealthCheckRequest(service=SERVICE), timeout=3
    )
    assert health.status == health_pb2.HealthCheckResponse.SERVING
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    async for answer in stub.ServerReflectionInfo(iter([request]), timeout=3):
        names = [service.name for service in answer.list_services_response.service]
        assert SERVICE in names
        break
    await channel.close(None)
