"""How long clients wait when a host dies: `python -m bench.failover [--rounds 10]`.

In each round, under a load of 4 KiB writes: a host that only has a replica is killed (-9), and what
counts is the longest time without an acknowledged write; it comes back and is in sync again. Then
the holder is killed and the volume attached at another host at once, as an orchestrator would that
knows; what counts is the time from the kill to the first write acknowledged there, and how much of
it the attaching took. Then the same with a standby and nobody who orders it.
"""

import argparse
import signal
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from bench.live import HOSTS, Live, longest_stall, measured

FAILOVER_TARGET_S = 3.0
WATCH_S = 3.0  # before and after the kill of a replica
WARM_WRITES = 200


@dataclass(frozen=True)
class Round:
    """Seconds. healthy_stall: the longest one in as much time before the replica was killed."""

    attached: float
    failover: float
    moved: float
    unattended: float
    replica_stall: float
    healthy_stall: float


def main(argv: list[str] | None = None) -> int:
    options = parse_options(argv)
    rounds = measured(
        "failover", options, lambda folder: run(folder, options.rounds, options.depth)
    )
    if rounds is None:
        return 1
    report(rounds)
    return int(
        options.check
        and max(max(one.failover, one.unattended) for one in rounds) > FAILOVER_TARGET_S
    )


def parse_options(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench.failover", description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--depth", type=int, default=16, help="writes in flight")
    parser.add_argument("--dir", type=Path, default=Path("."), help="where the files go")
    parser.add_argument("--out", type=Path, default=Path("build/bench"))
    parser.add_argument("--check", action="store_true", help="fail when the target is missed")
    return parser.parse_args(argv)


def run(folder: Path, count: int, depth: int) -> list[Round]:
    live = Live(folder, depth)
    try:
        return [one(live) for _ in range(count)]
    finally:
        live.close()


def one(live: Live) -> Round:
    live.wait_written(time.monotonic(), WARM_WRITES)
    live.wait_in_sync(len(HOSTS))
    time.sleep(WATCH_S)
    first, second = (host for host in HOSTS if host != live.holder)
    killed = live.signal(first, signal.SIGKILL)
    time.sleep(WATCH_S)
    writes = live.writes(killed - 2 * WATCH_S)
    stalls = [longest_stall(writes, at, at + WATCH_S) for at in (killed - WATCH_S, killed)]
    live.wait_in_sync(len(HOSTS) - 1)
    live.start(first)
    live.wait_in_sync(len(HOSTS))

    old = live.holder
    killed = live.signal(old, signal.SIGKILL)
    uri = live.attach(second)
    attached = time.monotonic()
    live.serve_at(uri)
    served = live.wait_written(attached)
    attended = (attached - killed, served - killed)
    live.start(old)
    live.wait_in_sync(len(HOSTS))
    return Round(*attended, *unattended(live, old), stalls[1], stalls[0])


def unattended(live: Live, standby: str) -> tuple[float, float]:
    """Kill to attached there, and to the first write."""
    old = live.holder
    live.attach(old, [standby])
    killed = live.signal(old, signal.SIGKILL)
    uri = live.await_move(standby)
    moved = time.monotonic()
    live.serve_at(uri)
    served = live.wait_written(moved)
    live.start(old)
    live.wait_in_sync(len(HOSTS))
    return moved - killed, served - killed


def report(rounds: list[Round]) -> None:
    print(f"{len(rounds)} rounds, milliseconds          median   worst")
    for title, values in (
        ("kill to first write elsewhere", [one.failover for one in rounds]),
        ("  of which until attached", [one.attached for one in rounds]),
        ("with a standby, by itself", [one.unattended for one in rounds]),
        ("  of which until attached", [one.moved for one in rounds]),
        ("stall when a replica is killed", [one.replica_stall for one in rounds]),
        ("  in as much time before", [one.healthy_stall for one in rounds]),
    ):
        print(f"{title:32} {statistics.median(values) * 1e3:8.1f}{max(values) * 1e3:8.1f}")


if __name__ == "__main__":
    sys.exit(main())
