// Everything that one host holds on its reactor: stores, peers, attached volumes, NBD exports.
//
// All on one loop's thread, the one that also made it; a state machine that is given its loop,
// network and disks, so that it runs in the simulator too. Each command is answered once, through
// the sink, by its token, never twice. What must not happen inside a callback of a lower room
// (closing, destroying) happens in a later iteration of the loop, after every deferred task of this
// one. Order of life: a volume's exports go before the volume, volumes before peers, peers before
// stores; close() keeps it and then calls back. A front that does not drain in time (a stalled
// volume) does not hold up the end: its engine is closed under it and fails its requests.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "base/buffer.h"
#include "border/base_stack.h"
#include "border/changed_chunks.h"
#include "border/core.h"
#include "border/scrubber.h"
#include "border/volume_io.h"
#include "engine/resync_pace.h"
#include "engine/volume.h"
#include "io/disk.h"
#include "io/link.h"
#include "io/loop.h"
#include "nbd/nbd_server.h"
#include "peer/peer_hub.h"
#include "store/store.h"

namespace blockd::border {

struct PlaneConfig {
  peer::HubConfig hub;
  std::uint64_t attach_timeout_us = 30'000'000;
  std::uint64_t rebuild_bytes_per_second = 0;  // 0: no limit
};

// Where answers and events go; called on the loop's thread, from inside commands too.
class PlaneSink {
 public:
  virtual ~PlaneSink() = default;
  virtual void answer(Completion completion) noexcept = 0;
  virtual void happened(Event event) noexcept = 0;
};

// Opens the disk at a path. Throws Fault.
using DiskOpener = std::function<std::unique_ptr<io::Disk>(const std::string& path)>;

class HostPlane final : public engine::VolumeEvents, public peer::HubWatcher, public IoJobSink {
 public:
  // Throws Fault when the pools are too small for what runs on them.
  HostPlane(io::Loop& loop, Buffers& buffers, io::Network& network, DiskOpener open_disk,
            PlaneConfig config, PlaneSink& sink);
  ~HostPlane() override;  // REQUIRES: closed, or never given a command
  HostPlane(const HostPlane&) = delete;
  HostPlane& operator=(const HostPlane&) = delete;

  // Later commands are answered with ShuttingDown. `done` comes from the loop; the plane may be
  // destroyed after it has returned.
  void close(std::function<void()> done);

  void open_store(Token token, const std::string& path,
                  const store::Openings& newest = {}) noexcept;
  void close_store(Token token, const Uuid& store) noexcept;
  // Answered when the store has flushed its device: that it does its work.
  void flush_store(Token token, const Uuid& store) noexcept;
  void store_infos(Token token) noexcept;
  void create_replica(Token token, const Uuid& store, const SegmentId& id,
                      std::uint32_t block_count) noexcept;
  void drop_replica(Token token, const SegmentId& id) noexcept;
  void list_replicas(Token token) noexcept;
  void list_digests(Token token, const SegmentId& id, bool read) noexcept;
  void locate(Token token, const SegmentId& id, std::uint32_t block) noexcept;

  void set_snapshots(Token token, store::SnapshotSet set) noexcept;
  void changed_chunks(Token token, const SegmentId& id, std::optional<ChunkView> from,
                      ChunkView to) noexcept;

  // A scrub that runs is begun anew at the cursor.
  void start_scrub(Token token, const Uuid& store, std::uint64_t rate_bytes,
                   const ScrubCursor& cursor, std::uint64_t chunks_done) noexcept;
  void stop_scrub(Token token, const Uuid& store) noexcept;
  void scrub_reports(Token token) noexcept;
  void repair_chunk(Token token, const SegmentId& id, std::uint32_t chunk, Era born,
                    const Uuid& host) noexcept;

  void listen_peers(Token token, const std::string& endpoint) noexcept;
  void set_peer(Token token, const Uuid& host, const std::string& endpoint) noexcept;

  void attach(Token token, const engine::VolumeConfig& config,
              const std::shared_ptr<const BaseSpec>& base = nullptr) noexcept;
  void attach_snapshot(Token token, const SnapshotSpec& spec) noexcept;
  void detach(Token token, const Uuid& volume) noexcept;
  void in_sync_changed(Token token, const Uuid& volume,
                       const engine::SegmentConfig& segment) noexcept;
  void in_sync_change_failed(Token token, const Uuid& volume, std::uint32_t segment,
                             Error error) noexcept;
  void grow(Token token, const Uuid& volume, std::uint64_t size_bytes,
            const std::vector<engine::SegmentConfig>& new_segments) noexcept;
  // Answered when nothing is left behind the new end, durably.
  void shrink(Token token, const Uuid& volume, std::uint64_t size_bytes) noexcept;
  void volume_status(Token token, const Uuid& volume) noexcept;
  void begin_era(Token token, const Uuid& volume, Era era) noexcept;
  void hold_mutations(Token token, const Uuid& volume, std::uint64_t for_us) noexcept;
  void flatten(Token token, const Uuid& volume, std::uint64_t bytes_per_second) noexcept;
  void members_changed(Token token, const Uuid& volume,
                       const engine::SegmentConfig& segment) noexcept;

  void set_branch(Token token, const Uuid& volume, const Uuid& host, const Uuid& branch) noexcept;

  void nbd_listen(Token token, const std::string& endpoint) noexcept;
  void nbd_close(Token token, const std::string& endpoint) noexcept;
  void nbd_export(Token token, const Uuid& volume, const std::string& name,
                  const std::string& description, bool read_only) noexcept;
  void nbd_unexport(Token token, const std::string& name) noexcept;

  void submit_io(const Uuid& volume, std::unique_ptr<IoJob> job) noexcept;

  // `reactor` is what the owner has counted about the loop itself.
  void stats(Token token, CounterReport reactor) noexcept;

 private:
  struct OpenStore {
    std::string path;
    std::unique_ptr<io::Disk> disk;  // outlives the store
    std::unique_ptr<store::Store> store;
    std::unique_ptr<Scrubber> scrubber;  // null: none was started; goes before the store
    bool closing = false;
  };
  struct Replica {  // where a segment's replica is here
    OpenStore* open = nullptr;
    store::SegmentHandle segment = 0;
  };
  // A volume with its engine, or a snapshot that is read here.
  struct Attached {
    HostPlane* plane = nullptr;
    Uuid id;
    Uuid snapshot_of;                                // a snapshot: of which volume
    std::vector<engine::SegmentConfig> segments;     // of a volume with a base, as last heard
    std::unique_ptr<engine::Volume> volume;          // null: it is a snapshot
    std::unique_ptr<engine::SnapshotReader> reader;  // of the snapshot; of a volume with a base:
                                                     // its own chunks, once it has served
    std::unique_ptr<BaseStack> base;                 // null: there is nothing beneath
    std::unique_ptr<VolumeIo> io;                    // goes before them
    std::vector<std::string> exports;
    std::size_t removals = 0;        // exports that are draining
    Token attach_token = 0;          // 0: attach() has been answered
    Error attach_error = Error::Ok;  // the last one heard while opening
    Token grow_token = 0;            // 0: no grow() waits
    Token shrink_token = 0;          // 0: no shrink() waits
    std::set<Token> engine_tokens;   // repair_chunk(), begin_era() that wait
    io::Timer deadline;              // of attach(); then of draining exports, then layers
    bool base_opening = false;
    bool closing = false;
    bool unexported = false;  // nothing outside refers to the volume any more
    bool layers_closing = false;
    std::size_t layers_open = 0;  // while they close
    bool engine_closing = false;
    bool engine_closed = false;
    Error close_error = Error::Ok;
    std::vector<std::function<void(Error, Era)>> when_closed;  // the engine's last era; 0: none

    [[nodiscard]] engine::BlockBackend& backend() noexcept;
  };
  struct Branch {
    Uuid volume;        // that it is
    bool told = false;  // that it has something
  };
  struct PreserveJob;
  struct ChunkScan {  // a changed_chunks() on its way
    HostPlane* plane = nullptr;
    Token token = 0;
    SegmentId id;
    ChangedChunks chunks;
    io::Timer timer;
  };

  // engine::VolumeEvents
  void in_sync_change_wanted(const Uuid& volume, std::uint32_t segment, std::uint64_t generation,
                             const std::vector<Uuid>& in_sync,
                             const char* reason) noexcept override;
  void state_changed(const Uuid& volume, engine::VolumeState state, Error error) noexcept override;
  void notice(const Uuid& volume, std::uint32_t segment, const Uuid& host, const char* kind,
              std::uint64_t value) noexcept override;
  void preserve(const Uuid& volume, engine::Preserve& content) noexcept override;
  // peer::HubWatcher
  void peer_refused(const Uuid& host, Error reason) noexcept override;
  // IoJobSink
  void finished(std::unique_ptr<IoJob> job) noexcept override;

  // host_plane.cc
  template <class Command>
  void guard(Token token, Command command) noexcept;
  void answer(Token token, Error error, std::string message = {}) noexcept;
  void answer(Token token, std::unique_ptr<Reply> reply) noexcept;
  void answer_era(Token token, Era era) noexcept;
  void later(std::function<void()> action);
  void run_later() noexcept;
  OpenStore& open_store_of(const Uuid& store);
  Replica replica_of(const SegmentId& id);
  void store_opened(Token token, const Uuid& id, Error error) noexcept;
  void exports_closed();
  void advance_closing();
  void close_stores();
  void close_store_now(OpenStore& open, std::function<void(Error)> done);
  [[nodiscard]] static StoreReport report(const OpenStore& open);

  // host_volumes.cc
  Attached& attached_of(const Uuid& volume);
  Attached& engine_of(const Uuid& volume);  // not a snapshot
  void admit(std::unique_ptr<Attached> fresh, Token token);
  void open_base(Attached& attached);
  void base_opened(const Uuid& volume, Error error);
  void end_attach(Attached& attached, Error error, std::string message = {}) noexcept;
  void end_grow(const Uuid& volume, Error error) noexcept;
  void shrink_engine(const Uuid& volume, std::uint64_t size_bytes, bool clear);
  void end_shrink(const Uuid& volume, Error error) noexcept;
  void take_up_size(const Attached& attached) noexcept;
  void end_if_lost(const Uuid& volume) noexcept;
  [[nodiscard]] static std::string obstacle(const Attached& attached);
  void close_volume(Attached& attached, std::function<void(Error, Era)> done);
  void unexport(Attached& attached);
  void remove_export(Attached& attached, const std::string& name, std::function<void(Error)> done);
  void exports_gone(const Uuid& volume);
  void close_layers(Attached& attached);
  void close_engine(Attached& attached);
  void drop_if_closed(const Uuid& volume);

  void end_engine_command(const Uuid& volume, Token token, Error error) noexcept;

  // host_snapshots.cc
  void tell_readers(const Uuid& volume, const engine::SegmentConfig& segment);
  void end_begin_era(const Uuid& volume, Token token, Error error) noexcept;
  void step_scan(ChunkScan& scan) noexcept;
  void end_scans() noexcept;

  // host_branches.cc
  [[nodiscard]] engine::Volume* branch_engine(const Uuid& branch) noexcept;
  void compare_kept(PreserveJob& job) noexcept;
  void kept_read(PreserveJob& job) noexcept;
  void end_preserve(PreserveJob& job, Error error) noexcept;
  void branch_used(const PreserveJob& job) noexcept;
  void branch_taken(const Uuid& volume, const Uuid& host) noexcept;

  // host_stats.cc
  [[nodiscard]] CounterReport store_counters(const Uuid& id, const OpenStore& open) const;
  [[nodiscard]] CounterReport volume_counters(const Uuid& id, const Attached& attached,
                                              const nbd::NbdStats& nbd) const;

  io::Loop& loop_;
  Buffers& buffers_;
  PlaneConfig config_;
  PlaneSink& sink_;
  DiskOpener open_disk_;
  std::vector<std::function<void()>> later_;
  io::Timer later_timer_;
  std::map<Uuid, OpenStore> stores_;  // by store id; nodes stay where they are
  std::map<Uuid, store::SnapshotSet> snapshots_;
  std::map<Token, ChunkScan> scans_;
  std::unique_ptr<peer::PeerHub> hub_;
  engine::ResyncPace pace_;
  std::map<Uuid, std::unique_ptr<Attached>> volumes_;
  std::map<std::pair<Uuid, Uuid>, Branch> branches_;  // by volume and host
  std::map<std::string, Uuid> exports_;               // name to volume or snapshot
  std::unique_ptr<nbd::NbdServer> nbd_;
  std::function<void()> when_closed_;
  bool closing_ = false;
  bool exports_closed_ = false;
  bool hub_closing_ = false;
  bool closed_ = false;
};

}  // namespace blockd::border
