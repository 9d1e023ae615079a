"""Who may be asked for snapshots that are read at this host: told with heartbeats."""

from uuid import UUID, uuid4

from blockd.model.errors import DiskError
from blockd.rpc.gen import meta_pb2, types_pb2
from tests.host.test_snapshots import make_view


def told(rig) -> list[tuple[UUID, int]]:
    return [
        (call[1], call[2].generation) for call in rig.core.calls if call[0] == "members_changed"
    ]


def say(rig, volume_id: str, generation: int, revision: int) -> None:
    """The record has a segment of this generation since the revision."""
    segment = types_pb2.Segment(
        index=0,
        generation=generation,
        members=[types_pb2.Member(host_id=str(uuid4()), store_id=str(uuid4()), in_sync=True)],
    )
    rig.metadata.read_segments[volume_id] = meta_pb2.ReadSegments(
        volume_id=volume_id, segments=[segment], revision=revision
    )


async def test_readers_of_an_export_and_of_its_base_hear_who_is_in_sync(rig, eventually) -> None:
    view = make_view(rig)
    base_id = str(uuid4())
    view.bases.add(base=types_pb2.Base(volume_id=base_id, era=2, size_bytes=1 << 19))
    async with rig.running():
        await rig.snapshot_exports.attach(view)
        for volume_id in (view.volume_id, base_id):
            say(rig, volume_id, 4, 10)
            await eventually(lambda volume_id=volume_id: (UUID(volume_id), 4) in told(rig))
        await eventually(lambda: {revision for _, revision in rig.metadata.reads} == {10})
        assert len(told(rig)) == 2
        say(rig, base_id, 5, 11)
        await eventually(lambda: told(rig)[2:] == [(UUID(base_id), 5)])
        await rig.snapshot_exports.detach(UUID(view.snapshot_id))
        await eventually(lambda: not rig.metadata.reads)


async def test_a_new_reader_is_told_everything(rig, eventually) -> None:
    view = make_view(rig)
    say(rig, view.volume_id, 4, 10)
    async with rig.running():
        await rig.snapshot_exports.attach(view)
        await eventually(lambda: len(told(rig)) == 1)
        await rig.snapshot_exports.detach(UUID(view.snapshot_id))
        await rig.snapshot_exports.attach(view)  # with a view that may be older
        await eventually(lambda: len(told(rig)) == 2)


async def test_what_the_core_refused_is_told_again(rig, eventually) -> None:
    view = make_view(rig)
    say(rig, view.volume_id, 4, 10)
    rig.core.fail["members_changed"] = DiskError("it hangs")
    async with rig.running():
        await rig.snapshot_exports.attach(view)
        await eventually(lambda: rig.metadata.reads == [(view.volume_id, 10)])
    assert len(told(rig)) == 2
