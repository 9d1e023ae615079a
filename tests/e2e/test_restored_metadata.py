"""The metadata goes back to a backup, and the stores do not: a snapshot that is taken then shows
what the volume shows, down to the last byte."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from blockd.dev.layout import ETCD_CLIENT_PORT, ETCD_PEER_PORT
from tests.cluster import DevCluster, dev_cluster, run, wait_until
from tests.e2e.patterns import (
    KIB,
    MIB,
    ask,
    check,
    discard,
    export,
    kill_host,
    remove,
    same,
    take,
    write,
)

pytestmark = pytest.mark.timeout(240)

SITES = ("paris", "lyon", "marseille")
SIZE = 64 * MIB


@pytest.fixture(scope="module")
def shared() -> Iterator[DevCluster]:
    """Their own: going back takes everybody's volumes back."""
    with dev_cluster() as cluster:
        yield cluster


def etcdctl(*arguments: str) -> None:
    """Of the API that keeps snapshots."""
    run(["env", "ETCDCTL_API=3", "etcdctl", *arguments])


def back_up(cluster: DevCluster, file: Path) -> None:
    """As OPERATIONS.md says."""
    etcdctl("snapshot", "save", str(file), f"--endpoints=127.{cluster.net}.10.1:{ETCD_CLIENT_PORT}")


def restore(cluster: DevCluster, file: Path, hosts: int = 3) -> None:
    """All members from the one file; returns when so many hosts have registered again."""
    metas = [f"meta-{site}" for site in SITES]
    cluster.kill(*metas)
    peers = {
        site: f"http://127.{cluster.net}.{10 + at}.1:{ETCD_PEER_PORT}"
        for at, site in enumerate(SITES)
    }
    for site, peer in peers.items():
        data = cluster.directory / f"meta-{site}" / "etcd" / "data"
        shutil.rmtree(data)
        etcdctl(
            "snapshot",
            "restore",
            str(file),
            f"--name={site}",
            f"--data-dir={data}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster={','.join(f'{one}={url}' for one, url in peers.items())}",
            "--initial-cluster-token=blockd",
        )
    cluster.start(*metas)
    wait_until(lambda: len(cluster.hosts_up()) == hosts, 30, "hosts are registered again")


def go_on(cluster: DevCluster, name: str, uri: str, image: Path) -> None:
    """What the backup does not know of: snapshots, and changes after each; `image` is the end."""
    take(cluster, name, "one")
    write(uri, (0x22, 0, 256 * KIB), (0x23, 30 * MIB, 4 * KIB))
    take(cluster, name, "two")
    write(uri, (0x33, 128 * KIB, 8 * KIB), (0x34, 40 * MIB, MIB))
    discard(uri, 10 * MIB, MIB)
    take(cluster, name, "three")
    write(uri, (0x44, 20 * MIB, 64 * KIB))
    run(["nbdcopy", uri, str(image)])


def check_snapshots(cluster: DevCluster, name: str, uri: str, image: Path) -> None:
    """The first one shows the image, also when the volume has gone on; so it is with the next."""
    assert ask(cluster, "volume", "snapshot", "list", name)["snapshots"] == []
    take(cluster, name, "after")
    write(uri, (0x55, 0, 64 * KIB), (0x56, 20 * MIB, 4 * KIB), (0x57, 50 * MIB, MIB))
    reader = export(cluster, name, "after", "lyon-1")
    assert same(reader, str(image))
    take(cluster, name, "later")
    write(uri, (0x66, 0, 128 * KIB))
    later = export(cluster, name, "later", "marseille-1")
    check(later, (0x55, 0, 64 * KIB), (0x22, 64 * KIB, 64 * KIB), (0x57, 50 * MIB, MIB))
    assert same(reader, str(image))
    assert cluster.ctl("volume", "verify", name, "--read").returncode == 0


def first_writes(cluster: DevCluster, name: str, host: str) -> str:
    """What the backup knows of; the URI."""
    cluster.create(name, SIZE)
    uri = cluster.attach(name, host).nbd_uris[0]
    write(uri, (0x11, 0, 2 * MIB), (0x12, 10 * MIB, 2 * MIB), (0x13, 30 * MIB, MIB))
    return str(uri)


def test_a_snapshot_of_a_volume_that_is_served_all_the_time(
    cluster: DevCluster, name: str, tmp_path: Path
) -> None:
    uri = first_writes(cluster, name, "paris-1")
    back_up(cluster, tmp_path / "backup")
    go_on(cluster, name, uri, tmp_path / "image")
    restore(cluster, tmp_path / "backup")
    check_snapshots(cluster, name, uri, tmp_path / "image")
    remove(cluster, name)


def test_a_snapshot_of_a_volume_whose_holder_starts_again(
    cluster: DevCluster, name: str, tmp_path: Path
) -> None:
    uri = first_writes(cluster, name, "paris-1")
    back_up(cluster, tmp_path / "backup")
    go_on(cluster, name, uri, tmp_path / "image")
    volume = cluster.volume(name)
    kill_host(cluster, "paris-1")
    restore(cluster, tmp_path / "backup", hosts=2)
    cluster.start("paris-1")
    wait_until(lambda: cluster.attachment("paris-1", volume.id).state == "serving", 30, "served")
    check_snapshots(cluster, name, uri, tmp_path / "image")
    remove(cluster, name)


def test_a_snapshot_of_a_volume_that_is_detached(
    cluster: DevCluster, name: str, tmp_path: Path
) -> None:
    """On record it was detached in good order; it was attached again since, which its replicas
    know. So was a snapshot of it refused until it has been opened."""
    first_writes(cluster, name, "paris-1")
    cluster.detach(name)
    back_up(cluster, tmp_path / "backup")
    for host in ("lyon-1", "paris-1"):
        uri = cluster.attach(name, host).nbd_uris[0]
        write(uri, (0x77, 60 * MIB, 64 * KIB))
        if host == "lyon-1":
            cluster.detach(name)
    go_on(cluster, name, uri, tmp_path / "image")
    cluster.detach(name)
    restore(cluster, tmp_path / "backup")
    refused = cluster.ctl("volume", "snapshot", "create", name, "at-once", check=False)
    assert (refused.returncode, "attach it once" in refused.stderr) == (4, True)
    uri = cluster.attach(name, "marseille-1").nbd_uris[0]
    check_snapshots(cluster, name, uri, tmp_path / "image")
    remove(cluster, name)


def test_a_growth_that_is_forgotten_and_done_again(
    cluster: DevCluster, name: str, tmp_path: Path
) -> None:
    """Its replicas are where they were, and so is what they hold."""
    large = 1100 * MIB
    uri = first_writes(cluster, name, "paris-1")
    back_up(cluster, tmp_path / "backup")
    cluster.ctl("volume", "resize", name, "--size", str(large))
    write(uri, (0x77, large - MIB, MIB))
    cluster.detach(name)
    restore(cluster, tmp_path / "backup")
    cluster.ctl("volume", "resize", name, "--size", str(large))
    for host in ("paris-1", "lyon-1"):
        uri = cluster.attach(name, host).nbd_uris[0]
        check(uri, (0x11, 0, 2 * MIB), (0, large - 2 * MIB, MIB), (0x77, large - MIB, MIB))
        cluster.detach(name)
    remove(cluster, name)
