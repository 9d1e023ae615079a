"""How full the stores are: states with thresholds, and hysteresis so that they do not flutter.

A store is "nearly-full" from the warning threshold on, "full" from the critical one on, and leaves
either state when it has fallen HYSTERESIS_PERCENT below. One whose device has failed is "failed".
"""

import logging
from dataclasses import dataclass
from uuid import UUID

from blockd.native.values import StoreInfo

log = logging.getLogger(__name__)

OK, NEARLY_FULL, FULL, FAILED = "ok", "nearly-full", "full", "failed"
STATES = (OK, NEARLY_FULL, FULL, FAILED)
HYSTERESIS_PERCENT = 2


@dataclass(frozen=True)
class Thresholds:
    """In percent of a store's capacity; warning < critical."""

    warning: int = 80
    critical: int = 95


class SpaceWatch:
    """Remembers the state of each store between two looks at it."""

    def __init__(self, thresholds: Thresholds) -> None:
        self._thresholds = thresholds
        self._states: dict[UUID, str] = {}

    def look(self, info: StoreInfo) -> str:
        """The store's state now."""
        before = self._states.get(info.store_id, OK)
        now = FAILED if info.failed else self._level(used_percent(info), before)
        self._states[info.store_id] = now
        if now != before:
            level = logging.INFO if now == OK else logging.WARNING
            log.log(level, "store %s is %s, %.1f %% in use", info.path, now, used_percent(info))
        return now

    def state(self, store_id: UUID) -> str:
        """As of the last look."""
        return self._states.get(store_id, OK)

    def _level(self, used: float, before: str) -> str:
        full, warned = self._thresholds.critical, self._thresholds.warning
        if before == FULL:
            full -= HYSTERESIS_PERCENT
        if before in (FULL, NEARLY_FULL):
            warned -= HYSTERESIS_PERCENT
        if used >= full:
            return FULL
        return NEARLY_FULL if used >= warned else OK


def used_percent(info: StoreInfo) -> float:
    """Of the capacity, in chunks that are in use."""
    return 100 * info.allocated_bytes / max(info.capacity_bytes, 1)
