#!/usr/bin/env python3
"""What the cluster simulator never reached: lines of the replication core that no life executed.

Builds the simulator with gcov's counters (preset `coverage`), lives `--lives` of its swarm, from
`--from` on, and reads the counters of the sources below cext/engine and cext/peer (`--below`).
Prints a line for each file (lines, functions and branches reached), then every stretch of lines
that was never executed, with its function: each is a branch of recovery, or a message in a state,
that the seeds have not brought about.

    scripts/sim_coverage.py [--lives 300] [--from 1] [--tests PATTERN] [--below DIR...] [--no-build]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build/coverage"


@dataclass
class Coverage:
    """Of one source: how often each line ran (the most of its instances), and who it belongs to."""

    lines: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    owners: dict[int, str] = field(default_factory=dict)  # line: function
    functions: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    branches: dict[tuple[int, int], int] = field(default_factory=lambda: defaultdict(int))

    def add(self, data: Mapping[str, Any]) -> None:
        """Adds what one object file counted: an element of gcov's "files"."""
        names = {f["name"]: f.get("demangled_name", f["name"]) for f in data["functions"]}
        for function in data["functions"]:
            self.functions[names[function["name"]]] += function["execution_count"]
        for line in data["lines"]:
            number = line["line_number"]
            self.lines[number] += line["count"]
            self.owners[number] = names.get(line.get("function_name", ""), "")
            for index, branch in enumerate(b for b in line["branches"] if not b["throw"]):
                self.branches[number, index] += branch["count"]

    def missed(self) -> list[tuple[int, int, str]]:
        """Stretches (first line, last line, function) that never ran, over lines without code."""
        found: list[tuple[int, int, str]] = []
        previous_ran = True
        for number in sorted(self.lines):
            if self.lines[number] != 0:
                previous_ran = True
                continue
            owner = self.owners[number]
            if not previous_ran and found[-1][2] == owner:
                found[-1] = (found[-1][0], number, owner)
            else:
                found.append((number, number, owner))
            previous_ran = False
        return found


def merged(reports: Iterable[Mapping[str, Any]], below: tuple[str, ...]) -> dict[str, Coverage]:
    """The sources below those directories (relative to the project), of all object files."""
    sources: dict[str, Coverage] = defaultdict(Coverage)
    for report in reports:
        where = Path(report["current_working_directory"])
        for data in report["files"]:
            path = os.path.relpath(where / data["file"], ROOT)
            if path.startswith(tuple(f"{one}/" for one in below)):
                sources[path].add(data)
    return dict(sorted(sources.items()))


def ratio(counts: Iterable[int]) -> str:
    """Reached and all of them, as "7/9"."""
    all_of_them = list(counts)
    return f"{sum(1 for one in all_of_them if one)}/{len(all_of_them)}"


def table(sources: Mapping[str, Coverage]) -> list[str]:
    """The report, by line."""
    width = max(map(len, sources), default=0)
    rows = [f"{'':{width}}  {'lines':>11} {'functions':>11} {'branches':>11}"]
    for path, one in sources.items():
        counts = [
            ratio(kind.values())
            for kind in (one.lines, one.functions, one.branches)  # type: ignore[attr-defined]
        ]
        rows.append(f"{path:{width}}  " + " ".join(f"{count:>11}" for count in counts))
    rows += ["", "never reached:"]
    for path, one in sources.items():
        for first, last, owner in one.missed():
            place = f"{path}:{first}" if first == last else f"{path}:{first}-{last}"
            name = owner.replace("(anonymous namespace)::", "").split("(")[0]
            rows.append(f"  {place}  {name}")
    return rows


def run(lives: int, first: int, tests: str, build: bool) -> None:
    """Builds the counting simulator, and lives; earlier counts are forgotten."""
    if build:
        subprocess.run(["cmake", "--preset", "coverage"], cwd=ROOT, check=True, stdout=sys.stderr)
        command = ["cmake", "--build", "--preset", "coverage", "--target", "test_sim"]
        subprocess.run(command, cwd=ROOT, check=True, stdout=sys.stderr)
    for counter in BUILD.rglob("*.gcda"):
        counter.unlink()
    env = os.environ | {"BLOCKD_SEED_FROM": str(first), "BLOCKD_SEEDS": str(lives)}
    command = [str(BUILD / "test_sim"), f"--test-case={tests}"]
    subprocess.run(command, cwd=ROOT, check=True, env=env, stdout=sys.stderr)


def counted() -> Iterable[Mapping[str, Any]]:
    """gcov's report of each object file."""
    for counter in sorted(BUILD.rglob("*.gcda")):
        command = ["gcov", "--json-format", "--stdout", "--branch-probabilities", str(counter)]
        found = subprocess.run(command, cwd=BUILD, check=True, capture_output=True, text=True)
        for line in found.stdout.splitlines():
            yield json.loads(line)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--lives", type=int, default=300)
    parser.add_argument("--from", type=int, default=1, dest="first", metavar="SEED")
    parser.add_argument("--tests", default="a swarm of lives*", help="test cases (doctest -tc)")
    parser.add_argument("--below", nargs="+", default=["cext/engine", "cext/peer"], metavar="DIR")
    parser.add_argument("--no-build", action="store_false", dest="build")
    options = parser.parse_args()
    run(options.lives, options.first, options.tests, options.build)
    print("\n".join(table(merged(counted(), tuple(options.below)))))


if __name__ == "__main__":
    main()
