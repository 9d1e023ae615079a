"""What a frozen replica costs writers: `python -m bench.tail [--rounds 5] [--seconds 5]`.

In each round 4 KiB writes are timed while all three replicas are well, and again while one of them
is stopped (SIGSTOP), after as much time to catch up; ratios are taken within the round. The first
second with the frozen replica is told apart: in it the engine finds out and has the replica taken
out of the in-sync set.
"""

import argparse
import json
import signal
import statistics
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.candidates import CandidateError
from bench.live import HOSTS, Live, longest_stall, quantile

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
    first: Phase
    frozen: Phase
    left_after: float  # from the stop until the agreed set was the smaller one


def main(argv: list[str] | None = None) -> int:
    options = parse_options(argv)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=options.dir) as folder:
        try:
            rounds = run(Path(folder).resolve(), options)
        except CandidateError as error:
            print(f"bench: {error}", file=sys.stderr)
            return 1
    options.out.mkdir(parents=True, exist_ok=True)
    document = json.dumps([asdict(one) for one in rounds], indent=2)
    (options.out / "tail.json").write_text(document + "\n")
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
    live.wait_written(time.monotonic(), WARM_WRITES)
    live.wait_in_sync(len(HOSTS))
    time.sleep(1)  # what the resync left to do
    begin = time.monotonic()
    time.sleep(seconds)
    victim = HOSTS[-1]
    frozen = live.signal(victim, signal.SIGSTOP)
    try:
        live.wait_in_sync(len(HOSTS) - 1)
        left = time.monotonic()
        time.sleep(max(0.0, frozen + FIRST_S + seconds - time.monotonic()))
        end = time.monotonic()
        live.wait_written(end)  # what was called before has been answered as well
    finally:
        live.signal(victim, signal.SIGCONT)
    live.wait_in_sync(len(HOSTS))
    return Round(
        healthy=phase(live, begin, frozen),
        first=phase(live, frozen, frozen + FIRST_S),
        frozen=phase(live, frozen + FIRST_S, end),
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


def report(rounds: list[Round]) -> bool:
    """Whether both targets are met: the ratio's median, the worst stall."""
    print(f"{len(rounds)} rounds, milliseconds, medians    writes     p50     p99     max   stall")
    for title, name in (
        ("all replicas well", "healthy"),
        ("one frozen, first second", "first"),
        ("one frozen, afterwards", "frozen"),
    ):
        phases = [getattr(one, name) for one in rounds]
        columns = [statistics.median(p.writes for p in phases)]
        columns += [
            statistics.median(getattr(p, field) for p in phases) * 1e3
            for field in ("p50", "p99", "worst", "stall")
        ]
        print(f"{title:36}{columns[0]:8.0f}" + "".join(f"{c:8.2f}" for c in columns[1:]))
    ratios = [one.frozen.p99 / one.healthy.p99 for one in rounds]
    ratio = statistics.median(ratios)
    stall = max(max(one.first.stall, one.frozen.stall) for one in rounds)
    left = statistics.median(one.left_after for one in rounds)
    print(f"p99 afterwards to p99 before: {ratio:.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
    print(f"worst stall: {stall * 1e3:.1f} ms; out of the in-sync set after {left:.2f} s")
    return ratio <= RATIO_TARGET and stall <= STALL_TARGET_S


if __name__ == "__main__":
    sys.exit(main())
