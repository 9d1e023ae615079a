"""`blockctl`: what an administrator asks of a cluster. A gRPC client and nothing else.

Exit codes are those of cext/include/blockd/errors.def (docs/OPERATIONS.md, "Exit codes"); an error
is one line on stderr, then what to do next.
"""

import sys
from pathlib import Path
from typing import Annotated

import typer

from blockd.cli import (
    blockctl_branch,
    blockctl_cluster,
    blockctl_group,
    blockctl_host,
    blockctl_places,
    blockctl_scrub,
    blockctl_snapshot,
    blockctl_store,
    blockctl_volume,
)
from blockd.cli.blockctl_clone import clone, flatten
from blockd.cli.blockctl_diff import diff
from blockd.cli.blockctl_events import events
from blockd.cli.blockctl_session import Format, Session, find_endpoints
from blockd.cli.failure import run_app
from blockd.cli.version import Version

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
app.add_typer(blockctl_store.app, name="store")
blockctl_volume.app.add_typer(blockctl_snapshot.app, name="snapshot")
blockctl_volume.app.add_typer(blockctl_branch.app, name="branch")
blockctl_volume.app.command("clone")(clone)
blockctl_volume.app.command("flatten")(flatten)
blockctl_volume.app.command("diff")(diff)
app.add_typer(blockctl_volume.app, name="volume")
app.add_typer(blockctl_group.app, name="group")
app.add_typer(blockctl_scrub.app, name="scrub")
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
    version: Version = False,
) -> None:
    """Manage a blockd cluster."""
    context.obj = Session(find_endpoints(meta, directory), output)


def main() -> None:
    """The console script."""
    sys.exit(run())


def run(arguments: list[str] | None = None) -> int:
    """Run a command line (sys.argv without); returns the exit code."""
    return run_app("blockctl", app, arguments)


if __name__ == "__main__":
    main()
