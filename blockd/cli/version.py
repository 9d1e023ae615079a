"""`--version`, the same for every program."""

from importlib.metadata import version
from typing import Annotated

import typer


def _print_version(context: typer.Context, wanted: bool) -> None:
    if wanted:
        print(f"{context.info_name} {version('blockd')}")
        raise typer.Exit


Version = Annotated[
    bool,
    typer.Option(
        "--version", callback=_print_version, is_eager=True, help="Print the version and end."
    ),
]
