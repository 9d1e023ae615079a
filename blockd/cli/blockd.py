"""`blockd`: the daemons, the development cluster and the tools of one machine."""

import sys

import typer

from blockd.cli import dev_cmd
from blockd.cli.failure import run_app
from blockd.cli.host_cmd import host
from blockd.cli.meta_cmd import meta
from blockd.cli.store_cmd import app as store_app

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


def main() -> None:
    """The console script; exit codes are those of cext/include/blockd/errors.def."""
    sys.exit(run_app("blockd", app))


if __name__ == "__main__":
    main()
