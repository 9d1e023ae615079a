"""An older copy of a store is told from the store, and nothing else is taken for one."""

from pathlib import Path
from uuid import UUID, uuid4

import pytest

from blockd.host.openings import Openings
from blockd.model.errors import StoreDamaged
from blockd.native.values import StoreInfo

STORE = uuid4()


def opening(incarnation: int, store_id: UUID = STORE, segments: int = 1) -> StoreInfo:
    return StoreInfo(
        store_id, "/srv/store", 1 << 30, 0, 1 << 20, 0, segments, incarnation=incarnation
    )


def test_openings_go_on_over_restarts(tmp_path: Path) -> None:
    for incarnation in (1, 2, 5):
        Openings(tmp_path).record(opening(incarnation))
    Openings(tmp_path).record(opening(1, uuid4()))
    Openings(tmp_path).record(opening(6))


@pytest.mark.parametrize("incarnation", [1, 4, 5])
def test_an_older_copy_is_refused_with_what_to_do(tmp_path: Path, incarnation: int) -> None:
    Openings(tmp_path).record(opening(5))
    with pytest.raises(StoreDamaged, match="store /srv/store is an older copy") as caught:
        Openings(tmp_path).record(opening(incarnation))
    assert f"--store-id {STORE}" in caught.value.__notes__[0]
    with pytest.raises(StoreDamaged):
        Openings(tmp_path).record(opening(incarnation))
    Openings(tmp_path).record(opening(6))


def test_a_store_without_replicas_cannot_be_old(tmp_path: Path) -> None:
    """It was formatted anew in the other one's place."""
    Openings(tmp_path).record(opening(5))
    Openings(tmp_path).record(opening(1, segments=0))
    Openings(tmp_path).record(opening(2))


@pytest.mark.parametrize("text", ["", "[]", '{"x": 1}', '{"x"', "3"])
def test_a_damaged_record_is_not_replaced(tmp_path: Path, text: str) -> None:
    (tmp_path / "stores.json").write_text(text)
    with pytest.raises(StoreDamaged, match=r"stores\.json is damaged"):
        Openings(tmp_path)
    assert (tmp_path / "stores.json").read_text() == text
