"""blockctl against a whole metadata service with a real etcd and fake hosts.

The service runs in a thread with an event loop of its own, since each command has its own loop too.
"""

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import pytest

from blockd.cli import blockctl
from tests.meta.etcd_process import running
from tests.meta.rig import Rig, running_rig

Answer = TypeVar("Answer")


@dataclass
class Done:
    """A finished command."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Cluster:
    """do() runs something on the service's loop; ctl() runs a command."""

    def __init__(self, capture: pytest.CaptureFixture[str]) -> None:
        self.rig: Rig
        self.loop = asyncio.new_event_loop()
        self._capture = capture

    def do(self, work: Callable[[Rig], Awaitable[Answer]]) -> Answer:
        async def call() -> Answer:
            return await work(self.rig)

        return asyncio.run_coroutine_threadsafe(call(), self.loop).result(30)

    def ctl(self, *arguments: str) -> Done:
        self._capture.readouterr()
        code = blockctl.run(["--meta", self.rig.endpoint, *arguments])
        captured = self._capture.readouterr()
        assert "Traceback" not in captured.err
        return Done(code, captured.out, captured.err)

    def ok(self, *arguments: str) -> Done:
        done = self.ctl(*arguments)
        assert done.code == 0, done.err
        return done


@pytest.fixture(scope="session")
def etcd_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running(tmp_path_factory.mktemp("etcd")) as members:
        yield members[0].endpoint


@pytest.fixture
def cluster(etcd_endpoint: str, capsys: pytest.CaptureFixture[str]) -> Iterator[Cluster]:
    """Three sites with a host each."""
    cluster = Cluster(capsys)
    ready, stop = threading.Event(), asyncio.Event()

    async def serve() -> None:
        async with running_rig(etcd_endpoint) as rig:
            await rig.add_cluster()
            cluster.rig = rig
            ready.set()
            await stop.wait()

    def main() -> None:
        try:
            cluster.loop.run_until_complete(serve())
        finally:
            ready.set()

    thread = threading.Thread(target=main)
    thread.start()
    ready.wait(60)
    yield cluster
    cluster.loop.call_soon_threadsafe(stop.set)
    thread.join(60)
    cluster.loop.close()
