"""Replicas compared by the holder of their volume: two hosts, one process."""

from uuid import UUID, uuid4

import pytest

from blockd.host import comparison as comparison_module
from blockd.native.values import ReplicaInfo
from blockd.rpc.gen import types_pb2
from tests.host.fake_metadata import make_volume
from tests.meta.fake_host import FakeHost


@pytest.fixture
async def other():
    host = FakeHost("there", "lyon")
    await host.start()
    yield host
    await host.stop()


async def held_volume(rig, metadata, other: FakeHost) -> UUID:
    """A volume attached here, with the same digests at the other host."""
    volume = make_volume(rig.host_id, UUID(other.id))
    metadata.volumes[volume.id] = volume
    volume_id = UUID(volume.id)
    await rig.topology.learn([other.message()])
    await rig.attachments.attach(volume)
    rig.core.replicas[volume_id, 0] = ReplicaInfo(volume_id, 0, uuid4(), 256, 1, (0, 0), 2500)
    own = await rig.core.list_digests(volume_id, 0)
    other.digests[volume.id, 0] = [
        comparison_module.host_pb2.ChunkDigest(
            chunk=one.chunk,
            epoch=one.version[0],
            seq=one.version[1],
            valid_mask=one.valid_mask,
            digest=one.digest,
        )
        for one in own
    ]
    return volume_id


async def test_the_same_everywhere_is_said_so(rig, metadata, other) -> None:
    volume_id = await held_volume(rig, metadata, other)
    result = await rig.comparisons.compare(volume_id)
    assert (result.segments, result.replicas, result.failures) == (1, 2, 0)
    assert result.differing == []


async def test_a_difference_is_an_event_and_names_the_offset(
    rig, metadata, other, eventually
) -> None:
    volume_id = await held_volume(rig, metadata, other)
    other.digests[str(volume_id), 0][7].digest ^= 1
    result = await rig.comparisons.compare(volume_id)
    assert result.differing == [7 * 65536]
    await eventually(lambda: metadata.events)
    assert metadata.events[0].kind == "replicas.differ"
    assert "blockctl volume verify v" in metadata.events[0].message


async def test_a_write_on_its_way_is_no_difference(rig, metadata, other, monkeypatch) -> None:
    monkeypatch.setattr(comparison_module, "RETRY_S", 0.0)
    volume_id = await held_volume(rig, metadata, other)
    digest = other.digests[str(volume_id), 0][9]
    right = digest.digest
    digest.seq, digest.digest = 1, 1

    async def catch_up() -> None:
        if other.calls.count("ListDigests") == 3:
            digest.seq, digest.digest = 9, right

    other.failures["ListDigests"] = catch_up
    assert (await rig.comparisons.compare(volume_id)).differing == []
    assert other.calls.count("ListDigests") == 3


async def test_a_replica_that_does_not_answer_is_counted(rig, metadata, other) -> None:
    volume_id = await held_volume(rig, metadata, other)
    await other.stop()
    result = await rig.comparisons.compare(volume_id)
    assert (result.replicas, result.failures, result.differing) == (1, 1, [])
    metadata.volumes[str(volume_id)].segments[0].members.append(
        types_pb2.Member(host_id=str(uuid4()), in_sync=True)
    )
    assert (await rig.comparisons.compare(volume_id)).failures == 2
