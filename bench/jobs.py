"""What is measured: the fio jobs, the same for every candidate."""

from collections.abc import Sequence
from dataclasses import dataclass

KIB = 1024
MIB = 1024 * KIB


@dataclass(frozen=True)
class Job:
    """One row of the table.

    pinned: client and servers are held to fixed cores, because one request at a time mostly
    measures how the scheduler wakes whom where. target: the least ratio to the baseline that
    blockd with three replicas has to reach, if any.
    """

    name: str
    title: str
    rw: str
    block_bytes: int
    depth: int
    extra: tuple[str, ...] = ()
    pinned: bool = False
    target: float | None = None

    @property
    def in_bandwidth(self) -> bool:
        """Sequential rows are told in bytes a second, the others in operations a second."""
        return self.block_bytes >= MIB

    def arguments(self, size_bytes: int, seconds: float, seed: int) -> list[str]:
        return [
            f"--name={self.name}",
            f"--rw={self.rw}",
            f"--bs={self.block_bytes}",
            f"--iodepth={self.depth}",
            f"--size={size_bytes}",
            "--time_based",
            f"--runtime={seconds}",
            f"--randseed={seed}",
            "--norandommap",
            *self.extra,
        ]


JOBS = (
    Job("randread-1", "4 KiB read, depth 1", "randread", 4 * KIB, 1, pinned=True, target=1.0),
    Job("randread-32", "4 KiB read, depth 32", "randread", 4 * KIB, 32, target=1.0),
    Job("randwrite-1", "4 KiB write, depth 1", "randwrite", 4 * KIB, 1, pinned=True, target=0.5),
    Job("randwrite-32", "4 KiB write, depth 32", "randwrite", 4 * KIB, 32, target=0.5),
    Job(
        "fsync-1",
        "4 KiB write + fsync, depth 1",
        "randwrite",
        4 * KIB,
        1,
        extra=("--fsync=1",),
        pinned=True,
    ),
    Job(
        "mix-32",
        "4 KiB 70/30 mix, depth 32",
        "randrw",
        4 * KIB,
        32,
        extra=("--rwmixread=70", "--unified_rw_reporting=mixed"),
    ),
    Job("seqread", "1 MiB read, depth 8", "read", MIB, 8, target=0.6),
    Job("seqwrite", "1 MiB write, depth 8", "write", MIB, 8, target=0.6),
)


def fill_arguments(size_bytes: int) -> list[str]:
    """Write the whole device once, so that no read meets a hole."""
    fill = ["--name=fill", "--rw=write", f"--bs={MIB}", "--iodepth=8", f"--size={size_bytes}"]
    return [*fill, "--end_fsync=1"]


def select(names: Sequence[str]) -> list[Job]:
    """The jobs with these names, all when there are none. Raises ValueError for an unknown one."""
    known = {job.name: job for job in JOBS}
    for name in names:
        if name not in known:
            raise ValueError(f"no job is called {name!r}; there are {', '.join(known)}")
    return [known[name] for name in names] if names else list(JOBS)
