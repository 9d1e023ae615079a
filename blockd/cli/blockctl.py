"""`blockctl`: what an administrator asks of a cluster. A gRPC client and nothing else.

Exit codes are those of cext/include/blockd/errors.def (docs/OPERATIONS.md, "Exit codes"); an error
is one line on stderr, then what to do next.
"""

import sys
from pathlib import Path
from typing import Annotated

import typer
from typer.exceptions import TyperException

from blockd.cli import blockctl_cluster, blockctl_host, blockctl_places, blockctl_volume
from blockd.cli.blockctl_events import events
from blockd.cli.blockctl_session import Format, Session, find_endpoints
from blockd.cli.failure import one_line
from blockd.model.errors import BlockdError
from blockd.rpc.status import hints_of

INTERRUPTED = 130
USAGE = 2
HIDDEN_FACTS = ("field", "grpc")  # for programs

app = typer.Typer(
    help="Manage a blockd cluster.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(blockctl_cluster.app, name="cluster")
app.add_typer(blockctl_places.sites, name="site")
app.add_typer(blockctl_places.operators, name="operator")
app.add_typer(blockctl_host.app, name="host")
app.add_typer(blockctl_volume.app, name="volume")
app.command("events")(events)


@app.callback()
def session(
    context: typer.Context,
    meta: Annotated[
        str | None,
        typer.Option(help="Metadata service: HOST:PORT[,HOST:PORT...]; else BLOCKD_META."),
    ] = None,
    directory: Annotated[
        Path | None,
        typer.Option("--dir", help="A development cluster's directory; else BLOCKD_DIR."),
    ] = None,
    output: Annotated[
        Format, typer.Option("--output", "-o", help="table, or json with stable keys.")
    ] = Format.TABLE,
) -> None:
    """Manage a blockd cluster."""
    context.obj = Session(find_endpoints(meta, directory), output)


def main() -> None:
    """The console script."""
    sys.exit(run())


def run(arguments: list[str] | None = None) -> int:
    """Run a command line (sys.argv without); returns the exit code."""
    try:
        code = app(arguments, standalone_mode=False)
    except BlockdError as error:
        _say(_line(error), hints_of(error))
        return error.exit_code
    except TyperException as error:
        return _usage(error)
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except BrokenPipeError:  # `blockctl ... | head`
        sys.stderr.close()
        return 0
    return code if isinstance(code, int) else 0


def _line(error: BlockdError) -> str:
    facts = {name: value for name, value in error.context.items() if name not in HIDDEN_FACTS}
    return str(type(error)(error.message, **facts))


def _usage(error: TyperException) -> int:
    """A command line that does not parse; a group without a command shows its help instead."""
    text = error.format_message()
    if "\n" in text:
        print(text)
        return USAGE
    context = getattr(error, "ctx", None)
    hints = [f"{context.command_path} --help"] if context is not None else []
    _say(text or "bad command line", hints)
    return USAGE


def _say(line: str, hints: list[str]) -> None:
    print(f"blockctl: {one_line(line)}", file=sys.stderr)
    for hint in hints:
        print(f"  {one_line(hint)}", file=sys.stderr)


if __name__ == "__main__":
    main()
