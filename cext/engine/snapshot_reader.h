// A snapshot as a read-only block device: read from the replicas, without an engine or a lease.
//
// What a snapshot shows does not change (docs/SNAPSHOTS.md, P2), so every member that was in sync
// when the config was made may answer any read; the nearest that is connected is asked first, the
// others when it fails. All on one loop's thread.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "engine/block_backend.h"
#include "engine/volume.h"
#include "io/loop.h"

namespace blockd::peer {
class PeerHub;
}

namespace blockd::engine {

struct SnapshotConfig {
  Uuid volume;  // whose replicas hold it
  Era era = 0;  // 0: the current state, for a listing of a volume that nobody writes to
  std::uint64_t size_bytes = 0;
  std::vector<SegmentConfig> segments;  // members not in sync are ignored
};

// Mutations (ReadOnly) and reads beyond the end are refused; a flush is done at once. A block that
// no member can give fails with the last member's error. Reads are retried while members are merely
// away, for 30 s at most. Reads come answered from the loop, never from inside submit().
// The config is complete: every segment that the size needs, in order. `hub` outlives it.
class SnapshotReader : public BlockBackend {
 public:
  static std::unique_ptr<SnapshotReader> create(io::Loop& loop, peer::PeerHub& hub,
                                                SnapshotConfig config);

  // What each chunk of the volume holds (counted over the volume), holes left out: some at a time,
  // for there may be millions, each once, in no order. Fails with LinkLost when a segment has no
  // member that answers: then what was given is not all.
  struct Chunk {
    std::uint64_t chunk = 0;
    Version version;
    Era born = 0;
    std::uint16_t valid_mask = 0;  // 0: it covers a base
  };
  using Take = std::function<void(std::span<const Chunk>)>;
  virtual void list(Take take, std::function<void(Error)> done) = 0;
  // The segment's replicas have moved, or others are in sync now. One the config has not is left
  // alone, and so is news of a lower generation than is known: who was in sync before this reader
  // was made may have left before the snapshot ended.
  virtual void members_changed(const SegmentConfig& segment) = 0;
  // Requests under way are answered first; it may be destroyed after done.
  virtual void close(std::function<void()> done) = 0;
};

}  // namespace blockd::engine
