"""What a development cluster consists of: pure decisions, no process is touched here.

Every site has a loopback network of its own, 127.NET.(10 + site).0/24: `blockd meta` and its etcd
member at .1, the hosts from .11 on. Ports are therefore the same everywhere, and two clusters run
side by side when their NETs differ.

In network namespaces, every machine (a metadata service with its etcd member, a host) is one of its
own, `blockd-NET-MACHINE`, with the address 198.18.NET.(16 * site + ...). Who plans so makes the
namespaces and the network between them, and can then cut it (tests/faults/network.py).
"""

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import blockd
from blockd.config.daemon import NAME
from blockd.model.errors import InvalidArgument
from blockd.model.units import format_size
from blockd.rpc.gen import types_pb2

META_PORT = 7400
ETCD_CLIENT_PORT = 7401
ETCD_PEER_PORT = 7402
HOST_PORT = 7420
PEER_PORT = 7421
METRICS_PORT = 9420
NBD_PORT = 10809

SITES_MAX = 20
HOSTS_PER_SITE_MAX = 100
STORE_BYTES_MIN = 64 << 20
OPERATOR = "dev"
NAMESPACED_SITES_MAX = 15
NAMESPACED_HOSTS_MAX = 4

# Latitude and longitude of places that a demonstration is likely to name.
CITIES = {
    "bordeaux": (44.84, -0.58),
    "grenoble": (45.19, 5.72),
    "lille": (50.63, 3.07),
    "lyon": (45.76, 4.84),
    "marseille": (43.30, 5.37),
    "nantes": (47.22, -1.55),
    "paris": (48.86, 2.35),
    "rennes": (48.11, -1.68),
    "strasbourg": (48.58, 7.75),
    "toulouse": (43.60, 1.44),
}


@dataclass(frozen=True)
class Plan:
    """What the user asked for. tie_breakers: of the sites, those with a metadata service and no
    host: they vote on who holds what, and hold no data."""

    sites: tuple[str, ...] = ("paris", "lyon", "marseille")
    hosts_per_site: int = 1
    store_bytes: int = 4 << 30
    net: int = 0
    namespaces: bool = False
    tie_breakers: tuple[str, ...] = ()

    def check(self) -> None:
        """Raises InvalidArgument."""
        for site in self.sites:
            if not NAME.match(site):
                raise InvalidArgument(f"not a site's name: {site!r} (a-z, 0-9 and hyphens)")
        if not 1 <= len(self.sites) <= SITES_MAX or len(set(self.sites)) != len(self.sites):
            raise InvalidArgument(f"--sites: 1 to {SITES_MAX} different names")
        strangers = set(self.tie_breakers) - set(self.sites)
        if strangers or set(self.tie_breakers) == set(self.sites):
            raise InvalidArgument("--tie-breaker: some of the sites, and not all of them")
        if not 1 <= self.hosts_per_site <= HOSTS_PER_SITE_MAX:
            raise InvalidArgument(f"--hosts-per-site: 1 to {HOSTS_PER_SITE_MAX}")
        if self.store_bytes < STORE_BYTES_MIN:
            raise InvalidArgument(f"--store-size: at least {format_size(STORE_BYTES_MIN)}")
        if not 0 <= self.net <= 255:
            raise InvalidArgument("--net: 0 to 255, the second number of the addresses 127.NET.S.H")
        if self.namespaces and (
            len(self.sites) > NAMESPACED_SITES_MAX or self.hosts_per_site > NAMESPACED_HOSTS_MAX
        ):
            raise InvalidArgument(
                f"in network namespaces: at most {NAMESPACED_SITES_MAX} sites of "
                f"{NAMESPACED_HOSTS_MAX} hosts"
            )

    def address(self, site_index: int, member: int) -> str:
        """The address of one member of a site: of loopback, or in its machine's namespace."""
        if self.namespaces:
            return f"198.18.{self.net}.{16 * site_index + member}"
        return f"127.{self.net}.{10 + site_index}.{member}"

    def namespace(self, machine: str) -> str:
        """The name of a machine's network namespace."""
        return f"blockd-{self.net}-{machine}"

    def inside(self, machine: str, command: Sequence[str]) -> list[str]:
        """A daemon's command line, entering its machine's namespace first if it has one."""
        if not self.namespaces:
            return list(command)
        return ["nsenter", f"--net=/run/netns/{self.namespace(machine)}", *command]


@dataclass(frozen=True)
class Spec:
    """One process to run. role: meta, etcd or host. argv is empty for etcd, which meta runs."""

    name: str
    role: str
    site: str
    argv: tuple[str, ...]
    endpoints: Mapping[str, str]


def layout(plan: Plan, directory: Path) -> list[Spec]:
    """All processes of the cluster, in the order in which they are started."""
    specs: list[Spec] = []
    for index, site in enumerate(plan.sites):
        specs += meta_specs(plan, directory, index, site)
    for index, site in enumerate(plan.sites):
        if site in plan.tie_breakers:
            continue
        specs += [
            host_spec(plan, directory, index, site, number)
            for number in range(1, plan.hosts_per_site + 1)
        ]
    return specs


def meta_specs(plan: Plan, directory: Path, index: int, site: str) -> list[Spec]:
    """A site's metadata service and the etcd member that it supervises."""
    address = plan.address(index, 1)
    client, peer = f"http://{address}:{ETCD_CLIENT_PORT}", f"http://{address}:{ETCD_PEER_PORT}"
    initial = ",".join(
        f"{other}=http://{plan.address(number, 1)}:{ETCD_PEER_PORT}"
        for number, other in enumerate(plan.sites)
    )
    argv = plan.inside(f"meta-{site}", blockd_command("meta"))
    if plan.namespaces:
        argv.append("--allow-plaintext")
    argv += ["--name", site, "--site", site, "--listen", f"{address}:{META_PORT}"]
    argv += ["--etcd-dir", str(directory / f"meta-{site}" / "etcd")]
    argv += ["--etcd-client-url", client, "--etcd-peer-url", peer]
    argv += ["--etcd-initial-cluster", initial]
    return [
        Spec(f"meta-{site}", "meta", site, tuple(argv), {"grpc": f"{address}:{META_PORT}"}),
        Spec(f"etcd-{site}", "etcd", site, (), {"client": client, "peer": peer}),
    ]


def host_spec(plan: Plan, directory: Path, index: int, site: str, number: int) -> Spec:
    """A host daemon; its settings are in DIR/NAME/host.toml."""
    address = plan.address(index, 10 + number)
    name = f"{site}-{number}"
    endpoints = {
        "grpc": f"{address}:{HOST_PORT}",
        "peer": f"{address}:{PEER_PORT}",
        "nbd": f"{address}:{NBD_PORT}",
        "nbd_unix": str(directory / name / "nbd.sock"),
        "metrics": f"{address}:{METRICS_PORT}",
    }
    argv = plan.inside(name, blockd_command("host"))
    argv += ["--config", str(directory / name / "host.toml")]
    return Spec(name, "host", site, tuple(argv), endpoints)


def host_settings(plan: Plan, directory: Path, spec: Spec) -> dict[str, object]:
    """What goes into a host's TOML file."""
    home = directory / spec.name
    return {
        "name": spec.name,
        "site": spec.site,
        "data_dir": str(home / "data"),
        "stores": [str(home / "store.img")],
        "meta": meta_endpoints(plan),
        "listen": spec.endpoints["grpc"],
        "peer_listen": spec.endpoints["peer"],
        "nbd_tcp": spec.endpoints["nbd"],
        "nbd_unix": spec.endpoints["nbd_unix"],
        "metrics_listen": spec.endpoints["metrics"],
        "format": True,
        "buffer_size": "128MiB",
        "allow_plaintext": plan.namespaces,
    }


def meta_endpoints(plan: Plan) -> list[str]:
    """Where the metadata service answers."""
    return [f"{plan.address(index, 1)}:{META_PORT}" for index in range(len(plan.sites))]


def site_message(name: str) -> types_pb2.Site:
    """A site as it is told to the metadata service."""
    latitude, longitude = CITIES.get(name, (46.60, 2.45))  # else the middle of the country
    return types_pb2.Site(
        name=name,
        operator=OPERATOR,
        city=name.replace("-", " ").title(),
        jurisdiction="FR",
        latitude=latitude,
        longitude=longitude,
    )


def blockd_command(command: str) -> list[str]:
    """The command line of one of blockd's own daemons, under the Python that runs this."""
    return [sys.executable, "-m", "blockd.cli.blockd", command]


def daemon_environment() -> dict[str, str]:
    """The environment of the daemons: ours without BLOCKD_*, which would change their settings."""
    environ = {name: text for name, text in os.environ.items() if not name.startswith("BLOCKD_")}
    package = str(Path(blockd.__file__).resolve().parents[1])
    before = environ.get("PYTHONPATH")
    environ["PYTHONPATH"] = f"{package}{os.pathsep}{before}" if before else package
    environ["PYTHONUNBUFFERED"] = "1"
    return environ
