"""Stores at start: formatted only when empty and told to, errors that name the path."""

from pathlib import Path
from uuid import uuid4

import pytest

from blockd.host.openings import Openings
from blockd.host.stores import holds_nothing, open_store
from blockd.model.errors import NotFound, OlderCopy, StoreForeign, StoreNotFormatted
from tests.host.fake_core import format_store


async def opened(rig, path: Path, *, format_empty: bool):
    cluster_id = rig.core.cluster_id
    openings = Openings(path.parent)
    return await open_store(
        rig.core, path, cluster_id, openings, format_empty=format_empty, journal=0
    )


async def test_a_missing_store_is_never_made(rig, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="does not exist"):
        await opened(rig, tmp_path / "none", format_empty=True)


async def test_an_unformatted_store_says_what_to_do(rig, tmp_path: Path) -> None:
    path = tmp_path / "store"
    path.write_bytes(bytes(4096))
    with pytest.raises(StoreNotFormatted, match=str(path)) as caught:
        await opened(rig, path, format_empty=False)
    assert "blockd store format" in caught.value.__notes__[0]


async def test_foreign_data_is_not_formatted_over(rig, tmp_path: Path) -> None:
    path = tmp_path / "store"
    path.write_bytes(bytes(4096) + b"precious")
    with pytest.raises(StoreNotFormatted):
        await opened(rig, path, format_empty=True)
    assert path.read_bytes().endswith(b"precious")


async def test_a_foreign_store_is_refused_by_name(rig, tmp_path: Path) -> None:
    path = tmp_path / "store"
    path.touch()
    format_store(str(path), store_id=uuid4(), cluster_id=uuid4())
    with pytest.raises(StoreForeign, match=str(path)):
        await opened(rig, path, format_empty=True)


async def test_each_opening_is_recorded_and_an_older_copy_is_not(rig, tmp_path: Path) -> None:
    path = tmp_path / "store"
    path.touch()
    store_id = uuid4()
    format_store(str(path), store_id=store_id, cluster_id=rig.core.cluster_id)
    await opened(rig, path, format_empty=False)
    await rig.core.create_replica(store_id, uuid4(), 0, 16)
    copy = path.read_bytes()
    assert Openings(tmp_path).newest == {store_id: 1}
    await opened(rig, path, format_empty=False)
    assert Openings(tmp_path).newest == {store_id: 2}
    path.write_bytes(copy)
    for _ in range(3):
        with pytest.raises(OlderCopy, match=str(path)) as caught:
            await opened(rig, path, format_empty=True)
        assert "blockd store format --store-id" in caught.value.__notes__[0]
    assert path.read_bytes() == copy
    assert Openings(tmp_path).newest == {store_id: 2}


def test_empty_means_the_first_mebibyte(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(bytes((1 << 20) - 1))
    assert holds_nothing(path)
    path.write_bytes(bytes((1 << 20) - 1) + b"x")
    assert not holds_nothing(path)
