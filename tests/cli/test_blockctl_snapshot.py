"""blockctl's commands for snapshots, clones, differences and groups."""

import pytest

from blockd.model.errors import LinkLost
from blockd.rpc.gen import host_pb2, meta_pb2
from tests.cli.test_blockctl import error_line

CHUNK = 65536


@pytest.fixture
def volume(cluster):
    created = cluster.ok("volume", "create", "vol", "--size", "2GiB", "-o", "json").json
    cluster.ok("volume", "attach", "vol", "--host", "paris-1")
    return created


def take(cluster, name: str = "a", volume: str = "vol"):
    return cluster.ok("volume", "snapshot", "create", volume, name, "-o", "json").json


def snapshots(cluster, volume: str = "vol"):
    return cluster.ok("volume", "snapshot", "list", volume, "-o", "json").json["snapshots"]


def test_the_life_of_a_snapshot(cluster, volume):
    taken = take(cluster)
    assert (taken["name"], taken["era"], taken["state"]) == ("a", 1, "available")
    assert (taken["volume"], taken["size_bytes"]) == ("vol", 2 << 30)
    assert "snapshot b of vol" in cluster.ok("volume", "snapshot", "create", "vol", "b").out
    table = cluster.ok("volume", "snapshot", "list", "vol").out
    assert "available" in table
    assert [one["name"] for one in snapshots(cluster)] == ["a", "b"]
    assert "deleted" in cluster.ok("volume", "snapshot", "delete", "vol", "a").out
    assert [one["name"] for one in snapshots(cluster)] == ["b"]
    assert cluster.ok("volume", "show", "vol", "-o", "json").json["era"] == 3
    assert "has snapshots: b" in error_line(cluster.ctl("volume", "delete", "vol"), 4)


def test_a_snapshot_is_attached_at_hosts(cluster, volume):
    take(cluster)
    for host in ("paris-1", "lyon-1"):
        done = cluster.ok("volume", "snapshot", "attach", "vol", "a", "--host", host)
        assert f"nbd+unix:///vol@a?socket=/run/{host}.sock" in done.out.splitlines()
    (listed,) = snapshots(cluster)
    assert sorted(one["host"] for one in listed["attachments"]) == ["lyon-1", "paris-1"]
    assert "lyon-1, paris-1" in cluster.ok("volume", "snapshot", "list", "vol").out
    refused = cluster.ctl("volume", "snapshot", "delete", "vol", "a")
    assert "attached at lyon-1, paris-1" in error_line(refused, 4)
    assert "say which" in error_line(cluster.ctl("volume", "snapshot", "detach", "vol", "a"), 2)
    cluster.ok("volume", "snapshot", "detach", "vol", "a", "--host", "lyon-1")
    cluster.ok("volume", "snapshot", "detach", "vol", "a")
    cluster.ok("volume", "snapshot", "delete", "vol", "a")


def test_a_snapshot_that_is_not_final_says_so(cluster, volume):
    async def fail(rig):
        rig.hosts["paris-1"].failures["BeginEra"] = LinkLost("no route")

    cluster.do(fail)
    refused = cluster.ctl("volume", "snapshot", "create", "vol", "a")
    assert "not final yet" in error_line(refused, 5)
    assert "snapshot list vol" in refused.err
    assert snapshots(cluster)[0]["state"] == "creating"


def test_clone_and_flatten(cluster, volume):
    take(cluster)
    made = cluster.ok(
        "volume", "clone", "vol", "copy", "--snapshot", "a", "--size", "3GiB", "-o", "json"
    ).json
    assert (made["size_bytes"], made["replicas"]) == (3 << 30, 3)
    assert made["base"]["volume_id"] == volume["id"]
    shown = cluster.ok("volume", "show", "copy").out
    assert "snapshot a of vol" in shown
    assert "left to copy" not in shown
    assert "attached nowhere" in error_line(cluster.ctl("volume", "flatten", "copy"), 4)
    cluster.ok("volume", "attach", "copy", "--host", "lyon-1")
    assert "takes in" in cluster.ok("volume", "flatten", "copy").out

    async def count(rig):
        rig.hosts["lyon-1"].counters = {"base_chunks": 16}

    cluster.do(count)
    assert "1 MiB left to copy" in cluster.ok("volume", "show", "copy").out
    view = cluster.ok("volume", "show", "copy", "-o", "json").json
    assert view["flattening"] is True
    assert (view["base"]["volume"], view["base"]["snapshot"]) == ("vol", "a")
    assert view["engine"]["counters"]["base_chunks"] == 16

    async def finish(rig):
        request = meta_pb2.FlattenDoneRequest(volume_id=made["id"], epoch=1)
        await rig.call("FlattenDone", request)

    cluster.do(finish)
    assert cluster.ok("volume", "flatten", "copy", "-o", "json").json["base"] is None
    assert "has no base" in cluster.ok("volume", "flatten", "copy").out


def test_rollback(cluster, volume):
    take(cluster)
    refused = cluster.ctl("volume", "snapshot", "rollback", "vol", "a")
    assert "attached at paris-1" in error_line(refused, 4)
    cluster.ok("volume", "detach", "vol")
    view = cluster.ok("volume", "snapshot", "rollback", "vol", "a", "-o", "json").json
    assert (view["era"], view["base"]["era"]) == (3, 1)
    assert "once the volume is attached" in cluster.ok("volume", "show", "vol").out


def set_changed(cluster, changed: dict[tuple[str, int], list[int]]) -> None:
    async def change(rig):
        for host in rig.hosts.values():
            host.changed = changed
            host.asked = []

    cluster.do(change)


def asked(cluster) -> list[host_pb2.ListChangedChunksRequest]:
    return [request for host in cluster.rig.hosts.values() for request in host.asked]


def test_diff_merges_what_segments_say(cluster, volume):
    take(cluster)
    set_changed(cluster, {(volume["id"], 0): [3, 4, 16383], (volume["id"], 1): [0]})
    view = cluster.ok("volume", "diff", "vol", "--from", "a", "-o", "json").json
    assert view["extents"] == [
        {"offset_bytes": 3 * CHUNK, "length_bytes": 2 * CHUNK},
        {"offset_bytes": (1 << 30) - CHUNK, "length_bytes": 2 * CHUNK},
    ]
    assert view["changed_bytes"] == 4 * CHUNK
    assert (view["from"], view["to"], view["size_bytes"]) == ("a", None, 2 << 30)
    assert all(
        getattr(request, "from").era == 1 and request.to.era == 0 for request in asked(cluster)
    )
    assert "256 KiB in 2 extents" in cluster.ok("volume", "diff", "vol", "--from", "a").out
    assert "no snapshot 'z'" in error_line(cluster.ctl("volume", "diff", "vol", "--to", "z"), 3)


def test_diff_of_a_clone_names_what_its_base_holds(cluster, volume):
    take(cluster)
    made = cluster.ok("volume", "clone", "vol", "copy", "--snapshot", "a", "-o", "json").json
    set_changed(cluster, {(volume["id"], 0): [5], (made["id"], 0): [7]})
    view = cluster.ok("volume", "diff", "copy", "-o", "json").json
    assert [one["offset_bytes"] for one in view["extents"]] == [5 * CHUNK, 7 * CHUNK]
    assert not any(request.HasField("from") for request in asked(cluster))


def test_diff_asks_the_next_replica(cluster, volume):
    set_changed(cluster, {(volume["id"], 0): [1]})

    async def fail(rig, hosts=("paris-1", "lyon-1")):
        for host in hosts:
            rig.hosts[host].failures["ListChangedChunks"] = LinkLost("gone")

    cluster.do(fail)
    assert cluster.ok("volume", "diff", "vol", "-o", "json").json["changed_bytes"] == CHUNK
    cluster.do(lambda rig: fail(rig, ("marseille-1",)))
    line = error_line(cluster.ctl("volume", "diff", "vol"), 5)
    assert "no replica of segment" in line


def test_groups(cluster, volume):
    cluster.ok("volume", "create", "log", "--size", "1GiB")
    made = cluster.ok("group", "create", "db", "vol", "log", "-o", "json").json
    assert [one["volume"] for one in made["volumes"]] == ["log", "vol"]
    assert "log, vol" in cluster.ok("group", "list").out
    assert "vol" in cluster.ok("group", "show", "db").out
    assert cluster.ok("group", "list", "-o", "json").json == {"groups": [made]}
    assert "at one moment" in cluster.ok("group", "snapshot", "db", "s").out
    taken = cluster.ok("group", "snapshot", "db", "t", "-o", "json").json["snapshots"]
    assert [(one["volume"], one["group"]) for one in taken] == [("log", "db"), ("vol", "db")]
    assert [one["name"] for one in snapshots(cluster, "log")] == ["s", "t"]
    refused = cluster.ctl("group", "snapshot", "db", "t")
    assert "has a snapshot t" in error_line(refused, 4)
    cluster.ok("group", "delete", "db")
    assert "no group" in error_line(cluster.ctl("group", "show", "db"), 3)


def test_what_only_snapshots_hold_is_shown(cluster, volume):
    async def fill(rig):
        for host in rig.hosts.values():
            host.stored, host.past = {volume["id"]: 4 << 20}, {volume["id"]: 2 << 20}
            host.past_bytes = 2 << 20
            await rig.call("Heartbeat", host.heartbeat())

    cluster.do(fill)
    assert "6 MiB more in snapshots only" in cluster.ok("volume", "show", "vol").out
    view = cluster.ok("volume", "list", "-o", "json").json["volumes"][0]["stored"]
    assert view == {"stored_bytes": 12 << 20, "past_bytes": 6 << 20, "complete": True}
    assert "in snapshots" in cluster.ok("volume", "list").out
    stores = cluster.ok("store", "list", "-o", "json").json
    assert stores["totals"]["past_bytes"] == 6 << 20
    store = cluster.ok("store", "show", stores["stores"][0]["id"], "-o", "json").json
    assert (store["past_bytes"], store["volumes"][0]["past_bytes"]) == (2 << 20, 2 << 20)
    assert "only snapshots hold" in cluster.ok("store", "show", store["id"]).out


@pytest.mark.parametrize(
    ("arguments", "code", "word"),
    [
        (["volume", "snapshot", "create", "vol", "a@b"], 2, "a@b"),
        (["volume", "snapshot", "create", "nothing", "a"], 3, "nothing"),
        (["volume", "snapshot", "delete", "vol", "none"], 3, "none"),
        (["volume", "snapshot", "rollback", "vol", "none"], 3, "none"),
        (["volume", "snapshot", "attach", "vol", "none"], 3, "none"),
        (["volume", "clone", "vol", "x", "--snapshot", "none"], 3, "none"),
        (["volume", "clone", "vol", "x", "--snapshot", "none", "--size", "ten"], 2, "ten"),
        (["volume", "diff", "nothing"], 3, "nothing"),
        (["group", "create", "g g", "vol"], 2, "g g"),
        (["group", "snapshot", "none", "s"], 3, "none"),
        (["group", "create", "g"], 2, "VOLUME"),
    ],
)
def test_bad_input_is_one_line(cluster, volume, arguments, code, word):
    assert word in error_line(cluster.ctl(*arguments), code)
