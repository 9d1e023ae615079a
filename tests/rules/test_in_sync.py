"""The in-sync set: whatever is proposed, its invariants hold."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockd.model.errors import (
    BlockdError,
    EpochFenced,
    InvalidArgument,
    NotAttached,
    QuorumLost,
    StaleGeneration,
)
from blockd.rules.in_sync import check_epoch, decide_in_sync

HOSTS = ["a", "b", "c", "d"]


def decide(old: str, new: str, *, members="abc", generation=5, known=5, minimum=2):
    return decide_in_sync(
        {host: host in old for host in members},
        list(new),
        generation=generation,
        known_generation=known,
        min_in_sync=minimum,
    )


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("abc", "ab"),
        ("ab", "abc"),
        ("a", "ab"),
        ("a", "abc"),
        ("abc", "bc"),
        ("ab", "ac"),
        ("ab", "bc"),
    ],
)
def test_members_go_out_come_in_or_take_the_place_of_others(old, new):
    assert decide(old, new) == frozenset(new)


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        ("abc", "", InvalidArgument),
        ("abc", "aab", InvalidArgument),
        ("abc", "abd", InvalidArgument),
        ("abc", "a", QuorumLost),
        ("ab", "a", QuorumLost),
        ("ab", "c", QuorumLost),
    ],
)
def test_bad_changes_are_refused(old, new, error):
    with pytest.raises(error):
        decide(old, new)


def test_below_the_minimum_it_only_grows():
    assert decide("a", "ab", minimum=3) == frozenset("ab")
    for new in ("a", "ac"):
        with pytest.raises(QuorumLost):
            decide("ab", new, minimum=3)


def test_a_repeated_change_is_no_change_and_an_old_one_is_stale():
    assert decide("ab", "ab", generation=6, known=5) is None
    assert decide("ab", "ab") is None
    for known in (4, 7):
        with pytest.raises(StaleGeneration):
            decide("abc", "ab", known=known)
    with pytest.raises(StaleGeneration):
        decide("ab", "ab", generation=7, known=5)


@given(
    st.sets(st.sampled_from(HOSTS), min_size=1),
    st.lists(st.sampled_from([*HOSTS, "stranger"]), max_size=5),
    st.integers(1, 4),
    st.integers(0, 3),
    st.integers(0, 3),
)
def test_no_accepted_change_breaks_an_invariant(old, proposed, minimum, generation, known):
    try:
        new = decide_in_sync(
            {host: host in old for host in HOSTS},
            proposed,
            generation=generation,
            known_generation=known,
            min_in_sync=minimum,
        )
    except BlockdError:
        return
    if new is None:
        assert set(proposed) == old
        return
    assert known == generation
    assert new
    assert new != old
    assert new <= set(HOSTS)
    assert new > old or len(new) >= minimum


def test_epochs():
    check_epoch(3, 3, is_attached=True)
    with pytest.raises(EpochFenced):
        check_epoch(2, 3, is_attached=True)
    with pytest.raises(InvalidArgument):
        check_epoch(4, 3, is_attached=True)
    with pytest.raises(NotAttached):
        check_epoch(3, 3, is_attached=False)
