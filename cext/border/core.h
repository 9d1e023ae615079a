// One host's data plane as Python sees it: commands in, completions and events out.
//
// Core owns one reactor thread and everything on it (reactor.h). Any thread may give commands; each
// carries a token and is answered by exactly one Completion with that token, in any order.
// Completions and events wait in the outbox until reap() takes the batch; event_fd() is readable
// while there are any. Memory lent to read() and write() is used until the completion has been
// reaped. Nothing here throws once the constructor has returned: a Fault ends in this room and
// becomes code and message.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "blockd/errors.h"
#include "blockd/types.h"
#include "border/base_stack.h"
#include "border/changed_chunks.h"
#include "border/scrubber.h"
#include "engine/volume.h"
#include "store/checker.h"
#include "store/dump.h"
#include "store/store.h"

namespace blockd::border {

using Token = std::uint64_t;

struct CoreConfig {
  Uuid host_id;
  Uuid cluster_id;
  std::uint64_t buffer_bytes = 256u << 20;  // for all pools together
  std::uint64_t lease_us = 1'000'000;
  std::uint64_t heartbeat_us = 200'000;
  std::uint64_t member_timeout_us = 1'000'000;
  std::uint64_t attach_timeout_us = 30'000'000;  // from attach() to serving
  std::uint16_t wire_version_max = 0;            // of the peer protocol; 0: the newest
  std::uint64_t rebuild_bytes_per_second = 0;    // of all volumes together; 0: no limit
  std::uint32_t spin_us = 0;                     // polled before the reactor sleeps
  std::int32_t cpu = -1;                         // the reactor thread's; -1: any
};

struct StoreReport {
  store::StoreInfo info;
  std::string path;
};

struct ReplicaReport {
  store::SegmentInfo info;
  Uuid store_id;
  std::uint64_t lease_us = 0;  // that an engine of the volume has here from now; 0: none has one
};

struct Histogram {
  std::string name;
  std::vector<std::uint64_t> buckets;  // bucket i: [2^i, 2^(i+1)) microseconds
};

// What one thing has counted since it was opened.
struct CounterReport {
  enum class Subject : std::uint8_t { store, volume, nbd, reactor };
  Subject subject = Subject::reactor;
  Uuid id;  // of a store or volume
  std::vector<std::pair<std::string, std::uint64_t>> counters;
  std::vector<Histogram> histograms;
};

// What a command has to say beyond done or failed; only the fields of that command are filled.
struct Reply {
  std::string endpoint;                         // listen_peers, nbd_listen
  Uuid store_id;                                // locate
  store::BlockLocation location;                // locate
  std::vector<StoreReport> stores;              // open_store (one), store_infos
  std::vector<ReplicaReport> replicas;          // list_replicas
  std::vector<store::ChunkDigest> digests;      // list_digests
  std::vector<engine::SegmentStatus> segments;  // volume_status
  std::vector<CounterReport> counters;          // stats
  std::vector<ScrubReport> scrubs;              // scrub_reports: of stores that were scrubbed
  std::vector<std::uint32_t> chunks;            // changed_chunks: ascending
  Era era = 0;  // attach, begin_era, detach: the engine's, which members' stores may have raised
};

struct Completion {
  Token token = 0;
  Error error = Error::Ok;
  std::string message;           // one line for the user; empty: the error's meaning will do
  std::unique_ptr<Reply> reply;  // null: nothing to say
};

struct Event {
  enum class Kind : std::uint8_t { in_sync_change_wanted, state_changed, notice };
  Kind kind = Kind::notice;
  Uuid volume;
  std::uint32_t segment = 0;
  std::uint64_t generation = 0;                              // in_sync_change_wanted
  std::vector<Uuid> in_sync;                                 // in_sync_change_wanted
  engine::VolumeState state = engine::VolumeState::opening;  // state_changed
  Error error = Error::Ok;                                   // state_changed
  Uuid host;                                                 // notice
  std::uint64_t value = 0;                                   // notice
  std::string text;  // the reason wanted for, or the notice's kind
};

[[nodiscard]] const char* state_name(engine::VolumeState state) noexcept;  // "serving"

// Creates `path` as a file of `size_bytes` when that is not 0, then formats a store on it. Blocks;
// for any thread. On failure `message` is the line for the user.
Error format_store(const std::string& path, const store::FormatOptions& options,
                   std::uint64_t size_bytes, std::string& message) noexcept;

// Looks at the store on `path`, which nobody else may have open; changes nothing, but for a repair.
// Blocks; for any thread. Ok: `json` is the report (store/checker.h).
Error check_store(const std::string& path, const store::CheckOptions& options, std::string& json,
                  std::string& message) noexcept;
// Likewise; `json` is what store/dump.h says.
Error dump_store(const std::string& path, const store::DumpOptions& options, std::string& json,
                 std::string& message) noexcept;

// Likewise, and nothing is written: `reply` says what a Core that opened the store would list, the
// store and its replicas. An opening would make an older copy of a store less old.
Error look_at_store(const std::string& path, const Uuid& cluster_id, Reply& reply,
                    std::string& message) noexcept;

class Reactor;
class Outbox;
struct IoJob;

class Core {
 public:
  explicit Core(const CoreConfig& config) noexcept;
  ~Core();  // closes, blocking, when close() was never given
  Core(const Core&) = delete;
  Core& operator=(const Core&) = delete;

  // Blocks until the thread runs. REQUIRES for all that follows: it returned Ok.
  Error start(std::string& message) noexcept;
  // Exports, volumes, peers and stores are closed in that order; the completion is the last one.
  void close(Token token) noexcept;
  // Blocks until the thread has ended; after the completion of close() that is soon.
  void join() noexcept;

  [[nodiscard]] int event_fd() const noexcept;
  // Moves everything that waits to the ends of these; clears event_fd().
  void reap(std::vector<Completion>& completions, std::vector<Event>& events) noexcept;

  // `newest`: the openings that are known of; OlderCopy for a store that has not seen its own.
  void open_store(Token token, const std::string& path,
                  const store::Openings& newest = {}) noexcept;
  void close_store(Token token, const Uuid& store) noexcept;
  void flush_store(Token token, const Uuid& store) noexcept;
  void store_infos(Token token) noexcept;
  // Idempotent: a replica that is there is left alone, or grown when it is shorter.
  void create_replica(Token token, const Uuid& store, const SegmentId& segment,
                      std::uint32_t block_count) noexcept;
  void drop_replica(Token token, const SegmentId& segment) noexcept;
  void list_replicas(Token token) noexcept;
  void list_digests(Token token, const SegmentId& segment, bool read) noexcept;
  void locate(Token token, const SegmentId& segment, std::uint32_t block) noexcept;
  // To all stores that are open, and to those that will be.
  void set_snapshots(Token token, const store::SnapshotSet& set) noexcept;
  void changed_chunks(Token token, const SegmentId& segment, const std::optional<ChunkView>& from,
                      const ChunkView& to) noexcept;

  void start_scrub(Token token, const Uuid& store, std::uint64_t rate_bytes,
                   const ScrubCursor& cursor, std::uint64_t chunks_done) noexcept;
  void stop_scrub(Token token, const Uuid& store) noexcept;
  void scrub_reports(Token token) noexcept;
  // Of a volume attached here: the chunk at one member, from another.
  void repair_chunk(Token token, const SegmentId& segment, std::uint32_t chunk, Era born,
                    const Uuid& host) noexcept;

  void listen_peers(Token token, const std::string& endpoint) noexcept;
  void set_peer(Token token, const Uuid& host, const std::string& endpoint) noexcept;

  // With a base: answered when that can be read, too.
  void attach(Token token, const engine::VolumeConfig& config,
              const std::shared_ptr<const BaseSpec>& base = nullptr) noexcept;
  // Read-only, under the snapshot's own id: for nbd_export, read, detach.
  void attach_snapshot(Token token, const SnapshotSpec& spec) noexcept;
  void detach(Token token, const Uuid& volume) noexcept;
  void in_sync_changed(Token token, const Uuid& volume,
                       const engine::SegmentConfig& segment) noexcept;
  void in_sync_change_failed(Token token, const Uuid& volume, std::uint32_t segment,
                             Error error) noexcept;
  void grow(Token token, const Uuid& volume, std::uint64_t size_bytes,
            const std::vector<engine::SegmentConfig>& new_segments) noexcept;
  // What lies behind the new end is gone, on all members, when it is answered.
  void shrink(Token token, const Uuid& volume, std::uint64_t size_bytes) noexcept;
  void volume_status(Token token, const Uuid& volume) noexcept;
  // Answered when the snapshot of the era before is final.
  void begin_era(Token token, const Uuid& volume, Era era) noexcept;
  void hold_mutations(Token token, const Uuid& volume, std::uint64_t for_us) noexcept;
  // Answered when nothing shows the base any more and that is durable.
  void flatten(Token token, const Uuid& volume, std::uint64_t bytes_per_second) noexcept;
  // The replicas of a snapshot's volume have moved: whoever reads it here is told.
  void members_changed(Token token, const Uuid& volume,
                       const engine::SegmentConfig& segment) noexcept;

  // What a resync would take from a member at `host` of the volume goes to the volume `branch`,
  // which is attached here, too, until one of the two is not any more.
  void set_branch(Token token, const Uuid& volume, const Uuid& host, const Uuid& branch) noexcept;

  void nbd_listen(Token token, const std::string& endpoint) noexcept;
  void nbd_close(Token token, const std::string& endpoint) noexcept;
  void nbd_export(Token token, const Uuid& volume, const std::string& name,
                  const std::string& description, bool read_only) noexcept;
  void nbd_unexport(Token token, const std::string& name) noexcept;

  void read(Token token, const Uuid& volume, std::uint64_t offset, void* into,
            std::uint64_t length) noexcept;
  void write(Token token, const Uuid& volume, std::uint64_t offset, const void* from,
             std::uint64_t length, bool fua) noexcept;
  void flush(Token token, const Uuid& volume) noexcept;
  void trim(Token token, const Uuid& volume, std::uint64_t offset, std::uint64_t length,
            bool fua) noexcept;
  void write_zeroes(Token token, const Uuid& volume, std::uint64_t offset, std::uint64_t length,
                    bool fua) noexcept;

  void stats(Token token) noexcept;

 private:
  void give_io(const Uuid& volume, const IoJob& fresh) noexcept;

  CoreConfig config_;
  std::unique_ptr<Outbox> outbox_;    // outlives the reactor, which fills it
  std::unique_ptr<Reactor> reactor_;  // null: start() failed, or was not given
};

}  // namespace blockd::border
