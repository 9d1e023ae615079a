"""Stores that fail, or begin to: what the operator is told, and how often."""

from dataclasses import replace
from uuid import uuid4

from blockd.host.store_watch import StoreWatch
from blockd.native.values import StoreInfo


class Core:
    """Two stores; a test changes what they say."""

    def __init__(self) -> None:
        self.infos = [StoreInfo(uuid4(), path, 1, 0, 1, 0, 3) for path in ("/srv/a", "/srv/b")]
        self.counters = {info.store_id: {"checksum_errors": 0} for info in self.infos}

    async def store_infos(self) -> list[StoreInfo]:
        return self.infos

    async def stats(self) -> dict[str, object]:
        return {"stores": self.counters}


class Told(list):
    def tell(self, kind: str, message: str, **details: object) -> None:
        self.append((kind, details["path"], message))


async def test_a_store_that_has_failed_is_told_once() -> None:
    core, told = Core(), Told()
    watch = StoreWatch(core, told)  # type: ignore[arg-type]
    await watch.look()
    assert told == []
    core.infos[1] = replace(core.infos[1], failed="DiskError")
    for _ in range(3):
        await watch.look()
    assert [(kind, path) for kind, path, _ in told] == [("store.failed", "/srv/b")]
    assert "3 replicas leave their in-sync sets" in told[0][2]


async def test_errors_that_repeat_are_a_warning_each_time_there_are_ten_times_as_many() -> None:
    core, told = Core(), Told()
    watch = StoreWatch(core, told)  # type: ignore[arg-type]
    store_id = core.infos[0].store_id
    for checksums, reads, expected in ((9, 0, 0), (9, 1, 1), (60, 30, 1), (70, 30, 2), (99, 5, 2)):
        core.counters[store_id] = {"checksum_errors": checksums, "read_errors": reads}
        await watch.look()
        assert len(told) == expected
    assert told[1][:2] == ("store.failing", "/srv/a")
    assert "70 checksum errors and 30 failed reads" in told[1][2]
