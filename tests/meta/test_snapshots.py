"""Snapshots: one commit each, final when nothing of its era is under way, deleted when nobody needs
them; and hosts learn of all that."""

import asyncio

import pytest

from blockd.meta import snapshots as snapshots_module
from blockd.meta.attachments import Attachments
from blockd.model.errors import (
    AlreadyExists,
    Busy,
    InUse,
    InvalidArgument,
    LinkLost,
    NotAttached,
    NotFound,
)
from blockd.model.ids import new_id
from blockd.rpc.gen import meta_pb2, types_pb2
from blockd.rpc.status import hints_of
from tests.meta.rig import wait_until

AVAILABLE = types_pb2.SNAPSHOT_STATE_AVAILABLE
CREATING = types_pb2.SNAPSHOT_STATE_CREATING


async def known_set(rig, host: str = "paris-1"):
    """What a host that registers is told."""
    request = meta_pb2.RegisterHostRequest(host=rig.hosts[host].message())
    answer = await rig.call("RegisterHost", request)
    (one,) = answer.snapshot_sets
    return one.known_below, list(one.eras), one.uncovered_below


async def test_a_snapshot_ends_an_era(rig, volume):
    await rig.attach(host="paris-1")
    first = await rig.snapshot("a")
    assert (first.era, first.state, first.size_bytes) == (1, AVAILABLE, volume.size_bytes)
    assert rig.hosts["paris-1"].eras[volume.id] == 2
    second = await rig.snapshot("b")
    assert second.era == 2
    assert (await rig.volume()).era == 3
    assert await known_set(rig) == (3, [1, 2], 4)
    assert (await rig.event_kinds()).count("snapshot.created") == 2


async def test_the_next_attach_carries_the_era(rig, volume):
    await rig.attach(host="paris-1")
    await rig.snapshot("a")
    await rig.detach()
    await rig.attach(host="lyon-1")
    assert rig.hosts["lyon-1"].eras[volume.id] == 2


async def test_a_volume_that_was_never_attached_is_quiet(rig, volume):
    assert (await rig.snapshot("a")).state == AVAILABLE


async def test_names_are_unique_in_a_volume(rig, volume):
    await rig.snapshot("a")
    with pytest.raises(AlreadyExists, match="has a snapshot a"):
        await rig.snapshot("a")
    await rig.create("other")
    await rig.snapshot("a", "other")
    with pytest.raises(InvalidArgument, match="snapshot name"):
        await rig.snapshot("a/b")
    with pytest.raises(NotFound, match="no volume"):
        await rig.snapshot("a", "nothing")


async def test_detached_it_must_have_been_detached_cleanly(rig, volume):
    await rig.attach(host="paris-1")
    await rig.detach()
    assert (await rig.snapshot("a")).state == AVAILABLE
    await rig.attach(host="paris-1")
    rig.hosts["paris-1"].is_drained = False
    await rig.detach()
    with pytest.raises(NotAttached, match="not detached cleanly") as caught:
        await rig.snapshot("b")
    assert "volume attach vol" in hints_of(caught.value)[0]
    rig.hosts["paris-1"].is_drained = True
    await rig.attach(host="paris-1")
    await rig.snapshot("b")


async def test_a_forced_detach_is_not_clean(rig, volume):
    await rig.attach(host="paris-1")
    rig.hosts["paris-1"].failures["Detach"] = LinkLost("gone")
    await rig.detach(force=True)
    with pytest.raises(NotAttached):
        await rig.snapshot("a")


async def test_a_silent_holder_leaves_it_creating_and_the_leader_finishes_it(rig, volume):
    await rig.attach(host="paris-1")
    rig.hosts["paris-1"].failures["BeginEra"] = LinkLost("no route")
    with pytest.raises(LinkLost, match="was taken and is not final yet") as caught:
        await rig.snapshot("a")
    assert "snapshot list vol" in hints_of(caught.value)[0]
    assert [one.state for one in await rig.snapshots()] == [CREATING]
    for method, request in (
        ("CloneVolume", meta_pb2.CloneVolumeRequest(volume="vol", snapshot="a", name="c")),
        ("AttachSnapshot", meta_pb2.AttachSnapshotRequest(volume="vol", name="a")),
        ("GetView", meta_pb2.GetViewRequest(volume="vol", snapshot="a")),
    ):
        with pytest.raises(Busy, match="not final"):
            await rig.call(method, request)
    rig.hosts["paris-1"].failures.clear()

    async def is_final() -> bool:
        return [one.state for one in await rig.snapshots()] == [AVAILABLE]

    await wait_until(is_final)


async def test_any_number_that_a_silent_holder_left_becomes_final(rig, volume, monkeypatch):
    """More than etcd takes in one commit."""
    monkeypatch.setattr(snapshots_module, "OPENING_SECONDS", 0.0)
    await rig.attach(host="paris-1")
    rig.hosts["paris-1"].failures["BeginEra"] = LinkLost("no route")
    for number in range(130):
        with pytest.raises(LinkLost):
            await rig.snapshot(f"s{number}")
    rig.hosts["paris-1"].failures.clear()

    async def are_final() -> bool:
        return {one.state for one in await rig.snapshots()} == {AVAILABLE}

    await wait_until(are_final)


async def test_asking_again_waits_for_what_is_not_final(rig, volume):
    await rig.attach(host="paris-1")
    rig.hosts["paris-1"].failures["BeginEra"] = LinkLost("no route")
    with pytest.raises(LinkLost):
        await rig.snapshot("a")
    rig.hosts["paris-1"].failures.clear()
    assert (await rig.snapshot("a")).era == 1
    assert (await rig.volume()).era == 2


async def test_an_attach_under_a_later_era_makes_it_final(rig, volume):
    await rig.attach(host="paris-1")
    rig.hosts["paris-1"].failures["BeginEra"] = LinkLost("no route")
    with pytest.raises(LinkLost):
        await rig.snapshot("a")
    await rig.attach(host="lyon-1", force=True)
    assert "BeginEra" not in rig.hosts["lyon-1"].calls  # it opened in that era
    assert [one.state for one in await rig.snapshots()] == [AVAILABLE]


@pytest.mark.parametrize("answers", ["before", "while", "after"])
async def test_a_snapshot_and_an_attach_at_once(rig, volume, answers):
    """The attach has read the volume and taken the attachment; then the snapshot is taken; then
    the host opens: in the end its engine is in the new era, and the snapshot is final."""
    taking: list[asyncio.Task] = []
    host = rig.hosts["paris-1"]

    async def take_meanwhile() -> None:
        taking.append(asyncio.create_task(rig.snapshot("a")))
        if answers != "while":

            async def is_taken() -> bool:
                return bool(await rig.snapshots())

            await wait_until(is_taken)
        if answers == "after":
            await asyncio.wait(taking)  # it gives up: there is no engine to tell

    host.failures["Attach"] = take_meanwhile
    await rig.attach(host="paris-1")
    await asyncio.gather(*taking, return_exceptions=True)
    assert host.eras[volume.id] == (await rig.volume()).era == 2

    async def is_final() -> bool:
        return [one.state for one in await rig.snapshots()] == [AVAILABLE]

    await wait_until(is_final)


async def test_an_attach_is_on_record_only_with_the_era_on_record(rig, volume, monkeypatch):
    """The snapshot comes after the host has opened and before that is on record."""
    settle = Attachments._settle
    taken = []

    async def after_a_snapshot(self, *arguments, **options):
        if not taken:
            taken.append("a")
            await rig.snapshot("a")
        return await settle(self, *arguments, **options)

    monkeypatch.setattr(Attachments, "_settle", after_a_snapshot)
    attachment = await rig.attach(host="paris-1")
    assert attachment.nbd_uris
    assert rig.hosts["paris-1"].eras[volume.id] == 2
    assert [one.state for one in await rig.snapshots()] == [AVAILABLE]


async def test_a_snapshot_between_a_renewal_and_its_opening(rig, volume):
    """The daemon has its new epoch, and no engine yet: the leader asks it again when it has."""
    attachment = await rig.attach(host="paris-1")
    answer = await rig.call(
        "RenewAttachment",
        meta_pb2.RenewAttachmentRequest(
            volume_id=volume.id, host_id=attachment.host_id, epoch=attachment.epoch
        ),
    )
    with pytest.raises(LinkLost, match="not final yet"):
        await rig.snapshot("a")
    host = rig.hosts["paris-1"]
    host.attached[volume.id], host.eras[volume.id] = answer.volume, answer.volume.era

    async def is_final() -> bool:
        return [one.state for one in await rig.snapshots()] == [AVAILABLE]

    await wait_until(is_final)
    assert host.eras[volume.id] == 2


async def test_an_engine_that_cannot_be_told_is_not_attached(rig, volume):
    async def take() -> None:
        rig.hosts["paris-1"].failures["BeginEra"] = LinkLost("no route")
        with pytest.raises(LinkLost):
            await rig.snapshot("a")

    rig.hosts["paris-1"].failures["Attach"] = take
    with pytest.raises(LinkLost, match="could not attach"):
        await rig.attach(host="paris-1")
    assert not rig.hosts["paris-1"].attached
    assert not (await rig.volume()).HasField("attachment")


async def test_many_snapshots_and_attaches_at_once(rig, volume):
    """Whatever comes of each: the engine that serves is in the volume's era, and every snapshot is
    of an era of its own."""
    await rig.attach(host="paris-1")

    async def attach(host: str) -> None:
        await rig.attach(host=host, force=True)

    work = [rig.snapshot(f"s{number}") for number in range(8)]
    work += [attach(host) for host in ("lyon-1", "marseille-1", "paris-1")]
    await asyncio.gather(*work, return_exceptions=True)
    await rig.attach()  # had all of them lost

    async def is_settled() -> bool:
        return all(one.state == AVAILABLE for one in await rig.snapshots())

    await wait_until(is_settled)
    now = await rig.volume()
    eras = [one.era for one in await rig.snapshots()]
    assert len(set(eras)) == len(eras)
    assert now.era == max(eras) + 1
    assert rig.hosts[now.attachment.host_name].eras[volume.id] == now.era


async def test_deletion_goes_to_the_hosts(rig, volume):
    for name in ("a", "b", "c"):
        await rig.snapshot(name)
    await rig.delete_snapshot("b")
    assert await known_set(rig) == (4, [1, 3], 5)
    assert [one.name for one in await rig.snapshots()] == ["a", "c"]
    with pytest.raises(NotFound, match="no snapshot 'b'"):
        await rig.delete_snapshot("b")
    assert "snapshot.deleted" in await rig.event_kinds()
    await rig.snapshot("b")  # the name is free; the era is not
    assert await known_set(rig) == (5, [1, 3, 4], 6)


async def test_a_heartbeat_brings_what_changed_since(rig, volume):
    host = rig.hosts["paris-1"]

    async def beat(revision: int):
        request = host.heartbeat()
        request.snapshots_revision = revision
        return await rig.call("Heartbeat", request)

    first = await beat(0)
    assert [one.volume_id for one in first.snapshot_sets] == [volume.id]
    assert not (await beat(first.snapshots_revision)).snapshot_sets
    await rig.snapshot("a")
    second = await beat(first.snapshots_revision)
    assert [list(one.eras) for one in second.snapshot_sets] == [[1]]
    assert second.snapshots_revision > first.snapshots_revision
    restored = await beat(1 << 40)  # of an etcd that is no more
    assert len(restored.snapshot_sets) == 1
    assert restored.snapshots_revision < 1 << 40


async def test_a_heartbeat_brings_who_is_in_sync_of_what_is_read(rig, volume):
    host = rig.hosts["paris-1"]

    async def beat(revision: int):
        request = host.heartbeat()
        request.reads.add(volume_id=volume.id, revision=revision)
        request.reads.add(volume_id=str(new_id()))  # of a volume that is gone
        answer = await rig.call("Heartbeat", request)
        assert not answer.reads[1].segments
        return answer.reads[0]

    first = await beat(0)
    assert [one.generation for one in first.segments] == [1] * len(volume.segments)
    assert not (await beat(first.revision)).segments
    attached = await rig.attach(host="paris-1")
    members = [member.host_id for member in volume.segments[0].members]
    await rig.call(
        "ChangeInSync",
        meta_pb2.ChangeInSyncRequest(
            volume_id=volume.id,
            epoch=attached.epoch,
            segment=0,
            generation=1,
            in_sync_host_ids=members[:2],
        ),
    )
    (changed,) = (await beat(first.revision)).segments
    assert (changed.index, changed.generation) == (0, 2)
    assert [member.in_sync for member in changed.members] == [True, True, False]
    assert len((await beat(1 << 40)).segments) == len(first.segments)


async def test_a_set_never_drops_a_snapshot_that_exists(rig, volume):
    """Snapshots come and go at once, while a host listens."""
    await rig.attach(host="paris-1")
    await rig.snapshot("keep")
    seen = []

    async def listen() -> None:
        while True:
            seen.append(await known_set(rig))

    listening = asyncio.create_task(listen())
    for step in range(3):
        names = [f"{step}-{number}" for number in range(3)]
        await asyncio.gather(*(rig.snapshot(name) for name in names))
        await asyncio.gather(*(rig.delete_snapshot(name) for name in names))
    listening.cancel()
    await asyncio.gather(listening, return_exceptions=True)
    assert len(seen) > 3
    assert all(1 in eras for _, eras, _ in seen)
    assert [below for below, _, _ in seen] == sorted(below for below, _, _ in seen)
    assert await known_set(rig) == (11, [1], 12)


async def test_a_volume_with_snapshots_is_not_deleted(rig, volume):
    await rig.snapshot("a")
    with pytest.raises(InUse, match="has snapshots: a"):
        await rig.delete()
    await rig.delete_snapshot("a")
    await rig.delete()
    answer = await rig.call(
        "RegisterHost", meta_pb2.RegisterHostRequest(host=rig.hosts["paris-1"].message())
    )
    assert not answer.snapshot_sets


async def test_a_deletion_and_a_snapshot_at_once(rig, volume):
    results = await asyncio.gather(rig.delete(), rig.snapshot("a"), return_exceptions=True)
    deleted, taken = (not isinstance(one, Exception) for one in results)
    assert deleted != taken
    if taken:
        assert [one.name for one in await rig.snapshots()] == ["a"]


async def test_listing_all_volumes(rig, volume):
    await rig.create("another")
    await rig.snapshot("x", "another")
    await rig.snapshot("b")
    await rig.snapshot("a")
    found = await rig.snapshots("")
    assert [(one.volume_name, one.name) for one in found] == [
        ("another", "x"),
        ("vol", "b"),
        ("vol", "a"),
    ]
