// Copies chunks of a base up into the volume above it.
//
// A copy is a read of the base and a write like any other above it, which covers what the base has
// there. Where the base has nothing, the volume's chunk becomes a hole. Copies wait for a buffer
// when there is none. All on one loop's thread; copies belong to whoever started them.
#pragma once

#include <cstdint>

#include "base/buffer.h"
#include "engine/block_backend.h"
#include "io/loop.h"
#include "peer/list.h"

namespace blockd::engine {

class ChunkCopier;

struct ChunkCopyUp {
  std::uint64_t offset_bytes = 0;  // of the chunk
  std::uint32_t length_bytes = 0;  // as far as the volume goes
  bool has_data = true;            // the base has some there
  // May come from inside start(), for an error found at once.
  void (*done)(ChunkCopyUp&, Error) noexcept = nullptr;
  void* owner = nullptr;

  // The copier's own.
  ChunkCopier* copier = nullptr;
  BufferRef buffer;
  BlockRequest request;
  peer::ListLink<ChunkCopyUp> link;
};

// Zeros what of [offset, offset + bytes), read from a base of `base_bytes`, lies beyond its end.
void clear_beyond(std::byte* data, std::uint64_t offset, std::uint64_t bytes,
                  std::uint64_t base_bytes) noexcept;

class ChunkCopier {
 public:
  ChunkCopier(io::Loop& loop, Buffers& buffers, BlockBackend& upper, BlockBackend& base) noexcept;
  ~ChunkCopier();  // REQUIRES: no copy is under way
  ChunkCopier(const ChunkCopier&) = delete;
  ChunkCopier& operator=(const ChunkCopier&) = delete;

  void start(ChunkCopyUp& copy) noexcept;
  void stop() noexcept;  // copies that wait for a buffer, and later ones, end with ShuttingDown

 private:
  [[nodiscard]] bool fill(ChunkCopyUp& copy) noexcept;
  void read_base(ChunkCopyUp& copy) noexcept;
  void base_read(ChunkCopyUp& copy) noexcept;
  void write(ChunkCopyUp& copy) noexcept;
  void end(ChunkCopyUp& copy, Error error) noexcept;
  void take_buffers() noexcept;

  io::Loop& loop_;
  Buffers& buffers_;
  BlockBackend& upper_;
  BlockBackend& base_;
  peer::List<ChunkCopyUp> starved_;
  PoolWaiter waiter_;
  io::Task buffers_task_;
  bool stopped_ = false;
};

}  // namespace blockd::engine
