"""Which chunks of replicas count as different."""

from blockd.rules.digests import ABSENT, Digest, compare

A = Digest((1, 1), 0b11, 0xAA)
A_LATER = Digest((1, 2), 0b11, 0xAB)
A_ROTTEN = Digest((1, 1), 0b11, 0xFF)
EMPTY = Digest((1, 9), 0, 0x77)


def test_the_same_is_the_same():
    assert compare({"x": {0: A}, "y": {0: A}}) == []


def test_the_version_alone_is_no_difference():
    assert compare({"x": {0: A}, "y": {0: Digest((2, 1), 0b11, 0xAA)}}) == []


def test_an_empty_chunk_reads_as_one_that_is_not_there():
    assert compare({"x": {0: EMPTY}, "y": {}}) == []


def test_a_missing_chunk_differs():
    [difference] = compare({"x": {4: A}, "y": {}})
    assert difference.chunk == 4
    assert difference.holds == {"x": A, "y": ABSENT}
    assert not difference.is_damage


def test_writes_in_motion_are_told_from_damage():
    [motion] = compare({"x": {0: A}, "y": {0: A_LATER}})
    assert not motion.is_damage
    [damage] = compare({"x": {0: A}, "y": {0: A_ROTTEN}, "z": {0: A_LATER}})
    assert damage.is_damage


def test_only_the_chunks_asked_for():
    listings = {"x": {0: A, 1: A}, "y": {}}
    assert [one.chunk for one in compare(listings, [1])] == [1]
