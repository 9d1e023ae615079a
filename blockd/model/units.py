"""Sizes: the constants of the data plane (a test holds them to cext/include/blockd/types.h); sizes
and durations as people write them."""

import re

from blockd.model.errors import InvalidArgument

BLOCK_BYTES = 4096  # the unit of checksumming and atomicity
CHUNK_BYTES = 64 * 1024  # the unit of allocation and of resync
BLOCKS_PER_CHUNK = CHUNK_BYTES // BLOCK_BYTES
SEGMENT_BYTES = 1 << 30  # the unit of placement
CHUNKS_PER_SEGMENT = SEGMENT_BYTES // CHUNK_BYTES
BLOCKS_PER_SEGMENT = SEGMENT_BYTES // BLOCK_BYTES
MUTATION_BYTES_MAX = 256 * 1024
SECTOR_BYTES = 512  # a volume's size is a multiple of this

_BINARY = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40, "P": 1 << 50}
_SIZE = re.compile(r"^\s*(\d+)(?:\.(\d{1,9}))?\s*([KMGTP]?)(i?)(B?)\s*$", re.IGNORECASE)


_DURATION_MS = {"ms": 1, "s": 1000, "m": 60_000, "min": 60_000, "h": 3_600_000, "d": 86_400_000}
_DURATION = re.compile(r"^\s*(\d{1,6})\s*(ms|s|m|min|h|d)\s*$", re.IGNORECASE)


def segment_count(size_bytes: int) -> int:
    """How many segments a volume of this size has."""
    return -(-size_bytes // SEGMENT_BYTES)


def segment_bytes(size_bytes: int, index: int) -> int:
    """What segment `index` of a volume of this size may come to hold; 0 beyond its end."""
    return max(0, min(SEGMENT_BYTES, size_bytes - index * SEGMENT_BYTES))


def segment_block_count(size_bytes: int, index: int) -> int:
    """How many blocks segment `index` of a volume of this size has; the last one may be short."""
    return -(-min(SEGMENT_BYTES, size_bytes - index * SEGMENT_BYTES) // BLOCK_BYTES)


def parse_size(text: str) -> int:
    """Bytes from "10GiB", "512 MiB", "1.5T", "4096": prefixes are powers of 1024, as in qemu-img,
    except when the unit says SI outright ("10GB"). Raises InvalidArgument."""
    match = _SIZE.match(text)
    if match is None:
        raise InvalidArgument(f"not a size: {text!r} (write for example 10GiB)")
    whole, fraction, prefix, binary, byte = match.groups()
    prefix = prefix.upper()
    if binary and not prefix:
        raise InvalidArgument(f"not a size: {text!r} (write for example 10GiB)")
    si = bool(prefix and byte and not binary)
    unit = 1000 ** "KMGTP".index(prefix) * 1000 if si else _BINARY[prefix]
    size = int(whole) * unit
    if fraction:
        size += int(fraction) * unit // 10 ** len(fraction)
    return size


def format_size(size_bytes: int) -> str:
    """ "10 GiB", "1.5 TiB", "512 B": at most one decimal, for people."""
    value = float(size_bytes)
    units = iter(("B", "KiB", "MiB", "GiB", "TiB", "PiB"))
    unit = next(units)
    while abs(value) >= 1024 and unit != "PiB":
        value /= 1024
        unit = next(units)
    text = f"{value:.1f}".rstrip("0").rstrip(".")
    return f"{text} {unit}"


def parse_duration_ms(text: str) -> int:
    """Milliseconds from "30s", "2m", "1 h", "1d", "500ms". Raises InvalidArgument."""
    match = _DURATION.match(text)
    if match is None:
        raise InvalidArgument(f"not a duration: {text!r} (write for example 30s or 2m)")
    return int(match[1]) * _DURATION_MS[match[2].lower()]


def format_duration(milliseconds: int) -> str:
    """ "30 s", "2 min", "1500 ms": exact, in the largest unit that is, for people."""
    for unit in ("d", "h", "min", "s"):
        if milliseconds >= _DURATION_MS[unit] and milliseconds % _DURATION_MS[unit] == 0:
            return f"{milliseconds // _DURATION_MS[unit]} {unit}"
    return f"{milliseconds} ms"
