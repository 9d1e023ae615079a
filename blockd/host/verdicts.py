"""What a qualification means, in words: one line a subject, from the findings alone.

The findings live in the superblock, so `blockd store info` says the same years later.
"""

from blockd.model.units import BLOCK_BYTES, format_size
from blockd.native.values import DeviceFindings

FLUSH_US_MIN = 20  # what no device that writes its cache out stays below


def verdicts(found: DeviceFindings) -> dict[str, str]:
    """By subject, in the order to print them in."""
    return {
        "direct I/O": f"{found.direct_alignment_bytes} bytes and multiples",
        "blocks": blocks(found),
        "atomic writes": atomic_writes(found),
        "write cache": write_cache(found),
        "flush": flush(found),
        "durable write": durable_write(found),
        "discard": discard(found),
        "in order": in_order(found),
        "at random": at_random(found),
    }


def blocks(found: DeviceFindings) -> str:
    """Logical and physical."""
    if not found.logical_block_bytes:
        return "not told by the kernel"
    text = f"{found.logical_block_bytes} logical, {found.physical_block_bytes} physical"
    if found.physical_block_bytes > BLOCK_BYTES:
        text += f": writes of {BLOCK_BYTES} make the device read first"
    if found.rotational is not None:
        text += ", rotational" if found.rotational else ", not rotational"
    return text


def atomic_writes(found: DeviceFindings) -> str:
    """What survives a power loss untorn."""
    if not found.atomic_write_bytes:
        return "none promised; blockd relies on none"
    return f"up to {format_size(found.atomic_write_bytes)} promised; blockd relies on none"


def write_cache(found: DeviceFindings) -> str:
    """As the kernel says."""
    if found.volatile_cache is None:
        return "not told by the kernel"
    if not found.volatile_cache:
        return "none that is volatile, says the kernel (write through)"
    fua = "" if found.fua is None else ", with FUA" if found.fua else ", without FUA"
    return f"volatile, says the kernel (write back{fua})"


def flush_is_measurable(found: DeviceFindings) -> bool:
    """Whether a flush after a write took time of its own."""
    return found.flush_us >= max(FLUSH_US_MIN, found.write_us // 10)


def flush(found: DeviceFindings) -> str:
    """What a flush seems to do."""
    if not found.write_us:
        return "not measured"
    if flush_is_measurable(found):
        return f"{milliseconds(found.flush_us)} a flush: it does something"
    nothing = f"{milliseconds(found.flush_us)} a flush: nothing measurable"
    if found.volatile_cache is False:
        return f"{nothing}, as it should be without a volatile cache"
    return (
        f"{nothing}: its cache is protected against power loss, or it lies; find out before you "
        "rely on it (blockd flushes all the same)"
    )


def durable_write(found: DeviceFindings) -> str:
    """A write that is durable when it is done, against a write with a flush behind it."""
    if not found.write_us:
        return "not measured"
    return (
        f"{milliseconds(found.dsync_write_us)} at once, "
        f"{milliseconds(found.write_us + found.flush_us)} as a write and a flush"
    )


def discard(found: DeviceFindings) -> str:
    """What becomes of discarded space."""
    if not found.write_us:
        return "not tried"
    granularity = ""
    if found.discard_granularity_bytes:
        granularity = f", in units of {format_size(found.discard_granularity_bytes)}"
    if found.discard_zeroes:
        return f"works, reads as zeros{granularity}"
    return "refused, or does not read as zeros; blockd relies on neither"


def in_order(found: DeviceFindings) -> str:
    """Large transfers."""
    write = f"{found.write_mib_s} MiB/s written, " if found.write_us else ""
    return f"{write}{found.read_mib_s} MiB/s read" if found.read_mib_s else "not measured"


def at_random(found: DeviceFindings) -> str:
    """Small writes."""
    if not found.write_us:
        return "not measured"
    return f"{found.write_iops} writes of 4 KiB a second, {found.flushed_write_iops} with flushes"


def milliseconds(us: int) -> str:
    """ "0.82 ms"."""
    return f"{us / 1000:.2f} ms"
