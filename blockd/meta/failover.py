"""Volumes with standbys move by themselves when the host that serves them is lost.

Lost is a holder that does not answer this instance, and whose engine serves nothing, by what its
members say of their leases. The first alone would take a volume from a host that is cut off from
the metadata service and goes on serving its clients. Moving is what an administrator would do: an
attach at the first standby that can, under a new epoch, which fences whatever comes back. It takes
the place of the attachment that was judged, and of no other: one that was ended meanwhile stays so.
When no standby can, the lost host is the holder again, and its volume is looked after as before;
what an instance that died has begun is brought to its end.
"""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable

from blockd.meta.attachments import Attachments
from blockd.meta.context import Instance
from blockd.meta.member_reports import MemberReports, Reports
from blockd.meta.records import WORKING, HostView, conflict
from blockd.model.errors import BlockdError, NotAttached, NotFound
from blockd.rpc.gen import host_pb2
from blockd.rpc.gen.meta_pb2 import AttachVolumeRequest
from blockd.rpc.gen.types_pb2 import Attachment, Segment, Volume
from blockd.rules.attachments import cannot_serve

log = logging.getLogger("blockd.meta")

Act = Callable[[Attachment], Awaitable[None]]

TICK_SECONDS = 0.5
ASK_SECONDS = 1.0
SILENCES = 2  # in a row, before members are asked
AGAIN_SECONDS = 2.0  # until what came to nothing is tried again


class Failover:
    """A duty: run() until cancelled."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        self._records = instance.records
        self._members = MemberReports(instance)
        self._attachments = Attachments(instance)
        self._silent: dict[str, int] = {}  # by holder: how often in a row
        self._moving: dict[str, asyncio.Task[None]] = {}  # by volume
        self._not_before: dict[str, float] = {}  # likewise

    async def run(self) -> None:
        """Look after every holder of a volume with standbys."""
        try:
            while True:
                try:
                    await self.look()
                except BlockdError as error:
                    log.warning("failover: %s", error)
                await asyncio.sleep(TICK_SECONDS)
        finally:
            tasks = list(self._moving.values())
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def look(self) -> None:
        """Ask the holders; begin to move the volumes of those that do not answer, and to finish
        what somebody has begun."""
        held: dict[str, list[Attachment]] = defaultdict(list)
        for attachment in (await self._records.attachments()).values():
            if attachment.host_id and attachment.standby_host_ids:
                held[attachment.host_id].append(attachment)
        hosts = await self._records.hosts() if held else {}
        answers = await asyncio.gather(
            *(self._answers(hosts.get(host_id), mine[0]) for host_id, mine in held.items())
        )
        before = self._silent
        self._silent = {
            host_id: before.get(host_id, 0) + 1
            for host_id, answered in zip(held, answers, strict=True)
            if not answered
        }
        for host_id, silences in self._silent.items():
            if silences >= SILENCES:
                self._begin(held[host_id], self._move)
        for host_id in held.keys() - self._silent.keys():
            self._begin((one for one in held[host_id] if not one.nbd_uris), self._finish)

    async def _answers(self, view: HostView | None, attachment: Attachment) -> bool:
        if view is None:
            return False
        try:
            await self._instance.hosts.call(
                view.host.grpc_endpoint,
                lambda host: host.GetAttachment,
                host_pb2.GetAttachmentRequest(volume_id=attachment.volume_id),
                timeout=ASK_SECONDS,
            )
        except (NotAttached, NotFound):
            return True  # it has started anew, and takes up what it held by itself
        except BlockdError:
            return False
        return True

    def _begin(self, attachments: Iterable[Attachment], act: Act) -> None:
        for attachment in attachments:
            volume_id = attachment.volume_id
            now = asyncio.get_running_loop().time()
            if volume_id in self._moving or now < self._not_before.get(volume_id, 0.0):
                continue
            self._moving[volume_id] = asyncio.create_task(self._guarded(attachment, act))

    async def _guarded(self, attachment: Attachment, act: Act) -> None:
        try:
            await act(attachment)
        except BlockdError as error:
            self._put_off(attachment)
            log.warning("volume %s does not move yet: %s", attachment.volume_id, error)
        except Exception:  # a bug with one volume must not keep the others where they are
            log.exception("moving volume %s", attachment.volume_id)
        finally:
            del self._moving[attachment.volume_id]

    def _put_off(self, attachment: Attachment) -> None:
        now = asyncio.get_running_loop().time()
        self._not_before[attachment.volume_id] = now + AGAIN_SECONDS

    async def _finish(self, attachment: Attachment) -> None:
        """Of an attachment without exports: unless somebody is at it, an instance was that is gone,
        and perhaps nobody has told the host."""
        if await self._records.etcd.get(WORKING + attachment.volume_id) is not None:
            return
        self._put_off(attachment)  # it may serve, and have no exports
        await self._attachments.attach(
            AttachVolumeRequest(
                name_or_id=attachment.volume_id,
                host=attachment.host_id,
                standbys=attachment.standby_host_ids,
            ),
            instead_of=attachment,
        )

    async def _move(self, attachment: Attachment) -> None:
        """Raises what the last standby raised. Nothing to do is fine."""
        stored = await self._records.volume(attachment.volume_id)
        hosts = await self._records.hosts()
        segments, reports = await self._members.of(stored.value, hosts)
        if not serves_nothing(segments, reports, attachment.host_id, stored.value):
            log.info(
                "%s does not answer, and still has leases for %s",
                attachment.host_name,
                stored.value.name,
            )
            return
        error: BlockdError = conflict(f"the attachment of {stored.value.name}")
        held = attachment
        for host_id in attachment.standby_host_ids:
            if host_id not in hosts or not hosts[host_id].is_up:
                continue
            standbys = [*attachment.standby_host_ids, attachment.host_id]
            try:
                await self._attachments.attach(
                    AttachVolumeRequest(
                        name_or_id=attachment.volume_id, host=host_id, standbys=standbys
                    ),
                    instead_of=held,
                )
            except BlockdError as failed:
                error = failed
            else:
                await self._say(stored.value, attachment, hosts[host_id])
                return
            held = (await self._records.attachment(attachment.volume_id)).value
            if held.host_id != attachment.host_id or await self._answers(
                hosts.get(held.host_id), held
            ):
                break  # somebody else decided meanwhile, or the holder is back
        raise error

    async def _say(self, volume: Volume, lost: Attachment, target: HostView) -> None:
        await self._records.commit(
            [],
            [],
            "volume.failed_over",
            f"volume/{volume.name}",
            f"volume {volume.name} was moved to {target.host.name}: {lost.host_name} is lost",
            {"volume_id": volume.id, "from": lost.host_name, "to": target.host.name},
        )


def _lease_us(report: host_pb2.StoredReplicas | None) -> int | None:
    """None: the host does not answer, or is of a release that does not say."""
    if report is None or not report.HasField("lease_us"):
        return None
    return int(report.lease_us)


def serves_nothing(
    segments: Iterable[Segment], reports: Reports, holder_id: str, volume: Volume
) -> bool:
    """Whether the engine can serve none of the segments that other hosts have replicas of. False
    when there are none: who could tell?"""
    elsewhere = [
        [member for member in segment.members if member.in_sync]
        for segment in segments
        if any(member.in_sync and member.host_id != holder_id for member in segment.members)
    ]
    if not elsewhere:
        return False
    for agreed in elsewhere:
        found = [reports.get((member.host_id, member.store_id)) for member in agreed]
        leases = [_lease_us(report) for report in found]
        if not cannot_serve(leases, volume.policy.min_in_sync):
            return False
    return True
