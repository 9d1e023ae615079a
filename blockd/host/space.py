"""How full the stores are: states with thresholds, and hysteresis so that they do not flutter.

A store is "nearly-full" from the warning threshold on, "full" from the critical one on, and leaves
either state when it has fallen HYSTERESIS_PERCENT below. One whose device has failed is "failed",
one that does not do its work in time "stalled" (store_health.py).
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from uuid import UUID

from blockd.native.values import StoreInfo

log = logging.getLogger(__name__)

OK, NEARLY_FULL, FULL = "ok", "nearly-full", "full"
STALLED, FAILED = "stalled", "failed"
STATES = (OK, NEARLY_FULL, FULL, STALLED, FAILED)
HYSTERESIS_PERCENT = 2


@dataclass(frozen=True)
class Thresholds:
    """In percent of a store's capacity; warning < critical."""

    warning: int = 80
    critical: int = 95


class SpaceWatch:
    """Remembers the state of each store between two looks at it. stalled: whether a store is."""

    def __init__(
        self, thresholds: Thresholds, stalled: Callable[[UUID], bool] = lambda _: False
    ) -> None:
        self._thresholds = thresholds
        self._stalled = stalled
        self._states: dict[UUID, str] = {}
        self._levels: dict[UUID, str] = {}  # of space alone

    def look(self, info: StoreInfo) -> str:
        """The store's state now."""
        before = self._states.get(info.store_id, OK)
        now = self._level(used_percent(info), self._levels.get(info.store_id, OK))
        self._levels[info.store_id] = now
        if self._stalled(info.store_id):
            now = STALLED
        if info.failed:
            now = FAILED
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
