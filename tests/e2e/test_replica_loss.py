"""Losing a replica: a disk image is copied to a volume while one of its three hosts is killed."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.cluster import DevCluster, run, wait_until
from tests.e2e.patterns import MIB, can_write, write

IMAGE_BYTES = 384 << 20
TREE = Path("/usr/share/doc")
SLACK_BYTES = 16 << 20  # what was in flight, and chunks that are resynced whole

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ext4 file system with a real tree of files on it, and noise in what is left."""
    path = tmp_path_factory.mktemp("image") / "ext4.img"
    with path.open("wb") as file:
        file.truncate(IMAGE_BYTES)
    run(["mke2fs", "-q", "-t", "ext4", "-d", str(TREE), str(path)])
    noise = path.with_name("noise")
    with Path("/dev/urandom").open("rb") as source, noise.open("wb") as target:
        target.write(source.read(96 << 20))
    run(["debugfs", "-w", "-R", f"write {noise} noise", str(path)])
    return path


def test_image_survives_the_loss_of_a_replica(cluster: DevCluster, image: Path, name: str) -> None:
    volume = cluster.create(name, IMAGE_BYTES)
    uri = cluster.attach(name, "paris-1").nbd_uris[0]

    def written() -> int:
        return cluster.attachment("paris-1", volume.id).counters["write_bytes"]

    # Few and small requests: the copy must not be over before its fault. --target-is-zero is not
    # given, so holes are written as zeroes.
    argv = ["nbdcopy", "-C", "1", "-R", "2", "--request-size", "65536", str(image), uri]
    victim = cluster.status()["lyon-1"]["pid"]
    with subprocess.Popen(argv, stderr=subprocess.PIPE, text=True) as copy:
        wait_until(lambda: written() > IMAGE_BYTES // 16, 60, "a part is copied", poll=0.02)
        before_kill = written()
        os.kill(victim, signal.SIGKILL)  # at once: `blockd dev kill` takes its time to start
        assert copy.poll() is None, "the copy was over before the kill"
        _, errors = copy.communicate(timeout=120)
        assert copy.returncode == 0, errors
    compare(image, uri)
    cluster.wait_in_sync(name, replicas=2)

    missed = written() - before_kill
    cluster.start("lyon-1")
    cluster.wait_in_sync(name, replicas=3)
    resynced = cluster.attachment("paris-1", volume.id).counters["resync_bytes"]
    assert 0 < resynced <= missed + SLACK_BYTES
    print(f"resync copied {resynced} of {written()} bytes written; {missed} were missed")

    verified = cluster.ctl("volume", "verify", name, "--read")
    assert verified.returncode == 0
    compare(image, uri)
    cluster.detach(name)
    cluster.delete(name)


def test_every_replica_holds_the_image(cluster: DevCluster, image: Path, name: str) -> None:
    """Each host in turn is the only one whose copy can be read."""
    cluster.create(name, IMAGE_BYTES)
    uri = cluster.attach(name, "paris-1").nbd_uris[0]
    run(["nbdcopy", "--flush", str(image), uri])
    for reader in ("lyon-1", "marseille-1"):
        cluster.detach(name)
        uri = cluster.attach(name, reader).nbd_uris[0]
        compare(image, uri)  # reads go to the local replica
    cluster.detach(name)
    cluster.delete(name)


def test_writes_go_on_while_a_replica_is_frozen(
    cluster: DevCluster, name: str, tmp_path: Path
) -> None:
    """A host that stops answering costs a bounded stall, and catches up when it goes on."""
    from tests.e2e.history import History, read_back, record

    blocks = 4096
    cluster.create(name, blocks * 4096)
    uri = cluster.attach(name, "paris-1").nbd_uris[0]
    recording = record(uri, tmp_path / "log", blocks, seconds=12, flush=0.5)
    wait_until(lambda: recording.acknowledged() > 500, 20, "writes are acknowledged")
    cluster.dev("stop", "marseille-1")
    try:
        cluster.wait_in_sync(name, replicas=2, seconds=20)
        at = recording.acknowledged()
        wait_until(lambda: recording.acknowledged() > at + 500, 20, "writes go on")
    finally:
        cluster.dev("cont", "marseille-1")
    assert recording.finish() == 0
    time.sleep(0.5)
    cluster.wait_in_sync(name, replicas=3)
    History.read(tmp_path / "log").check(read_back(uri, blocks))
    cluster.detach(name)
    cluster.delete(name)


def test_a_member_that_comes_back_takes_the_place_of_one_that_is_lost(
    cluster: DevCluster, name: str
) -> None:
    """Two are in sync, the third is being resynced, and one of the two is killed: writes wait for
    the third alone."""
    volume = cluster.create(name, 768 * MIB)
    uri = cluster.attach(name, "paris-1").nbd_uris[0]

    def in_sync() -> set[str]:
        members = cluster.volume(name).segments[0].members
        return {member.host_name for member in members if member.in_sync}

    cluster.kill("marseille-1")
    cluster.wait_in_sync(name, replicas=2)
    for at in range(0, 640, 32):
        write(uri, (0x11, at * MIB, 32 * MIB))
    victim = cluster.status()["lyon-1"]["pid"]
    cluster.start("marseille-1")

    def resynced() -> int:
        return cluster.attachment("paris-1", volume.id).counters["resync_bytes"]

    wait_until(lambda: resynced() > 8 * MIB, 60, "a part is resynced", poll=0.02)
    assert in_sync() == {"paris-1", "lyon-1"}, "the resync was over before the kill"
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: in_sync() == {"paris-1", "marseille-1"}, 60, "the one replaces the other")
    assert can_write(uri)
    cluster.start("lyon-1")
    cluster.wait_in_sync(name, replicas=3)


def compare(image: Path, uri: str) -> None:
    """qemu-img finds no difference."""
    done = run(["qemu-img", "compare", "-f", "raw", "-F", "raw", str(image), uri], check=False)
    assert done.returncode == 0, done.stdout + done.stderr
