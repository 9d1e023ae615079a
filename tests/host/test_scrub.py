"""Scrubs of a host: what is started when, what is kept, what becomes of findings."""

from dataclasses import replace
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from blockd.host import scrub as scrub_module
from blockd.host.scrub import ScrubPlan, Scrubs
from blockd.host.scrub_state import SCRUB_DIR
from blockd.model.errors import InvalidArgument, NotAttached, NotFound
from blockd.native.values import Notice, ScrubCursor, ScrubFinding, StoreInfo
from blockd.rpc.gen import host_pb2
from tests.host.fake_metadata import make_volume


@pytest.fixture
def store(rig) -> UUID:
    """An open store of the rig."""
    store_id = uuid4()
    rig.core.stores[store_id] = StoreInfo(store_id, "/srv/a", 1 << 30, 0, 1 << 20, 0, 0)
    return store_id


def again(rig, tmp_path: Path, interval_s: float = 0) -> Scrubs:
    """The scrubs of a daemon that was started again."""
    plan = ScrubPlan(interval_s, rate_bytes=1 << 20)
    metadata = rig.scrubs._metadata
    return Scrubs(rig.core, metadata, rig.reports, tmp_path, plan, rig.host_id, lambda: None)


def progress(rig, store: UUID, **changes: object) -> None:
    rig.core.scrubs[store] = replace(rig.core.scrubs[store], **changes)


async def test_a_pass_goes_on_where_it_was_after_a_restart(rig, store, tmp_path) -> None:
    answer = await rig.host.StartScrub(host_pb2.StartScrubRequest(rate_bytes=1 << 20))
    assert [(one.state, one.store_path) for one in answer.stores] == [("running", "/srv/a")]
    cursor = ScrubCursor(uuid4(), 1, 7)
    finding = ScrubFinding(cursor.volume_id, 0, 33, "ChecksumMismatch")
    progress(rig, store, cursor=cursor, chunks_done=6, findings=(finding,))
    await rig.scrubs.tick()

    rig.core.scrubs.clear()
    restarted = again(rig, tmp_path)
    await restarted.tick()
    assert ("start_scrub", store, 1 << 20, cursor, 6) in rig.core.calls
    (state,) = await restarted.look("")
    assert [one.block for one in state.findings.values()] == [33]
    progress(rig, store, running=False, finished=True, chunks_done=10)
    (state,) = await restarted.look(str(store))
    assert state.state == "finished"
    assert restarted.message(state).estimated_end_unix_us == 0


async def test_a_damaged_state_costs_one_pass_and_no_more(rig, store, tmp_path) -> None:
    await rig.scrubs.start("", 0)
    (tmp_path / SCRUB_DIR / f"{store}.json").write_text("{")
    (state,) = await again(rig, tmp_path).look("")
    assert state.state == "never"


async def test_findings_are_reported_once_and_repaired(
    rig, store, metadata, eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scrub_module, "REPAIR_AGAIN_S", 0.0)
    volume = make_volume(rig.host_id)
    await rig.scrubs.start("", 0)
    found = tuple(
        ScrubFinding(UUID(volume.id), 0, block, "ChecksumMismatch") for block in (16, 17, 80)
    )
    progress(rig, store, findings=found)
    metadata.repair_fails = NotAttached("attached nowhere")
    await rig.scrubs.tick()
    (state,) = await rig.scrubs.look("")
    assert {one.note for one in state.damaged} == {"waits until the volume is attached"}
    metadata.repair_fails = None
    metadata.repairs.clear()
    await rig.scrubs.tick()
    assert [(one.chunk, one.host_id) for one in metadata.repairs] == [
        (1, str(rig.host_id)),
        (5, str(rig.host_id)),
    ]
    assert state.damaged == []
    await rig.scrubs.tick()
    await eventually(lambda: len(metadata.events) == 4)
    kinds = [event.kind for event in metadata.events]
    assert kinds == ["scrub.started", *["damage.found"] * 3]


async def test_what_only_snapshots_show_is_repaired_for_itself(rig, store, metadata) -> None:
    volume = make_volume(rig.host_id)
    await rig.scrubs.start("", 0)
    found = tuple(
        ScrubFinding(UUID(volume.id), 0, 16, "ChecksumMismatch", born) for born in (0, 3, 4)
    )
    progress(rig, store, findings=found)
    await rig.scrubs.tick()
    assert [(one.chunk, one.born) for one in metadata.repairs] == [(1, 0), (1, 3), (1, 4)]
    (state,) = await rig.scrubs.look("")
    assert state.damaged == []
    assert len(state.findings) == 3


async def test_a_finding_of_a_deleted_volume_is_forgotten(rig, store, metadata) -> None:
    await rig.scrubs.start("", 0)
    progress(rig, store, findings=(ScrubFinding(uuid4(), 0, 5, "DiskError"),))
    metadata.repair_fails = NotFound("no such volume")
    await rig.scrubs.tick()
    (state,) = await rig.scrubs.look("")
    assert state.findings == {}


async def test_the_schedule_counts_from_the_last_start(rig, store, tmp_path, monkeypatch) -> None:
    start_us = 1_000_000_000
    monkeypatch.setattr(scrub_module, "now_us", lambda: start_us)
    await again(rig, tmp_path, interval_s=60).tick()  # first seen: the clock begins
    assert not rig.core.scrubs
    monkeypatch.setattr(scrub_module, "now_us", lambda: start_us + 59_000_000)
    await again(rig, tmp_path, interval_s=60).tick()
    assert not rig.core.scrubs
    monkeypatch.setattr(scrub_module, "now_us", lambda: start_us + 60_000_000)
    await again(rig, tmp_path, interval_s=60).tick()
    assert rig.core.scrubs[store].running


async def test_bad_requests_are_refused(rig, store) -> None:
    with pytest.raises(NotFound, match="not open"):
        await rig.scrubs.start(str(uuid4()), 0)
    with pytest.raises(InvalidArgument, match="at least"):
        await rig.scrubs.start("", 10)


async def test_a_repair_at_the_holder_becomes_an_event(rig, metadata, eventually) -> None:
    volume_id = uuid4()
    rig.core.emit(Notice(volume_id, 2, rig.host_id, "block-repaired", 7))
    await eventually(lambda: metadata.events)
    assert metadata.events[0].kind == "block.repaired"
    assert metadata.events[0].volume_id == str(volume_id)
    assert metadata.events[0].details["chunk"] == "7"


async def test_replicas_that_differ_become_events(rig, metadata, eventually) -> None:
    volume_id = uuid4()
    rig.core.emit(Notice(volume_id, 2, rig.host_id, "resync-mismatch", 7))
    rig.core.emit(Notice(volume_id, 3, rig.host_id, "replica-differs", 1))
    await eventually(lambda: len(metadata.events) == 2)
    mismatch, differs = metadata.events
    assert (mismatch.kind, mismatch.details["chunk"]) == ("resync.mismatch", "7")
    assert (differs.kind, differs.details["segment"]) == ("replica.differs", "3")
    assert "chunk" not in differs.details


async def test_what_is_blocked_is_told_once_for_a_while(rig, metadata, eventually) -> None:
    volume_id = uuid4()
    for chunk in (7, 7, 8):
        rig.core.emit(Notice(volume_id, 2, rig.host_id, "resync-blocked", chunk))
    rig.core.emit(Notice(volume_id, 2, rig.host_id, "unacknowledged-write-dropped", 9))
    await eventually(lambda: len(metadata.events) == 2)
    assert [event.kind for event in metadata.events] == ["resync.blocked", "write.dropped"]
