"""Groups: snapshots of several volumes at one moment, all or none."""

import asyncio

import pytest

from blockd.meta.etcd import Delete, Etcd
from blockd.meta.records import WORKING
from blockd.model.errors import (
    AlreadyExists,
    Busy,
    InUse,
    InvalidArgument,
    LinkLost,
    NotAttached,
    NotFound,
)
from blockd.rpc.gen import meta_pb2, types_pb2
from tests.meta.rig import wait_until

AVAILABLE = types_pb2.SNAPSHOT_STATE_AVAILABLE


async def make_group(rig, name: str = "g", volumes: tuple[str, ...] = ("v1", "v2", "v3")):
    request = meta_pb2.CreateGroupRequest(name=name, volumes=volumes)
    return await rig.call("CreateGroup", request)


async def take(rig, name: str = "s", group: str = "g"):
    request = meta_pb2.SnapshotGroupRequest(group=group, name=name)
    return (await rig.call("SnapshotGroup", request)).snapshots


@pytest.fixture
async def order(rig) -> list[str]:
    """Three volumes at three hosts, in a group; what their hosts do, in order."""
    await rig.add_cluster()
    order: list[str] = []
    for number, host in enumerate(rig.hosts.values(), 1):
        await rig.create(f"v{number}")
        await rig.attach(f"v{number}", host.name)
        host.order = order
    await make_group(rig)
    return order


async def test_all_hold_before_any_begins(rig, order):
    taken = await take(rig)
    assert [(one.volume_name, one.era, one.state, one.group) for one in taken] == [
        (f"v{number}", 1, AVAILABLE, "g") for number in (1, 2, 3)
    ]
    assert order == ["hold"] * 3 + ["begin"] * 3
    assert not any(host.holds for host in rig.hosts.values())
    assert all(set(host.eras.values()) == {2} for host in rig.hosts.values())


async def test_groups_are_listed_and_deleted(rig, order):
    group = await rig.call("GetGroup", meta_pb2.GetGroupRequest(name="g"))
    assert [one.volume_name for one in group.volumes] == ["v1", "v2", "v3"]
    await make_group(rig, "other", ("v1", "v1"))
    groups = (await rig.call("ListGroups", meta_pb2.ListGroupsRequest())).groups
    assert [(one.name, len(one.volumes)) for one in groups] == [("g", 3), ("other", 1)]
    with pytest.raises(AlreadyExists):
        await make_group(rig)
    for name, volumes, error in (
        ("a b", ("v1",), InvalidArgument),
        ("x", (), InvalidArgument),
        ("x", ("nothing",), NotFound),
    ):
        with pytest.raises(error):
            await make_group(rig, name, volumes)
    await rig.call("DeleteGroup", meta_pb2.DeleteGroupRequest(name="other"))
    with pytest.raises(NotFound, match="no group"):
        await rig.call("DeleteGroup", meta_pb2.DeleteGroupRequest(name="other"))
    with pytest.raises(NotFound, match="no group"):
        await take(rig, group="other")


async def test_a_member_is_not_deleted(rig, order):
    await rig.detach("v1")
    with pytest.raises(InUse, match="member of group g"):
        await rig.delete("v1")
    await rig.call("DeleteGroup", meta_pb2.DeleteGroupRequest(name="g"))
    await rig.delete("v1")


async def test_volumes_attached_nowhere_take_part(rig, order):
    await rig.detach("v2")
    assert len(await take(rig)) == 3
    assert order == ["hold"] * 2 + ["begin"] * 2
    rig.hosts["paris-1"].is_drained = False
    await rig.detach("v1")
    with pytest.raises(NotAttached, match="v1 was not detached cleanly"):
        await take(rig, "t")
    assert len(await rig.snapshots("")) == 3


@pytest.mark.parametrize("method", ["HoldMutations", "BeginEra"])
async def test_none_is_left_when_a_host_fails(rig, order, method):
    rig.hosts["lyon-1"].failures[method] = LinkLost("no route")
    with pytest.raises(LinkLost, match="snapshot s of group g was not taken"):
        await take(rig)
    assert not await rig.snapshots("")
    assert not any(host.holds for host in rig.hosts.values())
    rig.hosts["lyon-1"].failures.clear()
    assert len(await take(rig)) == 3


async def test_a_hold_that_ended_too_early_is_no_snapshot(rig, order):
    async def too_late() -> None:
        rig.hosts["lyon-1"].holds.clear()

    rig.hosts["lyon-1"].failures["BeginEra"] = too_late
    with pytest.raises(Busy, match="not held"):
        await take(rig)
    assert not await rig.snapshots("")
    sets = await known(rig)
    assert all(eras == [] for _, eras in sets)
    assert all(below == 2 for below, _ in sets)


async def known(rig):
    request = meta_pb2.RegisterHostRequest(host=rig.hosts["paris-1"].message())
    answer = await rig.call("RegisterHost", request)
    return [(one.known_below, list(one.eras)) for one in answer.snapshot_sets]


async def test_a_volume_that_moves_meanwhile_is_no_snapshot(rig, order):
    async def move() -> None:
        rig.hosts["lyon-1"].failures.clear()
        await rig.attach("v2", "paris-1", force=True)

    rig.hosts["lyon-1"].failures["BeginEra"] = move
    with pytest.raises(Exception, match="was not taken"):
        await take(rig)
    assert not await rig.snapshots("")


async def test_a_name_that_one_volume_has_is_refused(rig, order):
    await rig.snapshot("s", "v2")
    with pytest.raises(AlreadyExists, match="v2 has a snapshot s"):
        await take(rig)
    assert len(await rig.snapshots("")) == 1


async def test_two_at_once_do_not_mix(rig, order):
    await asyncio.gather(take(rig, "a"), take(rig, "b"), return_exceptions=True)
    names = [one.name for one in await rig.snapshots("")]
    assert all(names.count(name) == 3 for name in names)


async def test_what_a_dead_instance_left_is_undone(rig, order):
    """It had committed the snapshots, and its lease is gone with its mark."""
    etcd = Etcd([rig.etcd_endpoint])
    held = asyncio.Event()

    async def die() -> None:
        await etcd.commit([], [Delete(f"{WORKING}group/g")])
        held.set()
        await asyncio.sleep(4)

    rig.hosts["lyon-1"].failures["BeginEra"] = die
    taking = asyncio.create_task(take(rig))
    await asyncio.wait_for(held.wait(), 10)

    async def is_gone() -> bool:
        return not await rig.snapshots("")

    await wait_until(is_gone)
    with pytest.raises(Exception, match="was not taken"):
        await taking
    assert not await rig.snapshots("")
    await etcd.close()
