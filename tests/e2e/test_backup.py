"""Backup with what the cluster gives: a full copy, then what `volume diff` names; and groups."""

import json
import subprocess
import time
from pathlib import Path

import pytest

from tests.cluster import DevCluster, run
from tests.e2e.history import PYTHON
from tests.e2e.patterns import (
    KIB,
    MIB,
    ask,
    discard,
    export,
    remove,
    same,
    take,
    wait_flattened,
    write,
)

pytestmark = pytest.mark.timeout(240)

SIZE = 64 * MIB

# Copies extents, given as JSON, from an export into an image.
APPLY = """
import json, sys, nbd
h = nbd.NBD(); h.connect_uri(sys.argv[1])
with open(sys.argv[2], "r+b") as image:
    for extent in json.loads(sys.argv[3]):
        at, left = extent["offset_bytes"], extent["length_bytes"]
        while left:
            step = min(left, 1 << 20)
            image.seek(at); image.write(h.pread(step, at))
            at, left = at + step, left - step
"""

# Writes a number into one export, then into the other, and so on: so the first is never behind.
# Prints a line once it has begun; ends when it is killed.
TWO_WRITERS = """
import sys, nbd
handles = []
for uri in sys.argv[1:]:
    h = nbd.NBD(); h.connect_uri(uri); handles.append(h)
number = 0
while True:
    number += 1
    for h in handles:
        h.pwrite(number.to_bytes(8, "little") * 512, 0)
    if number == 10:
        print("begun", flush=True)
"""

READ_NUMBER = """
import sys, nbd
h = nbd.NBD(); h.connect_uri(sys.argv[1])
print(int.from_bytes(h.pread(8, 0), "little"))
"""


def difference(cluster: DevCluster, volume: str, *options: str) -> list[dict[str, int]]:
    """The extents of `volume diff`."""
    return list(ask(cluster, "volume", "diff", volume, *options)["extents"])


def chunks(extents: list[dict[str, int]]) -> set[int]:
    """Which chunks of 64 KiB they cover."""
    size = 64 * KIB
    return {
        chunk
        for one in extents
        for chunk in range(
            one["offset_bytes"] // size, (one["offset_bytes"] + one["length_bytes"]) // size
        )
    }


def apply(uri: str, image: Path, extents: list[dict[str, int]]) -> None:
    """An increment."""
    run([PYTHON, "-c", APPLY, uri, str(image), json.dumps(extents)])


def test_a_full_backup_and_increments(cluster: DevCluster, name: str, tmp_path: Path) -> None:
    cluster.create(name, SIZE)
    uri = cluster.attach(name, "paris-1").nbd_uris[0]
    write(uri, (0x11, 0, MIB), (0x12, 30 * MIB, MIB))
    take(cluster, name, "full")
    image = tmp_path / "image"
    reader = export(cluster, name, "full", "lyon-1")
    run(["nbdcopy", reader, str(image)])
    assert same(reader, str(image))
    held = chunks(difference(cluster, name, "--to", "full"))
    assert held == {*range(16), *range(480, 496)}

    write(uri, (0x22, 70 * KIB, 4 * KIB), (0x23, 50 * MIB, 128 * KIB))
    discard(uri, 30 * MIB, 64 * KIB)
    take(cluster, name, "one")
    write(uri, (0x33, 0, 64 * KIB))
    take(cluster, name, "two")
    first = difference(cluster, name, "--from", "full", "--to", "one")
    assert chunks(first) == {1, 480, 800, 801}
    assert chunks(difference(cluster, name, "--from", "one", "--to", "two")) == {0}
    assert difference(cluster, name, "--from", "two") == []
    for before, after in (("full", "one"), ("one", "two")):
        reader = export(cluster, name, after, "marseille-1")
        apply(reader, image, difference(cluster, name, "--from", before, "--to", after))
        assert same(reader, str(image))
    remove(cluster, name)


def test_increments_over_clone_flatten_and_rollback(
    cluster: DevCluster, name: str, tmp_path: Path
) -> None:
    """Every difference, applied to the image of its start, gives the image of its end."""
    cluster.create(name, SIZE)
    uri = cluster.attach(name, "paris-1").nbd_uris[0]
    write(uri, (0x11, 0, 2 * MIB))
    take(cluster, name, "a")
    copy = f"{name}c"
    cluster.ctl("volume", "clone", name, copy, "--snapshot", "a")
    uri = cluster.attach(copy, "lyon-1").nbd_uris[0]
    write(uri, (0x22, MIB, 64 * KIB))
    take(cluster, copy, "s1")
    discard(uri, 0, 128 * KIB)
    cluster.ctl("volume", "flatten", copy)
    wait_flattened(cluster, copy)
    take(cluster, copy, "s2")
    write(uri, (0x33, 4 * MIB, MIB))
    take(cluster, copy, "s3")
    cluster.detach(copy)
    cluster.ctl("volume", "snapshot", "rollback", copy, "s1")
    take(cluster, copy, "s4")
    cluster.attach(copy, "paris-1")
    wait_flattened(cluster, copy)
    take(cluster, copy, "s5")
    names = ("s1", "s2", "s3", "s4", "s5")
    readers = {one: export(cluster, copy, one, "marseille-1") for one in names}
    for before in names:
        for after in names:
            image = tmp_path / "image"
            image.unlink(missing_ok=True)
            run(["nbdcopy", readers[before], str(image)])
            extents = difference(cluster, copy, "--from", before, "--to", after)
            apply(readers[after], image, extents)
            assert same(readers[after], str(image)), (before, after)
    remove(cluster, copy)
    remove(cluster, name)


def test_a_groups_snapshot_is_of_one_moment(cluster: DevCluster, name: str) -> None:
    """What was acknowledged in one volume before something was written to the other, is there when
    that is."""
    volumes = (f"{name}x", f"{name}y")
    uris = []
    for volume, host in zip(volumes, ("paris-1", "lyon-1"), strict=True):
        cluster.create(volume, SIZE)
        uris.append(cluster.attach(volume, host).nbd_uris[0])
    cluster.ctl("group", "create", name, *volumes)
    writer = subprocess.Popen(
        [PYTHON, "-c", TWO_WRITERS, *uris], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"begun\n"
        for number in range(6):
            cluster.ctl("group", "snapshot", name, f"s{number}")
            time.sleep(0.2)
        assert writer.poll() is None, "the writer has failed"
    finally:
        writer.kill()
        writer.communicate()
    last = 0
    for number in range(6):
        first, second = (
            int(run([PYTHON, "-c", READ_NUMBER, reader]).stdout)
            for reader in (export(cluster, one, f"s{number}", "marseille-1") for one in volumes)
        )
        assert second <= first <= second + 1
        assert first > last
        last = first
    refused = cluster.ctl("volume", "delete", volumes[0], check=False)
    assert refused.returncode == 4
    cluster.ctl("group", "delete", name)
    for volume in volumes:
        remove(cluster, volume)


def test_a_groups_snapshot_is_of_all_or_none(cluster: DevCluster, name: str) -> None:
    volumes = (f"{name}x", f"{name}y")
    for volume, host in zip(volumes, ("paris-1", "lyon-1"), strict=True):
        cluster.create(volume, SIZE)
        cluster.attach(volume, host)
    cluster.ctl("group", "create", name, *volumes)
    cluster.kill("lyon-1")
    refused = cluster.ctl("group", "snapshot", name, "s", check=False)
    assert (refused.returncode, "was not taken" in refused.stderr) == (5, True)
    for volume in volumes:
        assert ask(cluster, "volume", "snapshot", "list", volume)["snapshots"] == []
    cluster.start("lyon-1")
    cluster.attach(volumes[1], "marseille-1")
    cluster.ctl("group", "snapshot", name, "s")
    cluster.ctl("group", "delete", name)
    for volume in volumes:
        cluster.wait_in_sync(volume)
        remove(cluster, volume)
