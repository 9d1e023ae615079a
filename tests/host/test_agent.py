"""The agent: registration, heartbeats, orders, attachments taken up, life without metadata."""

import asyncio
from uuid import uuid4

import pytest

from blockd.host import agent as agent_module
from blockd.model.errors import QuorumLost, StoreForeign
from blockd.rpc.gen import meta_pb2, types_pb2
from tests.host.fake_core import format_store
from tests.host.fake_metadata import make_volume


async def test_it_registers_and_heartbeats(rig, eventually) -> None:
    async with rig.running():
        await eventually(lambda: rig.metadata.heartbeats >= 2)
    host = rig.metadata.hosts[str(rig.host_id)]
    assert (host.name, host.site, host.incarnation) == ("here", "paris", 1)


async def test_it_registers_again_when_unknown(rig, eventually) -> None:
    async with rig.running():
        rig.metadata.hosts.clear()
        await eventually(lambda: rig.metadata.hosts)


async def test_it_learns_peers_once_each(rig, eventually) -> None:
    peer = types_pb2.Host(id=str(uuid4()), name="p", site="lyon", peer_endpoint="tcp:127.0.0.2:1")
    rig.metadata.hosts[peer.id] = peer
    async with rig.running():
        await eventually(lambda: rig.metadata.heartbeats >= 3)
        assert [call[0] for call in rig.core.calls].count("set_peer") == 1
        rig.metadata.hosts[peer.id].peer_endpoint = "tcp:127.0.0.2:2"
        await eventually(lambda: "tcp:127.0.0.2:2" in rig.core.peers.values())


async def test_it_survives_a_metadata_outage(rig, eventually, caplog, monkeypatch) -> None:
    monkeypatch.setattr(agent_module, "COMPLAIN_EVERY_S", 60)
    volume = make_volume(rig.host_id)
    await rig.attachments.attach(volume)
    rig.metadata.volumes[volume.id] = volume
    async with rig.running():
        endpoint = rig.metadata.server.endpoint
        await rig.metadata.stop()
        await eventually(lambda: not rig.agent.registered.is_set())
        await asyncio.sleep(0.3)
        assert rig.attachments.held
        assert caplog.text.count("still trying") == 1
        await rig.metadata.serve(endpoint)
        await eventually(rig.agent.registered.is_set)
        assert rig.attachments.held


async def test_it_refuses_another_cluster(rig) -> None:
    rig.metadata.cluster_id = uuid4()
    with pytest.raises(StoreForeign):
        await asyncio.wait_for(rig.agent.run(), 5)


async def test_attachments_are_taken_up_again_under_a_new_epoch(rig, eventually) -> None:
    volume = make_volume(rig.host_id, epoch=7)
    rig.metadata.volumes[volume.id] = volume
    rig.core.fail["attach"] = QuorumLost("the others are not back yet")
    async with rig.running():
        await eventually(lambda: rig.attachments.held)
    (held,) = rig.attachments.held.values()
    assert held.epoch == volume.attachment.epoch == 9
    assert rig.core.exports == {"v": held.volume_id}


async def test_an_attachment_given_elsewhere_meanwhile_is_left(rig, eventually) -> None:
    volume = make_volume(rig.host_id)
    rig.metadata.volumes[volume.id] = volume
    rig.core.fail["attach"] = QuorumLost()
    async with rig.running():
        await eventually(lambda: "attach" in [call[0] for call in rig.core.calls])
        volume.attachment.host_id = str(uuid4())
        await eventually(lambda: not rig.agent._renewals)
    assert not rig.attachments.held


async def test_an_engine_whose_attachment_was_taken_ends(rig, eventually) -> None:
    volume = make_volume(rig.host_id)
    await rig.attachments.attach(volume)
    volume.ClearField("attachment")
    rig.metadata.volumes[volume.id] = volume
    async with rig.running():
        await eventually(lambda: not rig.attachments.held)
    assert not rig.core.exports


async def test_orders_create_replicas_and_deletions_drop_them(rig, eventually, tmp_path) -> None:
    path = tmp_path / "store"
    path.touch()
    format_store(str(path), store_id=(store_id := uuid4()), cluster_id=rig.core.cluster_id)
    await rig.core.open_store(str(path))
    volume_id = uuid4()
    good = meta_pb2.ReplicaOrder(volume_id=str(volume_id), store_id=str(store_id), block_count=9)
    bad = meta_pb2.ReplicaOrder(volume_id=str(volume_id), store_id=str(uuid4()), segment=1)
    rig.metadata.orders += [bad, good]
    async with rig.running():
        await eventually(lambda: rig.core.replicas)
        await eventually(lambda: rig.metadata.heartbeats >= 2)
        rig.metadata.orders.clear()
        rig.metadata.deleted.append(str(volume_id))
        await eventually(lambda: not rig.core.replicas)
