"""Two sites that hold data, and a third one that only votes (OPERATIONS.md, "Two sites").

Whichever way the sites are cut apart: the side that the tie-breaker is on goes on, the other one
stops within its lease, its volume moves to its standby, and when the cut heals both replicas come
into sync: all by itself.
"""

import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import wait_until
from tests.faults.field import Field, fault_field
from tests.faults.recording import Load, Operation, check
from tests.faults.scenarios import BLOCKS, SERVED_S, WARM_WRITES, Story

TIE_BREAKER = "marseille"
PARIS, LYON = ("paris-1", "meta-paris"), ("lyon-1", "meta-lyon")
SEED = 1
LEASE_S = 1.0  # a daemon's; an engine counts 80 % of it
SLACK_S = 0.7  # of a client's clock and a busy machine

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def two_sites(checker: None) -> Iterator[Field]:
    with fault_field(TIE_BREAKER) as field:
        yield field


@pytest.fixture
def story(two_sites: Field, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Story]:
    """Clients at work on a volume that paris-1 serves; in the end all is well without a step of
    anybody's, and what they saw is what one disk could have shown."""
    record = tmp_path / "record"
    with Load.start(record, BLOCKS, SEED) as load:
        name = request.node.name.removeprefix("test_").replace("_", "-")[:40]
        story = Story(two_sites, name, load, random.Random(SEED))
        if story.holder != "paris-1":
            story.move("paris-1", force=True)
        story.goes_on(WARM_WRITES)
        yield story
        story.settle()
    check(record)


def in_sync_again(story: Story) -> None:
    """The cut heals; nobody does anything."""
    story.field.network.heal()
    story.field.wait_in_sync(story.name, 2)
    story.goes_on()


def answered(story: Story, place: int) -> list[Operation]:
    return [one for one in story.load.operations() if one.place == place and one.answered]


def test_without_the_tie_breaker_nothing_changes(story: Story) -> None:
    with story.no_long_stall():
        story.field.kill(f"meta-{TIE_BREAKER}")
        story.goes_on(200)
    (segment,) = story.field.volume(story.name).segments
    assert all(member.in_sync for member in segment.members)
    story.field.start(f"meta-{TIE_BREAKER}")
    story.field.network.part([f"meta-{TIE_BREAKER}"], [*PARIS, *LYON])
    with story.no_long_stall():
        story.goes_on(200)


def test_the_side_of_the_holder_goes_on_with_the_tie_breaker(story: Story) -> None:
    story.field.cut_off(*LYON)
    story.is_out("lyon-1")
    story.goes_on()
    in_sync_again(story)


def test_a_cut_between_the_two_sites_alone_leaves_the_holder_serving(story: Story) -> None:
    """Both reach the tie-breaker: the holder's word counts, whoever leads the metadata."""
    story.field.network.part(PARIS, LYON)
    story.is_out("lyon-1")
    story.goes_on()
    in_sync_again(story)


def moves_to(story: Story, host: str) -> None:
    """By itself; the clients follow."""

    def attached() -> bool:
        attachment = story.field.volume(story.name).attachment
        return attachment.host_name == host and bool(attachment.nbd_uris)

    wait_until(attached, SERVED_S, f"{story.name} is at {host}")
    story.load.attach(story.field.volume(story.name).attachment.nbd_uris[0])
    story.holder = host


def test_a_holder_without_the_tie_breaker_stops_and_the_other_side_takes_over(
    story: Story,
) -> None:
    story.field.attach(story.name, "paris-1", standbys=["lyon-1"])
    old = story.load.place
    story.field.cut_off(*PARIS)
    cut = time.monotonic()
    time.sleep(LEASE_S + SLACK_S)
    last = max(one.answered for one in answered(story, old) if one.answered)
    assert last - cut < LEASE_S + SLACK_S / 2, f"it went on for {last - cut:.2f} s"
    moves_to(story, "lyon-1")
    story.goes_on()
    last = max(one.answered for one in answered(story, old) if one.answered)
    assert last - cut < LEASE_S + SLACK_S / 2, f"it answered {last - cut:.2f} s after the cut"
    story.field.network.heal()
    story.is_fenced("paris-1")
    in_sync_again(story)
