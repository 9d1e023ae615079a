"""What snapshots ask of the engines here: to begin an era, and to hold mutations meanwhile.

Each order names the epoch of the attachment it is about. A hold ends by itself; this is where a
group's snapshot learns whether it lasted (blockd/meta/groups.py): the time is counted from before
the core is asked, so the core holds for longer than is believed here.
"""

import time
from dataclasses import dataclass
from uuid import UUID

from blockd.host.attachments import Attachments
from blockd.model.errors import Busy, InvalidArgument
from blockd.native import core as native

HOLD_US_MAX = 10_000_000


@dataclass(frozen=True)
class Hold:
    """Of one volume. ends_at: monotonic seconds."""

    token: str
    epoch: int
    ends_at: float

    @property
    def is_on(self) -> bool:
        return time.monotonic() < self.ends_at


class Eras:
    """Used on the event loop only."""

    def __init__(self, core: native.Core, attachments: Attachments) -> None:
        self._core = core
        self._attachments = attachments
        self._holds: dict[UUID, Hold] = {}

    async def begin(self, volume_id: UUID, epoch: int, era: int, hold_token: str) -> int:
        """Begin an era; returns when every mutation of an earlier one has left the engine: the era
        that the engine is in, which is later when it has met a later one.

        Raises NotAttached, EpochFenced; Busy: with a token, when that hold is not on, was not on
        until now, or when the era had begun before.
        """
        held = await self._attachments.opened(volume_id, epoch)
        hold = self._holds.get(volume_id)
        if hold_token and (hold is None or hold.token != hold_token or hold.epoch != epoch):
            raise Busy(f"volume {held.name}: its mutations are not held for this snapshot")
        if hold_token and held.era >= era:
            raise Busy(f"volume {held.name} is in era {held.era}: another snapshot was taken")
        met = await self._attachments.begin_era(volume_id, era)
        # Now, and not when the era began, which was earlier: so it did begin under the hold.
        if hold_token and hold is not None and not hold.is_on:
            raise Busy(f"volume {held.name}: the hold had ended before its writes were settled")
        return met

    async def hold(self, volume_id: UUID, epoch: int, token: str, hold_us: int) -> int:
        """Hold mutations for a time; 0 ends the hold of this token. Returns the engine's era; 0: a
        hold has ended. Raises NotAttached, EpochFenced, InvalidArgument; Busy: they are held for
        somebody else."""
        if hold_us > HOLD_US_MAX:
            raise InvalidArgument(f"mutations are held for at most {HOLD_US_MAX} us")
        current = self._holds.get(volume_id)
        is_other = current is not None and current.token != token
        if hold_us == 0:
            if current is not None and not is_other:
                del self._holds[volume_id]
                await self._core.hold_mutations(volume_id, 0)
            return 0
        held = await self._attachments.opened(volume_id, epoch)
        if is_other and current is not None and current.is_on and current.epoch == epoch:
            raise Busy(f"volume {held.name}: another snapshot of a group is being taken")
        self._holds[volume_id] = Hold(token, epoch, time.monotonic() + hold_us / 1e6)
        await self._core.hold_mutations(volume_id, hold_us)
        return self._attachments.get(volume_id).era
