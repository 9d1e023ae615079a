"""`blockctl scrub` against fake hosts: who is asked, what is shown, which exit code."""

from blockd.model.errors import LinkLost
from blockd.rpc.gen import host_pb2


def change(cluster, host, **fields):
    async def apply(rig):
        scrub = rig.hosts[host].scrub
        scrub.MergeFrom(host_pb2.StoreScrub(**fields))

    cluster.do(apply)


def test_start_asks_every_host_or_the_chosen_one(cluster):
    view = cluster.ok("scrub", "start", "--rate", "50MiB", "-o", "json").json
    assert {(one["host"], one["state"], one["rate_bytes"]) for one in view["stores"]} == {
        (host, "running", 50 << 20) for host in ("paris-1", "lyon-1", "marseille-1")
    }
    stopped = cluster.ok("scrub", "stop", "--host", "lyon-1", "-o", "json").json
    assert [(one["host"], one["state"]) for one in stopped["stores"]] == [("lyon-1", "stopped")]
    store = cluster.rig.hosts["paris-1"].store_id
    chosen = cluster.ok("scrub", "status", "--store", store, "-o", "json").json
    assert [one["host"] for one in chosen["stores"]] == ["paris-1"]
    assert "running" in cluster.ok("scrub", "status").out


def test_what_is_not_there_is_refused(cluster):
    assert cluster.ctl("scrub", "start", "--host", "nobody").code == 3
    assert cluster.ctl("scrub", "start", "--store", "/no/store").code == 3
    assert cluster.ctl("scrub", "start", "--rate", "0").code == 2
    assert cluster.ctl("scrub", "start", "--rate", "fast").code == 2


def test_damage_is_shown_and_is_an_exit_code_until_repaired(cluster):
    volume_id = cluster.ok("volume", "create", "vol", "--size", "2GiB", "-o", "json").json["id"]
    finding = host_pb2.ScrubFinding(
        volume_id=volume_id, segment=1, chunk=2, block=33, error="ChecksumMismatch", note="waits"
    )
    change(cluster, "lyon-1", state="finished", findings=[finding])
    done = cluster.ctl("scrub", "status", "-o", "json")
    assert done.code == 6
    assert done.json["damaged"] is True
    lyon = next(one for one in done.json["stores"] if one["host"] == "lyon-1")
    assert lyon["findings"][0]["volume"] == "vol"
    assert lyon["findings"][0]["offset_bytes"] == (1 << 30) + 33 * 4096
    table = cluster.ctl("scrub", "status")
    assert table.code == 6
    assert "1 damaged" in table.out
    assert "damaged, waits" in table.out

    async def repair(rig):
        rig.hosts["lyon-1"].scrub.findings[0].repaired_unix_us = 5

    cluster.do(repair)
    assert "1 repaired" in cluster.ok("scrub", "status").out


def test_a_host_that_does_not_answer_is_named(cluster):
    async def fail(rig):
        rig.hosts["lyon-1"].failures["GetScrub"] = LinkLost("gone")

    cluster.do(fail)
    done = cluster.ctl("scrub", "status", "-o", "json")
    assert done.code == 5
    assert [one["host"] for one in done.json["failures"]] == ["lyon-1"]
    assert len(done.json["stores"]) == 2
