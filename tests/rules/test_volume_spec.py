"""What a volume may be."""

import pytest

from blockd.model.errors import InvalidArgument
from blockd.rules.volume_spec import (
    check_lowered,
    check_place_name,
    check_resize,
    check_size,
    check_volume_name,
    complete_policy,
)


@pytest.mark.parametrize("name", ["a", "Vol-1.2_x", "9", "x" * 63])
def test_good_names(name):
    assert check_volume_name(name) == name


@pytest.mark.parametrize(
    "name", ["", "-a", ".a", "a/b", "a b", "é", "x" * 64, "6ba7b810-9dad-11d1-80b4-00c04fd430c8"]
)
def test_bad_names(name):
    with pytest.raises(InvalidArgument):
        check_volume_name(name)


@pytest.mark.parametrize("name", ["", "Paris", "a_b", "-a", "a-", "a.b", "a\n"])
def test_bad_place_names(name):
    with pytest.raises(InvalidArgument):
        check_place_name(name, "name")


def test_sizes():
    assert check_size(512) == 512
    assert check_size(16 << 40) == 16 << 40
    for size in (0, -512, 513, (16 << 40) + 512):
        with pytest.raises(InvalidArgument):
            check_size(size)
    check_resize(512, 512, force=False)
    check_resize(512, 1024, force=False)
    check_resize(1024, 512, force=True)
    with pytest.raises(InvalidArgument, match="last 512 B are destroyed: that takes --force"):
        check_resize(1024, 512, force=False)
    for size in (0, 100):
        with pytest.raises(InvalidArgument):
            check_resize(1024, size, force=True)


def test_min_in_sync_only_falls():
    check_lowered(3, 3)
    check_lowered(3, 1)
    for new in (0, 4):
        with pytest.raises(InvalidArgument, match="min_in_sync is 3"):
            check_lowered(3, new)


def test_policies():
    assert complete_policy(0, 0) == (3, 2, 30_000)
    assert complete_policy(1, 0) == (1, 1, 30_000)
    assert complete_policy(2, 0) == (2, 1, 30_000)
    assert complete_policy(5, 0) == (5, 2, 30_000)
    assert complete_policy(3, 3, 5_000) == (3, 3, 5_000)
    for replicas, minimum in ((8, 0), (2, 3)):
        with pytest.raises(InvalidArgument):
            complete_policy(replicas, minimum)
