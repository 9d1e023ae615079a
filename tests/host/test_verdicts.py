"""What findings mean, in words."""

from dataclasses import replace

import pytest

from blockd.host.verdicts import verdicts
from blockd.native.values import DeviceFindings

MEASURED = DeviceFindings(
    direct_alignment_bytes=512,
    logical_block_bytes=512,
    physical_block_bytes=4096,
    atomic_write_bytes=0,
    discard_granularity_bytes=4096,
    rotational=False,
    volatile_cache=True,
    fua=True,
    discard_zeroes=True,
    probed_unix_s=1,
    write_us=60,
    flush_us=820,
    dsync_write_us=500,
    write_mib_s=900,
    read_mib_s=1200,
    write_iops=40_000,
    flushed_write_iops=1200,
)


@pytest.mark.parametrize(
    ("change", "subject", "words"),
    [
        ({}, "flush", "0.82 ms a flush: it does something"),
        ({"flush_us": 3}, "flush", "nothing measurable: its cache is protected"),
        ({"flush_us": 3, "volatile_cache": None}, "flush", "or it lies"),
        ({"flush_us": 3, "volatile_cache": False}, "flush", "as it should be"),
        ({"flush_us": 50, "write_us": 600}, "flush", "nothing measurable"),
        ({"write_us": 0}, "flush", "not measured"),
        ({}, "durable write", "0.50 ms at once, 0.88 ms as a write and a flush"),
        ({}, "write cache", "volatile, says the kernel (write back, with FUA)"),
        ({"fua": False}, "write cache", "without FUA"),
        ({"volatile_cache": None}, "write cache", "not told"),
        ({}, "blocks", "512 logical, 4096 physical, not rotational"),
        ({"physical_block_bytes": 16384}, "blocks", "make the device read first"),
        ({"logical_block_bytes": 0}, "blocks", "not told"),
        ({}, "atomic writes", "none promised"),
        ({"atomic_write_bytes": 16384}, "atomic writes", "up to 16 KiB promised"),
        ({}, "discard", "reads as zeros, in units of 4 KiB"),
        ({"discard_zeroes": False}, "discard", "refused, or does not"),
        ({"write_us": 0}, "in order", "1200 MiB/s read"),
        ({}, "at random", "40000 writes of 4 KiB a second, 1200 with flushes"),
    ],
)
def test_verdicts(change: dict[str, int], subject: str, words: str) -> None:
    assert words in verdicts(replace(MEASURED, **change))[subject]  # type: ignore[arg-type]
