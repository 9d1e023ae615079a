"""Starting, breaking and stopping a development cluster.

Every command loads cluster.json, acts under the directory's lock and writes down what it did before
it waits, so that an interrupted command leaves no process that the next one does not know of.
"""

import asyncio
import contextlib
import errno
import shutil
import signal
import socket
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from blockd.config.endpoints import split_endpoint
from blockd.dev.health import release_volumes, settle, wait_serving, wait_up
from blockd.dev.layout import Plan, Spec, daemon_environment, host_settings, meta_endpoints
from blockd.dev.process import spawn
from blockd.dev.state import FILE, LOCK, Cluster, Process, locked
from blockd.model.errors import AddressInUse, AlreadyExists, InvalidArgument, NotFound
from blockd.rpc.channel import MetaClient

START_S = 60.0
TERM_S = 30.0
KILL_S = 10.0

Say = Callable[[str], None]


def up(directory: Path, plan: Plan | None, say: Say) -> Cluster:
    """Start the cluster in `directory`, made anew there or as it was, and wait until it is healthy.

    plan: None takes the directory's own, else the default; one that differs from the directory's is
    refused. What was started is stopped again when the start fails.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with locked(directory):
        cluster = prepare(directory, plan)
        try:
            asyncio.run(start_all(cluster, say))
        except BaseException:
            stop_all(cluster, say)
            raise
    return cluster


def prepare(directory: Path, plan: Plan | None) -> Cluster:
    """The state to start from. Raises AlreadyExists, InvalidArgument, AddressInUse."""
    try:
        cluster = Cluster.load(directory)
    except NotFound:
        cluster = Cluster.create(directory, plan or Plan())
    cluster.plan.check()
    if plan is not None and plan != cluster.plan:
        error = InvalidArgument(f"{directory} holds a cluster of another shape: {cluster.plan}")
        error.add_note("leave the options out, or wipe it: `blockd dev down --wipe`")
        raise error
    alive = cluster.alive()
    if alive:
        names = ", ".join(process.name for process in alive)
        up_already = AlreadyExists(f"the cluster in {directory} is up: {names}")
        up_already.add_note("`blockd dev status` shows it, `blockd dev down` stops it")
        raise up_already
    if not cluster.plan.namespaces:  # those have addresses that nobody else can take
        for process in cluster.processes:
            check_ports(process)
    for process in cluster.of_role("host"):
        write_host(cluster, process)
    cluster.save()
    return cluster


def check_ports(process: Process) -> None:
    """Raises AddressInUse for the first of a process's addresses that is taken."""
    for kind, endpoint in process.endpoints.items():
        if kind == "nbd_unix":
            continue
        host, port = split_endpoint(endpoint.removeprefix("http://"))
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
                taken = AddressInUse(f"port in use: {host}:{port}, wanted for {process.name}")
                taken.add_note("stop what listens there, or choose other addresses with --net N")
                raise taken from error


def write_host(cluster: Cluster, process: Process) -> None:
    """A host's directory: its settings, and an empty store if there is none yet."""
    home = cluster.directory / process.name
    home.mkdir(parents=True, exist_ok=True)
    spec = Spec(process.name, process.role, process.site, (), process.endpoints)
    settings = host_settings(cluster.plan, cluster.directory, spec)
    (home / "host.toml").write_text(to_toml(settings), encoding="utf-8")
    store = home / "store.img"
    if not store.exists():
        with store.open("wb") as file:
            file.truncate(cluster.plan.store_bytes)


def to_toml(values: dict[str, object]) -> str:
    """Strings, numbers, booleans and lists of strings as TOML."""

    def text(value: object) -> str:
        if isinstance(value, bool):
            return "true" if value else "false"
        if isinstance(value, list):
            return "[" + ", ".join(text(item) for item in value) + "]"
        if isinstance(value, int):
            return str(value)
        escaped = str(value).replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'

    return "".join(f"{name} = {text(value)}\n" for name, value in values.items())


async def start_all(cluster: Cluster, say: Say) -> None:
    """Metadata first, since etcd needs its majority before anything else can register."""
    metas, hosts = cluster.of_role("meta"), cluster.of_role("host")
    say(f"starting the metadata service at {', '.join(cluster.plan.sites)}")
    launch(cluster, metas)
    await wait_serving(metas, START_S)
    async with MetaClient(meta_endpoints(cluster.plan)) as meta:
        cluster.cluster_id = await settle(meta, cluster.plan.sites)
        cluster.find_etcd()
        cluster.save()
        say(f"starting {len(hosts)} hosts")
        launch(cluster, hosts)
        await wait_serving(hosts, START_S)
        await wait_up(meta, hosts, START_S)


def launch(cluster: Cluster, processes: Iterable[Process]) -> None:
    """Start processes and write down that they run."""
    environ = daemon_environment()
    for process in processes:
        process.found(spawn(process.argv, Path(process.log), environ))
        cluster.save()


def down(directory: Path, say: Say, *, wipe: bool) -> None:
    """Stop everything, and with wipe remove what the cluster kept. Nothing running is fine."""
    with locked(directory):
        cluster = Cluster.load(directory)
        stop_all(cluster, say)
        cluster.save()
        if wipe:
            wipe_all(cluster)
    if wipe:
        (directory / LOCK).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # the user keeps something of their own there
            directory.rmdir()


def stop_all(cluster: Cluster, say: Say) -> None:
    """Volumes drain first, then hosts end, then the metadata service."""
    cluster.find_etcd()
    hosts = [process for process in cluster.of_role("host") if process.state() != "dead"]
    for process in cluster.alive():
        signal_process(process, signal.SIGCONT)
    if hosts:
        say(f"stopping {len(hosts)} hosts")
        asyncio.run(release_volumes(hosts))
    terminate(hosts, say)
    metas = [process for process in cluster.of_role("meta") if process.state() != "dead"]
    if metas:
        say("stopping the metadata service")
    members = cluster.of_role("etcd")
    terminate(metas, say)
    terminate([process for process in members if process.state() != "dead"], say)


def terminate(processes: Sequence[Process], say: Say) -> None:
    """SIGTERM to all, then SIGKILL to those that have not ended in time."""
    for process in processes:
        signal_process(process, signal.SIGTERM)
    for process in processes:
        running = process.running
        if running is not None and not running.wait_gone(TERM_S):
            say(f"{process.name} does not end on SIGTERM: killed")
            running.send(signal.SIGKILL)
            running.wait_gone(KILL_S)


def signal_process(process: Process, number: signal.Signals) -> bool:
    """Whether the process was there to be signalled."""
    running = process.running
    return running is not None and running.send(number)


def wipe_all(cluster: Cluster) -> None:
    """Remove what this module made, and nothing else."""
    for process in cluster.processes:
        shutil.rmtree(cluster.directory / process.name, ignore_errors=True)
    shutil.rmtree(cluster.directory / "logs", ignore_errors=True)
    (cluster.directory / FILE).unlink()


def signal_named(directory: Path, names: Sequence[str], number: signal.Signals) -> list[Process]:
    """kill, stop and cont: all names are known and alive, or nothing is signalled.

    Returns once the effect is seen. Raises NotFound: no such process, or it is not running.
    """
    with locked(directory):
        cluster = Cluster.load(directory)
        chosen = [cluster.get(name) for name in names]
        for process in chosen:
            if process.state() == "dead":
                raise NotFound(f"{process.name} is not running")
        for process in chosen:
            signal_process(process, number)
        if number is signal.SIGKILL:
            wait_killed(cluster, chosen)
        cluster.save()
    return chosen


def wait_killed(cluster: Cluster, chosen: Sequence[Process]) -> None:
    """Until they are gone; with a meta goes the etcd member that is its child."""
    members = [cluster.get(f"etcd-{p.site}") for p in chosen if p.role == "meta"]
    for process in [*chosen, *members]:
        running = process.running
        if running is not None:
            running.wait_gone(KILL_S)


def start_named(directory: Path, names: Sequence[str]) -> list[Process]:
    """Start processes that are not running, with the arguments they had, until they serve.

    A meta that is started while most others are down is left waiting for them.

    Raises NotFound, AlreadyExists (it runs), InvalidArgument (etcd is started by its meta).
    """
    with locked(directory):
        cluster = Cluster.load(directory)
        chosen = [cluster.get(name) for name in names]
        for process in chosen:
            if process.role == "etcd":
                raise InvalidArgument(
                    f"{process.name} is run by meta-{process.site}, which starts it by itself"
                )
            if process.state() != "dead":
                raise AlreadyExists(f"{process.name} is running (pid {process.pid})")
        launch(cluster, chosen)
        try:
            asyncio.run(wait_serving(expected_to_serve(cluster, chosen), START_S))
        finally:
            cluster.find_etcd()
            cluster.save()
    return chosen


def expected_to_serve(cluster: Cluster, chosen: Sequence[Process]) -> list[Process]:
    """Those of the chosen that can serve now: a meta waits until a majority of them runs."""
    metas = [process for process in cluster.processes if process.role == "meta"]
    running = sum(process.state() != "dead" for process in metas)
    if running > len(metas) // 2:
        return list(chosen)
    return [process for process in chosen if process.role != "meta"]
