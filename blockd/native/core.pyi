"""The native data plane of one host, as asyncio sees it.

One `Core` owns one reactor thread. Every coroutine hands a command to that thread and wakes when its
completion is reaped through an eventfd; none holds the GIL while the core works. Errors are raised as
the classes of `blockd.model.errors` (one table: cext/include/blockd/errors.def). Offsets, lengths and
sizes are bytes, times microseconds, ids `uuid.UUID`.
"""

from collections.abc import AsyncIterator, Buffer, Sequence
from dataclasses import dataclass
from uuid import UUID

@dataclass(frozen=True)
class StoreInfo:
    store_id: UUID
    path: str
    capacity_bytes: int
    allocated_bytes: int
    journal_bytes: int
    journal_used_bytes: int
    segment_count: int

@dataclass(frozen=True)
class ReplicaInfo:
    volume_id: UUID
    segment: int
    store_id: UUID
    block_count: int
    promised_epoch: int
    stable: tuple[int, int]
    chunk_count: int

@dataclass(frozen=True)
class Member:
    host_id: UUID
    store_id: UUID
    distance: int
    in_sync: bool

@dataclass(frozen=True)
class Segment:
    index: int
    generation: int
    members: tuple[Member, ...]

@dataclass(frozen=True)
class VolumeSpec:
    volume_id: UUID
    name: str
    size_bytes: int
    epoch: int
    min_in_sync: int
    segments: tuple[Segment, ...]

@dataclass(frozen=True)
class SegmentStatus:
    index: int
    generation: int
    state: str  # opening, serving, stalled, fenced, closing, closed
    in_sync: tuple[UUID, ...]
    joining: tuple[UUID, ...]
    absent: tuple[UUID, ...]
    resync_bytes_done: int
    resync_bytes_total: int
    in_flight: int

@dataclass(frozen=True)
class InSyncChangeWanted:
    volume_id: UUID
    segment: int
    generation: int
    in_sync: tuple[UUID, ...]
    reason: str

@dataclass(frozen=True)
class VolumeStateChanged:
    volume_id: UUID
    state: str
    error: str  # an error name, "Ok" when none

@dataclass(frozen=True)
class Notice:
    volume_id: UUID
    segment: int
    host_id: UUID
    kind: str  # member-lost, member-joined, resync-started, resync-finished, block-repaired, ...
    value: int

Event = InSyncChangeWanted | VolumeStateChanged | Notice

@dataclass(frozen=True)
class ChunkDigest:
    chunk: int
    version: tuple[int, int]
    valid_mask: int
    digest: int

@dataclass(frozen=True)
class BlockLocation:
    store_id: UUID
    allocated: bool
    device_offset_bytes: int
    in_journal: bool
    chunk_version: tuple[int, int]
    crc32c: int

def format_store(path: str, *, store_id: UUID, cluster_id: UUID, size_bytes: int | None = None,
                 journal_bytes: int = 0, force: bool = False) -> None:
    """Create (a file, when size_bytes is given) and format a store; blocking.

    Raises StoreTooSmall, StoreInUse, AlreadyExists (a store is there; force overwrites it), DiskError.
    """

class Core:
    def __init__(self, *, host_id: UUID, cluster_id: UUID, buffer_bytes: int = 256 << 20,
                 lease_us: int = 1_000_000, heartbeat_us: int = 200_000,
                 member_timeout_us: int = 1_000_000, cpu: int | None = None) -> None: ...
    async def start(self) -> None: ...
    async def close(self) -> None:
        """Close exports, volumes and stores in that order, then end the thread."""

    # Stores and replicas.
    async def open_store(self, path: str) -> StoreInfo: ...
    async def close_store(self, store_id: UUID) -> None: ...
    async def store_infos(self) -> list[StoreInfo]: ...
    async def create_replica(self, store_id: UUID, volume_id: UUID, segment: int, block_count: int) -> None: ...
    async def drop_replica(self, volume_id: UUID, segment: int) -> None: ...
    async def list_replicas(self) -> list[ReplicaInfo]: ...
    async def list_digests(self, volume_id: UUID, segment: int, *, read: bool = False) -> list[ChunkDigest]:
        """Every stored chunk of the local replica. With read, each block is read from the device and
        checked against its CRC-32C first (raises ChecksumMismatch)."""
    async def locate(self, volume_id: UUID, segment: int, block: int) -> BlockLocation: ...

    # Peers.
    async def listen_peers(self, endpoint: str) -> str: ...
    async def set_peer(self, host_id: UUID, endpoint: str) -> None: ...

    # Volumes attached here.
    async def attach(self, spec: VolumeSpec) -> None:
        """Start the engine; returns when every segment serves. Raises EpochFenced, QuorumLost, Timeout."""
    async def detach(self, volume_id: UUID) -> None: ...
    async def in_sync_changed(self, volume_id: UUID, segment: Segment) -> None: ...
    async def in_sync_change_failed(self, volume_id: UUID, segment: int, error: str) -> None: ...
    async def grow(self, volume_id: UUID, size_bytes: int, new_segments: Sequence[Segment]) -> None: ...
    async def volume_status(self, volume_id: UUID) -> list[SegmentStatus]: ...

    # NBD: a server is a listening endpoint; it offers the volumes exported on it.
    async def nbd_listen(self, endpoint: str) -> str:
        """Listen on "unix:/path" or "tcp:host:port"; returns the bound endpoint. Raises AddressInUse."""
    async def nbd_close(self, endpoint: str) -> None: ...
    async def nbd_export(self, volume_id: UUID, name: str, *, description: str = "", read_only: bool = False) -> None:
        """Offer an attached volume under `name` at every NBD endpoint of this core."""
    async def nbd_unexport(self, name: str) -> None: ...

    # I/O for VolumeIO; any alignment and length.
    async def read(self, volume_id: UUID, offset: int, length: int) -> bytes: ...
    async def write(self, volume_id: UUID, offset: int, data: Buffer, *, fua: bool = False) -> None: ...
    async def flush(self, volume_id: UUID) -> None: ...
    async def trim(self, volume_id: UUID, offset: int, length: int, *, fua: bool = False) -> None: ...
    async def write_zeroes(self, volume_id: UUID, offset: int, length: int, *, fua: bool = False) -> None: ...

    async def stats(self) -> dict[str, object]:
        """{"stores": {store_id: {counter: int}}, "volumes": {volume_id: {counter: int,
        "read_latency_us": [bucket counts], "write_latency_us": [...], "flush_latency_us": [...]}},
        "nbd": {"connections": int, "requests": int, ...}, "reactor": {"iterations": int,
        "syscalls": int}}. Latency bucket i counts requests that took [2^i, 2^(i+1)) microseconds."""
    def events(self) -> AsyncIterator[Event]:
        """Events in order; one consumer. Ends when the core is closed."""
