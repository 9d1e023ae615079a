"""Who gets a volume."""

import pytest

from blockd.model.errors import EpochFenced, InvalidArgument, NotFound, VolumeAttached
from blockd.rules.attachments import (
    EPOCHS_UNHEARD_OF,
    Holder,
    HostChoice,
    Promised,
    Verdict,
    cannot_serve,
    check_renewal,
    choose_host,
    decide_attach,
    next_epoch,
    write_quorum,
)


@pytest.mark.parametrize(
    ("holder", "same_host", "force", "verdict"),
    [
        (Holder.NOBODY, False, False, Verdict.TAKE),
        (Holder.SERVES, True, False, Verdict.KEEP),
        (Holder.SERVES, True, True, Verdict.KEEP),
        (Holder.SERVES, False, True, Verdict.EVICT),
        (Holder.LACKS, True, False, Verdict.TAKE),
        (Holder.LACKS, False, False, Verdict.TAKE),
        (Holder.SILENT, False, False, Verdict.TAKE),
        (Holder.SILENT, False, True, Verdict.EVICT),
        (Holder.SILENT, True, True, Verdict.TAKE),
    ],
)
def test_verdicts(holder, same_host, force, verdict):
    assert decide_attach("v", holder, same_host=same_host, holder_name="h", force=force) is verdict


def test_a_well_holder_is_protected():
    with pytest.raises(VolumeAttached):
        decide_attach("v", Holder.SERVES, same_host=False, holder_name="h", force=False)


def test_the_host_with_most_in_sync_then_least_busy_is_chosen():
    hosts = [
        HostChoice("1", "down", False, 9, 0),
        HostChoice("2", "busy", True, 3, 5),
        HostChoice("3", "idle", True, 3, 1),
        HostChoice("4", "remote", True, 0, 0),
    ]
    assert choose_host("v", hosts) == "3"
    with pytest.raises(NotFound):
        choose_host("v", hosts[:1])


def test_renewal():
    check_renewal("h", 5, "h", 5, holder_name="h")
    check_renewal("h", 5, "h", 4, holder_name="h")
    with pytest.raises(EpochFenced):
        check_renewal("other", 5, "h", 4, holder_name="other")
    with pytest.raises(EpochFenced):
        check_renewal("", 5, "h", 5, holder_name="")
    with pytest.raises(InvalidArgument):
        check_renewal("h", 5, "h", 6, holder_name="h")


def test_an_epoch_is_the_next_one_when_nothing_later_can_have_been_issued():
    assert next_epoch(0, Promised(0, is_certain=True)) == 1
    assert next_epoch(5, Promised(5, is_certain=True)) == 6
    assert next_epoch(5, Promised(3, is_certain=True)) == 6


def test_an_epoch_is_far_above_all_that_was_heard_of_when_some_may_be_unheard_of():
    assert next_epoch(5, Promised(9, is_certain=True)) == 9 + EPOCHS_UNHEARD_OF
    assert next_epoch(5, Promised(9, is_certain=False)) == 9 + EPOCHS_UNHEARD_OF
    assert next_epoch(5, Promised(5, is_certain=False)) == 5 + EPOCHS_UNHEARD_OF


@pytest.mark.parametrize(
    ("in_sync", "min_in_sync", "quorum"),
    [(1, 1, 1), (2, 1, 2), (3, 1, 2), (3, 3, 3), (5, 2, 4), (1, 2, 1)],
)
def test_a_write_quorum_is_all_but_one_of_three_or_more(in_sync, min_in_sync, quorum):
    assert write_quorum(in_sync, min_in_sync) == quorum


@pytest.mark.parametrize(
    ("leases_us", "min_in_sync", "serves_nothing"),
    [
        ([None, 0, 0], 2, True),  # the silent one is the lost host itself
        ([None, 0, 500], 2, False),
        ([None, None, 0], 2, False),  # those that do not say may have granted
        ([0, 0, 0], 2, True),
        ([None, 0], 1, True),  # of two both are needed
        ([None, 900], 1, False),
        ([None], 1, False),
        ([0], 1, True),
        ([None, None, None, 0, 0], 2, True),
        ([None, None, None, None, 0], 2, False),
    ],
)
def test_an_engine_without_a_quorum_of_leases_serves_nothing(
    leases_us, min_in_sync, serves_nothing
):
    assert cannot_serve(leases_us, min_in_sync) is serves_nothing
