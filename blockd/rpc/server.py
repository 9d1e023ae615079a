"""How every blockd process serves gRPC: one listener, health, reflection, errors that say why.

A handler raises a BlockdError and the caller gets it back (status.py). Anything else that escapes a
handler is a bug: logged with its traceback, answered with INTERNAL, and the process goes on.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from blockd.model.errors import AddressInUse, BlockdError
from blockd.rpc.channel import MESSAGE_BYTES_MAX
from blockd.rpc.status import grpc_code, to_metadata

log = logging.getLogger("blockd.rpc")

OPTIONS = (
    ("grpc.so_reuseport", 0),  # a second server on the same port must fail, not share it
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 1000),
    ("grpc.http2.max_ping_strikes", 0),
)


class Server:
    """A listening gRPC server. Add services to `server`, then start(); stop() drains."""

    def __init__(self, listen: str) -> None:
        """listen: HOST:PORT; port 0 is picked by the kernel. Raises AddressInUse."""
        self.server = grpc.aio.server(interceptors=[ErrorInterceptor()], options=OPTIONS)
        self._health = health.aio.HealthServicer()  # type: ignore[attr-defined]
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self.server)
        host = listen.rpartition(":")[0]
        try:
            port = self.server.add_insecure_port(listen)
        except RuntimeError as error:
            raise AddressInUse(f"cannot listen on {listen}: the address is taken") from error
        if port == 0:
            raise AddressInUse(f"cannot listen on {listen}: the address is taken")
        self.endpoint = f"{host}:{port}"

    async def start(self, services: Sequence[str]) -> None:
        """services: full names, as the descriptors have them, for reflection and health."""
        names = [*services, health.SERVICE_NAME, reflection.SERVICE_NAME]
        reflection.enable_server_reflection(names, self.server)
        await self.server.start()
        for name in ("", *services):
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)

    async def stop(self, grace_seconds: float = 2.0) -> None:
        """Say NOT_SERVING, let calls under way end for `grace_seconds`, then cancel them."""
        await self._health.enter_graceful_shutdown()
        await self.server.stop(grace_seconds)


class ErrorInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]
    """The one place where exceptions of handlers become statuses."""

    async def intercept_service(
        self,
        continuation: Callable[
            [grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any]]
        ],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any]:
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None or not method.startswith("/blockd."):
            return handler
        return _wrapped(handler, method)


def _wrapped(handler: Any, method: str) -> grpc.RpcMethodHandler[Any, Any]:
    codec = {
        "request_deserializer": handler.request_deserializer,
        "response_serializer": handler.response_serializer,
    }
    if handler.response_streaming:
        if handler.request_streaming:
            return grpc.stream_stream_rpc_method_handler(
                _guard_stream(handler.stream_stream, method), **codec
            )
        return grpc.unary_stream_rpc_method_handler(
            _guard_stream(handler.unary_stream, method), **codec
        )
    if handler.request_streaming:
        return grpc.stream_unary_rpc_method_handler(
            _guard_unary(handler.stream_unary, method), **codec
        )
    return grpc.unary_unary_rpc_method_handler(_guard_unary(handler.unary_unary, method), **codec)


def _guard_unary(inner: Any, method: str) -> Any:
    async def call(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        try:
            return await inner(request, context)
        except Exception as error:
            await _abort(context, error, method)

    return call


def _guard_stream(inner: Any, method: str) -> Any:
    async def call(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[Any]:
        try:
            async for message in inner(request, context):
                yield message
        except Exception as error:
            await _abort(context, error, method)

    return call


async def _abort(
    context: grpc.aio.ServicerContext[Any, Any], error: Exception, method: str
) -> None:
    if isinstance(error, grpc.aio.AbortError):
        raise error
    if isinstance(error, BlockdError):
        log.debug("%s: %s: %s", method, error.name, error)
        await context.abort(grpc_code(error), error.message, to_metadata(error))
    log.exception("%s failed", method, exc_info=error)
    await context.abort(grpc.StatusCode.INTERNAL, f"internal error: {type(error).__name__}")
