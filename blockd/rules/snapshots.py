"""Snapshots: what stores are told of them, when one may be taken, and what two of them differ in.

The design and its argument: docs/SNAPSHOTS.md. Eras and ids are as there; no I/O, no clock.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from blockd.model.errors import BlockdError, InvalidArgument, NotAttached, VolumeAttached
from blockd.model.units import CHUNK_BYTES
from blockd.rules.branches import BRANCH_PREFIX
from blockd.rules.volume_spec import check_volume_name

BASES_MAX = 8  # beneath each other: every one is another place to look for a chunk
GROUP_VOLUMES_MAX = 24  # all their snapshots are one commit


def check_snapshot_name(name: str) -> str:
    """Raises InvalidArgument. As a volume's: it is a part of an NBD export's name, VOLUME@NAME. Not
    what branches stand on."""
    if name.startswith(BRANCH_PREFIX):
        raise InvalidArgument(
            f"not a snapshot name: {name!r} ({BRANCH_PREFIX}... is kept for branches)", field="name"
        )
    try:
        return check_volume_name(name)
    except InvalidArgument as error:
        raise InvalidArgument(
            error.message.replace("volume name", "snapshot name"), field="name"
        ) from None


@dataclass(frozen=True)
class Known:
    """What stores are told: see SnapshotSet in types.proto."""

    known_below: int
    eras: tuple[int, ...]
    uncovered_below: int


def known_snapshots(
    era: int, since: int | None, snapshots: Iterable[tuple[int, int | None]]
) -> Known:
    """The set of a volume that is in `era`.

    since: its base's, None without a base; snapshots: of each its era and its own base's since.
    A chunk that covers a base must stay while anybody shows that base: the volume, or a snapshot
    that was taken before the volume lost it. So the oldest `since` of them decides.
    """
    found = list(snapshots)
    assert all(one < era for one, _ in found)
    bases = [one for one in (since, *(base for _, base in found)) if one is not None]
    return Known(era, tuple(sorted(one for one, _ in found)), min(bases, default=era + 1))


def check_quiet(volume: str, attached_at: str, *, clean: bool) -> None:
    """Whether nothing of a volume is under way, so that its content is what the replicas in sync
    hold. Raises VolumeAttached; NotAttached: its last holder did not say that it had finished."""
    if attached_at:
        error: BlockdError = VolumeAttached(f"volume {volume} is attached at {attached_at}")
        error.add_note(f"blockctl volume detach {volume}")
        raise error
    if not clean:
        raise unsettled(volume)


def unsettled(volume: str) -> BlockdError:
    """For a volume that is attached nowhere and was not detached in good order."""
    error = NotAttached(
        f"volume {volume} was not detached cleanly: what was under way then is not settled"
    )
    error.add_note(
        f"attach it once, which settles it: blockctl volume attach {volume}, then detach it if it "
        "is to stay detached"
    )
    return error


# What two views differ in.


@dataclass(frozen=True)
class Layer:
    """A volume, as a snapshot (era) or as it is now (0), in a view: the first layer is what is
    looked at, each other one the base of the one before, seen through `since` and `rolled_back`."""

    volume_id: str
    era: int
    size_bytes: int
    since: int = 0
    rolled_back: bool = False


@dataclass(frozen=True)
class Shown:
    """A layer, with the snapshot of the same volume that shows where the layer has nothing, or what
    was born in (base_era, since); zeros: without."""

    era: int
    base_era: int = 0
    since: int = 0


@dataclass(frozen=True)
class Comparison:
    """To be asked of the replicas of a volume: in which chunks do these differ? before None: which
    chunks are there at all?"""

    volume_id: str
    size_bytes: int
    before: Shown | None
    after: Shown


View = Sequence[Layer]


def plan_diff(before: View | None, after: View) -> list[Comparison]:
    """Which comparisons together name every chunk in which two views of one volume may differ; all
    that `after` holds when `before` is None.

    What shows from beneath a volume cannot be compared with what the volume has itself, so where
    the views have different bases everything that these hold is named. More may be named than
    differs, never less.
    """
    if before is None:
        return _held(after)
    if list(before[1:]) == list(after[1:]):
        return [_compare(before, after)]
    if not (_is_exact(before) and _is_exact(after)):
        return _unique([*_held(before), *_held(after)])
    found = [_compare(before, after)]
    beneath_before, beneath_after = _split(before)[1], _split(after)[1]
    if beneath_before != beneath_after:
        found += [*_held(beneath_before), *_held(beneath_after)]
    return _unique(found)


def _compare(before: View, after: View) -> Comparison:
    size_bytes = max(before[0].size_bytes, after[0].size_bytes)
    return Comparison(after[0].volume_id, size_bytes, _split(before)[0], _split(after)[0])


def _held(view: View) -> list[Comparison]:
    if not view:
        return []
    shown, beneath = _split(view)
    return [Comparison(view[0].volume_id, view[0].size_bytes, None, shown), *_held(beneath)]


def _split(view: View) -> tuple[Shown, list[Layer]]:
    """The first layer, with a snapshot of the same volume beneath it, and the rest."""
    if len(view) > 1 and view[1].volume_id == view[0].volume_id and view[1].rolled_back:
        return Shown(view[0].era, view[1].era, view[1].since), list(view[2:])
    return Shown(view[0].era), list(view[1:])


def _is_exact(view: View) -> bool:
    """Whether the first part says exactly which of the volume's own content shows. After rollbacks
    upon each other it does not: some of what the replicas have counts no more."""
    return len(view) < 2 or view[1].volume_id != view[0].volume_id or view[1].rolled_back


def _unique(found: Iterable[Comparison]) -> list[Comparison]:
    return list(dict.fromkeys(found))


def merge_extents(chunks: Iterable[int], size_bytes: int) -> list[tuple[int, int]]:
    """Chunks of a volume, in any order and perhaps twice, as (offset, length) of runs; nothing is
    beyond the volume's end."""
    extents: list[tuple[int, int]] = []
    for chunk in sorted(set(chunks)):
        offset = chunk * CHUNK_BYTES
        length = min(CHUNK_BYTES, size_bytes - offset)
        if length <= 0:
            break
        if extents and sum(extents[-1]) == offset:
            extents[-1] = (extents[-1][0], extents[-1][1] + length)
        else:
            extents.append((offset, length))
    return extents
