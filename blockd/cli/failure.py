"""How a command fails: one line on stderr, then what to do next, and the exit code of the table.

Errors of the table and command lines that do not parse end here. Anything else is a bug: its
traceback is shown.
"""

import sys
from collections.abc import Sequence

import typer
from typer.exceptions import TyperException

from blockd.model.errors import BlockdError
from blockd.rpc.status import hints_of

INTERRUPTED = 130
USAGE = 2
HIDDEN_FACTS = ("field", "grpc")  # for programs


def run_app(program: str, app: typer.Typer, arguments: Sequence[str] | None = None) -> int:
    """Run a command line (sys.argv without `arguments`); returns the exit code."""
    try:
        given = None if arguments is None else list(arguments)
        code = app(given, prog_name=program, standalone_mode=False)
    except BlockdError as error:
        say(program, line_of(error), hints_of(error))
        return error.exit_code
    except TyperException as error:
        return say_usage(program, error)
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except BrokenPipeError:  # `blockctl ... | head`
        sys.stderr.close()
        return 0
    return code if isinstance(code, int) else 0


def line_of(error: BlockdError) -> str:
    """The error with those of its facts that are for people."""
    facts = {name: value for name, value in error.context.items() if name not in HIDDEN_FACTS}
    return str(type(error)(error.message, **facts))


def say_usage(program: str, error: TyperException) -> int:
    """A command line that does not parse; a group without a command shows its help instead."""
    text = error.format_message()
    if "\n" in text:
        print(text)
        return USAGE
    context = getattr(error, "ctx", None)
    hints = [f"{context.command_path} --help"] if context is not None else []
    say(program, text or "bad command line", hints)
    return USAGE


def say(program: str, line: str, hints: Sequence[str]) -> None:
    """The line, and below it what to do next."""
    print(f"{program}: {one_line(line)}", file=sys.stderr)
    for hint in hints:
        print(f"  {one_line(hint)}", file=sys.stderr)


def one_line(text: str) -> str:
    """Text of whatever origin on one line."""
    return " ".join(text.split())
