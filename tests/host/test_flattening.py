"""Flattening begins by itself after a rollback, on order for a clone, and ends on record."""

import asyncio
from uuid import UUID, uuid4

import grpc
import pytest

from blockd.host import flattening as flattening_module
from blockd.model.errors import InvalidArgument, MetadataUnreachable, QuorumLost
from blockd.rpc.gen import host_pb2, types_pb2
from tests.host.fake_metadata import make_volume


@pytest.fixture(autouse=True)
def quick(monkeypatch) -> None:
    monkeypatch.setattr(flattening_module, "RETRY_S", 0.02)


def over_base(rig, *, own: bool = False, flattening: bool = False, epoch: int = 3):
    """A volume with a base, and its layers."""
    volume = make_volume(rig.host_id, epoch=epoch)
    base = types_pb2.Base(
        volume_id=volume.id if own else str(uuid4()), era=1, since=1, size_bytes=1 << 20
    )
    volume.base.CopyFrom(base)
    volume.flattening = flattening
    return volume, [types_pb2.BaseLayer(base=base, segments=volume.segments)]


def orders(rig) -> list[object]:
    return [call[1:] for call in rig.core.calls if call[0] == "flatten"]


async def test_after_a_rollback_it_begins_by_itself(rig, eventually) -> None:
    volume, layers = over_base(rig, own=True)
    await rig.attachments.attach(volume, layers)
    await eventually(lambda: rig.metadata.flattened == [(volume.id, 3)])
    assert orders(rig) == [(UUID(volume.id), 1 << 20)]


async def test_of_a_clone_it_is_ordered(rig, eventually) -> None:
    volume, layers = over_base(rig)
    await rig.attachments.attach(volume, layers)
    await asyncio.sleep(0.05)
    assert not orders(rig)
    rig.core.flatten_gate.clear()
    request = host_pb2.HostFlattenRequest(volume_id=volume.id, epoch=3)
    for _ in range(2):
        await rig.host.Flatten(request)
    await asyncio.sleep(0.05)
    assert len(orders(rig)) == 1
    rig.core.flatten_gate.set()
    await eventually(lambda: rig.metadata.flattened == [(volume.id, 3)])


async def test_an_order_on_record_goes_on(rig, eventually) -> None:
    volume, layers = over_base(rig, flattening=True)
    await rig.attachments.attach(volume, layers)
    await eventually(lambda: rig.metadata.flattened)


async def test_it_is_tried_until_it_works(rig, eventually) -> None:
    rig.core.fail["flatten"] = QuorumLost("two hosts are down")
    rig.metadata.flatten_fails = [MetadataUnreachable("etcd"), MetadataUnreachable("etcd")]
    volume, layers = over_base(rig, own=True)
    await rig.attachments.attach(volume, layers)
    await eventually(lambda: rig.metadata.flattened)
    assert not rig.metadata.flatten_fails


async def test_it_ends_with_the_attachment(rig, eventually) -> None:
    rig.core.flatten_gate.clear()
    volume, layers = over_base(rig, own=True)
    await rig.attachments.attach(volume, layers)
    await eventually(lambda: orders(rig))
    await rig.attachments.detach(UUID(volume.id))
    rig.core.flatten_gate.set()
    await eventually(lambda: not rig.flattening._tasks)
    assert not rig.metadata.flattened


async def test_the_order_is_refused_without_the_attachment(rig, status_of) -> None:
    request = host_pb2.HostFlattenRequest(volume_id=str(uuid4()), epoch=3)
    assert await status_of(rig.host.Flatten(request)) is grpc.StatusCode.FAILED_PRECONDITION


async def test_bases_reach_the_core_in_order(rig) -> None:
    volume, layers = over_base(rig)
    layers.append(
        types_pb2.BaseLayer(
            base=types_pb2.Base(volume_id=str(uuid4()), era=9, since=4, rolled_back=True),
            segments=volume.segments,
        )
    )
    await rig.attachments.attach(volume, layers)
    base = rig.core.volumes[UUID(volume.id)].spec.base
    assert (base.era, base.since, base.rolled_back) == (1, 1, False)
    assert (base.base.era, base.base.since, base.base.rolled_back) == (9, 4, True)
    assert base.segments == base.base.segments


async def test_a_volume_is_not_opened_without_its_base(rig) -> None:
    """It would show holes where the base shows through."""
    volume, _ = over_base(rig)
    with pytest.raises(InvalidArgument, match="without its base"):
        await rig.attachments.attach(volume)
    assert not rig.core.volumes


async def test_a_volume_with_a_base_grows(rig) -> None:
    volume, layers = over_base(rig)
    await rig.attachments.attach(volume, layers)
    volume.size_bytes += 4096
    held = await rig.attachments.grow(volume)
    assert held.size_bytes == volume.size_bytes
    assert held.has_base
