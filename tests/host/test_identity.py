"""The data directory: a host keeps its id, counts its starts and belongs to one cluster."""

import contextlib
from pathlib import Path
from uuid import uuid4

import pytest

from blockd.host.identity import DataDir
from blockd.model.errors import InvalidArgument, StoreDamaged, StoreForeign, StoreInUse


def test_the_id_stays_and_the_incarnation_grows(tmp_path: Path) -> None:
    with contextlib.closing(DataDir.open(tmp_path / "d")) as first:
        identity = first.identity
    with contextlib.closing(DataDir.open(tmp_path / "d")) as second:
        assert second.identity.host_id == identity.host_id
        assert second.identity.incarnation == identity.incarnation + 1 == 2


def test_a_second_daemon_is_kept_off(tmp_path: Path) -> None:
    with (
        contextlib.closing(DataDir.open(tmp_path)),
        pytest.raises(StoreInUse, match="another blockd host"),
    ):
        DataDir.open(tmp_path)


def test_the_cluster_is_remembered_and_no_other_joined(tmp_path: Path) -> None:
    cluster = uuid4()
    with contextlib.closing(DataDir.open(tmp_path)) as data_dir:
        assert data_dir.identity.cluster_id is None
        data_dir.join(cluster)
    with contextlib.closing(DataDir.open(tmp_path)) as data_dir:
        data_dir.join(cluster)
        assert data_dir.identity.cluster_id == cluster
        with pytest.raises(StoreForeign, match="belongs to cluster"):
            data_dir.join(uuid4())


@pytest.mark.parametrize("text", ["", "{", "[]", '{"host_id": "x"}', '{"host_id": null}'])
def test_a_damaged_identity_is_not_replaced(tmp_path: Path, text: str) -> None:
    (tmp_path / "identity.json").write_text(text)
    with pytest.raises(StoreDamaged, match=r"identity\.json is damaged"):
        DataDir.open(tmp_path)
    assert (tmp_path / "identity.json").read_text() == text


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidArgument, match="cannot use data_dir"):
        DataDir.open(tmp_path / "file" / "d")
