"""Volumes from creation to deletion, with hosts that fail on the way."""

import pytest

from blockd.meta.etcd import Delete, Etcd, Put
from blockd.meta.records import VOLUMES, WORKING
from blockd.model.errors import (
    AlreadyExists,
    InUse,
    InvalidArgument,
    LinkLost,
    NoSpace,
    NotAttached,
    NotFound,
    PolicyUnsatisfiable,
    QuorumLost,
    VolumeAttached,
)
from blockd.rpc.gen import meta_pb2, types_pb2
from blockd.rpc.status import hints_of
from tests.meta.rig import GIB, SITES, wait_until


async def names(rig) -> list[str]:
    answer = await rig.call("ListVolumes", meta_pb2.ListVolumesRequest())
    return [volume.name for volume in answer.volumes]


async def all_gone(rig) -> bool:
    return not await names(rig) and not any(host.replicas for host in rig.hosts.values())


async def test_a_volume_has_its_replicas_on_three_sites(rig):
    await rig.add_cluster()
    volume = await rig.create(size=2 * GIB + 4096)
    assert volume.state == types_pb2.VOLUME_STATE_AVAILABLE
    assert (volume.policy.replicas, volume.policy.min_in_sync) == (3, 2)
    assert [segment.index for segment in volume.segments] == [0, 1, 2]
    for segment in volume.segments:
        assert {member.site for member in segment.members} == set(SITES)
        assert all(member.in_sync for member in segment.members)
        assert segment.generation == 1
    assert not volume.degraded
    assert not volume.HasField("attachment")
    for host in rig.hosts.values():
        assert set(host.replicas) == {(volume.id, index) for index in range(3)}
        assert set(host.replicas.values()) == {GIB // 4096}


@pytest.mark.parametrize(
    "change",
    [
        {"name": ""},
        {"name": "a b"},
        {"name": "/etc"},
        {"name": "x" * 64},
        {"name": "6ba7b810-9dad-11d1-80b4-00c04fd430c8"},
        {"size": 0},
        {"size": 1000},
        {"size": (16 << 40) + 512},
        {"replicas": 8},
        {"replicas": 2, "min_in_sync": 3},
    ],
)
async def test_bad_volumes_are_refused(rig, change):
    await rig.add_cluster()
    with pytest.raises(InvalidArgument) as caught:
        await rig.create(**change)
    assert caught.value.context["field"]
    assert await names(rig) == []


async def test_names_are_unique_and_found_with_ids(rig):
    await rig.add_cluster()
    volume = await rig.create()
    with pytest.raises(AlreadyExists):
        await rig.create()
    assert (await rig.volume(volume.id)).name == "vol"
    assert (await rig.volume(volume.id.upper())).id == volume.id
    with pytest.raises(NotFound):
        await rig.volume("other")


async def test_a_policy_that_cannot_be_met_says_why(rig):
    await rig.add_cluster()
    await rig.kill_host("marseille-1")
    with pytest.raises(PolicyUnsatisfiable) as caught:
        await rig.create()
    assert "needs 3 sites" in caught.value.message
    assert "have 2: lyon, paris" in caught.value.message
    assert "marseille-1 is down" in caught.value.message
    assert await names(rig) == []


async def test_a_host_without_room_is_no_place(rig):
    await rig.add_cluster(capacity_bytes=GIB)
    await rig.create("a", size=15 * GIB)
    with pytest.raises(PolicyUnsatisfiable, match="has 5 GiB free"):
        await rig.create("b", size=6 * GIB)


async def test_a_store_that_stalls_is_no_place(rig):
    await rig.add_cluster()
    lyon = rig.hosts["lyon-1"]
    lyon.store_state = "stalled"
    await rig.call("Heartbeat", lyon.heartbeat())
    with pytest.raises(PolicyUnsatisfiable, match="lyon-1 has no store whose device works"):
        await rig.create()
    lyon.store_state = "ok"
    await rig.call("Heartbeat", lyon.heartbeat())
    await rig.create()


async def test_a_failing_host_undoes_the_creation(rig):
    await rig.add_cluster()
    rig.hosts["lyon-1"].failures["EnsureReplicas"] = NoSpace("no free chunk")
    with pytest.raises(NoSpace, match="lyon-1"):
        await rig.create()
    assert await all_gone(rig)
    rig.hosts["lyon-1"].failures.clear()
    await rig.create()


async def test_a_host_that_dies_during_creation_drops_its_part_later(rig):
    await rig.add_cluster()
    lyon = rig.hosts["lyon-1"]
    await lyon.stop()
    with pytest.raises(LinkLost, match="lyon-1") as caught:
        await rig.create()
    assert hints_of(caught.value)
    endpoint = lyon.endpoint
    await lyon.start()
    assert lyon.endpoint != endpoint
    lyon.incarnation += 1
    await rig.call("RegisterHost", meta_pb2.RegisterHostRequest(host=lyon.message()))

    async def gone() -> bool:
        return await all_gone(rig)

    await wait_until(gone)


async def test_an_interrupted_creation_is_undone_by_the_leader(rig):
    await rig.add_cluster()
    volume = await rig.create()
    etcd = Etcd([rig.etcd_endpoint])
    entry = await etcd.get(VOLUMES + volume.id)
    record = types_pb2.Volume.FromString(entry.value)
    record.state = types_pb2.VOLUME_STATE_CREATING
    await etcd.commit(
        [], [Put(VOLUMES + volume.id, record.SerializeToString()), Delete(WORKING + volume.id)]
    )
    await etcd.close()

    async def gone() -> bool:
        return await all_gone(rig)

    await wait_until(gone)


async def test_deletion_drops_every_replica(rig):
    await rig.add_cluster()
    await rig.create()
    await rig.delete()
    assert await all_gone(rig)
    with pytest.raises(NotFound):
        await rig.delete()
    kinds = await rig.event_kinds()
    assert "volume.deleted" in kinds


async def test_an_attached_volume_is_not_deleted(rig):
    await rig.add_cluster()
    await rig.create()
    await rig.attach(host="paris-1")
    with pytest.raises(VolumeAttached, match="paris-1") as caught:
        await rig.delete()
    assert hints_of(caught.value) == ["blockctl volume detach vol"]


async def test_a_host_that_is_down_learns_of_the_deletion_when_it_returns(rig):
    await rig.add_cluster()
    volume = await rig.create()
    await rig.kill_host("lyon-1")
    await rig.delete()
    answer = await rig.call("ListVolumes", meta_pb2.ListVolumesRequest())
    assert [one.state for one in answer.volumes] == [types_pb2.VOLUME_STATE_DELETING]
    lyon = rig.hosts["lyon-1"]
    lyon.failures["DropReplicas"] = LinkLost("not yet")
    await lyon.start()
    lyon.incarnation += 1
    welcome = await rig.call("RegisterHost", meta_pb2.RegisterHostRequest(host=lyon.message()))
    assert list(welcome.deleted_volume_ids) == [volume.id]
    assert not welcome.replicas
    heartbeat = await rig.call("Heartbeat", lyon.heartbeat())
    assert list(heartbeat.deleted_volume_ids) == [volume.id]
    rig.silent.clear()
    lyon.failures.clear()

    async def gone() -> bool:
        return await all_gone(rig)

    await wait_until(gone)


async def test_a_deletion_that_a_lost_host_holds_up_can_be_ended(rig):
    """By force, which says what stays; the host follows the order when it comes back after all,
    and a new volume of the name is not touched."""
    await rig.add_cluster()
    old = await rig.create()
    with pytest.raises(InvalidArgument, match="not being deleted"):
        await rig.delete(force=True)
    await rig.kill_host("lyon-1")
    assert (await rig.delete()).waiting_hosts == ["lyon-1"]
    lyon = rig.hosts["lyon-1"]
    with pytest.raises(NotFound):
        await rig.call("GetVolume", meta_pb2.GetVolumeRequest(name_or_id="vol"))
    new = await rig.create(replicas=2)
    assert (await rig.delete(force=True)).waiting_hosts == ["lyon-1"]
    answer = await rig.call("ListVolumes", meta_pb2.ListVolumesRequest())
    assert [one.id for one in answer.volumes] == [new.id]
    with pytest.raises(InvalidArgument, match="not being deleted"):
        await rig.delete(force=True)
    assert "volume.forgotten" in await rig.event_kinds()
    assert any(key[0] == old.id for key in lyon.replicas)
    await lyon.start()
    lyon.incarnation += 1
    welcome = await rig.call("RegisterHost", meta_pb2.RegisterHostRequest(host=lyon.message()))
    assert list(welcome.deleted_volume_ids) == [old.id]
    rig.silent.clear()

    async def dropped() -> bool:
        heartbeat = await rig.call("Heartbeat", lyon.heartbeat())
        return not lyon.replicas and not heartbeat.deleted_volume_ids

    await wait_until(dropped)


async def test_growth_adds_segments_and_tells_the_holder(rig):
    await rig.add_cluster()
    volume = await rig.create(size=GIB // 2)
    await rig.attach(host="paris-1")
    grown = await rig.call(
        "ResizeVolume",
        meta_pb2.ResizeVolumeRequest(name_or_id="vol", size_bytes=3 * GIB),
    )
    assert grown.size_bytes == 3 * GIB
    assert [segment.index for segment in grown.segments] == [0, 1, 2]
    assert rig.hosts["paris-1"].attached[volume.id].size_bytes == 3 * GIB
    assert all(len(host.replicas) == 3 for host in rig.hosts.values())


def resize(rig, size_bytes: int, *, force: bool = False):
    request = meta_pb2.ResizeVolumeRequest(name_or_id="vol", size_bytes=size_bytes, force=force)
    return rig.call("ResizeVolume", request)


async def test_a_volume_shrinks_by_force_and_attached_only(rig):
    await rig.add_cluster()
    await rig.create(size=2 * GIB)
    with pytest.raises(InvalidArgument, match="--force"):
        await resize(rig, GIB)
    with pytest.raises(NotAttached, match="attached nowhere") as caught:
        await resize(rig, GIB, force=True)
    assert hints_of(caught.value) == ["blockctl volume attach vol"]
    await rig.attach(host="paris-1")
    with pytest.raises(InvalidArgument):
        await resize(rig, GIB)
    for nonsense in (0, GIB - 1):
        with pytest.raises(InvalidArgument):
            await resize(rig, nonsense, force=True)
    assert (await rig.volume()).size_bytes == 2 * GIB
    assert not rig.hosts["paris-1"].shrunk


async def test_what_is_behind_the_end_is_kept_for_a_later_growth(rig):
    await rig.add_cluster()
    volume = await rig.create(size=3 * GIB)
    await rig.attach(host="paris-1")
    places = [list(segment.members) for segment in volume.segments]
    paris = rig.hosts["paris-1"]
    shrunk = await resize(rig, GIB // 2, force=True)
    assert shrunk.size_bytes == GIB // 2
    assert [segment.index for segment in shrunk.segments] == [0]
    assert paris.shrunk == [GIB // 2]
    assert all(len(host.replicas) == 3 for host in rig.hosts.values())
    # The holder's engine goes on with them: a member that is away there leaves their sets.
    gone = places[2][2].host_id
    await rig.call(
        "ChangeInSync",
        meta_pb2.ChangeInSyncRequest(
            volume_id=volume.id,
            segment=2,
            epoch=1,
            generation=1,
            in_sync_host_ids=[member.host_id for member in places[2][:2]],
        ),
    )
    assert not (await rig.volume()).degraded
    listed = await rig.call("ListVolumes", meta_pb2.ListVolumesRequest())
    assert [one.degraded for one in listed.volumes] == [False]

    grown = await resize(rig, 5 * GIB)
    assert [segment.index for segment in grown.segments] == [0, 1, 2, 3, 4]
    for segment, members in zip(grown.segments, places, strict=False):
        assert [(m.host_id, m.store_id) for m in segment.members] == [
            (m.host_id, m.store_id) for m in members
        ]
    kept = grown.segments[2]
    assert kept.generation == 2
    assert [member.host_id for member in kept.members if not member.in_sync] == [gone]
    assert grown.degraded
    assert paris.attached[volume.id].size_bytes == 5 * GIB
    listed = await rig.call("ListVolumes", meta_pb2.ListVolumesRequest())
    assert [one.degraded for one in listed.volumes] == [True]


async def test_a_shrink_that_its_holder_did_not_finish_leaves_the_size_and_can_be_repeated(rig):
    await rig.add_cluster()
    await rig.create(size=3 * GIB)
    await rig.attach(host="paris-1")
    paris = rig.hosts["paris-1"]
    paris.failures["Shrink"] = QuorumLost("too few members")
    with pytest.raises(QuorumLost) as caught:
        await resize(rig, GIB, force=True)
    assert any("repeat the command" in hint for hint in hints_of(caught.value))
    assert (await rig.volume()).size_bytes == 3 * GIB
    paris.failures.clear()
    assert (await resize(rig, GIB, force=True)).size_bytes == GIB


async def test_a_holder_that_comes_in_between_keeps_the_size(rig):
    await rig.add_cluster()
    volume = await rig.create(size=3 * GIB)
    await rig.attach(host="paris-1")
    paris, lyon = rig.hosts["paris-1"], rig.hosts["lyon-1"]
    paris.failures["Detach"] = LinkLost("not now")

    async def take_over():
        await rig.attach(host="lyon-1", force=True)

    paris.failures["Shrink"] = take_over
    shrunk = await resize(rig, GIB, force=True)
    # Its engine opened with the old size; so it was shrunk in its turn before the size changed.
    assert shrunk.size_bytes == GIB
    assert (paris.shrunk, lyon.shrunk) == ([GIB], [GIB])
    assert lyon.attached[volume.id].size_bytes == GIB


async def test_events_of_a_resize_carry_both_sizes(rig):
    await rig.add_cluster()
    await rig.create(size=GIB)
    await rig.attach(host="paris-1")
    await resize(rig, 2 * GIB)
    await resize(rig, 512, force=True)
    sizes = [
        (event.kind, event.details["old_size_bytes"], event.details["size_bytes"])
        for event in await rig.events()
        if event.kind in ("volume.resized", "volume.shrunk")
    ]
    assert sizes == [
        ("volume.resized", str(GIB), str(2 * GIB)),
        ("volume.shrunk", str(2 * GIB), "512"),
    ]


async def test_growth_that_failed_half_way_can_be_repeated(rig):
    await rig.add_cluster()
    await rig.create(size=GIB)
    request = meta_pb2.ResizeVolumeRequest(name_or_id="vol", size_bytes=3 * GIB)
    rig.hosts["lyon-1"].failures["EnsureReplicas"] = NoSpace("no free chunk")
    with pytest.raises(NoSpace):
        await rig.call("ResizeVolume", request)
    assert len((await rig.volume()).segments) == 1
    rig.hosts["lyon-1"].failures.clear()
    assert len((await rig.call("ResizeVolume", request)).segments) == 3


async def test_growth_makes_no_replica_anew_that_was_in_use(rig):
    await rig.add_cluster()
    volume = await rig.create(size=3 * GIB)
    await rig.attach(host="paris-1")
    lyon = rig.hosts["lyon-1"]
    await resize(rig, GIB // 2, force=True)
    lyon.replicas.clear()  # its store is formatted anew
    await resize(rig, 2 * GIB)
    assert not lyon.replicas
    assert (await resize(rig, 5 * GIB)).made_segments == 5
    assert set(lyon.replicas) == {(volume.id, 3), (volume.id, 4)}
    # Once more, and with a growth in between that fails before the new ones are made.
    await resize(rig, GIB, force=True)
    lyon.failures["EnsureReplicas"] = NoSpace("no free chunk")
    with pytest.raises(NoSpace):
        await resize(rig, 6 * GIB)
    lyon.replicas.clear()
    lyon.failures.clear()
    assert (await resize(rig, 2 * GIB)).made_segments == 5
    assert not lyon.replicas
    assert (await resize(rig, 6 * GIB)).made_segments == 6
    assert set(lyon.replicas) == {(volume.id, 5)}


async def test_growth_into_what_was_in_use_needs_no_host(rig):
    await rig.add_cluster()
    await rig.create(size=3 * GIB)
    await rig.attach(host="paris-1")
    await resize(rig, GIB, force=True)
    await rig.kill_host("lyon-1")
    assert (await resize(rig, 3 * GIB)).size_bytes == 3 * GIB


async def test_a_volume_without_the_mark_gets_it_before_segments_are_left_behind(rig):
    await rig.add_cluster()
    volume = await rig.create(size=3 * GIB)
    assert volume.made_segments == 3
    await rig.attach(host="paris-1")
    etcd = Etcd([rig.etcd_endpoint])
    record = types_pb2.Volume.FromString((await etcd.get(VOLUMES + volume.id)).value)
    record.made_segments = 0
    await etcd.commit([], [Put(VOLUMES + volume.id, record.SerializeToString())])
    await etcd.close()
    assert (await resize(rig, GIB, force=True)).made_segments == 3


async def test_min_in_sync_is_lowered_and_never_raised(rig):
    await rig.add_cluster()
    volume = await rig.create(min_in_sync=3)
    await rig.attach(host="paris-1")

    def lower(count: int):
        request = meta_pb2.ChangePolicyRequest(name_or_id="vol", min_in_sync=count)
        return rig.call("ChangePolicy", request)

    change = meta_pb2.ChangeInSyncRequest(
        volume_id=volume.id,
        epoch=1,
        generation=1,
        in_sync_host_ids=[member.host_id for member in volume.segments[0].members[:2]],
    )
    with pytest.raises(QuorumLost):
        await rig.call("ChangeInSync", change)
    for count in (0, 4):
        with pytest.raises(InvalidArgument, match="min_in_sync is 3"):
            await lower(count)
    for _ in range(2):
        policy = (await lower(2)).policy
        assert policy == types_pb2.Policy(replicas=3, min_in_sync=2, io_timeout_ms=30_000)
    await rig.call("ChangeInSync", change)
    with pytest.raises(InvalidArgument, match="min_in_sync is 2"):
        await lower(3)
    kinds = await rig.event_kinds()
    assert kinds.count("volume.policy_changed") == 1


async def test_the_io_timeout_is_the_volumes_own_and_can_be_changed(rig):
    await rig.add_cluster()
    await rig.create()
    for timeout_ms in (0, 4_999, 86_400_001):
        request = meta_pb2.ChangePolicyRequest(name_or_id="vol", io_timeout_ms=timeout_ms)
        with pytest.raises(InvalidArgument, match="requests wait 5 s to 1 d for a quorum"):
            await rig.call("ChangePolicy", request)
    request = meta_pb2.ChangePolicyRequest(name_or_id="vol", io_timeout_ms=120_000)
    for _ in range(2):
        policy = (await rig.call("ChangePolicy", request)).policy
        assert policy == types_pb2.Policy(replicas=3, min_in_sync=2, io_timeout_ms=120_000)
    await rig.call("ChangePolicy", meta_pb2.ChangePolicyRequest(name_or_id="vol"))
    assert (await rig.event_kinds()).count("volume.policy_changed") == 1


async def test_a_growth_that_restored_metadata_forgot_is_taken_up_whole_or_not_at_all(rig):
    await rig.add_cluster()
    volume = await rig.create(size=GIB)
    segment = (volume.id, 1)
    rig.hosts["lyon-1"].used.add(segment)
    with pytest.raises(InUse, match="1 of the 3 hosts chosen for segment 1") as caught:
        await resize(rig, 2 * GIB)
    assert "new volume" in hints_of(caught.value)[0]
    assert (await rig.volume()).size_bytes == GIB
    for host in rig.hosts.values():
        host.used.add(segment)
    assert (await resize(rig, 2 * GIB)).size_bytes == 2 * GIB


async def test_two_growths_at_once_do_not_take_each_others_replicas_for_forgotten_ones(rig):
    await rig.add_cluster()
    volume = await rig.create(size=GIB)
    lyon = rig.hosts["lyon-1"]

    async def other():
        lyon.failures.clear()
        await resize(rig, 2 * GIB)
        lyon.used.add((volume.id, 1))  # an engine has opened it meanwhile

    lyon.failures["EnsureReplicas"] = other
    assert (await resize(rig, 2 * GIB)).size_bytes == 2 * GIB


async def test_a_volume_of_many_segments(rig):
    await rig.add_cluster(capacity_bytes=4 << 40)
    volume = await rig.create(size=700 * GIB)
    assert len(volume.segments) == 700
    assert len(rig.hosts["paris-1"].replicas) == 700
    await rig.delete()
    assert await all_gone(rig)
