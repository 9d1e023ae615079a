"""Snapshots on a whole cluster: what they show, on which hosts, through which failures."""

import shutil
from pathlib import Path

import pytest

from tests.cluster import DevCluster, wait_until
from tests.e2e.history import History, read_back, record
from tests.e2e.patterns import (
    KIB,
    MIB,
    ask,
    can_write,
    check,
    discard,
    export,
    past_bytes,
    remove,
    same,
    take,
    unexport,
    wait_flattened,
    write,
)

pytestmark = pytest.mark.timeout(240)

SIZE = 64 * MIB
HOSTS = ("paris-1", "lyon-1", "marseille-1")
BLOCKS = 4096


def test_a_snapshot_shows_what_was_then(cluster: DevCluster, name: str) -> None:
    cluster.create(name, SIZE)
    uri = cluster.attach(name, "paris-1").nbd_uris[0]
    write(uri, (0x11, 0, MIB), (0x12, 40 * MIB, 64 * KIB))
    take(cluster, name, "a")
    write(uri, (0x22, 4 * KIB, 8 * KIB), (0x23, 512 * KIB, 256 * KIB), (0x24, 50 * MIB, MIB))
    discard(uri, 40 * MIB, 64 * KIB)
    take(cluster, name, "b")
    write(uri, (0x33, 0, 2 * MIB))
    then = (
        (0x11, 0, MIB),
        (0, MIB, MIB),
        (0x12, 40 * MIB, 64 * KIB),
        (0, 50 * MIB, MIB),
    )
    for host in HOSTS:
        check(export(cluster, name, "a", host), *then)
        check(
            export(cluster, name, "b", host),
            (0x11, 0, 4 * KIB),
            (0x22, 4 * KIB, 8 * KIB),
            (0x11, 12 * KIB, 500 * KIB),
            (0x23, 512 * KIB, 256 * KIB),
            (0, 40 * MIB, 64 * KIB),
            (0x24, 50 * MIB, MIB),
        )
    check(uri, (0x33, 0, 2 * MIB), (0, 40 * MIB, 64 * KIB), (0x24, 50 * MIB, MIB))
    assert past_bytes(cluster) > 0
    remove(cluster, name)
    wait_until(lambda: past_bytes(cluster) == 0, 30, "the past is given back")


def test_a_snapshot_is_read_only_and_stays_while_attached(cluster: DevCluster, name: str) -> None:
    cluster.create(name, SIZE)
    uri = cluster.attach(name, "paris-1").nbd_uris[0]
    write(uri, (0x11, 0, MIB))
    take(cluster, name, "a")
    reader = export(cluster, name, "a", "lyon-1")
    assert not can_write(reader)
    refused = cluster.ctl("volume", "snapshot", "delete", name, "a", check=False)
    assert (refused.returncode, "attached at lyon-1" in refused.stderr) == (4, True)
    check(reader, (0x11, 0, MIB))
    unexport(cluster, name, "a", "lyon-1")
    remove(cluster, name)


def test_an_export_comes_back_with_its_daemon(cluster: DevCluster, name: str) -> None:
    cluster.create(name, SIZE)
    uri = cluster.attach(name, "paris-1").nbd_uris[0]
    write(uri, (0x11, 0, MIB))
    take(cluster, name, "a")
    write(uri, (0x22, 0, MIB))
    reader = export(cluster, name, "a", "lyon-1")
    cluster.kill("lyon-1")
    cluster.start("lyon-1")

    def is_served() -> bool:
        try:
            check(reader, (0x11, 0, MIB))
        except AssertionError:
            return False
        return True

    wait_until(is_served, 30, "the snapshot is exported again")
    cluster.wait_in_sync(name)
    remove(cluster, name)


def test_a_snapshot_holds_every_write_acknowledged_before_it(
    cluster: DevCluster, name: str, tmp_path: Path
) -> None:
    """Taken under load, and crash-consistent: nothing acknowledged is missing, no block is torn."""
    cluster.create(name, BLOCKS * 4096)
    uri = cluster.attach(name, "paris-1").nbd_uris[0]
    recording = record(uri, tmp_path / "log", BLOCKS, seconds=12)
    prefixes = []
    for number in range(3):
        wait_until(
            lambda wanted=1000 * (number + 1): recording.acknowledged() > wanted, 30, "writes"
        )
        prefixes.append(tmp_path / f"log{number}")
        shutil.copy(tmp_path / "log", prefixes[-1])
        take(cluster, name, f"s{number}")
    assert recording.finish() == 0
    for number, prefix in enumerate(prefixes):
        history = History.read(tmp_path / "log")
        history.acknowledged = History.read(prefix).acknowledged
        for host in HOSTS:
            reader = export(cluster, name, f"s{number}", host)
            history.check(read_back(reader, BLOCKS))
            assert same(reader, export(cluster, name, f"s{number}", "paris-1"))
    remove(cluster, name)


def test_a_replica_that_was_away_has_the_past_as_well(cluster: DevCluster, name: str) -> None:
    cluster.create(name, SIZE)
    uri = cluster.attach(name, "paris-1").nbd_uris[0]
    write(uri, (0x11, 0, 4 * MIB))
    take(cluster, name, "a")
    cluster.kill("marseille-1")
    write(uri, (0x22, MIB, MIB))
    take(cluster, name, "b")
    write(uri, (0x33, 0, 2 * MIB))
    take(cluster, name, "c")
    discard(uri, 0, 4 * MIB)
    cluster.start("marseille-1")
    cluster.wait_in_sync(name)
    # Its own replica is the nearest: it is the one that is read there.
    for snapshot in "abc":
        readers = [export(cluster, name, snapshot, host) for host in ("marseille-1", "paris-1")]
        assert same(*readers)
    check(export(cluster, name, "b", "marseille-1"), (0x11, 0, MIB), (0x22, MIB, MIB))
    assert cluster.ctl("volume", "verify", name, "--read").returncode == 0
    remove(cluster, name)


def test_a_holder_that_died_leaves_it_to_the_next(cluster: DevCluster, name: str) -> None:
    cluster.create(name, SIZE)
    uri = cluster.attach(name, "paris-1").nbd_uris[0]
    write(uri, (0x11, 0, MIB))
    cluster.kill("paris-1")
    refused = cluster.ctl("volume", "snapshot", "create", name, "a", check=False)
    assert (refused.returncode, "not final yet" in refused.stderr) == (5, True)
    (listed,) = ask(cluster, "volume", "snapshot", "list", name)["snapshots"]
    assert listed["state"] == "creating"
    uri = cluster.attach(name, "lyon-1").nbd_uris[0]
    (listed,) = ask(cluster, "volume", "snapshot", "list", name)["snapshots"]
    assert listed["state"] == "available"
    write(uri, (0x22, 0, MIB))
    check(export(cluster, name, "a", "lyon-1"), (0x11, 0, MIB))
    cluster.start("paris-1")
    cluster.wait_in_sync(name)
    remove(cluster, name)


def test_a_restarted_holder_goes_on_in_the_era(cluster: DevCluster, name: str) -> None:
    cluster.create(name, SIZE)
    uri = cluster.attach(name, "paris-1").nbd_uris[0]
    write(uri, (0x11, 0, MIB))
    take(cluster, name, "a")
    cluster.kill("paris-1")
    cluster.start("paris-1")
    wait_until(lambda: can_write(uri), 30, "paris-1 serves again")
    write(uri, (0x22, 0, MIB))
    check(export(cluster, name, "a", "lyon-1"), (0x11, 0, MIB))
    cluster.wait_in_sync(name)
    remove(cluster, name)


def test_a_volume_not_detached_cleanly_is_settled_first(cluster: DevCluster, name: str) -> None:
    cluster.create(name, SIZE)
    cluster.attach(name, "paris-1")
    cluster.kill("paris-1")
    cluster.ctl("volume", "detach", name, "--force")
    refused = cluster.ctl("volume", "snapshot", "create", name, "a", check=False)
    assert (refused.returncode, "not detached cleanly" in refused.stderr) == (4, True)
    cluster.attach(name, "lyon-1")
    cluster.detach(name)
    take(cluster, name, "a")
    cluster.start("paris-1")
    remove(cluster, name)


def test_rollback_and_back(cluster: DevCluster, name: str) -> None:
    cluster.create(name, SIZE)
    uri = cluster.attach(name, "paris-1").nbd_uris[0]
    write(uri, (0x11, 0, 2 * MIB))
    take(cluster, name, "a")
    write(uri, (0x22, MIB, 2 * MIB))
    take(cluster, name, "b")
    write(uri, (0x33, 0, 4 * MIB), (0x34, 32 * MIB, MIB))
    cluster.detach(name)
    cluster.ctl("volume", "snapshot", "rollback", name, "a")
    uri = cluster.attach(name, "lyon-1").nbd_uris[0]
    check(uri, (0x11, 0, 2 * MIB), (0, 2 * MIB, 2 * MIB), (0, 32 * MIB, MIB))
    write(uri, (0x44, 4 * KIB, 4 * KIB))  # a part of a chunk that shows the base
    check(uri, (0x11, 0, 4 * KIB), (0x44, 4 * KIB, 4 * KIB), (0x11, 8 * KIB, MIB))
    wait_flattened(cluster, name)
    check(uri, (0x44, 4 * KIB, 4 * KIB), (0x11, 8 * KIB, MIB), (0, 32 * MIB, MIB))
    cluster.detach(name)
    cluster.ctl("volume", "snapshot", "rollback", name, "b")
    uri = cluster.attach(name, "marseille-1").nbd_uris[0]
    check(uri, (0x11, 0, MIB), (0x22, MIB, 2 * MIB), (0, 3 * MIB, MIB))
    check(export(cluster, name, "a", "paris-1"), (0x11, 0, 2 * MIB), (0, 2 * MIB, MIB))
    wait_flattened(cluster, name)
    assert cluster.ctl("volume", "verify", name, "--read").returncode == 0
    remove(cluster, name)


def test_rollbacks_upon_each_other(cluster: DevCluster, name: str) -> None:
    """To a snapshot that itself shows another: none of the three was flattened in between."""
    cluster.create(name, SIZE)
    uri = cluster.attach(name, "paris-1").nbd_uris[0]
    write(uri, (0x11, 0, MIB))
    take(cluster, name, "a")
    write(uri, (0x22, 0, MIB), (0x23, MIB, MIB))
    cluster.detach(name)
    cluster.ctl("volume", "snapshot", "rollback", name, "a")
    take(cluster, name, "b")
    cluster.ctl("volume", "snapshot", "rollback", name, "b")
    uri = cluster.attach(name, "lyon-1").nbd_uris[0]
    check(uri, (0x11, 0, MIB), (0, MIB, MIB))
    wait_flattened(cluster, name)
    check(uri, (0x11, 0, MIB), (0, MIB, MIB))
    check(export(cluster, name, "b", "marseille-1"), (0x11, 0, MIB), (0, MIB, MIB))
    remove(cluster, name)


def test_a_grown_volume_keeps_its_smaller_snapshots(cluster: DevCluster, name: str) -> None:
    cluster.create(name, SIZE)
    uri = cluster.attach(name, "paris-1").nbd_uris[0]
    write(uri, (0x11, SIZE - MIB, MIB))
    taken = take(cluster, name, "a")
    assert taken["size_bytes"] == SIZE
    cluster.ctl("volume", "resize", name, "--size", str(1100 * MIB))
    write(uri, (0x22, SIZE - MIB, 2 * MIB), (0x23, 1099 * MIB, MIB))
    reader = export(cluster, name, "a", "lyon-1")
    check(reader, (0x11, SIZE - MIB, MIB))
    cluster.detach(name)
    cluster.ctl("volume", "snapshot", "rollback", name, "a")
    uri = cluster.attach(name, "lyon-1").nbd_uris[0]
    check(uri, (0x11, SIZE - MIB, MIB), (0, SIZE, MIB), (0, 1099 * MIB, MIB))
    wait_flattened(cluster, name)
    check(uri, (0x11, SIZE - MIB, MIB), (0, SIZE, MIB), (0, 1099 * MIB, MIB))
    remove(cluster, name)
