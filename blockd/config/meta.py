"""Settings of `blockd meta`.

Where etcd is: either `etcd`, the endpoints of a cluster that others run, or `etcd_dir` and what
belongs to it, a member that this process starts and supervises. gRPC and etcd traffic is not
encrypted yet: as for hosts, an address that leaves the machine needs allow_plaintext.
"""

from pathlib import Path
from typing import Self
from urllib.parse import urlsplit
from uuid import UUID

from pydantic import Field, field_validator, model_validator

from blockd.config.base import Settings
from blockd.config.endpoints import (
    Endpoint,
    is_loopback,
    is_wildcard,
    join_endpoint,
    split_endpoint,
)
from blockd.config.host import NAME


class MetaSettings(Settings):
    """One metadata instance. listen is HOST:PORT; port 0 is picked by the kernel."""

    name: str
    site: str
    listen: Endpoint = "127.0.0.1:7400"
    advertise: str | None = None  # the address that others reach this instance at
    etcd: tuple[str, ...] = ()  # HOST:PORT or http://HOST:PORT of an existing cluster
    etcd_dir: Path | None = None  # data of a member that this process supervises
    etcd_binary: Path = Path("/usr/bin/etcd")
    etcd_client_url: str = "http://127.0.0.1:2379"
    etcd_peer_url: str = "http://127.0.0.1:2380"
    etcd_initial_cluster: str = ""  # NAME=URL,... of all members; empty: this one alone
    cluster_id: UUID | None = None  # of a new cluster; refuse to serve any other
    overcommit: float = Field(default=20.0, ge=1.0)  # how often a store's capacity is promised
    allow_plaintext: bool = False
    log_level: str = "info"

    @field_validator("name", "site")
    @classmethod
    def _is_name(cls, value: str) -> str:
        if not NAME.match(value):
            raise ValueError(f"not a name: {value!r} (a-z, 0-9 and hyphens, at most 63)")
        return value

    @field_validator("etcd")
    @classmethod
    def _are_endpoints(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for endpoint in value:
            _check_url(endpoint if "://" in endpoint else f"http://{endpoint}")
        return value

    @field_validator("etcd_client_url", "etcd_peer_url")
    @classmethod
    def _is_url(cls, value: str) -> str:
        return _check_url(value)

    @field_validator("log_level")
    @classmethod
    def _is_level(cls, value: str) -> str:
        if value not in ("debug", "info", "warning", "error"):
            raise ValueError(f"not a level: {value!r} (debug, info, warning, error)")
        return value

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if bool(self.etcd) == (self.etcd_dir is not None):
            raise ValueError(
                "say where etcd is: either etcd (endpoints of a cluster that runs) or etcd_dir (a "
                "directory for a member that this process starts)"
            )
        host = split_endpoint(self.listen)[0]
        self._check_exposure("listen", host)
        if is_wildcard(host) and self.advertise is None:
            raise ValueError(f"listen: {host} is every address; set advertise to this machine's")
        if self.etcd_dir is not None:
            self._check_exposure("etcd_client_url", urlsplit(self.etcd_client_url).hostname or "")
            self._check_exposure("etcd_peer_url", urlsplit(self.etcd_peer_url).hostname or "")
            self._check_initial_cluster()
        return self

    def _check_exposure(self, name: str, host: str) -> None:
        if not is_loopback(host) and not self.allow_plaintext:
            raise ValueError(
                f"{name}: {host} leaves this machine and its traffic would not be encrypted; "
                "on a trusted network say so with allow_plaintext = true (--allow-plaintext)"
            )

    def _check_initial_cluster(self) -> None:
        members = dict(part.partition("=")[::2] for part in self.initial_cluster.split(","))
        if members.get(self.name) != self.etcd_peer_url:
            raise ValueError(
                f"etcd_initial_cluster: must name this member as {self.name}={self.etcd_peer_url}"
            )

    @property
    def initial_cluster(self) -> str:
        """etcd's --initial-cluster."""
        return self.etcd_initial_cluster or f"{self.name}={self.etcd_peer_url}"

    def advertised(self, bound: str) -> str:
        """What to tell others about a bound HOST:PORT."""
        host, port = split_endpoint(bound)
        return join_endpoint(self.advertise or host, port)


def _check_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        fine = parts.scheme == "http" and bool(parts.hostname) and parts.port is not None
    except ValueError:
        fine = False
    if not fine:
        raise ValueError(f"not an etcd address: {url!r} (for example http://127.0.0.1:2379)")
    return url
