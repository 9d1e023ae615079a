"""What happened at this host, on its way to the cluster's event log.

Each report goes to the daemon's own log at once. Those that the metadata service cannot be told now
wait, the newest up to a bound, and are told in order when it answers again.
"""

import asyncio
import logging
from collections import deque
from uuid import UUID

from blockd.host.metadata import MetadataClient
from blockd.model.errors import BlockdError, LinkLost, MetadataUnreachable, Timeout
from blockd.rpc.gen import meta_pb2

log = logging.getLogger(__name__)

WAITING_MAX = 1000
RETRY_S = 1.0


class Reports:
    """Used on the event loop only."""

    def __init__(self, metadata: MetadataClient, host_id: UUID) -> None:
        self._metadata = metadata
        self._host_id = host_id
        self._waiting: deque[meta_pb2.ReportEventRequest] = deque(maxlen=WAITING_MAX)
        self._arrived = asyncio.Event()

    def tell(
        self,
        kind: str,
        message: str,
        *,
        volume_id: UUID | None = None,
        level: int = logging.INFO,
        **details: str,
    ) -> None:
        """Report an event; it is about the volume, else about this host."""
        log.log(level, "%s: %s", kind, message)
        self._waiting.append(
            meta_pb2.ReportEventRequest(
                host_id=str(self._host_id),
                kind=kind,
                volume_id=str(volume_id) if volume_id is not None else "",
                message=message,
                details=details,
            )
        )
        self._arrived.set()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            while self._waiting:
                report = self._waiting[0]
                try:
                    await self._metadata.report_event(report)
                except (MetadataUnreachable, Timeout, LinkLost):
                    await asyncio.sleep(RETRY_S)
                    continue
                except BlockdError as error:
                    log.warning("event %s was refused: %s", report.kind, error)
                if self._waiting and self._waiting[0] is report:
                    self._waiting.popleft()
