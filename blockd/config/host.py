"""Settings of `blockd host`.

Traffic of peers, NBD over TCP, gRPC and metrics is not encrypted yet: an address that leaves the
machine is refused unless allow_plaintext says that the network is trusted, so nothing is silently
unencrypted.
"""

import re
from pathlib import Path
from typing import Self
from uuid import UUID

from pydantic import Field, field_validator, model_validator

from blockd.config.base import Settings, Size
from blockd.config.endpoints import (
    Endpoint,
    is_loopback,
    is_wildcard,
    join_endpoint,
    split_endpoint,
)

NAME = re.compile(r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")
UNIX_PATH_BYTES_MAX = 107  # sockaddr_un.sun_path, with its final zero


class HostSettings(Settings):
    """One host daemon. Endpoints are HOST:PORT; port 0 is picked by the kernel."""

    name: str
    site: str
    data_dir: Path  # the host's id, its cluster and its start counter
    stores: tuple[Path, ...] = Field(min_length=1)
    meta: tuple[Endpoint, ...] = Field(min_length=1)
    listen: Endpoint = "127.0.0.1:7420"
    peer_listen: Endpoint = "127.0.0.1:7421"
    nbd_tcp: Endpoint | None = "127.0.0.1:10809"  # "" turns it off
    nbd_unix: Path | None = None  # default /run/blockd/NAME/nbd.sock
    metrics_listen: Endpoint | None = "127.0.0.1:9420"  # "" turns it off
    advertise: str | None = None  # the address that others reach this host at
    allow_plaintext: bool = False
    cluster_id: UUID | None = None  # refuse to join any other cluster
    format: bool = False  # format stores that hold nothing yet
    journal_size: Size = 0  # of stores formatted here; 0: chosen from the capacity
    buffer_size: Size = 256 << 20
    cpu: int | None = Field(default=None, ge=0)  # pin the reactor to this CPU
    log_level: str = "info"

    @field_validator("nbd_tcp", "metrics_listen", "nbd_unix", mode="before")
    @classmethod
    def _empty_is_off(cls, value: object) -> object:
        return None if value == "" else value

    @field_validator("name", "site")
    @classmethod
    def _is_name(cls, value: str) -> str:
        if not NAME.match(value):
            raise ValueError(f"not a name: {value!r} (a-z, 0-9 and hyphens, at most 63)")
        return value

    @field_validator("log_level")
    @classmethod
    def _is_level(cls, value: str) -> str:
        if value not in ("debug", "info", "warning", "error"):
            raise ValueError(f"not a level: {value!r} (debug, info, warning, error)")
        return value

    @model_validator(mode="after")
    def _is_safe(self) -> Self:
        for name in ("listen", "peer_listen", "nbd_tcp", "metrics_listen"):
            endpoint = getattr(self, name)
            if endpoint is not None:
                self._check_exposure(name, split_endpoint(endpoint)[0])
        path = str(self.nbd_socket)
        if len(path.encode()) > UNIX_PATH_BYTES_MAX:
            raise ValueError(
                f"nbd_unix: {path} is longer than {UNIX_PATH_BYTES_MAX} bytes, a socket's limit"
            )
        if len(set(self.stores)) != len(self.stores):
            raise ValueError("stores: a path occurs twice")
        return self

    def _check_exposure(self, name: str, host: str) -> None:
        if not is_loopback(host) and not self.allow_plaintext:
            raise ValueError(
                f"{name}: {host} leaves this machine and its traffic would not be encrypted; "
                "on a trusted network say so with allow_plaintext = true (--allow-plaintext)"
            )
        if is_wildcard(host) and self.advertise is None:
            raise ValueError(f"{name}: {host} is every address; set advertise to that of this host")

    @property
    def nbd_socket(self) -> Path:
        """Where hypervisors on this machine connect."""
        return self.nbd_unix or Path("/run/blockd") / self.name / "nbd.sock"

    def advertised(self, bound: str) -> str:
        """What to tell others about a bound HOST:PORT."""
        host, port = split_endpoint(bound)
        return join_endpoint(self.advertise or host, port)
