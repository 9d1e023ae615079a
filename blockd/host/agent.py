"""The host's dealings with the metadata service, and its independence of it.

Once registered the agent heartbeats, learns peers, carries out replica orders and takes its
attachments up again after a restart. While no metadata service answers it keeps trying and says so
every few seconds; attached volumes and replicas go on meanwhile. After any silence it registers
anew, because what it should hold may have changed.
"""

import asyncio
import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import version
from uuid import UUID

from blockd.host.attachments import Attachments
from blockd.host.metadata import MetadataClient
from blockd.host.read_members import ReadMembers
from blockd.host.replicas import Replicas
from blockd.host.snapshots import SnapshotExports, SnapshotSets
from blockd.host.space import SpaceWatch
from blockd.host.topology import Topology, store_message
from blockd.model.errors import (
    BlockdError,
    EpochFenced,
    MetadataUnreachable,
    NotAttached,
    NotFound,
    StoreForeign,
)
from blockd.model.ids import parse_id
from blockd.native import core as native
from blockd.rpc.gen import meta_pb2, types_pb2

log = logging.getLogger(__name__)

RELEASE = version("blockd")
HEARTBEAT_S = 1.0
COMPLAIN_EVERY_S = 5.0
RETRY_S = (0.2, 0.5, 1.0, 2.0)


@dataclass(frozen=True)
class Presence:
    """How this host presents itself."""

    host_id: UUID
    cluster_id: UUID
    name: str
    site: str
    grpc_endpoint: str
    peer_endpoint: str
    incarnation: int


class Complaint:
    """Says that something does not work, every few seconds, and once when it works again."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._last: float | None = None

    def failed(self, error: BlockdError) -> None:
        """Log the failure unless that has been done lately."""
        now = time.monotonic()
        if self._last is None or now - self._last >= COMPLAIN_EVERY_S:
            log.warning("%s: %s; still trying", self._what, error)
            self._last = now

    def worked(self) -> None:
        """Log the recovery, when there is something to recover from."""
        if self._last is not None:
            log.info("%s: works again", self._what)
            self._last = None


class Agent:
    """Keeps this host known and its duties done; used on the event loop only."""

    def __init__(
        self,
        me: Presence,
        core: native.Core,
        metadata: MetadataClient,
        topology: Topology,
        attachments: Attachments,
        replicas: Replicas,
        space: SpaceWatch,
        snapshot_sets: SnapshotSets,
        snapshot_exports: SnapshotExports,
        read_members: ReadMembers,
    ) -> None:
        self._me = me
        self._core = core
        self._metadata = metadata
        self._topology = topology
        self._attachments = attachments
        self._replicas = replicas
        self._space = space
        self._snapshot_sets = snapshot_sets
        self._snapshot_exports = snapshot_exports
        self._read_members = read_members
        self._renewals: dict[UUID, asyncio.Task[None]] = {}
        self.registered = asyncio.Event()

    async def run(self) -> None:
        """Until cancelled. Raises StoreForeign: the service is another cluster's."""
        complaint = Complaint("metadata service")
        try:
            while True:
                try:
                    if not self.registered.is_set():
                        await self._register()
                    else:
                        await self._heartbeat()
                    complaint.worked()
                except StoreForeign:
                    raise
                except BlockdError as error:
                    self.registered.clear()
                    complaint.failed(error)
                except Exception:  # a bug here must not end the volumes that are served
                    log.exception("the agent failed; it registers again")
                    self.registered.clear()
                await asyncio.sleep(HEARTBEAT_S)
        finally:
            for task in self._renewals.values():
                task.cancel()
            await asyncio.gather(*self._renewals.values(), return_exceptions=True)

    async def host_message(self) -> types_pb2.Host:
        """This host as the metadata service and clients see it."""
        me = self._me
        return types_pb2.Host(
            id=str(me.host_id),
            name=me.name,
            site=me.site,
            grpc_endpoint=me.grpc_endpoint,
            peer_endpoint=me.peer_endpoint,
            stores=await self._stores(),
            incarnation=me.incarnation,
            release=RELEASE,
            state=types_pb2.HOST_STATE_UP,
        )

    async def _stores(self) -> list[types_pb2.Store]:
        infos = await self._core.store_infos()
        return [store_message(info, self._space.look(info)) for info in infos]

    async def _register(self) -> None:
        exported = list(self._snapshot_exports.exported)
        answer = await self._metadata.register(await self.host_message())
        if parse_id(answer.cluster_id, "cluster") != self._me.cluster_id:
            raise StoreForeign(
                f"this host belongs to cluster {self._me.cluster_id}, "
                f"the metadata service to {answer.cluster_id}"
            )
        await self._topology.learn(answer.peers)
        await self._carry_out(answer.replicas, answer.deleted_volume_ids)
        await self._learn_snapshots(answer)
        if not self.registered.is_set():
            log.info("registered as %s at %s", self._me.name, self._me.site)
        self.registered.set()
        await self._take_up(answer.attached)
        await self._snapshot_exports.restore(
            answer.snapshots, self._metadata.get_view, known_before=exported
        )

    async def _heartbeat(self) -> None:
        stores = await self._stores()
        exported = dict(self._snapshot_exports.exported)
        answer = await self._metadata.heartbeat(
            meta_pb2.HeartbeatRequest(
                host_id=str(self._me.host_id),
                incarnation=self._me.incarnation,
                stores=stores,
                snapshots_revision=self._snapshot_sets.revision,
                reads=self._read_members.wanted(),
                exported_snapshot_ids=map(str, exported),
            )
        )
        if answer.unknown_host:
            log.info("the metadata service does not know this host (any more)")
            self.registered.clear()
            return
        await self._topology.learn(answer.peers)
        await self._read_members.learn(answer.reads)
        for text in answer.ended_snapshot_ids:  # released by force, while this host did not answer
            snapshot_id = parse_id(text, "snapshot")
            self._snapshot_exports.end(snapshot_id, exported[snapshot_id])
        await self._carry_out(answer.replicas, answer.deleted_volume_ids)
        await self._learn_snapshots(answer)

    async def _learn_snapshots(
        self, answer: meta_pb2.RegisterHostResponse | meta_pb2.HeartbeatResponse
    ) -> None:
        """What stores could not be told now comes again with the next answer."""
        try:
            await self._snapshot_sets.learn(answer.snapshot_sets, answer.snapshots_revision)
        except BlockdError as error:
            log.warning("stores could not be told which snapshots there are: %s", error)

    async def _carry_out(
        self, orders: Iterable[meta_pb2.ReplicaOrder], deleted_volume_ids: Iterable[str]
    ) -> None:
        """Replica orders that came with an answer; a failure of one keeps nothing else."""
        for volume_id in deleted_volume_ids:
            try:
                await self._replicas.drop_volume(parse_id(volume_id, "volume"))
            except BlockdError as error:
                log.warning("drop of volume %s: %s", volume_id, error)
        for order in orders:
            try:
                await self._replicas.ensure([order])
            except BlockdError as error:
                log.warning("replica of volume %s: %s", order.volume_id, error)

    async def _take_up(self, attached: Iterable[types_pb2.Volume]) -> None:
        """Compare the attachments held in the record with the engines that run."""
        recorded = {parse_id(volume.id, "volume"): volume for volume in attached}
        for volume_id, volume in recorded.items():
            # One that is being attached right now has its epoch already.
            if volume_id not in self._attachments.held and not self._attachments.is_busy(volume_id):
                self._renew(volume_id, volume.name, volume.attachment.epoch)
        for volume_id in list(self._attachments.held):
            if volume_id not in recorded:
                await self.check_holding(volume_id)

    def _renew(self, volume_id: UUID, name: str, epoch: int) -> None:
        if volume_id not in self._renewals:
            task = asyncio.create_task(self._renew_until_done(volume_id, name, epoch))
            self._renewals[volume_id] = task
            task.add_done_callback(lambda _: self._renewals.pop(volume_id, None))

    async def _renew_until_done(self, volume_id: UUID, name: str, epoch: int) -> None:
        """Attach again under a new epoch, until it works or the attachment is not ours."""
        complaint = Complaint(f"attachment of {name}")
        attempt = 0
        while volume_id not in self._attachments.held:
            try:
                answer = await self._metadata.renew_attachment(
                    str(volume_id), str(self._me.host_id), epoch
                )
                epoch = answer.volume.attachment.epoch
                await self._attachments.attach(answer.volume, answer.bases)
                await self._catch_up(volume_id)
                complaint.worked()
            except (NotAttached, NotFound):
                log.info("volume %s is no longer attached here", name)
                return
            except EpochFenced:
                latest = await self._latest_epoch(volume_id)
                if latest is None:
                    log.info("volume %s is attached elsewhere now", name)
                    return
                epoch = latest
            except BlockdError as error:
                complaint.failed(error)
            except Exception:
                log.exception("taking %s up again failed; it is tried again", name)
            await asyncio.sleep(RETRY_S[min(attempt, len(RETRY_S) - 1)])
            attempt += 1

    async def _catch_up(self, volume_id: UUID) -> None:
        """A snapshot that was taken between the renewal and the opening found no engine here to
        tell (blockd/meta/snapshots.py): so look, now that there is one."""
        try:
            volume = await self._metadata.get_volume(str(volume_id))
            if volume.era > self._attachments.get(volume_id).era:
                await self._attachments.begin_era(volume_id, volume.era)
        except BlockdError as error:  # the leader asks for what is not final
            log.info("whether a snapshot of %s was taken meanwhile: %s", volume_id, error)

    async def _latest_epoch(self, volume_id: UUID) -> int | None:
        """The epoch of the attachment while it is this host's; 0 when nobody answers, else None."""
        try:
            volume = await self._metadata.get_volume(str(volume_id))
        except NotFound:
            return None
        except BlockdError:
            return 0
        mine = volume.attachment.host_id == str(self._me.host_id)
        return volume.attachment.epoch if mine else None

    async def check_holding(self, volume_id: UUID) -> None:
        """End the engine of a volume whose attachment is not this host's (any more)."""
        try:
            volume = await self._metadata.get_volume(str(volume_id))
            mine = volume.attachment.host_id == str(self._me.host_id)
        except NotFound:
            mine = False
        except MetadataUnreachable:
            return  # the attached volume goes on; fencing does not depend on this
        held = self._attachments.held.get(volume_id)
        if held is not None and not mine:
            log.warning("volume %s was taken from this host; its engine ends", held.name)
            await self._attachments.detach(volume_id)
