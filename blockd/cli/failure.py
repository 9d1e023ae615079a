"""How a command fails: one line on stderr, then what to do next, and the exit code of the table."""

import sys
from collections.abc import Callable
from typing import NoReturn

from blockd.model.errors import BlockdError


def fail(program: str, error: BlockdError) -> NoReturn:
    """End the process because of `error`. The error's notes are hints."""
    print(f"{program}: {one_line(str(error))}", file=sys.stderr)
    for note in getattr(error, "__notes__", ()):
        print(f"  {one_line(note)}", file=sys.stderr)
    sys.exit(error.exit_code)


def one_line(text: str) -> str:
    """Text of whatever origin on one line."""
    return " ".join(text.split())


def run_program(program: str, app: Callable[[], object]) -> None:
    """Run a typer app; errors of the table end it, any other is a bug and shows its trace."""
    try:
        app()
    except BlockdError as error:
        fail(program, error)
    except KeyboardInterrupt:
        sys.exit(130)
