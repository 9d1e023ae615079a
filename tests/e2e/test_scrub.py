"""Rot at rest on a real store: a scrub finds it, the holder repairs it, nobody has to read it."""

import json
import os
from typing import Any

import pytest

from tests.cluster import DevCluster, run, wait_until
from tests.e2e.history import PYTHON

pytestmark = pytest.mark.timeout(180)

MIB = 1 << 20

FILL = """
import sys, nbd
h = nbd.NBD(); h.connect_uri(sys.argv[1])
for number in range(32):
    h.pwrite(bytes([number + 1]) * (1 << 20), number << 20)
h.flush()
"""


def replica(cluster: DevCluster, name: str, offset: int, host: str) -> dict[str, Any]:
    """Where the host keeps the block, once it is home."""
    wanted: dict[str, Any] = {}

    def at_home() -> bool:
        found = cluster.ctl("-o", "json", "volume", "map", name, "--offset", str(offset)).stdout
        wanted.update(next(one for one in json.loads(found)["replicas"] if one["host"] == host))
        return not wanted["in_journal"]

    wait_until(at_home, 30, "the block has gone home", poll=0.5)
    return wanted


def rot(place: dict[str, Any]) -> None:
    """Flip one byte of the block in the store's file."""
    with open(place["store_path"], "r+b") as store:
        store.seek(place["device_offset_bytes"] + 100)
        byte = store.read(1)[0]
        store.seek(-1, os.SEEK_CUR)
        store.write(bytes([byte ^ 0x40]))
        store.flush()
        os.fsync(store.fileno())


def status(cluster: DevCluster, host: str) -> dict[str, Any]:
    done = cluster.ctl("-o", "json", "scrub", "status", "--host", host, check=False)
    assert done.returncode in (0, 6), done.stderr
    return dict(json.loads(done.stdout)["stores"][0], exit_code=done.returncode)


def scrubbed(cluster: DevCluster, host: str) -> dict[str, Any]:
    """The status after a whole pass."""
    cluster.ctl("scrub", "start", "--host", host, "--rate", "200MiB")
    wait_until(lambda: status(cluster, host)["state"] == "finished", 60, "the scrub has finished")
    return status(cluster, host)


def event_kinds(cluster: DevCluster) -> list[str]:
    lines = cluster.ctl("-o", "json", "events", "-n", "200").stdout.splitlines()
    return [json.loads(line)["kind"] for line in lines]


def test_rot_at_a_replica_is_found_and_repaired(cluster: DevCluster, name: str) -> None:
    cluster.create(name, 64 * MIB)
    uri = cluster.attach(name, "paris-1").nbd_uris[0]
    run([PYTHON, "-c", FILL, uri])
    place = replica(cluster, name, 5 * MIB + 8192, "lyon-1")
    rot(place)
    for number in range(10, 20):
        rot(replica(cluster, name, number * MIB, "lyon-1"))

    scrubbed(cluster, "lyon-1")
    wait_until(
        lambda: all(one["repaired_unix_us"] for one in status(cluster, "lyon-1")["findings"]),
        20,
        "the finding is repaired",
    )
    found = status(cluster, "lyon-1")
    assert found["exit_code"] == 0
    assert found["bytes_done"] == found["bytes_total"] >= 32 * MIB
    assert len(found["findings"]) == 11
    finding = found["findings"][0]
    assert finding["volume"] == name
    assert finding["offset_bytes"] == 5 * MIB + 8192
    assert finding["error"] == "ChecksumMismatch"
    wait_until(
        lambda: (
            {"scrub.started", "damage.found", "block.repaired", "scrub.finished", "store.failing"}
            <= set(event_kinds(cluster))
        ),
        10,
        "the events are in the log",
    )
    assert "repaired" in cluster.ctl("scrub", "status").stdout

    assert scrubbed(cluster, "lyon-1")["findings"] == []
    scrubbed(cluster, "paris-1")  # the holder's also compares all replicas

    def comparison() -> list[dict[str, Any]]:
        view = json.loads(cluster.ctl("-o", "json", "scrub", "status").stdout)
        return [one for one in view["comparisons"] if one["volume"] == name]

    wait_until(comparison, 20, "the replicas are compared")
    (compared,) = comparison()
    assert (compared["segments"], compared["replicas"], compared["failures"]) == (1, 3, 0)
    assert compared["differing_chunks"] == 0
    place = replica(cluster, name, 5 * MIB + 8192, "lyon-1")
    with open(place["store_path"], "rb") as store:
        store.seek(place["device_offset_bytes"])
        assert store.read(4096) == bytes([6]) * 4096
    assert cluster.ctl("volume", "verify", name, "--read").returncode == 0
    cluster.detach(name)
    cluster.delete(name)


def test_what_cannot_be_repaired_yet_waits_for_the_attachment(
    cluster: DevCluster, name: str
) -> None:
    cluster.create(name, 64 * MIB)
    uri = cluster.attach(name, "paris-1").nbd_uris[0]
    run([PYTHON, "-c", FILL, uri])
    cluster.detach(name)
    rot(replica(cluster, name, 3 * MIB, "marseille-1"))
    scrubbed(cluster, "marseille-1")

    def waits() -> bool:
        findings = status(cluster, "marseille-1")["findings"]
        return [one["note"] for one in findings] == ["waits until the volume is attached"]

    wait_until(waits, 10, "the finding waits")
    assert status(cluster, "marseille-1")["exit_code"] == 6
    cluster.kill("marseille-1")  # what was found is not forgotten
    cluster.start("marseille-1")
    cluster.attach(name, "paris-1")
    wait_until(
        lambda: status(cluster, "marseille-1")["findings"][0]["repaired_unix_us"],
        60,
        "the finding is repaired",
    )
    cluster.detach(name)
    cluster.delete(name)
