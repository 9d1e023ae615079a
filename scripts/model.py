#!/usr/bin/env python3
"""The model of the replication protocol, checked with spin: docs/REPLICATION.md, "The model".

Generates the verifier of tests/protocol/replication.pml (spin, gcc) below build/model, runs it, and
prints how much it has seen; when an assertion fails, the story that leads there, a line a step.

    scripts/model.py [NAME...] [--mutant NAME] [--links N] [--crashes N] [--power N] [--kills N]
                     [--seconds S] [--seed N] [--list]

NAME: a configuration; without one all that are small. Exits with 1 if an assertion failed.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ROOT / "tests/protocol"
WORK = ROOT / "build/model"
DEPTH_MAX = 20_000

# Every state whole: nothing is missed. HC4 keeps a hash of 64 bits of each instead.
EXACT = ("-DSAFETY", "-DNOREDUCE")
HASHED = (*EXACT, "-DHC4", "-DRANDOMIZE")


@dataclass(frozen=True)
class Faults:
    links: int = 0
    crashes: int = 0
    power: int = 0
    kills: int = 0

    def environment(self, mutant: int) -> dict[str, str]:
        values = {
            "LINKS": self.links,
            "CRASHES": self.crashes,
            "POWER": self.power,
            "KILLS": self.kills,
            "MUTANT": mutant,
        }
        return os.environ | {name: str(value) for name, value in values.items()}


@dataclass(frozen=True)
class Configuration:
    """What the verifier is built for, and the faults it is run with."""

    bounds: dict[str, int]
    faults: Faults = field(default_factory=Faults)
    flags: tuple[str, ...] = HASHED


SMALL = {
    "two": Configuration({"N": 2}, flags=EXACT),
    "three": Configuration({"N": 3}),
}
LARGE = {
    "two-links": Configuration({"N": 2}, Faults(links=1)),
    "two-power": Configuration({"N": 2}, Faults(power=1)),
    "two-crash": Configuration({"N": 2}, Faults(crashes=1)),
    "two-kill": Configuration({"N": 2}, Faults(kills=1)),
    "two-writes": Configuration({"N": 2, "WRITES": 2, "SLOTS": 2}, Faults(links=1)),
    "two-reads": Configuration({"N": 2, "READS": 1}, Faults(links=1)),
    "three-links": Configuration({"N": 3}, Faults(links=1)),
    "three-power": Configuration({"N": 3}, Faults(power=1)),
    "three-kill": Configuration({"N": 3}, Faults(kills=1)),
    "three-engines": Configuration({"N": 2, "E": 3}, Faults(links=1)),
    "replacement": Configuration({"N": 4, "FIRST": 7, "MIN": 2}, Faults(kills=1)),
}
CONFIGURATIONS = SMALL | LARGE


@dataclass(frozen=True)
class Result:
    complete: bool  # every state was seen
    states: int
    depth: int
    memory_mb: float
    seconds: float
    failed: str  # the assertion; empty: none
    story: tuple[str, ...]

    def __str__(self) -> str:
        if self.failed:
            verdict = "FAILED " + self.failed
        else:
            verdict = "every state" if self.complete else "out of time"
        return (
            f"{self.states} states, depth {self.depth}, {self.memory_mb:.0f} MB, "
            f"{self.seconds:.1f} s: {verdict}"
        )


def mutants() -> dict[str, int]:
    """The rules that can be taken out: name and number, as mutants.pml has them."""
    text = (SOURCES / "mutants.pml").read_text()
    found = re.findall(r"^#define (\w+) +\(mutant == (\d+)\)", text, re.MULTILINE)
    return {name: int(number) for name, number in found}


def build(name: str, configuration: Configuration) -> Path:
    """The directory of the verifier. Raises CalledProcessError: it does not build."""
    place = WORK / name
    place.mkdir(parents=True, exist_ok=True)
    for source in SOURCES.glob("*.pml"):
        shutil.copy(source, place)
    bounds = [f"-D{bound}={value}" for bound, value in configuration.bounds.items()]
    _run(["spin", "-a", *bounds, "replication.pml"], place)
    _run(["gcc", "-O1", "-w", *configuration.flags, "-o", "pan", "pan.c"], place)
    return place


def check(
    place: Path, faults: Faults, *, mutant: int = 0, seconds: float = 600, seed: int = 0
) -> Result:
    """Runs the verifier until it has seen everything, found a failure, or its time is over.

    seed: 0 takes the steps in their order; another one shuffles them, which finds failures sooner.
    """
    environment = faults.environment(mutant)
    run = place / f"run-{mutant}-{faults.links}{faults.crashes}{faults.power}{faults.kills}-{seed}"
    run.mkdir(exist_ok=True)
    shutil.copy(place / "replication.pml", run)
    trail = run / "replication.pml.trail"
    trail.unlink(missing_ok=True)
    command = ["timeout", "-s", "INT", str(seconds), str(place / "pan")]
    command += [f"-m{DEPTH_MAX}", "-n", "-w24"] + ([f"-RS{seed}"] if seed else [])
    done = subprocess.run(
        command, cwd=run, env=environment, capture_output=True, text=True, check=False
    )
    story: tuple[str, ...] = ()
    if trail.exists():
        told = subprocess.run(
            [str(place / "pan"), "-r", "-S"],
            cwd=run,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        story = _story(told.stdout)
    return _result(done.stdout + done.stderr, story, complete=done.returncode == 0)


def _run(command: list[str], place: Path) -> None:
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        print(done.stdout + done.stderr, file=sys.stderr)
        done.check_returncode()


def _story(replay: str) -> tuple[str, ...]:
    lines = []
    for line in replay.splitlines():
        if line.startswith(("spin: trail ends", "#processes")):
            break
        if line.strip():
            lines.append(line.strip())
    return tuple(lines)


def _result(output: str, story: tuple[str, ...], *, complete: bool) -> Result:
    def number(pattern: str) -> float:
        found = re.search(pattern, output)
        return float(found.group(1)) if found else 0.0

    failed = re.search(r"^pan:1: (.*)$", output, re.MULTILINE)
    truncated = "max search depth too small" in output
    return Result(
        complete=complete and not failed and not truncated,
        states=int(number(r"([\d.e+]+) states, stored")),
        depth=int(number(r"depth reached (\d+)")),
        memory_mb=number(r"([\d.]+)\s+total actual memory usage"),
        seconds=number(r"elapsed time ([\d.e+-]+) seconds"),
        failed=failed.group(1) if failed else "",
        story=story,
    )


def _faults(arguments: argparse.Namespace, standard: Faults) -> Faults:
    chosen = {
        name: getattr(arguments, name) if getattr(arguments, name) is not None else value
        for name, value in vars(standard).items()
    }
    return Faults(**chosen)


def main() -> int:
    parser = argparse.ArgumentParser(description="Checks the model of the replication protocol.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="configurations; or all, large")
    parser.add_argument("--mutant", choices=sorted(mutants()), help="a rule to take out")
    for name in vars(Faults()):
        parser.add_argument(f"--{name}", type=int, help="instead of the configuration's")
    parser.add_argument("--seconds", type=float, default=600, help="for each configuration")
    parser.add_argument("--seed", type=int, default=0, help="shuffles the steps")
    parser.add_argument("--list", action="store_true", help="names what there is")
    arguments = parser.parse_args()
    if arguments.list:
        print("configurations:", *CONFIGURATIONS, "\nmutants:", *mutants())
        return 0
    groups = {"all": CONFIGURATIONS, "large": LARGE, "small": SMALL}
    names = [one for name in arguments.names or ["small"] for one in groups.get(name, [name])]
    unknown = [name for name in names if name not in CONFIGURATIONS]
    if unknown:
        parser.error(f"no configuration {unknown[0]}; there are {', '.join(CONFIGURATIONS)}")
    failed = False
    for name in names:
        configuration = CONFIGURATIONS[name]
        place = build(name, configuration)
        result = check(
            place,
            _faults(arguments, configuration.faults),
            mutant=mutants().get(arguments.mutant or "", 0),
            seconds=arguments.seconds,
            seed=arguments.seed,
        )
        print(f"{name}: {result}", flush=True)
        for line in result.story:
            print(f"  {line}")
        failed = failed or bool(result.failed)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
