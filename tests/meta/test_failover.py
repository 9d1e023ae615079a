"""Volumes with standbys: moved when their host is lost, and only then."""

import asyncio

import pytest

from blockd.meta.etcd import Etcd
from blockd.meta.records import ATTACHMENTS, put
from blockd.model.errors import Busy, NotFound
from blockd.rpc.gen.meta_pb2 import RegisterHostRequest
from blockd.rpc.gen.types_pb2 import Attachment
from tests.meta.rig import wait_until


async def lose(rig, name: str) -> None:
    """It answers nobody; the records take it for up for a while."""
    rig.silent.add(name)
    await rig.hosts[name].stop()


def holder_is(rig, name: str):
    async def asked() -> bool:
        attachment = (await rig.volume()).attachment
        return bool(attachment.host_name == name and attachment.nbd_uris)

    return asked


async def test_a_volume_goes_to_its_first_standby_that_can(rig, volume):
    await rig.attach(host="paris-1", standbys=("lyon-1", "marseille-1"))
    rig.hosts["lyon-1"].failures["Attach"] = Busy("not now")
    await lose(rig, "paris-1")
    await wait_until(holder_is(rig, "marseille-1"))
    attachment = (await rig.volume()).attachment
    assert list(attachment.standby_host_names) == ["lyon-1", "paris-1"]
    assert list(attachment.nbd_uris) == ["nbd+unix:///vol?socket=/run/marseille-1.sock"]
    (event,) = (one for one in await rig.events() if one.kind == "volume.failed_over")
    assert "marseille-1: paris-1 is lost" in event.message


async def test_it_moves_on_when_the_standby_is_lost_too(rig, volume):
    await rig.attach(host="paris-1", standbys=("lyon-1",))
    await lose(rig, "paris-1")
    await wait_until(holder_is(rig, "lyon-1"))
    await rig.hosts["paris-1"].start()
    await rig.call("RegisterHost", RegisterHostRequest(host=rig.hosts["paris-1"].message()))
    rig.silent.discard("paris-1")
    await lose(rig, "lyon-1")
    await wait_until(holder_is(rig, "paris-1"))


async def test_a_host_that_only_the_service_cannot_reach_keeps_its_volume(rig, volume):
    await rig.attach(host="paris-1", standbys=("lyon-1",))
    for host in rig.hosts.values():
        host.leases_us[volume.id] = 700_000
    await lose(rig, "paris-1")
    await asyncio.sleep(2.5)
    assert (await rig.volume()).attachment.host_name == "paris-1"
    assert rig.hosts["lyon-1"].calls.count("ListReplicas") > 1  # it was asked, again and again
    for host in rig.hosts.values():
        host.leases_us[volume.id] = 0
    await wait_until(holder_is(rig, "lyon-1"))


async def test_without_standbys_it_stays(rig, volume):
    await rig.attach(host="paris-1")
    await lose(rig, "paris-1")
    await asyncio.sleep(2.0)
    assert (await rig.volume()).attachment.host_name == "paris-1"


async def test_a_daemon_that_has_started_anew_keeps_its_volumes(rig, volume):
    await rig.attach(host="paris-1", standbys=("lyon-1",))
    del rig.hosts["paris-1"].attached[volume.id]
    await asyncio.sleep(2.0)
    assert (await rig.volume()).attachment.host_name == "paris-1"


async def test_standbys_of_an_attached_volume_can_be_named_later(rig, volume):
    first = await rig.attach(host="paris-1")
    assert not first.standby_host_names
    second = await rig.attach(host="paris-1", standbys=("marseille-1", "paris-1"))
    assert (second.epoch, list(second.standby_host_names)) == (first.epoch, ["marseille-1"])
    assert await rig.attach(host="paris-1") == second  # none named: as before
    assert rig.hosts["paris-1"].calls.count("Attach") == 1
    with pytest.raises(NotFound, match="nantes-1"):
        await rig.attach(host="paris-1", standbys=("nantes-1",))


async def test_one_that_is_detached_meanwhile_stays_so(rig, volume):
    await rig.attach(host="paris-1", standbys=("lyon-1",))
    detached = asyncio.Event()

    async def detach_first() -> None:
        if not detached.is_set():
            detached.set()
            await rig.detach(force=True)

    rig.hosts["lyon-1"].failures["ListReplicas"] = detach_first
    await lose(rig, "paris-1")
    async with asyncio.timeout(10):
        await detached.wait()
    await asyncio.sleep(2.0)
    assert not (await rig.volume()).attachment.host_name
    assert "Attach" not in rig.hosts["lyon-1"].calls


async def test_it_is_looked_after_still_when_no_standby_can(rig, volume):
    await rig.attach(host="paris-1", standbys=("lyon-1",))
    lyon = rig.hosts["lyon-1"]
    lyon.failures["Attach"] = Busy("not now")
    await lose(rig, "paris-1")

    async def was_tried() -> bool:
        return lyon.calls.count("Attach") >= 2

    await wait_until(was_tried)
    del lyon.failures["Attach"]
    await wait_until(holder_is(rig, "lyon-1"))


async def test_what_an_instance_that_died_has_begun_is_finished(rig, volume):
    await rig.attach(host="paris-1", standbys=("lyon-1",))
    paris, lyon = rig.hosts["paris-1"], rig.hosts["lyon-1"]
    paris.attached.clear()
    begun = Attachment(volume_id=volume.id, host_id=lyon.id, host_name="lyon-1", epoch=7)
    begun.standby_host_ids.append(paris.id)
    begun.standby_host_names.append("paris-1")
    etcd = Etcd([rig.etcd_endpoint])
    await etcd.commit([], [put(ATTACHMENTS + volume.id, begun)])
    await etcd.close()
    await wait_until(holder_is(rig, "lyon-1"))
    attachment = (await rig.volume()).attachment
    assert list(attachment.standby_host_names) == ["paris-1"]
    assert attachment.epoch > 7
    await asyncio.sleep(1.5)
    assert lyon.calls.count("Attach") == 1


async def test_members_that_say_nothing_of_leases_count_as_having_given_some(rig, volume):
    await rig.attach(host="paris-1", standbys=("lyon-1",))
    for host in rig.hosts.values():
        host.leases_us[volume.id] = None  # of an older release
    await lose(rig, "paris-1")
    await asyncio.sleep(2.5)
    assert (await rig.volume()).attachment.host_name == "paris-1"
    assert rig.hosts["lyon-1"].calls.count("ListReplicas") > 1
