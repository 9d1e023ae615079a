"""Events of the core: in-sync changes through Raft and back, fenced engines removed."""

import asyncio
from uuid import UUID, uuid4

from blockd.host import events
from blockd.model.errors import DiskError, NoSpace, Unsupported
from blockd.native.values import InSyncChangeWanted, Notice
from tests.host.fake_metadata import make_volume


def wanted(volume, segment_generation: int, *in_sync: UUID) -> InSyncChangeWanted:
    return InSyncChangeWanted(UUID(volume.id), 0, segment_generation, in_sync, "member lost")


async def attached(rig, *others: UUID):
    volume = make_volume(rig.host_id, *others)
    rig.metadata.volumes[volume.id] = volume
    await rig.attachments.attach(volume)
    return volume


def last_segment(rig):
    changes = [call[2] for call in rig.core.calls if call[0] == "in_sync_changed"]
    return changes[-1] if changes else None


async def test_a_wanted_change_is_agreed_and_answered(rig, eventually) -> None:
    other = uuid4()
    volume = await attached(rig, other)
    rig.core.emit(wanted(volume, 1, rig.host_id))
    await eventually(lambda: last_segment(rig))
    segment = last_segment(rig)
    assert segment.generation == 2
    assert {m.host_id for m in segment.members if m.in_sync} == {rig.host_id}
    assert {m.distance for m in segment.members} == {0, 2}


async def test_a_stale_generation_is_answered_with_the_truth(rig, eventually) -> None:
    volume = await attached(rig, uuid4())
    volume.segments[0].generation = 9
    rig.core.emit(wanted(volume, 1, rig.host_id))
    await eventually(lambda: last_segment(rig))
    assert last_segment(rig).generation == 9


async def test_an_outage_is_told_to_the_core(rig, eventually) -> None:
    volume = await attached(rig, uuid4())
    await rig.metadata.stop()
    rig.core.emit(wanted(volume, 1, rig.host_id))
    failed = ("in_sync_change_failed", UUID(volume.id), 0, "MetadataUnreachable")
    await eventually(lambda: failed in rig.core.calls)
    assert rig.attachments.held


async def test_a_change_refused_for_a_newer_epoch_ends_the_engine(rig, eventually) -> None:
    volume = await attached(rig, uuid4())
    volume.attachment.epoch = 5
    volume.attachment.host_id = str(uuid4())
    rig.metadata.volumes[volume.id] = volume
    rig.core.emit(wanted(volume, 1, rig.host_id))
    await eventually(lambda: not rig.attachments.held)
    assert any(call[0] == "in_sync_change_failed" for call in rig.core.calls)


async def test_a_fenced_engine_is_removed(rig, eventually) -> None:
    volume = await attached(rig)
    rig.core.fence(UUID(volume.id))
    await eventually(lambda: not rig.attachments.held)
    assert not rig.core.exports
    assert not rig.core.volumes


async def test_a_host_that_is_not_spoken_with_is_told_of(rig, eventually) -> None:
    stranger = uuid4()
    rig.core.emit(Notice(UUID(int=0), 0, stranger, "peer-refused", Unsupported.code))
    await eventually(lambda: [r for r in rig.metadata.events if r.kind == "peer.refused"])
    (report,) = (r for r in rig.metadata.events if r.kind == "peer.refused")
    assert report.volume_id == ""
    assert report.details["peer_host_id"] == str(stranger)
    assert "upgrade the older one" in report.message


async def test_a_notice_is_logged_by_name(rig, eventually, caplog) -> None:
    caplog.set_level("INFO")
    volume = await attached(rig)
    rig.core.emit(Notice(UUID(volume.id), 0, uuid4(), "resync-finished", 4096))
    await eventually(lambda: "v/0: resync-finished" in caplog.text)


async def test_a_full_member_is_reported_even_through_an_outage(
    rig, eventually, monkeypatch
) -> None:
    monkeypatch.setattr(events, "REPORT_RETRY_S", 0.02)
    member = uuid4()
    volume = await attached(rig, member)
    endpoint = rig.metadata.server.endpoint
    await rig.metadata.stop()
    rig.core.emit(Notice(UUID(volume.id), 0, member, "store-full", 0))
    await asyncio.sleep(0.1)
    await rig.metadata.serve(endpoint)
    await eventually(lambda: rig.metadata.space_reports)
    rig.core.emit(Notice(UUID(volume.id), 0, member, "store-has-space", 0))
    await eventually(lambda: len(rig.metadata.space_reports) == 2)
    full, has_space = rig.metadata.space_reports
    assert (full.volume_id, full.host_id, full.full) == (volume.id, str(member), True)
    assert (has_space.host_id, has_space.full) == (str(member), False)


async def test_a_member_that_is_full_when_the_volume_opens_is_reported(rig, eventually) -> None:
    member = uuid4()
    volume = make_volume(rig.host_id, member)
    rig.metadata.volumes[volume.id] = volume
    rig.core.attach_gate.clear()
    opening = asyncio.create_task(rig.attachments.attach(volume))
    await eventually(lambda: rig.core.volumes)
    rig.core.emit(Notice(UUID(volume.id), 0, member, "store-full", 0))
    await eventually(lambda: rig.metadata.space_reports)
    rig.core.attach_gate.set()
    await opening


async def test_a_missing_replica_is_told_once_until_it_is_back(rig, eventually) -> None:
    member = uuid4()
    volume = await attached(rig, member)

    def told() -> int:
        return sum(one.kind == "replicas.missing" for one in rig.metadata.events)

    missing = Notice(UUID(volume.id), 0, member, "replica-missing", 1)
    for _ in range(3):
        rig.core.emit(missing)
    await eventually(lambda: told() == 1)
    rig.core.emit(Notice(UUID(volume.id), 0, member, "member-in-sync", 2))
    rig.core.emit(missing)
    await eventually(lambda: told() == 2)
    event = next(one for one in rig.metadata.events if one.kind == "replicas.missing")
    assert (event.volume_id, event.details["replica_host_id"]) == (volume.id, str(member))
    assert event.message.startswith("segment 0: ")


async def test_the_segments_of_a_lost_store_are_told_of_together(rig, eventually) -> None:
    member, other = uuid4(), uuid4()
    volume = await attached(rig, member)
    for segment in range(11):
        rig.core.emit(Notice(UUID(volume.id), segment, member, "replica-missing", 1))
    rig.core.emit(Notice(UUID(volume.id), 3, other, "replica-missing", 1))

    def told() -> list[str]:
        return [one.message for one in rig.metadata.events if one.kind == "replicas.missing"]

    await eventually(lambda: len(told()) == 2)
    first, second = told()
    assert first.startswith(f"segments 0, 1, 2, 3, 4, 5, 6, 7 and 3 more: {member} counts")
    assert second.startswith(f"segment 3: {other} counts")


async def test_a_full_member_of_a_volume_that_is_gone_is_nobodys_business(rig) -> None:
    rig.core.emit(Notice(uuid4(), 0, uuid4(), "store-full", 0))
    await asyncio.sleep(0.1)
    assert not rig.metadata.space_reports


async def test_a_member_that_had_to_refuse_a_write_for_space_is_reported(rig, eventually) -> None:
    member = uuid4()
    volume = await attached(rig, member)
    rig.core.emit(Notice(UUID(volume.id), 0, uuid4(), "member-lost", DiskError.code))
    rig.core.emit(Notice(UUID(volume.id), 0, member, "member-lost", NoSpace.code))
    await eventually(lambda: rig.metadata.space_reports)
    (report,) = rig.metadata.space_reports
    assert (report.host_id, report.full) == (str(member), True)
