"""What the daemon that holds an attachment asks: a new epoch after a restart, another in-sync set.
And what it has to say of full members.

All are compare-and-set against the attachment on record: one that has been replaced is told so.
"""

from blockd.meta.context import Instance
from blockd.meta.etcd import Delete, Op, Put
from blockd.meta.layers import Layers, served_as
from blockd.meta.recall import Recall
from blockd.meta.records import (
    CONFLICTS_MAX,
    HostView,
    Stored,
    conflict,
    decode,
    degraded_key,
    named,
    now_us,
    put,
    segment_key,
)
from blockd.model.errors import NotFound
from blockd.model.ids import parse_id
from blockd.rpc.gen.meta_pb2 import (
    ChangeInSyncRequest,
    RenewAttachmentRequest,
    RenewAttachmentResponse,
    ReportSpaceRequest,
)
from blockd.rpc.gen.types_pb2 import Attachment, Segment, Volume
from blockd.rules.attachments import check_renewal, next_epoch
from blockd.rules.in_sync import check_epoch, decide_in_sync, is_degraded


class Holders:
    """Stateless; every call reads etcd."""

    def __init__(self, instance: Instance) -> None:
        self._records = instance.records
        self._etcd = instance.records.etcd
        self._layers = Layers(instance.records)
        self._recall = Recall(instance)

    async def renew(self, request: RenewAttachmentRequest) -> RenewAttachmentResponse:
        """A new epoch for the same host, and the volume's era as of it: a snapshot that is taken
        before the host has opened is looked for by the host afterwards (snapshots.py).

        Raises EpochFenced, NotFound, InvalidArgument."""
        volume_id = str(parse_id(request.volume_id, "volume_id"))
        host_id = str(parse_id(request.host_id, "host_id"))
        for _ in range(CONFLICTS_MAX):
            stored = await self._records.volume(volume_id)
            held = await self._records.attachment(volume_id)
            check_renewal(
                held.value.host_id,
                held.value.epoch,
                host_id,
                request.epoch,
                holder_name=held.value.host_name,
            )
            renewed = Attachment()
            renewed.CopyFrom(held.value)
            renewed.epoch = next_epoch(held.value.epoch, await self._recall.promised(stored.value))
            renewed.since_unix_us = now_us()
            if await self._records.commit(
                [stored.unchanged, held.unchanged],
                [put(held.key, renewed)],
                "volume.reattached",
                f"volume/{stored.value.name}",
                f"volume {stored.value.name} stays at {renewed.host_name} under epoch "
                f"{renewed.epoch}",
                {"volume_id": volume_id, "epoch": str(renewed.epoch), "host": renewed.host_name},
            ):
                return RenewAttachmentResponse(
                    volume=served_as(await self._records.whole_volume(stored)),
                    bases=await self._layers.served_on(stored.value),
                )
        raise conflict(f"the attachment of {volume_id}")

    async def change_in_sync(self, request: ChangeInSyncRequest) -> Segment:
        """Raises EpochFenced, NotAttached, StaleGeneration, QuorumLost, and for nonsense
        InvalidArgument, NotFound."""
        volume_id = str(parse_id(request.volume_id, "volume_id"))
        proposed = [str(parse_id(text, "in_sync_host_ids")) for text in request.in_sync_host_ids]
        for _ in range(CONFLICTS_MAX):
            stored = await self._records.volume(volume_id)
            held = await self._records.attachment(volume_id)
            check_epoch(request.epoch, held.value.epoch, is_attached=bool(held.value.host_id))
            segment = await self._segment(stored.value, request.segment)
            members = {member.host_id: member.in_sync for member in segment.value.members}
            in_sync = decide_in_sync(
                members,
                proposed,
                generation=segment.value.generation,
                known_generation=request.generation,
                min_in_sync=stored.value.policy.min_in_sync,
            )
            hosts = await self._records.hosts()
            if in_sync is None:
                return named(segment.value, hosts)
            changed = _with_in_sync(segment.value, in_sync)
            if await self._commit_in_sync(stored.value, held, segment, changed, hosts, request):
                return named(changed, hosts)
        raise conflict(f"segment {request.segment} of {volume_id}")

    async def report_space(self, request: ReportSpaceRequest) -> None:
        """Writes that a full store stops, or no longer does, become an event. Raises EpochFenced,
        NotAttached, InvalidArgument, NotFound."""
        volume_id = str(parse_id(request.volume_id, "volume_id"))
        member_id = str(parse_id(request.host_id, "host_id"))
        stored = await self._records.volume(volume_id)
        held = await self._records.attachment(volume_id)
        check_epoch(request.epoch, held.value.epoch, is_attached=bool(held.value.host_id))
        view = (await self._records.hosts()).get(member_id)
        if view is None:
            raise NotFound(f"no host with the id {member_id}", field="host_id")
        name, host = stored.value.name, view.host.name
        await self._records.commit(
            [held.unchanged],
            [],
            "volume.no_space" if request.full else "volume.has_space",
            f"volume/{name}",
            f"volume {name} takes no writes: a store of host {host} is full; delete or trim there"
            if request.full
            else f"volume {name}: host {host} has space for writes again",
            {"volume_id": volume_id, "host_id": member_id, "host": host},
        )

    async def _segment(self, volume: Volume, index: int) -> Stored[Segment]:
        entry = await self._etcd.get(segment_key(volume.id, index))
        if entry is None:
            raise NotFound(f"volume {volume.name} has no segment {index}", field="segment")
        return decode(entry, Segment)

    async def _commit_in_sync(
        self,
        volume: Volume,
        held: Stored[Attachment],
        old: Stored[Segment],
        new: Segment,
        hosts: dict[str, HostView],
        request: ChangeInSyncRequest,
    ) -> bool:
        before = {member.host_id for member in old.value.members if member.in_sync}
        after = {member.host_id for member in new.members if member.in_sync}
        what = "in" if after > before else "out"
        names = ", ".join(
            sorted(hosts[host].host.name if host in hosts else host for host in before ^ after)
        )
        mark = degraded_key(volume.id, new.index)
        degraded = is_degraded(len(after), volume.policy.replicas)
        marking: Op = Put(mark, b"") if degraded else Delete(mark)
        return await self._records.commit(
            [held.unchanged, old.unchanged],
            [put(old.key, new), marking],
            "segment.in_sync_changed",
            f"volume/{volume.name}",
            f"segment {new.index} of {volume.name}: {names} {what}, {len(after)} of "
            f"{volume.policy.replicas} in sync",
            {
                "volume_id": volume.id,
                "segment": str(new.index),
                "generation": str(new.generation),
                "epoch": str(held.value.epoch),
                "in_sync": ",".join(sorted(after)),
                "reason": request.reason,
            },
        )


def _with_in_sync(segment: Segment, in_sync: frozenset[str]) -> Segment:
    changed = Segment()
    changed.CopyFrom(segment)
    changed.generation += 1
    for member in changed.members:
        member.in_sync = member.host_id in in_sync
    return changed
