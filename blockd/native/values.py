"""What the native data plane says and is told: plain, frozen values.

Offsets, lengths and sizes are bytes; ids are UUIDs; a version is (epoch, sequence).
"""

from dataclasses import dataclass
from uuid import UUID


@dataclass(frozen=True)
class DeviceFindings:
    """What qualification found of a device. None: the kernel does not tell. 0: not measured, or
    there is no such thing. Figures: medians in microseconds, MiB/s in order, 4 KiB at random."""

    direct_alignment_bytes: int
    logical_block_bytes: int
    physical_block_bytes: int
    atomic_write_bytes: int
    discard_granularity_bytes: int
    rotational: bool | None
    volatile_cache: bool | None
    fua: bool | None
    discard_zeroes: bool
    probed_unix_s: int
    write_us: int = 0
    flush_us: int = 0
    dsync_write_us: int = 0
    write_mib_s: int = 0
    read_mib_s: int = 0
    write_iops: int = 0
    flushed_write_iops: int = 0


@dataclass(frozen=True)
class StoreInfo:
    store_id: UUID
    path: str
    capacity_bytes: int
    allocated_bytes: int
    journal_bytes: int
    journal_used_bytes: int
    segment_count: int
    findings: DeviceFindings | None = None  # of when it was formatted
    power_loss_protected: bool = False  # its owner said so: flushes are left out
    failed: str = ""  # the error's name: a write or flush failed, nothing is written until reopened
    past_bytes: int = 0  # of the allocated ones, those that only snapshots hold
    incarnation: int = 0  # of this opening: every later one's is higher


@dataclass(frozen=True)
class ReplicaInfo:
    volume_id: UUID
    segment: int
    store_id: UUID
    block_count: int
    promised_epoch: int
    stable: tuple[int, int]
    chunk_count: int
    past_count: int = 0  # beside them, the chunks that only snapshots hold
    newest_era: int = 0  # nothing here was born, or died, in a later one
    lease_us: int = 0  # that an engine of the volume has here from now; 0: none has one


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
class BaseSpec:
    """A snapshot that shows through where the layer above it has nothing of its own
    (docs/SNAPSHOTS.md, "Base").

    Of the layer above, what was born at `since` or later counts, and, when that is the volume of
    the snapshot itself (rolled_back), at `era` or before.
    """

    volume_id: UUID  # whose snapshot it is
    era: int
    since: int
    rolled_back: bool
    size_bytes: int
    segments: tuple[Segment, ...]
    base: "BaseSpec | None" = None  # beneath the snapshot


@dataclass(frozen=True)
class SnapshotSpec:
    """A snapshot to be read under an id of its own."""

    snapshot_id: UUID
    name: str
    volume_id: UUID
    era: int
    size_bytes: int
    segments: tuple[Segment, ...]
    base: BaseSpec | None = None


@dataclass(frozen=True)
class ChunkView:
    """A volume as snapshot `era` shows it (0: as it is now). base_era and since: of the rollback
    whose base still shows through in it; 0: there is none."""

    era: int
    base_era: int = 0
    since: int = 0


@dataclass(frozen=True)
class VolumeSpec:
    volume_id: UUID
    name: str
    size_bytes: int
    epoch: int
    min_in_sync: int
    segments: tuple[Segment, ...]
    era: int = 1
    base: BaseSpec | None = None
    io_timeout_us: int = 0  # how long a request waits for a quorum; 0: the engine's default


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
    missing: tuple[UUID, ...] = ()  # in sync, and their stores have no replica
    behind: tuple[UUID, ...] = ()  # in sync as agreed, and without everything now
    resync_us: int = 0  # since the resync began to copy; 0: none is under way
    differing: tuple[UUID, ...] = ()  # their checksums did not agree when last compared
    proven_ago_us: int | None = None  # since those of all in sync did; None: not yet


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


@dataclass(frozen=True)
class ScrubCursor:
    """The first chunk that has not been read."""

    volume_id: UUID
    segment: int
    chunk: int


@dataclass(frozen=True)
class ScrubFinding:
    volume_id: UUID
    segment: int
    block: int  # of the segment
    error: str  # ChecksumMismatch, DiskError
    born: int = 0  # the era that a past content is of, which only snapshots show; 0: a current one


@dataclass(frozen=True)
class ScrubReport:
    """The latest scrub of a store since the daemon's start. findings: at most 4096, the rest are
    counted in findings_dropped."""

    store_id: UUID
    running: bool
    finished: bool  # the pass has come to its end
    rate_bytes: int  # a second
    cursor: ScrubCursor
    chunks_done: int
    chunks_total: int
    read_bytes: int
    findings_dropped: int
    findings: tuple[ScrubFinding, ...]
