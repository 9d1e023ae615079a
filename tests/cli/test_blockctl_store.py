"""`blockctl store`, and what `blockctl volume` says of stored bytes."""

import time

MIB = 1 << 20
TIB = 1 << 40


def settle(cluster) -> dict[str, str]:
    """A volume with different amounts stored at each host, known to the service; ids by name."""
    volume = cluster.ok("volume", "create", "vol", "--size", "2GiB", "-o", "json").json
    for number, name in enumerate(sorted(cluster.rig.hosts), start=1):
        host = cluster.rig.hosts[name]
        host.stored = {volume["id"]: number * MIB}
        host.allocated_bytes = number * MIB
    cluster.rig.hosts["paris-1"].store_state = "full"
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        stores = cluster.ok("store", "list", "-o", "json").json["stores"]
        if [one["allocated_bytes"] for one in stores] == [MIB, 2 * MIB, 3 * MIB]:
            return {one["host"]: one["id"] for one in stores}
        time.sleep(0.1)
    raise AssertionError("the reports never arrived")


def test_store_list(cluster):
    settle(cluster)
    listed = cluster.ok("store", "list", "-o", "json").json
    paris = listed["stores"][2]
    assert paris["host"] == "paris-1"
    assert paris["state"] == "full"
    assert paris["free_bytes"] == TIB - 3 * MIB
    assert paris["logical_bytes"] == 2 << 30
    assert paris["reported_unix_us"] > 0
    assert listed["totals"]["stores"] == 3
    assert listed["totals"]["allocated_bytes"] == 6 * MIB
    assert listed["totals"]["logical_bytes"] == 6 << 30
    table = cluster.ok("store", "list").out
    assert "/dev/lyon-1" in table
    assert "total" in table
    assert "1 MiB of 8 MiB" in table


def test_store_show(cluster):
    ids = settle(cluster)
    for name in (ids["lyon-1"], ids["lyon-1"][:13], "/dev/lyon-1"):
        view = cluster.ok("store", "show", name, "-o", "json").json
        assert view["host"] == "lyon-1"
        (held,) = view["volumes"]
        assert (held["volume"], held["stored_bytes"]) == ("vol", MIB)
    assert "vol" in cluster.ok("store", "show", "/dev/lyon-1").out
    done = cluster.ctl("store", "show", "nope")
    assert done.code == 3
    assert "no store is meant by 'nope'" in done.err


def test_a_store_of_a_host_that_is_down_says_how_old_its_figures_are(cluster):
    ids = settle(cluster)
    cluster.do(lambda rig: rig.kill_host("lyon-1"))
    assert "down, as of" in cluster.ok("store", "list").out.replace("\n", " ")
    view = cluster.ok("store", "show", ids["lyon-1"], "-o", "json").json
    assert view["state"] == "down"
    assert view["allocated_bytes"] == MIB
    assert view["volumes"] is None
    assert "does not answer" in cluster.ok("store", "show", ids["lyon-1"]).out


def test_a_volume_tells_what_it_stores(cluster):
    settle(cluster)
    view = cluster.ok("volume", "show", "vol", "-o", "json").json["stored"]
    assert view["complete"] is True
    assert view["stored_bytes"] == 6 * MIB
    assert {one["host"]: one["stored_bytes"] for one in view["hosts"]} == {
        "lyon-1": MIB,
        "marseille-1": 2 * MIB,
        "paris-1": 3 * MIB,
    }
    assert "6 MiB in all" in cluster.ok("volume", "show", "vol").out
    (listed,) = cluster.ok("volume", "list", "-o", "json").json["volumes"]
    assert listed["stored"] == {"stored_bytes": 6 * MIB, "past_bytes": 0, "complete": True}
    cluster.do(lambda rig: rig.kill_host("paris-1"))
    view = cluster.ok("volume", "show", "vol", "-o", "json").json["stored"]
    assert (view["complete"], view["stored_bytes"]) == (False, 3 * MIB)
    assert "at least 3 MiB" in cluster.ok("volume", "list").out
