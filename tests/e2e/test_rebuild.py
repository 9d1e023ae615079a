"""A replica that is rebuilt, with both sides killed half-way: what is copied, and what it costs.

Real processes; how fast it goes is measured by `python -m bench.rebuild`.
"""

import signal
import time
from pathlib import Path

import pytest

from blockd.dev import cluster as dev
from tests.cluster import DevCluster, wait_until
from tests.e2e.patterns import MIB, check, kill_host, write
from tests.e2e.test_lost_store import format_anew

pytestmark = [pytest.mark.soak, pytest.mark.timeout(180)]

SIZE = 256 * MIB
PIECE = 64 * MIB
RATE = 64 * MIB  # a second: so that it can be killed half-way
SLACK = 16 * MIB  # copies under way, and what is copied between a look and the kill
MEMORY = 64 * MIB  # copies under way and their frames; the store's pages


def limit_rebuilds(cluster: DevCluster, *hosts: str) -> None:
    for host in hosts:
        kill_host(cluster, host)
        with (cluster.directory / host / "host.toml").open("a") as settings:
            settings.write(f"rebuild_rate = {RATE}\n")
    cluster.start(*hosts)


def kill_now(cluster: DevCluster, host: str) -> None:
    """At once: the command takes a second to start."""
    dev.signal_named(cluster.directory, [host], signal.SIGKILL)


def peak_bytes(cluster: DevCluster, host: str) -> int:
    """Of resident memory, since the process began."""
    pid = cluster.status()[host]["pid"]
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) << 10
    raise AssertionError("no VmHWM")


def test_a_rebuild_goes_on_where_it_was_in_bounded_memory(cluster: DevCluster, name: str) -> None:
    limit_rebuilds(cluster, "paris-1", "marseille-1")
    volume = cluster.create(name, SIZE)
    uri = cluster.attach(name, "paris-1").nbd_uris[0]
    pieces = [(number + 1, at, PIECE) for number, at in enumerate(range(0, SIZE, PIECE))]
    write(uri, *pieces)
    before = peak_bytes(cluster, "paris-1")

    def copied(holder: str) -> int:
        return int(cluster.attachment(holder, volume.id).counters["resync_bytes"])

    kill_host(cluster, "lyon-1")
    format_anew(cluster, "lyon-1")
    cluster.start("lyon-1")
    wait_until(lambda: copied("paris-1") > 0, 30, "it has begun", poll=0.02)
    began, at_begin = time.monotonic(), copied("paris-1")
    wait_until(lambda: copied("paris-1") > SIZE / 4, 30, "a quarter is copied", poll=0.02)
    kill_now(cluster, "lyon-1")
    first = copied("paris-1")
    assert first - at_begin < RATE * (time.monotonic() - began) + SLACK, "the limit is kept"

    cluster.start("lyon-1")
    wait_until(lambda: copied("paris-1") > first + SIZE / 4, 30, "half is copied", poll=0.02)
    kill_now(cluster, "paris-1")
    cluster.attach(name, "marseille-1")
    cluster.wait_in_sync(name, 2)
    assert copied("marseille-1") <= SIZE / 2 + SLACK
    assert peak_bytes(cluster, "marseille-1") - before < MEMORY
    assert peak_bytes(cluster, "lyon-1") - before < MEMORY

    cluster.start("paris-1")
    cluster.wait_in_sync(name)
    assert cluster.ctl("volume", "verify", name, "--read").returncode == 0
    cluster.detach(name)
    uri = cluster.attach(name, "lyon-1").nbd_uris[0]  # reads go to the local replica
    check(uri, *pieces)
    cluster.detach(name)
    cluster.delete(name)
