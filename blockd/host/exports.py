"""The URIs under which a volume is exported over NBD, in the form of the NBD URI specification."""

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote


@dataclass(frozen=True)
class NbdEndpoints:
    """Where this host serves NBD. tcp: the HOST:PORT that others use, when TCP is on."""

    unix: Path
    tcp: str | None

    def uris(self, export: str) -> list[str]:
        """The unix socket first: it is what a hypervisor on this machine should use."""
        name = quote(export, safe="")
        found = [f"nbd+unix:///{name}?socket={quote(str(self.unix), safe='/')}"]
        if self.tcp is not None:
            found.append(f"nbd://{self.tcp}/{name}")
        return found

    def names(self) -> list[str]:
        """The endpoints themselves, for status."""
        return [f"unix:{self.unix}", *([f"tcp:{self.tcp}"] if self.tcp else [])]
