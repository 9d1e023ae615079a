"""A core's life: started once, closed for good, and never with a buffer pulled away under it."""

import asyncio
import contextlib
import gc
import warnings
from pathlib import Path
from uuid import uuid4

import pytest

from blockd.model.errors import (
    AddressInUse,
    BlockdError,
    InvalidArgument,
    NotAttached,
    ShuttingDown,
)
from blockd.native.core import Core
from tests.native.hosts import BUFFER_BYTES


def make_core(**options: int) -> Core:
    settings = {"buffer_bytes": BUFFER_BYTES} | options
    return Core(host_id=uuid4(), cluster_id=uuid4(), **settings)


async def test_start_and_close() -> None:
    core = make_core()
    await core.start()
    with pytest.raises(InvalidArgument):
        await core.start()
    await core.close()
    await core.close()


async def test_close_from_two_tasks() -> None:
    core = make_core()
    await core.start()
    await asyncio.gather(core.close(), core.close())


async def test_commands_outside_of_its_life() -> None:
    core = make_core()
    with pytest.raises(ShuttingDown):
        await core.store_infos()
    await core.start()
    closing = asyncio.create_task(core.close())
    await asyncio.sleep(0)
    with contextlib.suppress(ShuttingDown):
        await core.store_infos()  # before or after the door is shut: an answer either way
    await closing
    with pytest.raises(ShuttingDown):
        await core.store_infos()
    with pytest.raises(ShuttingDown):
        await core.read(uuid4(), 0, 10)


async def test_close_that_is_cancelled_still_closes() -> None:
    core = make_core()
    await core.start()
    closing = asyncio.create_task(core.close())
    await asyncio.sleep(0)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    await core.close()


async def test_events_end_with_the_core() -> None:
    core = make_core()
    await core.start()
    seen: list[object] = []

    async def consume() -> None:
        async for event in core.events():
            seen.append(event)

    consumer = asyncio.create_task(consume())
    await asyncio.sleep(0.01)
    await core.close()
    await asyncio.wait_for(consumer, 5)
    assert seen == []


async def test_forgetting_to_close_warns_and_ends_the_thread() -> None:
    core = make_core()
    await core.start()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        del core
        gc.collect()
    assert any(issubclass(w.category, ResourceWarning) for w in caught)


@pytest.mark.parametrize(
    "options", [{"buffer_bytes": 1}, {"buffer_bytes": 1 << 50}, {"cpu": 1000}, {"lease_us": -1}]
)
async def test_bad_settings_are_refused(options: dict[str, int]) -> None:
    async def attempt() -> None:
        await make_core(**options).start()

    with pytest.raises(InvalidArgument) as caught:
        await attempt()
    assert "\n" not in str(caught.value)


async def test_pinned_to_a_cpu() -> None:
    core = make_core(cpu=0)
    await core.start()
    stats = await core.stats()
    assert stats["stores"] == {}
    await core.close()


async def test_volumes_that_are_not_here() -> None:
    core = make_core()
    await core.start()
    volume = uuid4()
    for call in (
        core.read(volume, 0, 1),
        core.write(volume, 0, b"x"),
        core.flush(volume),
        core.trim(volume, 0, 1),
        core.detach(volume),
        core.volume_status(volume),
        core.nbd_export(volume, "x"),
    ):
        with pytest.raises(NotAttached) as caught:
            await call
        assert caught.value.code == 14
    with pytest.raises(InvalidArgument):
        await core.read(volume, -1, 1)
    with pytest.raises(InvalidArgument):
        await core.write(volume, 1 << 64, b"x")
    with pytest.raises(TypeError):
        await core.flush("not a uuid")  # type: ignore[arg-type]
    await core.close()


async def test_listening(tmp_path: Path) -> None:
    core, other = make_core(), make_core()
    await core.start()
    await other.start()
    bound = await core.nbd_listen("tcp:127.0.0.1:0")
    assert bound.startswith("tcp:127.0.0.1:")
    assert not bound.endswith(":0")
    with pytest.raises(AddressInUse, match=bound.rsplit(":", 1)[1]):
        await other.nbd_listen(bound)
    path = f"unix:{tmp_path}/nbd.sock"
    assert await core.nbd_listen(path) == path
    with pytest.raises(AddressInUse):
        await other.listen_peers(path)
    await core.nbd_close(path)
    with pytest.raises(BlockdError):
        await core.nbd_close(path)
    for nonsense in ("", "tcp:", "tcp:127.0.0.1:99999", "smoke:signals", "tcp:nowhere.invalid:1"):
        with pytest.raises(InvalidArgument):
            await core.nbd_listen(nonsense)
    await core.close()
    await other.nbd_listen(bound)  # free again
    await other.close()
