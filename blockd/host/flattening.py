"""Flattening: the engine copies up what shows a volume's base, so that the base can be let go.

After a rollback this happens by itself, of a clone when it was asked for. It begins when the volume
is attached here (again), so that a restart goes on; the core knows how far it is.
"""

import asyncio
import logging
from uuid import UUID

from blockd.host.attachments import Attachments, Held
from blockd.host.metadata import MetadataClient
from blockd.model.errors import BlockdError, EpochFenced, NotAttached, NotFound, ShuttingDown
from blockd.native import core as native

log = logging.getLogger(__name__)

RETRY_S = 2.0


class Flattening:
    """One task for each volume that is flattened; used on the event loop only."""

    def __init__(
        self,
        core: native.Core,
        metadata: MetadataClient,
        attachments: Attachments,
        bytes_per_second: int,
    ) -> None:
        self._core = core
        self._metadata = metadata
        self._attachments = attachments
        self._rate = bytes_per_second
        self._tasks: dict[tuple[UUID, int], asyncio.Task[None]] = {}
        attachments.on_attached = self._look

    def _look(self, held: Held) -> None:
        if held.flatten:
            self._begin(held)

    async def start(self, volume_id: UUID, epoch: int) -> None:
        """Begin, unless it runs. Raises NotAttached, EpochFenced."""
        held = await self._attachments.opened(volume_id, epoch)
        if held.has_base:
            self._begin(held)

    def _begin(self, held: Held) -> None:
        key = (held.volume_id, held.epoch)
        if key not in self._tasks:
            task = asyncio.create_task(self._flatten(held))
            self._tasks[key] = task
            task.add_done_callback(lambda _: self._tasks.pop(key, None))

    async def _flatten(self, held: Held) -> None:
        """Until it is done and on record, or the attachment has ended."""
        log.info("volume %s takes in its base", held.name)
        while self._is_held(held):
            try:
                await self._core.flatten(held.volume_id, self._rate)
                await self._metadata.flatten_done(str(held.volume_id), held.epoch)
                log.info("volume %s has no base any more", held.name)
                return
            except (NotAttached, EpochFenced, NotFound, ShuttingDown) as error:
                log.info("flattening of %s ends: %s", held.name, error)
                return
            except BlockdError as error:
                log.warning("flattening of %s: %s; still trying", held.name, error)
            except Exception:
                log.exception("flattening %s failed; it is tried again", held.name)
            await asyncio.sleep(RETRY_S)

    def _is_held(self, held: Held) -> bool:
        now = self._attachments.held.get(held.volume_id)
        return now is not None and now.epoch == held.epoch

    async def close(self) -> None:
        """It goes on once the volume is attached again."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
