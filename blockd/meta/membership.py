"""One instance among the others: its lease, its presence, and the election of a leader.

The lease carries all that must vanish when this instance dies: meta/NAME, working/VOLUME marks, and
the leader key while it leads. Leadership is the leader key's: whoever creates it under its lease
leads until the key is gone. All that a leader does is idempotent or guarded, so that an old leader
that has not noticed yet does no harm.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from blockd.meta.context import Instance
from blockd.meta.etcd import Put, Unchanged
from blockd.meta.records import LEADER, META
from blockd.model.errors import BlockdError

log = logging.getLogger("blockd.meta")

LEASE_SECONDS = 5
TICK_SECONDS = 1.0


class Membership:
    """Runs until cancelled; `lead` runs while this instance is the leader."""

    def __init__(
        self, instance: Instance, endpoint: str, lead: Callable[[], Awaitable[None]]
    ) -> None:
        self._instance = instance
        self._etcd = instance.records.etcd
        self._endpoint = endpoint
        self._lead = lead
        self._leading: asyncio.Task[None] | None = None
        self._renewed_at = 0.0

    async def run(self) -> None:
        """Renew, campaign, lead; survives any outage of etcd."""
        try:
            while True:
                started = time.monotonic()
                try:
                    await self._tick()
                except BlockdError as error:
                    log.warning("etcd: %s", error)
                if started - self._renewed_at > LEASE_SECONDS:
                    await self._step_down("the lease has run out")
                await asyncio.sleep(max(0.0, TICK_SECONDS - (time.monotonic() - started)))
        finally:
            await self._step_down("this instance stops")

    async def leave(self) -> None:
        """Give the lease back, so that others need not wait for its end."""
        if self._instance.lease:
            try:
                async with asyncio.timeout(2.0):
                    await self._etcd.revoke(self._instance.lease)
            except TimeoutError:
                log.debug("lease not revoked in time")

    async def join(self) -> None:
        """Get a lease and announce this instance. Raises MetadataUnreachable."""
        asked_at = time.monotonic()
        self._instance.lease = await self._etcd.grant(LEASE_SECONDS)
        self._renewed_at = asked_at
        announcement = Put(
            META + self._instance.name, self._endpoint.encode(), self._instance.lease
        )
        await self._etcd.commit([], [announcement])

    async def _tick(self) -> None:
        asked_at = time.monotonic()
        if not await self._etcd.keep_alive(self._instance.lease):
            await self._step_down("the lease has run out")
            await self.join()
        self._renewed_at = asked_at
        await self._instance.drop_leftover_marks()
        if await self._holds_leadership():
            if self._leading is None or self._leading.done():
                log.info("this instance leads")
                self._leading = asyncio.create_task(self._run_lead())
        else:
            await self._step_down("another instance leads")

    async def _holds_leadership(self) -> bool:
        current = await self._etcd.get(LEADER)
        if current is not None:
            return current.lease == self._instance.lease
        claim = Put(LEADER, self._instance.name.encode(), self._instance.lease)
        return await self._etcd.commit([Unchanged(LEADER, 0)], [claim]) is not None

    async def _run_lead(self) -> None:
        try:
            await self._lead()
        except Exception:
            log.exception("the leader's duties failed; they start again")

    async def _step_down(self, why: str) -> None:
        leading, self._leading = self._leading, None
        if leading is not None:
            log.info("this instance leads no more: %s", why)
            leading.cancel()
            await asyncio.gather(leading, return_exceptions=True)
