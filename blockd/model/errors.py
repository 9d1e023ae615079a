"""The errors of blockd, as `blockd.model.errors.EpochFenced` and so on.

One table (cext/include/blockd/errors.def) gives each its number, kind, NBD errno, gRPC status and
exit code; see error_base.BlockdError for these attributes and error_table.py for the classes.
"""

from blockd.model.error_base import BlockdError as BlockdError
from blockd.model.error_table import *
from blockd.model.error_table import ERRORS

_BY_CODE: dict[int, type[BlockdError]] = {error.code: error for error in ERRORS}
_BY_NAME: dict[str, type[BlockdError]] = {error.__name__: error for error in ERRORS}


def error_class(name_or_number: str | int) -> type[BlockdError]:
    """The class of an error by its name or number; KeyError when the table has no such error."""
    if isinstance(name_or_number, int):
        return _BY_CODE[name_or_number]
    return _BY_NAME[name_or_number]


def make_error(name_or_number: str | int, message: str = "", **context: object) -> BlockdError:
    """An instance of the named error; of BlockdError itself when a newer version named it."""
    try:
        return error_class(name_or_number)(message, **context)
    except KeyError:
        return BlockdError(message or f"unknown error {name_or_number}", **context)
