"""Branches: made for a member of an attached volume, sealed, read-only, deleted; and what is
refused meanwhile."""

import asyncio

import pytest

from blockd.meta import branches as branches_module
from blockd.model.errors import (
    AlreadyExists,
    Busy,
    EpochFenced,
    InUse,
    InvalidArgument,
    LinkLost,
    NotAttached,
    NotFound,
    ReadOnly,
)
from blockd.rpc.gen import meta_pb2
from tests.meta.rig import GIB, wait_until

pytestmark = pytest.mark.usefixtures("volume")


async def open_branch(rig, volume, host: str = "lyon-1", *, writer: int = 7, fresh: bool = False):
    """As the holder asks for it."""
    epoch = (await rig.volume(volume.name)).attachment.epoch
    request = meta_pb2.OpenBranchRequest(
        volume_id=volume.id,
        epoch=epoch,
        host_id=rig.hosts[host].id,
        writer_epoch=writer,
        fresh=fresh,
    )
    return await rig.call("OpenBranch", request)


async def seal(rig, branch, *, empty: bool = False, epoch: int = 0) -> None:
    request = meta_pb2.SealBranchRequest(branch_id=branch.id, empty=empty, epoch=epoch)
    await rig.call("SealBranch", request)


async def names(rig) -> list[str]:
    answer = await rig.call("ListVolumes", meta_pb2.ListVolumesRequest())
    return [one.name for one in answer.volumes]


async def test_a_branch_is_made_and_attached_at_the_holder(rig, volume):
    await rig.attach("vol", "paris-1")
    answer = await open_branch(rig, volume)
    assert answer.is_new
    branch = answer.branch
    assert branch.name == "vol.fenced-7"
    assert (branch.branch.volume_id, branch.branch.name) == (volume.id, "fenced-7")
    assert (branch.branch.host_name, branch.branch.epoch) == ("lyon-1", 7)
    assert not branch.branch.sealed
    assert branch.size_bytes == volume.size_bytes
    assert (branch.base.volume_id, branch.base.since) == (volume.id, 1)
    assert (branch.policy.replicas, branch.policy.min_in_sync) == (3, 1)
    assert branch.attachment.host_name == "paris-1"
    served = rig.hosts["paris-1"].attached[branch.id]
    assert not served.HasField("base"), "it takes whole chunks, whatever it stands on"
    assert served.HasField("branch")
    assert [one.name for one in await rig.snapshots()] == ["fenced-7"]


async def test_one_branch_a_host_until_it_is_sealed(rig, volume):
    await rig.attach("vol", "paris-1")
    first = (await open_branch(rig, volume)).branch
    again = await open_branch(rig, volume, writer=9)
    assert (again.branch.id, again.is_new) == (first.id, False)
    other = (await open_branch(rig, volume, "marseille-1")).branch
    assert other.name == "vol.fenced-7-2"
    await seal(rig, first)
    assert (await open_branch(rig, volume)).branch.name == "vol.fenced-7-3"


async def test_a_fresh_one_seals_the_one_before(rig, volume):
    await rig.attach("vol", "paris-1")
    first = (await open_branch(rig, volume)).branch
    second = await open_branch(rig, volume, fresh=True)
    assert second.is_new
    assert second.branch.id != first.id
    assert (await rig.volume(first.id)).branch.sealed


async def test_a_volume_that_has_grown_gets_another_branch(rig, volume):
    await rig.attach("vol", "paris-1")
    first = (await open_branch(rig, volume)).branch
    await rig.call(
        "ResizeVolume", meta_pb2.ResizeVolumeRequest(name_or_id="vol", size_bytes=4 * GIB)
    )
    second = (await open_branch(rig, volume)).branch
    assert second.id != first.id
    assert second.size_bytes == 4 * GIB


async def test_only_the_holder_opens_one(rig, volume):
    request = meta_pb2.OpenBranchRequest(
        volume_id=volume.id, epoch=1, host_id=rig.hosts["lyon-1"].id, writer_epoch=1
    )
    with pytest.raises((NotAttached, InvalidArgument)):
        await rig.call("OpenBranch", request)
    await rig.attach("vol", "paris-1")
    await rig.attach("vol", "lyon-1", force=True)
    with pytest.raises(EpochFenced):
        await rig.call("OpenBranch", request)
    assert await names(rig) == ["vol"]


async def test_fewer_replicas_are_better_than_none(rig, volume):
    await rig.attach("vol", "paris-1")
    await rig.kill_host("marseille-1")
    branch = (await open_branch(rig, volume)).branch
    assert branch.policy.replicas == 2


async def test_a_sealed_branch_is_attached_read_only_over_its_base(rig, volume):
    await rig.attach("vol", "paris-1")
    branch = (await open_branch(rig, volume)).branch
    with pytest.raises(Busy, match="is being filled"):
        await rig.attach(branch.name, "lyon-1")
    await seal(rig, branch)
    await seal(rig, branch)
    assert branch.id not in rig.hosts["paris-1"].attached

    async def is_final() -> bool:
        return (await rig.snapshots())[0].state == 2

    await wait_until(is_final)
    await rig.attach(branch.name, "lyon-1")
    served = rig.hosts["lyon-1"].attached[branch.id]
    assert served.branch.sealed
    assert [one.base.volume_id for one in rig.hosts["lyon-1"].bases[branch.id]] == [volume.id]


async def test_a_branch_is_not_changed(rig, volume):
    await rig.attach("vol", "paris-1")
    branch = (await open_branch(rig, volume)).branch
    with pytest.raises(Busy, match="is being filled"):
        await rig.snapshot("copy", branch.name)
    await seal(rig, branch)
    with pytest.raises(ReadOnly, match="stays as it is"):
        await rig.call(
            "ResizeVolume",
            meta_pb2.ResizeVolumeRequest(name_or_id=branch.name, size_bytes=4 * GIB),
        )
    with pytest.raises(ReadOnly):
        await rig.call("FlattenVolume", meta_pb2.FlattenVolumeRequest(volume=branch.name))
    await rig.snapshot("copy", branch.name)
    made = await rig.call(
        "CloneVolume",
        meta_pb2.CloneVolumeRequest(volume=branch.name, snapshot="copy", name="writable"),
    )
    assert not made.HasField("branch")


async def test_a_volume_goes_after_its_branches(rig, volume):
    await rig.attach("vol", "paris-1")
    branch = (await open_branch(rig, volume)).branch
    await seal(rig, branch)
    await rig.detach("vol")
    with pytest.raises(InUse, match="has branches: fenced-7"):
        await rig.delete("vol")
    await rig.delete(branch.name)
    assert await rig.snapshots() == []
    await rig.delete("vol")
    assert await names(rig) == []


async def test_one_that_holds_nothing_goes(rig, volume):
    await rig.attach("vol", "paris-1")
    branch = (await open_branch(rig, volume)).branch
    await seal(rig, branch, empty=True)
    assert await names(rig) == ["vol"]
    assert await rig.snapshots() == []


async def test_a_holder_that_was_replaced_does_not_end_what_another_fills(rig, volume):
    await rig.attach("vol", "paris-1")
    first = (await open_branch(rig, volume)).branch
    await rig.attach("vol", "marseille-1", force=True)
    second = (await open_branch(rig, volume)).branch
    assert (second.id, second.attachment.host_name) == (first.id, "marseille-1")
    with pytest.raises(EpochFenced):
        await seal(rig, first, empty=True, epoch=first.attachment.epoch)
    assert not (await rig.volume(first.id)).branch.sealed
    assert first.id in rig.hosts["marseille-1"].attached
    await seal(rig, second, empty=True, epoch=second.attachment.epoch)
    assert await names(rig) == ["vol"]


async def test_a_creation_that_fails_leaves_nothing_twice(rig, volume):
    await rig.attach("vol", "paris-1")
    rig.hosts["lyon-1"].failures["EnsureReplicas"] = LinkLost("no answer")
    for _ in range(3):
        with pytest.raises(LinkLost):
            await open_branch(rig, volume)
    assert [one.name for one in await rig.snapshots()] == ["fenced-7"]
    del rig.hosts["lyon-1"].failures["EnsureReplicas"]

    async def opened():
        try:
            return await open_branch(rig, volume)
        except (Busy, AlreadyExists):  # what failed is being undone
            return None

    assert (await wait_until(opened)).branch.base.era == 1


async def test_what_a_branch_was_to_stand_on_goes_when_there_is_none(rig, volume, monkeypatch):
    await rig.attach("vol", "paris-1")
    rig.hosts["lyon-1"].failures["EnsureReplicas"] = LinkLost("no answer")
    with pytest.raises(LinkLost):
        await open_branch(rig, volume)
    assert [one.name for one in await rig.snapshots()] == ["fenced-7"]
    monkeypatch.setattr(branches_module, "LEFT_SECONDS", 0.0)

    async def is_gone() -> bool:
        return await rig.snapshots() == []

    await wait_until(is_gone)


async def test_names_of_branches_are_kept_for_them(rig, volume):
    with pytest.raises(InvalidArgument, match="kept for branches"):
        await rig.snapshot("fenced-1")


async def test_the_leader_seals_what_nobody_fills(rig, volume, monkeypatch):
    monkeypatch.setattr(branches_module, "LEFT_SECONDS", 0.0)
    await rig.attach("vol", "paris-1")
    branch = (await open_branch(rig, volume)).branch
    await asyncio.sleep(2.5)
    assert not (await rig.volume(branch.id)).branch.sealed, "its holder is up"
    await rig.kill_host("paris-1")

    async def is_sealed() -> bool:
        return bool((await rig.volume(branch.id)).branch.sealed)

    await wait_until(is_sealed)
    with pytest.raises(NotFound):
        await rig.volume("vol.fenced-8")
