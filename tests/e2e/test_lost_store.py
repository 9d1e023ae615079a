"""A store that is not what it was: formatted anew under its old id, or an older copy put back."""

import json
import shutil

import pytest

from tests.cluster import DevCluster, blockd, run, wait_until
from tests.e2e.patterns import MIB, ask, check, export, kill_host, remove, take, write

pytestmark = pytest.mark.timeout(240)

SIZE = 64 * MIB
STORED = 8 * MIB


def image(cluster: DevCluster, host: str) -> str:
    return str(cluster.directory / host / "store.img")


def format_anew(cluster: DevCluster, host: str) -> None:
    """An empty store in the place of the host's, under its id. The host is down."""
    path = image(cluster, host)
    info = json.loads(blockd("store", "info", path, "-o", "json").stdout)
    options = ["--cluster-id", info["cluster_id"], "--store-id", info["store_id"], "--force"]
    blockd("store", "format", path, *options, "--no-qualify")


def written(cluster: DevCluster, name: str, replicas: int = 3) -> str:
    """A volume with something in it, attached at paris-1; its URI."""
    cluster.create(name, SIZE, replicas)
    uri = cluster.attach(name, "paris-1").nbd_uris[0]
    write(uri, (0x11, 0, STORED))
    return str(uri)


def event_kinds(cluster: DevCluster, name: str) -> set[str]:
    """Those of the volume."""
    lines = cluster.ctl("events", "-n", "1000", "-o", "json").stdout.splitlines()
    events = [json.loads(line) for line in lines]
    return {event["kind"] for event in events if event["subject"] == f"volume/{name}"}


def test_a_replica_that_was_formatted_away_is_resynced_in_full(
    cluster: DevCluster, name: str
) -> None:
    """Also when the host that lost it opens the volume, and would read from its own store."""
    volume_uri = written(cluster, name)
    cluster.detach(name)
    kill_host(cluster, "lyon-1")
    format_anew(cluster, "lyon-1")
    cluster.start("lyon-1")
    wait_until(lambda: len(cluster.hosts_up()) == 3, 20, "lyon-1 is up")
    assert cluster.stored_bytes("lyon-1") == 0
    uri = cluster.attach(name, "lyon-1").nbd_uris[0]
    assert uri != volume_uri
    check(uri, (0x11, 0, STORED), (0, STORED, MIB))
    cluster.wait_in_sync(name)
    volume = cluster.volume(name)
    assert cluster.attachment("lyon-1", volume.id).counters["resync_bytes"] >= STORED
    assert cluster.stored_bytes("lyon-1") >= STORED
    wait_until(lambda: "replicas.missing" in event_kinds(cluster, name), 10, "it is told")
    assert cluster.ctl("volume", "verify", name, "--read").returncode == 0
    cluster.detach(name)
    cluster.delete(name)


def test_it_is_noticed_by_an_engine_that_was_there_all_the_time(
    cluster: DevCluster, name: str
) -> None:
    uri = written(cluster, name)
    kill_host(cluster, "lyon-1")
    format_anew(cluster, "lyon-1")
    write(uri, (0x22, MIB, MIB))
    cluster.start("lyon-1")
    cluster.wait_in_sync(name)
    check(uri, (0x11, 0, MIB), (0x22, MIB, MIB), (0x11, 2 * MIB, STORED - 2 * MIB))
    assert cluster.ctl("volume", "verify", name, "--read").returncode == 0
    cluster.detach(name)
    check(cluster.attach(name, "lyon-1").nbd_uris[0], (0x22, MIB, MIB), (0x11, 2 * MIB, MIB))
    cluster.detach(name)
    cluster.delete(name)


def test_growth_takes_no_lost_replica_for_an_empty_one(cluster: DevCluster, name: str) -> None:
    """Of a segment that a shrink had left behind: what its snapshots show is in the others only."""
    size = 1100 * MIB
    cluster.create(name, size)
    uri = cluster.attach(name, "paris-1").nbd_uris[0]
    write(uri, (0x11, size - MIB, MIB))
    take(cluster, name, "a")
    cluster.ctl("volume", "resize", name, "--size", str(MIB), "--force")
    cluster.detach(name)
    kill_host(cluster, "lyon-1")
    format_anew(cluster, "lyon-1")
    cluster.start("lyon-1")
    wait_until(lambda: len(cluster.hosts_up()) == 3, 20, "lyon-1 is up")
    cluster.ctl("volume", "resize", name, "--size", str(size))
    assert cluster.stored_bytes("lyon-1") == 0
    uri = cluster.attach(name, "lyon-1").nbd_uris[0]
    check(uri, (0, 0, MIB), (0, size - MIB, MIB))
    cluster.wait_in_sync(name)
    check(export(cluster, name, "a", "lyon-1"), (0, 0, MIB), (0x11, size - MIB, MIB))
    assert cluster.ctl("volume", "verify", name, "--read").returncode == 0
    remove(cluster, name)


def test_a_set_that_may_not_shrink_may_once_min_in_sync_is_lowered(
    cluster: DevCluster, name: str
) -> None:
    cluster.ctl("volume", "create", name, "--size", str(SIZE), "--min-in-sync", "3")
    write(cluster.attach(name, "paris-1").nbd_uris[0], (0x11, 0, STORED))
    kill_host(cluster, "lyon-1")
    format_anew(cluster, "lyon-1")
    cluster.start("lyon-1")
    wait_until(lambda: "replicas.missing" in event_kinds(cluster, name), 20, "it is noticed")
    cluster.ctl("volume", "policy", name, "--min-in-sync", "2")
    cluster.ctl("volume", "detach", name, "--force")
    uri = cluster.attach(name, "paris-1").nbd_uris[0]
    check(uri, (0x11, 0, STORED), (0, STORED, MIB))
    cluster.wait_in_sync(name)
    assert cluster.ctl("volume", "verify", name, "--read").returncode == 0
    remove(cluster, name)


def test_the_last_replica_is_not_replaced_by_zeros(cluster: DevCluster, name: str) -> None:
    cluster.create(name, SIZE, replicas=1)
    (holder,) = {
        member.host_name for one in cluster.volume(name).segments for member in one.members
    }
    uri = cluster.attach(name, holder).nbd_uris[0]
    write(uri, (0x11, 0, STORED))
    cluster.detach(name)
    kill_host(cluster, holder)
    format_anew(cluster, holder)
    cluster.start(holder)
    wait_until(lambda: len(cluster.hosts_up()) == 3, 20, "it is up")
    refused = cluster.ctl("volume", "attach", name, check=False)
    assert (refused.returncode, "its store has no replica" in refused.stderr) == (4, True)
    assert cluster.volume(name).attachment.host_id == ""
    assert cluster.stored_bytes(holder) == 0
    cluster.delete(name)


def test_an_older_copy_of_a_store_is_refused(cluster: DevCluster, name: str) -> None:
    """However often it is tried; nothing of it is served, and the volume goes on without it."""
    uri = written(cluster, name)
    kill_host(cluster, "lyon-1")
    copy = image(cluster, "lyon-1") + ".copy"
    run(["cp", "--sparse=always", image(cluster, "lyon-1"), copy])
    cluster.start("lyon-1")
    cluster.wait_in_sync(name)
    write(uri, (0x22, 0, STORED))
    cluster.detach(name)
    kill_host(cluster, "lyon-1")
    shutil.move(copy, image(cluster, "lyon-1"))
    for attempt in (1, 2):
        refused = cluster.dev("start", "lyon-1", check=False)
        assert refused.returncode != 0
        assert cluster.log("lyon-1").count("is an older copy of itself") == attempt
    uri = cluster.attach(name, "paris-1").nbd_uris[0]
    check(uri, (0x22, 0, STORED))
    format_anew(cluster, "lyon-1")
    cluster.start("lyon-1")
    cluster.wait_in_sync(name)
    cluster.detach(name)
    check(cluster.attach(name, "lyon-1").nbd_uris[0], (0x22, 0, STORED))
    assert ask(cluster, "volume", "show", name)["segments"][0]["index"] == 0
    assert cluster.ctl("volume", "verify", name, "--read").returncode == 0
    cluster.detach(name)
    cluster.delete(name)
