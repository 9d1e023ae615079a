// Reads every stored block of a store at a set rate, so that rot is found before it is needed.
//
// One content of a chunk at a time, the past ones that snapshots show included, in the order of
// segments and chunks, from a cursor that the owner keeps across restarts. Others come first: when
// the store has served anything else since the last chunk, the next one is read at a quarter of the
// rate. A chunk that cannot be read is read again block by block; each block that fails is a
// finding. What was overwritten, trimmed or dropped meanwhile is none: the store answers with what
// is there now. All on the loop's thread.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "base/buffer.h"
#include "base/result.h"
#include "blockd/types.h"
#include "io/loop.h"
#include "store/store.h"

namespace blockd::border {

// The first chunk that has not been read; everything before it has.
struct ScrubCursor {
  SegmentId segment;
  std::uint32_t chunk = 0;
};

struct ScrubFinding {
  SegmentId segment;
  std::uint32_t block = 0;  // of the segment
  Era born = 0;             // of a past content: which; 0: it is the current one
  Error error = Error::Ok;  // ChecksumMismatch, DiskError
};

struct ScrubReport {
  Uuid store;
  bool running = false;
  bool finished = false;  // the pass has come to its end; false with !running: stopped, or none yet
  std::uint64_t rate_bytes = 0;  // a second
  ScrubCursor cursor;
  std::uint64_t chunks_done = 0;       // contents
  std::uint64_t chunks_total = 0;      // stored now; they come and go during a pass
  std::uint64_t read_bytes = 0;        // by this process
  std::uint64_t findings_dropped = 0;  // beyond kFindingsMax
  std::vector<ScrubFinding> findings;  // of this pass, by this process
  static constexpr std::size_t kFindingsMax = 4096;
};

class Scrubber {
 public:
  Scrubber(io::Loop& loop, Buffers& buffers, store::Store& store);
  ~Scrubber();  // REQUIRES: no read under way: the store has been closed
  Scrubber(const Scrubber&) = delete;
  Scrubber& operator=(const Scrubber&) = delete;

  // Begins a pass, or goes on with one: chunks_done are behind the cursor already.
  // REQUIRES: rate_bytes > 0.
  void start(std::uint64_t rate_bytes, ScrubCursor cursor, std::uint64_t chunks_done) noexcept;
  void stop() noexcept;
  [[nodiscard]] const ScrubReport& report() const noexcept { return report_; }

 private:
  void step() noexcept;
  [[nodiscard]] bool find_content() noexcept;
  [[nodiscard]] bool load_contents(store::SegmentHandle segment) noexcept;
  [[nodiscard]] bool open_content() noexcept;
  void close_view() noexcept;
  void forget_place() noexcept;
  [[nodiscard]] bool next_segment() noexcept;
  void read(std::uint32_t first_block, std::uint32_t block_count) noexcept;
  void complete() noexcept;
  void chunk_read(Error error) noexcept;
  void block_read(Error error) noexcept;
  void content_over() noexcept;
  void pace(std::uint64_t bytes) noexcept;
  void wake_at(std::uint64_t at_us) noexcept;
  [[nodiscard]] std::uint64_t count_chunks() const;
  [[nodiscard]] std::uint64_t others_served() const noexcept;

  io::Loop& loop_;
  Buffers& buffers_;
  store::Store& store_;
  ScrubReport report_;
  store::SegmentHandle segment_ = 0;            // of the cursor
  std::array<store::ChunkState, 16> contents_;  // the next ones; the first of them is being read
  std::size_t content_ = 0, content_count_ = 0;
  Version above_;  // of the cursor's chunk: contents up to this version have been read
  store::SegmentHandle view_ = store::Store::kNoView;  // open while a past content is being read
  std::uint32_t block_count_ = 0;  // of the chunk at the cursor, as far as the segment goes
  std::uint32_t probing_ = 0;      // the block that is read alone
  bool probes_ = false;
  bool reading_ = false;
  std::uint64_t pass_ = 0;  // what was read for an earlier one counts no more
  std::uint64_t read_for_ = 0;
  std::uint64_t own_reads_ = 0;
  std::uint64_t others_seen_ = 0;
  std::uint64_t free_at_us_ = 0;  // when the rate allows the next chunk
  store::StoreOp op_;
  std::array<std::uint32_t, kBlocksPerChunk> crcs_{};
  io::Timer timer_;
};

}  // namespace blockd::border
