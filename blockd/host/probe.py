"""Trying out a device or file with O_DIRECT: alignment, flushes, discard, speed.

Everything but smallest_transfer() writes, into one region and nowhere else; what was there is lost.
Whoever calls decides where that is allowed (qualify.py).
"""

import contextlib
import ctypes
import mmap
import os
import random
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from blockd.model.units import BLOCK_BYTES

FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE = 1, 2
ALIGNMENTS = (512, 1024, 2048, BLOCK_BYTES)
STREAM_BYTES = 1 << 20
STREAMS = 4  # requests in flight of a sequential run
DEPTH = 16  # of a random run
SAMPLES_MIN = 16  # of a latency, however slow the device is


@dataclass(frozen=True)
class Region:
    """Where an open file may be written: [offset, offset + length), in whole MiB."""

    fd: int
    offset: int
    length: int

    def block(self, rng: random.Random) -> int:
        """The offset of a random block."""
        return self.offset + rng.randrange(self.length // BLOCK_BYTES) * BLOCK_BYTES


@dataclass(frozen=True)
class Latency:
    """Medians in microseconds, one request at a time. flush_us: of fdatasync after a write."""

    write_us: int
    flush_us: int
    dsync_write_us: int


def smallest_transfer(fd: int) -> int | None:
    """The smallest size and alignment, of memory and offset, that reads; None: not even 4096."""
    with page_buffer(2 * BLOCK_BYTES) as buffer:
        for size in ALIGNMENTS:
            with contextlib.suppress(OSError):
                if os.preadv(fd, [buffer[size : 2 * size]], size) == size:
                    return size
    return None


def can_write_blocks(region: Region) -> bool:
    """Whether a block of 4096 bytes is written and read back."""
    with page_buffer(2 * BLOCK_BYTES) as buffer:
        buffer[:BLOCK_BYTES] = os.urandom(BLOCK_BYTES)
        try:
            os.pwritev(region.fd, [buffer[:BLOCK_BYTES]], region.offset)
            os.preadv(region.fd, [buffer[BLOCK_BYTES:]], region.offset)
        except OSError:
            return False
        return bytes(buffer[:BLOCK_BYTES]) == bytes(buffer[BLOCK_BYTES:])


def stream(region: Region, seconds: float, *, write: bool) -> int:
    """MiB/s of 1 MiB requests in order, a few at a time. The first pass writes all of the region,
    so that what follows measures the device and not the file system's allocation."""
    places = range(region.offset, region.offset + region.length, STREAM_BYTES)

    def one(buffer: memoryview, number: int, _: random.Random) -> None:
        transfer(region.fd, buffer, places[number % len(places)], write=write)

    minimum = len(places) if write else 1
    return round(run(one, STREAMS, STREAM_BYTES, seconds, minimum))


def random_writes(region: Region, seconds: float, *, flushed: bool) -> int:
    """Writes of one block a second, many at a time; flushed: each with a flush behind it."""

    def one(buffer: memoryview, _: int, rng: random.Random) -> None:
        transfer(region.fd, buffer, region.block(rng), write=True)
        if flushed:
            os.fdatasync(region.fd)

    return round(run(one, DEPTH, BLOCK_BYTES, seconds, 1))


def latency(region: Region, seconds: float) -> Latency:
    """One block at a time. REQUIRES: the region has been written."""
    rng = random.Random(1)
    writes: list[float] = []
    flushes: list[float] = []
    dsync: list[float] = []
    with page_buffer(BLOCK_BYTES) as buffer:
        buffer[:] = os.urandom(BLOCK_BYTES)
        end = time.monotonic() + seconds
        while time.monotonic() < end or len(writes) < SAMPLES_MIN:
            writes.append(timed(lambda: transfer(region.fd, buffer, region.block(rng), write=True)))
            flushes.append(timed(lambda: os.fdatasync(region.fd)))
            dsync.append(
                timed(lambda: os.pwritev(region.fd, [buffer], region.block(rng), os.RWF_DSYNC))
            )
    return Latency(*(round(statistics.median(each) * 1e6) for each in (writes, flushes, dsync)))


def discard(region: Region) -> bool | None:
    """Discard the region. True: it reads back as zeros; False: it does not; None: refused."""
    if not punch(region):
        return None
    return reads_zero(region.fd, region.offset, region.length)


def punch(region: Region) -> bool:
    """As the store discards. False: the device or file system refuses."""
    libc = ctypes.CDLL(None, use_errno=True)
    mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE
    length = ctypes.c_long(region.length)
    return bool(libc.fallocate(region.fd, mode, ctypes.c_long(region.offset), length) == 0)


def write_zeros(region: Region) -> None:
    """For what cannot be discarded. Raises OSError."""
    with page_buffer(STREAM_BYTES) as buffer:
        for at in range(region.offset, region.offset + region.length, STREAM_BYTES):
            transfer(region.fd, buffer, at, write=True)
    os.fdatasync(region.fd)


def reads_zero(fd: int, offset: int, length: int) -> bool:
    """Whether that holds nothing but zeros; whole MiB. Raises OSError."""
    zeros = bytes(STREAM_BYTES)
    with page_buffer(STREAM_BYTES) as buffer:
        for at in range(offset, offset + length, STREAM_BYTES):
            transfer(fd, buffer, at, write=False)
            if buffer != zeros:
                return False
    return True


def transfer(fd: int, buffer: memoryview, offset: int, *, write: bool) -> None:
    """All of the buffer. Raises OSError, also when less was transferred."""
    done = os.pwritev(fd, [buffer], offset) if write else os.preadv(fd, [buffer], offset)
    if done != len(buffer):
        raise OSError(f"{done} of {len(buffer)} bytes were transferred at {offset}")


def run(
    one: Callable[[memoryview, int, random.Random], None],
    workers: int,
    buffer_bytes: int,
    seconds: float,
    minimum: int,
) -> float:
    """Requests a second: `one` over and over in threads that share the numbers 0, 1, 2, ..."""
    numbers = iter(range(1 << 62))
    start = time.monotonic()

    def work(seed: int) -> int:
        rng = random.Random(seed)
        count = 0
        with page_buffer(buffer_bytes) as buffer:
            buffer[:] = os.urandom(buffer_bytes)
            for number in numbers:  # next() of a range's iterator is one step: threads may share
                if number >= minimum and time.monotonic() - start >= seconds:
                    break
                one(buffer, number, rng)
                count += 1
        return count

    with ThreadPoolExecutor(workers) as pool:
        done = sum(pool.map(work, range(workers)))
    return done / max(time.monotonic() - start, 1e-9)


def timed(work: Callable[[], object]) -> float:
    """Seconds that it took."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


@contextlib.contextmanager
def page_buffer(size: int) -> Iterator[memoryview]:
    """Memory aligned to a page."""
    with (
        mmap.mmap(-1, max(size, mmap.PAGESIZE)) as memory,
        memoryview(memory) as view,
        view[:size] as part,
    ):
        yield part
