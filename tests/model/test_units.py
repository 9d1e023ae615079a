"""Sizes as people write them, and the constants that Python shares with the native core."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockd.model import units
from blockd.model.errors import InvalidArgument
from blockd.model.ids import is_id, new_id, parse_id
from blockd.model.units import (
    format_duration,
    format_size,
    parse_duration_ms,
    parse_size,
    segment_block_count,
    segment_count,
)

TYPES_H = Path(__file__).parents[2] / "cext" / "include" / "blockd" / "types.h"


@pytest.mark.parametrize(
    ("constant", "name"),
    [
        ("kBlockBytes", "BLOCK_BYTES"),
        ("kChunkBytes", "CHUNK_BYTES"),
        ("kSegmentBytes", "SEGMENT_BYTES"),
        ("kMutationBytesMax", "MUTATION_BYTES_MAX"),
    ],
)
def test_constants_are_those_of_types_h(constant: str, name: str) -> None:
    match = re.search(rf"{constant} = ([^;]+);", TYPES_H.read_text(encoding="utf-8"))
    assert match is not None
    expression = match.group(1).replace("1ull", "1")
    assert re.fullmatch(r"[\d<* ]+", expression)
    assert getattr(units, name) == eval(expression)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("4096", 4096),
        ("4KiB", 4096),
        ("4k", 4096),
        ("1.5G", 3 << 29),
        ("10 GiB", 10 << 30),
        ("10GB", 10**10),
        ("7B", 7),
        ("2TiB", 2 << 40),
    ],
)
def test_parse_size(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GiB", "-1", "1e3", "4iB", "ten", "1.GiB", "1XiB"])
def test_parse_size_refuses(text: str) -> None:
    with pytest.raises(InvalidArgument, match="not a size"):
        parse_size(text)


@pytest.mark.parametrize(
    ("text", "milliseconds", "shown"),
    [
        ("30s", 30_000, "30 s"),
        ("120s", 120_000, "2 min"),
        ("2m", 120_000, "2 min"),
        (" 1 H ", 3_600_000, "1 h"),
        ("1d", 86_400_000, "1 d"),
        ("1500ms", 1500, "1500 ms"),
        ("0s", 0, "0 ms"),
    ],
)
def test_durations(text: str, milliseconds: int, shown: str) -> None:
    assert parse_duration_ms(text) == milliseconds
    assert format_duration(milliseconds) == shown
    assert parse_duration_ms(shown) == milliseconds


@pytest.mark.parametrize("text", ["", "30", "s", "1.5s", "-1s", "1w", "1234567s"])
def test_parse_duration_refuses(text: str) -> None:
    with pytest.raises(InvalidArgument, match="not a duration"):
        parse_duration_ms(text)


def test_format_size() -> None:
    assert [format_size(n) for n in (0, 512, 4096, 3 << 29, 10 << 30)] == [
        "0 B",
        "512 B",
        "4 KiB",
        "1.5 GiB",
        "10 GiB",
    ]


@given(st.integers(min_value=1, max_value=64 << 30))
def test_segments_cover_the_volume(size: int) -> None:
    blocks = [segment_block_count(size, index) for index in range(segment_count(size))]
    assert all(0 < count <= units.BLOCKS_PER_SEGMENT for count in blocks)
    assert sum(blocks) == -(-size // units.BLOCK_BYTES)


def test_ids() -> None:
    identity = new_id()
    assert parse_id(str(identity)) == identity
    assert is_id(str(identity))
    assert not is_id("demo")
    with pytest.raises(InvalidArgument, match="volume id is not a UUID: 'demo'"):
        parse_id("demo", "volume id")
