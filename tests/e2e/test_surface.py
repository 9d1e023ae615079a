"""What stands around the data path, on a whole cluster: growing, VolumeIO, metrics, places."""

import asyncio
import json
import re
import urllib.request
from collections.abc import AsyncIterator

import grpc
import pytest

from blockd.native.checksum import crc32c
from blockd.rpc.channel import open_channel
from blockd.rpc.gen import volume_io_pb2, volume_io_pb2_grpc
from tests.cluster import DevCluster, run, wait_until
from tests.e2e.history import PYTHON

pytestmark = pytest.mark.timeout(180)

MIB = 1 << 20

WRITE_AT = """
import sys, nbd
h = nbd.NBD(); h.connect_uri(sys.argv[1])
assert h.get_size() == int(sys.argv[2])
for offset in map(int, sys.argv[3:]):
    stamp = offset.to_bytes(8, "little") * 512
    h.pwrite(stamp, offset)
    assert h.pread(4096, offset) == stamp
h.flush()
"""

READ_AT = """
import sys, nbd
h = nbd.NBD(); h.connect_uri(sys.argv[1])
for offset in map(int, sys.argv[2:]):
    assert h.pread(4096, offset) == offset.to_bytes(8, "little") * 512, offset
"""


def test_a_volume_grows_while_it_is_attached(cluster: DevCluster, name: str) -> None:
    cluster.create(name, 100 * MIB)
    uri = cluster.attach(name, "paris-1").nbd_uris[0]
    ends = [100 * MIB - 4096]
    run([PYTHON, "-c", WRITE_AT, uri, str(100 * MIB), *map(str, ends)])
    for size in (300 * MIB, 1500 * MIB):  # within the segment, and by another one
        cluster.ctl("volume", "resize", name, "--size", str(size))
        ends.append(size - 4096)
        run([PYTHON, "-c", WRITE_AT, uri, str(size), str(size - 4096)])
    cluster.kill("paris-1")
    uri = cluster.attach(name, "lyon-1").nbd_uris[0]
    run([PYTHON, "-c", READ_AT, uri, *map(str, ends)])
    cluster.start("paris-1")
    cluster.wait_in_sync(name)
    assert cluster.ctl("volume", "verify", name, "--read").returncode == 0
    cluster.detach(name)
    cluster.delete(name)


async def write_and_read(endpoint: str, volume_id: str, data: bytes) -> bytes:
    """`data` through VolumeIO in pieces of odd sizes, and back."""

    async def chunks() -> AsyncIterator[volume_io_pb2.WriteChunk]:
        step = 777_777
        for offset in range(0, len(data), step):
            part = data[offset : offset + step]
            yield volume_io_pb2.WriteChunk(
                volume_id=volume_id, offset_bytes=offset + 13, data=part, crc32c=crc32c(part)
            )

    async with open_channel(endpoint) as channel:
        io = volume_io_pb2_grpc.VolumeIOStub(channel)
        summary = await io.Write(chunks(), timeout=60)
        assert summary.bytes == len(data)
        await io.Flush(volume_io_pb2.FlushRequest(volume_id=volume_id), timeout=60)
        request = volume_io_pb2.ReadRequest(
            volume_id=volume_id, offset_bytes=13, length_bytes=len(data)
        )
        found = b""
        async for part in io.Read(request, timeout=60):
            assert crc32c(part.data) == part.crc32c
            found += part.data
        return found


def test_volume_io_and_nbd_see_the_same(cluster: DevCluster, name: str) -> None:
    volume = cluster.create(name, 64 * MIB)
    uri = cluster.attach(name, "lyon-1").nbd_uris[0]
    data = b"".join(number.to_bytes(4, "little") for number in range(3 * MIB))
    endpoint = cluster.host_endpoint("lyon-1")
    assert asyncio.run(write_and_read(endpoint, volume.id, data)) == data
    code = f"import sys,nbd; h=nbd.NBD(); h.connect_uri({uri!r}); print(h.pread(4096, 13).hex())"
    assert bytes.fromhex(run([PYTHON, "-c", code]).stdout.strip()) == data[:4096]
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        asyncio.run(write_and_read(cluster.host_endpoint("paris-1"), volume.id, data))
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    cluster.detach(name)
    cluster.delete(name)


def test_metrics_count_what_was_done(cluster: DevCluster, name: str) -> None:
    cluster.create(name, 64 * MIB)
    uri = cluster.attach(name, "marseille-1").nbd_uris[0]
    run([PYTHON, "-c", WRITE_AT, uri, str(64 * MIB), "0", "8192"])
    url = f"http://127.{cluster.net}.12.11:9420/metrics"
    with urllib.request.urlopen(url, timeout=10) as answer:
        text = answer.read().decode()

    def value(metric: str, *labels: str) -> float:
        wanted = "".join(rf"(?=.*{re.escape(label)})" for label in (f'volume="{name}"', *labels))
        found = re.search(rf"^{metric}\{{{wanted}.*\}} (\S+)$", text, re.MULTILINE)
        assert found is not None, metric
        return float(found[1])

    assert value("blockd_volume_writes_total") == 2
    assert value("blockd_volume_write_bytes_total") == 8192
    assert value("blockd_volume_reads_total") == 2
    assert value("blockd_volume_flushes_total") == 1
    assert value("blockd_volume_write_latency_seconds_count") == 2
    assert value("blockd_volume_replicas", 'state="in_sync"') == 3
    assert value("blockd_volume_state", 'state="serving"') == 1
    assert value("blockd_volume_degraded_segments") == 0
    for line in ("blockd_host_registered 1.0", "blockd_store_capacity_bytes{", "blockd_nbd_"):
        assert line in text
    cluster.detach(name)
    cluster.delete(name)


def test_a_block_is_found_where_the_map_says(cluster: DevCluster, name: str) -> None:
    """The map's offset in a replica's store, read without blockd, holds the block."""
    cluster.create(name, 64 * MIB)
    uri = cluster.attach(name, "paris-1").nbd_uris[0]
    offset = 40 * MIB
    run([PYTHON, "-c", WRITE_AT, uri, str(64 * MIB), str(offset)])
    expected = offset.to_bytes(8, "little") * 512
    cluster.detach(name)
    arguments = ["-o", "json", "volume", "map", name, "--offset", str(offset)]
    replicas = json.loads(cluster.ctl(*arguments).stdout)["replicas"]
    assert len(replicas) == 3
    for replica in replicas:
        assert replica["crc32c"] == f"{crc32c(expected):08x}"
        if not replica["in_journal"]:
            with open(replica["store_path"], "rb") as store:
                store.seek(replica["device_offset_bytes"])
                assert store.read(4096) == expected
    cluster.delete(name)


def test_deleting_a_volume_gives_its_space_back(cluster: DevCluster, name: str) -> None:
    def allocated() -> int:
        hosts = json.loads(cluster.ctl("-o", "json", "host", "list").stdout)["hosts"]
        return sum(store["allocated_bytes"] for host in hosts for store in host["stores"])

    before = allocated()
    cluster.create(name, 64 * MIB)
    uri = cluster.attach(name, "paris-1").nbd_uris[0]
    run([PYTHON, "-c", WRITE_AT, uri, str(64 * MIB), "0", str(8 * MIB), str(16 * MIB)])
    cluster.detach(name)
    cluster.delete(name)
    wait_until(lambda: allocated() <= before, 20, "the space is free again", poll=0.5)
