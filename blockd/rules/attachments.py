"""Who may serve a volume: taking, keeping, replacing and renewing an attachment.

Replacing a holder that is silent is always safe: the new epoch fences the old engine at the
replicas, and the lease keeps it from serving a read after that. What these rules protect is the
holder that is well: it is never replaced by accident.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto

from blockd.model.errors import EpochFenced, InvalidArgument, NotFound, VolumeAttached


class Holder(Enum):
    """What the host on record as the holder says when asked."""

    NOBODY = auto()  # no host is on record
    SERVES = auto()  # its daemon has the volume under the recorded epoch
    LACKS = auto()  # its daemon answers that it does not serve the volume
    SILENT = auto()  # it does not answer


class Verdict(Enum):
    """What an attach request comes to."""

    KEEP = auto()  # the wanted host serves already: nothing to do
    TAKE = auto()  # issue a new epoch to the wanted host
    EVICT = auto()  # ask the holder to let go first, then TAKE


EPOCHS_UNHEARD_OF = 1 << 20  # more than are issued for a volume between backup and restore


@dataclass(frozen=True)
class Promised:
    """The newest epoch that members of a volume say they have promised. is_certain: so many say so
    that each later one would have been heard of, if the in-sync sets on record are those of its
    opening."""

    epoch: int
    is_certain: bool


def write_quorum(in_sync_count: int, min_in_sync: int) -> int:
    """How many members of an in-sync set have every acknowledged write (REPLICATION.md, Q1)."""
    all_but_one = in_sync_count - 1 if in_sync_count >= 3 else in_sync_count
    return min(in_sync_count, max(all_but_one, min_in_sync))


def cannot_serve(leases_us: Sequence[int | None], min_in_sync: int) -> bool:
    """Whether a segment's engine serves nothing now: it needs a lease from a write quorum of the
    agreed members (REPLICATION.md, R3). leases_us: what is left of its lease at each; None: that
    member does not say."""
    without = sum(left == 0 for left in leases_us)
    return len(leases_us) - without < write_quorum(len(leases_us), min_in_sync)


def next_epoch(recorded: int, promised: Promised) -> int:
    """The epoch to issue. Members that have met a later one than is on record show that the record
    was restored from a backup: then, and when too few answer to tell, some that do not answer may
    know of later ones still, and no epoch may ever be issued twice: versions carry it."""
    if promised.is_certain and promised.epoch <= recorded:
        return recorded + 1
    return max(recorded, promised.epoch) + EPOCHS_UNHEARD_OF


@dataclass(frozen=True)
class HostChoice:
    """A host that could serve a volume: how much of it it holds in sync, how busy it is."""

    host_id: str
    name: str
    is_up: bool
    in_sync_count: int
    attachment_count: int


def decide_attach(
    volume: str, holder: Holder, *, same_host: bool, holder_name: str, force: bool
) -> Verdict:
    """Raises VolumeAttached: another host serves the volume, and the caller did not insist."""
    if holder is Holder.SERVES:
        if same_host:
            return Verdict.KEEP
        if not force:
            error = VolumeAttached(f"{volume} is attached at {holder_name}, which serves it")
            error.add_note(
                f"blockctl volume detach {volume}, or attach with --force to take it from "
                f"{holder_name}"
            )
            raise error
        return Verdict.EVICT
    if holder is Holder.SILENT and force and not same_host:
        return Verdict.EVICT
    return Verdict.TAKE


def choose_host(volume: str, hosts: Sequence[HostChoice]) -> str:
    """The host for a volume when the caller names none: the most segments in sync, then the fewest
    attachments, then by name. Raises NotFound: no host is up."""
    up = [host for host in hosts if host.is_up]
    if not up:
        raise NotFound(f"no host is up to attach {volume} at")
    best = min(up, key=lambda host: (-host.in_sync_count, host.attachment_count, host.name))
    return best.host_id


def check_renewal(
    holder_id: str, holder_epoch: int, host_id: str, epoch: int, *, holder_name: str
) -> None:
    """Whether a restarted daemon may have a new epoch for what it held.

    An older epoch of the same host is fine: the answer to its last renewal was lost.
    Raises EpochFenced: the attachment is another host's now, or nobody's.
    """
    if epoch > holder_epoch:
        raise InvalidArgument(
            f"epoch {epoch} was never issued; the volume's is {holder_epoch}", field="epoch"
        )
    if holder_id != host_id:
        whose = f"{holder_name}'s" if holder_id else "nobody's"
        raise EpochFenced(
            f"the attachment is {whose} under epoch {holder_epoch}", current=holder_epoch
        )
