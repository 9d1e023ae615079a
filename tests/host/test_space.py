"""How full a store is, with thresholds and hysteresis."""

from dataclasses import replace
from uuid import uuid4

import pytest

from blockd.host.space import SpaceWatch, Thresholds
from blockd.native.values import StoreInfo

EMPTY = StoreInfo(uuid4(), "/s", 1000, 0, 1 << 20, 0, 0)


@pytest.mark.parametrize(
    ("used", "states"),
    [
        ([0, 799, 800], ["ok", "ok", "nearly-full"]),
        ([949, 950, 1000], ["nearly-full", "full", "full"]),
        ([950, 930, 929], ["full", "full", "nearly-full"]),  # two percent below
        ([800, 780, 779, 799], ["nearly-full", "nearly-full", "ok", "ok"]),
        ([1000, 0, 1000], ["full", "ok", "full"]),
        ([950, 780, 779], ["full", "nearly-full", "ok"]),
    ],
)
def test_states_change_at_thresholds_and_back_below_them(
    used: list[int], states: list[str]
) -> None:
    watch = SpaceWatch(Thresholds(80, 95))
    assert [watch.look(replace(EMPTY, allocated_bytes=bytes_)) for bytes_ in used] == states
    assert watch.state(EMPTY.store_id) == states[-1]


def test_a_failed_store_is_failed_however_empty(caplog: pytest.LogCaptureFixture) -> None:
    watch = SpaceWatch(Thresholds())
    assert watch.look(replace(EMPTY, failed="DiskError")) == "failed"
    assert "store /s is failed" in caplog.text


def test_stores_are_told_apart() -> None:
    watch = SpaceWatch(Thresholds())
    other = replace(EMPTY, store_id=uuid4())
    watch.look(replace(EMPTY, allocated_bytes=990))
    assert watch.look(other) == "ok"
    assert watch.state(EMPTY.store_id) == "full"
