"""A store that is really full: writes fail cleanly, the rest works, a trim brings writes back."""

import json
import subprocess

import pytest

from tests.cluster import DevCluster, dev_cluster, run, wait_until
from tests.e2e.history import PYTHON

pytestmark = pytest.mark.timeout(240)

MIB = 1 << 20

# Writes differing blocks of 1 MiB until one is refused; prints how many were taken.
FILL = """
import errno, sys, nbd
h = nbd.NBD(); h.connect_uri(sys.argv[1])
step = 1 << 20
for number in range(h.get_size() // step):
    try:
        h.pwrite(number.to_bytes(8, "little") * (step // 8), number * step)
    except nbd.Error as error:
        assert error.errnum == errno.ENOSPC, error
        break
h.flush()
print(number)
"""

CHECK = """
import sys, nbd
h = nbd.NBD(); h.connect_uri(sys.argv[1])
step = 1 << 20
for number in range(int(sys.argv[2]), int(sys.argv[3])):
    assert h.pread(step, number * step) == number.to_bytes(8, "little") * (step // 8), number
"""

TRIM = """
import sys, nbd
h = nbd.NBD(); h.connect_uri(sys.argv[1])
h.trim(int(sys.argv[2]), 0)
assert h.pread(4096, 0) == bytes(4096)
"""

WRITE = """
import sys, nbd
h = nbd.NBD(); h.connect_uri(sys.argv[1])
h.pwrite(b"x" * 65536, int(sys.argv[2]), nbd.CMD_FLAG_FUA)
"""


def event_kinds(cluster: DevCluster) -> set[str]:
    lines = cluster.ctl("events", "-n", "1000", "-o", "json").stdout.splitlines()
    return {json.loads(line)["kind"] for line in lines}


def can_write(uri: str, offset: int) -> bool:
    command = [PYTHON, "-c", WRITE, uri, str(offset)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def test_a_full_store_refuses_writes_until_something_is_trimmed() -> None:
    with dev_cluster(store_size="512MiB") as cluster:
        cluster.create("big", 900 * MIB)
        uri = cluster.attach("big", "paris-1").nbd_uris[0]
        taken = int(run([PYTHON, "-c", FILL, uri]).stdout)
        assert 300 < taken < 512
        run([PYTHON, "-c", CHECK, uri, "0", str(taken)])  # everything taken is there
        assert not can_write(uri, 800 * MIB)
        wait_until(lambda: {"store.full", "volume.no_space"} <= event_kinds(cluster), 10, "events")
        stores = json.loads(cluster.ctl("store", "list", "-o", "json").stdout)["stores"]
        assert {store["state"] for store in stores} == {"full"}
        assert not {"store.has_space", "volume.has_space"} & event_kinds(cluster)
        assert cluster.ctl("volume", "verify", "big", "--read").returncode == 0
        run([PYTHON, "-c", TRIM, uri, str(100 * MIB)])
        wait_until(lambda: can_write(uri, 800 * MIB), 8, "writes after the trim")
        run([PYTHON, "-c", CHECK, uri, "100", str(taken)])
        wait_until(lambda: "volume.has_space" in event_kinds(cluster), 10, "the end's event")
        assert "store.has_space" not in event_kinds(cluster)  # still above the warning threshold

        # Full again, and a replica that comes back has to be resynced into a full store.
        cluster.kill("lyon-1")
        run([PYTHON, "-c", FILL, uri])
        cluster.start("lyon-1")
        cluster.wait_in_sync("big")
        run([PYTHON, "-c", CHECK, uri, "100", str(taken)])
        assert cluster.ctl("volume", "verify", "big", "--read").returncode == 0

        cluster.detach("big")
        cluster.delete("big")
        wait_until(lambda: "store.has_space" in event_kinds(cluster), 15, "the store's event")
        assert {cluster.stored_bytes(host) for host in ("paris-1", "lyon-1", "marseille-1")} == {0}


OVERWRITE = """
import errno, sys, nbd
h = nbd.NBD(); h.connect_uri(sys.argv[1])
step = 4096
for number in range(int(sys.argv[2])):
    try:
        h.pwrite(b"n" * step, number * 65536 + 4096)
    except nbd.Error as error:
        assert error.errnum == errno.ENOSPC, error
        break
print(number)
"""


def test_a_store_that_snapshots_fill_takes_writes_again_when_they_are_deleted() -> None:
    """Small writes over a snapshot need a chunk each; what is refused changes nothing."""
    with dev_cluster(store_size="512MiB") as cluster:
        cluster.create("big", 300 * MIB)
        uri = cluster.attach("big", "paris-1").nbd_uris[0]
        chunks = 300 * MIB // 65536
        run([PYTHON, "-c", FILL, uri])
        cluster.ctl("volume", "snapshot", "create", "big", "a")
        reader = cluster.ctl("volume", "snapshot", "attach", "big", "a", "--host", "lyon-1")
        reader_uri = reader.stdout.split()[-1]
        taken = int(run([PYTHON, "-c", OVERWRITE, uri, str(chunks)]).stdout)
        assert 1000 < taken < chunks - 100
        assert not can_write(uri, 299 * MIB)
        run([PYTHON, "-c", CHECK, reader_uri, "0", "299"])  # as it was
        whole = (taken * 65536 >> 20) + 1
        run([PYTHON, "-c", CHECK, uri, str(whole), "299"])
        wait_until(lambda: "volume.no_space" in event_kinds(cluster), 10, "the event")
        cluster.ctl("volume", "snapshot", "detach", "big", "a", "--host", "lyon-1")
        cluster.ctl("volume", "snapshot", "delete", "big", "a")
        wait_until(lambda: can_write(uri, 299 * MIB), 15, "writes after the deletion")
        assert int(run([PYTHON, "-c", OVERWRITE, uri, str(chunks)]).stdout) == chunks - 1
        wait_until(lambda: "volume.has_space" in event_kinds(cluster), 10, "the end's event")
        cluster.wait_in_sync("big")
        assert cluster.ctl("volume", "verify", "big", "--read").returncode == 0
