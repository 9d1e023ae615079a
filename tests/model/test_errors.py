"""The Python errors are those of cext/include/blockd/errors.def, in every column."""

import errno

import grpc
import pytest

from blockd.model import errors, generate
from blockd.model.errors import BlockdError, EpochFenced, error_class, make_error


def test_committed_table_is_what_errors_def_generates() -> None:
    assert generate.MODULE.read_text(encoding="utf-8") == generate.render(generate.read_rows())


def test_every_row_has_its_class() -> None:
    rows = [row for row in generate.read_rows() if row.name != "Ok"]
    assert len(rows) == len(errors.ERRORS)
    for row in rows:
        error = error_class(row.name)
        assert error is error_class(row.number)
        assert error is getattr(errors, row.name)
        assert (error.code, error.kind, error.nbd_errno) == (row.number, row.kind, row.nbd_errno)
        assert (error.grpc_status, error.exit_code) == (row.grpc_status, row.exit_code)
        assert error.meaning == row.meaning


def test_columns_name_things_that_exist() -> None:
    for error in errors.ERRORS:
        assert error.grpc_status in grpc.StatusCode.__members__
        assert hasattr(errno, error.nbd_errno)
        assert error.kind in {"request", "stale", "busy", "medium", "unknown", "config"}
        assert 1 < error.exit_code < 64  # 0 is success, 1 is "anything else"


def test_message_context_and_default_meaning() -> None:
    assert str(EpochFenced()) == EpochFenced.meaning
    error = EpochFenced("fenced by epoch 7", volume="demo", segment=3)
    assert str(error) == "fenced by epoch 7 (volume demo, segment 3)"
    assert error.name == "EpochFenced"
    assert error.context == {"volume": "demo", "segment": 3}


def test_unknown_error_is_the_base_class() -> None:
    with pytest.raises(KeyError):
        error_class(9999)
    error = make_error("ErrorOfTomorrow")
    assert type(error) is BlockdError
    assert "ErrorOfTomorrow" in str(error)
    assert type(make_error(10)) is EpochFenced
