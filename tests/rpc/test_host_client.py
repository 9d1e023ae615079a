"""Calls to host daemons over connections that have gone stale since the last one."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from blockd.config.endpoints import split_endpoint
from blockd.model.errors import LinkLost
from blockd.rpc.channel import HostClient
from blockd.rpc.gen import host_pb2
from tests.meta.fake_host import FakeHost


class StaleLink:
    """A way to a host; connections made before go_stale() are reset when they are used again, as
    those to a process that died while the network was cut."""

    def __init__(self, host: FakeHost) -> None:
        self.target = split_endpoint(host.endpoint)
        self.age = 0
        self.accepted = 0
        self.writers: list[asyncio.StreamWriter] = []

    async def start(self) -> None:
        self.server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.endpoint = f"127.0.0.1:{self.server.sockets[0].getsockname()[1]}"

    async def stop(self) -> None:
        self.server.close()
        for writer in self.writers:
            writer.transport.abort()
        await asyncio.gather(*(writer.wait_closed() for writer in self.writers))

    def go_stale(self) -> None:
        self.age += 1

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        born = self.age
        there, back = await asyncio.open_connection(*self.target)
        self.writers += [writer, back]
        answers = asyncio.create_task(self._pass(there, writer))
        while data := await reader.read(65536):
            if self.age != born:
                writer.transport.abort()
                break
            back.write(data)
        back.close()
        await answers

    async def _pass(self, there: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await there.read(65536):
            writer.write(data)


@pytest.fixture
async def host() -> AsyncIterator[FakeHost]:
    host = FakeHost("paris-1", "paris")
    await host.start()
    yield host
    await host.stop()


@pytest.fixture
async def link(host: FakeHost) -> AsyncIterator[StaleLink]:
    link = StaleLink(host)
    await link.start()
    yield link
    await link.stop()


@pytest.fixture
async def client() -> AsyncIterator[HostClient]:
    client = HostClient()
    yield client
    await client.close()


async def ask(client: HostClient, link: StaleLink, *, idempotent: bool) -> str:
    status = await client.call(
        link.endpoint,
        lambda stub: stub.GetStatus,
        host_pb2.GetStatusRequest(),
        timeout=5,
        idempotent=idempotent,
    )
    return status.host.name


async def test_what_may_be_repeated_goes_over_a_new_connection(client, link):
    assert await ask(client, link, idempotent=True) == "paris-1"
    link.go_stale()
    assert await ask(client, link, idempotent=True) == "paris-1"
    assert link.accepted == 2


async def test_what_must_not_be_repeated_says_that_the_link_is_lost(host, client, link):
    assert await ask(client, link, idempotent=False) == "paris-1"
    link.go_stale()
    with pytest.raises(LinkLost, match="host at"):
        await ask(client, link, idempotent=False)
    assert host.calls == ["GetStatus"]
    assert await ask(client, link, idempotent=False) == "paris-1"


async def test_a_host_that_is_gone_is_a_lost_link_either_way(client, link):
    link.server.close()
    for idempotent in (False, True):
        with pytest.raises(LinkLost):
            await ask(client, link, idempotent=idempotent)
