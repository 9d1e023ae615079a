"""What a rebuild takes, and what it costs clients: `python -m bench.rebuild [--rounds 3]`.

A volume is written full. In each round

* a store is formatted anew and its replica rebuilt while no client asks for anything: its rate, set
  against a sequential copy of as much with O_DIRECT on the same file system (dd), right before;
* 4 KiB writes and reads, one of each in flight, are timed with all replicas well, with one away,
  and while that one is rebuilt; what counts is the ratio of the p99 to that with all well;
* a host with a replica is killed (-9) under these writes, started a second later, and the time
  until it is in sync again taken, from the start of its process and from when its daemon answers;
* a host that is rebuilt is killed half-way, and started again; then the one that serves the volume,
  which is attached at the third host. What counts is how much is copied all in all.
"""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.candidates import CandidateError
from bench.cluster import BIN
from bench.live import HOSTS, Client, Live, measured, quantile
from blockd.model.errors import BlockdError
from blockd.rpc.channel import HostClient
from blockd.rpc.gen import host_pb2

RATE_TARGET = 0.6
P99_TARGET = 2.0
BACK_TARGET_S = 5.0
AGAIN_TARGET = 1.25  # of the volume, copied in all, when a side is killed half-way
AWAY_S = 1.0
POLL_S = 0.05
REST_S = 2.0
REBUILD_S = 600.0


@dataclass(frozen=True)
class Latency:
    """Seconds."""

    count: int
    p50: float
    p99: float


@dataclass(frozen=True)
class Loaded:
    healthy: Latency
    away: Latency
    rebuilding: Latency


@dataclass(frozen=True)
class Round:
    """Rates in bytes a second, times in seconds, copied: parts of the volume."""

    raw_rate: float
    idle_rate: float
    loaded_rate: float
    writes: Loaded
    reads: Loaded
    back_since_start: float
    back_since_up: float
    copied_joiner_killed: float
    copied_engine_killed: float


def main(argv: list[str] | None = None) -> int:
    options = parse_options(argv)
    rounds = measured("rebuild", options, lambda folder: run(folder, options))
    if rounds is None:
        return 1
    met = report(rounds)
    return int(options.check and not met)


def parse_options(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench.rebuild", description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--mib", type=int, default=2048, help="size of the volume")
    parser.add_argument("--seconds", type=float, default=5, help="of each phase without a rebuild")
    parser.add_argument("--dir", type=Path, default=Path("."), help="where the files go")
    parser.add_argument("--out", type=Path, default=Path("build/bench"))
    parser.add_argument("--check", action="store_true", help="fail when a target is missed")
    return parser.parse_args(argv)


def run(folder: Path, options: argparse.Namespace) -> list[Round]:
    size = options.mib << 20
    span = size // 4096
    live = Live(folder, 1, volume_bytes=size, span_blocks=span)
    bench = Rebuild(live, folder, size, options.seconds)
    live.clients.append(Client(folder / "reads", "--read", "--span-blocks", str(span)))
    try:
        live.serve_at("")
        bench.fill()
        return [bench.round() for _ in range(options.rounds)]
    finally:
        live.close()


class Rebuild:
    """The steps of a round."""

    def __init__(self, live: Live, folder: Path, size: int, seconds: float) -> None:
        self.live = live
        self.folder = folder
        self.size = size
        self.seconds = seconds

    def fill(self) -> None:
        """Every chunk of the volume, and the file that dd copies."""
        uri = self.live.attach(self.live.holder)
        fio = ["fio", "--name=fill", "--rw=write", "--bs=256k", "--iodepth=8", "--ioengine=nbd"]
        run_quietly([*fio, f"--uri={uri}", f"--size={self.size}"])
        raw = ["fio", "--name=raw", "--rw=write", "--bs=1M", "--direct=1", f"--size={self.size}"]
        run_quietly([*raw, f"--filename={self.folder / 'raw'}"])
        self.copy_raw()  # the file is made

    def round(self) -> Round:
        raw = self.copy_raw()
        idle = self.idle()
        writes, reads, loaded_rate = self.loaded()
        since_start, since_up = self.blip()
        return Round(
            raw_rate=raw,
            idle_rate=idle,
            loaded_rate=loaded_rate,
            writes=writes,
            reads=reads,
            back_since_start=since_start,
            back_since_up=since_up,
            copied_joiner_killed=self.joiner_killed(),
            copied_engine_killed=self.engine_killed(),
        )

    def copy_raw(self) -> float:
        began = time.monotonic()
        files = [f"if={self.folder / 'raw'}", f"of={self.folder / 'raw.copy'}"]
        run_quietly(["dd", *files, "bs=1M", "iflag=direct", "oflag=direct", "conv=notrunc"])
        return self.size / (time.monotonic() - began)

    def idle(self) -> float:
        """The rate of a rebuild that has the machine to itself."""
        self.empty(self.victim())
        return self.rebuild(self.victim())

    def loaded(self) -> tuple[Loaded, Loaded, float]:
        """What clients see; and the rate of the rebuild meanwhile."""
        marks = []
        self.live.serve_at(self.uri())
        self.live.wait_written(time.monotonic())
        marks.append(self.watch())
        self.empty(self.victim())
        self.live.wait_in_sync(len(HOSTS) - 1)
        marks.append(self.watch())
        began = time.monotonic()
        rate = self.rebuild(self.victim())
        marks.append((self.copy_began, time.monotonic()))
        self.live.serve_at("")
        print(f"  under load: {rate / 1e6:.0f} MB/s for {marks[-1][1] - began:.1f} s", flush=True)
        phases = [[latency(client, *mark) for mark in marks] for client in self.live.clients]
        return Loaded(*phases[0]), Loaded(*phases[1]), rate

    def watch(self) -> tuple[float, float]:
        began = time.monotonic()
        time.sleep(self.seconds)
        return began, time.monotonic()

    def blip(self) -> tuple[float, float]:
        """Seconds until a replica that was away for one is in sync again."""
        self.live.serve_at(self.uri())
        self.live.wait_written(time.monotonic(), 100)
        victim = self.victim()
        killed = self.live.kill(victim)
        time.sleep(max(0.0, killed + AWAY_S - time.monotonic()))
        started = time.monotonic()
        self.live.start(victim)
        up = time.monotonic()
        self.live.wait_in_sync(len(HOSTS))
        back = time.monotonic()
        self.live.serve_at("")
        return back - started, back - up

    def joiner_killed(self) -> float:
        """What both lives of the joiner were brought, in volumes."""
        victim = self.victim()
        self.empty(victim)
        before = self.copied()
        self.start_and_wait(victim, lambda: self.copied() - before > self.size / 2)
        self.live.kill(victim)
        self.rebuild(victim)
        return (self.copied() - before) / self.size

    def engine_killed(self) -> float:
        """What both engines have copied, in volumes."""
        victim, old = self.victim(), self.live.holder
        self.empty(victim)
        before = self.copied()
        self.start_and_wait(victim, lambda: self.copied() - before > self.size / 2)
        first = self.copied() - before
        self.live.kill(old)
        self.live.attach(next(host for host in HOSTS if host not in (victim, old)))
        self.wait_rebuilt(2)
        second = self.copied()
        self.live.start(old)
        self.live.wait_in_sync(len(HOSTS))
        return (first + second) / self.size

    # Its parts.

    def victim(self) -> str:
        return next(host for host in HOSTS if host != self.live.holder)

    def uri(self) -> str:
        return self.live.attach(self.live.holder)

    def empty(self, host: str) -> None:
        """Kill it, and put an empty store in the place of its store."""
        self.live.wait_in_sync(len(HOSTS))
        time.sleep(REST_S)
        self.live.kill(host)
        path = str(self.live.directory / host / "store.img")
        store = [str(BIN / "blockd"), "store"]
        info = json.loads(run_quietly([*store, "info", path, "-o", "json"]))
        os.truncate(path, 0)
        os.truncate(path, info["capacity_bytes"])
        ids = ["--cluster-id", info["cluster_id"], "--store-id", info["store_id"]]
        run_quietly([*store, "format", path, *ids, "--force", "--no-qualify"])
        self.live.wait_in_sync(len(HOSTS) - 1)
        time.sleep(REST_S)

    def rebuild(self, host: str) -> float:
        """Start the host and wait until it is in sync; bytes a second since copying began."""
        before = self.copied()
        self.start_and_wait(host, lambda: self.copied() > before)
        self.copy_began = time.monotonic()
        at_begin = self.copied()
        self.wait_rebuilt(len(HOSTS))
        return (self.copied() - at_begin) / (time.monotonic() - self.copy_began)

    def start_and_wait(self, host: str, condition: Callable[[], bool]) -> None:
        """The daemon's start goes on while the condition is waited for."""
        thread = threading.Thread(target=self.live.start, args=(host,))
        thread.start()
        self.wait(condition, "the rebuild gets on")
        thread.join()

    def wait_rebuilt(self, count: int) -> None:
        self.wait(lambda: self.live.in_sync() == count, f"{count} replicas are in sync")

    def wait(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + REBUILD_S
        while not condition():
            if time.monotonic() > deadline:
                raise CandidateError(f"not within {REBUILD_S:.0f} s: {what}")
            time.sleep(POLL_S)

    def copied(self) -> int:
        """By the engine, since it was made."""

        async def ask() -> host_pb2.AttachmentStatus:
            client = HostClient()
            try:
                return await client.call(
                    self.live.endpoint(self.live.holder),
                    lambda stub: stub.GetAttachment,
                    host_pb2.GetAttachmentRequest(volume_id=self.live.volume_id),
                    timeout=5,
                )
            finally:
                await client.close()

        try:
            return asyncio.run(ask()).counters["resync_bytes"]
        except BlockdError:
            return 0


def run_quietly(argv: list[str]) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise CandidateError(f"{' '.join(argv)}: {done.stderr.strip()}")
    return done.stdout


def latency(client: Client, begin: float, end: float) -> Latency:
    latencies = [one.latency for one in client.seen(begin, end)]
    if not latencies:
        raise CandidateError("no request was answered in a phase")
    return Latency(len(latencies), quantile(latencies, 0.5), quantile(latencies, 0.99))


def report(rounds: list[Round]) -> bool:
    """Whether the targets are met, each by the median over the rounds."""

    def show(title: str, values: list[float], unit: str = "") -> float:
        middle = statistics.median(values)
        print(f"{title:52} {middle:8.2f} ({min(values):.2f} to {max(values):.2f}){unit}")
        return middle

    print(f"{len(rounds)} rounds, medians; load {os.getloadavg()[0]:.1f}")
    show("raw copy", [one.raw_rate / 1e6 for one in rounds], " MB/s")
    show("idle rebuild", [one.idle_rate / 1e6 for one in rounds], " MB/s")
    ratio = show("  to the raw copy", [one.idle_rate / one.raw_rate for one in rounds])
    show("rebuild under load", [one.loaded_rate / 1e6 for one in rounds], " MB/s")
    met = ratio >= RATE_TARGET
    for kind in ("writes", "reads"):
        loads = [getattr(one, kind) for one in rounds]
        for phase in ("healthy", "away", "rebuilding"):
            show(f"p99 of {kind}, {phase}", [getattr(one, phase).p99 * 1e3 for one in loads], " ms")
        p99 = show(
            f"  {kind} rebuilding to healthy",
            [one.rebuilding.p99 / one.healthy.p99 for one in loads],
        )
        show(f"  {kind} rebuilding to away", [one.rebuilding.p99 / one.away.p99 for one in loads])
        met = met and p99 <= P99_TARGET
    show("in sync again after a second away, since its start", [o.back_since_start for o in rounds])
    back = show("  since its daemon answers", [one.back_since_up for one in rounds], " s")
    for title, name in (("joiner", "copied_joiner_killed"), ("engine", "copied_engine_killed")):
        copied = show(f"copied, {title} killed half-way", [getattr(o, name) for o in rounds])
        met = met and copied <= AGAIN_TARGET
    return met and back <= BACK_TARGET_S


if __name__ == "__main__":
    sys.exit(main())
