"""The cluster that faults are tried on: three sites in network namespaces, and all ways to hurt it.

Each fault has its undoing: kill and start, freeze and thaw, cuts and heal(). heal() undoes whatever
is left.
"""

import contextlib
import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

from blockd.dev import cluster as dev
from blockd.dev.layout import Plan
from blockd.dev.state import Cluster
from blockd.rpc.gen import meta_pb2
from tests.cluster import NETS, DevCluster, blockd, keep_logs, wait_until
from tests.faults.network import Network

SITES = ("paris", "lyon", "marseille")
HOSTS = tuple(f"{site}-1" for site in SITES)
METAS = tuple(f"meta-{site}" for site in SITES)
STORE_BYTES = 1 << 30


class Field(DevCluster):
    """A development cluster whose network can be cut."""

    def __init__(self, directory: Path, network: Network) -> None:
        super().__init__(directory, network.plan.net)
        self.network = network
        self.hosts = tuple(h for h in HOSTS if h in network.addresses)

    # Processes. At once: `blockd dev` as a command takes a second to start.

    def kill(self, *names: str) -> None:
        dev.signal_named(self.directory, names, signal.SIGKILL)

    def start(self, *names: str) -> None:
        dev.start_named(self.directory, names)

    def freeze(self, *names: str) -> None:
        dev.signal_named(self.directory, names, signal.SIGSTOP)

    def thaw(self, *names: str) -> None:
        dev.signal_named(self.directory, names, signal.SIGCONT)

    def terminate(self, name: str) -> None:
        """SIGTERM, and wait until it has drained and ended."""
        (process,) = dev.signal_named(self.directory, [name], signal.SIGTERM)
        wait_until(lambda: process.state() == "dead", 40, f"{name} has ended")

    def states(self) -> dict[str, str]:
        """ "running", "stopped" or "dead", by name."""
        return {p.name: p.state() for p in Cluster.load(self.directory).processes}

    def kill_etcd(self, site: str) -> None:
        """Its metadata service starts it anew."""
        self.kill(f"etcd-{site}")

    def meta_leader(self) -> str:
        """The metadata service that does the background duties now."""
        request = meta_pb2.GetClusterRequest()
        answer = self.meta(lambda m: m.call(lambda s: s.GetCluster, request, idempotent=True))
        return f"meta-{answer.leader}"

    # The network.

    def cut_off(self, *machines: str) -> None:
        """These machines reach each other and nobody else; tests still reach them."""
        self.network.part(machines, [m for m in self.network.addresses if m not in machines])

    # All of it.

    def heal(self) -> None:
        """Undo every fault that is left, and wait until all hosts are registered."""
        self.network.heal()
        states = self.states()
        stopped = [name for name, state in states.items() if state == "stopped"]
        if stopped:
            self.thaw(*stopped)
        dead = [n for n, state in states.items() if state == "dead" and not n.startswith("etcd-")]
        metas_first = sorted(dead, key=lambda name: not name.startswith("meta-"))
        if dead:
            self.start(*metas_first)
        wait_until(lambda: self.hosts_up() == set(self.hosts), 60, "all hosts are registered")

    def attach_soon(self, name: str, host: str, *, force: bool = False, seconds: float = 30) -> str:
        """Attach as an operator does who tries until it works; returns the export's URI."""
        uris: list[str] = []

        def attached() -> bool:
            uris.extend(self.attach(name, host, force=force).nbd_uris)
            return True

        wait_until(attached, seconds, f"{name} is attached at {host}")
        return uris[0]


@contextlib.contextmanager
def fault_field(*tie_breakers: str) -> Iterator[Field]:
    """A cluster in namespaces of its own; gone afterwards, and so are they. tie_breakers: sites
    without a host."""
    directory = Path(tempfile.mkdtemp(prefix="blockd-"))
    network = free_network(tie_breakers)
    try:
        Cluster.create(directory, network.plan).save()
        blockd("dev", "up", "--detach", "--dir", str(directory))
        yield Field(directory, network)
    finally:
        keep_logs(directory)
        try:
            network.heal()  # so that volumes drain
            blockd("dev", "down", "--wipe", "--dir", str(directory))
        finally:
            network.close()
        with contextlib.suppress(OSError):
            directory.rmdir()


def free_network(tie_breakers: tuple[str, ...]) -> Network:
    """The first that nobody has."""
    for step in range(len(NETS)):
        net = NETS[(os.getpid() + step) % len(NETS)]
        plan = Plan(
            sites=SITES,
            store_bytes=STORE_BYTES,
            net=net,
            namespaces=True,
            tie_breakers=tie_breakers,
        )
        network = Network.create(plan)
        if network is not None:
            return network
    raise AssertionError("no free network")
