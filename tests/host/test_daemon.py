"""The daemon from start to end, around a fake core: what it waits for, and what it does not."""

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import pytest

from blockd.config.host import HostSettings
from blockd.host import agent as agent_module
from blockd.host import daemon, stores
from blockd.host.identity import DataDir
from blockd.model.errors import AddressInUse, BlockdError, OlderCopy, StoreForeign
from tests.host import fake_core
from tests.host.fake_metadata import FakeMetadata, make_volume


class Started:
    """A daemon that runs as a task of the test."""

    def __init__(self, task: "asyncio.Task[None]", cores: list[fake_core.Core]) -> None:
        self.task = task
        self.cores = cores

    @property
    def core(self) -> fake_core.Core:
        return self.cores[-1]

    async def stop(self) -> None:
        """What the operator does."""
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(self.task, 10)


@pytest.fixture
def cores(monkeypatch: pytest.MonkeyPatch) -> list[fake_core.Core]:
    made: list[fake_core.Core] = []

    def make(**options: object) -> fake_core.Core:
        made.append(fake_core.Core(**options))  # type: ignore[arg-type]
        return made[-1]

    monkeypatch.setattr(daemon.native, "Core", make)
    monkeypatch.setattr(stores.native, "format_store", fake_core.format_store)
    monkeypatch.setattr(agent_module, "HEARTBEAT_S", 0.05)
    monkeypatch.setattr(daemon, "RETRY_S", 0.05)
    return made


@pytest.fixture
async def host(cores, metadata: FakeMetadata, tmp_path: Path) -> AsyncIterator[object]:
    """Starts daemons on `tmp_path`; ends them with the test."""
    (tmp_path / "store").touch()
    endpoint = await metadata.serve()
    running: list[Started] = []

    async def start(**changes: object) -> Started:
        values = {
            "name": "here",
            "site": "paris",
            "data_dir": tmp_path / "data",
            "stores": [tmp_path / "store"],
            "meta": [endpoint],
            "listen": "127.0.0.1:0",
            "peer_listen": "127.0.0.1:0",
            "nbd_tcp": "127.0.0.1:0",
            "nbd_unix": tmp_path / "nbd.sock",
            "metrics_listen": "",
            "format": True,
            **changes,
        }
        settings = HostSettings.load(flags=values, environ={})
        running.append(Started(asyncio.create_task(daemon.run(settings)), cores))
        return running[-1]

    yield start
    for started in running:
        started.task.cancel()
        with contextlib.suppress(asyncio.CancelledError, BlockdError):
            await started.task


async def test_it_formats_joins_registers_and_stops(
    host, metadata, eventually, tmp_path: Path
) -> None:
    started = await host()
    await eventually(lambda: metadata.hosts)
    (message,) = metadata.hosts.values()
    assert message.peer_endpoint.startswith("tcp:127.0.0.1:")
    assert len(message.stores) == 1
    await started.stop()
    assert ("close",) in started.core.calls
    with contextlib.closing(DataDir.open(tmp_path / "data")) as data_dir:
        assert data_dir.identity.cluster_id == metadata.cluster_id


async def test_a_new_host_waits_for_the_metadata_service(
    host, metadata, cores, eventually, caplog
) -> None:
    endpoint = metadata.server.endpoint
    await metadata.stop()
    started = await host()
    await eventually(lambda: "still trying" in caplog.text)
    assert not cores
    await metadata.serve(endpoint)
    await eventually(lambda: metadata.hosts)
    await started.stop()


async def test_it_stops_while_it_waits(host, metadata, eventually, caplog) -> None:
    await metadata.stop()
    started = await host()
    await eventually(lambda: "still trying" in caplog.text)
    await started.stop()


async def test_a_known_host_serves_its_replicas_without_the_metadata_service(
    host, metadata, cores, eventually
) -> None:
    started = await host()
    await eventually(lambda: metadata.hosts)
    await started.stop()
    await metadata.stop()
    again = await host()
    await eventually(lambda: len(cores) == 2 and any("tcp:" in e for e in cores[1].listening))
    await asyncio.sleep(0.1)
    assert not again.task.done()
    await again.stop()


async def test_stopping_detaches_and_a_restart_takes_up_again(
    host, metadata, cores, eventually
) -> None:
    started = await host()
    await eventually(lambda: metadata.hosts)
    host_id = started.core.host_id
    volume = make_volume(host_id)
    metadata.volumes[volume.id] = volume
    metadata.hosts.clear()  # so that it registers again and learns of its attachment
    await eventually(lambda: started.core.exports)
    await started.stop()
    assert not started.core.volumes
    assert volume.attachment.host_id == str(host_id)
    again = await host()
    await eventually(lambda: len(cores) == 2 and cores[1].exports)
    assert volume.attachment.epoch == 3
    await again.stop()


async def test_an_older_copy_of_a_store_ends_it_each_time_before_it_serves(
    host, metadata, cores, eventually, tmp_path: Path
) -> None:
    started = await host()
    await eventually(lambda: metadata.hosts)
    (store_id,) = started.core.stores
    await started.core.create_replica(store_id, uuid4(), 0, 16)
    await started.stop()
    copy = (tmp_path / "store").read_bytes()
    started = await host()
    await eventually(lambda: len(cores) == 2 and started.core.listening)
    await started.stop()
    newest = (tmp_path / "store").read_bytes()
    (tmp_path / "store").write_bytes(copy)
    for _ in range(2):
        again = await host()
        with pytest.raises(OlderCopy, match=str(tmp_path / "store")):
            await asyncio.wait_for(again.task, 10)
        assert again.core.listening == []
        assert ("close",) in again.core.calls
    (tmp_path / "store").write_bytes(newest)
    started = await host()
    await eventually(lambda: len(cores) == 5 and started.core.listening)
    await started.stop()


async def test_another_cluster_ends_it(host, metadata, eventually) -> None:
    started = await host()
    await eventually(lambda: metadata.hosts)
    await started.stop()
    metadata.cluster_id = uuid4()
    again = await host()
    with pytest.raises(StoreForeign):
        await asyncio.wait_for(again.task, 10)


async def test_the_settings_cluster_must_be_that_of_the_service(host) -> None:
    started = await host(cluster_id=str(uuid4()))
    with pytest.raises(StoreForeign, match="settings say cluster"):
        await asyncio.wait_for(started.task, 10)


@pytest.mark.parametrize("setting", ["listen", "metrics_listen"])
async def test_an_address_that_is_taken_ends_it(host, setting: str) -> None:
    with contextlib.closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        endpoint = "{}:{}".format(*taken.getsockname())
        started = await host(**{setting: endpoint})
        with pytest.raises(AddressInUse, match=endpoint):
            await asyncio.wait_for(started.task, 10)


async def test_an_old_socket_file_is_replaced(host, metadata, eventually, tmp_path) -> None:
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as left:
        left.bind(str(tmp_path / "nbd.sock"))
    started = await host()
    await eventually(lambda: metadata.hosts)
    assert not (tmp_path / "nbd.sock").exists()  # the fake core makes none
    await started.stop()
