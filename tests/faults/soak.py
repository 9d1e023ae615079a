"""Faults for as long as one likes: `python -m tests.faults.soak --seconds 600 --seed 7`.

Rounds on one cluster, each a storm or a named scenario on a volume of its own, its history checked
at its end. The seed gives the choices, though not the timing. A round that fails says how to play
it alone, and where its record and the logs are.
"""

import argparse
import os
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

from tests.faults.field import Field, fault_field
from tests.faults.recording import build_checker
from tests.faults.scenarios import SCENARIOS, play
from tests.faults.storm import storm

ROUNDS = {**SCENARIOS, "a storm": storm}
STORMS_OF_TEN = 7


def main() -> int:
    options = parse_options()
    seed = options.seed if options.seed is not None else time.time_ns() % 1_000_000
    print(f"faults: seed {seed}", flush=True)
    build_checker()
    folder = Path(tempfile.mkdtemp(prefix="blockd-faults-"))
    os.environ["BLOCKD_KEEP_LOGS"] = str(folder / "logs")
    with fault_field() as field:
        if options.scenario is not None:
            one(field, options.scenario, seed, folder)
        else:
            many(field, random.Random(seed), folder, options.seconds)
    shutil.rmtree(folder)
    return 0


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tests.faults.soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--scenario", choices=ROUNDS, help="play only this, once, with the seed")
    return parser.parse_args()


def many(field: Field, rng: random.Random, folder: Path, seconds: float) -> None:
    end = time.monotonic() + seconds
    rounds = 0
    while time.monotonic() < end:
        rounds += 1
        name = "a storm" if rng.randrange(10) < STORMS_OF_TEN else rng.choice(list(SCENARIOS))
        one(field, name, rng.randrange(1_000_000), folder)
    print(f"faults: {rounds} rounds, all well", flush=True)


def one(field: Field, name: str, seed: int, folder: Path) -> None:
    began = time.monotonic()
    print(f"  {name}, seed {seed}", flush=True)
    try:
        verdict = play(field, name, ROUNDS[name], seed, folder)
    except BaseException:
        print(f"again: python -m tests.faults.soak --scenario {name!r} --seed {seed}")
        print(f"record and logs: {folder}", flush=True)
        raise
    print(f"  {verdict}, {time.monotonic() - began:.1f} s", flush=True)


if __name__ == "__main__":
    sys.exit(main())
