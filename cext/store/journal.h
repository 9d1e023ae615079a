// The journal makes mutations durable in the order they were appended, many to one device write.
//
// A batch is a header block and up to 64 payload blocks, contiguous in the journal and in its
// mirror in memory; the mirror keeps the payload until a checkpoint has passed it. Up to four
// batches are in flight; they complete towards the store strictly in order, so what is acknowledged
// is always a prefix of the journal. Positions count bytes for ever; an offset is a position modulo
// the journal's size. A batch that would cross the end starts over at offset 0 instead. Format:
// docs/FORMATS.md, "Journal".
#pragma once

#include <cstdint>
#include <span>

#include "base/buffer.h"
#include "format/disk.h"
#include "store/constants.h"
#include "store/device.h"

namespace blockd::store {

struct JournalPosition {
  std::uint64_t lsn = 0;           // of the newest batch
  std::uint64_t end_position = 0;  // where the next one may start
};

class JournalListener {
 public:
  virtual ~JournalListener() = default;
  // Batches complete in order; `ops` are those that end with this batch, linked by next.
  virtual void batch_done(std::uint64_t lsn, StoreOp* ops, Error error) noexcept = 0;
  // The open batch is about to leave: its last entries, for which keep() has kept room.
  virtual void batch_closes() noexcept = 0;
};

class Journal {
 public:
  Journal(Device& device, const format::Superblock& superblock, JournalListener& listener);
  ~Journal();
  Journal(const Journal&) = delete;
  Journal& operator=(const Journal&) = delete;

  [[nodiscard]] std::span<std::byte> mirror() noexcept { return {memory_.base(), memory_.bytes()}; }
  // Where recovery left off.
  void resume(std::uint64_t incarnation, JournalPosition newest, JournalPosition tail) noexcept;

  // Makes room for that much in the open batch, closing it and opening another where needed.
  // False: wait for a batch to complete or for a checkpoint.
  [[nodiscard]] bool reserve(std::uint32_t entries, std::uint32_t entry_bytes,
                             std::uint32_t payload_blocks) noexcept;
  [[nodiscard]] std::uint64_t open_lsn() const noexcept {
    return next_lsn_;
  }  // of entries appended now
  // Of the open batch: room for one more entry that batch_closes() will append. At most once for
  // each reserve().
  void keep() noexcept { kept_bytes_ += sizeof(format::EntryHeader); }
  // Within what reserve() granted. `extra` follows the header (CRCs or a SegmentRecord).
  void append(const format::EntryHeader& entry, std::span<const std::byte> extra) noexcept;
  // Copies one block of payload; returns its block number in the journal.
  [[nodiscard]] std::uint32_t append_payload(const std::byte* block) noexcept;
  void attach(StoreOp& op) noexcept;  // op ends when the open batch does

  // Sends the open batch if there is one and a place in flight. Called when an iteration ends.
  void submit_open() noexcept;
  [[nodiscard]] StoreOp*
  abandon_open() noexcept;  // after a failure: the ops of the batch that will never go
  // An open batch without entries does not count: it stays until somebody appends.
  [[nodiscard]] bool has_open() const noexcept { return open_ && open_->header->entry_count > 0; }

  [[nodiscard]] const JournalPosition& completed() const noexcept { return completed_; }
  [[nodiscard]] std::uint64_t appended_lsn() const noexcept {
    return has_open() ? next_lsn_ : next_lsn_ - 1;
  }
  [[nodiscard]] std::uint64_t flushed_lsn() const noexcept { return flushed_lsn_; }
  void set_flushed(std::uint64_t lsn) noexcept;
  void release(JournalPosition passed) noexcept;  // by a durable checkpoint
  // Behind the newest batch that a durable checkpoint has passed; all after it is in the mirror.
  [[nodiscard]] const JournalPosition& tail() const noexcept { return tail_; }
  [[nodiscard]] bool holds_completed() const noexcept { return completed_.lsn > tail_.lsn; }
  // The end of the first batch that ends `bytes` or more behind the tail; of the newest completed
  // one when none does.
  [[nodiscard]] JournalPosition behind_tail(std::uint64_t bytes) const noexcept;
  [[nodiscard]] std::uint64_t used_bytes() const noexcept {
    return head_position_ - tail_.end_position;
  }
  [[nodiscard]] std::uint64_t capacity_bytes() const noexcept { return bytes_; }
  // Of the batch behind this position, which behind_tail() has given: those that a crash left may
  // have been written by an earlier open.
  [[nodiscard]] std::uint64_t incarnation() const noexcept { return incarnation_; }  // of this open
  [[nodiscard]] std::uint64_t incarnation_behind(const JournalPosition& position) const noexcept;
  [[nodiscard]] bool idle() const noexcept { return !has_open() && in_flight_ == 0; }

 private:
  struct Batch {
    io::DiskRequest request;
    iovec iov{};
    std::uint64_t lsn = 0;
    std::uint64_t end_position = 0;
    format::BatchHeader* header = nullptr;
    StoreOp* ops_head = nullptr;
    StoreOp* ops_tail = nullptr;
    bool done = false;
  };
  static constexpr std::uint32_t kBatches = kBatchesInFlightMax + 1;

  [[nodiscard]] bool open_batch() noexcept;
  [[nodiscard]] std::uint64_t start_after(std::uint64_t end_position) const noexcept;
  [[nodiscard]] const format::BatchHeader& header_at(std::uint64_t position) const noexcept {
    return *reinterpret_cast<const format::BatchHeader*>(memory_.base() + position % bytes_);
  }
  void completed_one(Batch& batch) noexcept;

  Device& device_;
  JournalListener& listener_;
  Uuid store_id_;
  std::uint64_t offset_;  // of the region on the device
  std::uint64_t bytes_;
  BufferPool memory_;  // one buffer a block, used as one span
  Batch batches_[kBatches];
  std::uint32_t first_ = 0;  // the oldest in flight
  std::uint32_t in_flight_ = 0;
  Batch* open_ = nullptr;
  std::uint32_t kept_bytes_ = 0;  // of the open batch
  std::uint64_t next_lsn_ = 1;
  std::uint64_t incarnation_ = 1;
  std::uint64_t head_position_ = 0;
  std::uint64_t flushed_lsn_ = 0;
  JournalPosition completed_;
  JournalPosition tail_;
};

}  // namespace blockd::store
