"""Compares block servers with fio, fairly: python -m bench.compare --rounds 5 --seconds 10.

How it is kept fair. All candidates are up from the start, their devices written once from end to
end. In each round every job runs against every candidate in turn, starting with another one each
round, so that a slow minute of the machine hits all of them; ratios are taken within the round. A
run in which unrelated processes took more than --noise-limit of the machine is thrown away and done
again. After each run the disks are let come to rest, and what the servers do until then counts as
theirs. Jobs at depth 1 run with the client on one core and the servers on the others (--pin).
"""

import argparse
import os
import platform
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from rich.console import Console

from bench.accounting import Usage, Window, pin, settle
from bench.candidates import (
    Candidate,
    CandidateError,
    GivenUri,
    NbdkitMemory,
    QemuNbd,
    QemuStorageDaemon,
    RawDisk,
)
from bench.cluster import Blockd, Cluster
from bench.fio import FioError, FioResult, run_fio
from bench.jobs import JOBS, Job, fill_arguments, select
from bench.report import plot, print_table
from bench.results import Sample, summarise, unmet, write_json

DEFAULT_CANDIDATES = ("blockd-1", "blockd-3", "nbdkit", "qemu", "disk")
BASELINE = "qemu"
JUDGED = "blockd-3"
FIO_START_SECONDS = 60  # beyond its run time, before it counts as hung
FILL_SECONDS = 900
TABLE_WIDTH = 130  # when nobody tells: a pipe or a log has no width of its own

Item = TypeVar("Item")


@dataclass(frozen=True)
class Plan:
    jobs: list[Job]
    candidates: list[Candidate]
    rounds: int
    seconds: float
    size_bytes: int
    noise_limit: float
    attempts: int
    pin: str


def main(argv: list[str] | None = None) -> int:
    options = parse_options(argv)
    console = Console() if sys.stdout.isatty() else Console(width=TABLE_WIDTH)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that every server is stopped
    try:
        plan = make_plan(options)
        with tempfile.TemporaryDirectory(prefix="bench-", dir=options.dir) as folder:
            samples = run(plan, Path(folder), console)
    except (CandidateError, FioError, ValueError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    return report(plan, samples, options, console)


def parse_options(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench.compare", description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5, help="run time of each job")
    parser.add_argument("--size", type=float, default=2, help="GiB on each candidate")
    parser.add_argument(
        "--only",
        help=f"candidates, comma-separated; default {','.join(DEFAULT_CANDIDATES)}; also qemu-nbd",
    )
    parser.add_argument("--jobs", help=f"of {','.join(job.name for job in JOBS)}")
    parser.add_argument("--uri", action="append", default=[], metavar="NAME=NBD-URI")
    parser.add_argument("--pids", action="append", default=[], metavar="NAME=PID,PID")
    parser.add_argument("--pin", choices=("split", "same", "none"), default="split")
    parser.add_argument("--noise-limit", type=float, default=0.03, help="0.03: 3 %% of the machine")
    parser.add_argument("--attempts", type=int, default=4, help="tries until a run is quiet")
    parser.add_argument("--dir", type=Path, default=Path("."), help="where the files go")
    parser.add_argument("--out", type=Path, default=Path("build/bench"))
    parser.add_argument("--check", action="store_true", help="fail when a target is missed")
    return parser.parse_args(argv)


def make_plan(options: argparse.Namespace) -> Plan:
    names = options.only.split(",") if options.only else list(DEFAULT_CANDIDATES)
    pids = dict(item.split("=", 1) for item in options.pids)
    candidates = make_candidates([name for name in names if name])
    for item in options.uri:
        name, _, uri = item.partition("=")
        given = [int(pid) for pid in pids.get(name, "").split(",") if pid]
        candidates.append(GivenUri(name, uri, given))
    return Plan(
        jobs=select(options.jobs.split(",") if options.jobs else []),
        candidates=candidates,
        rounds=options.rounds,
        seconds=options.seconds,
        size_bytes=int(options.size * (1 << 30)),
        noise_limit=options.noise_limit,
        attempts=options.attempts,
        pin=options.pin,
    )


def make_candidates(names: list[str]) -> list[Candidate]:
    cluster = Cluster()
    makers: dict[str, Callable[[], Candidate]] = {
        "blockd-1": lambda: Blockd(cluster, 1),
        "blockd-3": lambda: Blockd(cluster, 3),
        "nbdkit": NbdkitMemory,
        "qemu": QemuStorageDaemon,
        "qemu-nbd": QemuNbd,
        "disk": RawDisk,
    }
    for name in names:
        if name not in makers:
            raise ValueError(f"no candidate is called {name!r}; there are {', '.join(makers)}")
    return [makers[name]() for name in names]


def run(plan: Plan, folder: Path, console: Console) -> list[Sample]:
    """Start everything, fill it, measure it, stop it. Raises CandidateError, FioError."""
    samples = []
    with ExitStack() as stack:
        for candidate in plan.candidates:
            stack.callback(candidate.stop)
            candidate.start(folder, plan.size_bytes)
        for candidate in plan.candidates:
            console.print(f"filling {candidate.title}")
            fill = [*candidate.fio_arguments(), *fill_arguments(plan.size_bytes)]
            run_fio(fill, None, FILL_SECONDS)
            settle()
        for turn in range(plan.rounds):
            for job in plan.jobs:
                for candidate in rotated(plan.candidates, turn):
                    sample = measure_quietly(plan, job, candidate, turn, console)
                    if sample is not None:
                        samples.append(sample)
    return samples


def rotated(items: list[Item], turn: int) -> list[Item]:
    start = turn % len(items)
    return items[start:] + items[:start]


def measure_quietly(
    plan: Plan, job: Job, candidate: Candidate, turn: int, console: Console
) -> Sample | None:
    """One run that the rest of the machine left in peace; None when there was no such one."""
    for _ in range(plan.attempts):
        sample = measure(plan, job, candidate, turn)
        line = f"round {turn + 1} {job.name:12} {candidate.name:10} {sample.iops:9.0f} IOPS"
        if sample.others_share <= plan.noise_limit:
            console.print(line)
            return sample
        console.print(f"{line}, refused: others took {sample.others_share:.1%} of the machine")
    return None


def measure(plan: Plan, job: Job, candidate: Candidate, turn: int) -> Sample:
    idle = [
        pid
        for other in plan.candidates
        if other is not candidate
        for pid in (*other.servers(), *other.background())
    ]
    with pinned(plan.pin if job.pinned else "none", candidate.servers()) as client_cpus:
        window = Window(candidate.servers(), candidate.background(), idle)
        arguments = job.arguments(plan.size_bytes, plan.seconds, seed=turn + 1)
        result = run_fio(
            [*candidate.fio_arguments(), *arguments],
            client_cpus,
            plan.seconds + FIO_START_SECONDS,
        )
        settle()
        usage = window.close()
    return make_sample(job, candidate, turn, result, usage)


@contextmanager
def pinned(mode: str, servers: list[int]) -> Iterator[set[int] | None]:
    """Pin the servers for as long as the context lasts; gives the cores that the client gets."""
    everything = os.sched_getaffinity(0)
    first = {min(everything)}
    if mode == "none" or (mode == "split" and len(everything) == 1):
        yield None
        return
    pin(servers, first if mode == "same" else everything - first)
    try:
        yield first
    finally:
        pin(servers, everything)


def make_sample(
    job: Job, candidate: Candidate, turn: int, result: FioResult, usage: Usage
) -> Sample:
    machine_seconds = usage.wall_seconds * (os.cpu_count() or 1)
    cpu_seconds = result.client_cpu_seconds + usage.servers
    return Sample(
        job=job.name,
        candidate=candidate.name,
        round=turn,
        iops=result.operations / result.seconds,
        bytes_per_second=result.transferred_bytes / result.seconds,
        p50_us=result.p50_us,
        p99_us=result.p99_us,
        cpu_us=cpu_seconds / result.operations * 1e6,
        background_share=usage.background / machine_seconds,
        others_share=usage.others_share,
    )


def report(plan: Plan, samples: list[Sample], options: argparse.Namespace, console: Console) -> int:
    names = [candidate.name for candidate in plan.candidates]
    cells = summarise(plan.jobs, names, samples, BASELINE)
    if not cells:
        print("bench: the machine was never quiet: no figure is worth showing", file=sys.stderr)
        return 1
    print_table(cells, BASELINE, console)
    options.out.mkdir(parents=True, exist_ok=True)
    write_json(options.out / "compare.json", describe(plan), cells, samples)
    plot(cells, BASELINE, options.out / "compare.png")
    console.print(f"written: {options.out}/compare.json, {options.out}/compare.png")
    refused = plan.rounds * len(plan.jobs) * len(names) - len(samples)
    if refused:
        console.print(f"{refused} measurements are missing: the machine was not quiet")
    missed = unmet(cells, JUDGED)
    for line in missed:
        console.print(f"target missed: {line}")
    return 1 if options.check and (missed or refused) else 0


def describe(plan: Plan) -> dict[str, object]:
    fio = subprocess.run(["fio", "--version"], capture_output=True, text=True, check=True)
    return {
        "kernel": platform.release(),
        "cpus": os.cpu_count(),
        "fio": fio.stdout.strip(),
        "rounds": plan.rounds,
        "seconds": plan.seconds,
        "size_bytes": plan.size_bytes,
        "noise_limit": plan.noise_limit,
        "pin": plan.pin,
        "candidates": {candidate.name: candidate.title for candidate in plan.candidates},
    }


if __name__ == "__main__":
    sys.exit(main())
