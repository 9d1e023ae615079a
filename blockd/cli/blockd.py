"""`blockd`: the daemons, the development cluster and the tools of one machine."""

import sys

import typer

from blockd.cli import dev_cmd
from blockd.cli.failure import run_app
from blockd.cli.host_cmd import host
from blockd.cli.meta_cmd import meta
from blockd.cli.store_cmd import app as store_app
from blockd.cli.version import Version

app = typer.Typer(
    help="Distributed block storage: daemons, development cluster, stores.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("meta")(meta)
app.command("host")(host)
app.add_typer(store_app, name="store")
app.add_typer(dev_cmd.app, name="dev")


@app.callback()
def options(version: Version = False) -> None:
    """Options of the program itself."""


def main() -> None:
    """The console script; exit codes are those of cext/include/blockd/errors.def."""
    sys.exit(run())


def run(arguments: list[str] | None = None) -> int:
    """Run a command line (sys.argv without); returns the exit code."""
    return run_app("blockd", app, arguments)


if __name__ == "__main__":
    main()
