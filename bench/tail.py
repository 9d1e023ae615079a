"""What a frozen or slow replica costs writers: `python -m bench.tail [--rounds 5] [--seconds 5]`.

In each round 4 KiB writes are timed while all three replicas are well, then while one of them is
stopped (SIGSTOP), and then while it runs for one hundredth of the time; ratios are taken within the
round. The first second of each trouble is told apart: in it the engine finds out about a frozen
replica and has it taken out of the in-sync set.
"""

import argparse
import signal
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from bench.live import HOSTS, Live, longest_stall, measured, quantile

RATIO_TARGET = 2.0
STALL_TARGET_S = 0.1
FIRST_S = 1.0
WARM_WRITES = 200


@dataclass(frozen=True)
class Phase:
    """Latencies in seconds; stall: the longest time without an answer."""

    writes: int
    p50: float
    p99: float
    worst: float
    stall: float


@dataclass(frozen=True)
class Round:
    healthy: Phase
    freezing: Phase
    frozen: Phase
    slowing: Phase
    slow: Phase
    left_after: float  # from the stop until the agreed set was the smaller one


def main(argv: list[str] | None = None) -> int:
    options = parse_options(argv)
    rounds = measured("tail", options, lambda folder: run(folder, options))
    if rounds is None:
        return 1
    met = report(rounds)
    return int(options.check and not met)


def parse_options(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench.tail", description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5, help="of each phase")
    parser.add_argument("--depth", type=int, default=1, help="writes in flight")
    parser.add_argument("--dir", type=Path, default=Path("."), help="where the files go")
    parser.add_argument("--out", type=Path, default=Path("build/bench"))
    parser.add_argument("--check", action="store_true", help="fail when a target is missed")
    return parser.parse_args(argv)


def run(folder: Path, options: argparse.Namespace) -> list[Round]:
    live = Live(folder, options.depth)
    try:
        return [one(live, options.seconds) for _ in range(options.rounds)]
    finally:
        live.close()


def one(live: Live, seconds: float) -> Round:
    victim = next(host for host in HOSTS if host != live.holder)
    live.wait_written(time.monotonic(), WARM_WRITES)
    live.wait_in_sync(len(HOSTS))
    time.sleep(1)  # what the resync left to do
    begin = time.monotonic()
    time.sleep(seconds)
    frozen = live.signal(victim, signal.SIGSTOP)
    try:
        live.wait_in_sync(len(HOSTS) - 1)
        left = time.monotonic()
        time.sleep(max(0.0, frozen + FIRST_S + seconds - time.monotonic()))
        thawed = time.monotonic()
        live.wait_written(thawed)  # what was called before has been answered as well
    finally:
        live.signal(victim, signal.SIGCONT)
    live.wait_in_sync(len(HOSTS))
    time.sleep(1)
    slowed = time.monotonic()
    with live.slowed(victim):
        time.sleep(FIRST_S + seconds)
        end = time.monotonic()
        live.wait_written(end)
    return Round(
        healthy=phase(live, begin, frozen),
        freezing=phase(live, frozen, frozen + FIRST_S),
        frozen=phase(live, frozen + FIRST_S, thawed),
        slowing=phase(live, slowed, slowed + FIRST_S),
        slow=phase(live, slowed + FIRST_S, end),
        left_after=left - frozen,
    )


def phase(live: Live, begin: float, end: float) -> Phase:
    writes = live.writes(begin - FIRST_S, end)
    latencies = [write.latency for write in writes if begin <= write.called]
    return Phase(
        writes=len(latencies),
        p50=quantile(latencies, 0.5),
        p99=quantile(latencies, 0.99),
        worst=max(latencies),
        stall=longest_stall(writes, begin, end),
    )


PHASES = (
    ("all replicas well", "healthy"),
    ("one frozen, first second", "freezing"),
    ("one frozen, afterwards", "frozen"),
    ("one 100 times slower, first second", "slowing"),
    ("one 100 times slower, afterwards", "slow"),
)


def report(rounds: list[Round]) -> bool:
    """Whether the targets are met: the median of each ratio, the worst stall."""
    print(f"{len(rounds)} rounds, ms, medians      writes     p50     p99     max   stall   worst")
    for title, name in PHASES:
        phases = [getattr(one, name) for one in rounds]
        columns = [
            statistics.median(getattr(p, field) for p in phases) * 1e3
            for field in ("p50", "p99", "worst", "stall")
        ]
        columns.append(max(p.stall for p in phases) * 1e3)
        writes = statistics.median(p.writes for p in phases)
        print(f"{title:35}{writes:6.0f}" + "".join(f"{c:8.2f}" for c in columns))
    met = True
    for name in ("frozen", "slow"):
        ratios = [getattr(one, name).p99 / one.healthy.p99 for one in rounds]
        ratio = statistics.median(ratios)
        print(f"p99 {name} to p99 healthy: {ratio:.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
        met = met and ratio <= RATIO_TARGET
    left = statistics.median(one.left_after for one in rounds)
    print(f"the frozen replica was out of the in-sync set after {left:.2f} s")
    stalls = [getattr(one, name).stall for one in rounds for _, name in PHASES]
    return met and max(stalls) <= STALL_TARGET_S


if __name__ == "__main__":
    sys.exit(main())
