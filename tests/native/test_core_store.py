"""Stores through the core: made, opened, refused. Each refusal is one line that names the path."""

import asyncio
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from blockd.model.errors import (
    AlreadyExists,
    BlockdError,
    ExtentOutOfRange,
    InvalidArgument,
    NotFound,
    OlderCopy,
    StoreDamaged,
    StoreForeign,
    StoreInUse,
    StoreNotFormatted,
    StoreTooNew,
    StoreTooSmall,
)
from blockd.native.core import Core, DeviceFindings, format_store
from tests.native.hosts import BUFFER_BYTES, MIB, STORE_BYTES, Host

CLUSTER = UUID("11111111-2222-3333-4444-555555555555")


def make(path: Path, cluster_id: UUID = CLUSTER, size_bytes: int | None = STORE_BYTES) -> UUID:
    store_id = uuid4()
    format_store(str(path), store_id=store_id, cluster_id=cluster_id, size_bytes=size_bytes)
    return store_id


async def refusal(path: Path) -> BlockdError:
    """The error that opening `path` gives; the core must survive it."""
    core = Core(host_id=uuid4(), cluster_id=CLUSTER, buffer_bytes=BUFFER_BYTES)
    await core.start()
    try:
        with pytest.raises(BlockdError) as caught:
            await core.open_store(str(path))
        assert await core.store_infos() == []
    finally:
        await core.close()
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    return caught.value


async def test_format_then_open(tmp_path: Path) -> None:
    host = Host(tmp_path, CLUSTER)
    async with host:
        (info,) = await host.core.store_infos()
        assert info.store_id == host.store_id
        assert info.path == str(host.store_path)
        assert 0 < info.capacity_bytes < STORE_BYTES
        assert info.allocated_bytes == 0
        assert info.segment_count == 0


@pytest.mark.parametrize("told", [None, False, True])
async def test_findings_stay_with_the_store(tmp_path: Path, told: bool | None) -> None:
    findings = DeviceFindings(
        direct_alignment_bytes=512,
        logical_block_bytes=513,
        physical_block_bytes=514,
        atomic_write_bytes=515,
        discard_granularity_bytes=516,
        rotational=told,
        volatile_cache=told,
        fua=told,
        discard_zeroes=bool(told),
        probed_unix_s=1 << 33,
        write_us=1,
        flush_us=2,
        dsync_write_us=3,
        write_mib_s=4,
        read_mib_s=5,
        write_iops=6,
        flushed_write_iops=7,
    )
    path = tmp_path / "store"
    format_store(
        str(path),
        store_id=uuid4(),
        cluster_id=CLUSTER,
        size_bytes=STORE_BYTES,
        findings=findings,
    )
    core = Core(host_id=uuid4(), cluster_id=CLUSTER, buffer_bytes=BUFFER_BYTES)
    await core.start()
    try:
        assert (await core.open_store(str(path))).findings == findings
        assert not (await core.store_infos())[0].failed
    finally:
        await core.close()


async def test_a_store_flushes_its_device_when_asked(tmp_path: Path) -> None:
    path = tmp_path / "store"
    store_id = make(path)
    core = Core(host_id=uuid4(), cluster_id=CLUSTER, buffer_bytes=BUFFER_BYTES)
    await core.start()
    try:
        await core.open_store(str(path))

        async def flushes() -> int:
            return int((await core.stats())["stores"][store_id]["device_flushes"])

        before = await flushes()
        await core.flush_store(store_id)
        assert await flushes() > before
        with pytest.raises(NotFound):
            await core.flush_store(uuid4())
    finally:
        await core.close()


async def test_not_a_store(tmp_path: Path) -> None:
    path = tmp_path / "blank"
    with path.open("wb") as file:
        file.truncate(STORE_BYTES)
    assert isinstance(await refusal(path), StoreNotFormatted)


async def test_missing_file(tmp_path: Path) -> None:
    assert isinstance(await refusal(tmp_path / "nowhere"), NotFound)


async def test_foreign_store(tmp_path: Path) -> None:
    make(tmp_path / "store", cluster_id=uuid4())
    assert isinstance(await refusal(tmp_path / "store"), StoreForeign)


async def test_damaged_superblocks(tmp_path: Path) -> None:
    path = tmp_path / "store"
    make(path)
    data = bytearray(path.read_bytes()[: 4 * 4096])
    for block in range(4):
        data[block * 4096 + 100] ^= 0xFF
    with path.open("r+b") as file:
        file.write(data)
    assert isinstance(await refusal(path), StoreDamaged | StoreNotFormatted | StoreTooNew)


async def test_one_damaged_superblock_is_survived(tmp_path: Path) -> None:
    host = Host(tmp_path, CLUSTER)
    async with host:
        pass
    with host.store_path.open("r+b") as file:
        file.seek(100)
        file.write(b"\xff\x00\xff")
    async with host:
        assert len(await host.core.store_infos()) == 1


def test_too_small_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(StoreTooSmall) as caught:
        make(tmp_path / "store", size_bytes=64 * 1024)
    assert str(tmp_path / "store") in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_formatting_twice_needs_force(tmp_path: Path) -> None:
    path = tmp_path / "store"
    make(path)
    for size in (None, STORE_BYTES):
        with pytest.raises(AlreadyExists, match="store"):
            make(path, size_bytes=size)
    fresh = uuid4()
    format_store(str(path), store_id=fresh, cluster_id=CLUSTER, force=True)
    format_store(str(path), store_id=fresh, cluster_id=CLUSTER, size_bytes=MIB * 80, force=True)
    assert path.stat().st_size == MIB * 80


async def test_store_in_use(tmp_path: Path) -> None:
    host = Host(tmp_path, CLUSTER)
    async with host:
        assert isinstance(await refusal(host.store_path), StoreInUse)
        with pytest.raises(StoreInUse):
            await host.core.open_store(str(host.store_path))
        with pytest.raises(StoreInUse):
            format_store(
                str(host.store_path),
                store_id=uuid4(),
                cluster_id=CLUSTER,
                size_bytes=MIB,
                force=True,
            )


async def test_close_and_open_again(tmp_path: Path) -> None:
    host = Host(tmp_path, CLUSTER)
    volume = uuid4()
    async with host:
        await host.core.create_replica(host.store_id, volume, 0, 100)
        await host.core.close_store(host.store_id)
        assert await host.core.list_replicas() == []
        with pytest.raises(NotFound):
            await host.core.close_store(host.store_id)
        await host.core.open_store(str(host.store_path))
        assert [replica.volume_id for replica in await host.core.list_replicas()] == [volume]


async def test_an_older_copy_is_refused_and_left_alone(tmp_path: Path) -> None:
    host = Host(tmp_path, CLUSTER)
    async with host:
        await host.core.create_replica(host.store_id, uuid4(), 0, 100)
    copy = host.store_path.read_bytes()
    async with host:
        (info,) = await host.core.store_infos()
    newer = host.store_path.read_bytes()
    newest = {host.store_id: info.incarnation, uuid4(): 1 << 40}
    core = Core(host_id=uuid4(), cluster_id=CLUSTER, buffer_bytes=BUFFER_BYTES)
    await core.start()
    try:
        host.store_path.write_bytes(copy)
        for _ in range(2):
            with pytest.raises(OlderCopy, match=str(host.store_id)) as caught:
                await core.open_store(str(host.store_path), newest=newest)
            assert str(host.store_path) in str(caught.value)
            assert await core.list_replicas() == []
        assert host.store_path.read_bytes() == copy
        host.store_path.write_bytes(newer)
        opened = await core.open_store(str(host.store_path), newest=newest)
        assert opened.incarnation > info.incarnation
        assert len(await core.list_replicas()) == 1
        with pytest.raises(InvalidArgument):
            await core.open_store(str(host.store_path), newest={host.store_id: -1})
    finally:
        await core.close()


async def test_replicas(tmp_path: Path) -> None:
    host = Host(tmp_path, CLUSTER)
    volume = uuid4()
    async with host:
        core = host.core
        await core.create_replica(host.store_id, volume, 0, 1000)
        await core.create_replica(host.store_id, volume, 0, 1000)  # again: nothing
        await core.create_replica(host.store_id, volume, 0, 2000)  # grows
        await core.create_replica(host.store_id, volume, 7, 16)
        replicas = {r.segment: r for r in await core.list_replicas()}
        assert replicas[0].block_count == 2000
        assert replicas[0].store_id == host.store_id
        assert replicas[0].chunk_count == 0
        assert replicas[7].volume_id == volume
        assert await core.list_digests(volume, 0) == []
        assert await core.list_digests(volume, 0, read=True) == []
        location = await core.locate(volume, 0, 1999)
        assert not location.allocated
        assert location.store_id == host.store_id
        with pytest.raises(ExtentOutOfRange):
            await core.locate(volume, 0, 2000)
        await core.drop_replica(volume, 0)
        with pytest.raises(NotFound):
            await core.drop_replica(volume, 0)
        with pytest.raises(NotFound):
            await core.list_digests(volume, 0)
        with pytest.raises(NotFound):
            await core.create_replica(uuid4(), volume, 0, 1000)
        for blocks in (0, (1 << 18) + 1):
            with pytest.raises(InvalidArgument):
                await core.create_replica(host.store_id, volume, 1, blocks)
    async with host:  # durable
        (replica,) = await host.core.list_replicas()
        assert (replica.segment, replica.block_count) == (7, 16)


async def test_two_stores_in_one_core(tmp_path: Path) -> None:
    second = tmp_path / "second"
    second_id = make(second)
    volume = uuid4()
    host = Host(tmp_path, CLUSTER)
    async with host:
        await host.core.open_store(str(second))
        await host.core.create_replica(second_id, volume, 0, 64)
        with pytest.raises(AlreadyExists, match=str(second_id)):
            await host.core.create_replica(host.store_id, volume, 0, 64)
        infos = await host.core.store_infos()
        assert {info.store_id for info in infos} == {host.store_id, second_id}


async def test_many_commands_at_once(tmp_path: Path) -> None:
    host = Host(tmp_path, CLUSTER)
    volume = uuid4()
    async with host:
        await asyncio.gather(
            *(host.core.create_replica(host.store_id, volume, index, 16) for index in range(50))
        )
        assert len(await host.core.list_replicas()) == 50
