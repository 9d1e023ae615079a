"""HOST:PORT as it stands in settings, and which of those addresses leave the machine."""

import ipaddress
from typing import Annotated

from pydantic import AfterValidator

from blockd.model.errors import BlockdError, InvalidArgument


def split_endpoint(text: str) -> tuple[str, int]:
    """ "127.0.0.1:7400" or "[::1]:7400" -> host, port. Raises InvalidArgument."""
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise InvalidArgument(f"not HOST:PORT: {text!r} (write IPv6 addresses in brackets)")
    if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise InvalidArgument(f"not HOST:PORT: {text!r} (for example 127.0.0.1:7400)")
    return host, int(port)


def join_endpoint(host: str, port: int) -> str:
    """The inverse of split_endpoint."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_loopback(host: str) -> bool:
    """Whether connections to `host` stay on this machine for sure; of names only localhost does."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_wildcard(host: str) -> bool:
    """Whether listening on `host` means every address of the machine."""
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


def _checked(text: str) -> str:
    try:
        split_endpoint(text)
    except BlockdError as error:
        raise ValueError(str(error)) from error
    return text


# "HOST:PORT", checked, kept as text.
Endpoint = Annotated[str, AfterValidator(_checked)]
