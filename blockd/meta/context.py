"""What the parts of one metadata instance share."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

from blockd.meta.etcd import Delete, Put
from blockd.meta.records import WORKING, Records
from blockd.rpc.channel import HostClient
from blockd.rules.placement import OVERCOMMIT_DEFAULT

Result = TypeVar("Result")


@dataclass
class Instance:
    """One `blockd meta`: its name, its etcd lease (renewed by membership.py), and its clients."""

    name: str
    records: Records
    hosts: HostClient
    overcommit: float = OVERCOMMIT_DEFAULT
    lease: int = 0
    tasks: set["asyncio.Task[Any]"] = field(default_factory=set)
    leftover_marks: set[str] = field(default_factory=set)

    async def to_end(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Await `work`, which goes on when the caller is cancelled: a client that hangs up in the
        middle leaves no half-made volume behind."""
        task = asyncio.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self._ended)
        return await asyncio.shield(task)

    def _ended(self, task: "asyncio.Task[Any]") -> None:
        self.tasks.discard(task)
        if not task.cancelled():
            task.exception()  # the caller has seen it, or has gone

    async def drain(self, timeout_seconds: float) -> None:
        """Wait for work under way; cancel what is left after that."""
        if self.tasks:
            _, late = await asyncio.wait(self.tasks, timeout=timeout_seconds)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    @contextlib.asynccontextmanager
    async def hold(self, volume_id: str) -> AsyncIterator[None]:
        """See to it that the mark is gone in the end, whatever goes wrong: a mark that stays would
        keep everybody off the volume for as long as this instance lives."""
        try:
            yield
        except BaseException:
            self.leftover_marks.add(volume_id)
            raise

    async def drop_leftover_marks(self) -> None:
        """Raises MetadataUnreachable, and then keeps them for the next time."""
        for volume_id in list(self.leftover_marks):
            await self.records.etcd.commit([], [Delete(WORKING + volume_id)])
            self.leftover_marks.discard(volume_id)

    def working_on(self, volume_id: str) -> Put:
        """Mark a volume as in this instance's hands; the mark goes when the instance dies."""
        return Put(WORKING + volume_id, self.name.encode(), self.lease)
