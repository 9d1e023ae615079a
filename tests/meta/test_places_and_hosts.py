"""Operators, sites and hosts: who may register, who is alive, what a host is told."""

from uuid import uuid4

import pytest

from blockd.model.errors import AlreadyExists, Busy, InvalidArgument, NotFound
from blockd.rpc.gen import meta_pb2, types_pb2
from blockd.rpc.status import hints_of
from tests.meta.fake_host import FakeHost
from tests.meta.rig import wait_until


async def test_operators_and_sites_are_listed_by_name(rig):
    await rig.add_places()
    operators = await rig.call("ListOperators", meta_pb2.ListOperatorsRequest())
    assert [operator.name for operator in operators.operators] == ["andromede"]
    sites = await rig.call("ListSites", meta_pb2.ListSitesRequest())
    assert [site.name for site in sites.sites] == ["lyon", "marseille", "paris"]


async def test_creating_the_same_place_twice_is_fine_and_another_one_is_not(rig):
    await rig.add_places()
    await rig.add_places()
    with pytest.raises(AlreadyExists):
        await rig.call(
            "CreateSite", types_pb2.Site(name="paris", operator="andromede", jurisdiction="DE")
        )


@pytest.mark.parametrize(
    ("site", "error"),
    [
        (types_pb2.Site(name="Paris!", operator="andromede"), InvalidArgument),
        (types_pb2.Site(name="nice", operator=""), InvalidArgument),
        (types_pb2.Site(name="nice", operator="nobody"), NotFound),
        (types_pb2.Site(name="nice", operator="andromede", jurisdiction="france"), InvalidArgument),
        (types_pb2.Site(name="nice", operator="andromede", latitude=91), InvalidArgument),
        (
            types_pb2.Site(name="nice", operator="andromede", longitude=float("nan")),
            InvalidArgument,
        ),
    ],
)
async def test_bad_sites_are_refused(rig, site, error):
    await rig.add_places()
    with pytest.raises(error):
        await rig.call("CreateSite", site)


async def test_a_host_registers_at_a_known_site_only(rig):
    host = FakeHost("h1", "paris")
    with pytest.raises(NotFound, match="paris") as caught:
        await rig.call("RegisterHost", meta_pb2.RegisterHostRequest(host=host.message()))
    assert hints_of(caught.value)


@pytest.mark.parametrize(
    "change",
    [{"id": "x"}, {"name": "Not A Name"}, {"site": ""}, {"grpc_endpoint": ""}],
)
async def test_bad_registrations_are_refused(rig, change):
    await rig.add_places()
    message = FakeHost("h1", "paris").message()
    for name, value in change.items():
        setattr(message, name, value)
    with pytest.raises(InvalidArgument):
        await rig.call("RegisterHost", meta_pb2.RegisterHostRequest(host=message))


async def test_a_name_belongs_to_one_host(rig):
    await rig.add_places()
    await rig.add_host("h1", "paris")
    with pytest.raises(AlreadyExists):
        await rig.call(
            "RegisterHost", meta_pb2.RegisterHostRequest(host=FakeHost("h1", "lyon").message())
        )


async def test_a_host_is_up_while_it_heartbeats_and_found_by_name_and_id(rig):
    await rig.add_places()
    host = await rig.add_host("h1", "paris")
    for key in ("h1", host.id, host.id.upper()):
        found = await rig.call("GetHost", meta_pb2.GetHostRequest(name_or_id=key))
        assert found.id == host.id
        assert found.state == types_pb2.HOST_STATE_UP
        assert found.stores[0].capacity_bytes == host.capacity_bytes
    with pytest.raises(NotFound):
        await rig.call("GetHost", meta_pb2.GetHostRequest(name_or_id="h2"))


async def test_up_and_down_are_announced_once(rig):
    await rig.add_places()
    await rig.add_host("h1", "paris")

    async def announced_up():
        return "host.up" in await rig.event_kinds()

    await wait_until(announced_up)
    await rig.kill_host("h1")

    async def announced_down():
        return "host.down" in await rig.event_kinds()

    await wait_until(announced_down)
    kinds = await rig.event_kinds()
    assert kinds.count("host.up") == 1
    assert kinds.count("host.down") == 1


async def test_heartbeat_of_an_unknown_host_says_register(rig):
    answer = await rig.call(
        "Heartbeat", meta_pb2.HeartbeatRequest(host_id=str(uuid4()), incarnation=1)
    )
    assert answer.unknown_host
    with pytest.raises(InvalidArgument):
        await rig.call("Heartbeat", meta_pb2.HeartbeatRequest(host_id="nonsense"))


async def test_a_displaced_daemon_is_told_so(rig):
    await rig.add_places()
    host = await rig.add_host("h1", "paris")
    rig.silent.add("h1")
    host.incarnation = 5
    await rig.call("RegisterHost", meta_pb2.RegisterHostRequest(host=host.message()))
    host.incarnation = 4
    with pytest.raises(Busy):
        await rig.call("Heartbeat", host.heartbeat())
    with pytest.raises(Busy):
        await rig.call("RegisterHost", meta_pb2.RegisterHostRequest(host=host.message()))


async def test_registration_tells_peers_replicas_and_attachments(rig):
    await rig.add_cluster()
    volume = await rig.create()
    await rig.attach(host="paris-1")
    host = rig.hosts["paris-1"]
    host.incarnation += 1
    welcome = await rig.call("RegisterHost", meta_pb2.RegisterHostRequest(host=host.message()))
    assert {peer.name for peer in welcome.peers} == {"lyon-1", "marseille-1"}
    assert [attached.id for attached in welcome.attached] == [volume.id]
    assert welcome.attached[0].attachment.epoch == 1
    assert len(welcome.attached[0].segments) == 2
    assert welcome.cluster_id


async def test_a_host_is_not_told_to_make_a_replica_that_is_in_sync(rig):
    """It has it, or it has lost it: then an empty one in its place would be believed."""
    await rig.add_cluster()
    volume = await rig.create()
    await rig.attach(host="paris-1")
    host = rig.hosts["lyon-1"]
    request = meta_pb2.RegisterHostRequest(host=host.message())
    assert not (await rig.call("RegisterHost", request)).replicas
    others = [one.id for name, one in rig.hosts.items() if name != "lyon-1"]
    await rig.call(
        "ChangeInSync",
        meta_pb2.ChangeInSyncRequest(
            volume_id=volume.id, segment=1, epoch=1, generation=1, in_sync_host_ids=others
        ),
    )
    (order,) = (await rig.call("RegisterHost", request)).replicas
    assert (order.volume_id, order.segment, order.store_id) == (volume.id, 1, host.store_id)
