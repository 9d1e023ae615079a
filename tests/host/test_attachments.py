"""Attach, grow, detach: repeated, late, failing and abandoned orders leave one engine or none."""

import asyncio
from uuid import UUID, uuid4

import pytest

from blockd.model.errors import EpochFenced, NotAttached, QuorumLost
from tests.host.fake_metadata import make_volume


async def test_a_repeated_attach_changes_nothing(rig) -> None:
    volume = make_volume(rig.host_id)
    await rig.attachments.attach(volume)
    await rig.attachments.attach(volume)
    assert [call[0] for call in rig.core.calls].count("attach") == 1


async def test_a_newer_epoch_replaces_the_engine(rig) -> None:
    volume = make_volume(rig.host_id)
    await rig.attachments.attach(volume)
    volume.attachment.epoch = 4
    assert (await rig.attachments.attach(volume)).epoch == 4
    assert rig.core.volumes[UUID(volume.id)].spec.epoch == 4


async def test_an_older_epoch_is_refused(rig) -> None:
    volume = make_volume(rig.host_id, epoch=4)
    await rig.attachments.attach(volume)
    volume.attachment.epoch = 3
    with pytest.raises(EpochFenced):
        await rig.attachments.attach(volume)


async def test_a_fenced_engine_may_be_attached_again_under_its_epoch(rig) -> None:
    volume = make_volume(rig.host_id)
    await rig.attachments.attach(volume)
    rig.attachments.note_state(UUID(volume.id), "fenced")
    assert (await rig.attachments.attach(volume)).state == "serving"


@pytest.mark.parametrize("step", ["attach", "nbd_export"])
async def test_a_failed_attach_leaves_nothing(rig, step: str) -> None:
    rig.core.fail[step] = QuorumLost()
    with pytest.raises(QuorumLost):
        await rig.attachments.attach(make_volume(rig.host_id))
    assert not rig.attachments.held
    assert not rig.core.volumes
    assert not rig.core.exports


async def test_an_abandoned_attach_leaves_nothing(rig, eventually) -> None:
    rig.core.attach_gate.clear()
    volume = make_volume(rig.host_id)
    task = asyncio.create_task(rig.attachments.attach(volume))
    await eventually(lambda: rig.core.volumes)
    assert rig.attachments.epoch(UUID(volume.id)) == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not rig.core.volumes
    with pytest.raises(NotAttached):
        rig.attachments.epoch(UUID(volume.id))


async def test_grow_adds_the_new_segments(rig) -> None:
    volume = make_volume(rig.host_id)
    await rig.attachments.attach(volume)
    volume.size_bytes = 2 << 20
    segment = volume.segments.add()
    segment.CopyFrom(volume.segments[0])
    segment.index = 1
    held = await rig.attachments.grow(volume)
    assert (held.size_bytes, held.segment_count) == (2 << 20, 2)
    assert ("grow", UUID(volume.id), 2 << 20, [1]) in rig.core.calls
    await rig.attachments.grow(volume)
    assert [call[0] for call in rig.core.calls].count("grow") == 1


async def test_shrink_keeps_the_segments_of_the_engine_for_a_growth(rig) -> None:
    volume = make_volume(rig.host_id)
    volume.size_bytes = 2 << 20
    segment = volume.segments.add()
    segment.CopyFrom(volume.segments[0])
    segment.index = 1
    volume_id = UUID(volume.id)
    epoch = (await rig.attachments.attach(volume)).epoch
    for _ in range(2):  # an order may be repeated
        held = await rig.attachments.shrink(volume_id, epoch, 1 << 20)
        assert (held.size_bytes, held.segment_count) == (1 << 20, 2)
    assert [call for call in rig.core.calls if call[0] == "shrink"] == [
        ("shrink", volume_id, 1 << 20),
        ("shrink", volume_id, 1 << 20),
    ]
    await rig.attachments.grow(volume)
    assert ("grow", volume_id, 2 << 20, []) in rig.core.calls
    assert rig.attachments.get(volume_id).size_bytes == 2 << 20


async def test_a_shrink_to_more_than_an_unfinished_one_left_grows(rig) -> None:
    volume = make_volume(rig.host_id)
    volume_id = UUID(volume.id)
    held = await rig.attachments.attach(volume)
    await rig.attachments.shrink(volume_id, held.epoch, 4096)
    assert (await rig.attachments.shrink(volume_id, held.epoch, 8192)).size_bytes == 8192
    assert ("grow", volume_id, 8192, []) in rig.core.calls


async def test_a_shrink_whose_caller_gave_up_can_be_repeated_or_undone(rig) -> None:
    volume = make_volume(rig.host_id)
    volume_id = UUID(volume.id)
    held = await rig.attachments.attach(volume)
    started = asyncio.Event()
    shrink = rig.core.shrink

    async def slow(volume_id: UUID, size_bytes: int) -> None:
        await shrink(volume_id, size_bytes)
        started.set()
        await asyncio.sleep(60)

    rig.core.shrink = slow
    caller = asyncio.create_task(rig.attachments.shrink(volume_id, held.epoch, 4096))
    await started.wait()
    caller.cancel()
    await asyncio.gather(caller, return_exceptions=True)
    rig.core.shrink = shrink
    assert (await rig.attachments.shrink(volume_id, held.epoch, 4096)).size_bytes == 4096
    await rig.attachments.grow(volume)
    assert ("grow", volume_id, volume.size_bytes, []) in rig.core.calls


async def test_a_shrink_that_failed_leaves_the_size(rig) -> None:
    volume = make_volume(rig.host_id)
    volume_id = UUID(volume.id)
    held = await rig.attachments.attach(volume)
    with pytest.raises(EpochFenced):
        await rig.attachments.shrink(volume_id, held.epoch + 1, 4096)
    with pytest.raises(NotAttached):
        await rig.attachments.shrink(uuid4(), held.epoch, 4096)
    rig.core.fail["shrink"] = QuorumLost()
    with pytest.raises(QuorumLost):
        await rig.attachments.shrink(volume_id, held.epoch, 4096)
    assert rig.attachments.get(volume_id) == held


async def test_detach_is_idempotent(rig) -> None:
    volume = make_volume(rig.host_id)
    await rig.attachments.attach(volume)
    await rig.attachments.detach(UUID(volume.id))
    await rig.attachments.detach(UUID(volume.id))
    assert not rig.core.volumes


async def test_an_old_order_to_detach_leaves_a_newer_engine_alone(rig) -> None:
    """It was meant for an engine that this host had before: this one is the volume's holder."""
    volume = make_volume(rig.host_id, epoch=5)
    await rig.attachments.attach(volume)
    drained = await rig.attachments.detach(UUID(volume.id), epoch=4)
    assert not drained.epoch
    assert rig.attachments.epoch(UUID(volume.id)) == 5
    assert rig.core.exports
    assert (await rig.attachments.detach(UUID(volume.id), epoch=5)).epoch == 5
    assert not rig.attachments.held


async def test_detach_all_does_not_stop_at_a_failure(rig) -> None:
    for number in range(3):
        await rig.attachments.attach(make_volume(rig.host_id, name=f"v{number}"))
    rig.core.fail["detach"] = QuorumLost()
    await rig.attachments.detach_all()
    assert not rig.attachments.held


async def test_uris_quote_the_name(rig) -> None:
    volume = make_volume(rig.host_id, uuid4(), name="a b/c")
    held = await rig.attachments.attach(volume)
    assert rig.attachments.uris(held) == [
        "nbd+unix:///a%20b%2Fc?socket=/run/x/nbd.sock",
        "nbd://127.0.0.1:10809/a%20b%2Fc",
    ]
