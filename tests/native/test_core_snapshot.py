"""Eras, snapshots and bases through the native core: what it takes, refuses and answers."""

import asyncio
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
import pytest_asyncio

from blockd.model.errors import (
    AlreadyExists,
    InvalidArgument,
    NoSpace,
    NotAttached,
    NotFound,
    ReadOnly,
    ShuttingDown,
)
from blockd.model.units import SEGMENT_BYTES
from blockd.native.values import BaseSpec, ChunkView, Member, Segment, SnapshotSpec
from tests.native.hosts import MIB, Cluster, Host, single

sys.path.append("/usr/lib/python3/dist-packages")  # python3-libnbd

SIZE = SEGMENT_BYTES // 16

# A snapshot whose only member is a host that nobody has heard of.
ELSEWHERE = BaseSpec(
    volume_id=uuid4(),
    era=3,
    since=1,
    rolled_back=False,
    size_bytes=SIZE,
    segments=(Segment(0, 1, (Member(uuid4(), uuid4(), 2, True),)),),
)


def snapshot(base: BaseSpec | None = None) -> SnapshotSpec:
    return SnapshotSpec(
        snapshot_id=uuid4(),
        name="monday",
        volume_id=ELSEWHERE.volume_id,
        era=ELSEWHERE.era,
        size_bytes=ELSEWHERE.size_bytes,
        segments=ELSEWHERE.segments,
        base=base,
    )


@pytest_asyncio.fixture
async def alone(tmp_path: Path) -> AsyncIterator[tuple[Host, Cluster]]:
    host, cluster = await single(tmp_path, SIZE)
    yield host, cluster
    await cluster.close()


async def test_eras_of_an_attached_volume(alone: tuple[Host, Cluster]) -> None:
    host, cluster = alone
    core, volume = host.core, cluster.volume_id
    await core.hold_mutations(volume, 50_000)
    await core.hold_mutations(volume, 0)
    await core.write(volume, 0, bytes(range(256)))
    await core.begin_era(volume, 2)
    await core.write(volume, 0, b"second")
    await core.begin_era(volume, 1)  # older: changes nothing
    assert await core.read(volume, 0, 8) == b"second\x06\x07"
    for call in (core.begin_era(uuid4(), 2), core.hold_mutations(uuid4(), 1)):
        with pytest.raises(NotAttached):
            await call
    with pytest.raises(InvalidArgument):
        await core.begin_era(volume, 1 << 32)


async def test_known_snapshots(alone: tuple[Host, Cluster]) -> None:
    core = alone[0].core
    await core.set_snapshots(uuid4(), 7, [2, 5], 3)
    await core.set_snapshots(uuid4(), 0, ())
    with pytest.raises(InvalidArgument):
        await core.set_snapshots(uuid4(), 7, [-1], 0)
    (info,) = await core.store_infos()
    assert info.past_bytes == 0
    assert [replica.past_count for replica in await core.list_replicas()] == [0]


async def test_changed_chunks_of_a_replica(alone: tuple[Host, Cluster]) -> None:
    host, cluster = alone
    core, volume = host.core, cluster.volume_id
    assert await core.changed_chunks(volume, 0, None, ChunkView(0)) == []
    assert await core.changed_chunks(volume, 0, ChunkView(1), ChunkView(3, 1, 2)) == []
    with pytest.raises(NotFound):
        await core.changed_chunks(volume, 1, None, ChunkView(0))


async def test_a_volume_without_base_is_flat(alone: tuple[Host, Cluster]) -> None:
    host, cluster = alone
    await host.core.flatten(cluster.volume_id, 1)
    stats: Any = await host.core.stats()
    assert stats["volumes"][cluster.volume_id]["base_chunks"] == 0
    with pytest.raises(InvalidArgument):
        await host.core.flatten(cluster.volume_id, 0)


async def test_a_snapshot_is_read_only(alone: tuple[Host, Cluster], tmp_path: Path) -> None:
    import nbd

    core = alone[0].core
    spec = snapshot()
    await core.attach_snapshot(spec)
    with pytest.raises(AlreadyExists):
        await core.attach_snapshot(spec)
    for call in (
        core.write(spec.snapshot_id, 0, b"x"),
        core.trim(spec.snapshot_id, 0, 4096),
        core.write_zeroes(spec.snapshot_id, 0, 4096),
    ):
        with pytest.raises(ReadOnly):
            await call
    await core.flush(spec.snapshot_id)
    with pytest.raises(InvalidArgument):
        await core.begin_era(spec.snapshot_id, 4)

    socket = tmp_path / "nbd.sock"
    await core.nbd_listen(f"unix:{socket}")
    await core.nbd_export(spec.snapshot_id, "monday")  # read_only was not asked for

    def look() -> None:
        client = nbd.NBD()
        client.set_strict_mode(0)
        client.connect_uri(f"nbd+unix:///monday?socket={socket}")
        assert client.is_read_only()
        assert client.get_size() == SIZE
        with pytest.raises(nbd.Error) as refused:
            client.pwrite(bytes(512), 0)
        assert refused.value.errno == "EPERM"
        client.shutdown()

    await asyncio.to_thread(look)
    await core.detach(spec.snapshot_id)
    with pytest.raises(NotAttached):
        await core.read(spec.snapshot_id, 0, 1)


async def test_a_read_that_waits_ends_with_the_snapshot(alone: tuple[Host, Cluster]) -> None:
    core = alone[0].core
    spec = snapshot()
    await core.attach_snapshot(spec)
    reading = asyncio.create_task(core.read(spec.snapshot_id, 0, MIB))
    await asyncio.sleep(0.2)
    await core.members_changed(spec.volume_id, spec.segments[0])
    assert not reading.done()
    await core.detach(spec.snapshot_id)
    with pytest.raises((ShuttingDown, NotAttached)):
        await reading


async def test_an_attach_over_a_base_that_is_away(tmp_path: Path) -> None:
    host, cluster = await single(tmp_path, SIZE)
    try:
        await host.core.detach(cluster.volume_id)
        spec = replace(cluster.spec(host, 9), era=4, base=replace(ELSEWHERE, base=ELSEWHERE))
        attaching = asyncio.create_task(host.core.attach(spec))
        await asyncio.sleep(0.5)
        assert not attaching.done()
        await host.core.detach(cluster.volume_id)
        with pytest.raises(ShuttingDown):
            await attaching
        await host.core.attach(cluster.spec(host, 10))
        await host.core.write(cluster.volume_id, 0, b"on")
    finally:
        await cluster.close()


async def test_bases_that_make_no_sense(alone: tuple[Host, Cluster]) -> None:
    core = alone[0].core
    for wrong in (
        replace(ELSEWHERE, era=0),
        replace(ELSEWHERE, size_bytes=100),
        replace(ELSEWHERE, segments=()),
        replace(ELSEWHERE, rolled_back=True, since=3),
        replace(ELSEWHERE, base=replace(ELSEWHERE, era=0)),
    ):
        with pytest.raises(InvalidArgument):
            await core.attach_snapshot(snapshot(wrong))
    with pytest.raises(InvalidArgument):
        await core.attach_snapshot(replace(snapshot(), era=0))


async def test_the_stores_know_the_era_that_the_spec_has_forgotten(
    alone: tuple[Host, Cluster],
) -> None:
    host, cluster = alone
    assert await host.core.begin_era(cluster.volume_id, 6) == 6
    await host.core.write(cluster.volume_id, 0, b"x" * 4096, fua=True)
    assert await host.core.detach(cluster.volume_id) == 6
    (replica,) = await host.core.list_replicas()
    assert (replica.newest_era, replica.promised_epoch) == (6, 1)
    await host.stop()
    await host.start()
    assert await host.core.attach(cluster.spec(host, 2)) == 6
    assert await host.core.begin_era(cluster.volume_id, 3) == 6


async def test_each_opening_of_a_store_has_a_number_of_its_own(
    alone: tuple[Host, Cluster],
) -> None:
    host, _ = alone
    (first,) = await host.core.store_infos()
    for _ in range(2):
        await host.stop()
        await host.start()
    (third,) = await host.core.store_infos()
    assert third.incarnation >= first.incarnation + 2


async def fill(host: Host, volume: UUID) -> int:
    """Writes until a write is refused; how many bytes were taken."""
    for offset in range(0, SIZE, MIB):
        try:
            await host.core.write(volume, offset, b"x" * MIB)
        except NoSpace:
            return offset
    raise AssertionError("the store took more than it has")


async def test_a_trim_over_a_snapshot_is_refused_where_no_slot_is_left(tmp_path: Path) -> None:
    """And nothing but that: reads go on, and it works once the snapshot is gone."""
    host = await Host(tmp_path, uuid4(), store_bytes=48 * MIB).start()
    cluster = Cluster([host], SIZE)
    await cluster.create_replicas()
    await cluster.attach(host)
    volume = cluster.volume_id
    (store,) = await host.core.store_infos()
    taken = await fill(host, volume)
    assert taken < store.capacity_bytes
    await host.core.begin_era(volume, 2)
    await host.core.flush(volume)
    with pytest.raises(NoSpace):
        await host.core.trim(volume, 0, taken)
    async with asyncio.timeout(20):
        while (await host.core.volume_status(volume))[0].state != "serving":
            await asyncio.sleep(0.05)
    for offset in range(0, taken, MIB):
        assert await host.core.read(volume, offset, MIB) in (b"x" * MIB, bytes(MIB))
    await host.core.set_snapshots(volume, 2, [])
    await host.core.trim(volume, 0, taken)
    assert await host.core.read(volume, 0, MIB) == bytes(MIB)
    async with asyncio.timeout(20):
        while True:  # the space comes back by and by
            try:
                await host.core.write(volume, 0, b"y" * MIB)
                break
            except NoSpace:
                await asyncio.sleep(0.1)
    await cluster.close()
