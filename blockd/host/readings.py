"""One consistent-enough look at the core: its counters, and the segments of attached volumes.

GetStatus and the metrics are both drawn from it, so that they never disagree on what a number
means.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast
from uuid import UUID

from blockd.host.attachments import Attachments, Held
from blockd.model.errors import NotAttached
from blockd.native import core as native

# From best to worst: a volume is as well as its worst segment.
STATES = ("serving", "opening", "stalled", "closing", "closed", "fenced")

Counters = Mapping[str, int | list[int]]


@dataclass(frozen=True)
class Readings:
    """stats: as Core.stats() says, ids as text. segments: of the volumes in `held`."""

    held: tuple[Held, ...]
    stores: tuple[native.StoreInfo, ...]
    segments: Mapping[UUID, list[native.SegmentStatus]]
    stats: Mapping[str, object]

    @classmethod
    async def take(cls, core: native.Core, attachments: Attachments) -> "Readings":
        """Ask the core. A volume that is detached meanwhile is left out."""
        segments: dict[UUID, list[native.SegmentStatus]] = {}
        for volume_id in list(attachments.held):
            try:
                segments[volume_id] = await core.volume_status(volume_id)
            except NotAttached:
                continue
        return cls(
            held=tuple(held for held in attachments.held.values() if held.volume_id in segments),
            stores=tuple(await core.store_infos()),
            segments=segments,
            stats=await core.stats(),
        )

    def state(self, held: Held) -> str:
        """The volume's state: that of its worst segment."""
        states = [segment.state for segment in self.segments.get(held.volume_id, ())]
        return max([held.state, *states], key=STATES.index)

    def group(self, name: str) -> Mapping[str, int]:
        """One flat group of counters: "nbd" or "reactor"."""
        return numbers(cast(Counters, self.stats.get(name, {})))

    def volume(self, volume_id: UUID) -> Counters:
        """Counters and latency buckets of one volume."""
        return by_id(self.stats.get("volumes", {})).get(str(volume_id), {})

    def store(self, store_id: UUID) -> Mapping[str, int]:
        """Counters of one store."""
        return numbers(by_id(self.stats.get("stores", {})).get(str(store_id), {}))

    def volume_counters(self, volume_id: UUID) -> dict[str, int]:
        """The plain counters of one volume."""
        return numbers(self.volume(volume_id))

    def daemon_counters(self) -> dict[str, int]:
        """What is counted once a daemon: "nbd_requests", "reactor_syscalls", ..."""
        return {
            f"{group}_{name}": value
            for group in ("nbd", "reactor")
            for name, value in self.group(group).items()
        }


def by_id(group: object) -> dict[str, Counters]:
    """A group of Core.stats() keyed by id, whether the core names ids as UUID or as text."""
    return {str(key): value for key, value in cast(Mapping[object, Counters], group).items()}


def numbers(counters: Counters) -> dict[str, int]:
    """The counters among counters and histograms."""
    return {name: value for name, value in counters.items() if isinstance(value, int)}
