"""What only a fenced holder's store has is kept in a branch when it comes back: found, attached
read-only, compared and deleted by its owner."""

import json
import subprocess
import time
from typing import Any

import pytest

from tests.cluster import DevCluster, wait_until
from tests.e2e.history import PYTHON
from tests.e2e.patterns import KIB, MIB, can_write, check, write

pytestmark = pytest.mark.timeout(300)

SIZE = 64 * MIB
METAS = ("meta-paris", "meta-lyon", "meta-marseille")
LOST = 20 * MIB  # where the fenced writer wrote

# Writes that nobody answers: they are in the holder's own store when it dies.
WRITE_UNANSWERED = """
import sys, time, nbd
h = nbd.NBD(); h.connect_uri(sys.argv[1])
buffers = [nbd.Buffer.from_bytearray(bytearray([0xee]) * 65536) for _ in range(4)]
for i, buffer in enumerate(buffers):
    h.aio_pwrite(buffer, int(sys.argv[2]) + i * 65536)
h.aio_trim(65536, int(sys.argv[2]) + (1 << 20))
print("sent", flush=True)
while True:
    h.poll(1000)
"""


def view(cluster: DevCluster, *arguments: str) -> Any:
    return json.loads(cluster.ctl("volume", "branch", *arguments, "-o", "json").stdout)


def lose_writes(cluster: DevCluster, name: str) -> None:
    """The holder's own store takes writes that no other one gets; all three hosts die. The others
    go on without it."""
    uri = cluster.attach(name, "paris-1").nbd_uris[0]
    write(uri, (0x11, 0, SIZE))
    for other in ("lyon-1", "marseille-1"):
        cluster.dev("stop", other)
    with subprocess.Popen(
        [PYTHON, "-c", WRITE_UNANSWERED, uri, str(LOST)], stdout=subprocess.PIPE
    ) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"sent\n"
        time.sleep(0.5)
        writer.kill()
    cluster.kill("paris-1", "lyon-1", "marseille-1")
    cluster.start("lyon-1", "marseille-1")
    wait_until(
        lambda: {"lyon-1", "marseille-1"} <= cluster.hosts_up(), 30, "the others are up again"
    )


def test_a_branch_keeps_what_the_fenced_holder_had(cluster: DevCluster, name: str) -> None:
    cluster.create(name, SIZE)
    lose_writes(cluster, name)
    uri = cluster.attach(name, "lyon-1").nbd_uris[0]
    check(uri, (0x11, 0, SIZE))
    write(uri, (0x22, LOST, 64 * KIB))  # over some of it
    cluster.start("paris-1")
    cluster.wait_in_sync(name, seconds=90)
    check(uri, (0x11, 0, LOST), (0x22, LOST, 64 * KIB), (0x11, LOST + 64 * KIB, MIB))

    [branch] = view(cluster, "list", name)["branches"]
    wait_until(lambda: view(cluster, "list", name)["branches"][0]["state"] == "kept", 30, "sealed")
    assert (branch["branch"], branch["host"], branch["volume"]) == ("fenced-1", "paris-1", name)
    shown = view(cluster, "show", name, "fenced-1")
    assert shown["kept_bytes"] == 320 * KIB
    assert view(cluster, "diff", name, "fenced-1")["extents"] == [
        {"offset_bytes": LOST, "length_bytes": 256 * KIB},
        {"offset_bytes": LOST + MIB, "length_bytes": 64 * KIB},
    ]
    told = cluster.ctl("events", "--history", "500", "-o", "json").stdout.splitlines()
    [event] = [
        one
        for one in map(json.loads, told)
        if one["kind"] == "writes.preserved" and one["subject"] == f"volume/{name}"
    ]
    assert event["details"]["branch"] == "fenced-1"
    assert event["details"]["bytes"] == str(320 * KIB)
    assert event["details"]["replica_host"] == "paris-1"

    write(uri, (0x33, 0, SIZE))  # the branch stays as it is
    for host in ("marseille-1", "paris-1"):
        attached = view(cluster, "attach", name, "fenced-1", "--host", host)
        found = attached["nbd_uris"][0]
        check(found, (0x11, 0, LOST), (0xEE, LOST, 256 * KIB), (0x11, LOST + 256 * KIB, 768 * KIB))
        check(found, (0, LOST + MIB, 64 * KIB), (0x11, LOST + MIB + 64 * KIB, MIB))
        assert not can_write(found)
        cluster.ctl("volume", "branch", "detach", name, "fenced-1")

    refused = cluster.ctl("volume", "delete", name, check=False)
    assert "branches: fenced-1" in refused.stderr or "attached" in refused.stderr
    cluster.ctl("volume", "branch", "delete", name, "fenced-1")
    assert view(cluster, "list", name)["branches"] == []
    cluster.detach(name)
    cluster.delete(name)


def test_a_resync_waits_for_its_branch_while_the_volume_serves(
    cluster: DevCluster, name: str
) -> None:
    cluster.create(name, SIZE)
    lose_writes(cluster, name)
    uri = cluster.attach(name, "lyon-1").nbd_uris[0]
    wait_until(
        lambda: sum(one.in_sync for one in cluster.volume(name).segments[0].members) == 2,
        30,
        "paris-1 is out of the set",
    )
    cluster.kill(*METAS)
    cluster.start("paris-1")
    wait_until(lambda: "branch-wanted" in cluster.log("lyon-1"), 60, "a branch is wanted")
    for byte in range(8):
        write(uri, (byte, LOST, MIB))
        time.sleep(0.2)
    cluster.start(*METAS)
    cluster.wait_in_sync(name, seconds=90)
    wait_until(lambda: view(cluster, "list", name)["branches"][0]["state"] == "kept", 30, "sealed")
    found = view(cluster, "attach", name, "fenced-1", "--host", "paris-1")["nbd_uris"][0]
    check(found, (0xEE, LOST, 256 * KIB))
    check(uri, (7, LOST, MIB))
    cluster.ctl("volume", "branch", "detach", name, "fenced-1")
    cluster.ctl("volume", "branch", "delete", name, "fenced-1")
    cluster.detach(name)
    cluster.delete(name)
