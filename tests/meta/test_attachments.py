"""Attachments: one holder at a time, a new epoch each time, a well holder protected."""

import asyncio
import contextlib

import pytest

from blockd.meta.attachments import Attachments
from blockd.model.errors import (
    Busy,
    EpochFenced,
    InvalidArgument,
    LinkLost,
    MetadataUnreachable,
    NotAttached,
    NotFound,
    QuorumLost,
    StaleGeneration,
    VolumeAttached,
)
from blockd.rpc.gen import meta_pb2
from blockd.rpc.status import hints_of
from tests.meta.rig import wait_until


@pytest.fixture
async def volume(rig):
    await rig.add_cluster()
    return await rig.create()


async def test_attach_issues_an_epoch_and_gives_the_hosts_uris(rig, volume):
    attachment = await rig.attach(host="paris-1")
    assert attachment.epoch == 1
    assert attachment.host_name == "paris-1"
    assert list(attachment.nbd_uris) == ["nbd+unix:///vol?socket=/run/paris-1.sock"]
    told = rig.hosts["paris-1"].attached[volume.id]
    assert told.attachment.epoch == 1
    assert len(told.segments) == 2
    assert (await rig.volume()).attachment == attachment


async def test_without_a_host_one_that_holds_replicas_is_chosen(rig, volume):
    attachment = await rig.attach()
    assert attachment.host_name in rig.hosts


async def test_attaching_again_at_the_holder_changes_nothing(rig, volume):
    first = await rig.attach(host="paris-1")
    assert await rig.attach(host="paris-1") == first
    assert await rig.attach() == first
    assert rig.hosts["paris-1"].calls.count("Attach") == 1


async def test_a_well_holder_keeps_the_volume(rig, volume):
    await rig.attach(host="paris-1")
    with pytest.raises(VolumeAttached, match="paris-1") as caught:
        await rig.attach(host="lyon-1")
    assert "volume detach vol" in hints_of(caught.value)[0]


async def test_force_takes_it_from_a_well_holder(rig, volume):
    await rig.attach(host="paris-1")
    assert (await rig.attach(host="lyon-1", force=True)).epoch == 2
    assert not rig.hosts["paris-1"].attached
    assert rig.hosts["lyon-1"].attached


async def test_a_dead_holder_is_replaced(rig, volume):
    await rig.attach(host="paris-1")
    await rig.hosts["paris-1"].stop()
    attachment = await rig.attach(host="lyon-1")
    assert (attachment.host_name, attachment.epoch) == ("lyon-1", 2)


async def test_a_hung_holder_is_replaced(rig, volume):
    await rig.attach(host="paris-1")
    rig.hosts["paris-1"].failures["GetAttachment"] = lambda: asyncio.sleep(30)
    assert (await rig.attach(host="lyon-1")).epoch == 2


async def test_a_holder_that_forgot_is_replaced_or_told_again(rig, volume):
    await rig.attach(host="paris-1")
    rig.hosts["paris-1"].attached.clear()
    assert (await rig.attach(host="paris-1")).epoch == 2
    rig.hosts["paris-1"].attached.clear()
    assert (await rig.attach(host="lyon-1")).epoch == 3


async def test_an_attach_that_fails_releases_the_volume_and_says_why(rig, volume):
    rig.hosts["paris-1"].failures["Attach"] = QuorumLost("fewer members answer")
    with pytest.raises(QuorumLost, match="paris-1 could not attach vol: fewer members"):
        await rig.attach(host="paris-1")
    assert not (await rig.volume()).HasField("attachment")
    assert (await rig.attach(host="lyon-1")).epoch == 2


async def test_attaching_at_a_host_that_is_gone(rig, volume):
    await rig.hosts["paris-1"].stop()
    with pytest.raises(LinkLost, match="paris-1") as caught:
        await rig.attach(host="paris-1")
    assert hints_of(caught.value)
    assert not (await rig.volume()).HasField("attachment")


async def test_an_attach_under_way_is_not_disturbed(rig, volume):
    opening, opened = asyncio.Event(), asyncio.Event()

    async def slowly():
        opening.set()
        await opened.wait()

    rig.hosts["paris-1"].failures["Attach"] = slowly
    first = asyncio.create_task(rig.attach(host="paris-1"))
    await opening.wait()
    with pytest.raises(Busy):
        await rig.attach(host="lyon-1")
    opened.set()
    assert (await first).host_name == "paris-1"


async def test_a_client_that_hangs_up_leaves_a_finished_attachment(rig, volume):
    opening, opened = asyncio.Event(), asyncio.Event()

    async def slowly():
        opening.set()
        await opened.wait()

    rig.hosts["paris-1"].failures["Attach"] = slowly
    task = asyncio.create_task(rig.attach(host="paris-1"))
    await opening.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    opened.set()

    async def has_uris() -> bool:
        return bool((await rig.volume()).attachment.nbd_uris)

    await wait_until(has_uris)


async def test_detach(rig, volume):
    await rig.attach(host="paris-1")
    await rig.detach()
    assert not rig.hosts["paris-1"].attached
    assert not (await rig.volume()).HasField("attachment")
    await rig.detach()
    assert (await rig.attach(host="lyon-1")).epoch == 2


async def test_a_live_host_that_does_not_detach_needs_force(rig, volume):
    await rig.attach(host="paris-1")
    rig.hosts["paris-1"].failures["Detach"] = LinkLost("stuck")
    with pytest.raises(LinkLost) as caught:
        await rig.detach()
    assert "--force" in hints_of(caught.value)[0]
    await rig.detach(force=True)
    assert not (await rig.volume()).HasField("attachment")


async def test_a_dead_host_needs_no_force(rig, volume):
    await rig.attach(host="paris-1")
    await rig.kill_host("paris-1")
    await rig.detach()
    assert not (await rig.volume()).HasField("attachment")


async def test_unknown_names(rig, volume):
    with pytest.raises(NotFound):
        await rig.attach("nothing", "paris-1")
    with pytest.raises(NotFound, match="nohost"):
        await rig.attach("vol", "nohost")
    with pytest.raises(NotFound):
        await rig.detach("nothing")


async def renew(rig, volume, host: str, epoch: int):
    return await rig.call(
        "RenewAttachment",
        meta_pb2.RenewAttachmentRequest(
            volume_id=volume.id, host_id=rig.hosts[host].id, epoch=epoch
        ),
    )


async def test_a_restarted_holder_gets_a_new_epoch(rig, volume):
    await rig.attach(host="paris-1")
    renewed = (await renew(rig, volume, "paris-1", 1)).volume
    assert renewed.attachment.epoch == 2
    assert len(renewed.segments) == 2
    assert (await renew(rig, volume, "paris-1", 1)).volume.attachment.epoch == 3


async def test_a_replaced_holder_is_fenced(rig, volume):
    await rig.attach(host="paris-1")
    await rig.attach(host="lyon-1", force=True)
    with pytest.raises(EpochFenced, match="lyon-1"):
        await renew(rig, volume, "paris-1", 1)
    await rig.detach()
    with pytest.raises(EpochFenced, match="nobody"):
        await renew(rig, volume, "lyon-1", 2)
    with pytest.raises(InvalidArgument):
        await renew(rig, volume, "lyon-1", 99)


async def change(rig, volume, hosts: list[str], *, epoch: int = 1, generation: int = 1):
    return await rig.call(
        "ChangeInSync",
        meta_pb2.ChangeInSyncRequest(
            volume_id=volume.id,
            segment=0,
            epoch=epoch,
            generation=generation,
            in_sync_host_ids=[rig.hosts[name].id for name in hosts],
            reason="test",
        ),
    )


async def test_in_sync_changes_are_compare_and_set(rig, volume):
    await rig.attach(host="paris-1")
    segment = await change(rig, volume, ["paris-1", "lyon-1"])
    assert segment.generation == 2
    assert {m.host_name for m in segment.members if m.in_sync} == {"paris-1", "lyon-1"}
    assert (await rig.volume()).degraded
    listed = await rig.call("ListVolumes", meta_pb2.ListVolumesRequest())
    assert listed.volumes[0].degraded
    assert (await change(rig, volume, ["paris-1", "lyon-1"])).generation == 2  # repeated
    with pytest.raises(StaleGeneration):
        await change(rig, volume, ["paris-1", "marseille-1"])
    with pytest.raises(QuorumLost):
        await change(rig, volume, ["paris-1"], generation=2)
    with pytest.raises(InvalidArgument):
        await change(rig, volume, [], generation=2)
    replaced = await change(rig, volume, ["paris-1", "marseille-1"], generation=2)
    assert {m.host_name for m in replaced.members if m.in_sync} == {"paris-1", "marseille-1"}
    segment = await change(rig, volume, ["paris-1", "lyon-1", "marseille-1"], generation=3)
    assert segment.generation == 4
    assert not (await rig.volume()).degraded
    assert not (await rig.call("ListVolumes", meta_pb2.ListVolumesRequest())).volumes[0].degraded


async def test_only_the_current_epoch_changes_the_set(rig, volume):
    with pytest.raises(InvalidArgument):
        await change(rig, volume, ["paris-1", "lyon-1"], epoch=1)
    await rig.attach(host="paris-1")
    await rig.attach(host="lyon-1", force=True)
    with pytest.raises(EpochFenced):
        await change(rig, volume, ["paris-1", "lyon-1"], epoch=1)
    await rig.detach()
    with pytest.raises(NotAttached):
        await change(rig, volume, ["paris-1", "lyon-1"], epoch=2)


async def test_concurrent_attaches_have_one_winner(rig, volume):
    results = await asyncio.gather(
        *(rig.attach(host=name) for name in rig.hosts), return_exceptions=True
    )
    winners = [one for one in results if not isinstance(one, Exception)]
    assert len(winners) >= 1
    assert all(isinstance(one, Busy | VolumeAttached) for one in results if one not in winners)
    holder = (await rig.volume()).attachment
    assert rig.hosts[holder.host_name].attached[volume.id].attachment.epoch == holder.epoch
    assert len({winner.epoch for winner in winners}) == len(winners)


async def test_a_mark_that_could_not_be_removed_goes_with_the_next_tick(rig, volume, monkeypatch):
    """The host answers, and then etcd cannot be told: the volume is not locked for ever."""

    async def fails(*_, **__):
        raise MetadataUnreachable("etcd does not answer")

    with monkeypatch.context() as patched:
        patched.setattr(Attachments, "_settle", fails)
        with pytest.raises(MetadataUnreachable):
            await rig.attach(host="paris-1")

    async def attached() -> bool:
        with contextlib.suppress(Busy):
            return bool((await rig.attach(host="lyon-1", force=True)).nbd_uris)
        return False

    await wait_until(attached)
