"""Writes error_table.py from cext/include/blockd/errors.def: `python blockd/model/generate.py`.

The table in C is the only one that people edit. The build runs this, and a test fails when the
committed module differs from what this writes. Stands alone: it runs before blockd is installed.
"""

import re
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
TABLE = ROOT / "cext" / "include" / "blockd" / "errors.def"
MODULE = Path(__file__).resolve().parent / "error_table.py"

ROW = re.compile(
    r"^BLOCKD_ERROR\((\d+), (\w+), (\w+), (\w+), (\w+), (\d+), \"([^\"]+)\"\)$", re.MULTILINE
)

HEADER = '''"""Every error of blockd as an exception class.

Written by generate.py from cext/include/blockd/errors.def; edit that file, not this one.
"""

from blockd.model.error_base import BlockdError
'''


class Row(NamedTuple):
    """One line of errors.def."""

    number: int
    name: str
    kind: str
    nbd_errno: str
    grpc_status: str
    exit_code: int
    meaning: str


def read_rows(table: Path = TABLE) -> list[Row]:
    """The rows of errors.def, in order. Raises ValueError: a malformed row, or one twice."""
    text = table.read_text(encoding="utf-8")
    rows = [
        Row(int(number), name, kind, errno, status, int(exit_code), meaning)
        for number, name, kind, errno, status, exit_code, meaning in ROW.findall(text)
    ]
    lines = [line for line in text.splitlines() if line.startswith("BLOCKD_ERROR(")]
    if len(rows) != len(lines):
        raise ValueError(f"{table}: {len(lines) - len(rows)} malformed rows")
    if len({row.number for row in rows}) != len(rows) or len({row.name for row in rows}) != len(
        rows
    ):
        raise ValueError(f"{table}: a number or name occurs twice")
    return rows


def render(rows: list[Row]) -> str:
    """The text of error_table.py. Ok (0) is no error and gets no class."""
    errors = [row for row in rows if row.number != 0]
    parts = [HEADER]
    for row in errors:
        parts.append(
            f'\n\nclass {row.name}(BlockdError):\n    """{row.meaning.capitalize()}."""\n\n'
            f"    code = {row.number}\n"
            f'    kind = "{row.kind}"\n'
            f'    nbd_errno = "{row.nbd_errno}"\n'
            f'    grpc_status = "{row.grpc_status}"\n'
            f"    exit_code = {row.exit_code}\n"
            f'    meaning = "{row.meaning}"\n'
        )
    parts.append("\n\nERRORS: tuple[type[BlockdError], ...] = (\n")
    parts.extend(f"    {row.name},\n" for row in errors)
    parts.append(")\n\n__all__ = [\n")
    parts.extend(f'    "{name}",\n' for name in ["ERRORS", *sorted(row.name for row in errors)])
    parts.append("]\n")
    return "".join(parts)


def main() -> int:
    """Rewrite error_table.py when it is out of date."""
    text = render(read_rows())
    if not MODULE.exists() or MODULE.read_text(encoding="utf-8") != text:
        MODULE.write_text(text, encoding="utf-8")
        print(f"wrote {MODULE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
