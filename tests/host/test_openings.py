"""The newest opening of each store is kept, over restarts, and never falls."""

from pathlib import Path
from uuid import UUID, uuid4

import pytest

from blockd.host.openings import Openings
from blockd.model.errors import StoreDamaged
from blockd.native.values import StoreInfo

STORE = uuid4()


def opening(incarnation: int, store_id: UUID = STORE) -> StoreInfo:
    return StoreInfo(store_id, "/srv/store", 1 << 30, 0, 1 << 20, 0, 1, incarnation=incarnation)


def test_openings_go_on_over_restarts(tmp_path: Path) -> None:
    assert Openings(tmp_path).newest == {}
    for incarnation in (1, 2, 5):
        Openings(tmp_path).record(opening(incarnation))
    other = uuid4()
    Openings(tmp_path).record(opening(1, other))
    Openings(tmp_path).record(opening(6))
    assert Openings(tmp_path).newest == {STORE: 6, other: 1}


def test_a_lower_one_changes_nothing(tmp_path: Path) -> None:
    openings = Openings(tmp_path)
    openings.record(opening(5))
    for incarnation in (1, 4, 5):
        openings.record(opening(incarnation))
        assert openings.newest == Openings(tmp_path).newest == {STORE: 5}


@pytest.mark.parametrize("text", ["", "[]", '{"x": 1}', '{"x"', "3"])
def test_a_damaged_record_is_not_replaced(tmp_path: Path, text: str) -> None:
    (tmp_path / "stores.json").write_text(text)
    with pytest.raises(StoreDamaged, match=r"stores\.json is damaged"):
        Openings(tmp_path)
    assert (tmp_path / "stores.json").read_text() == text
