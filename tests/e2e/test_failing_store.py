"""A device that fails writes under a running daemon: the volume goes on, everybody is told."""

import json
import resource
from typing import Any

import pytest

from tests.cluster import DevCluster, dev_cluster, run, wait_until
from tests.e2e.history import PYTHON

pytestmark = pytest.mark.timeout(240)

MIB = 1 << 20

WRITE = """
import sys, nbd
h = nbd.NBD(); h.connect_uri(sys.argv[1])
for number in range(8):
    h.pwrite(bytes([int(sys.argv[2]) + number]) * (1 << 20), number << 20)
h.flush()
for number in range(8):
    assert h.pread(1 << 20, number << 20) == bytes([int(sys.argv[2]) + number]) * (1 << 20)
"""


def refuse_writes(cluster: DevCluster, host: str) -> None:
    """The kernel refuses the daemon every write beyond a file's first MiB: also to its store."""
    pid = cluster.status()[host]["pid"]
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (MIB, MIB))


def stores(cluster: DevCluster, host: str) -> list[dict[str, Any]]:
    hosts = json.loads(cluster.ctl("-o", "json", "host", "list").stdout)["hosts"]
    return list(next(one for one in hosts if one["name"] == host)["stores"])


def events(cluster: DevCluster, kind: str) -> list[dict[str, Any]]:
    lines = cluster.ctl("-o", "json", "events", "-n", "200").stdout.splitlines()
    return [one for one in map(json.loads, lines) if one["kind"] == kind]


def test_a_failed_store_is_told_avoided_and_taken_back_after_a_restart() -> None:
    with dev_cluster() as cluster:
        cluster.create("v", 64 * MIB)
        uri = cluster.attach("v", "paris-1").nbd_uris[0]
        run([PYTHON, "-c", WRITE, uri, "1"])
        refuse_writes(cluster, "lyon-1")
        run([PYTHON, "-c", WRITE, uri, "20"])
        cluster.wait_in_sync("v", replicas=2)

        wait_until(lambda: events(cluster, "store.failed"), 20, "the event is in the log")
        (event,) = events(cluster, "store.failed")
        (store,) = stores(cluster, "lyon-1")
        assert event["subject"] == "host/lyon-1"
        assert event["details"]["path"] == store["path"]
        assert event["details"]["error"] == "DiskError"
        assert "restart blockd host" in event["message"]
        wait_until(
            lambda: stores(cluster, "lyon-1")[0]["failed"] == "DiskError", 10, "it is reported"
        )
        assert "failed" in cluster.ctl("host", "show", "lyon-1").stdout
        refused = cluster.ctl("volume", "create", "w", "--size", "1GiB", check=False)
        assert refused.returncode == 4
        assert "no store whose device works" in refused.stderr
        cluster.ctl("volume", "create", "x", "--size", "64MiB", "--replicas", "1")
        assert cluster.volume("x").segments[0].members[0].host_name != "lyon-1"

        cluster.kill("lyon-1")  # the device is well again
        cluster.start("lyon-1")
        cluster.wait_in_sync("v")
        assert stores(cluster, "lyon-1")[0]["failed"] == ""
        run([PYTHON, "-c", WRITE, uri, "40"])
        assert cluster.ctl("volume", "verify", "v", "--read").returncode == 0
