"""Processes are found again by pid and start time; a signal reaches its process or nobody."""

import signal
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from blockd.dev.process import Running, children_named, identify, last_line, spawn
from blockd.model.errors import InvalidArgument

SLEEP = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(60)"]


@pytest.fixture
def sleeper(tmp_path: Path):
    running = spawn(SLEEP, tmp_path / "logs" / "x.log", {"PATH": "/usr/bin"})
    yield running
    running.send(signal.SIGKILL)
    assert running.wait_gone(5)


def test_states_follow_signals(sleeper: Running) -> None:
    assert sleeper.state() == "running"
    assert sleeper.send(signal.SIGSTOP)
    while sleeper.state() != "stopped":
        pass
    assert sleeper.send(signal.SIGCONT)
    while sleeper.state() != "running":
        pass
    assert sleeper.age_s() < 60
    assert sleeper.send(signal.SIGKILL)
    assert sleeper.wait_gone(5)
    assert not sleeper.send(signal.SIGKILL)


def test_a_reused_pid_is_not_signalled(sleeper: Running) -> None:
    other = replace(sleeper, start_time=sleeper.start_time - 1)
    assert other.state() == "dead"
    assert not other.send(signal.SIGKILL)
    assert sleeper.state() == "running"


def test_waiting_for_one_that_stays_ends(sleeper: Running) -> None:
    assert not sleeper.wait_gone(0.1)


def test_output_goes_to_the_end_of_the_log(sleeper: Running, tmp_path: Path) -> None:
    log = tmp_path / "logs" / "x.log"
    while last_line(log) != "up":
        pass
    assert last_line(tmp_path / "none") == "no output"


def test_children_are_found_by_name(tmp_path: Path) -> None:
    code = "import subprocess; subprocess.run(['sleep', '60'])"
    parent = spawn([sys.executable, "-c", code], tmp_path / "log", {"PATH": "/usr/bin:/bin"})
    try:
        while not (found := children_named(parent.pid, "sleep")):
            pass
        assert identify(found[0].pid) == found[0]
        assert not children_named(parent.pid, "etcd")
    finally:
        for running in (*children_named(parent.pid, "sleep"), parent):
            running.send(signal.SIGKILL)
            running.wait_gone(5)


def test_a_missing_program_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="cannot run /none"):
        spawn(["/none"], tmp_path / "log", {})
