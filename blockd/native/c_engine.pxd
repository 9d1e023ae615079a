# Mirrors the plain values of cext/engine/volume.h, snapshot_reader.h and chunk_layers.h.
from libc.stdint cimport uint32_t, uint64_t
from libcpp cimport bool
from libcpp.string cimport string
from libcpp.vector cimport vector

from blockd.native.c_types cimport Uuid

cdef extern from "engine/volume.h" namespace "blockd::engine" nogil:
    cdef cppclass VolumeState:
        pass

    cdef cppclass MemberConfig:
        MemberConfig() noexcept
        Uuid host
        Uuid store
        uint32_t distance
        bool in_sync

    cdef cppclass SegmentConfig:
        SegmentConfig() noexcept
        uint32_t index
        uint64_t generation
        vector[MemberConfig] members

    cdef cppclass VolumeConfig:
        VolumeConfig() noexcept
        Uuid id
        string name
        uint64_t size_bytes
        uint64_t epoch
        uint32_t min_in_sync
        uint64_t io_timeout_us
        vector[SegmentConfig] segments
        uint32_t era

    cdef cppclass SegmentStatus:
        uint32_t index
        uint64_t generation
        VolumeState state
        vector[Uuid] in_sync
        vector[Uuid] joining
        vector[Uuid] absent
        vector[Uuid] behind
        vector[Uuid] missing
        vector[Uuid] differing
        uint64_t proven_ago_us
        uint64_t resync_bytes_done
        uint64_t resync_bytes_total
        uint64_t resync_us
        uint64_t in_flight

cdef extern from "engine/snapshot_reader.h" namespace "blockd::engine" nogil:
    cdef cppclass SnapshotConfig:
        SnapshotConfig() noexcept
        Uuid volume
        uint32_t era
        uint64_t size_bytes
        vector[SegmentConfig] segments

cdef extern from "engine/chunk_layers.h" namespace "blockd::engine" nogil:
    cdef cppclass BaseRules:
        BaseRules() noexcept
        bool self_ "self"
        uint32_t era
        uint32_t since
