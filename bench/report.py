"""The results for people: a table on the terminal and a plot in a file."""

from pathlib import Path

import matplotlib as mpl
from rich.console import Console
from rich.table import Table

from bench.results import Cell

mpl.use("Agg")
from matplotlib import pyplot as plt


def print_table(cells: list[Cell], baseline: str, console: Console) -> None:
    table = Table(title=f"fio, medians; ratio to {baseline} in the same round")
    table.add_column("job", no_wrap=True)
    table.add_column("candidate", no_wrap=True)
    for heading in ("rate", "+-", "p50 us", "p99 us", "CPU us/op", "ratio", "target", "rounds"):
        table.add_column(heading, justify="right")
    previous = None
    for cell in cells:
        if previous and cell.job is not previous:
            table.add_section()
        table.add_row("" if cell.job is previous else cell.job.title, *row(cell))
        previous = cell.job
    console.print(table)


def row(cell: Cell) -> list[str]:
    judged = cell.candidate == "blockd-3" and cell.job.target is not None
    target = f"{cell.job.target:.2f}" if judged else ""
    if judged and cell.ratio is not None and cell.job.target is not None:
        target += " met" if cell.ratio >= cell.job.target else " [bold red]missed[/]"
    return [
        cell.candidate,
        cell.rate_text,
        f"{cell.spread:.0%}",
        f"{cell.p50_us:.0f}",
        f"{cell.p99_us:.0f}",
        f"{cell.cpu_us:.1f}",
        "" if cell.ratio is None else f"{cell.ratio:.2f}",
        target,
        str(cell.rounds),
    ]


def plot(cells: list[Cell], baseline: str, path: Path) -> None:
    """A group of bars for each job: the ratio to the baseline, with the spread as whiskers."""
    jobs = list({cell.job.name: cell.job for cell in cells}.values())
    candidates = list(dict.fromkeys(cell.candidate for cell in cells))
    found = {(cell.job.name, cell.candidate): cell for cell in cells if cell.ratio is not None}
    width = 0.8 / len(candidates)
    figure, axes = plt.subplots(figsize=(1.5 + 1.6 * len(jobs), 5), layout="constrained")
    for index, candidate in enumerate(candidates):
        places, heights, whiskers = [], [], []
        for place, job in enumerate(jobs):
            cell = found.get((job.name, candidate))
            if cell is not None and cell.ratio is not None:
                places.append(place + (index - (len(candidates) - 1) / 2) * width)
                heights.append(cell.ratio)
                whiskers.append(cell.ratio * cell.spread)
        axes.bar(places, heights, width, yerr=whiskers, label=candidate, capsize=2)
    axes.axhline(1.0, color="black", linewidth=0.8)
    axes.set_xticks(range(len(jobs)), [job.title.replace(", ", "\n") for job in jobs])
    axes.set_ylabel(f"rate, {baseline} = 1")
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("{x:g}")
    axes.grid(axis="y", which="both", alpha=0.3)
    axes.legend(ncols=len(candidates), loc="upper center", bbox_to_anchor=(0.5, 1.1))
    figure.savefig(path, dpi=120)
    plt.close(figure)
