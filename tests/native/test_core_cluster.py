"""Three members: one is lost, the volume goes on, the member comes back and catches up."""

import asyncio
import random
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import pytest
import pytest_asyncio

from blockd.model.errors import BlockdError
from blockd.model.units import SEGMENT_BYTES, segment_block_count
from blockd.native.values import InSyncChangeWanted, VolumeStateChanged
from tests.native.hosts import MIB, Cluster, Host, introduce

SIZE = SEGMENT_BYTES // 16


@pytest_asyncio.fixture
async def trio(tmp_path: Path) -> AsyncIterator[Cluster]:
    """Three cores in this process, a volume on all of them, attached at the first."""
    cluster_id = uuid4()
    hosts = [await Host(tmp_path, cluster_id).start() for _ in range(3)]
    await introduce(hosts)
    cluster = Cluster(hosts, SIZE, min_in_sync=2)
    await cluster.create_replicas()
    await cluster.attach(hosts[0])
    yield cluster
    await cluster.close()


async def digests_agree(cluster: Cluster) -> bool:
    digests = [
        await host.core.list_digests(cluster.volume_id, 0, read=True) for host in cluster.hosts
    ]
    return all(d == digests[0] for d in digests)


async def test_every_member_holds_what_was_flushed(trio: Cluster) -> None:
    core = trio.hosts[0].core
    data = random.Random(1).randbytes(5 * MIB + 1000)
    await core.write(trio.volume_id, 500, data)
    await core.flush(trio.volume_id)
    assert await core.read(trio.volume_id, 500, len(data)) == data
    async with asyncio.timeout(10):  # the third member may lag behind the quorum
        while not await digests_agree(trio):
            await asyncio.sleep(0.05)


async def test_the_status_says_when_the_members_checksums_agreed(trio: Cluster) -> None:
    core = trio.hosts[0].core
    async with asyncio.timeout(20):
        while True:
            (status,) = await core.volume_status(trio.volume_id)
            if status.proven_ago_us is not None:
                break
            await asyncio.sleep(0.05)
    assert status.proven_ago_us < 20_000_000
    assert status.differing == ()
    assert len(status.in_sync) == 3


async def test_losing_a_member_stops_nothing_and_its_return_heals(trio: Cluster) -> None:
    core, lost = trio.hosts[0].core, trio.hosts[2]
    rng = random.Random(2)
    model = bytearray(8 * MIB)

    async def scribble(rounds: int) -> None:
        for _ in range(rounds):
            offset, data = (
                rng.randrange(len(model) - 70_000),
                rng.randbytes(rng.randrange(1, 70_000)),
            )
            await core.write(trio.volume_id, offset, data)
            model[offset : offset + len(data)] = data

    await scribble(60)
    await core.flush(trio.volume_id)
    writing = asyncio.create_task(scribble(120))
    await asyncio.sleep(0.05)
    await lost.stop()
    await asyncio.wait_for(writing, 30)
    await trio.until_in_sync(trio.hosts[0], 2)
    wanted = [e for e in trio.events if isinstance(e, InSyncChangeWanted)]
    assert any(lost.host_id not in event.in_sync for event in wanted)
    assert await core.read(trio.volume_id, 0, len(model)) == model
    await scribble(60)

    await lost.start()
    await introduce(trio.hosts)
    await trio.until_in_sync(trio.hosts[0], 3)
    await core.flush(trio.volume_id)
    assert await core.read(trio.volume_id, 0, len(model)) == model
    async with asyncio.timeout(10):
        while not await digests_agree(trio):
            await asyncio.sleep(0.05)
    stats = (await core.stats())["volumes"]
    copied = stats[trio.volume_id]["resync_bytes"]  # type: ignore[index]
    assert 0 < copied <= len(model)


async def test_the_volume_moves_to_another_host(trio: Cluster) -> None:
    first, second = trio.hosts[0], trio.hosts[1]
    data = random.Random(3).randbytes(3 * MIB)
    await first.core.write(trio.volume_id, 10_000, data)
    await first.core.detach(trio.volume_id)
    await trio.attach(second)
    assert await second.core.read(trio.volume_id, 10_000, len(data)) == data


async def test_a_newer_attachment_fences_the_older_one(trio: Cluster) -> None:
    first, second = trio.hosts[0], trio.hosts[1]
    await first.core.write(trio.volume_id, 0, b"old")
    await trio.attach(second)  # waits for the first one's leases to run out
    assert await second.core.read(trio.volume_id, 0, 3) == b"old"
    await second.core.write(trio.volume_id, 0, b"new")
    with pytest.raises(BlockdError) as caught:
        await asyncio.wait_for(first.core.write(trio.volume_id, 0, b"bad"), 60)
    assert caught.value.name in {"EpochFenced", "LeaseLost", "QuorumLost"}
    assert await second.core.read(trio.volume_id, 0, 3) == b"new"
    async with asyncio.timeout(10):
        while not any(
            isinstance(e, VolumeStateChanged) and e.state == "fenced" for e in trio.events
        ):
            await asyncio.sleep(0.05)
    await first.core.detach(trio.volume_id)


async def test_a_host_without_a_replica_can_serve(trio: Cluster, tmp_path: Path) -> None:
    outsider = await Host(tmp_path, trio.hosts[0].cluster_id).start()
    await introduce([*trio.hosts, outsider])
    await trio.hosts[0].core.write(trio.volume_id, 4096, b"far away")
    await trio.hosts[0].core.detach(trio.volume_id)
    try:
        await trio.attach(outsider)
        assert await outsider.core.read(trio.volume_id, 4096, 8) == b"far away"
        await outsider.core.write(trio.volume_id, 5000, bytes(range(256)) * 1000)
        assert await outsider.core.read(trio.volume_id, 5000, 256) == bytes(range(256))
    finally:
        await outsider.stop()


@dataclass
class Killable(Host):
    """A member in a process of its own."""

    process: asyncio.subprocess.Process = field(init=False)

    async def start(self) -> "Killable":
        self.process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "tests.native.member_process", str(self.directory), str(self.cluster_id)),
            *(str(self.host_id), str(self.store_id), self.peer_endpoint),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        self.peer_endpoint = (await self.line()).removeprefix("ready ")
        return self

    async def line(self) -> str:
        assert self.process.stdout is not None
        return (await asyncio.wait_for(self.process.stdout.readline(), 20)).decode().strip()

    async def create(self, cluster: Cluster) -> None:
        assert self.process.stdin is not None
        blocks = segment_block_count(cluster.size_bytes, 0)
        self.process.stdin.write(f"create {cluster.volume_id} 0 {blocks}\n".encode())
        assert await self.line() == "done"

    async def kill(self) -> None:
        self.process.kill()
        await self.process.wait()


async def test_kill_dash_nine_of_members(tmp_path: Path) -> None:
    cluster_id = uuid4()
    first = await Host(tmp_path, cluster_id).start()
    others = [await Killable(tmp_path, cluster_id).start() for _ in range(2)]
    cluster = Cluster([first, *others], SIZE, min_in_sync=1)
    blocks = segment_block_count(SIZE, 0)
    await first.core.create_replica(first.store_id, cluster.volume_id, 0, blocks)
    for other in others:
        await other.create(cluster)
        await first.core.set_peer(other.host_id, other.peer_endpoint)
    try:
        await cluster.attach(first)
        rng = random.Random(7)
        model = bytearray(4 * MIB)
        for victim in others * 2:
            for step in range(60):
                offset, data = (
                    rng.randrange(len(model) - 40_000),
                    rng.randbytes(rng.randrange(40_000)),
                )
                await first.core.write(cluster.volume_id, offset, data)
                model[offset : offset + len(data)] = data
                if step == 20:
                    await victim.kill()
            assert await first.core.read(cluster.volume_id, 0, len(model)) == model
            await victim.start()
            await cluster.until_in_sync(first, 3)
        assert await first.core.read(cluster.volume_id, 0, len(model)) == model
    finally:
        for other in others:
            await other.kill()
        await cluster.close()
