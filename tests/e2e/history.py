"""What a recorder's log promises, held against what is read back later."""

import subprocess
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from tests.cluster import run

HERE = Path(__file__).resolve().parent
PYTHON = "/usr/bin/python3"  # Debian's, which has libnbd's module


@dataclass
class History:
    """What recorders that ran one after the other have submitted and seen acknowledged.

    submitted: write numbers by block, in order. acknowledged: the last one of each block.
    """

    submitted: dict[int, list[int]] = field(default_factory=lambda: defaultdict(list))
    acknowledged: dict[int, int] = field(default_factory=dict)  # block -> last one
    acknowledged_count: int = 0
    flush_count: int = 0
    last_number: int = 0

    @classmethod
    def read(cls, *logs: Path) -> "History":
        """The history that one recorder, or several one after the other, have written."""
        history = cls()
        for log in logs:
            history.add(log)
        return history

    def add(self, log: Path) -> None:
        """Take up what the next recorder has written."""
        for line in log.read_text(encoding="ascii").splitlines():
            kind, *numbers = line.split()
            if kind == "S" and len(numbers) == 2:
                self.last_number = int(numbers[0])
                self.submitted[int(numbers[1])].append(self.last_number)
            elif kind == "A" and len(numbers) == 2:
                self.acknowledged[int(numbers[1])] = int(numbers[0])
                self.acknowledged_count += 1
            elif kind == "F":
                self.flush_count += 1

    def check(self, found: list[int]) -> None:
        """Every block holds its last acknowledged write, or one that was submitted after that."""
        for block, number in enumerate(found):
            submitted = self.submitted.get(block, [])
            last = self.acknowledged.get(block)
            allowed = submitted[submitted.index(last) :] if last is not None else [0, *submitted]
            assert number in allowed, (
                f"block {block} holds write {number}; it must hold {last} or one of "
                f"{allowed[1:5]}, which came after"
            )


def record(uri: str, log: Path, blocks: int, seconds: float, **options: object) -> "Recording":
    """Start a recorder."""
    argv = [PYTHON, str(HERE / "recorder.py"), uri, str(log)]
    argv += ["--blocks", str(blocks), "--seconds", str(seconds)]
    for name, value in options.items():
        argv += [f"--{name}", str(value)]
    return Recording(subprocess.Popen(argv, stderr=subprocess.PIPE, text=True), log)


@dataclass
class Recording:
    """A recorder at work."""

    process: "subprocess.Popen[str]"
    log: Path

    def acknowledged(self) -> int:
        """How many writes were acknowledged so far."""
        if not self.log.exists():
            return 0
        with self.log.open(encoding="ascii") as lines:
            return count_acknowledged(lines)

    def finish(self, timeout: float = 60) -> int:
        """Wait for it; returns its exit code: 0 all went well, 3 the connection failed."""
        _, errors = self.process.communicate(timeout=timeout)
        assert self.process.returncode in (0, 3), errors
        return self.process.returncode

    def end(self) -> None:
        """Stop it, whatever it waits for."""
        self.process.kill()
        self.process.communicate()


def count_acknowledged(lines: IO[str]) -> int:
    return sum(line.startswith("A ") for line in lines)


def read_back(uri: str, blocks: int) -> list[int]:
    """Which write each block holds."""
    done = run([PYTHON, str(HERE / "readback.py"), uri, str(blocks)], timeout=120)
    return [int(line) for line in done.stdout.split()]
