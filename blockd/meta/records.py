"""The metadata service's records in etcd: keys, typed reads, and commits that leave an event.

All under /blockd/v1/; values are messages of proto/blockd/v1 unless the table says otherwise:

    cluster                  Cluster           the cluster's id, written once
    meta/NAME                text, leased      gRPC endpoint of an instance that runs
    leader                   text, leased      name of the instance with the background duties
    operator/NAME            Operator
    site/NAME                Site
    host/ID                  Host              as registered, without what alive/ knows better
    host-name/NAME           text              the id that owns the name
    alive/ID                 Host, leased      stores as of the last report; gone: the host is down
    report/ID                Host              the last report, also of a host that is down
    host-state/ID            text              "up" or "down" as last announced in an event
    store-state/ID           text              Store.state as last announced in an event
    volume/ID                Volume            without segments and attachment
    volume-name/NAME         text              the id that owns the name
    segment/VOLUME/INDEX     Segment           one key each, so that in-sync changes never contend
    degraded/VOLUME/INDEX    empty             there while the segment has too few in sync
    attachment/VOLUME        Attachment        always there; host_id is empty when attached nowhere
    snapshot/VOLUME/NAME     Snapshot          without attachments
    snapshots/VOLUME         SnapshotSet       written with every change of the volume's snapshots,
                                               era and base: so its guard is a guard of them all
    snapshot-attachment/SNAPSHOT/HOST  SnapshotAttachment
    group/NAME               Group
    working/VOLUME           text, leased      the instance that creates the volume right now
    working/group/NAME       text, leased      ... that takes snapshots of the group right now
    order/HOST/VOLUME        "drop"            the host has not confirmed that its replicas are gone
    event/TIME-TOKEN         Event             the bounded log; revision is the key's

Every change that people see is one commit that also writes an event under a fresh key. The event is
also the receipt: when the answer of a commit is lost, the event's presence says that it happened.
"""

import asyncio
import logging
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from google.protobuf.message import Message

from blockd.meta.etcd import Entry, Etcd, Guard, Op, Put, SameLife, Unchanged
from blockd.model.errors import BlockdError, Busy, NotFound, ReadOnly, WriteUnresolved
from blockd.model.ids import is_id
from blockd.model.units import segment_count
from blockd.rpc.gen.types_pb2 import (
    VOLUME_STATE_CREATING,
    VOLUME_STATE_DELETING,
    Attachment,
    Event,
    Host,
    Segment,
    Volume,
)
from blockd.rpc.status import hinted

log = logging.getLogger("blockd.meta")

ROOT = "/blockd/v1/"
CLUSTER = ROOT + "cluster"
LEADER = ROOT + "leader"
META = ROOT + "meta/"
OPERATORS = ROOT + "operator/"
SITES = ROOT + "site/"
HOSTS = ROOT + "host/"
HOST_NAMES = ROOT + "host-name/"
ALIVE = ROOT + "alive/"
REPORTS = ROOT + "report/"
HOST_STATES = ROOT + "host-state/"
STORE_STATES = ROOT + "store-state/"
VOLUMES = ROOT + "volume/"
VOLUME_NAMES = ROOT + "volume-name/"
SEGMENTS = ROOT + "segment/"
DEGRADED = ROOT + "degraded/"
ATTACHMENTS = ROOT + "attachment/"
SNAPSHOTS = ROOT + "snapshot/"
SNAPSHOT_SETS = ROOT + "snapshots/"
SNAPSHOT_ATTACHMENTS = ROOT + "snapshot-attachment/"
GROUPS = ROOT + "group/"
WORKING = ROOT + "working/"
ORDERS = ROOT + "order/"
EVENTS = ROOT + "event/"

DROP = b"drop"
CONFLICTS_MAX = 8  # lost races before the caller is told to come back later

Record = TypeVar("Record", bound=Message)


@dataclass(frozen=True)
class Stored(Generic[Record]):
    """A record and the guard that it is still so."""

    value: Record
    key: str
    revision: int
    born_revision: int = 0

    @property
    def same_life(self) -> SameLife:
        """Guard: the record has not been deleted since it was read; it may have been written."""
        return SameLife(self.key, self.born_revision)

    @property
    def unchanged(self) -> Unchanged:
        """Guard: nobody has written the record since it was read."""
        return Unchanged(self.key, self.revision)


@dataclass(frozen=True)
class HostView:
    """A host as registered, and as it last reported; report is None when it is down, last what it
    then reported last, if it ever did."""

    host: Host
    report: Host | None
    last: Host | None = None

    @property
    def is_up(self) -> bool:
        """Whether its liveness lease lasts."""
        return self.report is not None


def segment_key(volume_id: str, index: int) -> str:
    """Keys sort as segments do."""
    return f"{SEGMENTS}{volume_id}/{index:06d}"


def degraded_key(volume_id: str, index: int) -> str:
    """See the table above."""
    return f"{DEGRADED}{volume_id}/{index:06d}"


def snapshot_key(volume_id: str, name: str) -> str:
    """See the table above."""
    return f"{SNAPSHOTS}{volume_id}/{name}"


def order_key(host_id: str, volume_id: str) -> str:
    """See the table above."""
    return f"{ORDERS}{host_id}/{volume_id}"


def last_part(key: str) -> str:
    """What stands after the last slash."""
    return key.rpartition("/")[2]


def decode(entry: Entry, kind: type[Record]) -> Stored[Record]:
    """The message in a key. Raises DecodeError only if somebody else wrote it."""
    return Stored(
        kind.FromString(entry.value), entry.key, entry.mod_revision, entry.create_revision
    )


def put(key: str, message: Message) -> Put:
    """The operation that stores `message`."""
    return Put(key, message.SerializeToString(deterministic=True))


def now_us() -> int:
    """Wall-clock microseconds, for people to read; nothing is decided by them."""
    return time.time_ns() // 1000


def conflict(what: str) -> BlockdError:
    """For a caller that lost too many races."""
    return Busy(f"{what} is being changed by others at the same time; try again")


class Records:
    """Typed access to etcd; stateless."""

    def __init__(self, etcd: Etcd) -> None:
        self.etcd = etcd

    async def commit(
        self,
        guards: Sequence[Guard],
        ops: Sequence[Op],
        kind: str,
        subject: str,
        message: str,
        details: Mapping[str, str] | None = None,
    ) -> bool:
        """Commit with an event. False: a guard failed, or the answer was lost and nothing seems
        done; read again and decide anew. Raises MetadataUnreachable."""
        event = Event(
            unix_us=now_us(), kind=kind, subject=subject, message=message, details=details or {}
        )
        receipt = put(f"{EVENTS}{event.unix_us:016x}-{secrets.token_hex(4)}", event)
        try:
            done = await self.etcd.commit(guards, [*ops, receipt]) is not None
        except WriteUnresolved as error:
            log.warning("%s of %s: %s", kind, subject, error)
            done = await self._has_receipt(receipt.key)
        if done:
            log.info("%s %s: %s", kind, subject, message)
        return done

    async def _has_receipt(self, key: str) -> bool:
        for pause_seconds in (0.0, 0.3):
            await asyncio.sleep(pause_seconds)
            if await self.etcd.get(key) is not None:
                return True
        return False

    async def hosts(self) -> dict[str, HostView]:
        """All hosts by id, as of one revision."""
        registered, alive, reported = await self.etcd.read_many([HOSTS, ALIVE, REPORTS])
        reports = {last_part(entry.key): decode(entry, Host).value for entry in alive}
        last = {last_part(entry.key): decode(entry, Host).value for entry in reported}
        return {
            host_id: HostView(decode(entry, Host).value, reports.get(host_id), last.get(host_id))
            for entry in registered
            for host_id in [last_part(entry.key)]
        }

    async def host_id(self, name_or_id: str) -> str:
        """Raises NotFound."""
        if is_id(name_or_id):
            entry = await self.etcd.get(HOSTS + name_or_id.lower())
            found = name_or_id.lower() if entry is not None else None
        else:
            entry = await self.etcd.get(HOST_NAMES + name_or_id)
            found = entry.value.decode() if entry is not None else None
        if found is None:
            raise hinted(NotFound(f"no host named {name_or_id!r}"), "blockctl host list")
        return found

    async def volume(self, name_or_id: str) -> Stored[Volume]:
        """The record without segments and attachment. Raises NotFound."""
        volume_id: str | None = name_or_id.lower() if is_id(name_or_id) else None
        if volume_id is None:
            entry = await self.etcd.get(VOLUME_NAMES + name_or_id)
            volume_id = entry.value.decode() if entry is not None else None
        found = await self.etcd.get(VOLUMES + volume_id) if volume_id is not None else None
        if found is None:
            raise hinted(NotFound(f"no volume named {name_or_id!r}"), "blockctl volume list")
        return decode(found, Volume)

    async def attachment(self, volume_id: str) -> Stored[Attachment]:
        """Always there for a volume that is. Raises NotFound."""
        entry = await self.etcd.get(ATTACHMENTS + volume_id)
        if entry is None:
            raise NotFound(f"the volume {volume_id} is gone")
        return decode(entry, Attachment)

    async def volume_by_id(self, volume_id: str) -> Stored[Volume] | None:
        """None: it is gone."""
        entry = await self.etcd.get(VOLUMES + volume_id)
        return decode(entry, Volume) if entry is not None else None

    async def attachments(self) -> dict[str, Attachment]:
        """Every volume's, by volume id."""
        entries = await self.etcd.scan(ATTACHMENTS)
        return {last_part(entry.key): decode(entry, Attachment).value for entry in entries}

    async def segments(self, volume: Volume) -> list[Stored[Segment]]:
        """Those that the volume's size needs, in order. Leftovers, of a failed growth or of what
        the volume shrank from, are not."""
        entries = await self.etcd.scan(f"{SEGMENTS}{volume.id}/")
        found = [decode(entry, Segment) for entry in entries]
        return [one for one in found if one.value.index < segment_count(volume.size_bytes)]

    async def volume_segments(self, volume_id: str) -> list[Segment]:
        """The same by the volume's id; none when it is gone."""
        entry = await self.etcd.get(VOLUMES + volume_id)
        if entry is None:
            return []
        return [stored.value for stored in await self.segments(decode(entry, Volume).value)]

    async def volumes_in_use(self) -> list[str]:
        """Ids of all volumes that are not being deleted."""
        entries = await self.etcd.scan(VOLUMES)
        volumes = [decode(entry, Volume).value for entry in entries]
        return [volume.id for volume in volumes if volume.state != VOLUME_STATE_DELETING]

    async def members(self, volume_id: str) -> set[str]:
        """Hosts that have, or may have, replicas of the volume; leftovers counted."""
        entries = await self.etcd.scan(f"{SEGMENTS}{volume_id}/")
        return {
            member.host_id for entry in entries for member in decode(entry, Segment).value.members
        }

    async def whole_volume(
        self, stored: Stored[Volume], hosts: Mapping[str, HostView] | None = None
    ) -> Volume:
        """The volume with segments, their hosts' names, and its attachment."""
        if hosts is None:
            hosts = await self.hosts()
        volume = Volume()
        volume.CopyFrom(stored.value)
        for segment in await self.segments(volume):
            volume.segments.append(named(segment.value, hosts))
        attachment = await self.etcd.get(ATTACHMENTS + volume.id)
        if attachment is not None:
            add_attachment(volume, decode(attachment, Attachment).value)
        volume.degraded = any(
            sum(member.in_sync for member in segment.members) < volume.policy.replicas
            for segment in volume.segments
        )
        return volume


def named(segment: Segment, hosts: Mapping[str, HostView]) -> Segment:
    """A copy with the names of hosts and sites, for people."""
    copy = Segment()
    copy.CopyFrom(segment)
    for member in copy.members:
        view = hosts.get(member.host_id)
        if view is not None:
            member.host_name, member.site = view.host.name, view.host.site
    return copy


def add_attachment(volume: Volume, attachment: Attachment) -> None:
    """Show an attachment that somebody holds; absent otherwise."""
    if attachment.host_id:
        volume.attachment.CopyFrom(attachment)


def check_available(volume: Volume) -> None:
    """Raises Busy, NotFound: the volume is not there yet, or not any more."""
    if volume.state == VOLUME_STATE_CREATING:
        raise Busy(f"volume {volume.name} is being created")
    if volume.state == VOLUME_STATE_DELETING:
        raise NotFound(f"volume {volume.name} is being deleted")


def check_writable(volume: Volume) -> None:
    """Raises Busy, NotFound, ReadOnly: it is a branch."""
    check_available(volume)
    if volume.HasField("branch"):
        raise hinted(
            ReadOnly(
                f"volume {volume.name} is branch {volume.branch.name} of "
                f"{volume.branch.volume_name}, which stays as it is"
            ),
            f"for a copy that can be written: blockctl volume snapshot create {volume.name} NAME, "
            f"then blockctl volume clone {volume.name} COPY --snapshot NAME",
        )


def check_sealed(volume: Volume) -> None:
    """Raises Busy: a branch that a resync may still add to."""
    if volume.HasField("branch") and not volume.branch.sealed:
        raise Busy(
            f"branch {volume.branch.name} of {volume.branch.volume_name} is being filled by a "
            "resync; it can be attached when that is over"
        )
