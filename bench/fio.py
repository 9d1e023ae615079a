"""Runs fio once and reads what it measured."""

import json
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


class FioError(Exception):
    """fio failed; the message has its own words."""


@dataclass(frozen=True)
class FioResult:
    """operations: how many ended in `seconds`; latencies in microseconds, from submission to
    completion; client_cpu_seconds: user and system time of the job, without fio's start-up."""

    operations: int
    transferred_bytes: int
    seconds: float
    p50_us: float
    p99_us: float
    client_cpu_seconds: float


def run_fio(arguments: Sequence[str], cpus: set[int] | None, timeout: float) -> FioResult:
    """Run one job, on the cores `cpus` if given. Raises FioError."""
    argv = ["fio", "--output-format=json", "--percentile_list=50:99", "--thread", *arguments]
    if cpus:
        argv.insert(1, f"--cpus_allowed={','.join(map(str, sorted(cpus)))}")
    try:
        done = subprocess.run(
            argv,
            capture_output=True,
            text=True,
            timeout=timeout,
            preexec_fn=(lambda: os.sched_setaffinity(0, cpus)) if cpus else None,
        )
    except FileNotFoundError:
        raise FioError("fio is not installed: apt install fio") from None
    except subprocess.TimeoutExpired:
        raise FioError(f"no end after {timeout:.0f} s: {' '.join(arguments)}") from None
    if done.returncode != 0:
        raise FioError((done.stderr or done.stdout).strip())
    # fio may print notes of its engines before the document.
    return parse(json.loads(done.stdout[done.stdout.index("{") :]))


def parse(document: dict[str, Any]) -> FioResult:
    (job,) = document["jobs"]
    if job["error"]:
        raise FioError(f"fio: errno {job['error']}")
    directions = [job[name] for name in ("read", "write", "mixed") if name in job]
    busy = [direction for direction in directions if direction["total_ios"]]
    if len(busy) != 1:
        raise FioError("fio reported no operation" if not busy else "fio reported several kinds")
    (direction,) = busy
    seconds = job["job_runtime"] / 1000
    p50, p99 = (percentile_us(job, direction, rank) for rank in ("50.000000", "99.000000"))
    return FioResult(
        operations=direction["total_ios"],
        transferred_bytes=direction["io_bytes"],
        seconds=seconds,
        p50_us=p50,
        p99_us=p99,
        client_cpu_seconds=(job["usr_cpu"] + job["sys_cpu"]) / 100 * seconds,
    )


def percentile_us(job: dict[str, Any], direction: dict[str, Any], rank: str) -> float:
    """With fsync after each write, the operation that the user waits for is the two together."""
    latency = direction["clat_ns"]["percentile"][rank]
    if job.get("sync", {}).get("total_ios"):
        latency += job["sync"]["lat_ns"]["percentile"][rank]
    return float(latency) / 1000
