"""Stores as the metadata service knows them: what is placed there, how full they are, events."""

import pytest

from blockd.model.errors import EpochFenced, NotFound
from blockd.rpc.gen import meta_pb2, types_pb2
from tests.meta.rig import GIB, wait_until


async def stores(rig):
    answer = await rig.call("ListStores", meta_pb2.ListStoresRequest())
    return {one.host_name: one for one in answer.stores}


async def events_of(rig, prefix: str):
    stream = rig.client.stream(
        lambda meta: meta.WatchEvents,
        meta_pb2.WatchEventsRequest(history=10_000, no_follow=True),
    )
    return [event async for event in stream if event.kind.startswith(prefix)]


async def test_what_is_placed_is_the_sizes_of_segments(rig):
    await rig.add_cluster()
    await rig.create(size=2 * GIB + (1 << 20))
    await rig.create("small", size=1 << 20, replicas=1)
    found = await stores(rig)
    assert set(found) == {"paris-1", "lyon-1", "marseille-1"}
    placed = sorted(one.logical_bytes for one in found.values())
    whole = 2 * GIB + (1 << 20)
    assert placed == [whole, whole, whole + (1 << 20)]
    assert all(one.store.capacity_bytes == 1 << 40 for one in found.values())


async def test_a_host_that_is_down_leaves_its_last_report_with_its_time(rig):
    await rig.add_cluster()
    rig.hosts["lyon-1"].allocated_bytes = 5 * GIB

    async def reported() -> bool:
        return (await stores(rig))["lyon-1"].store.allocated_bytes == 5 * GIB

    await wait_until(reported)
    await rig.kill_host("lyon-1")
    down = (await stores(rig))["lyon-1"]
    assert down.host_state == types_pb2.HOST_STATE_DOWN
    assert down.store.allocated_bytes == 5 * GIB
    assert down.reported_unix_us > 0


async def test_each_change_of_a_stores_state_is_one_event(rig):
    await rig.add_cluster()
    host = rig.hosts["paris-1"]
    kinds = ["store.nearly_full", "store.full", "store.has_space"]
    for state, count in (("nearly-full", 1), ("full", 2), ("ok", 3)):
        host.store_state = state
        host.allocated_bytes = 900 * GIB

        async def announced(count=count) -> bool:
            return len(await events_of(rig, "store.")) == count

        await wait_until(announced)
    found = await events_of(rig, "store.")
    assert [event.kind for event in found] == kinds
    assert found[0].subject == f"store/{host.store_id}"
    assert "/dev/paris-1 of host paris-1 is nearly full: 87 % of 1 TiB" in found[0].message
    assert found[1].details["host"] == "paris-1"


async def test_a_full_member_is_an_event_of_the_volume(rig):
    await rig.add_cluster()
    volume = await rig.create()
    member = rig.hosts["lyon-1"].id

    async def report(epoch: int, full: bool, host_id: str = member) -> None:
        request = meta_pb2.ReportSpaceRequest(
            volume_id=volume.id, epoch=epoch, host_id=host_id, full=full
        )
        await rig.call("ReportSpace", request)

    attachment = await rig.attach(host="paris-1")
    with pytest.raises(EpochFenced):
        await report(attachment.epoch - 1, full=True)
    with pytest.raises(NotFound):
        await report(attachment.epoch, full=True, host_id=volume.id)
    await report(attachment.epoch, full=True)
    await report(attachment.epoch, full=False)
    refused, again = await events_of(rig, "volume.no_space") + await events_of(
        rig, "volume.has_space"
    )
    assert refused.subject == "volume/vol"
    assert "vol takes no writes: a store of host lyon-1 is full" in refused.message
    assert refused.details["host_id"] == member
    assert "lyon-1 has space" in again.message
