"""Snapshots, clones and rollbacks while daemons are killed: what was promised stays so.

The longer half runs with `make soak`.
"""

import random
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from blockd.model.errors import BlockdError
from blockd.rpc.gen import meta_pb2, types_pb2
from tests.cluster import DevCluster, wait_until
from tests.e2e.history import History, Recording, read_back, record
from tests.e2e.patterns import past_bytes, remove, take, unexport, wait_flattened

pytestmark = pytest.mark.timeout(300)

BLOCKS = 1024
HOSTS = ("paris-1", "lyon-1", "marseille-1")
SEED = 20261124


def snapshot(cluster: DevCluster, volume: str, name: str) -> types_pb2.Snapshot:
    request = meta_pb2.CreateSnapshotRequest(volume=volume, name=name)
    return cluster.meta(lambda m: m.call(lambda s: s.CreateSnapshot, request, timeout=30))


def export(cluster: DevCluster, volume: str, name: str, host: str) -> str:
    request = meta_pb2.AttachSnapshotRequest(volume=volume, name=name, host=host)
    answer = cluster.meta(lambda m: m.call(lambda s: s.AttachSnapshot, request, timeout=40))
    return str(answer.nbd_uris[0])


def delete(cluster: DevCluster, volume: str, name: str) -> None:
    request = meta_pb2.DeleteSnapshotRequest(volume=volume, name=name)
    cluster.meta(lambda m: m.call(lambda s: s.DeleteSnapshot, request, timeout=30))


class Lines:
    """A recorder's log up to a moment: what is in it by then."""

    def __init__(self, recording: Recording) -> None:
        self.acknowledged: dict[int, int] = {}
        self.submitted = 0
        for line in recording.log.read_text(encoding="ascii").splitlines():
            kind, *numbers = line.split()
            if kind == "A" and len(numbers) == 2:
                self.acknowledged[int(numbers[1])] = int(numbers[0])
            elif kind == "S" and len(numbers) == 2:
                self.submitted = int(numbers[0])


def restart(cluster: DevCluster, host: str) -> None:
    cluster.kill(host)
    cluster.start(host)


@pytest.mark.soak
def test_ten_snapshots_a_second_while_a_replica_comes_and_goes(
    cluster: DevCluster, name: str, tmp_path: Path
) -> None:
    """Every one shows all that was acknowledged before it and nothing submitted after it, the same
    at every host; and their space comes back, whatever the order they are deleted in."""
    cluster.create(name, BLOCKS * 4096)
    uri = cluster.attach(name, "paris-1").nbd_uris[0]
    seconds = 15.0
    recording = record(uri, tmp_path / "log", BLOCKS, seconds=seconds + 3, depth=8)
    wait_until(lambda: recording.acknowledged() > 100, 30, "writes")
    moments: list[tuple[str, Lines, Lines]] = []
    began = time.monotonic()
    with ThreadPoolExecutor(1) as pool:
        outage = pool.submit(_outage, cluster, "lyon-1", seconds / 4, seconds / 4)
        while time.monotonic() < began + seconds:
            before = Lines(recording)
            one = f"s{len(moments)}"
            snapshot(cluster, name, one)
            moments.append((one, before, Lines(recording)))
            time.sleep(0.1)
        outage.result()
    assert recording.finish() == 0
    cluster.wait_in_sync(name)
    assert len(moments) > 30
    previous = [0] * BLOCKS
    for one, before, after in moments[:: max(1, len(moments) // 20)]:
        shown = [read_back(export(cluster, name, one, host), BLOCKS) for host in HOSTS]
        assert shown[0] == shown[1] == shown[2], one
        for block, number in enumerate(shown[0]):
            assert before.acknowledged.get(block, 0) <= number <= after.submitted, (one, block)
            assert number >= previous[block], (one, block)
        previous = shown[0]
        for host in HOSTS:
            unexport(cluster, name, one, host)
    names = [one for one, _, _ in moments]
    random.Random(SEED).shuffle(names)
    for one in names:
        delete(cluster, name, one)
    wait_until(lambda: past_bytes(cluster) == 0, 60, "the snapshots' space is free")
    cluster.ctl("volume", "verify", name, "--read")
    History.read(tmp_path / "log").check(read_back(uri, BLOCKS))
    remove(cluster, name)


def _outage(cluster: DevCluster, host: str, after_s: float, for_s: float) -> None:
    time.sleep(after_s)
    cluster.kill(host)
    time.sleep(for_s)
    cluster.start(host)


def _under_fire(
    cluster: DevCluster, uri: str, history: History, tmp_path: Path, *, rounds: int
) -> None:
    """Writes at an export while its host is killed, again and again."""
    chance = random.Random(SEED)
    for number in range(rounds):
        log = tmp_path / f"fire{number}"
        recording = record(
            uri, log, BLOCKS, seconds=60, first=history.last_number + 1, seed=number + 7
        )
        wait_until(lambda log=log: log.exists(), 10, "the recorder writes")
        time.sleep(chance.uniform(0.2, 1.5))
        restart(cluster, "paris-1")
        assert recording.finish() == 3
        history.add(log)
        wait_until(lambda: _serves(uri), 40, "paris-1 serves again")
        history.check(read_back(uri, BLOCKS))


def _serves(uri: str) -> bool:
    try:
        read_back(uri, 1)
    except AssertionError:
        return False
    return True


@pytest.mark.parametrize("flatten", [pytest.param(False, marks=pytest.mark.soak), True])
def test_a_clone_whose_holder_is_killed_while_it_copies_up(
    cluster: DevCluster, name: str, tmp_path: Path, flatten: bool
) -> None:
    cluster.create(name, BLOCKS * 4096)
    uri = cluster.attach(name, "lyon-1").nbd_uris[0]
    assert record(uri, tmp_path / "parent", BLOCKS, seconds=2).finish() == 0
    history = History.read(tmp_path / "parent")
    take(cluster, name, "a")
    shown = read_back(uri, BLOCKS)
    copy = f"{name}c"
    cluster.ctl("volume", "clone", name, copy, "--snapshot", "a")
    mine = cluster.attach(copy, "paris-1").nbd_uris[0]
    if flatten:
        cluster.ctl("volume", "flatten", copy)
    _under_fire(cluster, mine, history, tmp_path, rounds=4)
    if not flatten:
        cluster.ctl("volume", "flatten", copy)
    wait_flattened(cluster, copy)
    history.check(read_back(mine, BLOCKS))
    assert read_back(uri, BLOCKS) == shown
    cluster.wait_in_sync(copy)
    cluster.ctl("volume", "verify", copy, "--read")
    cluster.detach(copy)
    history.check(read_back(cluster.attach(copy, "lyon-1").nbd_uris[0], BLOCKS))
    remove(cluster, copy)
    remove(cluster, name)
    wait_until(lambda: past_bytes(cluster) == 0, 60, "the snapshots' space is free")


@pytest.mark.soak
def test_a_rolled_back_volume_whose_holder_is_killed(
    cluster: DevCluster, name: str, tmp_path: Path
) -> None:
    cluster.create(name, BLOCKS * 4096)
    uri = cluster.attach(name, "paris-1").nbd_uris[0]
    assert record(uri, tmp_path / "before", BLOCKS, seconds=1).finish() == 0
    history = History.read(tmp_path / "before")
    take(cluster, name, "a")
    first = history.last_number + 1
    assert record(uri, tmp_path / "undone", BLOCKS, seconds=1, first=first).finish() == 0
    history.last_number = History.read(tmp_path / "undone").last_number
    cluster.detach(name)
    cluster.ctl("volume", "snapshot", "rollback", name, "a")
    uri = cluster.attach(name, "paris-1").nbd_uris[0]
    _under_fire(cluster, uri, history, tmp_path, rounds=3)
    wait_flattened(cluster, name)
    history.check(read_back(uri, BLOCKS))
    cluster.wait_in_sync(name)
    cluster.ctl("volume", "verify", name, "--read")
    remove(cluster, name)
    wait_until(lambda: past_bytes(cluster) == 0, 60, "the snapshots' space is free")


def test_who_came_into_sync_later_is_read_when_nobody_else_is_left(
    cluster: DevCluster, name: str, tmp_path: Path
) -> None:
    """Of an exported snapshot, and of the base of a volume."""
    cluster.create(name, BLOCKS * 4096, replicas=2)
    hosts = {m.host_name for segment in cluster.volume(name).segments for m in segment.members}
    (outside,) = set(HOSTS) - hosts
    holder, other = sorted(hosts)
    uri = cluster.attach(name, holder).nbd_uris[0]
    cluster.kill(other)
    assert record(uri, tmp_path / "log", BLOCKS, seconds=1).finish() == 0
    cluster.ctl("volume", "snapshot", "create", name, "a")
    shown = read_back(uri, BLOCKS)
    copy = f"{name}c"
    reader = export(cluster, name, "a", outside)
    cluster.start(other)
    cluster.ctl("volume", "clone", name, copy, "--snapshot", "a", "--replicas", "3")
    over = cluster.attach(copy, outside).nbd_uris[0]
    cluster.wait_in_sync(name, replicas=2)
    cluster.wait_in_sync(copy)
    time.sleep(2.5)  # two heartbeats
    cluster.kill(holder)
    assert read_back(reader, BLOCKS) == shown
    assert read_back(over, BLOCKS) == shown
    cluster.start(holder)
    cluster.wait_in_sync(copy)
    remove(cluster, copy)
    remove(cluster, name)


def test_an_export_whose_reads_wait_ends_and_comes_again(
    cluster: DevCluster, name: str, tmp_path: Path
) -> None:
    """All members of the volume are away: a detach is not held up for ever, nor is anything left
    that keeps the next attach off."""
    cluster.create(name, BLOCKS * 4096, replicas=1)
    (holder,) = {m.host_name for s in cluster.volume(name).segments for m in s.members}
    outside = next(host for host in HOSTS if host != holder)
    uri = cluster.attach(name, holder).nbd_uris[0]
    assert record(uri, tmp_path / "log", BLOCKS, seconds=1).finish() == 0
    take(cluster, name, "a")
    shown = read_back(uri, BLOCKS)
    reader = export(cluster, name, "a", outside)
    cluster.kill(holder)
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(read_back, reader, BLOCKS)
        time.sleep(1)
        began = time.monotonic()
        done = cluster.ctl(
            "volume", "snapshot", "detach", name, "a", "--host", outside, "--force", check=False
        )
        assert time.monotonic() - began < 15
        assert done.returncode == 0, done.stderr
        assert isinstance(reading.exception(timeout=60), AssertionError)
    cluster.start(holder)
    wait_until(lambda: _serves(uri), 40, "the volume is served again")
    assert read_back(export(cluster, name, "a", outside), BLOCKS) == shown
    remove(cluster, name)


@pytest.mark.soak
def test_a_rollback_whose_first_holder_is_killed_as_it_opens(
    cluster: DevCluster, name: str, tmp_path: Path
) -> None:
    cluster.create(name, BLOCKS * 4096)
    uri = cluster.attach(name, "paris-1").nbd_uris[0]
    assert record(uri, tmp_path / "log", BLOCKS, seconds=1).finish() == 0
    shown = read_back(uri, BLOCKS)
    take(cluster, name, "small")
    cluster.ctl("volume", "resize", name, "--size", str(BLOCKS * 8192))
    first = History.read(tmp_path / "log").last_number + 1
    recording = record(uri, tmp_path / "undone", 2 * BLOCKS, seconds=1, first=first)
    assert recording.finish() == 0
    later = read_back(uri, 2 * BLOCKS)
    take(cluster, name, "large")
    zeros = [0] * BLOCKS
    for number, (one, expected) in enumerate(
        (("small", [*shown, *zeros]), ("large", later), ("small", [*shown, *zeros]))
    ):
        cluster.detach(name)
        cluster.ctl("volume", "snapshot", "rollback", name, one)
        with ThreadPoolExecutor(1) as pool:
            attaching = pool.submit(cluster.attach, name, "paris-1")
            time.sleep(0.02 + 0.05 * number)
            cluster.kill("paris-1")
            attaching.exception(timeout=60)
        uri = cluster.attach(name, "lyon-1", force=True).nbd_uris[0]
        assert read_back(uri, 2 * BLOCKS) == expected
        cluster.start("paris-1")
        wait_flattened(cluster, name)
        assert read_back(uri, 2 * BLOCKS) == expected
        cluster.wait_in_sync(name)
    cluster.ctl("volume", "verify", name, "--read")
    assert read_back(export(cluster, name, "small", "paris-1"), BLOCKS) == shown
    assert read_back(export(cluster, name, "large", "paris-1"), 2 * BLOCKS) == later
    remove(cluster, name)


@pytest.mark.soak
def test_snapshots_go_on_after_the_metadata_service_was_away(
    cluster: DevCluster, name: str, tmp_path: Path
) -> None:
    """What is attached goes on meanwhile: the clone, the export, and what they read from."""
    cluster.create(name, BLOCKS * 4096)
    uri = cluster.attach(name, "paris-1").nbd_uris[0]
    assert record(uri, tmp_path / "log", BLOCKS, seconds=1).finish() == 0
    history = History.read(tmp_path / "log")
    take(cluster, name, "a")
    shown = read_back(uri, BLOCKS)
    reader = export(cluster, name, "a", "marseille-1")
    copy = f"{name}c"
    cluster.ctl("volume", "clone", name, copy, "--snapshot", "a")
    mine = cluster.attach(copy, "lyon-1").nbd_uris[0]
    most = [one for one in cluster.status() if one.startswith("meta-")][:2]  # and their etcd
    recording = record(mine, tmp_path / "mine", BLOCKS, seconds=6, first=history.last_number + 1)
    cluster.ctl("volume", "flatten", copy)
    cluster.kill(*most)
    refused = cluster.ctl("volume", "snapshot", "create", name, "b", check=False)
    assert refused.returncode != 0
    assert read_back(reader, BLOCKS) == shown
    assert recording.finish() == 0
    cluster.start(*most)
    wait_until(lambda: _all_final(cluster, [name, copy]), 40, "the service is back")
    wait_flattened(cluster, copy)
    history.add(tmp_path / "mine")
    history.check(read_back(mine, BLOCKS))
    if "b" not in _listed(cluster, name):
        take(cluster, name, "b")
    assert read_back(export(cluster, name, "b", "lyon-1"), BLOCKS) == shown
    remove(cluster, copy)
    remove(cluster, name)


@pytest.mark.soak
@pytest.mark.parametrize("victim", HOSTS)
def test_groups_whose_hosts_are_killed(
    cluster: DevCluster, name: str, tmp_path: Path, victim: str
) -> None:
    """Each snapshot is of all volumes, or of none; exports and deletions end as they should."""
    volumes = [name, f"{name}b"]
    uris = []
    for volume, host in zip(volumes, ("paris-1", "lyon-1"), strict=True):
        cluster.create(volume, BLOCKS * 4096)
        uris.append(cluster.attach(volume, host).nbd_uris[0])
    cluster.ctl("group", "create", f"{name}g", *volumes)
    recordings = [
        record(uri, tmp_path / f"log{i}", BLOCKS, seconds=8) for i, uri in enumerate(uris)
    ]
    taken: list[str] = []
    with ThreadPoolExecutor(1) as pool:
        outage = pool.submit(_outage, cluster, victim, 2.0, 1.0)
        number = 0
        while any(one.process.poll() is None for one in recordings):
            number += 1
            one = f"s{number}"
            request = meta_pb2.SnapshotGroupRequest(group=f"{name}g", name=one)
            try:
                cluster.meta(lambda m, r=request: m.call(lambda s: s.SnapshotGroup, r, timeout=30))
                taken.append(one)
                if number % 3 == 0:
                    delete(cluster, name, one)
                    taken.remove(one)
            except BlockdError:
                time.sleep(0.1)
        outage.result()
    for recording in recordings:
        recording.finish()
    assert len(taken) > 5
    for uri in uris:
        wait_until(lambda uri=uri: _serves(uri), 40, "both are served")
    wait_until(lambda: _all_final(cluster, volumes), 30, "nothing is half done")
    assert set(taken) <= _listed(cluster, volumes[0]) & _listed(cluster, volumes[1])
    for volume in volumes:
        cluster.wait_in_sync(volume)
        for one in (taken[0], taken[-1]):
            shown = [read_back(export(cluster, volume, one, host), BLOCKS) for host in HOSTS]
            assert shown[0] == shown[1] == shown[2]
    cluster.ctl("group", "delete", f"{name}g")
    for volume in volumes:
        for one in _listed(cluster, volume):
            for host in HOSTS:
                request = meta_pb2.DetachSnapshotRequest(volume=volume, name=one, host=host)
                cluster.meta(lambda m, r=request: m.call(lambda s: s.DetachSnapshot, r, timeout=30))
            delete(cluster, volume, one)
        remove(cluster, volume)
    wait_until(lambda: past_bytes(cluster) == 0, 60, "the snapshots' space is free")


@pytest.mark.soak
def test_snapshots_while_leaders_die(cluster: DevCluster, name: str, tmp_path: Path) -> None:
    """A command may fail then; what it began ends by itself, whole or not at all."""
    volumes = [name, f"{name}b"]
    for volume, host in zip(volumes, ("paris-1", "lyon-1"), strict=True):
        cluster.create(volume, BLOCKS * 4096)
        cluster.attach(volume, host)
    cluster.ctl("group", "create", f"{name}g", *volumes)
    names = [one for one in cluster.status() if one.startswith("meta-")]
    with ThreadPoolExecutor(1) as pool:
        killing = pool.submit(_kill_in_turn, cluster, names, 8.0)
        taken: list[str] = []
        number = 0
        while not killing.done():
            number += 1
            time.sleep(0.1)
            try:
                if number % 2:
                    snapshot(cluster, name, f"s{number}")
                else:
                    request = meta_pb2.SnapshotGroupRequest(group=f"{name}g", name=f"s{number}")
                    cluster.meta(
                        lambda m, request=request: m.call(
                            lambda s: s.SnapshotGroup, request, timeout=10
                        )
                    )
            except BlockdError:
                continue
            taken.append(f"s{number}")
        killing.result()
    wait_until(lambda: _all_final(cluster, volumes), 30, "nothing is half done")
    listed = {volume: _listed(cluster, volume) for volume in volumes}
    assert taken
    assert set(taken) <= listed[name]
    assert listed[volumes[1]] == {one for one in listed[name] if int(one[1:]) % 2 == 0}
    cluster.ctl("group", "delete", f"{name}g")
    for volume in volumes:
        for one in sorted(listed[volume]):
            delete(cluster, volume, one)
        remove(cluster, volume)


def _kill_in_turn(cluster: DevCluster, names: list[str], seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for one in names:
            cluster.kill(one)
            time.sleep(0.3)
            cluster.start(one)


def _snapshots(cluster: DevCluster, volume: str) -> list[types_pb2.Snapshot]:
    request = meta_pb2.ListSnapshotsRequest(volume=volume)
    answer = cluster.meta(
        lambda m: m.call(lambda s: s.ListSnapshots, request, timeout=10, idempotent=True)
    )
    return list(answer.snapshots)


def _listed(cluster: DevCluster, volume: str) -> set[str]:
    return {one.name for one in _snapshots(cluster, volume)}


def _all_final(cluster: DevCluster, volumes: list[str]) -> bool:
    return all(
        one.state == types_pb2.SNAPSHOT_STATE_AVAILABLE
        for volume in volumes
        for one in _snapshots(cluster, volume)
    )
