"""A load at work, and the verdict on what it recorded."""

import fcntl
import itertools
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.cluster import run
from tests.e2e.history import PYTHON

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
CHECKER = ROOT / "build" / "release" / "check_recording"
STOP_S = 60


def build_checker() -> None:
    """The simulator's checker, built with the C++ tests; one builder at a time."""
    (ROOT / "build").mkdir(exist_ok=True)
    with (ROOT / "build" / "check_recording.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for argv in (
            ["cmake", "--preset", "release", "-S", str(ROOT)],
            ["cmake", "--build", str(CHECKER.parent), "--target", CHECKER.name],
        ):
            done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stdout + done.stderr


def check(record: Path) -> str:
    """What the checker says of a linearizable record; fails with the contradiction."""
    done = run([str(CHECKER), str(record)], check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return str(done.stdout).strip()


@dataclass(frozen=True)
class Operation:
    """One line of a record. Times in seconds of CLOCK_MONOTONIC; answered None: unknown."""

    kind: str
    place: int
    called: float
    answered: float | None

    @classmethod
    def parse(cls, line: str) -> "Operation":
        kind, place, _, _, _, called, answered = line.split()
        known = None if answered == "-" else int(answered) / 1e9
        return cls(kind, int(place), int(called) / 1e9, known)


@dataclass
class Load:
    """A running load.py. place: the number of the export where its clients are."""

    process: "subprocess.Popen[str]"
    record: Path
    place: int = 0
    _operations: list[Operation] = field(default_factory=list)
    _read: int = 0

    @classmethod
    def start(cls, record: Path, blocks: int, seed: int, clients: int = 6) -> "Load":
        argv = [PYTHON, str(HERE / "load.py"), str(record), "--blocks", str(blocks)]
        argv += ["--seed", str(seed), "--clients", str(clients)]
        process = subprocess.Popen(argv, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        return cls(process, record)

    def __enter__(self) -> "Load":
        return self

    def __exit__(self, *_: object) -> None:
        """End it, whatever it waits for."""
        self.process.kill()
        self.process.communicate()

    def attach(self, uri: str) -> None:
        """The volume is served there now: clients go there."""
        self.place += 1
        self._say(f"attach {self.place} {uri}")

    @contextmanager
    def resting(self) -> Iterator[None]:
        """Clients begin nothing meanwhile."""
        self._say("rest")
        yield
        self._say("work")

    def _say(self, command: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()

    def writes(self, since: float = 0.0) -> list[Operation]:
        """Acknowledged writes through the present place that were called after `since`."""
        return [
            operation
            for operation in self.operations()
            if operation.kind == "W"
            and operation.place == self.place
            and operation.answered is not None
            and operation.called >= since
        ]

    def operations(self) -> list[Operation]:
        """All that have ended so far, in the order in which they did."""
        if self.record.exists():
            with self.record.open(encoding="ascii") as file:
                file.seek(self._read)
                text = file.read()
            whole = text[: text.rfind("\n") + 1]
            self._read += len(whole)
            self._operations += [
                Operation.parse(line)
                for line in whole.splitlines()
                if not line.startswith("sectors")
            ]
        return self._operations

    def wait_writes(self, count: int, seconds: float = 30, since: float | None = None) -> float:
        """Until so many more writes are acknowledged; returns how long the first one took."""
        began = time.monotonic() if since is None else since
        while len(found := self.writes(began)) < count:
            assert self.process.poll() is None, "the load has ended"
            assert time.monotonic() < began + seconds, (
                f"{len(found)} of {count} writes acknowledged in {seconds} s"
            )
            time.sleep(0.02)
        first = min(operation.answered for operation in found if operation.answered is not None)
        return first - began

    def stop(self) -> None:
        """End it, everything read back. Fails when that cannot be read."""
        self._say("stop")
        _, errors = self.process.communicate(timeout=STOP_S)
        assert self.process.returncode == 0, errors


def longest_stall(operations: list[Operation], begin: float, end: float) -> float:
    """The longest time within [begin, end] in which no write was acknowledged."""
    times = sorted(
        operation.answered
        for operation in operations
        if operation.kind == "W" and operation.answered and begin < operation.answered < end
    )
    marks = [begin, *times, end]
    return max(later - earlier for earlier, later in itertools.pairwise(marks))
