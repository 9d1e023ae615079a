"""CRC-32C (Castagnoli) over any contiguous buffer; large ones release the GIL."""

from collections.abc import Sequence
from typing import Any

import numpy
from numpy.typing import NDArray
from typing_extensions import Buffer

Bytes = Buffer | NDArray[Any]

def crc32c(data: Bytes, crc: int = 0) -> int:
    """The CRC-32C of `data`, or with `crc`, an earlier result, its continuation over `data`."""

def checksum_blocks(data: Bytes) -> NDArray[numpy.uint32]:
    """One CRC-32C for each 4 KiB block. Raises InvalidArgument: not a whole number of blocks."""

def verify_blocks(data: Bytes, crcs: NDArray[numpy.uint32] | Sequence[int]) -> int:
    """The index of the first block whose CRC-32C is not `crcs[index]`, or -1 when all match.

    Raises InvalidArgument: not a whole number of blocks, or not one checksum a block.
    """

def kernel_name() -> str:
    """What computes: "sse4.2" or "portable"."""
