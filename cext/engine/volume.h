// A volume's engine: the one coordinator of its I/O, on the host that holds the attachment.
//
// Protocol and invariants: docs/REPLICATION.md. Life: create -> start() -> opening -> serving ->
// close(). All on one loop's thread. It never talks to the metadata service: it asks through
// VolumeEvents and is answered through in_sync_changed().
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/buffer.h"
#include "blockd/types.h"
#include "engine/block_backend.h"
#include "io/loop.h"

namespace blockd::peer {
class PeerHub;
}

namespace blockd::engine {

class ResyncPace;

struct MemberConfig {
  Uuid host;
  Uuid store;
  std::uint32_t distance = 0;  // 0 this host; else grows with network distance: reads prefer small
  bool in_sync = false;        // as agreed through Raft
};

struct SegmentConfig {
  std::uint32_t index = 0;
  std::uint64_t generation = 0;  // of the in-sync set; the compare-and-set token
  std::vector<MemberConfig> members;
};

struct VolumeConfig {
  Uuid id;
  std::string name;
  std::uint64_t size_bytes = 0;
  std::uint64_t epoch = 0;
  std::uint32_t min_in_sync = 1;
  std::uint64_t io_timeout_us = 0;  // a request that gets no quorum fails after it; 0: kIoTimeoutUs
  std::vector<SegmentConfig> segments;  // ascending, complete
  Era era = 1;  // docs/SNAPSHOTS.md; of a running volume no less than any that a member has met
};

enum class VolumeState : std::uint8_t {
  opening,  // fencing, collecting, reconciling
  serving,  // every segment serves
  stalled,  // some segment has lost its quorum or lease: I/O waits
  fenced,   // a newer attachment exists; terminal: every request fails with EpochFenced
  closing,
  closed
};

struct SegmentStatus {
  static constexpr std::uint64_t kNeverProven = ~std::uint64_t{0};
  std::uint32_t index = 0;
  std::uint64_t generation = 0;
  VolumeState state = VolumeState::opening;
  std::vector<Uuid> in_sync;  // agreed
  std::vector<Uuid> joining;  // being resynced now
  std::vector<Uuid> absent;   // members neither in sync nor joining
  std::vector<Uuid> behind;   // of those in sync, the ones that do not have everything now
  std::vector<Uuid> missing;  // of those in sync, the ones whose hosts say they have none
  bool lost = false;  // so many of them that what is left need not have every acknowledged write
  std::vector<Uuid> differing;  // did not hold the same when their roots were last compared
  // Since all members that are in sync were last seen to hold the same; kNeverProven: not yet.
  std::uint64_t proven_ago_us = kNeverProven;
  std::uint64_t resync_bytes_done = 0;  // of the current or last resync of this segment
  std::uint64_t resync_bytes_total = 0;
  std::uint64_t resync_us = 0;  // since it began to copy; 0: none is under way
  std::uint64_t in_flight = 0;
};

struct VolumeStats {
  std::uint64_t reads = 0, read_bytes = 0, writes = 0, write_bytes = 0, flushes = 0, trims = 0;
  std::uint64_t errors = 0;
  std::uint64_t remote_reads = 0;      // served by another member than the local one
  std::uint64_t resync_bytes = 0;      // payload bytes copied to members by resyncs, since start
  std::uint64_t reconcile_bytes = 0;   // payload bytes copied while opening
  std::uint64_t open_duration_us = 0;  // start() to first serving
};

// What a member has of a chunk, and the segment's history has not: a resync would take it away.
struct Preserve {
  Uuid host;                       // the member's
  std::uint64_t offset_bytes = 0;  // of the chunk in the volume, which may end before or within it
  std::byte* data = nullptr;       // kChunkBytes, holes as zeros
  BufferRef hold;                  // keeps `data` alive
  Error error = Error::Ok;         // set before done()
  void (*done)(Preserve&) noexcept = nullptr;
  void* owner = nullptr;
};

// Called on the loop's thread, never from inside a call to the volume.
class VolumeEvents {
 public:
  virtual ~VolumeEvents() = default;
  // The engine wants the segment's in-sync set to become `in_sync` if it still has `generation`.
  // Repeated until in_sync_changed() answers; a change that comes from elsewhere is an answer too.
  virtual void in_sync_change_wanted(const Uuid& volume, std::uint32_t segment,
                                     std::uint64_t generation, const std::vector<Uuid>& in_sync,
                                     const char* reason) noexcept = 0;
  virtual void state_changed(const Uuid& volume, VolumeState state, Error error) noexcept = 0;
  // Keep it, durably, in the volume's branch of that host (docs/REPLICATION.md, B); then done(),
  // from the loop. NotFound: there is none (yet), and the engine says so ("branch-wanted") and
  // tries again; so it does after any other error. May be called from inside a call to the volume.
  virtual void preserve(const Uuid& volume, Preserve& content) noexcept = 0;
  // For the log and events stream: member lost, resync started/finished, block repaired, ...
  virtual void notice(const Uuid& volume, std::uint32_t segment, const Uuid& host, const char* kind,
                      std::uint64_t value) noexcept = 0;
};

class Volume : public BlockBackend {
 public:
  // hub reaches the members, the local one included (peer/peer_hub.h).
  // pace: the host's.
  static std::unique_ptr<Volume> create(io::Loop& loop, Buffers& buffers, peer::PeerHub& hub,
                                        ResyncPace& pace, VolumeEvents& events,
                                        VolumeConfig config);

  virtual void start() noexcept = 0;
  // The agreed truth about one segment, an answer or news; older generations are ignored.
  virtual void in_sync_changed(const SegmentConfig& segment) noexcept = 0;
  // The metadata service refused or did not answer: the engine asks again later.
  virtual void in_sync_change_failed(std::uint32_t segment, Error error) noexcept = 0;
  // Segments that it does not have yet come with their config; the size changes when all serve.
  virtual void grow(std::uint64_t size_bytes, std::vector<SegmentConfig> new_segments,
                    std::function<void(Error)> done) = 0;
  // Done when every request that was submitted before has been answered. Busy: one waits already.
  virtual void drain(std::function<void(Error)> done) = 0;
  // From now on requests end at `size_bytes`, which is less than the size: what reaches behind is
  // refused, what was submitted before is waited for. With `clear` what lies there is trimmed then,
  // and that flushed. An error (Busy: it is growing or shrinking already): the size stays, and what
  // was cleared stays cleared. Segments behind the end stay open: members that are away must not
  // come back with what was there, or growing again would show it.
  virtual void shrink(std::uint64_t size_bytes, bool clear, std::function<void(Error)> done) = 0;
  // Rewrites the chunk (its current content, or with `born` the past one that was born then) at one
  // member from another that holds it whole; clients wait meanwhile if
  // they touch it. Not called any more once the volume is closed. NotInSync: the member is not
  // ready; ChecksumMismatch: no other member that is ready could read the chunk; NotFound.
  virtual void repair_chunk(std::uint32_t segment, std::uint32_t chunk, Era born, const Uuid& host,
                            std::function<void(Error)> done) = 0;
  // From now on mutations are of `era`; a lower one changes nothing: config().era says. Done when
  // every mutation of an earlier era has left the engine: the snapshot of era - 1 is final. Fails
  // as close() and fencing fail requests.
  virtual void begin_era(Era era, std::function<void(Error)> done) = 0;
  // No mutation is sequenced for so long, or until it is called with 0; those that come wait.
  virtual void hold_mutations(std::uint64_t for_us) noexcept = 0;
  // Drains, flushes, marks everything stable, releases the leases; then closed. The volume may be
  // destroyed after done.
  virtual void close(std::function<void(Error)> done) = 0;

  [[nodiscard]] virtual VolumeState state() const noexcept = 0;
  [[nodiscard]] virtual const VolumeConfig& config() const noexcept = 0;
  [[nodiscard]] virtual const VolumeStats& stats() const noexcept = 0;
  // Of the segments up to the end.
  [[nodiscard]] virtual std::vector<SegmentStatus> status() const = 0;
};

}  // namespace blockd::engine
