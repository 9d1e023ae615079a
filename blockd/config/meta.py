"""Settings of `blockd meta`.

Where etcd is: either `etcd`, the endpoints of a cluster that others run, or `etcd_dir` and what
belongs to it, a member that this process starts and supervises.
"""

from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from blockd.config.daemon import DaemonSettings
from blockd.config.endpoints import Endpoint


class MetaSettings(DaemonSettings):
    """One metadata instance. A new cluster gets cluster_id, when that is set."""

    listen: Endpoint = "127.0.0.1:7400"
    etcd: tuple[str, ...] = ()  # HOST:PORT or http://HOST:PORT of an existing cluster
    etcd_dir: Path | None = None  # data of a member that this process supervises
    etcd_binary: Path = Path("/usr/bin/etcd")
    etcd_client_url: str = "http://127.0.0.1:2379"
    etcd_peer_url: str = "http://127.0.0.1:2380"
    etcd_initial_cluster: str = ""  # NAME=URL,... of all members; empty: this one alone
    overcommit: float = Field(default=20.0, ge=1.0)  # how often a store's capacity is promised

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

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if bool(self.etcd) == (self.etcd_dir is not None):
            raise ValueError(
                "say where etcd is: either etcd (endpoints of a cluster that runs) or etcd_dir (a "
                "directory for a member that this process starts)"
            )
        self.check_listener("listen", self.listen)
        if self.etcd_dir is not None:
            self.check_exposure("etcd_client_url", urlsplit(self.etcd_client_url).hostname or "")
            self.check_exposure("etcd_peer_url", urlsplit(self.etcd_peer_url).hostname or "")
            self._check_initial_cluster()
        return self

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


def _check_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        fine = parts.scheme == "http" and bool(parts.hostname) and parts.port is not None
    except ValueError:
        fine = False
    if not fine:
        raise ValueError(f"not an etcd address: {url!r} (for example http://127.0.0.1:2379)")
    return url
