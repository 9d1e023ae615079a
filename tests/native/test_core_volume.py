"""One host, one volume: what is written is read back, at any offset, over NBD, after a restart."""

import asyncio
import errno
import random
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from blockd.model.errors import (
    AlreadyExists,
    ChecksumMismatch,
    EpochFenced,
    ExtentOutOfRange,
    InvalidArgument,
    NotAttached,
    NotFound,
)
from blockd.model.units import SEGMENT_BYTES
from blockd.native.checksum import crc32c
from blockd.native.values import VolumeStateChanged
from tests.native.hosts import MIB, Cluster, Host, single

sys.path.append("/usr/lib/python3/dist-packages")  # python3-libnbd

SIZE = SEGMENT_BYTES // 16


@pytest_asyncio.fixture
async def alone(tmp_path: Path) -> AsyncIterator[tuple[Host, Cluster]]:
    host, cluster = await single(tmp_path, SIZE)
    yield host, cluster
    await cluster.close()


def connect(uri: str) -> Any:
    import nbd

    handle = nbd.NBD()
    handle.connect_uri(uri)
    return handle


async def test_write_then_read(alone: tuple[Host, Cluster]) -> None:
    host, cluster = alone
    core, volume = host.core, cluster.volume_id
    data = random.Random(1).randbytes(3 * MIB + 12345)
    await core.write(volume, 777, data)
    assert await core.read(volume, 777, len(data)) == data
    assert await core.read(volume, 0, 777) == bytes(777)
    assert await core.read(volume, SIZE - 5, 5) == bytes(5)
    assert await core.read(volume, 0, 0) == b""
    await core.flush(volume)


async def test_any_kind_of_buffer(alone: tuple[Host, Cluster]) -> None:
    host, cluster = alone
    core, volume = host.core, cluster.volume_id
    await core.write(volume, 0, bytearray(b"bytearray"))
    await core.write(volume, 100, memoryview(b"memoryview")[6:], fua=True)
    await core.write(volume, 200, b"")
    assert await core.read(volume, 0, 9) == b"bytearray"
    assert await core.read(volume, 100, 4) == b"view"
    with pytest.raises(TypeError):
        await core.write(volume, 0, "text")  # type: ignore[arg-type]


async def test_random_extents_against_a_model(alone: tuple[Host, Cluster]) -> None:
    host, cluster = alone
    core, volume = host.core, cluster.volume_id
    rng = random.Random(5)
    model = bytearray(2 * MIB)
    for _ in range(150):
        offset = rng.randrange(len(model))
        length = rng.randrange(min(len(model) - offset, rng.choice([600, 9000, MIB]))) + 1
        match rng.randrange(5):
            case 0 | 1:
                data = rng.randbytes(length)
                await core.write(volume, offset, data, fua=rng.random() < 0.1)
                model[offset : offset + length] = data
            case 2:
                clear = core.trim if rng.random() < 0.5 else core.write_zeroes
                await clear(volume, offset, length)
                model[offset : offset + length] = bytes(length)
            case _:
                assert await core.read(volume, offset, length) == model[offset : offset + length]
    assert await core.read(volume, 0, len(model)) == model


async def test_many_at_once(alone: tuple[Host, Cluster]) -> None:
    host, cluster = alone
    core, volume = host.core, cluster.volume_id
    blocks = [random.Random(i).randbytes(5000) for i in range(200)]
    await asyncio.gather(*(core.write(volume, i * 5000, b) for i, b in enumerate(blocks)))
    read = await asyncio.gather(*(core.read(volume, i * 5000, 5000) for i in range(200)))
    assert read == blocks


async def test_beyond_the_end(alone: tuple[Host, Cluster]) -> None:
    host, cluster = alone
    core, volume = host.core, cluster.volume_id
    for call in (
        core.read(volume, SIZE - 1, 2),
        core.read(volume, SIZE + 1, 0),
        core.write(volume, SIZE, b"x"),
        core.trim(volume, 0, SIZE + 1),
        core.write_zeroes(volume, (1 << 64) - 1, (1 << 64) - 1),
    ):
        with pytest.raises(ExtentOutOfRange):
            await call


async def test_a_cancelled_write_keeps_its_buffer_until_it_is_done(
    alone: tuple[Host, Cluster],
) -> None:
    host, cluster = alone
    core, volume = host.core, cluster.volume_id
    data = bytearray(b"\xab" * (4 * MIB))
    writing = asyncio.create_task(core.write(volume, 0, data))
    await asyncio.sleep(0)
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    with pytest.raises(BufferError):  # still lent: it cannot be resized
        data.clear()
    await core.flush(volume)
    async with asyncio.timeout(10):
        while True:
            try:
                data.clear()
                break
            except BufferError:
                await asyncio.sleep(0.01)


async def test_a_cancelled_read_harms_nobody(alone: tuple[Host, Cluster]) -> None:
    host, cluster = alone
    core, volume = host.core, cluster.volume_id
    await core.write(volume, 0, b"\x5a" * MIB)
    for _ in range(20):
        reading = asyncio.create_task(core.read(volume, 0, MIB))
        await asyncio.sleep(0)
        reading.cancel()
    assert await core.read(volume, 0, MIB) == b"\x5a" * MIB


async def test_restart_keeps_the_data(tmp_path: Path) -> None:
    host, cluster = await single(tmp_path, SIZE)
    data = random.Random(9).randbytes(2 * MIB + 100)
    await host.core.write(cluster.volume_id, 4000, data)
    await host.core.flush(cluster.volume_id)
    await host.stop()
    await host.start()
    await cluster.attach(host)
    assert await host.core.read(cluster.volume_id, 4000, len(data)) == data
    (replica,) = await host.core.list_replicas()
    assert replica.promised_epoch == 2
    await cluster.close()


async def test_attach_twice_detach_twice(alone: tuple[Host, Cluster]) -> None:
    host, cluster = alone
    core = host.core
    with pytest.raises(AlreadyExists, match="epoch 1"):
        await core.attach(cluster.spec(host, 5))
    await core.detach(cluster.volume_id)
    with pytest.raises(NotAttached):
        await core.detach(cluster.volume_id)
    with pytest.raises(NotAttached):
        await core.read(cluster.volume_id, 0, 1)


async def test_an_older_epoch_is_fenced(alone: tuple[Host, Cluster]) -> None:
    host, cluster = alone
    await host.core.detach(cluster.volume_id)
    await host.core.attach(cluster.spec(host, 7))
    await host.core.detach(cluster.volume_id)
    with pytest.raises(EpochFenced):
        await host.core.attach(cluster.spec(host, 6))
    with pytest.raises(NotAttached):  # a failed attach leaves nothing behind
        await host.core.volume_status(cluster.volume_id)
    await host.core.attach(cluster.spec(host, 8))


async def test_malformed_specs_are_refused(alone: tuple[Host, Cluster]) -> None:
    host, cluster = alone
    good = cluster.spec(host, 9)
    await host.core.detach(cluster.volume_id)
    changes: list[dict[str, Any]] = [
        {"epoch": 0},
        {"size_bytes": 0},
        {"size_bytes": 1000},
        {"size_bytes": SEGMENT_BYTES + 512},
        {"segments": ()},
        {"segments": good.segments * 2},
    ]
    for change in changes:
        spec = type(good)(**{**good.__dict__, **change})
        with pytest.raises(InvalidArgument, match=str(cluster.volume_id)):
            await host.core.attach(spec)


async def test_status_stats_and_events(alone: tuple[Host, Cluster]) -> None:
    host, cluster = alone
    core, volume = host.core, cluster.volume_id
    await core.write(volume, 0, bytes(8192))
    await core.read(volume, 0, 4096)
    await core.flush(volume)
    (status,) = await core.volume_status(volume)
    assert status.state == "serving"
    assert status.in_sync == (host.host_id,)
    assert status.joining == status.absent == ()
    stats: Any = await core.stats()
    counters = stats["volumes"][volume]
    assert counters["writes"] >= 1
    assert counters["read_bytes"] >= 4096
    assert sum(counters["write_latency_us"]) == 1
    assert sum(counters["read_latency_us"]) == 1
    assert sum(counters["flush_latency_us"]) == 1
    assert stats["stores"][host.store_id]["writes"] >= 1
    assert stats["reactor"]["iterations"] > 0
    assert stats["nbd"]["connections"] == 0
    states = [e.state for e in cluster.events if isinstance(e, VolumeStateChanged)]
    assert states[-1] == "serving"


async def test_digests_and_locations(alone: tuple[Host, Cluster]) -> None:
    host, cluster = alone
    core, volume = host.core, cluster.volume_id
    block = random.Random(3).randbytes(4096)
    await core.write(volume, 5 * 65536 + 4096, block, fua=True)
    (digest,) = await core.list_digests(volume, 0)
    assert digest.chunk == 5
    assert digest.valid_mask == 0b10
    assert digest.version == (1, 1)
    assert await core.list_digests(volume, 0, read=True) == [digest]
    location = await core.locate(volume, 0, 5 * 16 + 1)
    assert location.allocated
    assert location.crc32c == crc32c(block)
    assert location.chunk_version == (1, 1)
    hole = await core.locate(volume, 0, 1000)
    assert not hole.allocated


async def test_rot_on_the_only_replica_is_an_error_never_wrong_bytes(tmp_path: Path) -> None:
    host, cluster = await single(tmp_path, SIZE)
    volume = cluster.volume_id
    await host.core.write(volume, 0, random.Random(4).randbytes(MIB))
    await host.stop()  # everything is written home
    await host.start()
    await cluster.attach(host)
    place = await host.core.locate(volume, 0, 20)
    assert place.allocated
    assert not place.in_journal
    with host.store_path.open("r+b") as file:
        file.seek(place.device_offset_bytes + 99)
        file.write(b"rot")
    with pytest.raises(ChecksumMismatch):
        await host.core.read(volume, 20 * 4096, 4096)
    assert len(await host.core.read(volume, 21 * 4096, 4096)) == 4096
    with pytest.raises(ChecksumMismatch, match="segment 0"):
        await host.core.list_digests(volume, 0, read=True)
    await cluster.close()


async def test_nbd_export(alone: tuple[Host, Cluster], tmp_path: Path) -> None:
    host, cluster = alone
    core, volume = host.core, cluster.volume_id
    socket = tmp_path / "nbd.sock"
    await core.nbd_listen(f"unix:{socket}")
    tcp = await core.nbd_listen("tcp:127.0.0.1:0")
    await core.nbd_export(volume, "demo", description="a demo")
    with pytest.raises(AlreadyExists, match="demo"):
        await core.nbd_export(volume, "demo")
    await core.nbd_export(volume, "look", read_only=True)
    data = random.Random(6).randbytes(MIB + 321)
    await core.write(volume, 1234, data)

    def client() -> None:
        handle = connect(f"nbd+unix:///demo?socket={socket}")
        assert handle.get_size() == SIZE
        assert bytes(handle.pread(len(data), 1234)) == data
        handle.pwrite(data[::-1], 8 * MIB + 3)
        handle.flush()
        handle.zero(4096, 1234)
        handle.shutdown()
        host_port = tcp.removeprefix("tcp:")
        reader = connect(f"nbd://{host_port}/look")
        assert reader.is_read_only()
        assert bytes(reader.pread(len(data), 8 * MIB + 3)) == data[::-1]
        reader.shutdown()

    await asyncio.to_thread(client)
    assert await core.read(volume, 8 * MIB + 3, len(data)) == data[::-1]
    assert await core.read(volume, 1234, 4096) == bytes(4096)
    stats: Any = await core.stats()
    assert stats["nbd"]["exports"] == 2
    assert sum(stats["volumes"][volume]["read_latency_us"]) >= 3
    await core.nbd_unexport("look")
    with pytest.raises(NotFound):
        await core.nbd_unexport("look")


async def test_detach_takes_the_exports_along(alone: tuple[Host, Cluster], tmp_path: Path) -> None:
    host, cluster = alone
    core, volume = host.core, cluster.volume_id
    socket = tmp_path / "nbd.sock"
    await core.nbd_listen(f"unix:{socket}")
    await core.nbd_export(volume, "demo")
    uri = f"nbd+unix:///demo?socket={socket}"
    client = await asyncio.to_thread(connect, uri)
    await core.detach(volume)
    import nbd

    with pytest.raises(nbd.Error):
        await asyncio.to_thread(client.pread, 512, 0)
    with pytest.raises(nbd.Error):
        await asyncio.to_thread(connect, uri)
    await cluster.attach(host)
    await core.nbd_export(volume, "demo")
    again = await asyncio.to_thread(connect, uri)
    assert bytes(again.pread(4, 0)) == bytes(4)
    again.shutdown()


async def test_grow(alone: tuple[Host, Cluster], tmp_path: Path) -> None:
    host, cluster = alone
    core, volume = host.core, cluster.volume_id
    await core.nbd_listen(f"unix:{tmp_path}/nbd.sock")
    await core.nbd_export(volume, "demo")
    larger = 2 * SIZE
    await core.create_replica(host.store_id, volume, 0, larger // 4096)
    await core.grow(volume, larger, [])
    await core.write(volume, larger - 3, b"end")
    assert await core.read(volume, larger - 3, 3) == b"end"
    client = await asyncio.to_thread(connect, f"nbd+unix:///demo?socket={tmp_path}/nbd.sock")
    assert client.get_size() == larger
    client.shutdown()
    with pytest.raises(InvalidArgument):
        await core.grow(volume, SIZE, [])


async def test_shrink_under_nbd(alone: tuple[Host, Cluster], tmp_path: Path) -> None:
    import nbd

    host, cluster = alone
    core, volume = host.core, cluster.volume_id
    await core.nbd_listen(f"unix:{tmp_path}/nbd.sock")
    await core.nbd_export(volume, "demo")
    uri = f"nbd+unix:///demo?socket={tmp_path}/nbd.sock"
    old = await asyncio.to_thread(connect, uri)
    old.set_strict_mode(0)  # the server is to refuse, not libnbd
    small = SIZE // 2 + 512
    await core.write(volume, 0, b"\x5a" * SIZE)
    await core.shrink(volume, small)
    assert await asyncio.to_thread(old.pread, 512, small - 512) == b"\x5a" * 512
    for call, code in (
        (lambda: old.pread(1024, small - 512), errno.EINVAL),
        (lambda: old.trim(512, small), errno.EINVAL),
        (lambda: old.pwrite(b"x" * 512, small), errno.ENOSPC),
        (lambda: old.zero(4096, small), errno.ENOSPC),
    ):
        with pytest.raises(nbd.Error) as caught:
            await asyncio.to_thread(call)
        assert caught.value.errnum == code
    new = await asyncio.to_thread(connect, uri)
    assert new.get_size() == small
    with pytest.raises(ExtentOutOfRange):
        await core.read(volume, small, 1)
    await core.grow(volume, SIZE, [])
    assert await core.read(volume, 0, SIZE) == b"\x5a" * small + bytes(SIZE - small)
    for size in (0, 2 * SIZE, SIZE - 1):
        with pytest.raises(InvalidArgument):
            await core.shrink(volume, size)
    for client in (old, new):
        client.shutdown()


async def test_two_segments(tmp_path: Path) -> None:
    host, cluster = await single(tmp_path, SEGMENT_BYTES + 16 * MIB)
    core, volume = host.core, cluster.volume_id
    data = random.Random(8).randbytes(MIB)
    await core.write(volume, SEGMENT_BYTES - MIB // 2 - 7, data)
    assert await core.read(volume, SEGMENT_BYTES - MIB // 2 - 7, MIB) == data
    assert len(await core.list_digests(volume, 0)) == 9
    assert len(await core.list_digests(volume, 1)) == 8
    await core.trim(volume, SEGMENT_BYTES - MIB, 2 * MIB)
    assert await core.read(volume, SEGMENT_BYTES - MIB, 2 * MIB) == bytes(2 * MIB)
    await cluster.close()
