"""Stores that stall: noticed by the clock, told once, and trusted again only after a while."""

import asyncio
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from uuid import uuid4

import pytest

from blockd.host import store_health
from blockd.host.space import SpaceWatch, Thresholds
from blockd.host.store_health import (
    GOOD_IN_A_ROW,
    PROBE_DEADLINE_S,
    StoreHealth,
    in_own_thread,
    read_first_block,
)
from blockd.model.errors import DiskError
from blockd.native.values import StoreInfo


@dataclass
class Disks:
    """A core of two stores, and what trying them does: `stuck` ones do not come back."""

    infos: list[StoreInfo]
    stuck: set[str] = field(default_factory=set)
    failing: set[str] = field(default_factory=set)
    begun: int = 0

    async def store_infos(self) -> list[StoreInfo]:
        return self.infos

    async def probe(self, info: StoreInfo) -> None:
        self.begun += 1
        while info.path in self.stuck:
            await asyncio.sleep(0.001)
        if info.path in self.failing:
            raise DiskError("no")


class Told(list):
    def tell(self, kind: str, message: str, **details: object) -> None:
        self.append((kind, details["path"]))


class Rig:
    def __init__(self) -> None:
        infos = [StoreInfo(uuid4(), path, 1000, 0, 1, 0, 3) for path in ("/srv/a", "/srv/b")]
        self.disks = Disks(infos)
        self.told = Told()
        self.health = StoreHealth(self.disks, self.told, self.disks.probe)  # type: ignore[arg-type]
        self.now = 0.0

    async def looks(self, count: int) -> None:
        """One a second."""
        for _ in range(count):
            await self.health.look(self.now)
            await asyncio.sleep(0.005)
            self.now += 1.0

    def stalled(self) -> list[str]:
        return [one.path for one in self.disks.infos if self.health.stalled(one.store_id)]


async def test_a_store_that_stalls_is_told_once_and_not_tried_again_meanwhile() -> None:
    rig = Rig()
    await rig.looks(3)
    rig.disks.stuck.add("/srv/b")
    await rig.looks(2)
    begun = rig.disks.begun
    await rig.looks(int(PROBE_DEADLINE_S) + 20)
    assert rig.stalled() == ["/srv/b"]
    assert rig.told == [("store.stalled", "/srv/b")]
    assert rig.disks.begun - begun == int(PROBE_DEADLINE_S) + 20  # the other store's
    rig.disks.stuck.clear()
    await asyncio.sleep(0.01)


async def test_it_is_trusted_again_only_after_so_many_good_tries_in_a_row() -> None:
    rig = Rig()
    rig.disks.failing.add("/srv/a")
    await rig.looks(2)
    assert rig.stalled() == ["/srv/a"]
    for _ in range(3):  # it comes and goes
        rig.disks.failing.clear()
        await rig.looks(GOOD_IN_A_ROW - 2)
        assert rig.stalled() == ["/srv/a"]
        rig.disks.failing.add("/srv/a")
        await rig.looks(2)
    rig.disks.failing.clear()
    await rig.looks(GOOD_IN_A_ROW + 2)
    assert rig.stalled() == []
    assert rig.told == [("store.stalled", "/srv/a"), ("store.recovered", "/srv/a")]


async def test_a_try_that_ends_late_is_a_stall() -> None:
    rig = Rig()
    rig.disks.stuck.add("/srv/a")
    await rig.looks(1)
    rig.disks.stuck.clear()
    rig.now += PROBE_DEADLINE_S + 1
    await asyncio.sleep(0.01)
    await rig.looks(1)
    assert rig.stalled() == ["/srv/a", "/srv/b"]  # neither was looked at in time


async def test_a_daemon_that_was_stopped_itself_blames_no_store(monkeypatch) -> None:
    now = 0.0
    monkeypatch.setattr(store_health, "time", SimpleNamespace(monotonic=lambda: now))
    monkeypatch.setattr(store_health, "PROBE_EVERY_S", 0.005)
    rig = Rig()
    rig.disks.stuck.add("/srv/a")
    looking = asyncio.create_task(rig.health.run())
    await asyncio.sleep(0.05)
    now += 10 * PROBE_DEADLINE_S
    await asyncio.sleep(0.05)
    rig.disks.stuck.clear()
    await asyncio.sleep(0.05)
    looking.cancel()
    await asyncio.gather(looking, return_exceptions=True)
    assert rig.told == []


def test_a_stalled_store_says_so_in_its_state() -> None:
    info = StoreInfo(uuid4(), "/s", 1000, 990, 1 << 20, 0, 0)
    watch = SpaceWatch(Thresholds(), lambda store_id: store_id == info.store_id)
    assert watch.look(info) == "stalled"


def test_a_stall_between_two_looks_changes_no_threshold() -> None:
    info = StoreInfo(uuid4(), "/s", 1000, 950, 1 << 20, 0, 0)
    stalled: set[object] = set()
    watch = SpaceWatch(Thresholds(80, 95), lambda store_id: store_id in stalled)
    assert watch.look(info) == "full"
    stalled.add(info.store_id)
    assert watch.look(info) == "stalled"
    stalled.clear()
    assert watch.look(replace(info, allocated_bytes=930)) == "full"  # less than two percent below


async def test_reading_is_real_and_errors_arrive(tmp_path: Path) -> None:
    store = tmp_path / "store"
    store.write_bytes(bytes(8192))
    await in_own_thread(lambda: read_first_block(str(store)))
    store.write_bytes(b"short")
    with pytest.raises(OSError, match="less than a block"):
        await in_own_thread(lambda: read_first_block(str(store)))
