"""What the kernel tells of the disk under a path: block sizes, cache, discard, atomic writes.

Read only. What is not told (a file system over several disks, an older kernel) is None or 0.
"""

import ctypes
import os
import stat
from dataclasses import dataclass
from pathlib import Path

AT_FDCWD = -100
STATX_WRITE_ATOMIC = 0x1_0000  # Linux 6.11
STATX_BYTES = 256
ATOMIC_UNIT_MAX_AT = 172  # struct statx, include/uapi/linux/stat.h


@dataclass(frozen=True)
class KernelFacts:
    """The disk's request queue as sysfs shows it. write_cache: "write back", "write through"."""

    device: str | None = None
    logical_block_bytes: int = 0
    physical_block_bytes: int = 0
    discard_granularity_bytes: int = 0
    atomic_write_bytes: int = 0
    rotational: bool | None = None
    write_cache: str | None = None
    fua: bool | None = None


def kernel_facts(path: Path) -> KernelFacts:
    """Of a device, or of the device below a file or directory. Raises OSError."""
    status = path.stat()
    is_device = stat.S_ISBLK(status.st_mode)
    number = status.st_rdev if is_device else status.st_dev
    disk = _disk(number)
    if disk is None:
        return KernelFacts(atomic_write_bytes=atomic_write_bytes(path))
    queue = disk / "queue"
    rotational = _number(queue / "rotational")
    fua = _number(queue / "fua")
    return KernelFacts(
        device=disk.name,
        logical_block_bytes=_number(queue / "logical_block_size") or 0,
        physical_block_bytes=_number(queue / "physical_block_size") or 0,
        discard_granularity_bytes=_number(queue / "discard_granularity") or 0,
        atomic_write_bytes=atomic_write_bytes(path),
        rotational=None if rotational is None else rotational != 0,
        write_cache=_text(queue / "write_cache"),
        fua=None if fua is None else fua != 0,
    )


def _disk(number: int) -> Path | None:
    """sysfs of the whole disk with this device number; a partition's queue is its disk's."""
    found = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}")
    try:
        disk = found.resolve(strict=True)
    except OSError:
        return None
    return disk if (disk / "queue").is_dir() else disk.parent


def atomic_write_bytes(path: Path) -> int:
    """The largest write that is promised to be wholly old or wholly new after a power loss; 0:
    nothing is promised, or the kernel is too old to say."""
    statx = getattr(ctypes.CDLL(None, use_errno=True), "statx", None)
    if statx is None:
        return 0
    answer = ctypes.create_string_buffer(STATX_BYTES)
    if statx(AT_FDCWD, os.fsencode(path), 0, STATX_WRITE_ATOMIC, answer) != 0:
        return 0
    if not int.from_bytes(answer.raw[:4], "little") & STATX_WRITE_ATOMIC:
        return 0
    return int.from_bytes(answer.raw[ATOMIC_UNIT_MAX_AT : ATOMIC_UNIT_MAX_AT + 4], "little")


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="ascii").strip() or None
    except OSError:
        return None


def _number(path: Path) -> int | None:
    text = _text(path)
    return int(text) if text is not None and text.isdigit() else None
