"""Qualification of a disk: what it does, found out before it holds data.

Nothing that holds data is written. A file is not probed itself, a scratch file beside it is, which
is removed again. A device is written only while it is blank, and is blank again afterwards. What
may not be written is read only, and what that does not tell is left open. Whoever says `overwrite`
gives up what the device or file holds.
"""

import contextlib
import errno
import fcntl
import os
import stat
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from blockd.host import probe
from blockd.host.block_device import KernelFacts, kernel_facts
from blockd.model.errors import (
    DiskError,
    InvalidArgument,
    NoSpace,
    NotFound,
    StoreInUse,
    Unsupported,
)
from blockd.model.units import BLOCK_BYTES
from blockd.native.values import DeviceFindings

MIB = 1 << 20
REGION_BYTES = 64 * MIB
REGION_BYTES_MIN = 4 * MIB
EDGE_BYTES = MIB  # where partitions, file systems and RAID keep what tells of them

FILE, DEVICE, DIRECTORY = "file", "device", "directory"


@dataclass(frozen=True)
class Qualification:
    """written: what was written to: "scratch file", "device", "file"; None: it was only read.
    findings.write_us and what follows are 0 when nothing was written. discard_zeroes: None: not
    tried, or refused."""

    path: Path
    kind: str
    written: str | None
    why_read_only: str | None
    kernel: KernelFacts
    findings: DeviceFindings
    discards: bool | None
    discard_zeroes: bool | None


def qualify(path: Path, seconds: float, *, overwrite: bool = False) -> Qualification:
    """Probe for about that long. Raises NotFound, InvalidArgument, StoreInUse, NoSpace, DiskError;
    Unsupported: no O_DIRECT there, or no transfers of 4096 bytes."""
    kind = kind_of(path)
    kernel = kernel_facts(path)
    with clear_errors(path), contextlib.ExitStack() as stack:
        if kind == DIRECTORY or (kind == FILE and not overwrite):
            directory = path if kind == DIRECTORY else path.parent
            region = stack.enter_context(scratch_file(directory))
            return probe_all(path, kind, "scratch file", kernel, region, seconds)
        fd, length = stack.enter_context(opened(path, exclusive=kind == DEVICE))
        require_blocks(path, probe.smallest_transfer(fd))
        why = None if overwrite else holds_data(fd, length)
        if length < EDGE_BYTES * 2 + REGION_BYTES_MIN:
            why = "it is too small to be probed"
        if why is not None:
            return read_only(path, kind, kernel, fd, length, seconds, why)
        region = probe.Region(fd, EDGE_BYTES, region_bytes(length - 2 * EDGE_BYTES))
        stack.callback(blank, region)
        return probe_all(path, kind, kind, kernel, region, seconds)


def check_direct(path: Path) -> None:
    """The least that a store needs: transfers of 4096 bytes past the page cache, tried by reading.
    Raises Unsupported, and what qualify() raises."""
    with clear_errors(path), opened(path, exclusive=False) as (fd, length):
        if length >= 2 * BLOCK_BYTES:
            require_blocks(path, probe.smallest_transfer(fd))


def kind_of(path: Path) -> str:
    """FILE, DEVICE or DIRECTORY. Raises NotFound, InvalidArgument."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError as error:
        raise NotFound(f"{path} does not exist") from error
    except OSError as error:
        raise InvalidArgument(f"cannot look at {path}: {error.strerror}") from error
    for is_kind, kind in ((stat.S_ISBLK, DEVICE), (stat.S_ISREG, FILE), (stat.S_ISDIR, DIRECTORY)):
        if is_kind(mode):
            return kind
    raise InvalidArgument(f"{path} is neither a block device nor a file nor a directory")


def probe_all(
    path: Path, kind: str, written: str, kernel: KernelFacts, region: probe.Region, seconds: float
) -> Qualification:
    """Everything, in the region."""
    alignment = require_blocks(path, probe.smallest_transfer(region.fd))
    if not probe.can_write_blocks(region):
        raise unsupported(path)
    write_mib_s = probe.stream(region, seconds * 0.2, write=True)
    read_mib_s = probe.stream(region, seconds * 0.2, write=False)
    latency = probe.latency(region, seconds * 0.2)
    write_iops = probe.random_writes(region, seconds * 0.2, flushed=False)
    flushed_write_iops = probe.random_writes(region, seconds * 0.2, flushed=True)
    zeroes = probe.discard(region)
    findings = describe(
        kernel,
        alignment,
        discard_zeroes=bool(zeroes),
        write_us=latency.write_us,
        flush_us=latency.flush_us,
        dsync_write_us=latency.dsync_write_us,
        write_mib_s=write_mib_s,
        read_mib_s=read_mib_s,
        write_iops=write_iops,
        flushed_write_iops=flushed_write_iops,
    )
    return Qualification(path, kind, written, None, kernel, findings, zeroes is not None, zeroes)


def read_only(
    path: Path, kind: str, kernel: KernelFacts, fd: int, length: int, seconds: float, why: str
) -> Qualification:
    """Alignment and reading, of what must not be written."""
    alignment = require_blocks(path, probe.smallest_transfer(fd))
    whole = length // MIB * MIB
    read_mib_s = 0
    if whole:
        read_mib_s = probe.stream(probe.Region(fd, 0, whole), seconds * 0.4, write=False)
    findings = describe(kernel, alignment, read_mib_s=read_mib_s)
    return Qualification(path, kind, None, why, kernel, findings, None, None)


def describe(
    kernel: KernelFacts, alignment: int, *, discard_zeroes: bool = False, **figures: int
) -> DeviceFindings:
    """As it is kept in the superblock."""
    return DeviceFindings(
        direct_alignment_bytes=alignment,
        logical_block_bytes=kernel.logical_block_bytes,
        physical_block_bytes=kernel.physical_block_bytes,
        atomic_write_bytes=kernel.atomic_write_bytes,
        discard_granularity_bytes=kernel.discard_granularity_bytes,
        rotational=kernel.rotational,
        volatile_cache=None if kernel.write_cache is None else kernel.write_cache == "write back",
        fua=kernel.fua,
        discard_zeroes=discard_zeroes,
        probed_unix_s=int(time.time()),
        **figures,
    )


@contextlib.contextmanager
def opened(path: Path, *, exclusive: bool) -> Iterator[tuple[int, int]]:
    """The descriptor, O_DIRECT, and its length. Locked as a store is while it is open, and a device
    not mounted: nobody else uses it. Raises StoreInUse, OSError."""
    flags = os.O_RDWR | os.O_DIRECT | os.O_CLOEXEC | (os.O_EXCL if exclusive else 0)
    fd = os.open(path, flags)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StoreInUse(f"{path} is open in another process") from error
        yield fd, os.lseek(fd, 0, os.SEEK_END)
    finally:
        os.close(fd)


@contextlib.contextmanager
def scratch_file(directory: Path) -> Iterator[probe.Region]:
    """A file of some MiB that vanishes. Raises OSError."""
    fd, name = tempfile.mkstemp(prefix=".blockd-qualify-", dir=directory)
    try:
        free = os.fstatvfs(fd)
        length = region_bytes(free.f_bavail * free.f_frsize // 2)
        os.posix_fallocate(fd, 0, length)
        direct = os.open(name, os.O_RDWR | os.O_DIRECT | os.O_CLOEXEC)
        try:
            yield probe.Region(direct, 0, length)
        finally:
            os.close(direct)
    finally:
        os.close(fd)
        os.unlink(name)


def region_bytes(room: int) -> int:
    """Whole MiB, at most what is enough."""
    return max(REGION_BYTES_MIN, min(REGION_BYTES, room // MIB * MIB))


def holds_data(fd: int, length: int) -> str | None:
    """Why the device must not be written; None: both ends and the region for probing are zeros."""
    size = min(length // MIB * MIB, EDGE_BYTES + REGION_BYTES)
    end = (length - EDGE_BYTES) // BLOCK_BYTES * BLOCK_BYTES
    if probe.reads_zero(fd, 0, size) and (end <= size or probe.reads_zero(fd, end, EDGE_BYTES)):
        return None
    return "it holds data; --force destroys that"


def blank(region: probe.Region) -> None:
    """Zeros again, so that formatting finds what was there before."""
    if not (probe.punch(region) and probe.reads_zero(region.fd, region.offset, region.length)):
        probe.write_zeros(region)


def require_blocks(path: Path, alignment: int | None) -> int:
    """Raises Unsupported: not even blocks of 4096 bytes can be transferred."""
    if alignment is None:
        raise unsupported(path)
    return alignment


def unsupported(path: Path) -> Unsupported:
    """Of what no store can be made."""
    return Unsupported(
        f"{path} does not transfer blocks of {BLOCK_BYTES} bytes with O_DIRECT: it cannot hold a "
        "store; use another device or file system"
    )


@contextlib.contextmanager
def clear_errors(path: Path) -> Iterator[None]:
    """The kernel's refusals as errors of the table."""
    try:
        yield
    except OSError as error:
        why = error.strerror or str(error)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoSpace(f"no room beside {path} for a scratch file of some MiB") from error
        if error.errno == errno.EINVAL:
            raise unsupported(path) from error
        if error.errno == errno.EBUSY:
            raise StoreInUse(f"{path} is in use by another process or mounted") from error
        if error.errno in (errno.EPERM, errno.EACCES, errno.EROFS):
            raise InvalidArgument(f"cannot probe {path}: {why}") from error
        raise DiskError(f"{path} fails while it is probed: {why}") from error
