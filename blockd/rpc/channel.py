"""Calls from one blockd process to another: channels, deadlines, any metadata instance.

Every call has a deadline. A call fails with a BlockdError (status.py), never with a gRPC exception.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeAlias, TypeVar

import grpc
import grpc.aio

from blockd.model.errors import BlockdError, LinkLost, MetadataUnreachable
from blockd.rpc.gen.host_pb2_grpc import HostServiceStub
from blockd.rpc.gen.meta_pb2_grpc import MetadataStub
from blockd.rpc.status import carries_error, from_rpc_error, hinted

if TYPE_CHECKING:  # these exist for type checkers only
    from blockd.rpc.gen.host_pb2_grpc import HostServiceAsyncStub
    from blockd.rpc.gen.meta_pb2_grpc import MetadataAsyncStub

MESSAGE_BYTES_MAX = 64 << 20  # a volume of 16 TiB with its 16384 segments fits several times
CONNECT_SECONDS = 1.0
ATTEMPT_SECONDS = 3.0  # of a call that may be repeated elsewhere

OPTIONS = (
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
    ("grpc.keepalive_time_ms", 5000),
    ("grpc.keepalive_timeout_ms", 2000),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),  # a closed channel's failures are not the next one's
)

Request = TypeVar("Request")
Response = TypeVar("Response")
MetaMethod: TypeAlias = (
    "Callable[[MetadataAsyncStub], grpc.aio.UnaryUnaryMultiCallable[Request, Response]]"
)
MetaStream: TypeAlias = (
    "Callable[[MetadataAsyncStub], grpc.aio.UnaryStreamMultiCallable[Request, Response]]"
)
HostMethod: TypeAlias = (
    "Callable[[HostServiceAsyncStub], grpc.aio.UnaryUnaryMultiCallable[Request, Response]]"
)
HostStream: TypeAlias = (
    "Callable[[HostServiceAsyncStub], grpc.aio.UnaryStreamMultiCallable[Request, Response]]"
)


def open_channel(endpoint: str) -> grpc.aio.Channel:
    """A channel to HOST:PORT; connects with its first call."""
    return grpc.aio.insecure_channel(endpoint, options=OPTIONS)


class MetaClient:
    """The metadata service, through whichever of its instances answers.

    It stays with the instance that answered last. A call moves on to the next one when the instance
    cannot be reached or says that it cannot reach etcd, since neither has done anything; when the
    connection breaks or goes silent in the middle, only a call that is `idempotent` moves on.
    """

    def __init__(self, endpoints: Sequence[str]) -> None:
        if not endpoints:
            raise MetadataUnreachable("no metadata endpoint is known")
        self.endpoints = tuple(endpoints)
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._current = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all channels; calls under way fail."""
        channels, self._channels = list(self._channels.values()), {}
        for channel in channels:
            await channel.close(None)

    async def call(
        self,
        method: MetaMethod[Request, Response],
        request: Request,
        *,
        timeout: float = 10.0,
        idempotent: bool = False,
    ) -> Response:
        """One unary call, as in `call(lambda meta: meta.GetVolume, request, idempotent=True)`.

        Raises what the service raised; MetadataUnreachable: no instance answers; LinkLost, Timeout:
        the outcome of a call that is not idempotent is unknown.
        """
        deadline = time.monotonic() + timeout
        failure: BlockdError | None = None
        for _ in self.endpoints:
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                break
            endpoint = self.endpoints[self._current]
            if not await self._connected(endpoint, min(CONNECT_SECONDS, remaining)):
                self._move_on()
                continue
            limit = min(ATTEMPT_SECONDS, remaining) if idempotent else remaining
            if len(self.endpoints) == 1:
                limit = remaining
            try:
                return await method(self._stub(endpoint))(request, timeout=limit)
            except grpc.aio.AioRpcError as error:
                failure = from_rpc_error(error, f"metadata service at {endpoint}")
                if carries_error(error):
                    if not isinstance(failure, MetadataUnreachable):
                        raise failure from None
                elif error.code() not in _LOST or not idempotent:
                    raise failure from None
                self._move_on()
        raise self._unreachable(failure) from failure

    async def stream(
        self, method: MetaStream[Request, Response], request: Request
    ) -> AsyncIterator[Response]:
        """One server stream without a deadline, at the first instance that can be reached.

        Raises as call() does; when the stream breaks the caller resumes it.
        """
        for _ in self.endpoints:
            endpoint = self.endpoints[self._current]
            if not await self._connected(endpoint, CONNECT_SECONDS):
                self._move_on()
                continue
            try:
                async for message in method(self._stub(endpoint))(request):
                    yield message
                return
            except grpc.aio.AioRpcError as error:
                if not carries_error(error):
                    self._move_on()
                raise from_rpc_error(error, f"metadata service at {endpoint}") from None
        raise self._unreachable(None)

    async def reachable(self, endpoint: str) -> bool:
        """Whether the instance at `endpoint` accepts connections."""
        return await self._connected(endpoint, CONNECT_SECONDS)

    def _stub(self, endpoint: str) -> MetadataAsyncStub:
        return MetadataStub(self._channels[endpoint])

    def _move_on(self) -> None:
        self._current = (self._current + 1) % len(self.endpoints)

    async def _connected(self, endpoint: str, timeout: float) -> bool:
        channel = self._channels.get(endpoint)
        if channel is None:
            channel = self._channels[endpoint] = open_channel(endpoint)
        return await wait_connected(channel, timeout)

    def _unreachable(self, cause: BlockdError | None) -> BlockdError:
        reason = f": {cause.message}" if cause is not None else ""
        error = MetadataUnreachable(
            f"no metadata service answers at {', '.join(self.endpoints)}{reason}"
        )
        return hinted(error, "check that `blockd meta` runs there and that etcd has a majority")


class HostClient:
    """Host daemons, by their gRPC endpoints; channels are kept."""

    def __init__(self) -> None:
        self._channels: dict[str, grpc.aio.Channel] = {}

    async def close(self) -> None:
        """Close all channels; calls under way fail."""
        channels, self._channels = list(self._channels.values()), {}
        for channel in channels:
            await channel.close(None)

    async def call(
        self,
        endpoint: str,
        method: HostMethod[Request, Response],
        request: Request,
        *,
        timeout: float,
        idempotent: bool = False,
    ) -> Response:
        """One unary call. Raises what the host raised; LinkLost, Timeout: it does not answer.

        A kept connection may be to a process, or over a network, that is no more, which shows only
        when it is used; a call that is `idempotent` is then made again over a new one.
        """
        deadline = time.monotonic() + timeout
        try:
            return await method(self._stub(endpoint))(request, timeout=timeout)
        except grpc.aio.AioRpcError as error:
            failure = from_rpc_error(error, f"host at {endpoint}")
            if carries_error(error) or not isinstance(failure, LinkLost) or not idempotent:
                raise failure from None
        try:
            remaining = deadline - time.monotonic()
            return await method(self._stub(endpoint))(request, timeout=remaining)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error, f"host at {endpoint}") from None

    async def stream(
        self,
        endpoint: str,
        method: HostStream[Request, Response],
        request: Request,
        *,
        timeout: float,
    ) -> AsyncIterator[Response]:
        """One server stream under a deadline for the whole of it. Raises as call() does."""
        try:
            async for message in method(self._stub(endpoint))(request, timeout=timeout):
                yield message
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error, f"host at {endpoint}") from None

    def _stub(self, endpoint: str) -> HostServiceAsyncStub:
        channel = self._channels.get(endpoint)
        if channel is None:
            channel = self._channels[endpoint] = open_channel(endpoint)
        return HostServiceStub(channel)


async def wait_connected(channel: grpc.aio.Channel, timeout: float) -> bool:
    """Whether the channel has a connection within `timeout`; gives up at once when refused."""
    deadline = time.monotonic() + timeout
    state = channel.get_state(try_to_connect=True)
    seen_failure = state is grpc.ChannelConnectivity.TRANSIENT_FAILURE
    while state is not grpc.ChannelConnectivity.READY:
        if state is grpc.ChannelConnectivity.TRANSIENT_FAILURE and not seen_failure:
            return False
        seen_failure = False
        remaining = deadline - time.monotonic()
        if remaining <= 0:
            return False
        try:
            async with asyncio.timeout(remaining):  # wait_for() may swallow a cancellation
                await channel.wait_for_state_change(state)
        except TimeoutError:
            return False
        state = channel.get_state(try_to_connect=True)
    return True


_LOST = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
