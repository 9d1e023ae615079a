"""One process of the cluster: started in a session of its own, found again by pid and start time.

A pid alone names whatever process has it now; with its start time it names one process for ever, so
a signal meant for a daemon that is gone never reaches a stranger. Signals go through a pidfd, which
closes the gap between looking and sending.
"""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from blockd.model.errors import InvalidArgument

CLOCK_TICKS = os.sysconf("SC_CLK_TCK")

# Daemons that this process started itself: kept so that they can be reaped.
_children: list[subprocess.Popen[bytes]] = []


@dataclass(frozen=True)
class Running:
    """A process that existed: pid and start time (clock ticks since boot, /proc/PID/stat)."""

    pid: int
    start_time: int

    def state(self) -> str:
        """ "running", "stopped" (by SIGSTOP) or "dead"."""
        reap()
        fields = stat_fields(self.pid)
        if fields is None or int(fields[19]) != self.start_time or fields[0] in "ZX":
            return "dead"
        return "stopped" if fields[0] in "Tt" else "running"

    def send(self, number: signal.Signals) -> bool:
        """Signal exactly this process; False: it is gone."""
        try:
            handle = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return False
        try:
            if self.state() == "dead":
                return False
            signal.pidfd_send_signal(handle, number)
        except ProcessLookupError:
            return False
        finally:
            os.close(handle)
        return True

    def wait_gone(self, seconds: float) -> bool:
        """Whether the process ends within `seconds`."""
        deadline = time.monotonic() + seconds
        while self.state() != "dead":
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        return True

    def age_s(self) -> float:
        """Seconds since it started."""
        return time.clock_gettime(time.CLOCK_BOOTTIME) - self.start_time / CLOCK_TICKS


def stat_fields(pid: int) -> list[str] | None:
    """/proc/PID/stat from the state on (field 3); None: no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    return text[text.rindex(")") + 2 :].split()


def identify(pid: int) -> Running | None:
    """The process that has `pid` now."""
    fields = stat_fields(pid)
    return None if fields is None else Running(pid, int(fields[19]))


def children_named(parent: int, name: str) -> list[Running]:
    """The living children of a process whose command is called `name`."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        fields = stat_fields(int(entry.name))
        if fields is None or int(fields[1]) != parent or fields[0] in "ZX":
            continue
        with contextlib.suppress(OSError):
            if (entry / "comm").read_text().strip() == name:
                found.append(Running(int(entry.name), int(fields[19])))
    return found


def spawn(argv: Sequence[str], log: Path, environ: Mapping[str, str]) -> Running:
    """Start a daemon that outlives this process; its output goes to the end of `log`."""
    log.parent.mkdir(parents=True, exist_ok=True)
    try:
        with log.open("ab") as output:
            child = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=dict(environ),
                start_new_session=True,
            )
    except OSError as error:
        raise InvalidArgument(f"cannot run {argv[0]}: {error.strerror}") from error
    _children.append(child)
    started = identify(child.pid)  # ours and not reaped yet, so it is there
    assert started is not None
    return started


def reap() -> None:
    """Collect those of our own children that have ended."""
    for child in list(_children):
        if child.poll() is not None:
            _children.remove(child)


def last_line(log: Path) -> str:
    """The last thing a daemon said, for the line that reports its end."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    except OSError:
        return "no output"
    return lines[-1] if lines else "no output"
