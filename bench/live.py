"""A volume under load that is hurt while it is measured: a cluster, a writer, and its latencies."""

import argparse
import asyncio
import itertools
import json
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from bench.candidates import CandidateError
from bench.cluster import Cluster
from blockd.dev import cluster as dev
from blockd.dev.state import Cluster as State
from blockd.model.errors import BlockdError
from blockd.rpc.channel import MetaClient
from blockd.rpc.gen import meta_pb2, types_pb2

Round = TypeVar("Round", bound=Any)  # a dataclass

WRITER = Path(__file__).resolve().parent / "writer.py"
PYTHON = "/usr/bin/python3"  # Debian's, which has libnbd's module
HOSTS = ("paris-1", "lyon-1", "marseille-1")
VOLUME = "live"
VOLUME_BYTES = 64 << 20
SPAN_BLOCKS = 4096
ATTACH_S = 30.0
SETTLE_S = 60.0
POLL_S = 0.005
SLOW_STOPPED_S, SLOW_RUNNING_S = 0.099, 0.001


@dataclass(frozen=True)
class Write:
    """One acknowledged write, or read, in seconds of CLOCK_MONOTONIC."""

    called: float
    answered: float

    @property
    def latency(self) -> float:
        return self.answered - self.called


class Client:
    """A process that writes, or with `--read` reads, and notes how long each took (writer.py)."""

    def __init__(self, times: Path, *options: str) -> None:
        self._times = times
        self._times.touch()
        self._read = 0
        self._seen: list[Write] = []
        argv = [PYTHON, str(WRITER), str(times), *options]
        self._process = subprocess.Popen(argv, stdin=subprocess.PIPE, text=True)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()

    def go_to(self, uri: str) -> None:
        """Work there from now on; "": rest."""
        assert self._process.stdin is not None
        self._process.stdin.write(uri + "\n")
        self._process.stdin.flush()

    def seen(self, since: float = 0.0, until: float = float("inf")) -> list[Write]:
        """What was called within [since, until) and answered so far."""
        with self._times.open(encoding="ascii") as file:
            file.seek(self._read)
            text = file.read()
        text = text[: text.rfind("\n") + 1]
        self._read += len(text)
        for line in text.splitlines():
            called, answered = line.split()
            self._seen.append(Write(int(called) / 1e9, int(answered) / 1e9))
        return [one for one in self._seen if since <= one.called < until]


class Live:
    """Three replicas at three sites. holder: the host that serves the volume. writer: writes all
    over its first `span_blocks` as soon as it is served."""

    def __init__(
        self,
        folder: Path,
        depth: int,
        *,
        volume_bytes: int = VOLUME_BYTES,
        span_blocks: int = SPAN_BLOCKS,
    ) -> None:
        self._cluster = Cluster()
        self._cluster.acquire(folder, max(volume_bytes, VOLUME_BYTES * 4))
        self.directory = folder / "cluster"
        self._state = State.load(self.directory)
        self._metas = [process.endpoints["grpc"] for process in self._state.of_role("meta")]
        volume = self._cluster.blockctl("volume", "create", VOLUME, "--size", str(volume_bytes))
        self.volume_id: str = volume["id"]
        options = ("--depth", str(depth), "--span-blocks", str(span_blocks))
        self.writer = Client(folder / "times", *options)
        self.clients = [self.writer]
        self.holder = HOSTS[0]
        self.serve_at(self.attach(self.holder))

    def close(self) -> None:
        for client in self.clients:
            client.close()
        self._cluster.release()

    # Processes.

    def signal(self, host: str, number: signal.Signals) -> float:
        """When it was sent."""
        running = self._state.get(host).running
        sent = time.monotonic()
        if running is None or not running.send(number):
            raise CandidateError(f"{host} is not running")
        return sent

    def kill(self, host: str) -> float:
        """When it was sent; it has ended since."""
        running = self._state.get(host).running
        sent = self.signal(host, signal.SIGKILL)
        assert running is not None
        running.wait_gone(SETTLE_S)
        return sent

    @contextmanager
    def slowed(self, host: str) -> Iterator[None]:
        """Meanwhile the host's daemon runs one hundredth of the time, a millisecond at once."""
        over = threading.Event()

        def hold_up() -> None:
            while not over.is_set():
                self.signal(host, signal.SIGSTOP)
                over.wait(SLOW_STOPPED_S)
                self.signal(host, signal.SIGCONT)
                time.sleep(SLOW_RUNNING_S)

        thread = threading.Thread(target=hold_up)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def start(self, host: str) -> None:
        dev.start_named(self.directory, [host])
        self._state = State.load(self.directory)

    def endpoint(self, host: str) -> str:
        """Where its daemon answers."""
        return self._state.get(host).endpoints["grpc"]

    # The volume.

    def _ask(self, ask: Callable[[MetaClient], object]) -> object:
        async def talk() -> object:
            async with MetaClient(self._metas) as client:
                return await ask(client)  # type: ignore[misc]

        return asyncio.run(talk())

    def attach(self, host: str, standbys: Sequence[str] = ()) -> str:
        """At once, or as soon as it can be; returns the URI."""
        request = meta_pb2.AttachVolumeRequest(name_or_id=VOLUME, host=host, standbys=standbys)
        deadline = time.monotonic() + ATTACH_S
        while True:
            try:
                answer = self._ask(lambda m: m.call(lambda s: s.AttachVolume, request, timeout=10))
                break
            except BlockdError:
                if time.monotonic() > deadline:
                    raise
        assert isinstance(answer, types_pb2.Attachment)
        self.holder = host
        return answer.nbd_uris[0]

    def serve_at(self, uri: str) -> None:
        """The clients go there; "": they rest."""
        for client in self.clients:
            client.go_to(uri)

    def await_move(self, host: str) -> str:
        """Until it is attached there, by nobody's order; returns the URI."""
        self.wait(lambda: self._volume().attachment.host_name == host, f"{VOLUME} is at {host}")
        self.wait(lambda: bool(self._volume().attachment.nbd_uris), f"{VOLUME} is served at {host}")
        self.holder = host
        return self._volume().attachment.nbd_uris[0]

    def in_sync(self) -> int:
        """Replicas, in the segment that has the fewest."""
        segments = self._volume().segments
        return min(sum(member.in_sync for member in segment.members) for segment in segments)

    def _volume(self) -> types_pb2.Volume:
        request = meta_pb2.GetVolumeRequest(name_or_id=VOLUME)
        volume = self._ask(lambda m: m.call(lambda s: s.GetVolume, request, idempotent=True))
        assert isinstance(volume, types_pb2.Volume)
        return volume

    def wait_in_sync(self, count: int) -> None:
        self.wait(lambda: self.in_sync() == count, f"{count} replicas are in sync")

    def wait(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + SETTLE_S
        while not condition():
            if time.monotonic() > deadline:
                raise CandidateError(f"not within {SETTLE_S:.0f} s: {what}")
            time.sleep(POLL_S)

    # What the writer saw.

    def writes(self, since: float = 0.0, until: float = float("inf")) -> list[Write]:
        """Those called within [since, until) and acknowledged so far."""
        return self.writer.seen(since, until)

    def wait_written(self, since: float, count: int = 1) -> float:
        """When the first write that was called after `since` was answered; `count` must be."""
        self.wait(lambda: len(self.writes(since)) >= count, "writes are acknowledged")
        return min(write.answered for write in self.writes(since))


def measured(
    name: str, options: argparse.Namespace, run: Callable[[Path], list[Round]]
) -> list[Round] | None:
    """What `run` has measured in a folder below --dir, which is written to NAME.json below --out as
    well. None: it could not, and has said why."""
    with tempfile.TemporaryDirectory(prefix="bench-", dir=options.dir) as folder:
        try:
            rounds = run(Path(folder).resolve())
        except CandidateError as error:
            print(f"bench: {error}", file=sys.stderr)
            return None
    options.out.mkdir(parents=True, exist_ok=True)
    document = json.dumps([asdict(one) for one in rounds], indent=2)
    (options.out / f"{name}.json").write_text(document + "\n")
    return rounds


def quantile(latencies: Sequence[float], part: float) -> float:
    """The value below which `part` of them lie."""
    ordered = sorted(latencies)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]


def longest_stall(writes: Sequence[Write], begin: float, end: float) -> float:
    """The longest time within [begin, end] in which no write was answered."""
    answers = sorted(w.answered for w in writes if begin < w.answered < end)
    marks = [begin, *answers, end]
    return max(later - earlier for earlier, later in itertools.pairwise(marks))
