"""The host that holds the attachment fails: another takes over, and the first can never write
again."""

import os
import signal
import time
from pathlib import Path

import pytest

from blockd.model.errors import NotAttached
from tests.cluster import DevCluster, run, wait_until
from tests.e2e.history import PYTHON, History, read_back, record

BLOCKS = 8192
TAKEOVER_S = 15  # "within seconds", on a machine that does other things too

WRITE_ONE = """
import sys, nbd
h = nbd.NBD(); h.connect_uri(sys.argv[1]); h.pwrite(b"\\xee" * 4096, 0); h.flush()
"""

pytestmark = pytest.mark.timeout(300)


def can_write(uri: str) -> bool:
    return run([PYTHON, "-c", WRITE_ONE, uri], check=False, timeout=30).returncode == 0


def test_every_acknowledged_write_survives_the_holder(
    cluster: DevCluster, name: str, tmp_path: Path
) -> None:
    volume = cluster.create(name, BLOCKS * 4096)
    old_uri = cluster.attach(name, "paris-1").nbd_uris[0]
    recording = record(old_uri, tmp_path / "log", BLOCKS, seconds=60)
    wait_until(lambda: recording.acknowledged() > 2000, 30, "writes are acknowledged")
    began = time.monotonic()
    cluster.kill("paris-1")
    attachment = cluster.attach(name, "lyon-1")
    took = time.monotonic() - began
    assert recording.finish() == 3
    assert took < TAKEOVER_S
    history = History.read(tmp_path / "log")
    assert history.acknowledged_count > 2000
    history.check(read_back(attachment.nbd_uris[0], BLOCKS))
    print(f"takeover took {took:.1f} s; {history.acknowledged_count} acknowledged writes there")

    # The first host returns: it has nothing to serve, and nobody can write through it.
    cluster.start("paris-1")
    wait_until(lambda: "paris-1" in cluster.hosts_up(), 20, "paris-1 is up again")
    with pytest.raises(NotAttached):
        cluster.attachment("paris-1", volume.id)
    assert not can_write(old_uri)
    cluster.wait_in_sync(name)
    history.check(read_back(attachment.nbd_uris[0], BLOCKS))
    assert can_write(attachment.nbd_uris[0])
    cluster.detach(name)
    cluster.delete(name)


def test_a_volume_with_a_standby_moves_by_itself(
    cluster: DevCluster, name: str, tmp_path: Path
) -> None:
    volume = cluster.create(name, BLOCKS * 4096)
    old_uri = cluster.attach(name, "paris-1", standbys=["lyon-1", "marseille-1"]).nbd_uris[0]
    assert "lyon-1, marseille-1" in cluster.ctl("volume", "show", name).stdout
    recording = record(old_uri, tmp_path / "log", BLOCKS, seconds=60)
    wait_until(lambda: recording.acknowledged() > 2000, 30, "writes are acknowledged")
    cluster.kill("paris-1")
    wait_until(lambda: cluster.volume(name).attachment.host_name == "lyon-1", TAKEOVER_S, "moved")
    wait_until(lambda: cluster.volume(name).attachment.nbd_uris, TAKEOVER_S, "served")
    assert recording.finish() == 3
    attachment = cluster.volume(name).attachment
    History.read(tmp_path / "log").check(read_back(attachment.nbd_uris[0], BLOCKS))
    assert can_write(attachment.nbd_uris[0])

    cluster.start("paris-1")  # where nothing is served any more; it is a standby now
    wait_until(lambda: "paris-1" in cluster.hosts_up(), 20, "paris-1 is up again")
    with pytest.raises(NotAttached):
        cluster.attachment("paris-1", volume.id)
    assert list(cluster.volume(name).attachment.standby_host_names) == ["marseille-1", "paris-1"]
    cluster.wait_in_sync(name)
    cluster.detach(name)
    cluster.delete(name)


def test_a_frozen_holder_that_wakes_up_is_fenced(
    cluster: DevCluster, name: str, tmp_path: Path
) -> None:
    """Its engine believes that it still serves: neither a write nor a stale read comes of it."""
    volume = cluster.create(name, BLOCKS * 4096)
    old_uri = cluster.attach(name, "paris-1").nbd_uris[0]
    recording = record(old_uri, tmp_path / "log", BLOCKS, seconds=60)
    wait_until(lambda: recording.acknowledged() > 500, 30, "writes are acknowledged")
    cluster.dev("stop", "paris-1")
    try:
        at_freeze = History.read(tmp_path / "log")
        new_uri = cluster.attach(name, "lyon-1").nbd_uris[0]
        at_freeze.check(read_back(new_uri, BLOCKS))
        second = record(new_uri, tmp_path / "second", BLOCKS, seconds=3, seed=2)
        assert second.finish() == 0
    finally:
        cluster.dev("cont", "paris-1")
    assert recording.finish() == 3, "the old engine must not go on"
    found = read_back(new_uri, BLOCKS)
    overwritten = History.read(tmp_path / "second").acknowledged
    assert all(found[block] == number for block, number in overwritten.items())
    wait_until(
        lambda: f"volume {name} is fenced" in cluster.log("paris-1"), 20, "it says it is fenced"
    )

    def is_gone() -> bool:
        try:
            cluster.attachment("paris-1", volume.id)
        except NotAttached:
            return True
        return False

    wait_until(is_gone, 20, "the old engine is gone")
    assert not can_write(old_uri)
    cluster.wait_in_sync(name)
    cluster.detach(name)
    cluster.delete(name)


def test_a_restarted_holder_takes_its_volume_up_again(
    cluster: DevCluster, name: str, tmp_path: Path
) -> None:
    """SIGTERM is a clean end, and neither that nor a crash needs anybody to attach again."""
    volume = cluster.create(name, BLOCKS * 4096)
    uri = cluster.attach(name, "marseille-1").nbd_uris[0]
    recording = record(uri, tmp_path / "log", BLOCKS, seconds=3)
    assert recording.finish() == 0
    history = History.read(tmp_path / "log")
    epoch = cluster.volume(name).attachment.epoch
    for end in (signal.SIGKILL, signal.SIGTERM):
        pid = cluster.status()["marseille-1"]["pid"]
        os.kill(pid, end)
        wait_until(lambda: cluster.status()["marseille-1"]["state"] == "dead", 30, "it has ended")
        cluster.start("marseille-1")

        def serves(above: int = epoch) -> bool:
            status = cluster.attachment("marseille-1", volume.id)
            return status.epoch > above and status.state == "serving"

        wait_until(serves, 30, "the volume is served again")
        epoch = cluster.volume(name).attachment.epoch
        history.check(read_back(uri, BLOCKS))
    assert "stopping: 1 volumes to drain" in cluster.log("marseille-1")
    cluster.detach(name)
    cluster.delete(name)
