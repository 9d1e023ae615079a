"""Branches that the engines of this host fill: what a resync would take from a member, and the
volume's history has not (docs/REPLICATION.md, B).

An engine asks again and again until it is given one, so nothing is retried here. A branch is sealed
when the resyncs of its host are over, or when the engine that filled it is not here any more; one
that nobody here knows of, after a restart, is sealed as well.
"""

import asyncio
import logging
import time
from dataclasses import dataclass
from uuid import UUID

from blockd.host.attachments import Attachments
from blockd.host.metadata import MetadataClient
from blockd.host.reports import Reports
from blockd.host.topology import Topology
from blockd.model.errors import BlockdError, EpochFenced, MetadataUnreachable, NotAttached, NotFound
from blockd.model.ids import parse_id
from blockd.model.units import format_size
from blockd.native import core as native
from blockd.rpc.gen import meta_pb2

log = logging.getLogger(__name__)

WANTED, TAKEN, USED = "branch-wanted", "branch-taken", "branch-used"
PRESERVED = "writes-preserved"
KINDS = (WANTED, TAKEN, USED, PRESERVED)
LOOK_S = 1.0
QUIET_S = 5.0  # without a resync of that host before a branch is sealed
TELL_AGAIN_S = 300.0

Member = tuple[UUID, UUID]  # a volume, and the host of some of its replicas


@dataclass
class Filled:
    """A branch that an engine here fills."""

    branch_id: UUID
    name: str
    epoch: int  # of the volume's attachment
    branch_epoch: int  # of the branch's, here
    used: bool  # it may have something
    is_closed: bool = False  # nothing can be added here
    quiet_since: float = 0.0


class Branches:
    """Used on the event loop only."""

    def __init__(
        self,
        core: native.Core,
        metadata: MetadataClient,
        attachments: Attachments,
        topology: Topology,
        reports: Reports,
    ) -> None:
        self._core = core
        self._metadata = metadata
        self._attachments = attachments
        self._topology = topology
        self._reports = reports
        self._filled: dict[Member, Filled] = {}
        self._opening: dict[Member, asyncio.Task[None]] = {}
        self._fresh: set[Member] = set()
        self._told: dict[Member, float] = {}

    def notice(self, event: native.Notice) -> None:
        """What the core says; one of KINDS."""
        member = (event.volume_id, event.host_id)
        if event.kind == PRESERVED:
            self._preserved(event)
        elif event.kind == TAKEN:
            self._fresh.add(member)
        elif event.kind == USED:
            self._used(member)
        elif member not in self._opening:
            task = asyncio.create_task(self._open(member, event.value))
            self._opening[member] = task
            task.add_done_callback(lambda _: self._opening.pop(member, None))

    def _used(self, member: Member) -> None:
        if member in self._filled:
            self._filled[member].used = True

    def _preserved(self, event: native.Notice) -> None:
        filled = self._filled.get((event.volume_id, event.host_id))
        branch = filled.name if filled is not None else "unknown"
        host = self._host(event.host_id)
        self._reports.tell(
            "writes.preserved",
            f"segment {event.segment}: {format_size(event.value)} that {host} had, and the volume "
            f"has not, are kept in branch {branch}",
            volume_id=event.volume_id,
            segment=str(event.segment),
            bytes=str(event.value),
            branch=branch,
            replica_host=host,
            replica_host_id=str(event.host_id),
        )

    def _host(self, host_id: UUID) -> str:
        return self._topology.names.get(host_id, str(host_id))

    async def _open(self, member: Member, writer_epoch: int) -> None:
        volume_id, host_id = member
        try:
            epoch = self._attachments.epoch(volume_id)
            answer = await self._metadata.open_branch(
                meta_pb2.OpenBranchRequest(
                    volume_id=str(volume_id),
                    epoch=epoch,
                    host_id=str(host_id),
                    writer_epoch=writer_epoch,
                    fresh=member in self._fresh,
                )
            )
            volume = answer.branch
            branch_id = parse_id(volume.id, "branch")
            branch_epoch = self._attachments.epoch(branch_id)
            self._filled[member] = Filled(
                branch_id, volume.branch.name, epoch, branch_epoch, used=not answer.is_new
            )
            self._fresh.discard(member)
            await self._core.set_branch(volume_id, host_id, branch_id)
            log.info("branch %s keeps what a resync would take", volume.name)
        except (NotAttached, NotFound, EpochFenced) as error:
            log.info("no branch of %s: %s", volume_id, error)
        except BlockdError as error:
            self._tell_failure(member, error)

    def _tell_failure(self, member: Member, error: BlockdError) -> None:
        host = self._host(member[1])
        log.warning("a resync of %s waits for a branch: %s", host, error)
        now = time.monotonic()
        if isinstance(error, MetadataUnreachable) or now < self._told.get(member, 0.0):
            return
        self._told[member] = now + TELL_AGAIN_S
        self._reports.tell(
            "branch.blocked",
            f"a resync waits: what {host} has, and the volume has not, cannot be kept: "
            f"{error.message}",
            volume_id=member[0],
            replica_host=host,
            replica_host_id=str(member[1]),
        )

    async def run(self) -> None:
        """Until cancelled: seal what is filled."""
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                await self._look()
            except BlockdError as error:
                log.warning("sealing branches: %s; still trying", error)
            except Exception:
                log.exception("sealing branches failed; it is tried again")

    async def _look(self) -> None:
        for member, filled in list(self._filled.items()):
            if not await self._is_over(member):
                continue
            if not filled.used and not filled.is_closed:
                # Nothing comes any more after this; what came until now is heard by the next look.
                await self._attachments.detach(filled.branch_id)
                filled.is_closed = True
                continue
            await self._seal(filled.branch_id, filled.branch_epoch, empty=not filled.used)
            if self._filled.get(member) is filled:
                del self._filled[member]
        known = {filled.branch_id for filled in self._filled.values()}
        for held in list(self._attachments.held.values()):
            if held.is_filled and held.volume_id not in known and not self._opening:
                await self._seal(held.volume_id, held.epoch, empty=False)

    async def _seal(self, branch_id: UUID, epoch: int, *, empty: bool) -> None:
        """EpochFenced: it went to another engine, which may have kept something in it."""
        try:
            await self._metadata.seal_branch(
                meta_pb2.SealBranchRequest(branch_id=str(branch_id), empty=empty, epoch=epoch)
            )
        except (NotFound, EpochFenced):
            await self._attachments.detach(branch_id, epoch)

    async def _is_over(self, member: Member) -> bool:
        filled = self._filled[member]
        volume = self._attachments.held.get(member[0])
        if volume is None or volume.epoch != filled.epoch:
            return True
        try:
            segments = await self._core.volume_status(member[0])
        except NotAttached:
            return True
        now = time.monotonic()
        if filled.quiet_since == 0.0 or any(member[1] in one.joining for one in segments):
            filled.quiet_since = now
        return now >= filled.quiet_since + QUIET_S

    async def close(self) -> None:
        """The next daemon seals what this one has filled."""
        tasks = list(self._opening.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
