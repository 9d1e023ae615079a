"""VolumeIO: reads and writes of an attached volume over gRPC, streamed and checksummed.

A stream keeps at most WINDOW extents in flight, so one client's memory is bounded whatever it asks
for, and gRPC's flow control holds a writer that is faster than the replicas. Writes of one stream
that overlap are applied in the order in which they came; others run at once.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Iterable
from typing import Any
from uuid import UUID

import grpc

from blockd.host.attachments import Attachments, Held
from blockd.model.errors import (
    BlockdError,
    ChecksumMismatch,
    ExtentOutOfRange,
    InvalidArgument,
    ReadOnly,
    RequestTooLarge,
)
from blockd.model.ids import parse_id
from blockd.native import core as native
from blockd.native.checksum import crc32c
from blockd.rpc.gen import volume_io_pb2, volume_io_pb2_grpc

READ_CHUNK_BYTES = 1 << 20
WRITE_CHUNK_BYTES_MAX = 2 << 20
WINDOW = 8
DISCARD_S = 2.0

Context = grpc.aio.ServicerContext[Any, Any]


class VolumeIO(volume_io_pb2_grpc.VolumeIOServicer):
    """One instance a daemon."""

    def __init__(self, core: native.Core, attachments: Attachments) -> None:
        self._core = core
        self._attachments = attachments

    async def Read(
        self, request: volume_io_pb2.ReadRequest, context: Context
    ) -> AsyncIterator[volume_io_pb2.ReadChunk]:
        held = self._held(request.volume_id)
        check_extent(held, request.offset_bytes, request.length_bytes)
        end = request.offset_bytes + request.length_bytes
        offsets = iter(range(request.offset_bytes, end, READ_CHUNK_BYTES))
        window: deque[asyncio.Task[volume_io_pb2.ReadChunk]] = deque()
        try:
            while True:
                while len(window) < WINDOW and (offset := next(offsets, None)) is not None:
                    length = min(READ_CHUNK_BYTES, end - offset)
                    window.append(asyncio.create_task(self._read(held.volume_id, offset, length)))
                if not window:
                    return
                yield await window[0]
                window.popleft()
        finally:
            await give_up(window)

    async def _read(self, volume_id: UUID, offset: int, length: int) -> volume_io_pb2.ReadChunk:
        data = await self._core.read(volume_id, offset, length)
        return volume_io_pb2.ReadChunk(offset_bytes=offset, data=data, crc32c=crc32c(data))

    async def Write(
        self, request_iterator: AsyncIterator[volume_io_pb2.WriteChunk], context: Context
    ) -> volume_io_pb2.WriteSummary:
        held: Held | None = None
        window = WriteWindow()
        summary = volume_io_pb2.WriteSummary()
        try:
            async for chunk in request_iterator:
                if held is None:
                    held = self._writable(chunk.volume_id)
                check_chunk(held, chunk)
                await window.make_room(chunk.offset_bytes, len(chunk.data))
                window.add(
                    chunk.offset_bytes,
                    len(chunk.data),
                    asyncio.create_task(
                        self._core.write(
                            held.volume_id, chunk.offset_bytes, chunk.data, fua=chunk.fua
                        )
                    ),
                )
                summary.bytes += len(chunk.data)
                summary.chunks += 1
            await window.drain()
        except BlockdError:
            await discard(request_iterator)
            raise
        finally:
            await give_up(window.tasks())
        if held is None:
            raise InvalidArgument("the stream held no chunk")
        return summary

    async def Flush(
        self, request: volume_io_pb2.FlushRequest, context: Context
    ) -> volume_io_pb2.FlushResponse:
        await self._core.flush(self._held(request.volume_id).volume_id)
        return volume_io_pb2.FlushResponse()

    async def Trim(
        self, request: volume_io_pb2.TrimRequest, context: Context
    ) -> volume_io_pb2.TrimResponse:
        held = self._writable(request.volume_id)
        check_extent(held, request.offset_bytes, request.length_bytes)
        run = self._core.write_zeroes if request.write_zeroes else self._core.trim
        await run(held.volume_id, request.offset_bytes, request.length_bytes)
        return volume_io_pb2.TrimResponse()

    def _held(self, volume_id: str) -> Held:
        return self._attachments.get(parse_id(volume_id, "volume"))

    def _writable(self, volume_id: str) -> Held:
        held = self._held(volume_id)
        if held.is_read_only:
            raise ReadOnly(f"volume {held.name} is a branch, which stays as it is")
        return held


class WriteWindow:
    """The writes of one stream that are in flight, oldest first."""

    def __init__(self) -> None:
        self._writes: deque[tuple[int, int, asyncio.Task[None]]] = deque()

    def add(self, offset: int, length: int, task: asyncio.Task[None]) -> None:
        """REQUIRES: make_room() for this extent."""
        self._writes.append((offset, offset + length, task))

    async def make_room(self, offset: int, length: int) -> None:
        """Wait until one more write fits and none in flight overlaps it. Raises what they raise."""
        while len(self._writes) >= WINDOW or any(
            begin < offset + length and offset < end for begin, end, _ in self._writes
        ):
            await self._finish_oldest()

    async def drain(self) -> None:
        """Wait for all. Raises what they raise."""
        while self._writes:
            await self._finish_oldest()

    async def _finish_oldest(self) -> None:
        await self._writes[0][2]
        self._writes.popleft()

    def tasks(self) -> list[asyncio.Task[None]]:
        """Those not waited for yet."""
        return [task for _, _, task in self._writes]


async def discard(chunks: AsyncIterator[volume_io_pb2.WriteChunk]) -> None:
    """Read what a client still sends, for a while: many see a failed call's status only after that,
    and an internal error otherwise."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(DISCARD_S):
            async for _ in chunks:
                pass


async def give_up(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """End what a stream that failed or was cancelled has left in flight."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def check_extent(held: Held, offset: int, length: int) -> None:
    """Raises InvalidArgument, ExtentOutOfRange."""
    if length == 0:
        raise InvalidArgument("length_bytes is 0")
    if offset > held.size_bytes or length > held.size_bytes - offset:
        raise ExtentOutOfRange(
            f"[{offset}, {offset + length}) ends beyond the {held.size_bytes} bytes of {held.name}"
        )


def check_chunk(held: Held, chunk: volume_io_pb2.WriteChunk) -> None:
    """What a chunk must satisfy before any of it is written."""
    if chunk.volume_id and parse_id(chunk.volume_id, "volume") != held.volume_id:
        raise InvalidArgument("a stream writes to one volume")
    if len(chunk.data) > WRITE_CHUNK_BYTES_MAX:
        raise RequestTooLarge(f"a chunk of {len(chunk.data)} bytes exceeds {WRITE_CHUNK_BYTES_MAX}")
    check_extent(held, chunk.offset_bytes, len(chunk.data))
    if crc32c(chunk.data) != chunk.crc32c:
        raise ChecksumMismatch(f"the chunk at {chunk.offset_bytes} does not match its crc32c")
