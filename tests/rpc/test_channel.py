"""Connecting: what a caller that is cancelled may rely on."""

import asyncio
from typing import cast

import grpc
import pytest

from blockd.rpc.channel import wait_connected


class Channel:
    """Connects when told to."""

    def __init__(self) -> None:
        self.state = grpc.ChannelConnectivity.CONNECTING
        self.changed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def get_state(self, try_to_connect: bool) -> grpc.ChannelConnectivity:
        assert try_to_connect
        return self.state

    async def wait_for_state_change(self, state: grpc.ChannelConnectivity) -> None:
        await asyncio.shield(self.changed)

    def connect(self) -> None:
        self.state = grpc.ChannelConnectivity.READY
        self.changed.set_result(None)


async def test_it_waits_until_there_is_a_connection() -> None:
    channel = Channel()
    waiting = asyncio.create_task(wait_connected(cast("grpc.aio.Channel", channel), 10))
    await asyncio.sleep(0)
    assert not waiting.done()
    channel.connect()
    assert await waiting
    assert not await wait_connected(cast("grpc.aio.Channel", Channel()), 0.01)


@pytest.mark.parametrize("rounds", range(4))
async def test_a_cancellation_that_meets_the_connection_is_not_lost(rounds: int) -> None:
    """A daemon that is told to stop while its agent connects would go on for ever."""
    channel = Channel()
    waiting = asyncio.create_task(wait_connected(cast("grpc.aio.Channel", channel), 10))
    await asyncio.sleep(0.01)
    channel.connect()
    for _ in range(rounds):
        await asyncio.sleep(0)
    if waiting.done():
        return
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
