"""The native data plane of one host, as asyncio sees it.

One `Core` owns one reactor thread. Every coroutine hands a command to that thread and wakes when
its completion is reaped through an eventfd; none holds the GIL while the core works. Errors are
raised as the classes of `blockd.model.errors` (one table: cext/include/blockd/errors.def). Offsets,
lengths and sizes are bytes, times microseconds, ids `uuid.UUID`. A cancelled call goes on natively;
what it was lent stays pinned until it is done there.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any
from uuid import UUID

from typing_extensions import Buffer

from blockd.native.values import BaseSpec as BaseSpec
from blockd.native.values import BlockLocation as BlockLocation
from blockd.native.values import ChunkDigest as ChunkDigest
from blockd.native.values import ChunkView as ChunkView
from blockd.native.values import DeviceFindings as DeviceFindings
from blockd.native.values import Event as Event
from blockd.native.values import InSyncChangeWanted as InSyncChangeWanted
from blockd.native.values import Member as Member
from blockd.native.values import Notice as Notice
from blockd.native.values import ReplicaInfo as ReplicaInfo
from blockd.native.values import ScrubCursor as ScrubCursor
from blockd.native.values import ScrubFinding as ScrubFinding
from blockd.native.values import ScrubReport as ScrubReport
from blockd.native.values import Segment as Segment
from blockd.native.values import SegmentStatus as SegmentStatus
from blockd.native.values import SnapshotSpec as SnapshotSpec
from blockd.native.values import StoreInfo as StoreInfo
from blockd.native.values import VolumeSpec as VolumeSpec
from blockd.native.values import VolumeStateChanged as VolumeStateChanged

def format_store(
    path: str,
    *,
    store_id: UUID,
    cluster_id: UUID,
    size_bytes: int | None = None,
    journal_bytes: int = 0,
    force: bool = False,
    findings: DeviceFindings | None = None,
    power_loss_protected: bool = False,
    incarnation: int = 0,
) -> None:
    """Create (a file, when size_bytes is given) and format a store; blocking. Its openings have
    numbers above `incarnation`.

    Raises StoreTooSmall, StoreInUse, DiskError, AlreadyExists: a store is there, or with size_bytes
    any file; force overwrites it. A file made here is removed again when formatting fails. What
    was found of the device is kept in the superblock.
    """

def check_store(path: str, *, data: bool = False, repair: bool = False) -> dict[str, Any]:
    """The report of cext/store/checker.h on a store that is not open; blocking.

    data: also reads every stored block. Nothing is written, but by repair. Raises StoreInUse,
    StoreNotFormatted, StoreTooNew, NotFound, DiskError (a repair's write failed).
    """

def dump_store(
    path: str,
    *,
    superblock: bool = False,
    checkpoint: bool = False,
    segments: bool = False,
    journal: bool = False,
    chunks_of: tuple[UUID, int] | None = None,
) -> dict[str, list[dict[str, Any]]]:
    """What the store keeps on its device (cext/store/dump.h), a key for each thing asked for;
    blocking.

    chunks_of: volume and index of the segment whose slot records are wanted. Raises as
    check_store, and StoreDamaged, NotFound (no such segment).
    """

def look_at_store(path: str, *, cluster_id: UUID) -> tuple[StoreInfo, list[ReplicaInfo]]:
    """The store and its replicas as a Core that opened it would list them; nothing is written.
    Blocking. Raises as Core.open_store()."""

class Core:
    def __init__(
        self,
        *,
        host_id: UUID,
        cluster_id: UUID,
        buffer_bytes: int = 256 << 20,
        lease_us: int = 1_000_000,
        heartbeat_us: int = 200_000,
        member_timeout_us: int = 1_000_000,
        attach_timeout_us: int = 30_000_000,
        wire_version_max: int = 0,
        rebuild_bytes_per_second: int = 0,
        spin_us: int = 0,
        cpu: int | None = None,
    ) -> None: ...
    async def start(self) -> None: ...
    async def close(self) -> None:
        """Close exports, volumes and stores in that order, then end the thread.

        Idempotent; a core that is dropped without it warns (ResourceWarning) and closes, blocking.
        """

    # Stores and replicas.
    async def open_store(self, path: str, *, newest: Mapping[UUID, int] | None = None) -> StoreInfo:
        """newest: by store, the newest incarnation that is known of; the answer's is beyond it.

        Raises OlderCopy, having written nothing: the store has replicas and has not seen that
        opening.
        """

    async def close_store(self, store_id: UUID) -> None: ...
    async def flush_store(self, store_id: UUID) -> None:
        """Raises NotFound, and what the store's device failed with."""
    async def store_infos(self) -> list[StoreInfo]: ...
    async def create_replica(
        self, store_id: UUID, volume_id: UUID, segment: int, block_count: int
    ) -> None:
        """Idempotent: a replica that is there is left alone, or grown when it is shorter.

        Raises NotFound: no such store, AlreadyExists: another store here has it, NoSpace.
        """

    async def drop_replica(self, volume_id: UUID, segment: int) -> None: ...
    async def list_replicas(self) -> list[ReplicaInfo]: ...
    async def list_digests(
        self, volume_id: UUID, segment: int, *, read: bool = False
    ) -> list[ChunkDigest]:
        """Every stored chunk of the local replica. With read, each block is read from the device
        and checked against its CRC-32C first (raises ChecksumMismatch)."""

    async def locate(self, volume_id: UUID, segment: int, block: int) -> BlockLocation: ...
    async def set_snapshots(
        self, volume_id: UUID, known_below: int, eras: Sequence[int], uncovered_below: int = 0
    ) -> None:
        """Which snapshots the volume has, for every store open here now or later.

        Eras from known_below on count as snapshots whether in `eras` or not; the past that no
        snapshot shows is given back. Empty chunks that were kept to cover a base are let go when
        born before uncovered_below. What a call says replaces what the one before it said.
        """

    async def changed_chunks(
        self, volume_id: UUID, segment: int, from_view: ChunkView | None, to_view: ChunkView
    ) -> list[int]:
        """Chunks of the segment that the two views show differently, ascending, as the local
        replica has them; from_view None: all that to_view shows.

        Raises NotFound: no replica here, StoreDamaged: its store has lost metadata.
        """

    # Scrubs and repairs.
    async def start_scrub(
        self,
        store_id: UUID,
        rate_bytes: int,
        *,
        cursor: ScrubCursor | None = None,
        chunks_done: int = 0,
    ) -> None:
        """Read every stored block from the cursor on, rate_bytes a second at most. One that runs
        begins anew. chunks_done: how many are behind the cursor already."""

    async def stop_scrub(self, store_id: UUID) -> None: ...
    async def scrub_reports(self) -> list[ScrubReport]:
        """Of the stores that were scrubbed since the core's start."""

    async def repair_chunk(
        self, volume_id: UUID, segment: int, chunk: int, host_id: UUID, *, born: int = 0
    ) -> None:
        """Rewrite a chunk at one member of a volume attached here from another member; with `born`
        the content of that era, which only snapshots show.

        Raises NotAttached; NotFound: no such member; NotInSync: the member is being resynced or is
        lost, or the other has not that past content; ChecksumMismatch: no other member in sync can
        read the chunk.
        """

    # Peers.
    async def listen_peers(self, endpoint: str) -> str: ...
    async def set_peer(self, host_id: UUID, endpoint: str) -> None: ...

    # Volumes attached here.
    async def attach(self, spec: VolumeSpec) -> int:
        """Start the engine; returns when every segment serves: the era that it is in, the spec's or
        the newest that a member's store has met.

        Raises InvalidArgument, AlreadyExists: attached here, EpochFenced, ShuttingDown: detached
        meanwhile, and after attach_timeout_us the last obstacle met (LeaseHeld, QuorumLost, ...),
        else Timeout. A volume that could not be attached is gone again. With a base: when that can
        be read as well; its hosts must have been named with set_peer().
        """

    async def attach_snapshot(self, spec: SnapshotSpec) -> None:
        """Make a snapshot readable under its own id, for nbd_export(), read() and detach().

        Needs no lease and no engine. Returns at once, or, with a base, when that can be read.
        Mutations raise ReadOnly. Raises InvalidArgument, AlreadyExists, and as attach() does.
        """

    async def detach(self, volume_id: UUID) -> int:
        """Returns the era that the engine ended in, 0 of a snapshot."""

    async def in_sync_changed(self, volume_id: UUID, segment: Segment) -> None: ...
    async def in_sync_change_failed(self, volume_id: UUID, segment: int, error: str) -> None: ...
    async def grow(
        self, volume_id: UUID, size_bytes: int, new_segments: Sequence[Segment]
    ) -> None: ...
    async def shrink(self, volume_id: UUID, size_bytes: int) -> None:
        """Requests behind the new end are refused from now on. Returns when those under way have
        been answered and what lies there is gone, durably and on all members.

        Raises NotAttached, InvalidArgument: larger than it is, Busy; QuorumLost, EpochFenced,
        ShuttingDown: the size stays, and part of what was there may be gone.
        """

    async def volume_status(self, volume_id: UUID) -> list[SegmentStatus]: ...
    async def begin_era(self, volume_id: UUID, era: int) -> int:
        """Mutations are of `era` from now on (a lower one changes nothing). Returns when all of
        earlier eras have left the engine: the snapshot of era - 1 is final if the engine's era,
        which is returned, is one that the metadata knows of.

        Raises NotAttached, ShuttingDown, EpochFenced.
        """

    async def hold_mutations(self, volume_id: UUID, for_us: int) -> None:
        """No mutation begins for so long, or until the call with 0; those that come wait."""

    async def flatten(self, volume_id: UUID, bytes_per_second: int) -> None:
        """Copy up what still shows the base, beside other requests; returns when nothing does and
        all of it is durable, at once when there is no base.

        A second call changes the rate. Raises ShuttingDown: detached meanwhile, and whatever
        failed a copy; what was copied stays copied.
        """

    async def members_changed(self, volume_id: UUID, segment: Segment) -> None:
        """The segment's replicas have moved, or others are in sync: whoever reads a snapshot of
        that volume here (an attached one, the base of another volume) asks those from now on.

        in_sync_changed() says it, too, of a volume that is attached here.
        """

    async def set_branch(self, volume_id: UUID, host_id: UUID, branch_id: UUID) -> None:
        """What a resync would take from a member at that host of the volume goes to the volume
        `branch_id` first. Both are attached here; when one no longer is, that is over.

        Until it is said the engine asks for it, with the notice "branch-wanted".
        """

    # NBD: a server is a listening endpoint; it offers the volumes exported on it.
    async def nbd_listen(self, endpoint: str) -> str:
        """Listen on "unix:/path" or "tcp:host:port"; returns the bound endpoint.

        Raises AddressInUse, InvalidArgument.
        """

    async def nbd_close(self, endpoint: str) -> None: ...
    async def nbd_export(
        self, volume_id: UUID, name: str, *, description: str = "", read_only: bool = False
    ) -> None:
        """Offer an attached volume or snapshot under `name` at every NBD endpoint of this core; a
        snapshot is read-only, whatever is asked for."""

    async def nbd_unexport(self, name: str) -> None: ...

    # I/O for VolumeIO; any alignment and length.
    async def read(self, volume_id: UUID, offset: int, length: int) -> bytes: ...
    async def write(
        self, volume_id: UUID, offset: int, data: Buffer, *, fua: bool = False
    ) -> None: ...
    async def flush(self, volume_id: UUID) -> None: ...
    async def trim(
        self, volume_id: UUID, offset: int, length: int, *, fua: bool = False
    ) -> None: ...
    async def write_zeroes(
        self, volume_id: UUID, offset: int, length: int, *, fua: bool = False
    ) -> None: ...
    async def stats(self) -> dict[str, object]:
        """{"stores": {store_id: {counter: int}}, "volumes": {volume_id: {counter: int,
        "read_latency_us": [bucket counts], "write_latency_us": [...], "flush_latency_us": [...]}},
        "nbd": {"connections": int, "requests": int, ...}, "reactor": {"iterations": int,
        "syscalls": int}}. A volume's base_chunks still show its base. Latency bucket i counts
        requests that took [2^i, 2^(i+1)) us."""

    def events(self) -> AsyncIterator[Event]:
        """Events in order; one consumer. Ends when the core is closed.

        Of events that nobody takes the newest 65536 are kept: what the engine wants it asks for
        again, and each state replaces the one before.
        """
