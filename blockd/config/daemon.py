"""What the settings of both daemons have in common: who it is, where it may be reached from.

Traffic is not encrypted yet: an address that leaves the machine is refused unless allow_plaintext
says that the network is trusted, so nothing is silently unencrypted.
"""

import re
from uuid import UUID

from pydantic import field_validator

from blockd.config.base import Settings
from blockd.config.endpoints import is_loopback, is_wildcard, join_endpoint, split_endpoint

NAME = re.compile(r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")


class DaemonSettings(Settings):
    """One daemon. Endpoints are HOST:PORT; port 0 is picked by the kernel."""

    name: str
    site: str
    advertise: str | None = None  # the address that others reach this daemon at
    allow_plaintext: bool = False
    cluster_id: UUID | None = None  # refuse any other cluster
    log_level: str = "info"

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

    def check_listener(self, setting: str, endpoint: str) -> None:
        """Whether others may and can be told to connect there. Raises ValueError."""
        host = split_endpoint(endpoint)[0]
        self.check_exposure(setting, host)
        if is_wildcard(host) and self.advertise is None:
            raise ValueError(
                f"{setting}: {host} is every address; set advertise to that of this machine"
            )

    def check_exposure(self, setting: str, host: str) -> None:
        """Raises ValueError: traffic would leave the machine, and nobody said that it may."""
        if not is_loopback(host) and not self.allow_plaintext:
            raise ValueError(
                f"{setting}: {host} leaves this machine and its traffic would not be encrypted; "
                "on a trusted network say so with allow_plaintext = true (--allow-plaintext)"
            )

    def advertised(self, bound: str) -> str:
        """What to tell others about a bound HOST:PORT."""
        host, port = split_endpoint(bound)
        return join_endpoint(self.advertise or host, port)
