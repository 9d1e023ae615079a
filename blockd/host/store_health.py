"""Whether stores do their work in time: a store that stalls is as bad as one that fails.

Every store is tried once a second: a block is read from its device, past all caches, and the native
store flushes through its own path, behind whatever is before it. Both have to be done within
PROBE_DEADLINE_S; what is late makes the store "stalled", also while it is still out, and no other
try is begun before. It is trusted again after so many tries in a row that were in time: a device
that comes and goes is not. Whoever places replicas keeps away from it (blockd/rules/placement.py).

The clock stands still while this process does, or waits for a processor: no store is to blame.
"""

import asyncio
import contextlib
import logging
import os
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from uuid import UUID

from blockd.host.probe import page_buffer
from blockd.host.reports import Reports
from blockd.model.errors import BlockdError
from blockd.model.units import BLOCK_BYTES
from blockd.native import core as native

log = logging.getLogger(__name__)

PROBE_EVERY_S = 1.0
PROBE_DEADLINE_S = 10.0
GOOD_IN_A_ROW = 10
LOOK_MAX_S = 2.0  # what counts of the time between two looks

Probe = Callable[[native.StoreInfo], Awaitable[None]]


@dataclass
class _Tried:
    """What is known of one store."""

    running: "asyncio.Future[None] | None" = None
    began: float = 0.0
    stalled: bool = False
    good: int = 0  # in a row


class StoreHealth:
    """Used on the event loop only."""

    def __init__(self, core: native.Core, reports: Reports, probe: Probe | None = None) -> None:
        self._core = core
        self._reports = reports
        self._probe = probe or self._read_and_flush
        self._stores: dict[UUID, _Tried] = {}

    def stalled(self, store_id: UUID) -> bool:
        """As of the last look."""
        return store_id in self._stores and self._stores[store_id].stalled

    async def run(self) -> None:
        """Until cancelled."""
        awake, looked = 0.0, time.monotonic()
        while True:
            before, looked = looked, time.monotonic()
            awake += min(looked - before, LOOK_MAX_S)
            try:
                await self.look(awake)
            except BlockdError as error:
                log.warning("stores: %s", error)
            except Exception:  # a bug here must not end the volumes that are served
                log.exception("trying the stores failed; it is done again")
            await asyncio.sleep(PROBE_EVERY_S)

    async def look(self, now: float) -> None:
        """Judge the tries that are out, and begin new ones."""
        for info in await self._core.store_infos():
            tried = self._stores.setdefault(info.store_id, _Tried())
            if tried.running is not None and tried.running.done():
                self._judge(info, tried, tried.running, now)
            if tried.running is None:
                tried.began = now
                tried.running = asyncio.ensure_future(self._probe(info))
            elif now - tried.began > PROBE_DEADLINE_S:
                self._bad(info, tried, f"not within {now - tried.began:.0f} s")

    def _judge(
        self, info: native.StoreInfo, tried: _Tried, task: "asyncio.Future[None]", now: float
    ) -> None:
        tried.running = None
        error = task.exception()
        if error is not None and not isinstance(error, BlockdError | OSError):
            raise error
        if error is not None:
            return self._bad(info, tried, str(error))
        if now - tried.began > PROBE_DEADLINE_S:
            return self._bad(info, tried, f"only after {now - tried.began:.0f} s")
        tried.good += 1
        if tried.stalled and tried.good >= GOOD_IN_A_ROW:
            tried.stalled = False
            self._tell(info, "store.recovered", "does its work in time again", logging.INFO)
        return None

    def _bad(self, info: native.StoreInfo, tried: _Tried, why: str) -> None:
        tried.good = 0
        if tried.stalled or info.failed:  # that is worse, and told by itself
            return
        tried.stalled = True
        what = f"does not read and flush in time ({why}); it gets no new replicas until it does"
        self._tell(info, "store.stalled", what, logging.WARNING)

    def _tell(self, info: native.StoreInfo, kind: str, what: str, level: int) -> None:
        message = f"store {info.path} ({info.store_id}) {what}"
        self._reports.tell(kind, message, level=level, store_id=str(info.store_id), path=info.path)

    async def _read_and_flush(self, info: native.StoreInfo) -> None:
        """Raises BlockdError, OSError."""
        await in_own_thread(lambda: read_first_block(info.path))
        await self._core.flush_store(info.store_id)


async def in_own_thread(work: Callable[[], None]) -> None:
    """One that hangs holds up nobody else, nor the end of the process."""
    loop = asyncio.get_running_loop()
    over: asyncio.Future[None] = loop.create_future()

    def settle(error: OSError | None) -> None:
        if over.done():
            return
        if error is None:
            over.set_result(None)
        else:
            over.set_exception(error)

    def run() -> None:
        error: OSError | None = None
        try:
            work()
        except OSError as caught:
            error = caught
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(settle, error)

    threading.Thread(target=run, daemon=True).start()
    await over


def read_first_block(path: str) -> None:
    """From the device itself. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC)
    try:
        with page_buffer(BLOCK_BYTES) as buffer:
            if os.preadv(fd, [buffer], 0) != BLOCK_BYTES:
                raise OSError(f"{path}: less than a block was read")
    finally:
        os.close(fd)
