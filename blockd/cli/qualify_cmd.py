"""`blockd store qualify`, and how findings are printed."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from blockd.host.qualify import DIRECTORY, Qualification, qualify
from blockd.host.verdicts import verdicts
from blockd.native.values import DeviceFindings

SECONDS = 5.0


def qualify_command(
    path: Annotated[
        Path, typer.Argument(help="Block device; or file or directory, for a file beside or in it.")
    ],
    seconds: Annotated[float, typer.Option(min=0.1, max=600, help="How long, about.")] = SECONDS,
    force: Annotated[
        bool, typer.Option("--force", help="Write to PATH itself; destroys what it holds.")
    ] = False,
    output: Annotated[str, typer.Option("-o", "--output", help="table or json.")] = "table",
) -> None:
    """Find out what the disk at PATH does, before it holds data.

    Of a file or directory a scratch file beside or in it is probed, and removed. A device is
    written only while it is blank, and is blank again afterwards; one that holds data is only read.
    """
    found = qualify(path, seconds, overwrite=force and path.exists() and not path.is_dir())
    if output == "json":
        print(json.dumps(qualification_view(found), indent=2))
    else:
        print_qualification(found)


def findings_view(found: DeviceFindings | None) -> dict[str, Any] | None:
    """The findings, with their verdicts; keys are for ever."""
    return None if found is None else asdict(found) | {"verdicts": verdicts(found)}


def qualification_view(found: Qualification) -> dict[str, Any]:
    """Keys are for ever."""
    return {
        "path": str(found.path),
        "kind": found.kind,
        "device": found.kernel.device,
        "written": found.written,
        "read_only_because": found.why_read_only,
        "discards": found.discards,
        "findings": findings_view(found.findings),
    }


def print_qualification(found: Qualification) -> None:
    """How it was probed, then a line a subject."""
    below = f" on {found.kernel.device}" if found.kernel.device else ""
    place = "in it" if found.kind == DIRECTORY else "beside it"
    how = {"scratch file": f"a scratch file {place}", None: f"only read: {found.why_read_only}"}
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    table.add_row("probed", f"{found.path} ({found.kind}{below})")
    table.add_row("by", how.get(found.written, f"the {found.written} itself"))
    for subject, verdict in verdicts(found.findings).items():
        table.add_row(subject, verdict)
    Console().print(table)
