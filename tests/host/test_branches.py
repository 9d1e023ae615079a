"""Branches at the host: one is asked for when an engine wants it, filled, and sealed in time."""

import asyncio
from uuid import UUID, uuid4

import grpc
import pytest

from blockd.host import branches as branches_module
from blockd.model.errors import EpochFenced, PolicyUnsatisfiable
from blockd.native.values import Notice
from blockd.rpc.gen import types_pb2, volume_io_pb2
from tests.host.fake_metadata import make_volume

LYON = uuid4()


@pytest.fixture
async def volume(rig, monkeypatch):
    """Attached here, with a member at LYON; what fills its branch is attached here, too."""
    monkeypatch.setattr(branches_module, "LOOK_S", 0.02)
    monkeypatch.setattr(branches_module, "QUIET_S", 0.1)
    found = make_volume(rig.host_id, LYON)
    rig.metadata.volumes[found.id] = found
    await rig.attachments.attach(found)
    branch = make_volume(rig.host_id, name="v.fenced-3")
    branch.branch.CopyFrom(
        types_pb2.Branch(volume_id=found.id, volume_name="v", name="fenced-3", host_id=str(LYON))
    )
    rig.metadata.branch = branch
    await rig.attachments.attach(branch)
    return found


@pytest.fixture
async def sealing(rig, volume):
    task = asyncio.create_task(rig.branches.run())
    yield
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def says(rig, volume, kind: str, value: int = 3) -> None:
    rig.core.emit(Notice(UUID(volume.id), 0, LYON, kind, value))


def given(rig):
    return [call for call in rig.core.calls if call[0] == "set_branch"]


async def test_a_branch_that_is_wanted_is_opened_and_given(rig, volume, eventually) -> None:
    for _ in range(3):
        says(rig, volume, "branch-wanted")
    await eventually(lambda: given(rig))
    branch = rig.metadata.branch
    assert given(rig) == [("set_branch", UUID(volume.id), LYON, UUID(branch.id))]
    [request] = rig.metadata.branch_requests
    assert (request.volume_id, request.host_id) == (volume.id, str(LYON))
    assert (request.epoch, request.writer_epoch, request.fresh) == (1, 3, False)


async def test_one_that_is_taken_is_followed_by_a_fresh_one(rig, volume, eventually) -> None:
    says(rig, volume, "branch-taken")
    says(rig, volume, "branch-wanted")
    await eventually(lambda: given(rig))
    says(rig, volume, "branch-wanted")
    await eventually(lambda: len(given(rig)) == 2)
    assert [one.fresh for one in rig.metadata.branch_requests] == [True, False]


async def test_what_was_kept_is_told_with_its_branch(rig, volume, eventually) -> None:
    says(rig, volume, "branch-wanted")
    await eventually(lambda: given(rig))
    says(rig, volume, "writes-preserved", 8192)
    await eventually(lambda: rig.metadata.events)
    [event] = rig.metadata.events
    assert event.kind == "writes.preserved"
    details = (event.details["branch"], event.details["bytes"], event.details["segment"])
    assert details == ("fenced-3", "8192", "0")


async def test_why_there_is_none_is_told_once(rig, volume, eventually) -> None:
    rig.metadata.branch_fails = PolicyUnsatisfiable("no host has room")
    for count in (1, 2, 3):
        says(rig, volume, "branch-wanted")
        await eventually(lambda c=count: len(rig.metadata.branch_requests) == c)
    await eventually(lambda: rig.metadata.events)
    assert [one.kind for one in rig.metadata.events] == ["branch.blocked"]
    assert given(rig) == []


async def test_a_branch_is_sealed_when_its_host_is_in_sync(rig, volume, sealing, eventually):
    rig.core.joining = [LYON]
    says(rig, volume, "branch-wanted")
    await eventually(lambda: given(rig))
    says(rig, volume, "branch-used", 0)
    await asyncio.sleep(0.3)
    assert rig.metadata.sealed == []
    rig.core.joining = []
    await eventually(lambda: rig.metadata.sealed)
    assert rig.metadata.sealed[0] == (rig.metadata.branch.id, False)


@pytest.mark.parametrize("is_new", [True, False])
async def test_one_that_nothing_was_kept_in_is_sealed_as_empty(
    rig, volume, sealing, eventually, is_new
):
    rig.core.joining = [LYON]
    rig.metadata.branch_is_new = is_new
    says(rig, volume, "branch-wanted")
    await eventually(lambda: given(rig))
    await rig.attachments.detach(UUID(volume.id))
    await eventually(lambda: rig.metadata.sealed)
    assert rig.metadata.sealed[0] == (rig.metadata.branch.id, is_new)
    assert rig.metadata.seal_epochs[0] == rig.metadata.branch.attachment.epoch


async def test_one_that_went_to_another_engine_is_left_to_it(rig, volume, sealing, eventually):
    rig.core.joining = [LYON]
    says(rig, volume, "branch-wanted")
    await eventually(lambda: given(rig))
    rig.metadata.seal_fails = [EpochFenced("of another")]
    await rig.attachments.detach(UUID(volume.id))
    await eventually(lambda: rig.metadata.sealed)
    await asyncio.sleep(0.2)
    assert len(rig.metadata.sealed) == 1


async def test_one_that_nobody_here_knows_is_sealed(rig, sealing, eventually):
    await eventually(lambda: rig.metadata.sealed)
    assert rig.metadata.sealed[0] == (rig.metadata.branch.id, False)


async def test_a_branch_that_is_filled_is_not_exported_and_a_sealed_one_is_read_only(
    rig, volume, status_of
) -> None:
    assert rig.metadata.branch.name not in rig.core.exports
    held = rig.attachments.get(UUID(rig.metadata.branch.id))
    assert rig.attachments.uris(held) == []
    branch = types_pb2.Volume()
    branch.CopyFrom(rig.metadata.branch)
    branch.branch.sealed = True
    branch.attachment.epoch = 2
    await rig.attachments.attach(branch)
    assert branch.name in rig.core.exports
    trim = volume_io_pb2.TrimRequest(volume_id=branch.id, offset_bytes=0, length_bytes=4096)
    assert await status_of(rig.io.Trim(trim)) == grpc.StatusCode.PERMISSION_DENIED
    export = [call for call in rig.core.calls if call[0] == "nbd_export"][-1]
    assert export[-1] is True, "read-only"
