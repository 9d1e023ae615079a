"""`blockd dev`: a cluster of real processes on this machine, to try things on and to break."""

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from blockd.config.base import split_list
from blockd.dev import cluster as dev
from blockd.dev import demo as demonstration
from blockd.dev.layout import Plan
from blockd.dev.process import reap
from blockd.dev.state import Cluster, Process
from blockd.model.errors import InvalidArgument
from blockd.model.units import parse_size

app = typer.Typer(
    help="Run a development cluster of real processes on loopback addresses.",
    no_args_is_help=True,
)

Directory = Annotated[
    Path, typer.Option("--dir", envvar="BLOCKD_DIR", help="Where the cluster lives.")
]
Names = Annotated[list[str], typer.Argument(help="Names from `blockd dev status`.")]
DEFAULT_DIRECTORY = Path("./.blockd-dev")
WATCH_S = 0.5
PIPE_WIDTH = 160  # a table in a pipe is not folded to some terminal's width
console = Console() if sys.stdout.isatty() else Console(width=PIPE_WIDTH)
progress = Console(stderr=True)
SHOWN = {"meta": ("grpc",), "etcd": ("client",), "host": ("grpc", "nbd", "metrics")}


@app.command()
def up(
    directory: Directory = DEFAULT_DIRECTORY,
    sites: Annotated[str | None, typer.Option(help="Default: paris,lyon,marseille.")] = None,
    hosts_per_site: Annotated[int | None, typer.Option(help="Default: 1.")] = None,
    store_size: Annotated[str | None, typer.Option(help="Of each host. Default: 4GiB.")] = None,
    tie_breaker: Annotated[
        str | None, typer.Option(help="Sites, of those above, with no host: they hold no data.")
    ] = None,
    net: Annotated[
        int | None, typer.Option(help="Addresses are 127.NET.S.H; clusters side by side differ.")
    ] = None,
    detach: Annotated[
        bool, typer.Option("--detach", help="Return once all is healthy; it runs on.")
    ] = False,
) -> None:
    """Start a cluster, or the one that is in --dir already, and wait until it is healthy.

    Without --detach it runs until Ctrl-C.
    """
    plan = plan_from(sites, hosts_per_site, store_size, tie_breaker, net)
    cluster = dev.up(directory.resolve(), plan, progress.print)
    show(cluster)
    if not detach:
        run_until_interrupted(cluster)


def plan_from(
    sites: str | None,
    hosts_per_site: int | None,
    store_size: str | None,
    tie_breaker: str | None,
    net: int | None,
) -> Plan | None:
    """None when no option was given: the cluster in the directory is taken as it is."""
    if {sites, hosts_per_site, store_size, tie_breaker, net} == {None}:
        return None
    default = Plan()
    plan = Plan(
        sites=tuple(split_list(sites)) if sites is not None else default.sites,
        hosts_per_site=default.hosts_per_site if hosts_per_site is None else hosts_per_site,
        store_bytes=default.store_bytes if store_size is None else parse_size(store_size),
        net=default.net if net is None else net,
        tie_breakers=() if tie_breaker is None else tuple(split_list(tie_breaker)),
    )
    plan.check()
    return plan


def run_until_interrupted(cluster: Cluster) -> None:
    """Say what ends by itself; on Ctrl-C or SIGTERM stop everything."""
    progress.print("running; Ctrl-C stops it")
    stopping = False

    def stop(*_: object) -> None:
        nonlocal stopping
        stopping = True

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    alive = {process.name for process in cluster.alive()}
    while not stopping:
        time.sleep(WATCH_S)
        reap()
        now = {process.name for process in Cluster.load(cluster.directory).alive()}
        for name in sorted(alive - now):
            progress.print(f"{name} has ended")
        for name in sorted(now - alive):
            progress.print(f"{name} runs again")
        alive = now
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    dev.down(cluster.directory, progress.print, wipe=False)


@app.command()
def status(
    directory: Directory = DEFAULT_DIRECTORY,
    output: Annotated[str, typer.Option("-o", "--output", help="table or json.")] = "table",
) -> None:
    """List every process with its role, site, pid, state and endpoints."""
    if output not in ("table", "json"):
        raise InvalidArgument(f"-o: table or json, not {output!r}")
    cluster = Cluster.load(directory.resolve())
    if output == "table":
        show(cluster)
        return
    print(
        json.dumps(
            {
                "directory": str(cluster.directory),
                "cluster_id": cluster.cluster_id,
                "processes": [describe(process) for process in cluster.processes],
            },
            indent=2,
        )
    )


def describe(process: Process) -> dict[str, object]:
    """A process for machines; pid null: it does not run."""
    state = process.state()
    return {
        "name": process.name,
        "role": process.role,
        "site": process.site,
        "state": state,
        "pid": process.pid if state != "dead" else None,
        "endpoints": process.endpoints,
        "log": process.log,
    }


def show(cluster: Cluster) -> None:
    """The processes as a table."""
    table = Table("name", "role", "site", "pid", "state", "up", "endpoints", box=None)
    colours = {"running": "green", "stopped": "yellow", "dead": "red"}
    for process in cluster.processes:
        state = process.state()
        running = process.running
        age = f"{running.age_s():.0f} s" if running is not None and state != "dead" else "-"
        table.add_row(
            process.name,
            process.role,
            process.site,
            str(process.pid) if state != "dead" else "-",
            f"[{colours[state]}]{state}[/]",
            age,
            "  ".join(f"{kind} {process.endpoints[kind]}" for kind in SHOWN[process.role]),
        )
    console.print(table)
    console.print(f"cluster {cluster.cluster_id or '(not founded)'} in {cluster.directory}")


@app.command()
def kill(names: Names, directory: Directory = DEFAULT_DIRECTORY) -> None:
    """Kill processes as a crash would (SIGKILL)."""
    report(dev.signal_named(directory.resolve(), names, signal.SIGKILL), "killed")


@app.command()
def stop(names: Names, directory: Directory = DEFAULT_DIRECTORY) -> None:
    """Freeze processes (SIGSTOP)."""
    report(dev.signal_named(directory.resolve(), names, signal.SIGSTOP), "stopped")


@app.command()
def cont(names: Names, directory: Directory = DEFAULT_DIRECTORY) -> None:
    """Let frozen processes go on (SIGCONT)."""
    report(dev.signal_named(directory.resolve(), names, signal.SIGCONT), "goes on")


@app.command()
def start(names: Names, directory: Directory = DEFAULT_DIRECTORY) -> None:
    """Start processes again, with the arguments they had, and wait until they serve."""
    report(dev.start_named(directory.resolve(), names), "started")


def report(processes: list[Process], what: str) -> None:
    for process in processes:
        print(f"{process.name}: {what} (pid {process.pid})")


@app.command()
def down(
    directory: Directory = DEFAULT_DIRECTORY,
    wipe: Annotated[bool, typer.Option("--wipe", help="Remove its data, too.")] = False,
) -> None:
    """Stop every process; volumes drain first."""
    dev.down(directory.resolve(), progress.print, wipe=wipe)


@app.command()
def demo(
    directory: Annotated[Path, typer.Option("--dir", help="Where the cluster lives.")] = Path(
        "./.demo"
    ),
    size: Annotated[str, typer.Option(help="Of the volume `demo`.")] = "8GiB",
    net: Annotated[int | None, typer.Option(help="Addresses are 127.NET.S.H.")] = None,
) -> None:
    """Three sites, a volume replicated over them, and what to try with it. Runs until Ctrl-C."""
    os.environ.pop("BLOCKD_DIR", None)
    cluster, uris = demonstration.bring_up(
        directory.resolve(), parse_size(size), net, progress.print
    )
    show(cluster)
    demonstration.explain(cluster, uris, directory, console)
    run_until_interrupted(cluster)
