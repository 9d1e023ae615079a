"""What hosts report and ask: events with the right subject, repairs at the holder."""

from uuid import uuid4

import pytest

from blockd.host.events import TOLD
from blockd.model.errors import InvalidArgument, NotAttached, NotFound, NotInSync
from blockd.rpc.gen import meta_pb2


async def events(rig) -> list:
    stream = rig.client.stream(
        lambda meta: meta.WatchEvents, meta_pb2.WatchEventsRequest(history=1000, no_follow=True)
    )
    return [event async for event in stream]


async def test_a_report_becomes_an_event_about_the_volume_or_the_host(rig):
    await rig.add_cluster()
    volume = await rig.create()
    host = rig.hosts["lyon-1"]
    for volume_id in (volume.id, ""):
        report = meta_pb2.ReportEventRequest(
            host_id=host.id, kind="damage.found", volume_id=volume_id, message="block 5"
        )
        report.details["block"] = "5"
        await rig.call("ReportEvent", report)
    told = [event for event in await events(rig) if event.kind == "damage.found"]
    assert [event.subject for event in told] == ["volume/vol", "host/lyon-1"]
    assert told[0].message == "lyon-1: block 5"
    assert (told[0].details["block"], told[0].details["host"]) == ("5", "lyon-1")


async def test_everything_that_hosts_tell_of_is_theirs_to_report(rig):
    await rig.add_cluster()
    kinds = {kind for kind, _ in TOLD.values()} | {"writes.preserved", "replicas.missing"}
    for kind in sorted(kinds):
        report = meta_pb2.ReportEventRequest(host_id=rig.hosts["lyon-1"].id, kind=kind)
        await rig.call("ReportEvent", report)
    assert kinds <= {event.kind for event in await events(rig)}


async def test_hosts_cannot_report_what_is_not_theirs(rig):
    await rig.add_cluster()
    host_id = rig.hosts["lyon-1"].id
    with pytest.raises(InvalidArgument):
        await rig.call(
            "ReportEvent", meta_pb2.ReportEventRequest(host_id=host_id, kind="volume.deleted")
        )
    with pytest.raises(NotFound):
        await rig.call(
            "ReportEvent",
            meta_pb2.ReportEventRequest(host_id=str(uuid4()), kind="scrub.started"),
        )


async def test_a_repair_goes_to_the_holder(rig):
    await rig.add_cluster()
    volume = await rig.create()
    request = meta_pb2.RepairChunkRequest(
        volume_id=volume.id, segment=1, chunk=7, host_id=rig.hosts["lyon-1"].id
    )
    with pytest.raises(NotAttached, match="attached nowhere"):
        await rig.call("RepairChunk", request)
    await rig.attach(host="paris-1")
    await rig.call("RepairChunk", request)
    assert rig.hosts["paris-1"].repairs == [request]
    rig.hosts["paris-1"].failures["RepairChunk"] = NotInSync("being resynced")
    with pytest.raises(NotInSync):
        await rig.call("RepairChunk", request)
    request.volume_id = str(uuid4())
    with pytest.raises(NotFound):
        await rig.call("RepairChunk", request)
