"""Clones on a whole cluster: independent of their parent, over it, and without it in the end."""

import pytest

from tests.cluster import DevCluster, wait_until
from tests.e2e.patterns import (
    KIB,
    MIB,
    check,
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


def clone(cluster: DevCluster, volume: str, snapshot: str, name: str, *options: str) -> str:
    """Returns the new volume's name."""
    cluster.ctl("volume", "clone", volume, name, "--snapshot", snapshot, *options)
    return name


def flatten(cluster: DevCluster, volume: str) -> None:
    cluster.ctl("volume", "flatten", volume)
    wait_flattened(cluster, volume)


def test_a_clone_and_its_parent_go_their_own_ways(cluster: DevCluster, name: str) -> None:
    cluster.create(name, SIZE)
    parent = cluster.attach(name, "paris-1").nbd_uris[0]
    write(parent, (0x11, 0, 4 * MIB))
    take(cluster, name, "a")
    write(parent, (0x22, 0, MIB))
    copy = clone(cluster, name, "a", f"{name}c")
    uri = cluster.attach(copy, "lyon-1").nbd_uris[0]
    check(uri, (0x11, 0, 4 * MIB), (0, 4 * MIB, MIB))
    assert same(uri, export(cluster, name, "a", "marseille-1"))
    write(uri, (0x33, MIB + 4 * KIB, 8 * KIB), (0x34, 2 * MIB, 64 * KIB), (0x35, 8 * MIB, 4 * KIB))
    discard(uri, 3 * MIB, MIB)
    shown = (
        (0x11, 0, MIB + 4 * KIB),
        (0x33, MIB + 4 * KIB, 8 * KIB),
        (0x11, MIB + 12 * KIB, 52 * KIB),
        (0x34, 2 * MIB, 64 * KIB),
        (0, 3 * MIB, MIB),
        (0x35, 8 * MIB, 4 * KIB),
    )
    check(uri, *shown)
    check(parent, (0x22, 0, MIB), (0x11, MIB, 3 * MIB), (0, 8 * MIB, MIB))
    # Another holder, another engine: what is the clone's own is learnt anew.
    cluster.detach(copy)
    uri = cluster.attach(copy, "marseille-1").nbd_uris[0]
    check(uri, *shown)
    refused = cluster.ctl("volume", "snapshot", "delete", name, "a", check=False)
    assert refused.returncode == 4
    remove(cluster, copy)
    remove(cluster, name)


def test_a_flattened_clone_needs_no_parent(cluster: DevCluster, name: str) -> None:
    cluster.create(name, SIZE)
    parent = cluster.attach(name, "paris-1").nbd_uris[0]
    write(parent, (0x11, 0, 4 * MIB), (0x12, 60 * MIB, 100 * KIB))
    take(cluster, name, "a")
    copy = clone(cluster, name, "a", f"{name}c", "--size", "96MiB")
    uri = cluster.attach(copy, "lyon-1").nbd_uris[0]
    write(uri, (0x33, 64 * KIB, 64 * KIB), (0x34, 80 * MIB, MIB))
    discard(uri, 2 * MIB, MIB)
    flatten(cluster, copy)
    remove(cluster, name)
    shown = (
        (0x11, 0, 64 * KIB),
        (0x33, 64 * KIB, 64 * KIB),
        (0, 2 * MIB, MIB),
        (0x11, 3 * MIB, MIB),
        (0x12, 60 * MIB, 100 * KIB),
        (0x34, 80 * MIB, MIB),
    )
    check(uri, *shown)
    cluster.kill("lyon-1")
    uri = cluster.attach(copy, "paris-1").nbd_uris[0]
    check(uri, *shown)
    cluster.start("lyon-1")
    cluster.wait_in_sync(copy)
    assert cluster.ctl("volume", "verify", copy, "--read").returncode == 0
    remove(cluster, copy)


def test_flattening_goes_on_at_another_holder(cluster: DevCluster, name: str) -> None:
    cluster.create(name, 256 * MIB)
    parent = cluster.attach(name, "paris-1").nbd_uris[0]
    write(parent, *((0x11, offset, 16 * MIB) for offset in range(0, 192 * MIB, 16 * MIB)))
    take(cluster, name, "a")
    copy = clone(cluster, name, "a", f"{name}c")
    cluster.attach(copy, "lyon-1")
    cluster.ctl("volume", "flatten", copy)
    cluster.kill("lyon-1")
    uri = cluster.attach(copy, "marseille-1").nbd_uris[0]
    wait_flattened(cluster, copy)
    check(uri, *((0x11, offset, 16 * MIB) for offset in range(0, 192 * MIB, 16 * MIB)))
    cluster.start("lyon-1")
    cluster.wait_in_sync(copy)
    remove(cluster, copy)
    remove(cluster, name)


def test_a_snapshot_of_a_clone_shows_the_base_as_well(cluster: DevCluster, name: str) -> None:
    cluster.create(name, SIZE)
    parent = cluster.attach(name, "paris-1").nbd_uris[0]
    write(parent, (0x11, 0, 2 * MIB))
    take(cluster, name, "a")
    copy = clone(cluster, name, "a", f"{name}c")
    uri = cluster.attach(copy, "lyon-1").nbd_uris[0]
    write(uri, (0x22, 0, 64 * KIB))
    discard(uri, MIB, 64 * KIB)
    take(cluster, copy, "m")
    top = clone(cluster, copy, "m", f"{name}t")
    write(uri, (0x33, 0, 2 * MIB))
    shown = ((0x22, 0, 64 * KIB), (0x11, 64 * KIB, 960 * KIB), (0, MIB, 64 * KIB))
    check(export(cluster, copy, "m", "paris-1"), *shown)
    over = cluster.attach(top, "marseille-1").nbd_uris[0]
    check(over, *shown)
    flatten(cluster, copy)  # the snapshot keeps the base
    check(export(cluster, copy, "m", "marseille-1"), *shown)
    check(uri, (0x33, 0, 2 * MIB))
    flatten(cluster, top)
    check(over, *shown)
    for volume in (top, copy, name):
        remove(cluster, volume)


def test_many_clones_of_one_snapshot(cluster: DevCluster, name: str) -> None:
    cluster.create(name, SIZE)
    parent = cluster.attach(name, "paris-1").nbd_uris[0]
    write(parent, (0x11, 0, 4 * MIB))
    take(cluster, name, "golden")
    cluster.detach(name)
    copies = [clone(cluster, name, "golden", f"{name}-{number}") for number in range(4)]
    hosts = ("paris-1", "lyon-1", "marseille-1", "paris-1")
    uris = [
        cluster.attach(copy, host).nbd_uris[0] for copy, host in zip(copies, hosts, strict=True)
    ]
    for number, uri in enumerate(uris, 1):
        write(uri, (number, number * MIB // 2, 4 * KIB))
    for number, uri in enumerate(uris, 1):
        check(uri, (0x11, 0, MIB // 2), (number, number * MIB // 2, 4 * KIB), (0x11, 3 * MIB, MIB))
    for copy in copies:
        remove(cluster, copy)
    wait_until(lambda: _try_remove(cluster, name), 30, "the parent is let go")


def _try_remove(cluster: DevCluster, name: str) -> bool:
    remove(cluster, name)
    return True
