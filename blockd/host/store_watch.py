"""Stores whose device fails: told to the operator, once each time it gets worse.

A device that fails one write or flush may have lost what it had taken before: the native store
takes no more mutations, its replicas leave the in-sync sets, and it is reported as failed, which
keeps new replicas away. Reads go on as far as they can. A device that fails reads, or returns other
bytes than were written, again and again, is only failing: what it holds is read elsewhere and
repaired.
"""

import asyncio
import logging
from collections.abc import Mapping
from typing import cast
from uuid import UUID

from blockd.host.reports import Reports
from blockd.model.errors import BlockdError
from blockd.native import core as native

log = logging.getLogger(__name__)

WATCH_S = 1.0
FAILING_ERRORS = 10  # checksum and read errors since the store was opened; then ten times as many


class StoreWatch:
    """Used on the event loop only."""

    def __init__(self, core: native.Core, reports: Reports) -> None:
        self._core = core
        self._reports = reports
        self._failed: set[UUID] = set()
        self._failing_at: dict[UUID, int] = {}

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            try:
                await self.look()
            except BlockdError as error:
                log.warning("stores: %s", error)
            except Exception:  # a bug here must not end the volumes that are served
                log.exception("looking after the stores failed; it is tried again")
            await asyncio.sleep(WATCH_S)

    async def look(self) -> None:
        """Report what has got worse."""
        stats = cast(Mapping[UUID, Mapping[str, int]], (await self._core.stats())["stores"])
        for info in await self._core.store_infos():
            counters = stats.get(info.store_id, {})
            if info.failed and info.store_id not in self._failed:
                self._failed.add(info.store_id)
                self._tell_failed(info)
            checksums, reads = counters.get("checksum_errors", 0), counters.get("read_errors", 0)
            if checksums + reads >= self._failing_at.get(info.store_id, FAILING_ERRORS):
                self._tell_failing(info, checksums, reads)
                limit = FAILING_ERRORS
                while limit <= checksums + reads:
                    limit *= 10
                self._failing_at[info.store_id] = limit

    def _tell_failed(self, info: native.StoreInfo) -> None:
        self._reports.tell(
            "store.failed",
            f"store {info.path} ({info.store_id}) takes no more writes: {info.failed}, its device "
            f"failed a write; {info.segment_count} replicas leave their in-sync sets. See the "
            "kernel's log; when the device is well, restart blockd host, else replace it "
            '(docs/OPERATIONS.md, "A store that fails")',
            level=logging.ERROR,
            store_id=str(info.store_id),
            path=info.path,
            error=info.failed,
        )

    def _tell_failing(self, info: native.StoreInfo, checksums: int, reads: int) -> None:
        self._reports.tell(
            "store.failing",
            f"store {info.path} ({info.store_id}): {checksums} checksum errors and {reads} failed "
            "reads since it was opened. Its data is read from other replicas and repaired; see the "
            "device's health, and replace it before it fails",
            level=logging.WARNING,
            store_id=str(info.store_id),
            path=info.path,
            checksum_errors=str(checksums),
            read_errors=str(reads),
        )
