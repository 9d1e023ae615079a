# Mirrors the plain values of cext/store/store.h.
from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libcpp cimport bool

from blockd.native.c_types cimport SegmentId, Uuid, Version

cdef extern from "store/store.h" namespace "blockd::store" nogil:
    cdef cppclass FormatOptions:
        FormatOptions() noexcept
        Uuid store_id
        Uuid cluster_id
        uint64_t journal_bytes
        bool force

    cdef cppclass StoreInfo:
        Uuid store_id
        uint64_t capacity_bytes
        uint64_t allocated_bytes
        uint64_t journal_bytes
        uint64_t journal_used_bytes
        uint32_t segment_count
        bool failed

    cdef cppclass SegmentInfo:
        SegmentId id
        uint32_t block_count
        uint64_t promised_epoch
        Version stable
        uint32_t chunk_count

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
