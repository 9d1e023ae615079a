"""Which changes of a segment's in-sync set are valid.

The holder of the volume's attachment proposes; the metadata service decides, against the record as
it stands, and commits the verdict as a compare-and-set. Invariants (docs/REPLICATION.md):
  * only the engine of the current epoch changes the set, and only from the generation it knows;
  * a change takes members out, brings members in, or both at once: the engine asks only for members
    that hold everything a client was told of, whoever else is in the set (Q2, Q3), and a member
    that is lost while another one comes back is replaced by it;
  * the set is never empty, and no change that takes a member out leaves fewer than the policy's
    min_in_sync.
"""

from collections.abc import Collection, Mapping, Sequence

from blockd.model.errors import (
    EpochFenced,
    InvalidArgument,
    NotAttached,
    QuorumLost,
    StaleGeneration,
)


def check_epoch(epoch: int, current_epoch: int, *, is_attached: bool) -> None:
    """Raises EpochFenced, NotAttached: the caller's attachment is not the volume's any more."""
    if epoch < current_epoch:
        raise EpochFenced(
            f"epoch {epoch} is fenced by epoch {current_epoch}", epoch=epoch, current=current_epoch
        )
    if epoch > current_epoch:
        raise InvalidArgument(
            f"epoch {epoch} was never issued; the volume's is {current_epoch}", field="epoch"
        )
    if not is_attached:
        raise NotAttached("the volume is attached nowhere", epoch=epoch)


def decide_in_sync(
    members: Mapping[str, bool],
    proposed: Sequence[str],
    *,
    generation: int,
    known_generation: int,
    min_in_sync: int,
) -> frozenset[str] | None:
    """The new in-sync set, or None when the record says so already.

    members: every member's host id, and whether it is in sync. generation: the record's.
    known_generation: the one that the proposal was made from. A proposal from one generation ago
    that the record already holds is a repetition after a lost answer: None.
    Raises StaleGeneration: refresh and propose anew. InvalidArgument: never valid. QuorumLost: it
    would leave fewer members than min_in_sync.
    """
    new = _checked_members(members, proposed)
    old = frozenset(host for host, in_sync in members.items() if in_sync)
    assert old, "a record with an empty in-sync set was committed"
    if new == old and known_generation in (generation, generation - 1):
        return None
    if known_generation != generation:
        raise StaleGeneration(
            f"the in-sync set is at generation {generation}, not {known_generation}",
            generation=generation,
        )
    if old - new and len(new) < min_in_sync:
        raise QuorumLost(
            f"{len(new)} in sync would be fewer than the policy's min_in_sync of {min_in_sync}",
            in_sync=len(new),
            min_in_sync=min_in_sync,
        )
    return new


def is_degraded(in_sync_count: int, replicas: int) -> bool:
    """Whether a segment has fewer replicas in sync than its policy asks."""
    return in_sync_count < replicas


def _checked_members(members: Collection[str], proposed: Sequence[str]) -> frozenset[str]:
    new = frozenset(proposed)
    if not new:
        raise InvalidArgument("an in-sync set is never empty", field="in_sync_host_ids")
    if len(new) != len(proposed):
        raise InvalidArgument("a host occurs twice", field="in_sync_host_ids")
    strangers = sorted(new - set(members))
    if strangers:
        raise InvalidArgument(
            f"no member of the segment: {', '.join(strangers)}", field="in_sync_host_ids"
        )
    return new
