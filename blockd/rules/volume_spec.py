"""What a volume may be: its name, size and policy. One function each, used wherever one enters."""

import re

from blockd.model.errors import BlockdError, InvalidArgument
from blockd.model.ids import is_id
from blockd.model.units import SECTOR_BYTES, format_duration, format_size

VOLUME_BYTES_MAX = 16 << 40  # 16384 segments: still one message with all their members
REPLICAS_MAX = 7
REPLICAS_DEFAULT = 3
# How long a request waits for a quorum. The longest is beyond what guests wait, the shortest above
# what it takes to give up a member that is lost.
IO_TIMEOUT_MS_DEFAULT = 30_000
IO_TIMEOUT_MS_MIN = 5_000
IO_TIMEOUT_MS_MAX = 86_400_000

_VOLUME_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")
_PLACE_NAME = re.compile(r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")
_JURISDICTION = re.compile(r"^[A-Z]{2}$")


def check_volume_name(name: str) -> str:
    """Raises InvalidArgument. A name is also an NBD export's, and never mistaken for an id."""
    if not _VOLUME_NAME.fullmatch(name) or is_id(name):
        raise InvalidArgument(
            f"not a volume name: {name!r} (1 to 63 of A-Z a-z 0-9 . _ -, the first a letter or "
            "digit, and not a UUID)",
            field="name",
        )
    return name


def check_place_name(name: str, field: str) -> str:
    """The name of an operator, site or host. Raises InvalidArgument."""
    if not _PLACE_NAME.fullmatch(name) or is_id(name):
        raise InvalidArgument(
            f"{field}: not a name: {name!r} (1 to 63 of a-z 0-9 -, no hyphen at either end)",
            field=field,
        )
    return name


def check_jurisdiction(code: str) -> str:
    """ISO 3166-1 alpha-2, or empty when not given. Raises InvalidArgument."""
    if code and not _JURISDICTION.fullmatch(code):
        raise InvalidArgument(
            f"jurisdiction: not an ISO 3166 country code: {code!r} (for example FR)",
            field="jurisdiction",
        )
    return code


def check_coordinates(latitude: float, longitude: float) -> None:
    """Raises InvalidArgument for a place that is not on the globe (NaN included)."""
    if not (-90 <= latitude <= 90 and -180 <= longitude <= 180):
        raise InvalidArgument(
            f"latitude and longitude: no such place: {latitude}, {longitude}", field="latitude"
        )


def check_size(size_bytes: int) -> int:
    """Raises InvalidArgument: nothing, not whole sectors, or more than a volume may have."""
    if size_bytes <= 0 or size_bytes % SECTOR_BYTES:
        raise _bad_size(f"a volume's size is a multiple of {SECTOR_BYTES} bytes, not {size_bytes}")
    if size_bytes > VOLUME_BYTES_MAX:
        raise _bad_size(
            f"a volume has at most {format_size(VOLUME_BYTES_MAX)}, not {format_size(size_bytes)}"
        )
    return size_bytes


def check_resize(old_bytes: int, new_bytes: int, *, force: bool) -> None:
    """Raises InvalidArgument for a size that is not allowed, or would without `force` shrink the
    volume."""
    check_size(new_bytes)
    if new_bytes < old_bytes and not force:
        raise _bad_size(
            f"the volume has {format_size(old_bytes)}: at {format_size(new_bytes)} its last "
            f"{format_size(old_bytes - new_bytes)} are destroyed: that takes --force"
        )


def complete_policy(
    replicas: int, min_in_sync: int, io_timeout_ms: int = 0
) -> tuple[int, int, int]:
    """Replace zeros: 3 replicas; 2 in sync of 3 or more, else 1; 30 s. Raises InvalidArgument."""
    replicas = replicas or REPLICAS_DEFAULT
    if replicas > REPLICAS_MAX:
        raise InvalidArgument(
            f"a volume has 1 to {REPLICAS_MAX} replicas, not {replicas}", field="policy.replicas"
        )
    min_in_sync = min_in_sync or (2 if replicas >= 3 else 1)
    if min_in_sync > replicas:
        raise InvalidArgument(
            f"min_in_sync is {min_in_sync} of only {replicas} replicas", field="policy.min_in_sync"
        )
    io_timeout_ms = io_timeout_ms or IO_TIMEOUT_MS_DEFAULT
    check_io_timeout(io_timeout_ms, "policy.io_timeout_ms")
    return replicas, min_in_sync, io_timeout_ms


def check_io_timeout(io_timeout_ms: int, field: str = "io_timeout_ms") -> None:
    """Raises InvalidArgument."""
    if not IO_TIMEOUT_MS_MIN <= io_timeout_ms <= IO_TIMEOUT_MS_MAX:
        raise InvalidArgument(
            f"requests wait {format_duration(IO_TIMEOUT_MS_MIN)} to "
            f"{format_duration(IO_TIMEOUT_MS_MAX)} for a quorum, not "
            f"{format_duration(io_timeout_ms)}",
            field=field,
        )


def check_lowered(old: int, new: int) -> None:
    """Never higher: those who had a write that was answered under the lower one need not be among
    those whom an opening under the higher one asks. Raises InvalidArgument."""
    if not 1 <= new <= old:
        raise InvalidArgument(
            f"min_in_sync is {old}, and can be lowered to 1 at least, not made {new}",
            field="min_in_sync",
        )


def _bad_size(message: str) -> BlockdError:
    return InvalidArgument(message, field="size_bytes")
