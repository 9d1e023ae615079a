"""Metadata that is older than the stores, as after a restore from a backup: what stores and engines
say of epochs and eras is put on record before a snapshot rests on it."""

import pytest

from blockd.meta.etcd import Etcd
from blockd.meta.records import VOLUMES, put, snapshot_key
from blockd.model.errors import Busy, LinkLost, NotAttached
from blockd.rpc.gen import meta_pb2, types_pb2
from blockd.rpc.status import hints_of
from blockd.rules.attachments import EPOCHS_UNHEARD_OF
from tests.meta.rig import GIB

AVAILABLE = types_pb2.SNAPSHOT_STATE_AVAILABLE
CREATING = types_pb2.SNAPSHOT_STATE_CREATING


def forget(rig, volume, *, era: int = 0, epoch: int = 0, hosts=None) -> None:
    """As if the volume had gone on after what is on record now."""
    for name, host in rig.hosts.items():
        if hosts is None or name in hosts:
            host.met_eras[volume.id] = era
            host.promised[volume.id] = epoch


async def epoch_on_record(rig) -> int:
    return int((await rig.volume()).attachment.epoch)


async def test_an_attach_takes_up_the_era_that_stores_have_met(rig, volume):
    forget(rig, volume, era=9)
    await rig.attach(host="paris-1")
    assert (await rig.volume()).era == 9
    assert "volume.era_raised" in await rig.event_kinds()
    snapshot = await rig.snapshot("a")
    assert (snapshot.era, snapshot.state) == (9, AVAILABLE)
    assert (await rig.volume()).era == rig.hosts["paris-1"].eras[volume.id] == 10


async def test_a_snapshot_is_of_the_era_that_the_engine_is_in(rig, volume):
    """The engine has run on while the metadata was restored."""
    await rig.attach(host="paris-1")
    rig.hosts["paris-1"].eras[volume.id] = 7
    snapshot = await rig.snapshot("a")
    assert (snapshot.era, snapshot.state) == (7, AVAILABLE)
    assert (await rig.volume()).era == rig.hosts["paris-1"].eras[volume.id] == 8
    request = meta_pb2.RegisterHostRequest(host=rig.hosts["lyon-1"].message())
    (known,) = (await rig.call("RegisterHost", request)).snapshot_sets
    assert (known.known_below, list(known.eras)) == (8, [7])


async def test_snapshots_that_wait_for_their_holder_become_of_later_eras(rig, volume):
    await rig.attach(host="paris-1")
    rig.hosts["paris-1"].failures["BeginEra"] = LinkLost("no route")
    for name in ("a", "b"):
        with pytest.raises(LinkLost):
            await rig.snapshot(name)
    assert [one.era for one in await rig.snapshots()] == [1, 2]
    forget(rig, volume, era=6)
    await rig.attach(host="lyon-1", force=True)
    assert [(one.name, one.era, one.state) for one in await rig.snapshots()] == [
        ("a", 6, AVAILABLE),
        ("b", 7, AVAILABLE),
    ]
    assert (await rig.volume()).era == rig.hosts["lyon-1"].eras[volume.id] == 8


async def test_a_clean_detach_puts_the_engines_era_on_record(rig, volume):
    await rig.attach(host="paris-1")
    rig.hosts["paris-1"].failures["BeginEra"] = LinkLost("no route")
    with pytest.raises(LinkLost):
        await rig.snapshot("a")
    rig.hosts["paris-1"].eras[volume.id] = 5
    await rig.detach()
    assert [(one.era, one.state) for one in await rig.snapshots()] == [(5, AVAILABLE)]
    assert (await rig.snapshot("b")).era == 6


async def test_a_later_epoch_shows_that_the_record_of_a_detached_volume_is_old(rig, volume):
    first = await rig.snapshot("before")
    forget(rig, volume, era=4, epoch=3, hosts=["marseille-1"])
    with pytest.raises(NotAttached, match="not detached cleanly") as caught:
        await rig.snapshot("a")
    assert "volume attach vol" in hints_of(caught.value)[0]
    with pytest.raises(NotAttached):
        await rig.call(
            "RollbackVolume", meta_pb2.RollbackVolumeRequest(volume="vol", snapshot=first.name)
        )
    await rig.attach(host="paris-1")
    assert await epoch_on_record(rig) == 3 + EPOCHS_UNHEARD_OF
    await rig.detach()
    assert (await rig.snapshot("a")).state == AVAILABLE


async def test_one_host_that_is_down_leaves_the_others_certain(rig, volume):
    await rig.kill_host("lyon-1")
    assert (await rig.snapshot("a")).state == AVAILABLE
    await rig.attach(host="paris-1")
    assert await epoch_on_record(rig) == 1


async def test_with_too_few_hosts_nothing_is_certain(rig, volume):
    await rig.kill_host("lyon-1")
    await rig.kill_host("marseille-1")
    with pytest.raises(Busy, match="too few hosts") as caught:
        await rig.snapshot("a")
    assert "blockctl host list" in hints_of(caught.value)[0]
    assert await rig.snapshots() == []
    await rig.attach(host="paris-1")
    assert await epoch_on_record(rig) == EPOCHS_UNHEARD_OF


async def test_a_store_without_its_replica_vouches_for_nothing(rig, volume):
    for name in ("lyon-1", "marseille-1"):
        rig.hosts[name].replicas.clear()
    with pytest.raises(Busy, match="too few hosts"):
        await rig.snapshot("a")


async def test_a_renewal_is_above_what_was_promised(rig, volume):
    await rig.attach(host="paris-1")
    forget(rig, volume, epoch=12)
    answer = await rig.call(
        "RenewAttachment",
        meta_pb2.RenewAttachmentRequest(
            volume_id=volume.id, host_id=rig.hosts["paris-1"].id, epoch=1
        ),
    )
    assert answer.volume.attachment.epoch == 12 + EPOCHS_UNHEARD_OF


async def test_a_group_finds_out_and_works_the_next_time(rig, volume):
    await rig.create("other", GIB)
    for name, host in (("vol", "paris-1"), ("other", "lyon-1")):
        await rig.attach(name, host=host)
    await rig.call("CreateGroup", meta_pb2.CreateGroupRequest(name="g", volumes=["vol", "other"]))
    rig.hosts["paris-1"].eras[volume.id] = 7
    request = meta_pb2.SnapshotGroupRequest(group="g", name="s")
    with pytest.raises(Busy, match="later era"):
        await rig.call("SnapshotGroup", request)
    assert await rig.snapshots() == []
    answer = await rig.call("SnapshotGroup", request)
    assert {one.volume_name: one.era for one in answer.snapshots} == {"vol": 7, "other": 1}


async def test_a_group_is_not_final_when_somebody_else_finds_out_first(rig, volume):
    """What was given a later era is of a moment that has not come."""
    await rig.create("other", GIB)
    for name, host in (("vol", "paris-1"), ("other", "lyon-1")):
        await rig.attach(name, host=host)
    await rig.call("CreateGroup", meta_pb2.CreateGroupRequest(name="g", volumes=["vol", "other"]))
    paris = rig.hosts["paris-1"]

    async def find_out():
        paris.eras[volume.id] = 7
        etcd = Etcd([rig.etcd_endpoint])
        for key, kind, era in (
            (VOLUMES + volume.id, types_pb2.Volume, 8),
            (snapshot_key(volume.id, "s"), types_pb2.Snapshot, 7),
        ):
            record = kind.FromString((await etcd.get(key)).value)
            record.era = era
            await etcd.commit([], [put(key, record)])
        await etcd.close()

    paris.failures["BeginEra"] = find_out
    request = meta_pb2.SnapshotGroupRequest(group="g", name="s")
    with pytest.raises(Busy, match="later era"):
        await rig.call("SnapshotGroup", request)
    assert await rig.snapshots() == []
