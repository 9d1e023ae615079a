"""How blockctl prints: tables on a terminal or in a pipe, JSON for programs, progress on stderr.

Results go to stdout and nothing else does. JSON has the same keys in every version: fields are
added, never renamed or removed; sizes are bytes, times Unix microseconds.
"""

import json
import time
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

PIPE_WIDTH = 200  # a table in a pipe or file is not folded to some terminal's width


def _console() -> Console:
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=PIPE_WIDTH)


def print_json(value: Any) -> None:
    """One document, indented."""
    print(json.dumps(value, indent=2))


def print_json_line(value: Any) -> None:
    """One document of a stream."""
    print(json.dumps(value), flush=True)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], empty: str) -> None:
    """A column whose heading ends in ">" is aligned to the right; `empty` stands for no rows."""
    console = _console()
    if not rows:
        console.print(empty, style="dim", markup=False)
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for column in columns:
        justify = "right" if column.endswith(">") else "left"
        table.add_column(column.rstrip(">"), justify=justify, overflow="fold")  # type: ignore[arg-type]
    for row in rows:
        table.add_row(*row)
    console.print(table)


def print_facts(facts: Sequence[tuple[str, str]]) -> None:
    """Names and values below each other."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in facts:
        table.add_row(name, value)
    _console().print(table)


def print_line(text: str) -> None:
    """A line of markup."""
    _console().print(text)


def status(text: str) -> Any:
    """A spinner while something is waited for; nothing when stderr is no terminal."""
    return Console(stderr=True).status(text)


def progress_bar(*, unit: str) -> Progress:
    """A bar on stderr that vanishes when done; nothing when stderr is no terminal."""
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


def local_time(unix_us: int) -> str:
    """For people, in the local time zone; "-" for never."""
    if unix_us == 0:
        return "-"
    return datetime.fromtimestamp(unix_us / 1e6).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def age_text(unix_us: int) -> str:
    """How long ago, for people: "12 s ago"; "never" for never."""
    if unix_us == 0:
        return "never"
    seconds = max(0, int(time.time() - unix_us / 1e6))
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit} ago"
    return f"{seconds} s ago"


def state_text(state: str) -> str:
    """A state's name in its colour."""
    colour = {
        "up": "green",
        "ok": "green",
        "full": "red",
        "failed": "red",
        "available": "green",
        "serving": "green",
        "finished": "green",
        "down": "red",
        "fenced": "red",
        "stalled": "red",
    }.get(state, "yellow")
    return f"[{colour}]{state}[/]"
