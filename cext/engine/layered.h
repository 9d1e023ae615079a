// A volume over its base: what a clone, and a volume that was rolled back, show (docs/SNAPSHOTS.md,
// "Base").
//
// Which chunks are the volume's own is learnt once, by open(), from listings of both layers, and
// kept in memory from then on (three bits a chunk). Reads go to the layer that has the chunk; a
// mutation of a part of a chunk that shows the base copies the chunk up first. A chunk is busy
// while it is copied up or overwritten as a whole: other mutations of it wait, reads still show the
// base. A request that one layer can serve alone is handed on as it is. All on one loop's thread.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "base/buffer.h"
#include "engine/block_backend.h"
#include "engine/chunk_layers.h"
#include "engine/snapshot_reader.h"
#include "io/loop.h"

namespace blockd::engine {

class Layered : public BlockBackend {
 public:
  using Chunk = SnapshotReader::Chunk;
  // Lists a layer's chunks; called by open().
  using Take = SnapshotReader::Take;
  using Lister = std::function<void(Take, std::function<void(Error)>)>;

  // Of the upper layer: calls back when all requests that it has now are answered.
  using Drain = std::function<void(std::function<void(Error)>)>;

  // Both layers outlive it. The base is not larger than the upper layer was when it got it.
  static std::unique_ptr<Layered> create(io::Loop& loop, Buffers& buffers, BlockBackend& upper,
                                         BlockBackend& base, BaseRules rules);

  // Requests wait until it is done. Fails with the listing's error: then every request does.
  virtual void open(const Lister& list_upper, const Lister& list_base,
                    std::function<void(Error)> done) = 0;
  // Of this one as the base of another: the chunks of both layers that it shows, and that have
  // data; as SnapshotReader's. REQUIRES: it is open, and read-only.
  virtual void list(Take take, std::function<void(Error)> done) = 0;
  // The upper layer has grown: chunks that are new are its own.
  virtual void resized() noexcept = 0;
  // As Volume's, with `clear`; the upper layer keeps its size meanwhile. What is cleared covers the
  // base. Busy: it shrinks already. REQUIRES: it is open, and not read-only.
  virtual void shrink(std::uint64_t size_bytes, const Drain& drain_upper,
                      std::function<void(Error)> done) = 0;

  // Copies up what shows the base, at most so many bytes a second (not 0), beside other requests.
  // Done with Ok when nothing shows the base any more and all of it is durable; with the first
  // error otherwise (what was copied stays copied). A second call changes the rate, and is answered
  // with the first. REQUIRES: not read-only.
  virtual void flatten(std::uint64_t bytes_per_second, std::function<void(Error)> done) = 0;
  [[nodiscard]] virtual std::uint64_t chunks_of_base() const noexcept = 0;  // that still show

  // Requests that wait end with ShuttingDown, as do later ones and flatten(). It may be destroyed
  // after done, when both layers have answered what was handed on to them.
  virtual void close(std::function<void()> done) = 0;
};

}  // namespace blockd::engine
