"""Settings of `blockd host`."""

from pathlib import Path
from typing import Self

from pydantic import Field, field_validator, model_validator

from blockd.config.base import Duration, Size
from blockd.config.daemon import DaemonSettings
from blockd.config.endpoints import Endpoint

REBUILD_RATE_MIN = 64 << 10
UNIX_PATH_BYTES_MAX = 107  # sockaddr_un.sun_path, with its final zero


class HostSettings(DaemonSettings):
    """One host daemon."""

    data_dir: Path  # the host's id, its cluster and its start counter
    stores: tuple[Path, ...] = Field(min_length=1)
    meta: tuple[Endpoint, ...] = Field(min_length=1)
    listen: Endpoint = "127.0.0.1:7420"
    peer_listen: Endpoint = "127.0.0.1:7421"
    nbd_tcp: Endpoint | None = "127.0.0.1:10809"  # "" turns it off
    nbd_unix: Path | None = None  # default, also for "": /run/blockd/NAME/nbd.sock
    metrics_listen: Endpoint | None = "127.0.0.1:9420"  # "" turns it off
    format: bool = False  # format stores that hold nothing yet
    journal_size: Size = 0  # of stores formatted here; 0: chosen from the capacity
    store_warning: int = Field(default=80, ge=1, le=100)  # percent: a store is nearly full
    store_critical: int = Field(default=95, ge=1, le=100)  # percent: it is full
    buffer_size: Size = 256 << 20
    scrub_interval: Duration = 7 * 86400.0  # from one scrub's start to the next; 0: on demand only
    scrub_rate: Size = Field(default=20 << 20, ge=64 << 10)  # bytes a second, each store
    flatten_rate: Size = Field(default=100 << 20, ge=64 << 10)  # bytes a second, each volume
    peer_version: int | None = Field(default=None, ge=2)  # speak no higher one to other hosts
    rebuild_rate: Size = 0  # bytes a second, all volumes served here together; 0: no limit
    cpu: int | None = Field(default=None, ge=0)  # pin the reactor to this CPU

    @field_validator("nbd_tcp", "metrics_listen", "nbd_unix", mode="before")
    @classmethod
    def _empty_is_none(cls, value: object) -> object:
        return None if value == "" else value

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        for name in ("listen", "peer_listen", "nbd_tcp", "metrics_listen"):
            endpoint = getattr(self, name)
            if endpoint is not None:
                self.check_listener(name, endpoint)
        path = str(self.nbd_socket)
        if len(path.encode()) > UNIX_PATH_BYTES_MAX:
            raise ValueError(
                f"nbd_unix: {path} is longer than {UNIX_PATH_BYTES_MAX} bytes, a socket's limit"
            )
        if self.store_warning >= self.store_critical:
            raise ValueError(
                f"store_warning: {self.store_warning} is not below store_critical, "
                f"{self.store_critical}"
            )
        if 0 < self.rebuild_rate < REBUILD_RATE_MIN:
            raise ValueError(
                f"rebuild_rate: {self.rebuild_rate} is less than {REBUILD_RATE_MIN} bytes a second"
            )
        if len(set(self.stores)) != len(self.stores):
            raise ValueError("stores: a path occurs twice")
        return self

    @property
    def nbd_socket(self) -> Path:
        """Where hypervisors on this machine connect."""
        return self.nbd_unix or Path("/run/blockd") / self.name / "nbd.sock"
