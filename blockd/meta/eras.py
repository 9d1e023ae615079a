"""What the holders of attachments are asked for snapshots: begin an era, hold mutations.

Every call carries the attachment's epoch: an engine that was replaced must not answer for its
successor.
"""

from blockd.meta.context import Instance
from blockd.meta.records import HostView
from blockd.model.errors import LinkLost
from blockd.rpc.gen import host_pb2
from blockd.rpc.gen.types_pb2 import Attachment

BEGIN_SECONDS = 5.0
HOLD_SECONDS = 1.0  # to answer in


class Eras:
    """Stateless."""

    def __init__(self, instance: Instance) -> None:
        self._hosts = instance.hosts

    async def begin(
        self, view: HostView | None, held: Attachment, era: int, *, hold_token: str = ""
    ) -> int:
        """Returns when every mutation of an earlier era has left the holder's engine: the era that
        it is in, for recall.py when that is later than any on record.

        Raises what the host raised: LinkLost, Timeout: it does not answer; NotAttached,
        EpochFenced: it has no engine of this epoch; Busy: the hold had ended by then.
        """
        request = host_pb2.BeginEraRequest(
            volume_id=held.volume_id, epoch=held.epoch, era=era, hold_token=hold_token
        )
        answer = await self._hosts.call(
            _endpoint(view, held), lambda host: host.BeginEra, request, timeout=BEGIN_SECONDS
        )
        return max(era, int(answer.era))

    async def hold(
        self, view: HostView | None, held: Attachment, token: str, seconds: float
    ) -> int:
        """No mutation is sequenced for so long, or until released. Returns the engine's era, as
        begin(), 0 when it is not said. Raises as begin()."""
        request = host_pb2.HoldMutationsRequest(
            volume_id=held.volume_id, epoch=held.epoch, token=token, hold_us=int(seconds * 1e6)
        )
        answer = await self._hosts.call(
            _endpoint(view, held), lambda host: host.HoldMutations, request, timeout=HOLD_SECONDS
        )
        return int(answer.era)

    async def release(self, view: HostView | None, held: Attachment, token: str) -> None:
        """End a hold. Raises as begin(); the hold ends by itself then."""
        await self.hold(view, held, token, 0)


def _endpoint(view: HostView | None, held: Attachment) -> str:
    if view is None:
        raise LinkLost(f"the host {held.host_name or held.host_id} is not registered")
    return view.host.grpc_endpoint
