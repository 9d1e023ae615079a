"""The store alone against the raw file: `python -m bench.store [--folder F] [--rounds N]`.

Each round runs fio (io_uring, O_DIRECT) on a file and then the store on the same file, job by job
of the same shape; what counts is the ratio of the two within a round. Checksums are on, the journal
wraps many times, and checkpoints run meanwhile. Figures are medians over the rounds.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
BUILD = REPOSITORY / "build" / "bench-release"
SIZE_MIB = 4096
SPAN_MIB = 3072  # what both sides touch: three quarters of the store's file


@dataclass(frozen=True)
class Job:
    """One row of store_bench and the fio job of the same shape. `target`: the ratio aimed at."""

    name: str
    depth: int
    rw: str
    block: str
    target: float


JOBS = (
    Job("4 KiB random write", 1, "randwrite", "4k", 0.7),
    Job("4 KiB random write", 32, "randwrite", "4k", 0.8),
    Job("4 KiB random read", 1, "randread", "4k", 0.9),
    Job("4 KiB random read", 32, "randread", "4k", 0.9),
    Job("256 KiB sequential write", 8, "write", "256k", 0.9),
    Job("256 KiB sequential read", 8, "read", "256k", 0.9),
)


def build() -> Path:
    """Compiles store_bench and says where it is."""
    configure = ["cmake", "--preset", "release", "-B", str(BUILD), "-DBLOCKD_BENCH=ON"]
    subprocess.run(configure, cwd=REPOSITORY, check=True, stdout=subprocess.DEVNULL)
    compile_it = ["cmake", "--build", str(BUILD), "--target", "store_bench"]
    subprocess.run(compile_it, cwd=REPOSITORY, check=True, stdout=subprocess.DEVNULL)
    return BUILD / "store_bench"


def run_store(binary: Path, file: Path, seconds: float) -> dict[tuple[str, int], dict[str, float]]:
    """Every row of store_bench by name and depth."""
    command = [str(binary), str(file), str(seconds), str(SIZE_MIB), "--json"]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    rows = [json.loads(line) for line in output.splitlines()]
    return {(row["name"], row["depth"]): row for row in rows}


def run_fio(job: Job, file: Path, seconds: float) -> float:
    """Operations a second of the raw file."""
    command = [
        "fio",
        "--name=raw",
        f"--filename={file}",
        "--ioengine=io_uring",
        "--direct=1",
        f"--rw={job.rw}",
        f"--bs={job.block}",
        f"--iodepth={job.depth}",
        f"--size={SPAN_MIB}M",
        f"--runtime={seconds}",
        "--time_based",
        "--output-format=json",
    ]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    result = json.loads(output[output.index("{") :])["jobs"][0]
    return float(result["read" if "read" in job.rw else "write"]["iops"])


def main() -> int:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", help="on the file system to measure", default=None)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3)
    arguments = parser.parse_args()
    binary = build()
    ratios: dict[Job, list[float]] = {job: [] for job in JOBS}
    rows: dict[Job, list[dict[str, float]]] = {job: [] for job in JOBS}
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        file = Path(folder) / "store"
        run_store(binary, file, 0.1)  # the file is there and written once
        for _ in range(arguments.rounds):
            raw = {job: run_fio(job, file, arguments.seconds) for job in JOBS}
            store = run_store(binary, file, arguments.seconds)
            for job in JOBS:
                row = store[job.name, job.depth]
                rows[job].append(row)
                ratios[job].append(row["per_s"] / raw[job])
    print(
        f"{'':26} {'depth':>5} {'of raw':>7} {'aim':>5} {'per s':>9} {'p99 us':>7} "
        f"{'p99.9 us':>8} {'device bytes':>12}"
    )
    for job in JOBS:
        keys = [key for key in rows[job][0] if key != "name"]
        middle = {key: statistics.median(row[key] for row in rows[job]) for key in keys}
        print(
            f"{job.name:26} {job.depth:5} {statistics.median(ratios[job]):7.2f} {job.target:5.2f} "
            f"{middle['per_s']:9.0f} {middle['p99_us']:7.0f} {middle['p999_us']:8.0f} "
            f"{middle['device_bytes_per_byte']:12.2f}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
