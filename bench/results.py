"""Samples and what is made of them: medians, spread, and ratios within the same round."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from bench.jobs import Job


@dataclass(frozen=True)
class Sample:
    """One accepted run of one job against one candidate.

    cpu_us, p50_us, p99_us: microseconds. background_share, others_share: parts of the whole machine
    that the candidate's control plane, and unrelated processes, took meanwhile.
    """

    job: str
    candidate: str
    round: int
    iops: float
    bytes_per_second: float
    p50_us: float
    p99_us: float
    cpu_us: float
    background_share: float
    others_share: float


@dataclass(frozen=True)
class Cell:
    """One job against one candidate, over all rounds. rate: operations, or bytes for sequential
    jobs, a second; spread: half of (largest - smallest) over the median; ratio: the median over
    rounds of this rate to the baseline's, None without a baseline."""

    job: Job
    candidate: str
    rounds: int
    rate: float
    spread: float
    p50_us: float
    p99_us: float
    cpu_us: float
    ratio: float | None

    @property
    def rate_text(self) -> str:
        if self.job.in_bandwidth:
            return f"{self.rate / 1e9:.2f} GB/s"
        return f"{self.rate / 1000:.1f}k" if self.rate >= 1000 else f"{self.rate:.0f}"


def rate(job: Job, sample: Sample) -> float:
    return sample.bytes_per_second if job.in_bandwidth else sample.iops


def summarise(
    jobs: Iterable[Job], candidates: list[str], samples: list[Sample], baseline: str
) -> list[Cell]:
    """A cell for each job and candidate that has samples, in their order."""
    cells = []
    for job in jobs:
        of_job = [sample for sample in samples if sample.job == job.name]
        base = {s.round: rate(job, s) for s in of_job if s.candidate == baseline}
        for candidate in candidates:
            mine = [sample for sample in of_job if sample.candidate == candidate]
            if mine:
                cells.append(cell(job, candidate, mine, base))
    return cells


def cell(job: Job, candidate: str, samples: list[Sample], base: dict[int, float]) -> Cell:
    rates = [rate(job, sample) for sample in samples]
    middle = median(rates)
    ratios = [rate(job, s) / base[s.round] for s in samples if s.round in base]
    return Cell(
        job=job,
        candidate=candidate,
        rounds=len(samples),
        rate=middle,
        spread=(max(rates) - min(rates)) / 2 / middle,
        p50_us=median(sample.p50_us for sample in samples),
        p99_us=median(sample.p99_us for sample in samples),
        cpu_us=median(sample.cpu_us for sample in samples),
        ratio=median(ratios) if ratios else None,
    )


def unmet(cells: Iterable[Cell], judged: str) -> list[str]:
    """A line for each target that the candidate `judged` misses."""
    return [
        f"{cell.job.title}: {cell.ratio:.2f} of the baseline, wanted {cell.job.target:.2f}"
        for cell in cells
        if cell.candidate == judged
        and cell.job.target is not None
        and cell.ratio is not None
        and cell.ratio < cell.job.target
    ]


def write_json(
    path: Path, setup: dict[str, object], cells: Iterable[Cell], samples: Iterable[Sample]
) -> None:
    table = [{**asdict(cell), "job": cell.job.name} for cell in cells]
    document = {"setup": setup, "cells": table, "samples": [asdict(sample) for sample in samples]}
    path.write_text(json.dumps(document, indent=1) + "\n")
