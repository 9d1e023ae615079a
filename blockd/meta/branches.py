"""Branches: where a volume's engine keeps what a resync would take from a member, and the volume's
history has not (docs/REPLICATION.md, B).

A branch is a volume of its own over a snapshot of the other one, placed like any volume of that
policy. It is attached at the engine that adds to it, without its base and not exported, until it is
sealed; from then on whoever attaches it reads it. Whatever is left half-done by an instance that
dies is a snapshot that the next try uses or the leader deletes, a creation that the leader undoes,
or a branch that is not sealed, which the leader seals.
"""

import contextlib
import logging

from blockd.meta.attachments import Attachments
from blockd.meta.bases import base_on
from blockd.meta.context import Instance
from blockd.meta.deletions import Deletions
from blockd.meta.etcd import Delete
from blockd.meta.records import (
    CONFLICTS_MAX,
    VOLUME_NAMES,
    VOLUMES,
    WORKING,
    Stored,
    check_available,
    conflict,
    decode,
    now_us,
    put,
)
from blockd.meta.snapshot_records import SnapshotRecords
from blockd.meta.snapshots import Snapshots
from blockd.meta.volumes import Parent, Volumes
from blockd.model.errors import (
    BlockdError,
    EpochFenced,
    InUse,
    NotFound,
    PolicyUnsatisfiable,
)
from blockd.model.ids import parse_id
from blockd.rpc.gen.meta_pb2 import (
    AttachVolumeRequest,
    CreateVolumeRequest,
    OpenBranchRequest,
    OpenBranchResponse,
    SealBranchRequest,
)
from blockd.rpc.gen.types_pb2 import (
    VOLUME_STATE_AVAILABLE,
    Attachment,
    Branch,
    Policy,
    Snapshot,
    Volume,
)
from blockd.rules.branches import BRANCH_PREFIX, branch_name, branch_volume_name
from blockd.rules.in_sync import check_epoch
from blockd.rules.volume_spec import IO_TIMEOUT_MS_MIN

log = logging.getLogger("blockd.meta")

NAMES_MAX = 1000
LEFT_SECONDS = 60.0  # a branch that is attached nowhere for so long after its creation


class Branches:
    """Stateless; every call reads etcd."""

    def __init__(self, instance: Instance, volumes: Volumes, attachments: Attachments) -> None:
        self._records = instance.records
        self._etcd = instance.records.etcd
        self._volumes = volumes
        self._deletions = Deletions(instance)
        self._attachments = attachments
        self._snapshots = Snapshots(instance)
        self._taken = SnapshotRecords(instance.records)

    async def open(self, request: OpenBranchRequest) -> OpenBranchResponse:
        """The branch to keep things in, attached at the holder of the volume. Raises EpochFenced,
        NotAttached: the caller is not that; PolicyUnsatisfiable: no host can have a replica; Busy,
        and what a host raised: not now."""
        volume_id = str(parse_id(request.volume_id, "volume_id"))
        member_id = str(parse_id(request.host_id, "host_id"))
        stored = await self._records.volume(volume_id)
        check_available(stored.value)
        held = await self._records.attachment(volume_id)
        check_epoch(request.epoch, held.value.epoch, is_attached=bool(held.value.host_id))
        known = await self._unsealed(volume_id, member_id)
        fits = known is not None and known.size_bytes >= stored.value.size_bytes
        if known is not None and (request.fresh or not fits):
            await self._seal(known)
            known = None
        is_new = known is None
        if known is None:
            known = await self._create(stored, member_id, int(request.writer_epoch))
        await self._attachments.attach(
            AttachVolumeRequest(name_or_id=known.id, host=held.value.host_id, force=True),
            preserving=True,
        )
        return OpenBranchResponse(branch=await self._volumes.get(known.id), is_new=is_new)

    async def _unsealed(self, volume_id: str, host_id: str) -> Volume | None:
        for volume in await self._all():
            branch = volume.branch
            if (branch.volume_id, branch.host_id) == (volume_id, host_id) and not branch.sealed:
                return volume
        return None

    async def _all(self) -> list[Volume]:
        """Those that are there, and not on their way."""
        found = [decode(entry, Volume).value for entry in await self._etcd.scan(VOLUMES)]
        return [
            one for one in found if one.HasField("branch") and one.state == VOLUME_STATE_AVAILABLE
        ]

    async def _create(self, stored: Stored[Volume], member_id: str, writer_epoch: int) -> Volume:
        host = (await self._records.hosts()).get(member_id)
        if host is None:
            raise NotFound(f"no host with the id {member_id}", field="host_id")
        name = await self._free_name(stored.value, writer_epoch)
        snapshot = await self._snapshot(stored.value, name)
        branch = Branch(
            volume_id=stored.value.id,
            volume_name=stored.value.name,
            name=name,
            host_id=member_id,
            host_name=host.host.name,
            epoch=writer_epoch,
        )
        parent = Parent(snapshot, base_on(snapshot.value, since=1), branch)
        for replicas in range(stored.value.policy.replicas, 0, -1):
            try:
                return await self._volumes.create(_request(stored.value, name, replicas), parent)
            except PolicyUnsatisfiable:
                if replicas == 1:
                    raise
        raise conflict(f"the branches of {stored.value.name}")

    async def _free_name(self, volume: Volume, writer_epoch: int) -> str:
        for number in range(1, NAMES_MAX):
            name = branch_name(writer_epoch, number)
            if await self._etcd.get(VOLUME_NAMES + branch_volume_name(volume.name, name)) is None:
                return name
        raise InUse(f"volume {volume.name} has {NAMES_MAX} branches of epoch {writer_epoch}")

    async def _snapshot(self, volume: Volume, name: str) -> Stored[Snapshot]:
        """What the branch stands on; perhaps left by a try that came to nothing. Nobody reads it
        before the branch is sealed, so it need not be final yet."""
        with contextlib.suppress(NotFound):
            return await self._taken.named(volume, name)
        await self._snapshots.take(volume.id, name)
        return await self._taken.named(volume, name)

    # Sealing.

    async def seal(self, request: SealBranchRequest) -> None:
        """Nothing is added any more. Raises NotFound, and what its holder raised; EpochFenced: the
        caller's engine is not the one that adds to it, and does not know what others have added."""
        branch_id = str(parse_id(request.branch_id, "branch_id"))
        volume = (await self._records.volume(branch_id)).value
        await self._seal(volume, int(request.epoch))
        if request.empty:
            await self.delete(branch_id)

    async def _seal(self, volume: Volume, epoch: int = 0) -> None:
        """On record first: a holder that dies in between is released by the next call. epoch: of
        the attachment that it is to have; 0: any."""
        for _ in range(CONFLICTS_MAX):
            stored = await self._records.volume(volume.id)
            held = await self._records.attachment(volume.id)
            if epoch not in (0, held.value.epoch):
                raise EpochFenced(
                    f"branch {volume.name} is attached under epoch {held.value.epoch}, not {epoch}",
                    current=held.value.epoch,
                )
            if stored.value.branch.sealed or await self._commit_sealed(stored, held):
                return await self._attachments.detach(volume.id, force=True)
        raise conflict(f"branch {volume.name}")

    async def _commit_sealed(self, stored: Stored[Volume], held: Stored[Attachment]) -> bool:
        volume = Volume()
        volume.CopyFrom(stored.value)
        volume.branch.sealed = True
        branch = volume.branch
        return await self._records.commit(
            [stored.unchanged, held.unchanged],
            [put(stored.key, volume), Delete(WORKING + volume.id)],
            "branch.sealed",
            f"volume/{branch.volume_name}",
            f"branch {branch.name} of {branch.volume_name} has what {branch.host_name} had and the "
            "volume has not; it can be attached, read-only",
            {"volume_id": branch.volume_id, "branch": branch.name, "branch_id": volume.id},
        )

    async def seal_left(self) -> None:
        """The leader's: those whose holder is gone, or that never had one."""
        hosts = await self._records.hosts()
        for volume in await self._all():
            if volume.branch.sealed:
                continue
            held = (await self._records.attachment(volume.id)).value
            view = hosts.get(held.host_id)
            age_seconds = (now_us() - volume.created_unix_us) / 1e6
            if (view is not None and view.is_up) or age_seconds < LEFT_SECONDS:
                continue
            try:
                await self._seal(volume)
            except BlockdError as error:
                log.info("branch %s is not sealed: %s", volume.name, error)

    async def drop_left(self) -> None:
        """The leader's: snapshots that a branch was to stand on, or stood on, and none does."""
        volumes = [decode(entry, Volume).value for entry in await self._etcd.scan(VOLUMES)]
        stood_on = {one.base.snapshot_id for one in volumes}
        for snapshot in await self._taken.all():
            age_seconds = (now_us() - snapshot.created_unix_us) / 1e6
            of_branch = snapshot.name.startswith(BRANCH_PREFIX)
            if not of_branch or snapshot.id in stood_on or age_seconds < LEFT_SECONDS:
                continue
            with contextlib.suppress(NotFound, InUse):
                await self._snapshots.delete(snapshot.volume_id, snapshot.name)

    # Deletion, of any volume.

    async def delete(self, name_or_id: str) -> list[str]:
        """As Deletions.delete(); with a branch goes the snapshot that it stood on."""
        volume = (await self._records.volume(name_or_id)).value
        waiting = await self._deletions.delete(name_or_id)
        if volume.HasField("branch"):
            with contextlib.suppress(NotFound, InUse):
                await self._snapshots.delete(volume.branch.volume_id, volume.branch.name)
        return waiting


def _request(volume: Volume, name: str, replicas: int) -> CreateVolumeRequest:
    """A write to it that finds no quorum fails soon: the resync waits for it."""
    return CreateVolumeRequest(
        name=branch_volume_name(volume.name, name),
        size_bytes=volume.size_bytes,
        policy=Policy(replicas=replicas, min_in_sync=1, io_timeout_ms=IO_TIMEOUT_MS_MIN),
        tenant=volume.tenant,
    )
