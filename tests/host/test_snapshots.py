"""What stores are told of snapshots, and the snapshots that a host exports."""

import asyncio
from uuid import UUID, uuid4

import pytest

from blockd.host import snapshots as snapshots_module
from blockd.model.errors import AlreadyExists, DiskError, LinkLost
from blockd.native.values import ChunkView
from blockd.rpc.gen import host_pb2, meta_pb2, types_pb2
from tests.host.fake_core import format_store
from tests.host.fake_metadata import make_volume


def make_set(volume_id: UUID, below: int, *eras: int) -> types_pb2.SnapshotSet:
    return types_pb2.SnapshotSet(
        volume_id=str(volume_id), known_below=below, eras=eras, uncovered_below=below + 1
    )


async def make_replica(rig, tmp_path, volume_id: UUID) -> meta_pb2.ReplicaOrder:
    path = tmp_path / "store"
    if not rig.core.stores:
        path.touch()
        format_store(str(path), store_id=uuid4(), cluster_id=rig.core.cluster_id)
        await rig.core.open_store(str(path))
    (store_id,) = rig.core.stores
    return meta_pb2.ReplicaOrder(
        volume_id=str(volume_id), segment=0, store_id=str(store_id), block_count=16
    )


async def look_nowhere(volume: str, name: str) -> types_pb2.VolumeView:
    raise LinkLost("no metadata service answers")


def make_view(rig, name: str = "s", *, volume: str = "v") -> types_pb2.VolumeView:
    made = make_volume(rig.host_id, name=volume)
    return types_pb2.VolumeView(
        volume_id=made.id,
        volume_name=volume,
        snapshot_id=str(uuid4()),
        snapshot_name=name,
        era=3,
        size_bytes=1 << 20,
        segments=made.segments,
    )


async def test_sets_come_with_registration_and_heartbeats(rig, eventually, tmp_path) -> None:
    volume_id = uuid4()
    await rig.replicas.ensure([await make_replica(rig, tmp_path, volume_id)])
    rig.metadata.snapshot_sets = [make_set(volume_id, 3, 1, 2)]
    rig.metadata.snapshots_revision = 7
    async with rig.running():
        await eventually(lambda: rig.core.snapshot_sets.get(volume_id) == (3, (1, 2), 4))
        beats = rig.metadata.heartbeats
        await eventually(lambda: rig.metadata.heartbeats > beats + 2)
        assert [call[0] for call in rig.core.calls].count("set_snapshots") == 1
        rig.metadata.snapshot_sets = [make_set(volume_id, 4, 2)]
        rig.metadata.snapshots_revision = 9
        await eventually(lambda: rig.core.snapshot_sets.get(volume_id) == (4, (2,), 5))
        assert rig.snapshot_sets.revision == 9


async def test_what_the_core_refused_comes_again(rig, eventually, tmp_path) -> None:
    volume_id = uuid4()
    await rig.replicas.ensure([await make_replica(rig, tmp_path, volume_id)])
    rig.metadata.snapshot_sets = [make_set(volume_id, 3, 1)]
    rig.metadata.snapshots_revision = 7
    rig.core.fail["set_snapshots"] = DiskError("the store hangs")
    async with rig.running():
        await eventually(lambda: volume_id in rig.core.snapshot_sets)
        await eventually(lambda: rig.snapshot_sets.revision == 7)


async def test_a_new_replica_is_told_what_is_known(rig, tmp_path) -> None:
    volume_id = uuid4()
    await rig.snapshot_sets.learn([make_set(volume_id, 3, 1)], 5)
    assert not rig.core.snapshot_sets
    await rig.replicas.ensure([await make_replica(rig, tmp_path, volume_id)])
    assert rig.core.snapshot_sets[volume_id] == (3, (1,), 4)
    await rig.replicas.drop_volume(volume_id)
    rig.core.snapshot_sets.clear()
    await rig.replicas.ensure([await make_replica(rig, tmp_path, volume_id)])
    assert not rig.core.snapshot_sets  # deleted: nothing is known of it any more


async def test_a_snapshot_is_exported_read_only(rig) -> None:
    view = make_view(rig)
    view.bases.add(
        base=types_pb2.Base(volume_id=str(uuid4()), era=2, since=1, size_bytes=1 << 19),
        segments=view.segments,
    )
    for _ in range(2):
        answer = await rig.host.AttachSnapshot(host_pb2.HostAttachSnapshotRequest(view=view))
        assert answer.nbd_uris[1] == "nbd://127.0.0.1:10809/v%40s"
    snapshot_id = UUID(view.snapshot_id)
    assert ("nbd_export", snapshot_id, "v@s", True) in rig.core.calls
    spec = rig.core.readers[snapshot_id]
    assert (spec.volume_id, spec.era, spec.size_bytes) == (UUID(view.volume_id), 3, 1 << 20)
    assert (spec.base.era, spec.base.size_bytes, spec.base.base) == (2, 1 << 19, None)
    for _ in range(2):
        await rig.host.DetachSnapshot(
            host_pb2.HostDetachSnapshotRequest(snapshot_id=view.snapshot_id)
        )
    assert not rig.core.readers
    assert not rig.core.exports


async def test_an_export_that_fails_leaves_no_reader(rig, status_of) -> None:
    import grpc

    rig.core.fail["nbd_export"] = LinkLost("no member answers")
    request = host_pb2.HostAttachSnapshotRequest(view=make_view(rig))
    assert await status_of(rig.host.AttachSnapshot(request)) is grpc.StatusCode.UNAVAILABLE
    assert not rig.core.readers
    assert not rig.snapshot_exports.exported


async def test_what_is_on_record_is_exported_again(rig, eventually, monkeypatch) -> None:
    monkeypatch.setattr(snapshots_module, "RETRY_S", 0.02)
    old, new = make_view(rig, "old"), make_view(rig, "new")
    await rig.snapshot_exports.attach(old)
    rig.metadata.snapshots = [new]
    rig.core.fail["attach_snapshot"] = LinkLost("the others are not back yet")
    async with rig.running():
        await eventually(lambda: list(rig.core.exports) == ["v@new"])
        rig.metadata.hosts.clear()  # so that it registers again
        await eventually(lambda: rig.metadata.hosts)
        await asyncio.sleep(0.1)
    assert list(rig.core.exports) == ["v@new"]
    assert [call[0] for call in rig.core.calls].count("attach_snapshot") == 3


async def test_an_export_made_while_registering_stays(rig) -> None:
    """The answer was made before the record: it does not name it."""
    before = list(rig.snapshot_exports.exported)
    await rig.snapshot_exports.attach(make_view(rig))
    await rig.snapshot_exports.restore([], look_nowhere, known_before=before)
    assert list(rig.core.exports) == ["v@s"]


async def test_detaching_ends_what_is_being_restored(rig, monkeypatch) -> None:
    monkeypatch.setattr(snapshots_module, "RETRY_S", 60)
    view = make_view(rig)
    rig.core.fail["attach_snapshot"] = LinkLost("not yet")
    await rig.snapshot_exports.restore([view], look_nowhere, known_before=[])
    await asyncio.sleep(0.05)
    await rig.snapshot_exports.detach(UUID(view.snapshot_id))
    assert not rig.snapshot_exports._restoring


async def test_what_is_restored_looks_for_who_is_in_sync_by_now(rig, monkeypatch) -> None:
    monkeypatch.setattr(snapshots_module, "RETRY_S", 0.02)
    view, now = make_view(rig), types_pb2.VolumeView()
    now.CopyFrom(view)
    now.segments[0].generation = 9

    async def look(volume: str, name: str) -> types_pb2.VolumeView:
        assert (volume, name) == (view.volume_id, "s")
        return now

    rig.core.fail["attach_snapshot"] = LinkLost("nobody of these is left")
    await rig.snapshot_exports.restore([view], look, known_before=[])
    await asyncio.sleep(0.1)
    assert rig.core.readers[UUID(view.snapshot_id)].segments[0].generation == 9


async def test_what_is_on_record_no_more_is_not_restored_any_longer(rig, monkeypatch) -> None:
    monkeypatch.setattr(snapshots_module, "RETRY_S", 0.02)
    view = make_view(rig)
    rig.core.fail["attach_snapshot"] = LinkLost("not yet")
    await rig.snapshot_exports.restore([view], look_nowhere, known_before=[])
    await asyncio.sleep(0)
    await rig.snapshot_exports.restore([], look_nowhere, known_before=[])
    await asyncio.sleep(0.1)
    assert not rig.core.exports


async def test_a_detach_goes_on_when_the_caller_gives_up(rig, monkeypatch) -> None:
    view = make_view(rig)
    snapshot_id = UUID(view.snapshot_id)
    await rig.snapshot_exports.attach(view)
    drained = asyncio.Event()
    detach = rig.core.detach

    async def slow(volume_id: UUID) -> None:
        await drained.wait()
        await detach(volume_id)

    monkeypatch.setattr(rig.core, "detach", slow)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(rig.snapshot_exports.detach(snapshot_id), 0.05)
    again = asyncio.create_task(rig.snapshot_exports.attach(view))
    await asyncio.sleep(0.05)
    assert not again.done()
    drained.set()
    await again
    assert list(rig.core.exports) == ["v@s"]


async def test_what_was_released_by_force_is_ended_with_a_heartbeat(rig, eventually) -> None:
    gone, stays = make_view(rig, "gone"), make_view(rig, "stays")
    async with rig.running():
        for view in (gone, stays):
            await rig.snapshot_exports.attach(view)
        rig.metadata.ended_snapshots.append(gone.snapshot_id)
        await eventually(lambda: list(rig.core.exports) == ["v@stays"])
        assert list(rig.snapshot_exports.exported) == [UUID(stays.snapshot_id)]


async def test_an_old_order_to_end_leaves_a_new_export_alone(rig) -> None:
    view = make_view(rig)
    snapshot_id = UUID(view.snapshot_id)
    await rig.snapshot_exports.attach(view)
    old = rig.snapshot_exports.exported[snapshot_id]
    await rig.snapshot_exports.detach(snapshot_id)
    await rig.snapshot_exports.attach(view)
    rig.snapshot_exports.end(snapshot_id, old)
    await asyncio.sleep(0.05)
    assert list(rig.core.exports) == ["v@s"]


async def test_an_export_whose_name_is_taken_leaves_no_reader(rig) -> None:
    """Of a snapshot that was deleted while this host was told nothing of that."""
    old, new = make_view(rig), make_view(rig)
    await rig.snapshot_exports.attach(old)
    with pytest.raises(AlreadyExists):
        await rig.snapshot_exports.attach(new)
    assert list(rig.core.readers) == [UUID(old.snapshot_id)]
    assert list(rig.core.exports) == ["v@s"]
    await rig.snapshot_exports.detach(UUID(old.snapshot_id))
    await rig.snapshot_exports.attach(new)


async def test_changed_chunks_are_told_of_a_replica(rig, tmp_path, status_of) -> None:
    import grpc

    volume_id = uuid4()
    await rig.replicas.ensure([await make_replica(rig, tmp_path, volume_id)])
    request = host_pb2.ListChangedChunksRequest(
        volume_id=str(volume_id),
        to=host_pb2.ChunkView(era=0, base_era=3, since=7),
        **{"from": host_pb2.ChunkView(era=2)},
    )
    assert list((await rig.host.ListChangedChunks(request)).chunks) == [1, 2, 7]
    wanted = (ChunkView(2), ChunkView(0, 3, 7))
    assert rig.core.calls[-1] == ("changed_chunks", volume_id, 0, *wanted)
    request.ClearField("from")
    await rig.host.ListChangedChunks(request)
    assert rig.core.calls[-1][3] is None
    request.volume_id = str(uuid4())
    assert await status_of(rig.host.ListChangedChunks(request)) is grpc.StatusCode.NOT_FOUND
