// A volume over its base: what a clone, and a volume that was rolled back, show (docs/SNAPSHOTS.md,
// "Base").
//
// Which chunks are the volume's own is learnt once, by open(), from listings of both layers, and kept
// in memory from then on (three bits a chunk). Reads go to the layer that has the chunk; a mutation
// of a part of a chunk that shows the base copies the chunk up first. All on one loop's thread.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "base/buffer.h"
#include "engine/block_backend.h"
#include "engine/snapshot_reader.h"
#include "io/loop.h"

namespace blockd::engine {

struct BaseRules {
  bool self = false;  // rolled back: the base is a snapshot of the volume itself
  Era era = 0;        // of the base
  Era since = 1;      // content born before it, and (self) after `era`, does not count
  // An upper layer that does not change (a snapshot that has a base): what is its own goes by the
  // listing alone, and mutations are refused.
  bool read_only = false;
};

class Layered : public BlockBackend {
 public:
  using Chunk = SnapshotReader::Chunk;
  // Lists a layer's chunks; called by open().
  using Lister = std::function<void(std::function<void(Error, std::vector<Chunk>)>)>;

  // Both layers outlive it.
  static std::unique_ptr<Layered> create(io::Loop& loop, Buffers& buffers, BlockBackend& upper,
                                         BlockBackend& base, BaseRules rules);

  // Requests wait until it is done. Fails with the listing's error: then every request does.
  virtual void open(const Lister& list_upper, const Lister& list_base,
                    std::function<void(Error)> done) = 0;
  // Of this one as the base of another: the chunks of both layers that it shows.
  virtual void list(std::function<void(Error, std::vector<Chunk>)> done) = 0;
  // The volume has grown.
  virtual void resized() noexcept = 0;

  // Copies up what shows the base, at most so many bytes a second, beside other requests. Done with
  // Ok when nothing shows the base any more and all of it is durable. A second call changes the
  // rate.
  virtual void flatten(std::uint64_t bytes_per_second, std::function<void(Error)> done) = 0;
  [[nodiscard]] virtual std::uint64_t chunks_of_base() const noexcept = 0;  // that still show

  virtual void close(std::function<void()> done) = 0;  // as SnapshotReader's
};

}  // namespace blockd::engine
