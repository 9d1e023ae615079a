"""What stores are told of snapshots, and what two views of a volume may differ in."""

import random
from collections.abc import Mapping

import pytest

from blockd.model.errors import InvalidArgument, NotAttached, VolumeAttached
from blockd.rules.snapshots import (
    Comparison,
    Known,
    Layer,
    Shown,
    check_quiet,
    check_snapshot_name,
    known_snapshots,
    merge_extents,
    plan_diff,
)

CHUNK = 65536


def test_names_are_those_of_volumes() -> None:
    assert check_snapshot_name("before-upgrade_1.2") == "before-upgrade_1.2"
    for name in ("", "a@b", "a/b", "-a", "x" * 64, "0f4d1d7a-59d4-4b0c-8b7c-35c0a1e4a5d5"):
        with pytest.raises(InvalidArgument, match="snapshot name"):
            check_snapshot_name(name)


def test_a_set_covers_every_era_before_the_volumes() -> None:
    assert known_snapshots(1, None, []) == Known(1, (), 2)
    assert known_snapshots(5, None, [(4, None), (1, None)]) == Known(5, (1, 4), 6)


def test_covers_stay_while_anybody_shows_the_base() -> None:
    assert known_snapshots(1, 1, []).uncovered_below == 1  # a clone
    assert known_snapshots(3, None, [(2, 1)]).uncovered_below == 1  # flattened, after a snapshot
    assert known_snapshots(9, 9, [(4, None)]).uncovered_below == 9  # rolled back
    assert known_snapshots(9, 9, [(4, 1)]).uncovered_below == 1  # to a snapshot that has a base
    assert known_snapshots(9, None, [(4, None)]).uncovered_below == 10


def test_only_a_clean_detach_leaves_nothing_under_way() -> None:
    check_quiet("v", "", clean=True)
    with pytest.raises(VolumeAttached, match="paris-1"):
        check_quiet("v", "paris-1", clean=False)
    with pytest.raises(NotAttached, match="not detached cleanly") as caught:
        check_quiet("v", "", clean=False)
    assert "volume attach v" in caught.value.__notes__[0]


def test_without_a_start_everything_held_is_named() -> None:
    assert plan_diff(None, [Layer("v", 3, 9)]) == [Comparison("v", 9, None, Shown(3))]
    clone = [Layer("c", 0, 9), Layer("p", 4, 7, since=1)]
    assert plan_diff(None, clone) == [
        Comparison("c", 9, None, Shown(0)),
        Comparison("p", 7, None, Shown(4)),
    ]


def test_the_same_base_is_not_looked_at() -> None:
    base = Layer("p", 4, 7, since=1)
    assert plan_diff([Layer("c", 2, 9), base], [Layer("c", 0, 9), base]) == [
        Comparison("c", 9, Shown(2), Shown(0))
    ]


def test_a_rollback_is_compared_by_what_shows_through() -> None:
    rolled = [Layer("v", 0, 9), Layer("v", 3, 9, since=7, rolled_back=True)]
    assert plan_diff([Layer("v", 5, 9)], rolled) == [
        Comparison("v", 9, Shown(5), Shown(0, base_era=3, since=7))
    ]


# A model: a chunk's history by volume, and what a view shows of it.

History = Mapping[str, list[tuple[int, int | None, object]]]  # (born, died, content)


def own(history: History, volume_id: str, era: int) -> tuple[int, object] | None:
    """(born, content) of the slot that shows in an era."""
    for born, died, content in history[volume_id]:
        if (died is None) if era == 0 else (born <= era and (died is None or era < died)):
            return born, content
    return None


def show(history: History, view: list[Layer]) -> object:
    """What the view reads; None: zeros."""
    slot = own(history, view[0].volume_id, view[0].era)
    if len(view) == 1:
        return slot and slot[1]
    base = view[1]
    counts = slot is not None and (
        slot[0] >= base.since or (base.rolled_back and slot[0] <= base.era)
    )
    return slot[1] if slot is not None and counts else show(history, view[1:])


def named(history: History, comparison: Comparison) -> bool:
    """Whether the replicas would name the chunk."""

    def shown(view: Shown | None) -> object:
        if view is None:
            return None
        slot = own(history, comparison.volume_id, view.era)
        if view.since and (slot is None or view.base_era < slot[0] < view.since):
            slot = own(history, comparison.volume_id, view.base_era)
        return slot

    return shown(comparison.before) != shown(comparison.after)


class Disk:
    """A volume and the views of it; rollbacks as blockd/meta/bases.py makes them."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.histories: dict[str, list[tuple[int, int | None, object]]] = {"p": [], "v": []}
        if rng.random() < 0.7:
            self.histories["p"].append((1, None, "parent"))
        self.era = 1
        self.bases = [Layer("p", 1, CHUNK, since=1)] if rng.random() < 0.6 else []
        self.views: list[list[Layer]] = []
        self.writes = 0

    def current(self) -> list[Layer]:
        return [Layer("v", 0, CHUNK), *self.bases]

    def write(self, content: object) -> None:
        history = self.histories["v"]
        if history and history[-1][1] is None:
            born, _, old = history.pop()
            if born < self.era:
                history.append((born, self.era, old))
        if content is not None or self.bases:  # a hole needs a record only to cover a base
            history.append((self.era, None, content))

    def step(self) -> None:
        choice = self.rng.random()
        if choice < 0.4:
            self.writes += 1
            self.write(None if self.rng.random() < 0.2 else self.writes)
        elif choice < 0.7:
            self.views.append([Layer("v", self.era, CHUNK), *self.bases])
            self.era += 1
        elif choice < 0.85 and self.views:
            chosen = self.rng.choice(self.views)
            self.era += 1
            nested = len(chosen) > 1 and chosen[1].volume_id == "v"
            link = Layer("v", chosen[0].era, CHUNK, since=self.era, rolled_back=not nested)
            self.bases = [link, *chosen[1:]]
        elif self.bases:
            content = show(self.histories, self.current())
            slot = own(self.histories, "v", 0)
            if content is not None and (slot is None or slot[1] != content):
                self.write(content)
            self.bases = []


@pytest.mark.parametrize("seed", range(400))
def test_what_differs_is_named(seed: int) -> None:
    disk = Disk(random.Random(seed))
    for _ in range(disk.rng.randrange(3, 30)):
        disk.step()
    views = [*disk.views, disk.current()]
    for before in [None, *views]:
        for after in views:
            content = show(disk.histories, after)
            differs = (
                content is not None if before is None else show(disk.histories, before) != content
            )
            plan = plan_diff(before, after)
            if differs:
                assert any(named(disk.histories, one) for one in plan), (before, after)


def test_runs_are_merged_and_end_with_the_volume() -> None:
    assert merge_extents([], 1 << 20) == []
    assert merge_extents([3, 1, 2, 2, 7], 1 << 20) == [(CHUNK, 3 * CHUNK), (7 * CHUNK, CHUNK)]
    assert merge_extents([0, 1], CHUNK + 512) == [(0, CHUNK + 512)]
    assert merge_extents([0, 5], CHUNK) == [(0, CHUNK)]
