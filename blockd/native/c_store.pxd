# Mirrors the plain values of cext/store/store.h, checker.h and dump.h.
from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libcpp cimport bool
from libcpp.map cimport map as cpp_map
from libcpp.vector cimport vector

from blockd.native.c_types cimport Error, SegmentId, Uuid, Version

cdef extern from "format/disk.h" namespace "blockd::format" nogil:
    cdef cppclass DeviceFindings:
        uint64_t probed_unix_s
        uint32_t direct_alignment_bytes
        uint32_t logical_block_bytes
        uint32_t physical_block_bytes
        uint32_t atomic_write_bytes
        uint32_t discard_granularity_bytes
        uint32_t flags
        uint32_t write_us
        uint32_t flush_us
        uint32_t dsync_write_us
        uint32_t write_mib_s
        uint32_t read_mib_s
        uint32_t write_iops
        uint32_t flushed_write_iops

    enum: rotational_told "blockd::format::DeviceFindings::rotational_told"
    enum: rotational "blockd::format::DeviceFindings::rotational"
    enum: cache_told "blockd::format::DeviceFindings::cache_told"
    enum: volatile_cache "blockd::format::DeviceFindings::volatile_cache"
    enum: fua_told "blockd::format::DeviceFindings::fua_told"
    enum: fua_works "blockd::format::DeviceFindings::fua"
    enum: discard_zeroes "blockd::format::DeviceFindings::discard_zeroes"

cdef extern from "store/store.h" namespace "blockd::store" nogil:
    cdef cppclass FormatOptions:
        FormatOptions() noexcept
        Uuid store_id
        Uuid cluster_id
        uint64_t journal_bytes
        bool force
        bool power_loss_protected
        uint64_t incarnation
        DeviceFindings findings

    ctypedef cpp_map[Uuid, uint64_t] Openings

    cdef cppclass StoreInfo:
        Uuid store_id
        uint64_t capacity_bytes
        uint64_t allocated_bytes
        uint64_t past_bytes
        uint64_t journal_bytes
        uint64_t journal_used_bytes
        uint32_t segment_count
        bool power_loss_protected
        DeviceFindings findings
        uint64_t incarnation
        Error failed

    cdef cppclass SegmentInfo:
        SegmentId id
        uint32_t block_count
        uint64_t promised_epoch
        Version stable
        uint32_t chunk_count
        uint32_t past_count
        uint32_t newest_era

    cdef cppclass SnapshotSet:
        SnapshotSet() noexcept
        Uuid volume
        uint32_t known_below
        vector[uint32_t] eras
        uint32_t uncovered_below

    cdef cppclass ChunkDigest:
        uint32_t chunk
        Version version
        uint16_t valid_mask
        uint32_t digest

    cdef cppclass BlockLocation:
        bool allocated
        uint64_t device_offset_bytes
        bool in_journal
        Version chunk_version
        uint32_t crc32c

cdef extern from "store/checker.h" namespace "blockd::store" nogil:
    cdef cppclass CheckOptions:
        CheckOptions() noexcept
        bool data
        bool repair

cdef extern from "store/dump.h" namespace "blockd::store" nogil:
    cdef cppclass DumpOptions:
        DumpOptions() noexcept
        bool superblock
        bool checkpoint
        bool segments
        bool journal
        bool chunks
        SegmentId segment
