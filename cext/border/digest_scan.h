// Reads every block that a replica holds, so that the store checks each against its CRC-32C.
//
// On the loop's thread, a few chunks at a time through pool buffers, behind the digests that were
// listed before. A chunk that changed meanwhile, or went, was written or trimmed by somebody: its
// new digest is taken instead. The scan owns itself until it has called back.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "base/buffer.h"
#include "io/loop.h"
#include "store/store.h"

namespace blockd::border {

// Of every stored chunk, ascending.
[[nodiscard]] std::vector<store::ChunkDigest> list_all_digests(const store::Store& store,
                                                               store::SegmentHandle segment);

class DigestScan {
 public:
  // block: of the segment; the first of the run whose read failed.
  using Done = std::function<void(Error, std::uint32_t block, std::vector<store::ChunkDigest>)>;

  // `done` comes from the loop, never from inside this call. `store` must stay open until then (its
  // close() waits for operations in flight, and ends the scan with their error).
  static void start(io::Loop& loop, Buffers& buffers, store::Store& store,
                    store::SegmentHandle segment, std::vector<store::ChunkDigest> digests,
                    Done done);
  DigestScan(const DigestScan&) = delete;
  DigestScan& operator=(const DigestScan&) = delete;

 private:
  static constexpr std::size_t kReadsMax = 4;
  struct Read {
    store::StoreOp op;
    DigestScan* scan = nullptr;
    std::size_t index = 0;  // in digests_
    std::array<std::uint32_t, kBlocksPerChunk> crcs{};
    bool busy = false;
  };

  DigestScan(io::Loop& loop, Buffers& buffers, store::Store& store, store::SegmentHandle segment,
             std::vector<store::ChunkDigest> digests, Done done);
  ~DigestScan() = default;
  void pump() noexcept;
  [[nodiscard]] bool start_read(Read& read) noexcept;
  void complete(Read& read) noexcept;
  void check(const Read& read) noexcept;
  void fail(Error error, std::uint32_t block) noexcept;

  io::Loop& loop_;
  Buffers& buffers_;
  store::Store& store_;
  store::SegmentHandle segment_;
  std::vector<store::ChunkDigest> digests_;
  Done done_;
  std::size_t next_ = 0;
  std::size_t reading_ = 0;
  Error error_ = Error::Ok;
  std::uint32_t bad_block_ = 0;
  std::array<Read, kReadsMax> reads_;
  bool waiting_ = false;
  PoolWaiter waiter_;
  io::Task task_;
};

}  // namespace blockd::border
