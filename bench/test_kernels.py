"""The hot kernels one by one, under pytest-benchmark: `make bench`, or pytest bench.

Journal append and chunk lookup go through one native core with one store and a volume of one
replica: what is measured includes the hand-over to the reactor's thread and back.
"""

import asyncio
import random
import uuid
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from blockd.native import checksum
from blockd.native.core import Core, format_store
from blockd.native.values import Member, Segment, VolumeSpec
from blockd.rules.placement import Candidate, StoreRoom, place_segments

MIB = 1 << 20
GIB = 1 << 30
BLOCK_BYTES = 4096
BATCH = 64  # operations a measured call: the event loop's own turn counts once for all of them
VOLUME_BYTES = GIB
Result = TypeVar("Result")


@pytest.mark.parametrize("size_bytes", [BLOCK_BYTES, 64 << 10, MIB])
def test_crc32c(benchmark: BenchmarkFixture, size_bytes: int) -> None:
    data = random.Random(1).randbytes(size_bytes)
    benchmark.extra_info["kernel"] = checksum.kernel_name()
    benchmark(checksum.crc32c, data)


def test_checksum_blocks_of_one_mebibyte(benchmark: BenchmarkFixture) -> None:
    data = random.Random(2).randbytes(MIB)
    sums = benchmark(checksum.checksum_blocks, data)
    assert checksum.verify_blocks(data, sums) == -1


def test_placement_of_a_terabyte_on_a_hundred_hosts(benchmark: BenchmarkFixture) -> None:
    sites = [f"site{index}" for index in range(10)]
    hosts = [
        Candidate(
            host_id=str(uuid.UUID(int=index)),
            name=f"host{index}",
            site=sites[index % len(sites)],
            is_up=True,
            stores=(StoreRoom(str(uuid.UUID(int=1000 + index)), 4096 * GIB, 0, index * GIB),),
        )
        for index in range(100)
    ]
    segments = [GIB] * 1024
    places = benchmark(lambda: place_segments(segments, 3, hosts, sites, rng=random.Random(3)))
    assert len(places) == len(segments)


class Bench:
    """One core, one store, one attached volume, and the event loop that drives them."""

    def __init__(self, folder: Path) -> None:
        self._runner = asyncio.Runner()
        self.volume_id = uuid.uuid4()
        self.core: Core
        self.run(self._open(folder))

    def run(self, awaitable: Awaitable[Result]) -> Result:
        async def awaited() -> Result:
            return await awaitable

        return self._runner.run(awaited())

    def close(self) -> None:
        self.run(self.core.close())
        self._runner.close()

    async def _open(self, folder: Path) -> None:
        host_id, store_id, cluster_id = uuid.uuid4(), uuid.uuid4(), uuid.uuid4()
        path = str(folder / "store")
        format_store(path, store_id=store_id, cluster_id=cluster_id, size_bytes=4 * GIB)
        self.core = Core(host_id=host_id, cluster_id=cluster_id)
        await self.core.start()
        await self.core.open_store(path)
        block_count = VOLUME_BYTES // BLOCK_BYTES
        await self.core.create_replica(store_id, self.volume_id, 0, block_count)
        member = Member(host_id=host_id, store_id=store_id, distance=0, in_sync=True)
        await self.core.attach(
            VolumeSpec(
                volume_id=self.volume_id,
                name="bench",
                size_bytes=VOLUME_BYTES,
                epoch=1,
                min_in_sync=1,
                segments=(Segment(index=0, generation=1, members=(member,)),),
            )
        )


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    # On the disk that the comparison uses too: /tmp may be memory, where O_DIRECT means nothing.
    bench = Bench(tmp_path_factory.mktemp("kernels"))
    yield bench
    bench.close()


def batch_of(operation: Callable[[int], Awaitable[object]]) -> Callable[[], Awaitable[object]]:
    """BATCH operations at once on random blocks of the volume, the same ones in every run."""
    rng = random.Random(4)

    async def batch() -> None:
        blocks = [rng.randrange(VOLUME_BYTES // BLOCK_BYTES) for _ in range(BATCH)]
        await asyncio.gather(*(operation(block) for block in blocks))

    return batch


def test_journal_append_of_64_blocks(benchmark: BenchmarkFixture, bench: Bench) -> None:
    data = random.Random(5).randbytes(BLOCK_BYTES)
    write = batch_of(lambda block: bench.core.write(bench.volume_id, block * BLOCK_BYTES, data))
    benchmark(lambda: bench.run(write()))


def test_chunk_lookup_of_64_blocks(benchmark: BenchmarkFixture, bench: Bench) -> None:
    locate = batch_of(lambda block: bench.core.locate(bench.volume_id, 0, block))
    benchmark(lambda: bench.run(locate()))
