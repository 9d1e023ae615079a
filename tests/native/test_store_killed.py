"""`kill -9` of a process that writes to a real file: whatever it was told is done is there again.

Each round starts the process, which reads everything back, lets it write for a random while, kills
it, and has the checker read every structure and block of what is left.
"""

import os
import random
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from blockd.model.errors import StoreInUse
from blockd.native.core import check_store, format_store
from tests.native.hosts import MIB
from tests.native.store_writer import BLOCKS

KILLS = 30
SOAK_KILLS = 300
WRITE_SECONDS_MAX = 0.4


@dataclass
class Expected:
    """What each block may hold: its newest write that was done, or one started after that."""

    allowed: dict[int, list[int]] = field(default_factory=lambda: {b: [0] for b in range(BLOCKS)})
    started: dict[int, range] = field(default_factory=dict)
    done_count: int = 0

    def take(self, line: str) -> None:
        word, *rest = line.split()
        numbers = [int(one) for one in rest]
        if word == "start":
            at, count, number = numbers
            self.started[number] = range(at, at + count)
            for block in self.started[number]:
                self.allowed[block].append(number)
        elif word == "done":
            self.done_count += 1
            for block in self.started.pop(numbers[0]):
                newer = self.allowed[block]
                self.allowed[block] = newer[newer.index(numbers[0]) :]
        elif word == "read":
            block, number = numbers
            assert number in self.allowed[block], f"block {block}"
            self.allowed[block] = [number]  # and it stays so: what was read is not taken back


@pytest.mark.timeout(240)
def test_what_was_done_survives_kill_9(tmp_path: Path) -> None:
    kill_again_and_again(tmp_path, KILLS)


@pytest.mark.soak
@pytest.mark.timeout(2400)
def test_what_was_done_survives_kill_9_many_times(tmp_path: Path) -> None:
    kill_again_and_again(tmp_path, SOAK_KILLS)


def kill_again_and_again(directory: Path, kills: int) -> None:
    path = directory / "store"
    store, cluster, volume = uuid4(), uuid4(), uuid4()
    format_store(str(path), store_id=store, cluster_id=cluster, size_bytes=64 * MIB)
    seed = int.from_bytes(os.urandom(4), "little")
    print(f"seed {seed}")
    rng = random.Random(seed)
    expected = Expected()
    replayed = 0
    for epoch in range(1, kills + 1):
        arguments = [path, store, cluster, volume, epoch, seed]
        run_and_kill(list(map(str, arguments)), expected, rng.uniform(0, WRITE_SECONDS_MAX))
        report = check_left_behind(path)
        assert report["sound"], report["problems"]
        assert report["opens"]
        replayed += report["journal_batches"]
    assert expected.done_count > kills
    assert replayed > 0  # it was killed with work left for recovery


def check_left_behind(path: Path) -> dict[str, Any]:
    """The checker's report; the kernel lets go of a dead process's ring and file a little later."""
    for _ in range(100):
        try:
            return check_store(str(path), data=True)
        except StoreInUse:
            time.sleep(0.05)
    return check_store(str(path), data=True)


def run_and_kill(arguments: list[str], expected: Expected, seconds: float) -> None:
    """The process is killed `seconds` after it has begun to write."""
    command = [sys.executable, "-m", "tests.native.store_writer", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                if line == "ready\n":
                    break
                expected.take(line)
            else:
                pytest.fail(f"the process ended with {process.wait()} before it wrote")
            rest = wait_then_kill(process, seconds)
        finally:
            process.kill()
    expected.started.clear()
    for line in rest:
        if line.endswith("\n"):  # the last one may be cut
            expected.take(line)


def wait_then_kill(process: subprocess.Popen[str], seconds: float) -> list[str]:
    """What it printed until then."""
    lines: list[str] = []
    assert process.stdout is not None
    stdout = process.stdout
    reader = threading.Thread(target=lambda: lines.extend(stdout))
    reader.start()
    reader.join(seconds)
    assert process.poll() is None, "it ended by itself"
    process.kill()
    reader.join()
    return lines
