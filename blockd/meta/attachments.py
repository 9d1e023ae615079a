"""Attachments: who serves a volume, and under which epoch. What the holder asks: holders.py.

The record attachment/VOLUME is the truth; a host serves only what it was told under the epoch on
record, and replicas refuse any lower one. Each change here is one commit guarded by that record, so
that two requests at once cannot both win. working/VOLUME marks an attach under way: a second caller
is told to wait instead of replacing a host that is about to serve.
"""

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass

from blockd.meta.context import Instance
from blockd.meta.eras import Eras
from blockd.meta.etcd import Delete, Guard, Unchanged
from blockd.meta.layers import Layers, served_as
from blockd.meta.recall import Recall
from blockd.meta.records import (
    CONFLICTS_MAX,
    WORKING,
    HostView,
    Stored,
    check_available,
    check_sealed,
    conflict,
    now_us,
    put,
)
from blockd.meta.snapshot_records import SnapshotRecords, era_of
from blockd.meta.snapshots import Snapshots
from blockd.model.errors import (
    BlockdError,
    Busy,
    LinkLost,
    NotAttached,
    NotFound,
    Timeout,
)
from blockd.rpc.gen import host_pb2
from blockd.rpc.gen.meta_pb2 import AttachVolumeRequest
from blockd.rpc.gen.types_pb2 import Attachment, Volume
from blockd.rpc.status import hinted
from blockd.rules.attachments import (
    Holder,
    HostChoice,
    Promised,
    Verdict,
    choose_host,
    decide_attach,
    next_epoch,
)

log = logging.getLogger("blockd.meta")

ASK_SECONDS = 1.0  # for a holder to say that it is well
OPEN_SECONDS = 20.0  # an earlier lease runs out, members are fenced, the last writes settled
CLOSE_SECONDS = 10.0
EVICT_SECONDS = 5.0


@dataclass(frozen=True)
class Ended:
    """How a host let go of a volume: why it did not; the epoch of the engine that ended in good
    order, 0 for none, and the era it was in."""

    error: BlockdError | None = None
    drained_epoch: int = 0
    era: int = 0


class Attachments:
    """Stateless; every call reads etcd."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        self._records = instance.records
        self._etcd = instance.records.etcd
        self._snapshots = Snapshots(instance)
        self._layers = Layers(instance.records)
        self._eras = Eras(instance)
        self._recall = Recall(instance)

    # Attaching.

    async def attach(
        self,
        request: AttachVolumeRequest,
        *,
        preserving: bool = False,
        instead_of: Attachment | None = None,
    ) -> Attachment:
        """Raises NotFound, Busy, VolumeAttached, and what the host raised: it could not open.
        preserving: a branch that is not sealed goes to the engine that adds to it. instead_of: only
        if that is still the one on record, which it is again when nothing comes of this."""
        for _ in range(CONFLICTS_MAX):
            stored = await self._records.volume(request.name_or_id)
            check_available(stored.value)
            if not preserving:
                check_sealed(stored.value)
                await self._check_base(stored.value)
            elif stored.value.branch.sealed:
                raise Busy(f"branch {stored.value.name} was sealed meanwhile")
            attachment = await self._records.attachment(stored.value.id)
            if instead_of is not None and not _is_same(attachment.value, instead_of):
                raise conflict(f"the attachment of {stored.value.name}")
            hosts = await self._records.hosts()
            target = await self._target(stored.value, request.host, attachment.value, hosts)
            standbys = [hosts[await self._records.host_id(one)] for one in request.standbys]
            verdict, promised = await asyncio.gather(
                self._judge(stored.value, attachment.value, target, hosts, request),
                self._recall.promised(stored.value, hosts),
            )
            if verdict is Verdict.KEEP:
                kept = await self._keep(stored.value, attachment, standbys)
                if kept is not None:
                    return kept
                continue
            if verdict is Verdict.EVICT:
                await self._close(hosts.get(attachment.value.host_id), attachment.value)
            if await self._etcd.get(WORKING + stored.value.id) is not None:
                raise Busy(f"volume {stored.value.name} is being attached or created right now")
            async with self._instance.hold(stored.value.id):
                taken = await self._take(stored, attachment, target, promised, standbys)
                if taken is not None:
                    return await self._open(stored, taken, target, hosts, instead_of)
        raise conflict(f"the attachment of {request.name_or_id}")

    async def _check_base(self, volume: Volume) -> None:
        """A branch may have been sealed before what it stands on is final. Raises Busy."""
        if volume.HasField("branch"):
            parent = (await self._records.volume(volume.branch.volume_id)).value
            with contextlib.suppress(BlockdError):  # then it is not final, which is said
                await self._snapshots.finish(parent.id)
            await SnapshotRecords(self._records).final(parent, volume.branch.name)

    async def _target(
        self, volume: Volume, wanted: str, held: Attachment, hosts: dict[str, HostView]
    ) -> HostView:
        """The host to attach at: the one named, else the holder if it is up, else the best."""
        if wanted:
            view = hosts.get(await self._records.host_id(wanted))
            if view is None:
                raise NotFound(f"no host named {wanted!r}")
            return view
        holder = hosts.get(held.host_id)
        if holder is not None and holder.is_up:
            return holder
        return hosts[choose_host(volume.name, await self._choices(volume, hosts))]

    async def _choices(self, volume: Volume, hosts: dict[str, HostView]) -> list[HostChoice]:
        in_sync = dict.fromkeys(hosts, 0)
        for segment in await self._records.segments(volume):
            for member in segment.value.members:
                if member.in_sync and member.host_id in in_sync:
                    in_sync[member.host_id] += 1
        busy = dict.fromkeys(hosts, 0)
        for attachment in (await self._records.attachments()).values():
            if attachment.host_id in busy:
                busy[attachment.host_id] += 1
        return [
            HostChoice(host_id, view.host.name, view.is_up, in_sync[host_id], busy[host_id])
            for host_id, view in hosts.items()
        ]

    async def _judge(
        self,
        volume: Volume,
        held: Attachment,
        target: HostView,
        hosts: dict[str, HostView],
        request: AttachVolumeRequest,
    ) -> Verdict:
        return decide_attach(
            volume.name,
            await self._ask_holder(held, hosts),
            same_host=held.host_id == target.host.id,
            holder_name=held.host_name,
            force=request.force,
        )

    async def _keep(
        self, volume: Volume, held: Stored[Attachment], standbys: Sequence[HostView]
    ) -> Attachment | None:
        """The host serves already; only its standbys may change. None: somebody else was faster."""
        kept = Attachment()
        kept.CopyFrom(held.value)
        if standbys:
            _set_standbys(kept, standbys)
        if kept == held.value:
            return kept
        done = await self._records.commit(
            [held.unchanged],
            [put(held.key, kept)],
            "volume.standbys_changed",
            f"volume/{volume.name}",
            f"volume {volume.name} goes to {', '.join(kept.standby_host_names)} when "
            f"{kept.host_name} is lost",
            {"volume_id": volume.id, "standbys": ",".join(kept.standby_host_ids)},
        )
        return kept if done else None

    async def _ask_holder(self, held: Attachment, hosts: dict[str, HostView]) -> Holder:
        if not held.host_id:
            return Holder.NOBODY
        view = hosts.get(held.host_id)
        if view is None:
            return Holder.SILENT
        try:
            status = await self._instance.hosts.call(
                view.host.grpc_endpoint,
                lambda host: host.GetAttachment,
                host_pb2.GetAttachmentRequest(volume_id=held.volume_id),
                timeout=ASK_SECONDS,
                idempotent=True,
            )
        except (NotAttached, NotFound):
            return Holder.LACKS
        except BlockdError as error:
            log.info("holder %s of %s: %s", held.host_name, held.volume_id, error)
            return Holder.SILENT
        well = status.epoch == held.epoch and status.state not in ("fenced", "closing", "closed")
        return Holder.SERVES if well else Holder.LACKS

    async def _take(
        self,
        stored: Stored[Volume],
        held: Stored[Attachment],
        target: HostView,
        promised: Promised,
        standbys: Sequence[HostView],
    ) -> Attachment | None:
        """Issue the next epoch to the target. None: somebody else was faster."""
        volume = stored.value
        attachment = Attachment(
            volume_id=volume.id,
            host_id=target.host.id,
            host_name=target.host.name,
            epoch=next_epoch(held.value.epoch, promised),
            since_unix_us=now_us(),
        )
        _set_standbys(attachment, standbys)
        instead = f", instead of {held.value.host_name}" if held.value.host_id else ""
        done = await self._records.commit(
            [stored.unchanged, held.unchanged, Unchanged(WORKING + volume.id, 0)],
            [put(held.key, attachment), self._instance.working_on(volume.id)],
            "volume.attaching",
            f"volume/{volume.name}",
            f"volume {volume.name} goes to {target.host.name} under epoch "
            f"{attachment.epoch}{instead}",
            {"volume_id": volume.id, "epoch": str(attachment.epoch), "host": target.host.name},
        )
        return attachment if done else None

    async def _open(
        self,
        stored: Stored[Volume],
        taken: Attachment,
        target: HostView,
        hosts: dict[str, HostView],
        instead_of: Attachment | None,
    ) -> Attachment:
        """Have the host open and export the volume; put its answer, or its failure, on record."""
        opened = Attachment()
        opened.CopyFrom(taken)
        era = era_of(stored.value)
        try:
            request = host_pb2.HostAttachRequest(
                volume=served_as(await self._records.whole_volume(stored, hosts)),
                peers=[view.host for view in hosts.values()],
                bases=await self._layers.served_on(stored.value, hosts),
            )
            answer = await self._instance.hosts.call(
                target.host.grpc_endpoint,
                lambda host: host.Attach,
                request,
                timeout=OPEN_SECONDS,
            )
            opened.nbd_uris.extend(answer.nbd_uris)
            met = max(era, int(answer.era))
            era = await self._publish(stored.value, opened, taken, target, met)
        except BlockdError as error:
            await self._give_up(stored.value, opened, target, error, instead_of)
            raise _attach_failed(stored.value, target, error) from error
        with contextlib.suppress(BlockdError):  # else the leader does it
            await self._snapshots.settled(opened, era)
        return opened

    async def _publish(
        self, volume: Volume, opened: Attachment, taken: Attachment, target: HostView, era: int
    ) -> int:
        """Put on record that the volume is served, when its engine is in the era on record.

        A snapshot that was taken since this attach read the volume found no engine here to tell:
        so the engine is told now. One that is taken after this commit finds the engine. An engine
        in a later era than the record knows of has it from its members. Returns the engine's era:
        whatever is older is final, since an opening settles it.
        """
        for _ in range(CONFLICTS_MAX):
            now = await self._records.volume_by_id(volume.id)
            if now is not None and era_of(now.value) > era:
                era = await self._eras.begin(target, taken, era_of(now.value))
            if now is not None and era_of(now.value) < era:
                await self._recall.raise_era(volume.id, era)
                continue
            if now is not None and await self._settle(
                opened,
                taken,
                "volume.attached",
                volume.name,
                f"volume {volume.name} is served by {target.host.name}",
                guards=[now.unchanged],
            ):
                return era
        raise conflict(f"the attachment of {volume.name}")

    async def _give_up(
        self,
        volume: Volume,
        opened: Attachment,
        target: HostView,
        error: BlockdError,
        instead_of: Attachment | None,
    ) -> None:
        """Release an attachment that came to nothing; the epoch stays used."""
        left = Attachment(volume_id=volume.id)
        if instead_of is not None:
            left.CopyFrom(instead_of)
        left.epoch = opened.epoch
        if opened.nbd_uris or isinstance(error, LinkLost | Timeout):  # it has, or may have, opened
            await self._close(target, opened)
        with contextlib.suppress(BlockdError):  # else the next attach finds the host without it
            await self._settle(
                left,
                opened,
                "volume.attach_failed",
                volume.name,
                f"volume {volume.name} could not be attached at {target.host.name}: "
                f"{error.message}",
            )

    async def _settle(
        self,
        result: Attachment,
        taken: Attachment,
        kind: str,
        name: str,
        message: str,
        *,
        guards: Sequence[Guard] = (),
    ) -> bool:
        """Write the outcome of an attach, if its epoch and holder are still those on record. False:
        they are not, or with `guards` that one failed."""
        for _ in range(CONFLICTS_MAX):
            stored = await self._records.attachment(taken.volume_id)
            current = stored.value
            if (current.host_id, current.epoch) != (taken.host_id, taken.epoch):
                return current == result
            if await self._records.commit(
                [stored.unchanged, *guards],
                [put(stored.key, result), Delete(WORKING + taken.volume_id)],
                kind,
                f"volume/{name}",
                message,
                {"volume_id": taken.volume_id, "epoch": str(taken.epoch), "host": taken.host_name},
            ):
                return True
            if guards:
                return False  # the caller looks again
        return False

    # Detaching.

    async def detach(self, name_or_id: str, *, force: bool) -> None:
        """Idempotent. Raises NotFound; LinkLost, Timeout: the holder is up and does not answer."""
        drained_epoch = 0
        for _ in range(CONFLICTS_MAX):
            stored = await self._records.volume(name_or_id)
            held = await self._records.attachment(stored.value.id)
            if not held.value.host_id:
                return
            hosts = await self._records.hosts()
            view = hosts.get(held.value.host_id)
            ended = await self._close(view, held.value, CLOSE_SECONDS)
            error = ended.error
            drained_epoch = max(drained_epoch, ended.drained_epoch)
            await self._recall.raise_era(stored.value.id, ended.era)
            if error is not None and view is not None and view.is_up and not force:
                raise hinted(
                    type(error)(f"{view.host.name} did not detach {stored.value.name}: {error}"),
                    f"blockctl volume detach {stored.value.name} --force releases it all the "
                    "same; the next attachment fences the host",
                )
            if await self._release(stored.value, held, is_clean=drained_epoch == held.value.epoch):
                with contextlib.suppress(BlockdError):  # else the leader does it
                    await self._snapshots.finish(stored.value.id)
                return
        raise conflict(f"the attachment of {name_or_id}")

    async def _release(self, volume: Volume, held: Stored[Attachment], *, is_clean: bool) -> bool:
        """is_clean: the holder has said that nothing is under way any more."""
        free = Attachment(volume_id=volume.id, epoch=held.value.epoch, clean=is_clean)
        return await self._records.commit(
            [held.unchanged],
            [
                put(held.key, free),
                Delete(WORKING + volume.id),
            ],
            "volume.detached",
            f"volume/{volume.name}",
            f"volume {volume.name} is not served by {held.value.host_name} any more",
            {"volume_id": volume.id, "host": held.value.host_name},
        )

    async def _close(
        self, view: HostView | None, held: Attachment, timeout: float = EVICT_SECONDS
    ) -> Ended:
        """Ask a host to let go of what it holds under this attachment. No error when it has, or
        never had it."""
        if view is None:
            return Ended()
        try:
            answer = await self._instance.hosts.call(
                view.host.grpc_endpoint,
                lambda host: host.Detach,
                host_pb2.HostDetachRequest(volume_id=held.volume_id, epoch=held.epoch),
                timeout=timeout if view.is_up else ASK_SECONDS,
                idempotent=True,
            )
        except (NotAttached, NotFound):
            return Ended()
        except BlockdError as error:
            log.info("host %s does not detach %s: %s", view.host.name, held.volume_id, error)
            return Ended(error)
        return Ended(None, int(answer.drained_epoch), int(answer.era))


def _is_same(one: Attachment, other: Attachment) -> bool:
    return (one.host_id, one.epoch) == (other.host_id, other.epoch)


def _set_standbys(attachment: Attachment, standbys: Sequence[HostView]) -> None:
    views = [view for view in standbys if view.host.id != attachment.host_id]
    attachment.standby_host_ids[:] = [view.host.id for view in views]
    attachment.standby_host_names[:] = [view.host.name for view in views]


def _attach_failed(volume: Volume, target: HostView, error: BlockdError) -> BlockdError:
    """The host's error, with what was being done."""
    failed = type(error)(
        f"{target.host.name} could not attach {volume.name}: {error.message}", **error.context
    )
    for note in getattr(error, "__notes__", ()):
        failed.add_note(note)
    if isinstance(error, LinkLost | Timeout):
        failed.add_note(
            f"see whether the host runs (blockctl host show {target.host.name}), or attach at "
            "another one with --host"
        )
    return failed
