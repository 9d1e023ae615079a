"""The native CRC-32C against published vectors and a reference written in plain Python."""

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockd.model.errors import InvalidArgument
from blockd.native.checksum import checksum_blocks, crc32c, kernel_name, verify_blocks

BLOCK = 4096


def make_table() -> list[int]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return table


TABLE = make_table()


def reference(data: bytes, crc: int = 0) -> int:
    crc ^= 0xFFFFFFFF
    for byte in data:
        crc = TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", 0),
        (b"123456789", 0xE3069283),
        # RFC 3720, appendix B.4
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(reversed(range(32))), 0x113FDB5C),
    ],
)
def test_published_vectors(data: bytes, expected: int) -> None:
    assert crc32c(data) == expected
    assert reference(data) == expected


@given(st.binary(max_size=5000), st.integers(min_value=0, max_value=7))
def test_agrees_with_the_reference_at_any_alignment(data: bytes, skip: int) -> None:
    assert crc32c(memoryview(data)[skip:]) == reference(data[skip:])


@given(st.binary(max_size=3000), st.integers(min_value=0, max_value=3000))
def test_continues_an_earlier_result(data: bytes, cut: int) -> None:
    assert crc32c(data[cut:], crc32c(data[:cut])) == crc32c(data)


def test_large_buffers_release_the_gil_and_agree() -> None:
    data = numpy.random.default_rng(1).bytes(3 * 1024 * 1024 + 17)
    whole = crc32c(data)
    assert crc32c(data[1_000_003:], crc32c(data[:1_000_003])) == whole
    assert crc32c(bytearray(data)) == whole
    assert crc32c(numpy.frombuffer(data, dtype=numpy.uint8)) == whole


@given(st.lists(st.binary(min_size=BLOCK, max_size=BLOCK), max_size=4))
def test_blocks(blocks: list[bytes]) -> None:
    crcs = checksum_blocks(b"".join(blocks))
    assert crcs.dtype == numpy.uint32
    assert crcs.tolist() == [reference(block) for block in blocks]
    assert verify_blocks(b"".join(blocks), crcs) == -1


def test_verify_finds_the_first_bad_block() -> None:
    data = bytearray(numpy.random.default_rng(2).bytes(32 * BLOCK))
    crcs = checksum_blocks(data)
    for bad in (31, 7, 0):
        data[bad * BLOCK + 100] ^= 4
        assert verify_blocks(data, crcs) == bad
        assert verify_blocks(data, crcs.tolist()) == bad


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(InvalidArgument, match="4095 bytes are not a whole number"):
        checksum_blocks(bytes(4095))
    with pytest.raises(InvalidArgument, match="2 blocks cannot be verified by 1"):
        verify_blocks(bytes(8192), [0])
    with pytest.raises(TypeError):
        crc32c("text")  # type: ignore[arg-type]
    with pytest.raises((BufferError, ValueError)):
        crc32c(memoryview(bytes(16))[::2])


def test_kernel_is_named() -> None:
    assert kernel_name() in {"sse4.2", "portable"}
