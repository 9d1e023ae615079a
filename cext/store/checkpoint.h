// A checkpoint writes staged blocks and changed metadata home, so that their journal space is free
// again: that of the oldest batches, up to C. What is younger stays, to be superseded before it
// costs a write (checkpoint_schedule.h).
//
// Order, each step behind a flush (docs/FORMATS.md, "Checkpoint"):
//  1. journal batches up to C are flushed: nothing goes home that a crash could still take back;
//  2. blocks staged by batches <= C are written home; a block that a later batch has staged again
//     is skipped: that batch is flushed before step 4;
//  3. metadata pages with an unwritten change by a batch <= C, in rounds, each page as it is by
//     then and when the LSN of its last change has been flushed. Changes of the other dirty pages
//     are all younger, so the journal still has them;
//  4. the checkpoint record moves the tail past C, and is flushed before the space is used again.
// Runs beside normal operation and never blocks it; one at a time.
#pragma once

#include "store/flusher.h"
#include "store/metadata.h"
#include "store/staged_blocks.h"

namespace blockd::store {

class Checkpoint {
 public:
  Checkpoint(Device& device, Journal& journal, Flusher& flusher, Metadata& metadata,
             StagedBlocks& staged, const format::Superblock& superblock,
             std::uint64_t record_generation);
  ~Checkpoint();
  Checkpoint(const Checkpoint&) = delete;
  Checkpoint& operator=(const Checkpoint&) = delete;

  // Up to `target`, the end of a completed batch.
  void start(JournalPosition target) noexcept;
  [[nodiscard]] bool running() const noexcept { return phase_ != Phase::idle; }

  void (*finished)(void* owner) noexcept = nullptr;  // also after a failure
  void (*slot_unpinned)(void* owner) noexcept = nullptr;
  void* owner = nullptr;

 private:
  enum class Phase : std::uint8_t {
    idle,
    journal_flush,
    home,
    pages_flush,
    pages,
    home_flush,
    record,
    record_flush
  };

  struct HomeWrite {
    io::DiskRequest request;
    iovec iov[kBlocksPerChunk] = {};
    std::uint32_t slot = 0;
    std::uint32_t first_block = 0;
    std::uint32_t block_count = 0;
    std::uint32_t journal_block[kBlocksPerChunk] = {};
    HomeWrite* next = nullptr;
    Checkpoint* checkpoint = nullptr;
  };
  struct PageWrite {
    io::DiskRequest request;
    iovec iov{};
    std::uint32_t page = 0;
  };

  void flush_then(std::uint64_t min_lsn, Phase phase) noexcept;
  void flush_journal_then(std::uint64_t lsn, Phase phase) noexcept;
  [[nodiscard]] std::uint32_t journal_block(std::uint64_t position) const noexcept {
    return static_cast<std::uint32_t>(position / kBlockBytes % journal_blocks_);
  }
  void flush_done(Error error) noexcept;
  void write_home() noexcept;
  [[nodiscard]] bool due(const StagedChunk& chunk, std::uint32_t block) const noexcept;
  void submit_home(const StagedChunk& chunk, std::uint32_t block) noexcept;
  void home_done(HomeWrite& write) noexcept;
  void stage_pages() noexcept;
  void write_pages() noexcept;
  void page_done(io::DiskRequest& request) noexcept;
  void write_record() noexcept;
  void record_done() noexcept;
  void finish() noexcept;

  Device& device_;
  Journal& journal_;
  Flusher& flusher_;
  Metadata& metadata_;
  StagedBlocks& staged_;
  Uuid store_id_;
  std::uint32_t journal_blocks_;

  Phase phase_ = Phase::idle;
  JournalPosition target_;
  std::uint64_t incarnation_ = 0;    // of the batches behind it
  std::uint64_t home_position_ = 0;  // where in the journal step 2 is
  FlushWaiter flush_;
  HomeWrite home_[kHomeWritesMax];
  HomeWrite* home_free_ = nullptr;
  std::uint32_t home_in_flight_ = 0;
  BufferPool page_memory_;
  PageWrite page_writes_[kPagesPerRound];
  BufferRef page_buffers_[kPagesPerRound];
  std::uint32_t pages_staged_ = 0;
  std::uint32_t pages_in_flight_ = 0;
  BufferRef record_buffer_;
  io::DiskRequest record_write_;
  iovec record_iov_{};
  std::uint64_t generation_;
};

}  // namespace blockd::store
