"""Shrinking on a whole cluster, under NBD clients: what is before the end stays, what is behind it
is gone for good, on every replica, and only snapshots go on showing it."""

import json
import sys

import pytest

from tests.cluster import DevCluster, run
from tests.e2e.history import PYTHON
from tests.e2e.patterns import (
    KIB,
    MIB,
    ask,
    check,
    export,
    remove,
    take,
    wait_flattened,
    write,
)

pytestmark = pytest.mark.timeout(240)

FULL = 1100 * MIB  # two segments
CUT = 40 * MIB + 512  # within a block
HOSTS = ("paris-1", "lyon-1", "marseille-1")

# A client that was connected before: within the new end it goes on, behind it each kind of request
# fails as the protocol wants it.
SHRUNK_UNDER = """
import errno, subprocess, sys, nbd
uri, full, cut = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
h = nbd.NBD(); h.set_strict_mode(0); h.connect_uri(uri)
assert h.get_size() == full
subprocess.run(sys.argv[4:], check=True, stdout=subprocess.DEVNULL)
h.pwrite(b"y" * 512, cut - 512)
assert h.pread(512, cut - 512) == b"y" * 512
for call, wanted in (
    (lambda: h.pread(1024, cut - 512), errno.EINVAL),
    (lambda: h.pread(512, full - 512), errno.EINVAL),
    (lambda: h.trim(4096, cut), errno.EINVAL),
    (lambda: h.pwrite(b"x" * 512, cut), errno.ENOSPC),
    (lambda: h.zero(4096, full - 4096), errno.ENOSPC),
):
    try:
        call()
    except nbd.Error as error:
        assert error.errnum == wanted, error
    else:
        raise AssertionError("behind the end")
h.flush()
again = nbd.NBD(); again.connect_uri(uri)
assert again.get_size() == cut, again.get_size()
"""


def shrink(name: str, size: int) -> tuple[str, ...]:
    """The command's arguments."""
    return ("volume", "resize", name, "--size", str(size), "--force")


def size_seen(uri: str) -> int:
    """By a client that connects now."""
    return int(json.loads(run(["qemu-img", "info", "--output=json", uri]).stdout)["virtual-size"])


def test_a_volume_shrinks_under_its_clients(cluster: DevCluster, name: str) -> None:
    cluster.create(name, FULL)
    refused = cluster.ctl(*shrink(name, CUT), check=False)
    assert (refused.returncode, "volume attach" in refused.stderr) == (4, True)
    uri = cluster.attach(name, "paris-1").nbd_uris[0]
    write(uri, (0x11, 0, 48 * MIB), (0x12, FULL - MIB, MIB))
    refused = cluster.ctl("volume", "resize", name, "--size", str(CUT), check=False)
    assert (refused.returncode, "--force" in refused.stderr) == (2, True)
    take(cluster, name, "a")
    ctl = [sys.executable, "-m", "blockd.cli.blockctl", "--dir", str(cluster.directory)]
    ctl += shrink(name, CUT)
    run([PYTHON, "-c", SHRUNK_UNDER, uri, str(FULL), str(CUT), *ctl])
    assert size_seen(uri) == CUT
    assert ask(cluster, "volume", "show", name)["size_bytes"] == CUT
    check(uri, (0x11, 0, CUT - 512), (ord("y"), CUT - 512, 512))
    cluster.ctl("volume", "resize", name, "--size", str(FULL))
    check(uri, (0x11, 0, CUT - 512), (0, CUT, 8 * MIB), (0, FULL - MIB, MIB))
    # Whatever host serves it, and what the snapshot shows.
    for host in HOSTS[1:]:
        cluster.detach(name)
        uri = cluster.attach(name, host).nbd_uris[0]
        check(uri, (0x11, 0, CUT - 512), (0, CUT, 8 * MIB), (0, FULL - MIB, MIB))
    for host in HOSTS:
        check(export(cluster, name, "a", host), (0x11, 0, 48 * MIB), (0x12, FULL - MIB, MIB))
    assert cluster.ctl("volume", "verify", name, "--read").returncode == 0
    remove(cluster, name)


def test_a_member_that_was_away_has_nothing_behind_the_end(cluster: DevCluster, name: str) -> None:
    cluster.create(name, FULL)
    uri = cluster.attach(name, "paris-1").nbd_uris[0]
    write(uri, (0x11, 0, 48 * MIB), (0x12, FULL - MIB, MIB))
    cluster.kill("marseille-1")
    cluster.wait_in_sync(name, 2)
    cluster.ctl(*shrink(name, CUT))
    cluster.detach(name)
    uri = cluster.attach(name, "lyon-1").nbd_uris[0]
    cluster.start("marseille-1")
    cluster.wait_in_sync(name)
    cluster.detach(name)
    cluster.ctl("volume", "resize", name, "--size", str(FULL))  # attached nowhere
    uri = cluster.attach(name, "marseille-1").nbd_uris[0]
    check(uri, (0x11, 0, 40 * MIB), (0, CUT, 8 * MIB), (0, FULL - MIB, MIB))
    cluster.wait_in_sync(name)
    check(uri, (0x11, 0, 40 * MIB), (0, CUT, 8 * MIB), (0, FULL - MIB, MIB))
    assert cluster.ctl("volume", "verify", name, "--read").returncode == 0
    remove(cluster, name)


def test_a_clone_that_was_shrunk_shows_zeros_and_not_its_base(
    cluster: DevCluster, name: str
) -> None:
    cluster.create(name, FULL)
    uri = cluster.attach(name, "paris-1").nbd_uris[0]
    write(uri, (0x11, 0, 48 * MIB), (0x12, FULL - MIB, MIB))
    take(cluster, name, "a")
    copy = f"{name}c"
    cluster.ctl("volume", "clone", name, copy, "--snapshot", "a")
    uri = cluster.attach(copy, "lyon-1").nbd_uris[0]
    write(uri, (0x21, 44 * MIB, 64 * KIB))
    cluster.ctl(*shrink(copy, CUT))
    check(uri, (0x11, 0, CUT))
    cluster.detach(copy)
    uri = cluster.attach(copy, "paris-1").nbd_uris[0]
    cluster.ctl("volume", "resize", copy, "--size", str(FULL))
    shown = ((0x11, 0, CUT), (0, CUT, 8 * MIB), (0, FULL - MIB, MIB))
    check(uri, *shown)
    cluster.detach(copy)
    uri = cluster.attach(copy, "marseille-1").nbd_uris[0]
    check(uri, *shown)
    cluster.ctl("volume", "flatten", copy)
    wait_flattened(cluster, copy)
    check(uri, *shown)
    remove(cluster, copy)
    remove(cluster, name)


def test_a_rollback_gives_back_what_a_shrink_took(cluster: DevCluster, name: str) -> None:
    cluster.create(name, FULL)
    uri = cluster.attach(name, "paris-1").nbd_uris[0]
    write(uri, (0x11, 0, 48 * MIB), (0x12, FULL - MIB, MIB))
    take(cluster, name, "a")
    cluster.ctl(*shrink(name, CUT))
    write(uri, (0x33, 0, MIB))
    cluster.detach(name)
    cluster.ctl("volume", "snapshot", "rollback", name, "a")
    uri = cluster.attach(name, "lyon-1").nbd_uris[0]
    assert size_seen(uri) == FULL
    check(uri, (0x11, 0, 48 * MIB), (0x12, FULL - MIB, MIB))
    wait_flattened(cluster, name)
    check(uri, (0x11, 0, 48 * MIB), (0x12, FULL - MIB, MIB))
    remove(cluster, name)
