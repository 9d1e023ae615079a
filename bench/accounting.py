"""Who used the processors: the candidate's processes, and everybody else.

Times come from /proc/PID/stat. The kernel derives them from the scheduler's exact run times, so
their resolution (10 ms) is the only error, and threads that ended are included. Another process's
time counts its ended children too: a compiler that came and went between two looks is not missed.
"""

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
KERNEL_THREAD = 0x00200000  # PF_KTHREAD in the flags field of /proc/PID/stat
PID_KTHREADD = 2


@dataclass(frozen=True)
class ProcessTimes:
    own_seconds: float
    with_children_seconds: float
    kernel_thread: bool


def process_times(pid: int) -> ProcessTimes | None:
    """None when the process is gone."""
    try:
        line = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = line[line.rindex(")") + 2 :].split()  # the command's name may hold spaces
    flags = int(fields[6])
    user, system, child_user, child_system = (int(field) for field in fields[11:15])
    own = user + system
    return ProcessTimes(
        own / TICKS_PER_SECOND,
        (own + child_user + child_system) / TICKS_PER_SECOND,
        bool(flags & KERNEL_THREAD) or pid == PID_KTHREADD,
    )


def steal_seconds() -> float:
    """What the hypervisor took from this machine, all cores together."""
    return int(Path("/proc/stat").read_text().split(None, 9)[8]) / TICKS_PER_SECOND


@dataclass(frozen=True)
class Usage:
    """CPU seconds over a window. servers: the data path's; background: the candidate's other
    processes; others: every process that has nothing to do with the run, and steal."""

    wall_seconds: float
    servers: float
    background: float
    others: float

    @property
    def others_share(self) -> float:
        """The part of the whole machine that others took, 0 to 1."""
        return self.others / (self.wall_seconds * (os.cpu_count() or 1))


class Window:
    """Measures from its creation to close()."""

    def __init__(self, servers: Iterable[int], background: Iterable[int], idle: Iterable[int]):
        """servers, background: pids of the candidate under test. idle: pids of the others, which
        do nothing now but beat their hearts: they are nobody's noise."""
        self._servers = set(servers)
        self._background = set(background) - self._servers
        self._ignored = {os.getpid(), *idle} - self._servers - self._background
        self._started = time.monotonic()
        self._before = self._look()

    def close(self) -> Usage:
        wall = time.monotonic() - self._started
        after = self._look()
        servers, background, others = (b - a for a, b in zip(self._before, after, strict=True))
        return Usage(wall, servers, background, max(others, 0.0))

    def _look(self) -> tuple[float, float, float]:
        servers = background = others = 0.0
        for entry in os.scandir("/proc"):
            if not entry.name.isdigit():
                continue
            pid = int(entry.name)
            times = process_times(pid)
            if times is None or times.kernel_thread or pid in self._ignored:
                continue
            if pid in self._servers:
                servers += times.own_seconds
            elif pid in self._background:
                background += times.own_seconds
            else:
                others += times.with_children_seconds
        return servers, background, others + steal_seconds()


def pin(pids: Iterable[int], cpus: set[int]) -> None:
    """Hold every thread of the processes to `cpus`; threads that are gone do not matter."""
    for pid in pids:
        try:
            threads = [int(entry.name) for entry in os.scandir(f"/proc/{pid}/task")]
        except FileNotFoundError:
            continue
        for thread in threads:
            try:
                os.sched_setaffinity(thread, cpus)
            except ProcessLookupError:
                continue


def settle(limit_seconds: float = 5.0, quiet_sectors: int = 256) -> None:
    """Wait until the disks are quiet: what a run left to write must not slow the next one."""
    deadline = time.monotonic() + limit_seconds
    before = sectors_written()
    while time.monotonic() < deadline:
        time.sleep(0.2)
        now = sectors_written()
        if now - before <= quiet_sectors:
            return
        before = now


def sectors_written() -> int:
    lines = Path("/proc/diskstats").read_text().splitlines()
    return sum(int(line.split()[9]) for line in lines)
