"""Eras and holds: orders of another epoch, holds that ended, engines that open meanwhile."""

import asyncio
from uuid import UUID, uuid4

import pytest

from blockd.host.attachments import NOTHING, Drained
from blockd.host.eras import Eras
from blockd.model.errors import Busy, EpochFenced, InvalidArgument, NotAttached
from blockd.rpc.gen import host_pb2
from tests.host.fake_metadata import make_volume

LONG_US = 5_000_000


@pytest.fixture
async def eras(rig) -> Eras:
    return Eras(rig.core, rig.attachments)


@pytest.fixture
async def volume_id(rig) -> UUID:
    volume = make_volume(rig.host_id, epoch=4)
    volume.era = 3
    await rig.attachments.attach(volume)
    return UUID(volume.id)


async def test_an_engine_opens_in_the_volumes_era(rig, volume_id) -> None:
    assert rig.core.volumes[volume_id].spec.era == 3
    assert rig.attachments.get(volume_id).era == 3


async def test_the_engine_may_be_in_a_later_era_and_says_so(rig, eras) -> None:
    volume = make_volume(rig.host_id, epoch=4)
    volume.era = 3
    volume_id = UUID(volume.id)
    rig.core.met_eras[volume_id] = 8
    held = await rig.attachments.attach(volume)
    assert held.era == 8
    assert await eras.hold(volume_id, 4, "t", LONG_US) == 8
    assert await eras.hold(volume_id, 4, "t", 0) == 0
    rig.core.volumes[volume_id].era = 9  # a member that joined has met it
    assert await eras.begin(volume_id, 4, 4, "") == 9
    assert rig.attachments.get(volume_id).era == 9
    assert await eras.begin(volume_id, 4, 10, "") == 10
    assert await rig.attachments.detach(volume_id) == Drained(4, 10)
    assert await rig.attachments.detach(volume_id) == NOTHING


async def test_begin_waits_for_what_is_under_way(rig, eras, volume_id) -> None:
    rig.core.era_gate.clear()
    beginning = asyncio.create_task(eras.begin(volume_id, 4, 5, ""))
    await asyncio.sleep(0.05)
    assert not beginning.done()
    assert rig.attachments.get(volume_id).era == 5
    rig.core.era_gate.set()
    await beginning
    assert rig.core.volumes[volume_id].era == 5
    await eras.begin(volume_id, 4, 5, "")  # once more changes nothing


async def test_orders_of_another_epoch_are_refused(rig, eras, volume_id) -> None:
    for epoch in (3, 5):
        with pytest.raises(EpochFenced):
            await eras.begin(volume_id, epoch, 9, "")
        with pytest.raises(EpochFenced):
            await eras.hold(volume_id, epoch, "t", LONG_US)
    with pytest.raises(NotAttached):
        await eras.begin(uuid4(), 4, 9, "")
    assert rig.core.volumes[volume_id].era == 3


async def test_an_engine_that_opens_is_waited_for(rig, eras) -> None:
    """The order comes before the opening is done: the era is the engine's all the same."""
    rig.core.attach_gate.clear()
    volume = make_volume(rig.host_id)
    volume.era = 1
    attaching = asyncio.create_task(rig.attachments.attach(volume))
    await asyncio.sleep(0.05)
    beginning = asyncio.create_task(eras.begin(UUID(volume.id), 1, 2, ""))
    await asyncio.sleep(0.05)
    assert not beginning.done()
    rig.core.attach_gate.set()
    await asyncio.gather(attaching, beginning)
    assert rig.core.volumes[UUID(volume.id)].era == 2


async def test_a_hold_covers_the_beginning(rig, eras, volume_id) -> None:
    await eras.hold(volume_id, 4, "t", LONG_US)
    await eras.begin(volume_id, 4, 4, "t")
    await eras.hold(volume_id, 4, "t", 0)
    held = [call[2] for call in rig.core.calls if call[0] == "hold_mutations"]
    assert held == [LONG_US, 0]
    with pytest.raises(Busy, match="not held"):
        await eras.begin(volume_id, 4, 5, "t")


async def test_a_hold_that_ended_is_none(eras, volume_id) -> None:
    await eras.hold(volume_id, 4, "t", 1000)
    await asyncio.sleep(0.01)
    with pytest.raises(Busy, match="had ended"):
        await eras.begin(volume_id, 4, 4, "t")


async def test_a_hold_that_ends_while_writes_are_settled_is_none(rig, eras, volume_id) -> None:
    rig.core.era_gate.clear()
    await eras.hold(volume_id, 4, "t", 50_000)
    beginning = asyncio.create_task(eras.begin(volume_id, 4, 4, "t"))
    await asyncio.sleep(0.1)
    rig.core.era_gate.set()
    with pytest.raises(Busy, match="had ended"):
        await beginning


async def test_another_snapshot_in_between_is_noticed(eras, volume_id) -> None:
    await eras.hold(volume_id, 4, "t", LONG_US)
    await eras.begin(volume_id, 4, 4, "")
    with pytest.raises(Busy, match="in era 4"):
        await eras.begin(volume_id, 4, 4, "t")


async def test_holds_do_not_mix(rig, eras, volume_id) -> None:
    await eras.hold(volume_id, 4, "t", LONG_US)
    with pytest.raises(Busy, match="another snapshot"):
        await eras.hold(volume_id, 4, "u", LONG_US)
    await eras.hold(volume_id, 4, "u", 0)  # not its own
    await eras.begin(volume_id, 4, 4, "t")
    with pytest.raises(InvalidArgument):
        await eras.hold(volume_id, 4, "t", 1 << 40)


async def test_a_hold_ends_with_the_engine(rig, eras, volume_id) -> None:
    await eras.hold(volume_id, 4, "t", LONG_US)
    volume = make_volume(rig.host_id, epoch=5)
    volume.id, volume.era = str(volume_id), 3
    await rig.attachments.attach(volume)
    with pytest.raises(Busy, match="not held"):
        await eras.begin(volume_id, 5, 4, "t")
    await eras.hold(volume_id, 5, "u", LONG_US)
    await eras.begin(volume_id, 5, 4, "u")


async def test_over_grpc(rig, volume_id) -> None:
    text = str(volume_id)
    await rig.host.HoldMutations(
        host_pb2.HoldMutationsRequest(volume_id=text, epoch=4, token="t", hold_us=LONG_US)
    )
    await rig.host.BeginEra(
        host_pb2.BeginEraRequest(volume_id=text, epoch=4, era=4, hold_token="t")
    )
    assert rig.core.volumes[volume_id].era == 4


async def test_a_renewal_looks_for_a_snapshot_taken_meanwhile(rig, eventually) -> None:
    volume = make_volume(rig.host_id)
    volume.era = 1
    rig.metadata.volumes[volume.id] = volume
    rig.metadata.eras_missed = 1
    async with rig.running():
        await eventually(lambda: rig.attachments.held)
        await eventually(lambda: rig.core.volumes[UUID(volume.id)].era == 2)


async def test_only_a_well_engine_is_drained(rig, volume_id) -> None:
    request = host_pb2.HostDetachRequest(volume_id=str(volume_id), epoch=3)
    assert (await rig.host.Detach(request)).drained_epoch == 0  # an old order
    assert rig.attachments.held
    request.epoch = 4
    assert (await rig.host.Detach(request)).drained_epoch == 4
    assert (await rig.host.Detach(request)).drained_epoch == 0
    volume = make_volume(rig.host_id, epoch=2)
    await rig.attachments.attach(volume)
    rig.attachments.note_state(UUID(volume.id), "stalled")
    request = host_pb2.HostDetachRequest(volume_id=volume.id)
    assert (await rig.host.Detach(request)).drained_epoch == 0
