#!/usr/bin/env python3
"""The mutation check of the cluster simulator: bugs planted on purpose, each of which it must find.

The bugs are the mutants of cext/tests/sim/mutants.toml: text substitutions in the replication core.
They are applied to a copy of the tree, build/mutants/src; the sources themselves never change. The
copy is built and tested without a bug first, then once with each: a mutant is found when one of its
tests fails, aborts or hangs within its number of seeds.

    scripts/mutants.py [NAME...] [--list | --check] [--jobs N] [--table FILE]

Exits with 1 if a mutant was not found, or its text does not occur exactly once (any more).
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Event

ROOT = Path(__file__).resolve().parent.parent
MUTANTS = ROOT / "cext/tests/sim/mutants.toml"
WORK = ROOT / "build/mutants"

# What test_sim is built from.
SOURCES = ("CMakeLists.txt", "cext")
SKIPPED = ("cext/fuzz", "cext/bench")

# A run of one seed takes a second or so; the simulated time has limits of its own.
HANGS_AFTER_S = 180
MEMORY_BYTES = 3 << 30


class MutantError(Exception):
    """The list of mutants, or the tree it is for, is not as it should be."""


@dataclass(frozen=True)
class Mutant:
    name: str
    file: str  # below cext/
    find: str
    replace: str
    rule: str  # of docs/REPLICATION.md
    breaks: str  # the promise, in a sentence
    tests: tuple[str, ...]  # test cases, as doctest's -tc takes them
    seeds: int = 1  # at most; 1: a story, which needs none
    origin: str = ""  # who shipped something like it


@dataclass(frozen=True)
class Finding:
    test: str
    message: str
    seed: int


@dataclass(frozen=True)
class Result:
    mutant: Mutant
    finding: Finding | None
    seconds: float


# --- the list ------------------------------------------------------------------------------------


def load(path: Path) -> list[Mutant]:
    """The mutants of a file, in its order. Raises MutantError: what is wrong with which entry."""
    mutants = []
    for number, entry in enumerate(tomllib.loads(path.read_text()).get("mutant", []), 1):
        try:
            mutant = Mutant(**{**entry, "tests": tuple(entry["tests"])})
        except (TypeError, KeyError) as error:
            name = entry.get("name", f"number {number}")
            raise MutantError(f"mutant {name}: {error} is missing or not known") from error
        if mutant.seeds < 1 or not mutant.tests or mutant.find == mutant.replace:
            raise MutantError(f"mutant {mutant.name}: needs a change, tests, and a seed or more")
        mutants.append(mutant)
    names = [mutant.name for mutant in mutants]
    for name in names:
        if names.count(name) > 1:
            raise MutantError(f"mutant {name}: two have this name")
    return mutants


def mutated(root: Path, mutant: Mutant) -> str:
    """The text of the mutant's file under `root` with the bug in it.

    Raises MutantError: the file, or the text to replace, is not there, or not just once.
    """
    path = root / "cext" / mutant.file
    if not path.is_file():
        raise MutantError(f"mutant {mutant.name}: there is no cext/{mutant.file}")
    text = path.read_text()
    count = text.count(mutant.find)
    if count != 1:
        raise MutantError(
            f"mutant {mutant.name}: its text occurs {count} times in cext/{mutant.file}, "
            "not once; adapt it in mutants.toml"
        )
    return text.replace(mutant.find, mutant.replace)


def check(root: Path, mutants: Iterable[Mutant]) -> list[str]:
    """What does not fit the tree under `root`, a line each."""
    wrong = []
    for mutant in mutants:
        try:
            mutated(root, mutant)
        except MutantError as error:
            wrong.append(str(error))
    return wrong


# --- the copy ------------------------------------------------------------------------------------


def _files(root: Path) -> dict[str, Path]:
    found = {}
    for source in SOURCES:
        top = root / source
        for path in [top] if top.is_file() else top.rglob("*"):
            name = path.relative_to(root).as_posix()
            if path.is_file() and not name.startswith(SKIPPED):
                found[name] = path
    return found


def synchronise(root: Path, copy: Path) -> None:
    """Makes `copy` what `root` is. What is the same keeps its time, so little is built anew."""
    files = _files(root)
    for name, path in files.items():
        target = copy / name
        content = path.read_bytes()
        if target.is_file() and target.read_bytes() == content:
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
        target.chmod(path.stat().st_mode)
    for name, path in _files(copy).items() if copy.exists() else ():
        if name not in files:
            path.unlink()


# --- building and running ------------------------------------------------------------------------


def cmake_build(source: Path, build: Path) -> None:
    """Builds test_sim. Mutants leave things unused, so without warnings. Raises MutantError."""
    flags = ["BUILD_TYPE=Release", "CXX_FLAGS_RELEASE=-O1", "CXX_FLAGS=-w"]
    configure = ["cmake", "-S", str(source), "-B", str(build), "-G", "Ninja"]
    configure += [f"-DCMAKE_{flag}" for flag in flags]
    steps = [["cmake", "--build", str(build), "--target", "test_sim"]]
    if not (build / "build.ninja").exists():
        steps.insert(0, configure)
    for step in steps:
        done = subprocess.run(step, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise MutantError("does not build:\n" + done.stdout + done.stderr)


def finding_of(output: str, status: int, seed: int) -> Finding | None:
    """What doctest's output says of a run that ended with `status`; None: all is well."""
    if status == 0:
        return None
    tests = re.findall(r"^TEST CASE: +(.*)", output, re.MULTILINE)
    test = tests[-1] if tests else "?"
    patterns = (
        r"(assertion failed.*)",
        r"(test case CRASHED.*)",
        rf"seed {seed}: (.*)",
        r"ERROR: (.*?)(?: is NOT correct!)?$",
    )
    for pattern in patterns:
        if match := re.search(pattern, output, re.MULTILINE):
            return Finding(test, match.group(1), seed)
    if status < 0:
        return Finding(test, f"killed by {signal.Signals(-status).name}", seed)
    return Finding(test, f"exit status {status}", seed)


@dataclass
class Bench:
    """A copy of the tree with its build, in which one bug at a time is planted."""

    root: Path
    work: Path
    jobs: int = os.cpu_count() or 1
    build: Callable[[Path, Path], None] = cmake_build
    hangs_after_s: float = HANGS_AFTER_S

    @property
    def copy(self) -> Path:
        return self.work / "src"

    def prepare(self) -> None:
        synchronise(self.root, self.copy)
        self.build(self.copy, self.work / "release")

    def run(self, tests: Sequence[str], seed: int) -> Finding | None:
        """One seed. Raises MutantError: there are no such tests."""
        # A comma would part two filters.
        filters = ",".join(test.replace(",", "?") for test in tests)
        limit = ["prlimit", f"--as={MEMORY_BYTES}"]  # a bug may take all there is
        program = str(self.work / "release/test_sim")
        command = [*limit, program, f"-tc={filters}", "--no-path-filenames"]
        environment = {**os.environ, "BLOCKD_SEED": str(seed)}
        try:
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                errors="replace",
                env=environment,
                timeout=self.hangs_after_s,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return Finding(tests[0], f"hangs: no end within {self.hangs_after_s:g} s", seed)
        if re.search(r"test cases: +0 ", done.stdout):
            raise MutantError(f"no test case matches {' or '.join(tests)}")
        return finding_of(done.stdout + done.stderr, done.returncode, seed)

    def search(self, tests: Sequence[str], seeds: int) -> Finding | None:
        """Of the lowest seed up to `seeds` that finds something; None: none does."""
        found = Event()

        def one(seed: int) -> Finding | None:
            return None if found.is_set() else self.run(tests, seed)

        with ThreadPoolExecutor(self.jobs) as pool:
            for finding in pool.map(one, range(1, seeds + 1)):
                if finding:
                    found.set()
                    return finding
        return None

    def try_mutant(self, mutant: Mutant) -> Result:
        """Raises MutantError: it cannot be applied or built. The copy is left without the bug."""
        started = time.monotonic()
        text = mutated(self.root, mutant)
        path = self.copy / "cext" / mutant.file
        sound = path.read_text()
        try:
            path.write_text(text)
            try:
                self.build(self.copy, self.work / "release")
            except MutantError as error:
                raise MutantError(f"mutant {mutant.name} {error}") from error
            finding = self.search(mutant.tests, mutant.seeds)
        finally:
            path.write_text(sound)
        return Result(mutant, finding, time.monotonic() - started)

    def check_sound(self, mutants: Iterable[Mutant]) -> None:
        """Without a bug all tests pass with all seeds. Raises MutantError: which one does not."""
        seeds: dict[str, int] = {}
        for mutant in mutants:
            for test in mutant.tests:
                seeds[test] = max(seeds.get(test, 0), mutant.seeds)
        for test, count in seeds.items():
            if found := self.search((test,), count):
                what = f"seed {found.seed} of {found.test!r} fails: {found.message}"
                raise MutantError(f"without a mutant, {what}")


# --- reports -------------------------------------------------------------------------------------


def row(result: Result) -> str:
    mutant, finding = result.mutant, result.finding
    head = f"{mutant.name:<44} {mutant.rule:<4} {result.seconds:4.0f} s  "
    if finding is None:
        return head + f"NOT FOUND in {mutant.seeds} seed(s) of {', '.join(mutant.tests)}"
    seed = f"seed {finding.seed} of {mutant.seeds}" if mutant.seeds > 1 else "story"
    return head + f"{seed:<14} {finding.test}: {finding.message}"


def markdown(results: Iterable[Result]) -> str:
    """The table of docs/SIMULATION.md."""
    lines = ["| mutant | rule | what it breaks | found by | seed (of) |", "|---|---|---|---|---|"]
    for result in results:
        mutant, finding = result.mutant, result.finding
        test = finding.test if finding else "NOT FOUND"
        lowest = str(finding.seed) if finding else "-"
        seed = "story" if mutant.seeds == 1 else f"{lowest} ({mutant.seeds})"
        lines.append(f"| `{mutant.name}` | {mutant.rule} | {mutant.breaks} | {test} | {seed} |")
    return "\n".join(lines) + "\n"


def try_all(bench: Bench, mutants: Sequence[Mutant], say: Callable[[str], None]) -> list[Result]:
    bench.prepare()
    started = time.monotonic()
    bench.check_sound(mutants)
    say(f"without a mutant all tests pass ({time.monotonic() - started:.0f} s)")
    results = []
    for mutant in mutants:
        results.append(bench.try_mutant(mutant))
        say(row(results[-1]))
    return results


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these mutants")
    parser.add_argument("--list", action="store_true", help="names them")
    parser.add_argument("--check", action="store_true", help="only whether each fits the sources")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="seeds at a time")
    parser.add_argument("--table", type=Path, help="writes the results there as a Markdown table")
    options = parser.parse_args(arguments)
    try:
        mutants = load(MUTANTS)
        unknown = set(options.names) - {mutant.name for mutant in mutants}
        if unknown:
            raise MutantError(f"there is no mutant {', '.join(sorted(unknown))}: see --list")
        if options.names:
            mutants = [mutant for mutant in mutants if mutant.name in options.names]
        if options.list:
            for mutant in mutants:
                print(f"{mutant.name:<44} {mutant.rule:<4} {mutant.breaks}")
            return 0
        if wrong := check(ROOT, mutants):
            raise MutantError("\n".join(wrong))
        if options.check:
            print(f"{len(mutants)} mutants fit the sources")
            return 0
        bench = Bench(ROOT, WORK, options.jobs)
        results = try_all(bench, mutants, lambda line: print(line, flush=True))
    except MutantError as error:
        print(f"mutants: {error}", file=sys.stderr)
        return 1
    if options.table:
        options.table.write_text(markdown(results))
    missed = [result.mutant.name for result in results if result.finding is None]
    print(f"{len(results) - len(missed)} of {len(results)} mutants found")
    if missed:
        print(f"mutants: not found: {', '.join(missed)}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
