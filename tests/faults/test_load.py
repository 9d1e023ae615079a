"""The harness finds what it is there to find: servers that are no replicated disk."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cluster import wait_until
from tests.faults.recording import Load, check

BLOCKS = 64

pytestmark = [pytest.mark.timeout(60), pytest.mark.usefixtures("checker")]


@contextmanager
def disk_in_memory(folder: Path, name: str) -> Iterator[str]:
    """A server that keeps nothing when it ends."""
    socket = folder / name
    server = subprocess.Popen(["nbdkit", "-f", "-U", str(socket), "memory", f"{BLOCKS * 4}K"])
    try:
        wait_until(socket.exists, 10, "nbdkit listens", poll=0.02)
        yield f"nbd+unix:///?socket={socket}"
    finally:
        server.kill()
        server.wait()


def test_one_disk_passes(tmp_path: Path) -> None:
    record = tmp_path / "record"
    with disk_in_memory(tmp_path, "a") as uri, Load.start(record, BLOCKS, seed=1) as load:
        load.attach(uri)
        load.wait_writes(400)
        load.stop()
    assert "linearizable" in check(record)


def test_a_takeover_that_loses_writes_is_found(tmp_path: Path) -> None:
    record = tmp_path / "record"
    with (
        disk_in_memory(tmp_path, "a") as first,
        disk_in_memory(tmp_path, "b") as second,
        Load.start(record, BLOCKS, seed=2) as load,
    ):
        load.attach(first)
        load.wait_writes(200)
        load.attach(second)
        load.wait_writes(1)
        load.stop()
    with pytest.raises(AssertionError, match="was overwritten"):
        check(record)


def test_two_engines_at_once_are_found(tmp_path: Path) -> None:
    """The same disk, but the first place goes on answering when the second does."""
    record = tmp_path / "record"
    with disk_in_memory(tmp_path, "a") as uri, Load.start(record, BLOCKS, seed=3) as load:
        load.attach(uri)
        load.wait_writes(200)
        load.attach(uri + "&")
        load.wait_writes(200)
        load.stop()
    with pytest.raises(AssertionError, match=r"replaced|each seen after|came between|taken over"):
        check(record)


def test_a_disk_that_forgets_is_found(tmp_path: Path) -> None:
    """Restarted empty while clients reconnect to the same place."""
    record = tmp_path / "record"
    with Load.start(record, BLOCKS, seed=4) as load:
        with disk_in_memory(tmp_path, "a") as uri:
            load.attach(uri)
            load.wait_writes(200)
        (tmp_path / "a").unlink()
        with disk_in_memory(tmp_path, "a"):
            load.wait_writes(100)
            load.stop()
    with pytest.raises(AssertionError, match="was overwritten"):
        check(record)
