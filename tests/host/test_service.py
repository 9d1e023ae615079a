"""HostService and VolumeIO over real gRPC."""

from dataclasses import replace
from uuid import UUID, uuid4

import grpc
import pytest

from blockd.native.checksum import crc32c
from blockd.rpc.gen import host_pb2, meta_pb2, volume_io_pb2
from tests.host.fake_core import format_store
from tests.host.fake_metadata import make_volume

CODE = grpc.StatusCode


@pytest.fixture
async def volume(rig):
    made = make_volume(rig.host_id, size_bytes=8 << 20)
    await rig.host.Attach(host_pb2.HostAttachRequest(volume=made))
    return made


def chunk(volume, offset: int, data: bytes, **fields) -> volume_io_pb2.WriteChunk:
    fields.setdefault("crc32c", crc32c(data))
    return volume_io_pb2.WriteChunk(volume_id=volume.id, offset_bytes=offset, data=data, **fields)


async def read_all(rig, volume, offset: int, length: int) -> bytes:
    request = volume_io_pb2.ReadRequest(
        volume_id=volume.id, offset_bytes=offset, length_bytes=length
    )
    data, at = b"", offset
    async for part in rig.io.Read(request):
        assert part.offset_bytes == at
        assert part.crc32c == crc32c(part.data)
        data += part.data
        at += len(part.data)
    return data


async def test_attach_answers_with_uris_and_status_shows_it(rig, volume) -> None:
    status = await rig.host.GetStatus(host_pb2.GetStatusRequest())
    assert status.host.name == "here"
    assert status.counters["reactor_syscalls"] == 9
    assert status.nbd_endpoints == ["unix:/run/x/nbd.sock", "tcp:127.0.0.1:10809"]
    (attachment,) = status.attachments
    assert (attachment.volume_name, attachment.epoch, attachment.state) == ("v", 1, "serving")
    assert attachment.segments[0].in_sync == [str(rig.host_id)]
    assert attachment.nbd_uris[1] == "nbd://127.0.0.1:10809/v"
    one = await rig.host.GetAttachment(host_pb2.GetAttachmentRequest(volume_id=volume.id))
    assert one.segments == attachment.segments


async def test_calls_about_a_volume_not_attached_fail(rig, status_of) -> None:
    nobody = str(uuid4())
    get = host_pb2.GetAttachmentRequest(volume_id=nobody)
    assert await status_of(rig.host.GetAttachment(get)) is CODE.FAILED_PRECONDITION
    flush = volume_io_pb2.FlushRequest(volume_id=nobody)
    assert await status_of(rig.io.Flush(flush)) is CODE.FAILED_PRECONDITION
    garbled = host_pb2.GetAttachmentRequest(volume_id="x")
    assert await status_of(rig.host.GetAttachment(garbled)) is CODE.INVALID_ARGUMENT


async def test_detach_and_drop(rig, volume) -> None:
    await rig.host.Detach(host_pb2.HostDetachRequest(volume_id=volume.id))
    assert not rig.core.volumes
    await rig.host.DropReplicas(host_pb2.DropReplicasRequest(volume_id=volume.id))


async def test_replicas_digests_and_locations(rig, tmp_path, status_of) -> None:
    path = tmp_path / "store"
    path.touch()
    format_store(str(path), store_id=(store_id := uuid4()), cluster_id=rig.core.cluster_id)
    await rig.core.open_store(str(path))
    volume_id = str(uuid4())
    order = meta_pb2.ReplicaOrder(
        volume_id=volume_id, segment=0, store_id=str(store_id), block_count=16
    )
    request = host_pb2.EnsureReplicasRequest(replicas=[order, order])
    assert not (await rig.host.EnsureReplicas(request)).used
    assert not (await rig.host.EnsureReplicas(request)).used
    assert list(rig.core.replicas) == [(UUID(volume_id), 0)]
    key = (UUID(volume_id), 0)
    rig.core.replicas[key] = replace(rig.core.replicas[key], promised_epoch=1)
    assert list((await rig.host.EnsureReplicas(request)).used) == [order, order]
    seen = 0
    async for batch in rig.host.ListDigests(host_pb2.ListDigestsRequest(volume_id=volume_id)):
        for digest in batch.digests:
            assert (digest.chunk, digest.seq, digest.digest) == (seen, seen, seen * 7)
            seen += 1
    assert seen == 2500
    where = await rig.host.Locate(host_pb2.LocateRequest(volume_id=volume_id, block=3))
    assert (where.store_id, where.store_path) == (str(store_id), str(path))
    assert where.device_offset_bytes == 3 * 4096
    beyond = host_pb2.LocateRequest(volume_id=volume_id, block=1 << 20)
    assert await status_of(rig.host.Locate(beyond)) is CODE.INVALID_ARGUMENT


async def test_written_data_reads_back(rig, volume) -> None:
    data = bytes(range(256)) * 16
    chunks = [chunk(volume, offset, data) for offset in range(0, 20 * 4096, 4096)]
    chunks += [chunk(volume, 4000, b"late", fua=True)]  # overlaps two that came before
    summary = await rig.io.Write(iter(chunks))
    assert (summary.bytes, summary.chunks) == (20 * 4096 + 4, 21)
    expected = bytearray(data * 20)
    expected[4000:4004] = b"late"
    assert await read_all(rig, volume, 0, 20 * 4096) == bytes(expected)
    assert await read_all(rig, volume, 3999, 6) == bytes(expected[3999:4005])
    await rig.io.Flush(volume_io_pb2.FlushRequest(volume_id=volume.id))


async def test_a_long_read_comes_in_order_and_in_pieces(rig, volume) -> None:
    rig.core.disks[UUID(volume.id)][:] = (
        b"".join(n.to_bytes(2, "little") for n in range(1 << 15)) * 128
    )
    rig.core.volumes[UUID(volume.id)].data[:16] = b"0123456789abcdef"
    whole = bytes(rig.core.volumes[UUID(volume.id)].data)
    assert await read_all(rig, volume, 5, (3 << 19) + 1) == whole[5 : 6 + (3 << 19)]


async def test_trim_reads_back_zero(rig, volume) -> None:
    await rig.io.Write(iter([chunk(volume, 0, b"x" * 8192)]))
    for write_zeroes, offset in ((False, 0), (True, 4096)):
        request = volume_io_pb2.TrimRequest(
            volume_id=volume.id, offset_bytes=offset, length_bytes=4096, write_zeroes=write_zeroes
        )
        await rig.io.Trim(request)
    assert await read_all(rig, volume, 0, 8192) == bytes(8192)


async def test_bad_writes_are_refused_with_the_right_status(rig, volume, status_of) -> None:
    other = chunk(volume, 0, b"y")
    other.volume_id = str(uuid4())
    cases = [
        ([chunk(volume, 0, b"x", crc32c=1)], CODE.DATA_LOSS),
        ([chunk(volume, (8 << 20) - 1, b"xx")], CODE.OUT_OF_RANGE),
        ([chunk(volume, (1 << 64) - 1, b"xx")], CODE.OUT_OF_RANGE),
        ([chunk(volume, 0, b"")], CODE.INVALID_ARGUMENT),
        ([chunk(volume, 0, bytes((2 << 20) + 1), crc32c=0)], CODE.INVALID_ARGUMENT),
        ([chunk(volume, 0, b"x"), other], CODE.INVALID_ARGUMENT),
        ([], CODE.INVALID_ARGUMENT),
    ]
    for chunks, expected in cases:
        assert await status_of(rig.io.Write(iter(chunks))) is expected
    whole = volume_io_pb2.TrimRequest(volume_id=volume.id, length_bytes=(8 << 20) + 1)
    assert await status_of(rig.io.Trim(whole)) is CODE.OUT_OF_RANGE


async def test_a_failing_write_ends_the_stream_with_its_error(rig, volume, status_of) -> None:
    from blockd.model.errors import EpochFenced

    rig.core.fail["write"] = EpochFenced("taken over")
    chunks = [chunk(volume, offset, b"x" * 512) for offset in range(0, 65536, 512)]
    assert await status_of(rig.io.Write(iter(chunks))) is CODE.FAILED_PRECONDITION


async def test_what_is_stored_is_told_by_volume_and_store(rig, tmp_path) -> None:
    path = tmp_path / "store"
    path.touch()
    format_store(str(path), store_id=uuid4(), cluster_id=rig.core.cluster_id)
    store = await rig.core.open_store(str(path))
    one, other = uuid4(), uuid4()
    for volume_id, segment, chunks in ((one, 0, 3), (one, 1, 2), (other, 0, 1)):
        await rig.core.create_replica(store.store_id, volume_id, segment, 262144)
        replica = rig.core.replicas[volume_id, segment]
        rig.core.replicas[volume_id, segment] = replace(replica, chunk_count=chunks)
    answer = await rig.host.ListReplicas(host_pb2.ListReplicasRequest())
    stored = {r.volume_id: (r.store_id, r.segment_count, r.stored_bytes) for r in answer.replicas}
    store_id = str(store.store_id)
    assert stored == {str(one): (store_id, 2, 5 << 16), str(other): (store_id, 1, 1 << 16)}
    answer = await rig.host.ListReplicas(host_pb2.ListReplicasRequest(volume_id=str(other)))
    assert [replica.volume_id for replica in answer.replicas] == [str(other)]
