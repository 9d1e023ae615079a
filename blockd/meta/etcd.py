"""etcd as the metadata service needs it: linearizable reads, guarded commits, leases, watches.

Leans on aetcd for channels and etcd's messages. What this adds: several endpoints, of which any
that answers will do; and honesty about a commit whose answer was lost (WriteUnresolved), which only
the caller can settle, by reading back what it wrote (see records.py). Runs on the event loop; one
instance serves all tasks.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import aetcd
import grpc
import grpc.aio
from aetcd import rpc

from blockd.model.errors import BlockdError, MetadataUnreachable, WriteUnresolved

log = logging.getLogger("blockd.meta.etcd")

ATTEMPT_SECONDS = 1.0  # at one endpoint, before the next one is asked
CALL_SECONDS = 3.0  # altogether
OPS_PER_COMMIT_MAX = 120  # etcd's default limit is 128

_OPTIONS = {
    "grpc.max_receive_message_length": -1,
    "grpc.initial_reconnect_backoff_ms": 100,
    "grpc.min_reconnect_backoff_ms": 100,
    "grpc.max_reconnect_backoff_ms": 500,
    "grpc.keepalive_time_ms": 10000,
    "grpc.keepalive_timeout_ms": 2000,
    "grpc.enable_http_proxy": 0,
    "grpc.use_local_subchannel_pool": 1,
}
_EOF: Any = grpc.aio.EOF  # type: ignore[attr-defined]
_TRANSIENT = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.UNKNOWN,
)

Response = TypeVar("Response")


@dataclass(frozen=True)
class Entry:
    """A key as it was at some revision."""

    key: str
    value: bytes
    mod_revision: int
    create_revision: int
    lease: int


@dataclass(frozen=True)
class Change:
    """What happened to a key. entry.value is empty when it is gone."""

    entry: Entry
    is_delete: bool


class CompactedError(Exception):
    """The watch asked for revisions that etcd no longer has: read the present, watch from there."""


@dataclass(frozen=True)
class Put:
    """Write a key."""

    key: str
    value: bytes
    lease: int = 0


@dataclass(frozen=True)
class Delete:
    """Delete a key, or all keys with this prefix."""

    key: str
    prefix: bool = False


@dataclass(frozen=True)
class Unchanged:
    """Guard: the key is as it was read (mod_revision), or was not there (0)."""

    key: str
    mod_revision: int


@dataclass(frozen=True)
class SameLife:
    """Guard: the key has not been deleted since it was created at this revision."""

    key: str
    create_revision: int


Op = Put | Delete
Guard = Unchanged | SameLife


def split_url(url: str) -> tuple[str, int]:
    """ "http://127.0.0.1:2379" or "127.0.0.1:2379" -> host, port. Raises ValueError."""
    host, colon, port = url.removeprefix("http://").rstrip("/").rpartition(":")
    if not colon or not host:
        raise ValueError(f"not an etcd endpoint: {url!r}")
    return host, int(port)


class Etcd:
    """A client of one etcd cluster."""

    def __init__(self, endpoints: Sequence[str]) -> None:
        """endpoints: HOST:PORT or http://HOST:PORT, the preferred one first."""
        assert endpoints
        self._clients: dict[str, aetcd.Client] = {}
        self._endpoints: list[str] = []
        self._current = 0
        self.add_endpoints(endpoints)

    @property
    def endpoints(self) -> tuple[str, ...]:
        """Everything this client would try, HOST:PORT."""
        return tuple(self._endpoints)

    def add_endpoints(self, endpoints: Sequence[str]) -> None:
        """Learn of more members to fall back on."""
        for url in endpoints:
            host, port = split_url(url)
            name = f"{host}:{port}"
            if name not in self._clients:
                self._clients[name] = aetcd.Client(host, port, options=_OPTIONS)
                self._endpoints.append(name)

    async def close(self) -> None:
        """Close all connections; calls under way fail."""
        for client in self._clients.values():
            if client.channel is not None:
                await client.channel.close(None)

    async def get(self, key: str) -> Entry | None:
        """The key as it is now. Raises MetadataUnreachable."""
        request = rpc.RangeRequest(key=key.encode())
        answer = await self._read(lambda client, t: client.kvstub.Range(request, timeout=t))
        return _entry(answer.kvs[0]) if answer.kvs else None

    async def scan(self, prefix: str, *, keys_only: bool = False) -> list[Entry]:
        """All keys with this prefix as they are now, by key. Raises MetadataUnreachable."""
        entries, _ = await self.scan_at(prefix, keys_only=keys_only)
        return entries

    async def scan_at(
        self,
        prefix: str,
        *,
        keys_only: bool = False,
        limit: int = 0,
        newest_first: bool = False,
        after_revision: int = 0,
    ) -> tuple[list[Entry], int]:
        """Also the revision at which they were so; at most `limit`, those modified last first, or
        only those modified after a revision (then by revision)."""
        key = prefix.encode()
        request = rpc.RangeRequest(
            key=key, range_end=_prefix_end(key), keys_only=keys_only, limit=limit
        )
        if newest_first or after_revision:
            request.sort_target = rpc.RangeRequest.MOD
            request.sort_order = (
                rpc.RangeRequest.DESCEND if newest_first else rpc.RangeRequest.ASCEND
            )
        if after_revision:
            request.min_mod_revision = after_revision + 1
        answer = await self._read(lambda client, t: client.kvstub.Range(request, timeout=t))
        return [_entry(pair) for pair in answer.kvs], int(answer.header.revision)

    async def read_many(self, prefixes: Sequence[str]) -> list[list[Entry]]:
        """Several prefixes at one and the same revision. Raises MetadataUnreachable."""
        keys = [prefix.encode() for prefix in prefixes]
        requests = [rpc.RangeRequest(key=key, range_end=_prefix_end(key)) for key in keys]
        request = rpc.TxnRequest(success=[rpc.RequestOp(request_range=one) for one in requests])
        answer = await self._read(lambda client, t: client.kvstub.Txn(request, timeout=t))
        return [[_entry(pair) for pair in part.response_range.kvs] for part in answer.responses]

    async def count(self, prefix: str) -> int:
        """How many keys have this prefix."""
        key = prefix.encode()
        request = rpc.RangeRequest(key=key, range_end=_prefix_end(key), count_only=True)
        answer = await self._read(lambda client, t: client.kvstub.Range(request, timeout=t))
        return int(answer.count)

    async def commit(self, guards: Sequence[Guard], ops: Sequence[Op]) -> int | None:
        """Do all of `ops` at once if all guards hold.

        Returns the revision, or None: a guard failed and nothing was done. Raises WriteUnresolved:
        the answer was lost, it may be done or not. MetadataUnreachable: not done, also because the
        lease of a put has run out.
        """
        assert len(ops) <= OPS_PER_COMMIT_MAX
        assert len(guards) <= OPS_PER_COMMIT_MAX
        request = rpc.TxnRequest(
            compare=[_compare(guard) for guard in guards],
            success=[_request_op(op) for op in ops],
        )
        answer = await self._write(lambda client, t: client.kvstub.Txn(request, timeout=t))
        return int(answer.header.revision) if answer.succeeded else None

    async def grant(self, ttl_seconds: int) -> int:
        """A new lease's id. Raises MetadataUnreachable."""
        request = rpc.LeaseGrantRequest(TTL=ttl_seconds)
        answer = await self._read(lambda client, t: client.leasestub.LeaseGrant(request, timeout=t))
        return int(answer.ID)

    async def keep_alive(self, lease: int) -> bool:
        """Renew a lease; False: it has run out. Raises MetadataUnreachable."""

        async def once(client: aetcd.Client, timeout: float) -> Any:
            call = client.leasestub.LeaseKeepAlive(timeout=timeout)
            await call.write(rpc.LeaseKeepAliveRequest(ID=lease))
            answer = await call.read()
            await call.done_writing()
            call.cancel()
            if answer is _EOF:
                raise MetadataUnreachable("etcd ended the lease stream")
            return answer

        return int((await self._read(once)).TTL) > 0

    async def revoke(self, lease: int) -> None:
        """End a lease and delete its keys; no matter if it is gone already."""
        request = rpc.LeaseRevokeRequest(ID=lease)
        try:
            await self._read(lambda client, t: client.leasestub.LeaseRevoke(request, timeout=t))
        except BlockdError as error:
            log.debug("lease %x not revoked: %s", lease, error)

    async def watch(self, prefix: str, from_revision: int) -> AsyncIterator[list[Change]]:
        """Changes of keys with this prefix from a revision on, in order, for ever.

        Moves to another endpoint by itself. An empty list says that the watch is in place. Raises
        CompactedError; MetadataUnreachable: no endpoint has answered for a while.
        """
        key = prefix.encode()
        failures = 0
        next_revision = from_revision
        while True:
            request = rpc.WatchRequest(
                create_request=rpc.WatchCreateRequest(
                    key=key, range_end=_prefix_end(key), start_revision=next_revision
                )
            )
            try:
                async for changes, revision in self._watch_once(request):
                    failures = 0
                    next_revision = max(next_revision, revision + 1) if changes else next_revision
                    yield changes
            except grpc.aio.AioRpcError as error:
                failures += 1
                log.debug("watch of %s broke: %s", prefix, error.details())
                if failures > 2 * len(self._endpoints):
                    raise self._unreachable(error.details()) from None
            self._current = (self._current + 1) % len(self._endpoints)
            await asyncio.sleep(0.1)

    async def _watch_once(
        self, request: rpc.WatchRequest
    ) -> AsyncIterator[tuple[list[Change], int]]:
        client = await self._client(self._endpoints[self._current])
        call = rpc.WatchStub(client.channel).Watch(
            metadata=(("hasleader", "true"),)  # a member without a leader ends the stream
        )
        try:
            await call.write(request)
            while (answer := await call.read()) is not _EOF:
                if answer.compact_revision:
                    raise CompactedError(f"revisions before {answer.compact_revision} are gone")
                if answer.canceled:
                    return
                changes = [
                    Change(_entry(event.kv), event.type == rpc.Event.DELETE)
                    for event in answer.events
                ]
                yield changes, int(answer.header.revision)
        finally:
            call.cancel()

    async def _client(self, endpoint: str) -> aetcd.Client:
        client = self._clients[endpoint]
        await client.connect()
        return client

    async def _read(self, method: Callable[[aetcd.Client, float], Awaitable[Response]]) -> Response:
        """Call what does no harm when done twice, at one endpoint after the other."""
        deadline = time.monotonic() + CALL_SECONDS
        reason = ""
        while (remaining := deadline - time.monotonic()) > 0:
            endpoint = self._endpoints[self._current]
            client = await self._client(endpoint)
            try:
                return await method(client, min(ATTEMPT_SECONDS, remaining))
            except grpc.aio.AioRpcError as error:
                reason = error.details() or error.code().name
                if error.code() not in _TRANSIENT:
                    raise BlockdError(f"etcd at {endpoint}: {reason}") from error
            except MetadataUnreachable as error:
                reason = error.message
            log.debug("etcd at %s: %s", endpoint, reason)
            self._current = (self._current + 1) % len(self._endpoints)
            await asyncio.sleep(min(0.05, remaining))
        raise self._unreachable(reason)

    async def _write(
        self, method: Callable[[aetcd.Client, float], Awaitable[Response]]
    ) -> Response:
        """Call what must not be done twice, at an endpoint that has just answered a read."""
        await self.get("/")  # moves to a member that has a leader, at the cost of one round trip
        endpoint = self._endpoints[self._current]
        client = await self._client(endpoint)
        try:
            return await method(client, CALL_SECONDS)
        except grpc.aio.AioRpcError as error:
            reason = error.details() or error.code().name
            self._current = (self._current + 1) % len(self._endpoints)
            if error.code() is grpc.StatusCode.NOT_FOUND:  # the lease of a put; nothing is done
                raise MetadataUnreachable(
                    f"etcd at {endpoint}: {reason}: this instance, or the host that it writes of, "
                    "was away for too long; try again"
                ) from error
            if error.code() not in _TRANSIENT:
                raise BlockdError(f"etcd at {endpoint}: {reason}") from error
            raise WriteUnresolved(
                f"etcd at {endpoint} may have committed or not: {reason}"
            ) from error

    async def learn_members(self) -> None:
        """Add the client addresses of all members, so that losing the first one is no loss."""
        answer = await self._read(
            lambda client, t: client.clusterstub.MemberList(rpc.MemberListRequest(), timeout=t)
        )
        urls = [url for member in answer.members for url in member.clientURLs]
        self.add_endpoints([url for url in urls if url.startswith("http://")])

    def _unreachable(self, reason: str | None) -> BlockdError:
        return MetadataUnreachable(
            f"etcd does not answer at {', '.join(self._endpoints)}: {reason or 'no answer'}"
        )


def _entry(pair: Any) -> Entry:
    return Entry(pair.key.decode(), pair.value, pair.mod_revision, pair.create_revision, pair.lease)


def _prefix_end(prefix: bytes) -> bytes:
    assert prefix
    assert prefix[-1] < 0xFF
    return prefix[:-1] + bytes([prefix[-1] + 1])


def _compare(guard: Guard) -> Any:
    key = guard.key.encode()
    if isinstance(guard, Unchanged):
        return rpc.Compare(
            key=key,
            target=rpc.Compare.MOD,
            result=rpc.Compare.EQUAL,
            mod_revision=guard.mod_revision,
        )
    return rpc.Compare(
        key=key,
        target=rpc.Compare.CREATE,
        result=rpc.Compare.EQUAL,
        create_revision=guard.create_revision,
    )


def _request_op(op: Op) -> Any:
    key = op.key.encode()
    if isinstance(op, Put):
        put = rpc.PutRequest(key=key, value=op.value, lease=op.lease)
        return rpc.RequestOp(request_put=put)
    end = _prefix_end(key) if op.prefix else b""
    return rpc.RequestOp(request_delete_range=rpc.DeleteRangeRequest(key=key, range_end=end))
