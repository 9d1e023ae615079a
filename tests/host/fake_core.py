"""A Core in memory, for tests of the daemon above it: one process, one copy of each volume.

It keeps the contract of blockd/native/core.pyi as far as the daemon sees it: errors, idempotence,
epochs, events. `fail` holds errors that the named methods raise next; `calls` what was asked of it.
"""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from uuid import UUID

from blockd.model.errors import (
    AddressInUse,
    AlreadyExists,
    BlockdError,
    EpochFenced,
    ExtentOutOfRange,
    NotAttached,
    NotFound,
    OlderCopy,
    StoreForeign,
    StoreNotFormatted,
)
from blockd.native.values import (
    BlockLocation,
    ChunkDigest,
    ChunkView,
    Event,
    Member,
    ReplicaInfo,
    ScrubCursor,
    ScrubReport,
    Segment,
    SegmentStatus,
    SnapshotSpec,
    StoreInfo,
    VolumeSpec,
    VolumeStateChanged,
)

MAGIC = b"fake-store"


def format_store(
    path: str,
    *,
    store_id: UUID,
    cluster_id: UUID,
    size_bytes: int | None = None,
    journal_bytes: int = 0,
    force: bool = False,
) -> None:
    """Write the ids where open_store() looks for them; then come openings, and replicas made."""
    file = Path(path)
    if size_bytes is not None and not file.exists():
        file.touch()
    if file.read_bytes().startswith(MAGIC) and not force:
        raise AlreadyExists(f"{path} holds a store")
    file.write_bytes(MAGIC + store_id.bytes + cluster_id.bytes + bytes(16))


@dataclass
class FakeVolume:
    """An attached volume; its segments' in-sync sets as the engine believes them."""

    spec: VolumeSpec
    data: bytearray
    segments: dict[int, Segment]
    counters: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    era: int = 1


class Core:
    """See the module's docstring."""

    def __init__(self, *, host_id: UUID, cluster_id: UUID, **_: object) -> None:
        self.host_id = host_id
        self.cluster_id = cluster_id
        self.calls: list[tuple[object, ...]] = []
        self.fail: dict[str, BlockdError] = {}
        self.peers: dict[UUID, str] = {}
        self.stores: dict[UUID, StoreInfo] = {}
        self.replicas: dict[tuple[UUID, int], ReplicaInfo] = {}
        self.volumes: dict[UUID, FakeVolume] = {}
        self.scrubs: dict[UUID, ScrubReport] = {}
        self.disks: dict[UUID, bytearray] = {}  # a volume's bytes outlive its attachment
        self.exports: dict[str, UUID] = {}
        self.listening: list[str] = []
        self.attach_gate = asyncio.Event()
        self.attach_gate.set()
        self.readers: dict[UUID, SnapshotSpec] = {}
        self.snapshot_sets: dict[UUID, tuple[int, tuple[int, ...], int]] = {}
        self.joining: list[UUID] = []  # hosts, of every segment
        self.met_eras: dict[UUID, int] = {}  # by volume: that members' stores know of
        self.era_gate, self.flatten_gate = asyncio.Event(), asyncio.Event()
        self.era_gate.set()
        self.flatten_gate.set()
        self._events: asyncio.Queue[Event | None] = asyncio.Queue()

    def _called(self, name: str, *arguments: object) -> None:
        self.calls.append((name, *arguments))
        error = self.fail.pop(name, None)
        if error is not None:
            raise error

    async def start(self) -> None:
        self._called("start")

    async def close(self) -> None:
        self._called("close")
        self._events.put_nowait(None)

    # Stores and replicas.

    async def open_store(self, path: str, *, newest: Mapping[UUID, int] | None = None) -> StoreInfo:
        self._called("open_store", path)
        head = Path(path).read_bytes()  # noqa: ASYNC240
        if not head.startswith(MAGIC):
            raise StoreNotFormatted(f"{path} holds no store")
        store_id, cluster_id = (UUID(bytes=head[at : at + 16]) for at in (10, 26))
        if cluster_id != self.cluster_id:
            raise StoreForeign(f"{path} belongs to cluster {cluster_id}")
        seen, replicas = (int.from_bytes(head[at : at + 8]) for at in (42, 50))
        known = (newest or {}).get(store_id, 0)
        if seen < known and replicas > 0:
            raise OlderCopy(f"{path}: store {store_id} is an older copy of itself")
        info = StoreInfo(
            store_id, path, 1 << 30, 0, 1 << 20, 0, 0, incarnation=max(seen, known) + 1
        )
        self.stores[store_id] = info
        self._write_counts(info, replicas)
        return info

    def _write_counts(self, info: StoreInfo, replicas: int) -> None:
        with Path(info.path).open("r+b") as file:
            file.seek(42)
            file.write(info.incarnation.to_bytes(8) + replicas.to_bytes(8))

    async def flush_store(self, store_id: UUID) -> None:
        self._called("flush_store", store_id)

    async def close_store(self, store_id: UUID) -> None:
        self._called("close_store", store_id)
        del self.stores[store_id]

    async def store_infos(self) -> list[StoreInfo]:
        return [
            replace(info, segment_count=sum(r.store_id == store_id for r in self.replicas.values()))
            for store_id, info in self.stores.items()
        ]

    async def create_replica(
        self, store_id: UUID, volume_id: UUID, segment: int, block_count: int
    ) -> None:
        self._called("create_replica", volume_id, segment)
        if store_id not in self.stores:
            raise NotFound(f"no store {store_id}")
        if (volume_id, segment) in self.replicas:
            raise AlreadyExists("the replica exists")
        self.replicas[volume_id, segment] = ReplicaInfo(
            volume_id, segment, store_id, block_count, 0, (0, 0), 0
        )
        self._write_counts(self.stores[store_id], len(self.replicas))

    async def drop_replica(self, volume_id: UUID, segment: int) -> None:
        self._called("drop_replica", volume_id, segment)
        if self.replicas.pop((volume_id, segment), None) is None:
            raise NotFound("no such replica")

    async def list_replicas(self) -> list[ReplicaInfo]:
        return list(self.replicas.values())

    async def list_digests(
        self, volume_id: UUID, segment: int, *, read: bool = False
    ) -> list[ChunkDigest]:
        self._called("list_digests", volume_id, segment, read)
        if (volume_id, segment) not in self.replicas:
            raise NotFound("no such replica")
        return [ChunkDigest(chunk, (1, chunk), 0xFFFF, chunk * 7) for chunk in range(2500)]

    async def locate(self, volume_id: UUID, segment: int, block: int) -> BlockLocation:
        replica = self.replicas.get((volume_id, segment))
        if replica is None:
            raise NotFound("no such replica")
        return BlockLocation(replica.store_id, True, block * 4096, False, (1, 2), 0xABCD)

    # Scrubs: a test says in `scrubs` what the core reports.

    async def start_scrub(
        self,
        store_id: UUID,
        rate_bytes: int,
        *,
        cursor: ScrubCursor | None = None,
        chunks_done: int = 0,
    ) -> None:
        self._called("start_scrub", store_id, rate_bytes, cursor, chunks_done)
        begin = cursor or ScrubCursor(UUID(int=0), 0, 0)
        self.scrubs[store_id] = ScrubReport(
            store_id, True, False, rate_bytes, begin, chunks_done, 10, 0, 0, ()
        )

    async def stop_scrub(self, store_id: UUID) -> None:
        self._called("stop_scrub", store_id)

    async def scrub_reports(self) -> list[ScrubReport]:
        return list(self.scrubs.values())

    async def repair_chunk(
        self, volume_id: UUID, segment: int, chunk: int, host_id: UUID, *, born: int = 0
    ) -> None:
        self._called("repair_chunk", volume_id, segment, chunk, host_id, *([born] if born else []))
        self._volume(volume_id)

    # Peers.

    async def listen_peers(self, endpoint: str) -> str:
        return self._listen("listen_peers", endpoint)

    async def set_peer(self, host_id: UUID, endpoint: str) -> None:
        self._called("set_peer", host_id, endpoint)
        self.peers[host_id] = endpoint

    # Volumes.

    async def attach(self, spec: VolumeSpec) -> int:
        self._called("attach", spec.volume_id, spec.epoch)
        if spec.volume_id in self.volumes:
            raise AlreadyExists("the volume is attached")
        disk = self.disks.setdefault(spec.volume_id, bytearray())
        disk.extend(bytes(spec.size_bytes - len(disk)))
        self.volumes[spec.volume_id] = FakeVolume(
            spec,
            disk,
            {segment.index: segment for segment in spec.segments},
            era=max(spec.era, self.met_eras.get(spec.volume_id, 0)),
        )
        era = self.volumes[spec.volume_id].era
        await self.attach_gate.wait()
        return era

    async def detach(self, volume_id: UUID) -> int:
        self._called("detach", volume_id)
        era = 0
        if self.readers.pop(volume_id, None) is None:
            era = self._volume(volume_id).era
            del self.volumes[volume_id]
        self.exports = {name: one for name, one in self.exports.items() if one != volume_id}
        return era

    async def in_sync_changed(self, volume_id: UUID, segment: Segment) -> None:
        self._called("in_sync_changed", volume_id, segment)
        self._volume(volume_id).segments[segment.index] = segment

    async def in_sync_change_failed(self, volume_id: UUID, segment: int, error: str) -> None:
        self._called("in_sync_change_failed", volume_id, segment, error)
        self._volume(volume_id)

    async def grow(self, volume_id: UUID, size_bytes: int, new_segments: Sequence[Segment]) -> None:
        self._called("grow", volume_id, size_bytes, [s.index for s in new_segments])
        volume = self._volume(volume_id)
        volume.data.extend(bytes(size_bytes - len(volume.data)))
        volume.segments.update({segment.index: segment for segment in new_segments})

    async def shrink(self, volume_id: UUID, size_bytes: int) -> None:
        self._called("shrink", volume_id, size_bytes)
        volume = self._volume(volume_id)
        del volume.data[size_bytes:]

    async def volume_status(self, volume_id: UUID) -> list[SegmentStatus]:
        return [
            SegmentStatus(
                index=segment.index,
                generation=segment.generation,
                state="serving",
                in_sync=members(segment, in_sync=True),
                joining=tuple(self.joining),
                absent=members(segment, in_sync=False),
                resync_bytes_done=0,
                resync_bytes_total=0,
                in_flight=0,
            )
            for segment in self._volume(volume_id).segments.values()
        ]

    async def set_branch(self, volume_id: UUID, host_id: UUID, branch_id: UUID) -> None:
        self._called("set_branch", volume_id, host_id, branch_id)

    # Snapshots.

    async def members_changed(self, volume_id: UUID, segment: Segment) -> None:
        self._called("members_changed", volume_id, segment)

    async def set_snapshots(
        self, volume_id: UUID, known_below: int, eras: Sequence[int], uncovered_below: int
    ) -> None:
        self._called("set_snapshots", volume_id, known_below, tuple(eras), uncovered_below)
        if all(volume != volume_id for volume, _ in self.replicas):
            raise NotFound("no replica here")
        self.snapshot_sets[volume_id] = (known_below, tuple(eras), uncovered_below)

    async def begin_era(self, volume_id: UUID, era: int) -> int:
        self._called("begin_era", volume_id, era)
        volume = self._volume(volume_id)
        volume.era = max(volume.era, era)
        await self.era_gate.wait()
        return volume.era

    async def hold_mutations(self, volume_id: UUID, for_us: int) -> None:
        self._called("hold_mutations", volume_id, for_us)
        self._volume(volume_id)

    async def attach_snapshot(self, spec: SnapshotSpec) -> None:
        self._called("attach_snapshot", spec.snapshot_id)
        if spec.snapshot_id in self.readers:
            raise AlreadyExists("the snapshot is attached")
        self.readers[spec.snapshot_id] = spec

    async def flatten(self, volume_id: UUID, bytes_per_second: int) -> None:
        self._called("flatten", volume_id, bytes_per_second)
        self._volume(volume_id)
        await self.flatten_gate.wait()
        self._volume(volume_id)

    async def changed_chunks(
        self, volume_id: UUID, segment: int, from_view: ChunkView | None, to_view: ChunkView
    ) -> list[int]:
        self._called("changed_chunks", volume_id, segment, from_view, to_view)
        if (volume_id, segment) not in self.replicas:
            raise NotFound("no replica here")
        return [1, 2, 7]

    # NBD.

    async def nbd_listen(self, endpoint: str) -> str:
        return self._listen("nbd_listen", endpoint)

    async def nbd_close(self, endpoint: str) -> None:
        self._called("nbd_close", endpoint)

    async def nbd_export(
        self, volume_id: UUID, name: str, *, description: str = "", read_only: bool = False
    ) -> None:
        self._called("nbd_export", volume_id, name, read_only)
        if volume_id not in self.readers:
            self._volume(volume_id)
        if self.exports.get(name, volume_id) != volume_id:
            raise AlreadyExists(f"export {name} is another volume's")
        self.exports[name] = volume_id

    async def nbd_unexport(self, name: str) -> None:
        self._called("nbd_unexport", name)
        if self.exports.pop(name, None) is None:
            raise NotFound(f"no export {name}")

    # I/O.

    async def read(self, volume_id: UUID, offset: int, length: int) -> bytes:
        volume = self._io("read", volume_id, offset, length)
        await asyncio.sleep(0)
        return bytes(volume.data[offset : offset + length])

    async def write(self, volume_id: UUID, offset: int, data: bytes, *, fua: bool = False) -> None:
        volume = self._io("write", volume_id, offset, len(data))
        await asyncio.sleep(0)
        volume.data[offset : offset + len(data)] = data

    async def flush(self, volume_id: UUID) -> None:
        self._io("flush", volume_id, 0, 0)

    async def trim(self, volume_id: UUID, offset: int, length: int, *, fua: bool = False) -> None:
        self._io("trim", volume_id, offset, length).data[offset : offset + length] = bytes(length)

    async def write_zeroes(
        self, volume_id: UUID, offset: int, length: int, *, fua: bool = False
    ) -> None:
        volume = self._io("write_zeroes", volume_id, offset, length)
        volume.data[offset : offset + length] = bytes(length)

    async def stats(self) -> dict[str, object]:
        return {
            "stores": {store_id: {"writes": 3} for store_id in self.stores},
            "volumes": {
                volume_id: {**volume.counters, "read_latency_us": [1, 2, 0], "write_latency_us": []}
                for volume_id, volume in self.volumes.items()
            },
            "nbd": {"connections": 1, "requests": 5},
            "reactor": {"iterations": 7, "syscalls": 9},
        }

    async def events(self) -> AsyncIterator[Event]:
        while (event := await self._events.get()) is not None:
            yield event

    # For tests.

    def emit(self, event: Event) -> None:
        """Report an event."""
        self._events.put_nowait(event)

    def fence(self, volume_id: UUID) -> None:
        """What the engine does when it meets a newer epoch."""
        self.emit(VolumeStateChanged(volume_id, "fenced", EpochFenced.__name__))

    def _volume(self, volume_id: UUID) -> FakeVolume:
        if volume_id not in self.volumes:
            raise NotAttached(f"volume {volume_id} is not attached")
        return self.volumes[volume_id]

    def _io(self, name: str, volume_id: UUID, offset: int, length: int) -> FakeVolume:
        self._called(name, volume_id, offset, length)
        volume = self._volume(volume_id)
        if offset + length > len(volume.data):
            raise ExtentOutOfRange("beyond the end")
        volume.counters[f"{name}s"] += 1
        return volume

    def _listen(self, name: str, endpoint: str) -> str:
        self._called(name, endpoint)
        if endpoint.endswith(":0"):
            endpoint = f"{endpoint[:-1]}{50000 + len(self.listening)}"
        if endpoint in self.listening:
            raise AddressInUse(f"{endpoint} is taken")
        self.listening.append(endpoint)
        return endpoint


def members(segment: Segment, *, in_sync: bool) -> tuple[UUID, ...]:
    """The hosts of the members that are, or are not, in sync."""
    chosen: Sequence[Member] = [m for m in segment.members if m.in_sync == in_sync]
    return tuple(member.host_id for member in chosen)
