"""Clones, rollback, flattening; and the read-only exports of snapshots."""

import asyncio

import pytest

from blockd.meta import layers as layers_module
from blockd.model.errors import (
    AlreadyExists,
    EpochFenced,
    InUse,
    InvalidArgument,
    LinkLost,
    NotAttached,
    NotFound,
    VolumeAttached,
)
from blockd.rpc.gen import meta_pb2
from tests.meta.rig import GIB

pytestmark = pytest.mark.usefixtures("volume")


@pytest.fixture
async def volume(rig):
    await rig.add_cluster()
    return await rig.create()


async def sets(rig) -> dict[str, tuple[int, list[int], int]]:
    """What a host that registers is told, by volume id."""
    request = meta_pb2.RegisterHostRequest(host=rig.hosts["paris-1"].message())
    answer = await rig.call("RegisterHost", request)
    return {
        one.volume_id: (one.known_below, list(one.eras), one.uncovered_below)
        for one in answer.snapshot_sets
    }


async def clone(rig, name: str = "c", snapshot: str = "a", of: str = "vol", **options):
    request = meta_pb2.CloneVolumeRequest(volume=of, snapshot=snapshot, name=name, **options)
    return await rig.call("CloneVolume", request)


async def rollback(rig, snapshot: str, name: str = "vol"):
    request = meta_pb2.RollbackVolumeRequest(volume=name, snapshot=snapshot)
    return await rig.call("RollbackVolume", request)


async def flatten(rig, name: str):
    return await rig.call("FlattenVolume", meta_pb2.FlattenVolumeRequest(volume=name))


async def flatten_done(rig, volume_id: str, epoch: int):
    request = meta_pb2.FlattenDoneRequest(volume_id=volume_id, epoch=epoch)
    return await rig.call("FlattenDone", request)


# Clones.


async def test_a_clone_shows_its_snapshot(rig, volume):
    taken = await rig.snapshot("a")
    made = await clone(rig)
    assert made.size_bytes == volume.size_bytes
    assert made.policy == volume.policy
    assert made.era == 1
    base = made.base
    assert (base.volume_id, base.era, base.since, base.rolled_back) == (volume.id, 1, 1, False)
    assert base.snapshot_id == taken.id
    assert (await sets(rig))[made.id] == (1, [], 1)
    await rig.attach("c", "lyon-1")
    (layer,) = rig.hosts["lyon-1"].bases[made.id]
    assert layer.base == base
    assert [segment.index for segment in layer.segments] == [0, 1]
    assert all(member.site for segment in layer.segments for member in segment.members)


async def test_a_clone_of_a_clone_stands_on_both(rig, volume):
    await rig.snapshot("a")
    middle = await clone(rig)
    await rig.snapshot("m", "c")
    top = await clone(rig, "d", "m", "c")
    await rig.attach("d", "paris-1")
    layers = rig.hosts["paris-1"].bases[top.id]
    assert [layer.base.volume_id for layer in layers] == [middle.id, volume.id]


async def test_bases_stand_on_each_other_only_so_high(rig, monkeypatch):
    monkeypatch.setattr(layers_module, "BASES_MAX", 2)
    await rig.snapshot("a")
    for number, below in enumerate(("vol", "c0")):
        await clone(rig, f"c{number}", "a", below)
        await rig.snapshot("a", f"c{number}")
    with pytest.raises(InUse, match="2 others"):
        await clone(rig, "c2", "a", "c1")


async def test_a_clones_own_options(rig):
    await rig.snapshot("a")
    made = await clone(rig, size_bytes=3 * GIB, policy={"replicas": 1}, tenant="t")
    assert (made.size_bytes, made.policy.replicas, made.policy.min_in_sync) == (3 * GIB, 1, 1)
    assert made.tenant == "t"
    assert made.base.size_bytes == 2 * GIB
    with pytest.raises(InvalidArgument, match="at least as large"):
        await clone(rig, "small", size_bytes=GIB)
    with pytest.raises(AlreadyExists):
        await clone(rig)
    with pytest.raises(NotFound, match="no snapshot 'z'"):
        await clone(rig, "x", "z")


async def test_a_base_stays(rig):
    await rig.snapshot("a")
    await clone(rig)
    with pytest.raises(InUse, match="base of volume c"):
        await rig.delete_snapshot("a")
    await rig.delete("c")
    await rig.delete_snapshot("a")


@pytest.mark.parametrize("_", range(3))
async def test_a_clone_and_a_deletion_at_once(rig, _):
    await rig.snapshot("a")
    results = await asyncio.gather(clone(rig), rig.delete_snapshot("a"), return_exceptions=True)
    cloned, deleted = (not isinstance(one, Exception) for one in results)
    assert cloned != deleted, results
    assert bool(await rig.snapshots()) == cloned


# Flattening.


async def test_flatten_is_ordered_kept_on_record_and_ends(rig, volume):
    await rig.snapshot("a")
    made = await clone(rig)
    with pytest.raises(NotAttached, match="attached nowhere"):
        await flatten(rig, "c")
    attachment = await rig.attach("c", "paris-1")
    assert (await flatten(rig, "c")).flattening
    assert rig.hosts["paris-1"].flattening == [made.id]
    await rig.detach("c")
    await rig.attach("c", "lyon-1")
    assert rig.hosts["lyon-1"].attached[made.id].flattening  # goes on there
    with pytest.raises(EpochFenced):
        await flatten_done(rig, made.id, attachment.epoch)
    await flatten_done(rig, made.id, attachment.epoch + 1)
    await flatten_done(rig, made.id, attachment.epoch + 1)
    now = await rig.volume("c")
    assert not now.HasField("base")
    assert not now.flattening
    assert (await sets(rig))[made.id] == (1, [], 2)
    assert (await rig.event_kinds()).count("volume.flattened") == 1
    await rig.delete_snapshot("a")
    assert not (await flatten(rig, "c")).flattening  # nothing to do


async def test_a_holder_that_cannot_be_told_flattens_later(rig):
    await rig.snapshot("a")
    await clone(rig)
    await rig.attach("c", "paris-1")
    rig.hosts["paris-1"].failures["Flatten"] = LinkLost("gone")
    with pytest.raises(LinkLost):
        await flatten(rig, "c")
    assert (await rig.volume("c")).flattening


async def test_a_snapshot_of_a_clone_keeps_the_base(rig, volume):
    await rig.snapshot("a")
    made = await clone(rig)
    attachment = await rig.attach("c", "paris-1")
    await rig.snapshot("m", "c")
    await flatten_done(rig, made.id, attachment.epoch)
    with pytest.raises(InUse, match="base of snapshot m of c"):
        await rig.delete_snapshot("a")
    assert (await sets(rig))[made.id] == (2, [1], 1)  # what covers the base for m stays
    await rig.delete_snapshot("m", "c")
    assert (await sets(rig))[made.id] == (2, [], 3)
    await rig.delete_snapshot("a")


# Rollback.


async def test_rollback_makes_the_snapshot_show_through(rig, volume):
    await rig.attach(host="paris-1")
    taken = await rig.snapshot("a")
    with pytest.raises(VolumeAttached, match="paris-1"):
        await rollback(rig, "a")
    await rig.detach()
    now = await rollback(rig, "a")
    assert now.era == 3
    base = now.base
    assert (base.volume_id, base.era, base.since, base.rolled_back) == (volume.id, 1, 3, True)
    assert base.snapshot_id == taken.id
    assert (await sets(rig))[volume.id] == (3, [1], 3)
    await rig.attach(host="lyon-1")
    host = rig.hosts["lyon-1"]
    assert host.eras[volume.id] == 3
    (layer,) = host.bases[volume.id]
    assert [list(s.members) for s in layer.segments] == [
        list(s.members) for s in (await rig.volume()).segments
    ]
    with pytest.raises(InUse, match="base of volume vol"):
        await rig.delete_snapshot("a")


async def test_rollback_gives_a_volume_that_has_shrunk_its_size_back(rig, volume):
    await rig.attach(host="paris-1")
    await rig.snapshot("a")
    request = meta_pb2.ResizeVolumeRequest(name_or_id="vol", size_bytes=512, force=True)
    assert (await rig.call("ResizeVolume", request)).size_bytes == 512
    await rig.detach()
    now = await rollback(rig, "a")
    assert now.size_bytes == volume.size_bytes
    assert len(now.segments) == len(volume.segments)


async def test_rollback_needs_a_clean_detach(rig):
    await rig.attach(host="paris-1")
    await rig.snapshot("a")
    rig.hosts["paris-1"].is_drained = False
    await rig.detach()
    with pytest.raises(NotAttached, match="not detached cleanly"):
        await rollback(rig, "a")


async def test_a_rollback_replaces_the_base_of_an_earlier_one(rig, volume):
    for name in ("a", "b"):
        await rig.snapshot(name)
    await rollback(rig, "a")
    base = (await rollback(rig, "b")).base
    assert (base.era, base.since, base.rolled_back) == (2, 5, True)
    await rig.delete_snapshot("a")  # nobody shows it any more


async def test_rolled_back_to_a_snapshot_that_shows_another(rig, volume):
    """Content of between the two did not count in the snapshot, though it was born before it: so
    nothing is taken for the volume's own by the era it was born in."""
    await rig.snapshot("a")
    await rollback(rig, "a")
    await rig.snapshot("b")
    base = (await rollback(rig, "b")).base
    assert (base.era, base.since, base.rolled_back) == (3, 5, False)
    await rig.attach(host="paris-1")
    layers = rig.hosts["paris-1"].bases[volume.id]
    assert [(layer.base.era, layer.base.rolled_back) for layer in layers] == [(3, False), (1, True)]
    assert (await sets(rig))[volume.id] == (5, [1, 3], 3)


async def test_a_clone_rolled_back_still_shows_its_parent(rig, volume):
    await rig.snapshot("a")
    made = await clone(rig)
    await rig.snapshot("m", "c")
    base = (await rollback(rig, "m", "c")).base
    assert (base.volume_id, base.rolled_back) == (made.id, True)
    await rig.attach("c", "paris-1")
    layers = rig.hosts["paris-1"].bases[made.id]
    assert [layer.base.volume_id for layer in layers] == [made.id, volume.id]
    assert (await sets(rig))[made.id] == (3, [1], 1)


async def test_a_renewal_carries_the_base(rig, volume):
    await rig.snapshot("a")
    await rollback(rig, "a")
    attachment = await rig.attach(host="paris-1")
    answer = await rig.call(
        "RenewAttachment",
        meta_pb2.RenewAttachmentRequest(
            volume_id=volume.id, host_id=attachment.host_id, epoch=attachment.epoch
        ),
    )
    assert answer.volume.era == 3
    assert [layer.base.era for layer in answer.bases] == [1]


# Views and exports.


async def test_views_say_where_everything_is(rig, volume):
    taken = await rig.snapshot("a")
    await clone(rig)
    now = await rig.call("GetView", meta_pb2.GetViewRequest(volume="c"))
    assert (now.era, now.snapshot_id, len(now.bases)) == (0, "", 1)
    then = await rig.call("GetView", meta_pb2.GetViewRequest(volume="vol", snapshot="a"))
    assert (then.era, then.snapshot_id, then.snapshot_name) == (1, taken.id, "a")
    assert len(then.segments) == 2


async def attach_snapshot(rig, name: str = "a", host: str = ""):
    request = meta_pb2.AttachSnapshotRequest(volume="vol", name=name, host=host)
    return await rig.call("AttachSnapshot", request)


async def detach_snapshot(rig, name: str = "a", host: str = "", *, force: bool = False):
    request = meta_pb2.DetachSnapshotRequest(volume="vol", name=name, host=host, force=force)
    return await rig.call("DetachSnapshot", request)


async def test_a_snapshot_is_exported_at_several_hosts(rig, volume):
    taken = await rig.snapshot("a")
    for host in ("paris-1", "lyon-1"):
        attachment = await attach_snapshot(rig, host=host)
        assert attachment.host_name == host
        assert list(attachment.nbd_uris) == [f"nbd+unix:///vol@a?socket=/run/{host}.sock"]
        assert rig.hosts[host].snapshots[taken.id].era == 1
    again = await attach_snapshot(rig, host="lyon-1")
    assert again == attachment
    (listed,) = await rig.snapshots()
    assert sorted(one.host_name for one in listed.attachments) == ["lyon-1", "paris-1"]
    with pytest.raises(InUse, match="attached at lyon-1, paris-1"):
        await rig.delete_snapshot("a")
    with pytest.raises(InvalidArgument, match="say which"):
        await detach_snapshot(rig)
    await detach_snapshot(rig, host="paris-1")
    assert not rig.hosts["paris-1"].snapshots
    await detach_snapshot(rig)
    await detach_snapshot(rig)
    await rig.delete_snapshot("a")


async def test_a_host_that_registers_is_told_what_it_exports(rig, volume):
    await rig.snapshot("a")
    await rig.snapshot("b")
    await attach_snapshot(rig, "b", "paris-1")
    for host, names in (("paris-1", ["b"]), ("lyon-1", [])):
        request = meta_pb2.RegisterHostRequest(host=rig.hosts[host].message())
        answer = await rig.call("RegisterHost", request)
        assert [view.snapshot_name for view in answer.snapshots] == names


async def test_an_export_that_fails_leaves_nothing(rig):
    await rig.snapshot("a")
    rig.hosts["paris-1"].failures["AttachSnapshot"] = LinkLost("no member answers")
    with pytest.raises(LinkLost, match="paris-1 could not attach snapshot a"):
        await attach_snapshot(rig, host="paris-1")
    await rig.delete_snapshot("a")


async def test_a_host_that_is_silent_needs_force(rig):
    await rig.snapshot("a")
    await attach_snapshot(rig, host="paris-1")
    rig.hosts["paris-1"].failures["DetachSnapshot"] = LinkLost("gone")
    with pytest.raises(LinkLost, match="did not detach"):
        await detach_snapshot(rig)
    (one,) = await rig.snapshots()
    request = rig.hosts["paris-1"].heartbeat()
    request.exported_snapshot_ids.append(one.id)
    assert not (await rig.call("Heartbeat", request)).ended_snapshot_ids
    await detach_snapshot(rig, force=True)
    await rig.delete_snapshot("a")
    assert list((await rig.call("Heartbeat", request)).ended_snapshot_ids) == [one.id]


async def test_many_clones_of_one_snapshot_at_once(rig):
    await rig.snapshot("a")
    made = await asyncio.gather(*(clone(rig, f"c{number}") for number in range(12)))
    assert len({one.id for one in made}) == 12


async def test_many_hosts_attach_one_snapshot_at_once(rig):
    await rig.snapshot("a")
    await asyncio.gather(
        *(
            rig.call(
                "AttachSnapshot", meta_pb2.AttachSnapshotRequest(volume="vol", name="a", host=host)
            )
            for host in rig.hosts
        ),
        *(clone(rig, f"c{number}") for number in range(4)),
    )
    (one,) = await rig.snapshots()
    assert len(one.attachments) == len(rig.hosts)


async def test_growing_while_snapshots_are_taken(rig, volume):
    await rig.attach("vol", "paris-1")

    async def take() -> None:
        for number in range(12):
            await rig.snapshot(f"s{number}")

    async def grow() -> None:
        for gib in range(3, 7):
            request = meta_pb2.ResizeVolumeRequest(name_or_id="vol", size_bytes=gib * GIB)
            await rig.call("ResizeVolume", request)

    await asyncio.gather(take(), grow())
    now = await rig.volume()
    assert (now.size_bytes, now.era) == (6 * GIB, 13)
    sizes = [one.size_bytes for one in await rig.snapshots()]
    assert sizes == sorted(sizes)


async def test_a_snapshot_and_a_clone_of_it_never_part(rig):
    """Deleted and cloned at once: either goes first."""
    for number in range(8):
        await rig.snapshot(f"s{number}")
        deleted, made = await asyncio.gather(
            rig.delete_snapshot(f"s{number}"),
            clone(rig, f"c{number}", f"s{number}"),
            return_exceptions=True,
        )
        assert isinstance(deleted, InUse) or isinstance(made, NotFound)
        assert not (isinstance(deleted, InUse) and isinstance(made, NotFound))
