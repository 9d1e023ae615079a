# Mirrors cext/border/core.h, base_stack.h and changed_chunks.h.
from libc.stdint cimport int32_t, uint16_t, uint32_t, uint64_t
from libcpp cimport bool
from libcpp.memory cimport unique_ptr
from libcpp.optional cimport optional
from libcpp.pair cimport pair
from libcpp.string cimport string
from libcpp.vector cimport vector

from blockd.native.c_engine cimport (
    BaseRules,
    SegmentConfig,
    SegmentStatus,
    SnapshotConfig,
    VolumeConfig,
    VolumeState,
)
from blockd.native.c_store cimport (
    BlockLocation,
    CheckOptions,
    ChunkDigest,
    DumpOptions,
    FormatOptions,
    Openings,
    SegmentInfo,
    SnapshotSet,
    StoreInfo,
)
from blockd.native.c_types cimport Error, SegmentId, Uuid

cdef extern from "border/base_stack.h" nogil:
    cdef cppclass BasePtr "std::shared_ptr<const blockd::border::BaseSpec>":
        BasePtr() noexcept

cdef extern from "border/base_stack.h" namespace "blockd::border" nogil:
    cdef cppclass BaseSpec:
        BaseSpec() noexcept
        SnapshotConfig snapshot
        BaseRules rules
        BasePtr base

    cdef cppclass SnapshotSpec:
        SnapshotSpec() noexcept
        Uuid id
        string name
        SnapshotConfig snapshot
        BasePtr base

    BasePtr share_base "std::make_shared<const blockd::border::BaseSpec>"(const BaseSpec&) except +

cdef extern from "border/changed_chunks.h" namespace "blockd::border" nogil:
    cdef cppclass ChunkView:
        ChunkView() noexcept
        uint32_t era
        uint32_t base_era
        uint32_t since

cdef extern from "border/core.h" namespace "blockd::border" nogil:
    ctypedef uint64_t Token

    cdef cppclass CoreConfig:
        CoreConfig() noexcept
        Uuid host_id
        Uuid cluster_id
        uint64_t buffer_bytes
        uint64_t lease_us
        uint64_t heartbeat_us
        uint64_t member_timeout_us
        uint64_t attach_timeout_us
        uint16_t wire_version_max
        uint64_t rebuild_bytes_per_second
        uint32_t spin_us
        int32_t cpu

    cdef cppclass StoreReport:
        StoreInfo info
        string path

    cdef cppclass ReplicaReport:
        SegmentInfo info
        Uuid store_id
        uint64_t lease_us

    cdef cppclass ScrubCursor:
        ScrubCursor() noexcept
        SegmentId segment
        uint32_t chunk

    cdef cppclass ScrubFinding:
        SegmentId segment
        uint32_t block
        uint32_t born
        Error error

    cdef cppclass ScrubReport:
        Uuid store
        bool running
        bool finished
        uint64_t rate_bytes
        ScrubCursor cursor
        uint64_t chunks_done
        uint64_t chunks_total
        uint64_t read_bytes
        uint64_t findings_dropped
        vector[ScrubFinding] findings

    cdef cppclass Histogram:
        string name
        vector[uint64_t] buckets

    cdef cppclass Subject "blockd::border::CounterReport::Subject":
        bool operator==(Subject) noexcept

    cdef cppclass CounterReport:
        Subject subject
        Uuid id
        vector[pair[string, uint64_t]] counters
        vector[Histogram] histograms

    cdef cppclass Reply:
        Reply() noexcept
        string endpoint
        Uuid store_id
        BlockLocation location
        vector[StoreReport] stores
        vector[ReplicaReport] replicas
        vector[ChunkDigest] digests
        vector[SegmentStatus] segments
        vector[CounterReport] counters
        vector[ScrubReport] scrubs
        vector[uint32_t] chunks
        uint32_t era

    cdef cppclass Completion:
        Token token
        Error error
        string message
        unique_ptr[Reply] reply

    cdef cppclass EventKind "blockd::border::Event::Kind":
        bool operator==(EventKind) noexcept

    cdef cppclass Event:
        EventKind kind
        Uuid volume
        uint32_t segment
        uint64_t generation
        vector[Uuid] in_sync
        VolumeState state
        Error error
        Uuid host
        uint64_t value
        string text

    const char* state_name(VolumeState state) noexcept
    Error format_store(const string& path, const FormatOptions& options, uint64_t size_bytes,
                       string& message) noexcept
    Error check_store(const string& path, const CheckOptions& options, string& json,
                      string& message) noexcept
    Error dump_store(const string& path, const DumpOptions& options, string& json,
                     string& message) noexcept
    Error look_at_store(const string& path, const Uuid& cluster_id, Reply& reply,
                        string& message) noexcept

    cdef cppclass Core:
        Core(const CoreConfig& config) noexcept
        Error start(string& message) noexcept
        void close(Token token) noexcept
        void join() noexcept
        int event_fd() noexcept
        void reap(vector[Completion]& completions, vector[Event]& events) noexcept

        void open_store(Token token, const string& path, const Openings& newest) noexcept
        void close_store(Token token, const Uuid& store) noexcept
        void flush_store(Token token, const Uuid& store) noexcept
        void store_infos(Token token) noexcept
        void create_replica(Token token, const Uuid& store, const SegmentId& segment,
                            uint32_t block_count) noexcept
        void drop_replica(Token token, const SegmentId& segment) noexcept
        void list_replicas(Token token) noexcept
        void list_digests(Token token, const SegmentId& segment, bool read) noexcept
        void locate(Token token, const SegmentId& segment, uint32_t block) noexcept
        void set_snapshots(Token token, const SnapshotSet& set) noexcept
        void changed_chunks(Token token, const SegmentId& segment,
                            const optional[ChunkView]& before, const ChunkView& after) noexcept

        void start_scrub(Token token, const Uuid& store, uint64_t rate_bytes,
                         const ScrubCursor& cursor, uint64_t chunks_done) noexcept
        void stop_scrub(Token token, const Uuid& store) noexcept
        void scrub_reports(Token token) noexcept
        void repair_chunk(Token token, const SegmentId& segment, uint32_t chunk, uint32_t born,
                          const Uuid& host) noexcept

        void listen_peers(Token token, const string& endpoint) noexcept
        void set_peer(Token token, const Uuid& host, const string& endpoint) noexcept

        void attach(Token token, const VolumeConfig& config, const BasePtr& base) noexcept
        void attach_snapshot(Token token, const SnapshotSpec& spec) noexcept
        void detach(Token token, const Uuid& volume) noexcept
        void in_sync_changed(Token token, const Uuid& volume, const SegmentConfig& segment) noexcept
        void in_sync_change_failed(Token token, const Uuid& volume, uint32_t segment,
                                   Error error) noexcept
        void grow(Token token, const Uuid& volume, uint64_t size_bytes,
                  const vector[SegmentConfig]& new_segments) noexcept
        void shrink(Token token, const Uuid& volume, uint64_t size_bytes) noexcept
        void volume_status(Token token, const Uuid& volume) noexcept
        void begin_era(Token token, const Uuid& volume, uint32_t era) noexcept
        void hold_mutations(Token token, const Uuid& volume, uint64_t for_us) noexcept
        void flatten(Token token, const Uuid& volume, uint64_t bytes_per_second) noexcept
        void members_changed(Token token, const Uuid& volume,
                             const SegmentConfig& segment) noexcept

        void set_branch(Token token, const Uuid& volume, const Uuid& host,
                        const Uuid& branch) noexcept

        void nbd_listen(Token token, const string& endpoint) noexcept
        void nbd_close(Token token, const string& endpoint) noexcept
        void nbd_export(Token token, const Uuid& volume, const string& name,
                        const string& description, bool read_only) noexcept
        void nbd_unexport(Token token, const string& name) noexcept

        void read(Token token, const Uuid& volume, uint64_t offset, void* into,
                  uint64_t length) noexcept
        void write(Token token, const Uuid& volume, uint64_t offset, const void* data,
                   uint64_t length, bool fua) noexcept
        void flush(Token token, const Uuid& volume) noexcept
        void trim(Token token, const Uuid& volume, uint64_t offset, uint64_t length,
                  bool fua) noexcept
        void write_zeroes(Token token, const Uuid& volume, uint64_t offset, uint64_t length,
                          bool fua) noexcept

        void stats(Token token) noexcept

cdef extern from "border/core.h" namespace "blockd::border::Event::Kind" nogil:
    const EventKind in_sync_change_wanted
    const EventKind state_changed

cdef extern from "border/core.h" namespace "blockd::border::CounterReport::Subject" nogil:
    const Subject subject_store "blockd::border::CounterReport::Subject::store"
    const Subject subject_volume "blockd::border::CounterReport::Subject::volume"
    const Subject subject_nbd "blockd::border::CounterReport::Subject::nbd"
