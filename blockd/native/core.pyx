"""The native data plane under asyncio. What it promises: core.pyi.

Every command is given under a fresh token, with a future that waits in `_waiting` beside whatever the
native side may touch until then: so a lent buffer stays pinned until its completion is reaped, also
when the awaiting task has long been cancelled. One reader on the core's eventfd reaps whole batches.
"""

import asyncio
import json
import os
import warnings
import weakref
from collections import deque
from uuid import UUID

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport int32_t, uint16_t, uint32_t, uint64_t
from libcpp.memory cimport unique_ptr
from libcpp.optional cimport optional
from libcpp.string cimport string
from libcpp.vector cimport vector

cimport blockd.native.c_core as native
cimport blockd.native.c_store as c_store
from blockd.native.c_engine cimport MemberConfig, SegmentConfig, SnapshotConfig, VolumeConfig
from blockd.native.c_engine cimport SegmentStatus as NativeSegmentStatus
from blockd.native.c_store cimport ChunkDigest as NativeDigest
from blockd.native.c_store cimport DeviceFindings as NativeFindings
from blockd.native.c_store cimport CheckOptions, DumpOptions, FormatOptions, Openings, SnapshotSet
from blockd.native.c_types cimport (
    Error,
    SegmentId,
    Uuid,
    Version,
    error_from_number,
    error_number,
    uuid_bytes,
    uuid_from_bytes,
)

from blockd.model.errors import InvalidArgument, ShuttingDown, error_class, make_error
from blockd.native.values import (
    BlockLocation,
    ChunkDigest,
    DeviceFindings,
    Event,
    InSyncChangeWanted,
    Member,
    Notice,
    ReplicaInfo,
    ScrubCursor,
    ScrubFinding,
    ScrubReport,
    Segment,
    SegmentStatus,
    StoreInfo,
    VolumeSpec,
    VolumeStateChanged,
)

include "from_python.pxi"
include "to_python.pxi"

# Events that nobody takes are kept up to this many, the newest. What the engine wants it asks for
# again, and each state replaces the one before.
cdef int EVENTS_MAX = 65536

_NAME_BY_CODE = {}


def format_store(path, *, store_id, cluster_id, size_bytes=None, journal_bytes=0, force=False,
                 findings=None, power_loss_protected=False, incarnation=0):
    cdef string native_path = os.fsencode(path)
    cdef FormatOptions options
    cdef uint64_t file_bytes = 0 if size_bytes is None else _u64(size_bytes, "size_bytes")
    cdef string message
    cdef Error error
    options.store_id = _uuid(store_id)
    options.cluster_id = _uuid(cluster_id)
    options.journal_bytes = _u64(journal_bytes, "journal_bytes")
    options.force = bool(force)
    options.power_loss_protected = power_loss_protected
    options.incarnation = _u64(incarnation, "incarnation")
    if findings is not None:
        options.findings = _native_findings(findings)
    if size_bytes is not None and file_bytes == 0:
        raise InvalidArgument("size_bytes must be positive")
    with nogil:
        error = native.format_store(native_path, options, file_bytes, message)
    if error_number(error) != 0:
        raise make_error(error_number(error), _text(message))


def check_store(path, *, data=False, repair=False):
    cdef string native_path = os.fsencode(path)
    cdef CheckOptions options
    cdef string report
    cdef string message
    cdef Error error
    options.data = bool(data)
    options.repair = bool(repair)
    with nogil:
        error = native.check_store(native_path, options, report, message)
    if error_number(error) != 0:
        raise make_error(error_number(error), _text(message))
    return json.loads(_text(report))


def dump_store(path, *, superblock=False, checkpoint=False, segments=False, journal=False,
               chunks_of=None):
    cdef string native_path = os.fsencode(path)
    cdef DumpOptions options
    cdef string document
    cdef string message
    cdef Error error
    options.superblock = bool(superblock)
    options.checkpoint = bool(checkpoint)
    options.segments = bool(segments)
    options.journal = bool(journal)
    options.chunks = chunks_of is not None
    if chunks_of is not None:
        options.segment = _segment_id(chunks_of[0], chunks_of[1])
    with nogil:
        error = native.dump_store(native_path, options, document, message)
    if error_number(error) != 0:
        raise make_error(error_number(error), _text(message))
    return json.loads(_text(document))


def look_at_store(path, *, cluster_id):
    cdef string native_path = os.fsencode(path)
    cdef Uuid cluster = _uuid(cluster_id)
    cdef native.Reply reply
    cdef string message
    cdef Error error
    with nogil:
        error = native.look_at_store(native_path, cluster, reply, message)
    if error_number(error) != 0:
        raise make_error(error_number(error), _text(message))
    return _one_store(&reply), _replicas(&reply)


cdef class _Lent:
    """A contiguous view of a caller's buffer, pinned for as long as this object lives."""

    cdef Py_buffer view
    cdef bint held

    def __cinit__(self, data):
        self.held = False
        PyObject_GetBuffer(data, &self.view, PyBUF_SIMPLE)
        self.held = True

    def __dealloc__(self):
        if self.held:
            PyBuffer_Release(&self.view)


cdef class _Waiting:
    """One command on its way: who waits, what its answer becomes, what it was lent."""

    cdef object future
    cdef object (*convert)(native.Reply*)
    cdef object lent

    def __cinit__(self, future, lent=None):
        self.future = future
        self.convert = NULL
        self.lent = lent


cdef class Core:
    cdef native.Core* _core
    cdef native.CoreConfig _config
    cdef object _loop
    cdef dict _waiting
    cdef uint64_t _last_token
    cdef object _events
    cdef object _event_arrived
    cdef object _closing
    cdef bint _started
    cdef bint _closed
    cdef object __weakref__

    def __cinit__(self):
        self._core = NULL
        self._waiting = {}
        self._last_token = 0
        self._started = False
        self._closed = False

    def __init__(self, *, host_id, cluster_id, buffer_bytes=256 << 20, lease_us=1_000_000,
                 heartbeat_us=200_000, member_timeout_us=1_000_000, attach_timeout_us=30_000_000,
                 wire_version_max=0, rebuild_bytes_per_second=0, spin_us=0, cpu=None):
        self._config.host_id = _uuid(host_id)
        self._config.cluster_id = _uuid(cluster_id)
        self._config.buffer_bytes = _u64(buffer_bytes, "buffer_bytes")
        self._config.lease_us = _u64(lease_us, "lease_us")
        self._config.heartbeat_us = _u64(heartbeat_us, "heartbeat_us")
        self._config.member_timeout_us = _u64(member_timeout_us, "member_timeout_us")
        self._config.attach_timeout_us = _u64(attach_timeout_us, "attach_timeout_us")
        self._config.wire_version_max = _u16(wire_version_max, "wire_version_max")
        self._config.rebuild_bytes_per_second = _u64(
            rebuild_bytes_per_second, "rebuild_bytes_per_second")
        self._config.spin_us = _u32(spin_us, "spin_us")
        self._config.cpu = -1 if cpu is None else <int32_t>_u32(cpu, "cpu")
        self._events = deque(maxlen=EVENTS_MAX)

    def __del__(self):
        if self._core == NULL:
            return
        if self._started and not self._closed:
            warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self)
            if not self._loop.is_closed():
                self._loop.remove_reader(self._core.event_fd())
        # Ends the thread while everything lent is still pinned.
        self._destroy()

    cdef void _destroy(self):
        cdef native.Core* core = self._core
        self._core = NULL
        with nogil:
            del core

    async def start(self):
        if self._started:
            raise InvalidArgument("this core has been started before")
        self._started = True
        self._loop = asyncio.get_running_loop()
        self._event_arrived = asyncio.Event()
        try:
            await self._loop.run_in_executor(None, self._start_native)
        except BaseException:
            self._closed = True
            raise
        self._loop.add_reader(self._core.event_fd(), _reap_if_alive, weakref.ref(self))

    def _start_native(self):
        cdef string message
        cdef Error error
        with nogil:
            self._core = new native.Core(self._config)
            error = self._core.start(message)
        if error_number(error) != 0:
            raise make_error(error_number(error), _text(message))

    async def close(self):
        if not self._started or self._closed:
            return
        if self._closing is None:
            self._closing = asyncio.ensure_future(self._close())
        await asyncio.shield(self._closing)

    async def _close(self):
        future = self._give_close()
        await future
        await self._loop.run_in_executor(None, self._join)
        self._reap()
        self._loop.remove_reader(self._core.event_fd())
        self._closed = True
        self._event_arrived.set()
        self._destroy()

    cdef object _give_close(self):
        cdef _Waiting waiting = self._begin()
        cdef uint64_t token = self._last_token
        with nogil:
            self._core.close(token)
        return waiting.future

    def _join(self):
        with nogil:
            self._core.join()

    # Stores and replicas.

    async def open_store(self, path, *, newest=None):
        return await self._open_store(os.fsencode(path), newest or {})

    cdef object _open_store(self, bytes path, newest):
        cdef Openings openings = _openings(newest)
        cdef string native_path = path
        cdef _Waiting waiting = self._begin()
        cdef uint64_t token = self._last_token
        waiting.convert = _one_store
        with nogil:
            self._core.open_store(token, native_path, openings)
        return waiting.future

    async def close_store(self, store_id):
        await self._close_store(store_id)

    cdef object _close_store(self, store_id):
        cdef Uuid store = _uuid(store_id)
        cdef _Waiting waiting = self._begin()
        cdef uint64_t token = self._last_token
        with nogil:
            self._core.close_store(token, store)
        return waiting.future

    async def flush_store(self, store_id):
        await self._flush_store(store_id)

    cdef object _flush_store(self, store_id):
        cdef Uuid store = _uuid(store_id)
        cdef _Waiting waiting = self._begin()
        cdef uint64_t token = self._last_token
        with nogil:
            self._core.flush_store(token, store)
        return waiting.future

    async def store_infos(self):
        return await self._store_infos()

    cdef object _store_infos(self):
        cdef _Waiting waiting = self._begin()
        cdef uint64_t token = self._last_token
        waiting.convert = _all_stores
        with nogil:
            self._core.store_infos(token)
        return waiting.future

    async def create_replica(self, store_id, volume_id, segment, block_count):
        await self._create_replica(store_id, volume_id, segment, block_count)

    cdef object _create_replica(self, store_id, volume_id, segment, block_count):
        cdef Uuid store = _uuid(store_id)
        cdef SegmentId id = _segment_id(volume_id, segment)
        cdef uint32_t blocks = _u32(block_count, "block_count")
        cdef _Waiting waiting = self._begin()
        cdef uint64_t token = self._last_token
        with nogil:
            self._core.create_replica(token, store, id, blocks)
        return waiting.future

    async def drop_replica(self, volume_id, segment):
        await self._drop_replica(volume_id, segment)

    cdef object _drop_replica(self, volume_id, segment):
        cdef SegmentId id = _segment_id(volume_id, segment)
        cdef _Waiting waiting = self._begin()
        cdef uint64_t token = self._last_token
        with nogil:
            self._core.drop_replica(token, id)
        return waiting.future

    async def list_replicas(self):
        return await self._list_replicas()

    cdef object _list_replicas(self):
        cdef _Waiting waiting = self._begin()
        cdef uint64_t token = self._last_token
        waiting.convert = _replicas
        with nogil:
            self._core.list_replicas(token)
        return waiting.future

    async def list_digests(self, volume_id, segment, *, read=False):
        return await self._list_digests(volume_id, segment, read)

    cdef object _list_digests(self, volume_id, segment, bint read):
        cdef SegmentId id = _segment_id(volume_id, segment)
        cdef _Waiting waiting = self._begin()
        cdef uint64_t token = self._last_token
        waiting.convert = _digests
        with nogil:
            self._core.list_digests(token, id, read)
        return waiting.future

    async def locate(self, volume_id, segment, block):
        return await self._locate(volume_id, segment, block)

    cdef object _locate(self, volume_id, segment, block):
        cdef SegmentId id = _segment_id(volume_id, segment)
        cdef uint32_t index = _u32(block, "block")
        cdef _Waiting waiting = self._begin()
        cdef uint64_t token = self._last_token
        waiting.convert = _location
        with nogil:
            self._core.locate(token, id, index)
        return waiting.future

    async def set_snapshots(self, volume_id, known_below, eras, uncovered_below=0):
        await self._set_snapshots(volume_id, known_below, eras, uncovered_below)

    cdef object _set_snapshots(self, volume_id, known_below, eras, uncovered_below):
        cdef SnapshotSet found = _snapshot_set(volume_id, known_below, eras, uncovered_below)
        cdef _Waiting waiting = self._begin()
        cdef uint64_t token = self._last_token
        with nogil:
            self._core.set_snapshots(token, found)
        return waiting.future

    async def changed_chunks(self, volume_id, segment, from_view, to_view):
        return await self._changed_chunks(volume_id, segment, from_view, to_view)

    cdef object _changed_chunks(self, volume_id, segment, from_view, to_view):
        cdef SegmentId id = _segment_id(volume_id, segment)
        cdef optional[native.ChunkView] before
        cdef native.ChunkView after = _view(to_view)
        if from_view is not None:
            before = _view(from_view)
        cdef _Waiting waiting = self._begin()
        cdef uint64_t token = self._last_token
        waiting.convert = _chunks
        with nogil:
            self._core.changed_chunks(token, id, before, after)
        return waiting.future

    # Scrubs and repairs.

    async def start_scrub(self, store_id, rate_bytes, *, cursor=None, chunks_done=0):
        await self._start_scrub(store_id, rate_bytes, cursor, chunks_done)

    cdef object _start_scrub(self, store_id, rate_bytes, cursor, chunks_done):
        cdef Uuid store = _uuid(store_id)
        cdef uint64_t rate = _u64(rate_bytes, "rate_bytes")
        cdef uint64_t done = _u64(chunks_done, "chunks_done")
        cdef native.ScrubCursor begin
        if cursor is not None:
            begin.segment = _segment_id(cursor.volume_id, cursor.segment)
            begin.chunk = _u32(cursor.chunk, "chunk")
        cdef _Waiting waiting = self._begin()
        cdef uint64_t token = self._last_token
        with nogil:
            self._core.start_scrub(token, store, rate, begin, done)
        return waiting.future

    async def stop_scrub(self, store_id):
        await self._stop_scrub(store_id)

    cdef object _stop_scrub(self, store_id):
        cdef Uuid store = _uuid(store_id)
        cdef _Waiting waiting = self._begin()
        cdef uint64_t token = self._last_token
        with nogil:
            self._core.stop_scrub(token, store)
        return waiting.future

    async def scrub_reports(self):
        return await self._scrub_reports()

    cdef object _scrub_reports(self):
        cdef _Waiting waiting = self._begin()
        cdef uint64_t token = self._last_token
        waiting.convert = _scrubs
        with nogil:
            self._core.scrub_reports(token)
        return waiting.future

    async def repair_chunk(self, volume_id, segment, chunk, host_id, *, born=0):
        await self._repair_chunk(volume_id, segment, chunk, host_id, born)

    cdef object _repair_chunk(self, volume_id, segment, chunk, host_id, born):
        cdef SegmentId id = _segment_id(volume_id, segment)
        cdef uint32_t index = _u32(chunk, "chunk")
        cdef uint32_t era = _u32(born, "born")
        cdef Uuid host = _uuid(host_id)
        cdef _Waiting waiting = self._begin()
        cdef uint64_t token = self._last_token
        with nogil:
            self._core.repair_chunk(token, id, index, era, host)
        return waiting.future

    # Peers.

    async def listen_peers(self, endpoint):
        return await self._listen_peers(os.fsencode(endpoint))

    cdef object _listen_peers(self, bytes endpoint):
        cdef string at = endpoint
        cdef _Waiting waiting = self._begin()
        cdef uint64_t token = self._last_token
        waiting.convert = _endpoint
        with nogil:
            self._core.listen_peers(token, at)
        return waiting.future

    async def set_peer(self, host_id, endpoint):
        await self._set_peer(host_id, os.fsencode(endpoint))

    cdef object _set_peer(self, host_id, bytes endpoint):
        cdef Uuid host = _uuid(host_id)
        cdef string to = endpoint
        cdef _Waiting waiting = self._begin()
        cdef uint64_t token = self._last_token
        with nogil:
            self._core.set_peer(token, host, to)
        return waiting.future

    # Volumes attached here.

    async def attach(self, spec):
        return await self._attach(spec)

    cdef object _attach(self, spec):
        cdef VolumeConfig config
        config.id = _uuid(spec.volume_id)
        config.name = spec.name.encode()
        config.size_bytes = _u64(spec.size_bytes, "size_bytes")
        config.epoch = _u64(spec.epoch, "epoch")
        config.min_in_sync = _u32(spec.min_in_sync, "min_in_sync")
        config.io_timeout_us = _u64(spec.io_timeout_us, "io_timeout_us")
        config.segments = _segments(spec.segments)
        config.era = _u32(spec.era, "era")
        cdef native.BasePtr base = _base(spec.base)
        cdef _Waiting waiting = self._begin()
        cdef uint64_t token = self._last_token
        waiting.convert = _era
        with nogil:
            self._core.attach(token, config, base)
        return waiting.future

    async def attach_snapshot(self, spec):
        await self._attach_snapshot(spec)

    cdef object _attach_snapshot(self, spec):
        cdef native.SnapshotSpec native_spec
        native_spec.id = _uuid(spec.snapshot_id)
        native_spec.name = spec.name.encode()
        native_spec.snapshot = _snapshot(spec.volume_id, spec.era, spec.size_bytes, spec.segments)
        native_spec.base = _base(spec.base)
        cdef _Waiting waiting = self._begin()
        cdef uint64_t token = self._last_token
        with nogil:
            self._core.attach_snapshot(token, native_spec)
        return waiting.future

    async def detach(self, volume_id):
        return await self._detach(volume_id)

    cdef object _detach(self, volume_id):
        cdef Uuid volume = _uuid(volume_id)
        cdef _Waiting waiting = self._begin()
        cdef uint64_t token = self._last_token
        waiting.convert = _era
        with nogil:
            self._core.detach(token, volume)
        return waiting.future

    async def in_sync_changed(self, volume_id, segment):
        await self._in_sync_changed(volume_id, segment)

    cdef object _in_sync_changed(self, volume_id, segment):
        cdef Uuid volume = _uuid(volume_id)
        cdef SegmentConfig config = _segment(segment)
        cdef _Waiting waiting = self._begin()
        cdef uint64_t token = self._last_token
        with nogil:
            self._core.in_sync_changed(token, volume, config)
        return waiting.future

    async def in_sync_change_failed(self, volume_id, segment, error):
        await self._in_sync_change_failed(volume_id, segment, error)

    cdef object _in_sync_change_failed(self, volume_id, segment, error):
        cdef Uuid volume = _uuid(volume_id)
        cdef uint32_t index = _u32(segment, "segment")
        cdef Error code = error_from_number(_error_code(error))
        cdef _Waiting waiting = self._begin()
        cdef uint64_t token = self._last_token
        with nogil:
            self._core.in_sync_change_failed(token, volume, index, code)
        return waiting.future

    async def grow(self, volume_id, size_bytes, new_segments):
        await self._grow(volume_id, size_bytes, new_segments)

    cdef object _grow(self, volume_id, size_bytes, new_segments):
        cdef Uuid volume = _uuid(volume_id)
        cdef uint64_t size = _u64(size_bytes, "size_bytes")
        cdef vector[SegmentConfig] fresh = _segments(new_segments)
        cdef _Waiting waiting = self._begin()
        cdef uint64_t token = self._last_token
        with nogil:
            self._core.grow(token, volume, size, fresh)
        return waiting.future

    async def shrink(self, volume_id, size_bytes):
        await self._shrink(volume_id, size_bytes)

    cdef object _shrink(self, volume_id, size_bytes):
        cdef Uuid volume = _uuid(volume_id)
        cdef uint64_t size = _u64(size_bytes, "size_bytes")
        cdef _Waiting waiting = self._begin()
        cdef uint64_t token = self._last_token
        with nogil:
            self._core.shrink(token, volume, size)
        return waiting.future

    async def volume_status(self, volume_id):
        return await self._volume_status(volume_id)

    cdef object _volume_status(self, volume_id):
        cdef Uuid volume = _uuid(volume_id)
        cdef _Waiting waiting = self._begin()
        cdef uint64_t token = self._last_token
        waiting.convert = _statuses
        with nogil:
            self._core.volume_status(token, volume)
        return waiting.future

    async def begin_era(self, volume_id, era):
        return await self._begin_era(volume_id, era)

    cdef object _begin_era(self, volume_id, era):
        cdef Uuid volume = _uuid(volume_id)
        cdef uint32_t number = _u32(era, "era")
        cdef _Waiting waiting = self._begin()
        cdef uint64_t token = self._last_token
        waiting.convert = _era
        with nogil:
            self._core.begin_era(token, volume, number)
        return waiting.future

    async def hold_mutations(self, volume_id, for_us):
        await self._hold_mutations(volume_id, for_us)

    cdef object _hold_mutations(self, volume_id, for_us):
        cdef Uuid volume = _uuid(volume_id)
        cdef uint64_t time = _u64(for_us, "for_us")
        cdef _Waiting waiting = self._begin()
        cdef uint64_t token = self._last_token
        with nogil:
            self._core.hold_mutations(token, volume, time)
        return waiting.future

    async def flatten(self, volume_id, bytes_per_second):
        await self._flatten(volume_id, bytes_per_second)

    cdef object _flatten(self, volume_id, bytes_per_second):
        cdef Uuid volume = _uuid(volume_id)
        cdef uint64_t rate = _u64(bytes_per_second, "bytes_per_second")
        cdef _Waiting waiting = self._begin()
        cdef uint64_t token = self._last_token
        with nogil:
            self._core.flatten(token, volume, rate)
        return waiting.future

    async def members_changed(self, volume_id, segment):
        await self._members_changed(volume_id, segment)

    cdef object _members_changed(self, volume_id, segment):
        cdef Uuid volume = _uuid(volume_id)
        cdef SegmentConfig config = _segment(segment)
        cdef _Waiting waiting = self._begin()
        cdef uint64_t token = self._last_token
        with nogil:
            self._core.members_changed(token, volume, config)
        return waiting.future

    async def set_branch(self, volume_id, host_id, branch_id):
        await self._set_branch(_uuid(volume_id), _uuid(host_id), _uuid(branch_id))

    cdef object _set_branch(self, Uuid volume, Uuid host, Uuid branch):
        cdef _Waiting waiting = self._begin()
        cdef uint64_t token = self._last_token
        with nogil:
            self._core.set_branch(token, volume, host, branch)
        return waiting.future

    # NBD.

    async def nbd_listen(self, endpoint):
        return await self._nbd_listen(os.fsencode(endpoint))

    cdef object _nbd_listen(self, bytes endpoint):
        cdef string at = endpoint
        cdef _Waiting waiting = self._begin()
        cdef uint64_t token = self._last_token
        waiting.convert = _endpoint
        with nogil:
            self._core.nbd_listen(token, at)
        return waiting.future

    async def nbd_close(self, endpoint):
        await self._nbd_close(os.fsencode(endpoint))

    cdef object _nbd_close(self, bytes endpoint):
        cdef string at = endpoint
        cdef _Waiting waiting = self._begin()
        cdef uint64_t token = self._last_token
        with nogil:
            self._core.nbd_close(token, at)
        return waiting.future

    async def nbd_export(self, volume_id, name, *, description="", read_only=False):
        await self._nbd_export(volume_id, name.encode(), description.encode(), read_only)

    cdef object _nbd_export(self, volume_id, bytes name, bytes description, bint read_only):
        cdef Uuid volume = _uuid(volume_id)
        cdef string native_name = name
        cdef string native_description = description
        cdef _Waiting waiting = self._begin()
        cdef uint64_t token = self._last_token
        with nogil:
            self._core.nbd_export(token, volume, native_name, native_description, read_only)
        return waiting.future

    async def nbd_unexport(self, name):
        await self._nbd_unexport(name.encode())

    cdef object _nbd_unexport(self, bytes name):
        cdef string native_name = name
        cdef _Waiting waiting = self._begin()
        cdef uint64_t token = self._last_token
        with nogil:
            self._core.nbd_unexport(token, native_name)
        return waiting.future

    # I/O.

    async def read(self, volume_id, offset, length):
        data, future = self._read(volume_id, offset, length)
        await future
        return data

    cdef object _read(self, volume_id, offset, length):
        cdef Uuid volume = _uuid(volume_id)
        cdef uint64_t start = _u64(offset, "offset")
        cdef Py_ssize_t size = _size(length, "length")
        # Filled by the reactor while nobody else can see it; handed out only when all of it was.
        data = PyBytes_FromStringAndSize(NULL, size)
        cdef char* into = PyBytes_AS_STRING(data)
        cdef _Waiting waiting = self._begin(data)
        cdef uint64_t token = self._last_token
        with nogil:
            self._core.read(token, volume, start, into, <uint64_t>size)
        return data, waiting.future

    async def write(self, volume_id, offset, data, *, fua=False):
        await self._write(volume_id, offset, data, fua)

    cdef object _write(self, volume_id, offset, data, bint fua):
        cdef Uuid volume = _uuid(volume_id)
        cdef uint64_t start = _u64(offset, "offset")
        cdef _Lent lent = _Lent(data)
        cdef _Waiting waiting = self._begin(lent)
        cdef uint64_t token = self._last_token
        with nogil:
            self._core.write(token, volume, start, lent.view.buf, <uint64_t>lent.view.len, fua)
        return waiting.future

    async def flush(self, volume_id):
        await self._flush(volume_id)

    cdef object _flush(self, volume_id):
        cdef Uuid volume = _uuid(volume_id)
        cdef _Waiting waiting = self._begin()
        cdef uint64_t token = self._last_token
        with nogil:
            self._core.flush(token, volume)
        return waiting.future

    async def trim(self, volume_id, offset, length, *, fua=False):
        await self._clear(volume_id, offset, length, fua, True)

    async def write_zeroes(self, volume_id, offset, length, *, fua=False):
        await self._clear(volume_id, offset, length, fua, False)

    cdef object _clear(self, volume_id, offset, length, bint fua, bint trim):
        cdef Uuid volume = _uuid(volume_id)
        cdef uint64_t start = _u64(offset, "offset")
        cdef uint64_t size = _u64(length, "length")
        cdef _Waiting waiting = self._begin()
        cdef uint64_t token = self._last_token
        with nogil:
            if trim:
                self._core.trim(token, volume, start, size, fua)
            else:
                self._core.write_zeroes(token, volume, start, size, fua)
        return waiting.future

    async def stats(self):
        return await self._stats()

    cdef object _stats(self):
        cdef _Waiting waiting = self._begin()
        cdef uint64_t token = self._last_token
        waiting.convert = _counters
        with nogil:
            self._core.stats(token)
        return waiting.future

    async def events(self):
        if not self._started:
            raise InvalidArgument("events() before start()")
        while True:
            while self._events:
                yield self._events.popleft()
            if self._closed:
                return
            self._event_arrived.clear()
            await self._event_arrived.wait()

    # Completions.

    cdef _Waiting _begin(self, lent=None):
        """Registers a command under `_last_token`, pinning what it lends, before the core sees it."""
        if not self._started or self._core == NULL:
            raise ShuttingDown("the core is not running")
        self._last_token += 1
        cdef _Waiting waiting = _Waiting(self._loop.create_future(), lent)
        self._waiting[self._last_token] = waiting
        return waiting

    def _reap(self):
        cdef vector[native.Completion] completions
        cdef vector[native.Event] events
        cdef size_t i
        if self._core == NULL:
            return
        with nogil:
            self._core.reap(completions, events)
        for i in range(completions.size()):
            self._complete(&completions[i])
        for i in range(events.size()):
            self._events.append(_event(&events[i]))
        if events.size() > 0:
            self._event_arrived.set()

    cdef int _complete(self, native.Completion* completion) except -1:
        cdef _Waiting waiting = self._waiting.pop(completion.token)
        cdef int code = error_number(completion.error)
        if waiting.future.done():  # cancelled
            return 0
        if code != 0:
            waiting.future.set_exception(make_error(code, _text(completion.message)))
        elif waiting.convert != NULL:
            waiting.future.set_result(waiting.convert(completion.reply.get()))
        else:
            waiting.future.set_result(None)
        return 0


def _reap_if_alive(reference):
    """The loop's reader; it must not keep alive a core that its owner has forgotten."""
    core = reference()
    if core is not None:
        core._reap()
