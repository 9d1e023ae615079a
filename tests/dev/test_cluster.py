"""State on disk and the checks before anything starts; whole clusters run in tests/e2e."""

import contextlib
import json
import signal
import socket
import sys
from pathlib import Path

import pytest

from blockd.dev import cluster as dev
from blockd.dev.layout import NBD_PORT, Plan
from blockd.dev.process import spawn
from blockd.dev.state import FILE, Cluster, locked
from blockd.model.errors import AddressInUse, AlreadyExists, Busy, InvalidArgument, NotFound

PLAN = Plan(sites=("a", "b"), store_bytes=64 << 20, net=213)


def test_state_survives_a_round_trip(tmp_path: Path) -> None:
    cluster = dev.prepare(tmp_path, PLAN)
    cluster.cluster_id = "x"
    cluster.save()
    assert Cluster.load(tmp_path) == cluster
    values = json.loads((tmp_path / FILE).read_text())
    assert values["meta"] == ["127.213.10.1:7400", "127.213.11.1:7400"]
    assert (tmp_path / "a-1" / "store.img").stat().st_size == 64 << 20
    assert (tmp_path / "a-1" / "host.toml").exists()


def test_the_shape_of_a_cluster_does_not_change(tmp_path: Path) -> None:
    dev.prepare(tmp_path, PLAN)
    assert dev.prepare(tmp_path, None).plan == PLAN
    with pytest.raises(InvalidArgument, match="another shape"):
        dev.prepare(tmp_path, Plan(net=213))


def test_no_cluster_and_damaged_state(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no development cluster in"):
        Cluster.load(tmp_path)
    for text in ("", "{}", '{"plan": {"sites": 1}}'):
        (tmp_path / FILE).write_text(text)
        with pytest.raises(InvalidArgument, match="is damaged"):
            Cluster.load(tmp_path)


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    with contextlib.closing(socket.socket()) as taken:
        taken.bind(("127.213.11.11", NBD_PORT))
        taken.listen()
        with pytest.raises(AddressInUse, match=r"port in use: 127\.213\.11\.11:10809.*b-1"):
            dev.prepare(tmp_path, PLAN)


def test_changes_come_one_at_a_time(tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(Busy):
        dev.down(tmp_path, print, wipe=False)


def test_kill_stop_cont_and_wipe(tmp_path: Path) -> None:
    cluster = dev.prepare(tmp_path, PLAN)
    process = cluster.get("a-1")
    argv = [sys.executable, "-c", "import time; time.sleep(60)"]
    process.found(spawn(argv, Path(process.log), {}))
    cluster.save()
    with pytest.raises(NotFound, match="b-1 is not running"):
        dev.signal_named(tmp_path, ["a-1", "b-1"], signal.SIGKILL)
    with pytest.raises(NotFound, match="no process 'c-1'"):
        dev.signal_named(tmp_path, ["c-1"], signal.SIGKILL)
    with pytest.raises(AlreadyExists, match="is up: a-1"):
        dev.prepare(tmp_path, None)
    with pytest.raises(AlreadyExists, match="is running"):
        dev.start_named(tmp_path, ["a-1"])
    with pytest.raises(InvalidArgument, match="is run by meta-a"):
        dev.start_named(tmp_path, ["etcd-a"])
    dev.signal_named(tmp_path, ["a-1"], signal.SIGSTOP)
    while process.state() != "stopped":
        pass
    dev.signal_named(tmp_path, ["a-1"], signal.SIGCONT)
    dev.signal_named(tmp_path, ["a-1"], signal.SIGKILL)
    assert process.state() == "dead"
    (tmp_path / "mine").write_text("stays")
    dev.down(tmp_path, print, wipe=True)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
