#include "store/journal.h"

#include <algorithm>
#include <cstring>
#include <new>
#include <utility>

#include "base/assert.h"

namespace blockd::store {

Journal::Journal(Device& device, const format::Superblock& superblock, JournalListener& listener)
    : device_(device),
      listener_(listener),
      store_id_(superblock.store_id),
      offset_(superblock.journal_offset),
      bytes_(superblock.journal_bytes),
      memory_(kBlockBytes, static_cast<std::uint32_t>(superblock.journal_bytes / kBlockBytes)) {
  device_.disk().register_memory(mirror());
  for (Batch& batch : batches_) {
    batch.request.op = io::DiskRequest::Op::write;
    batch.request.iov = &batch.iov;
    batch.request.iov_count = 1;
    batch.request.owner = this;
    batch.request.done = [](io::DiskRequest& request) noexcept {
      auto* journal = static_cast<Journal*>(request.owner);
      for (Batch& b : journal->batches_) {
        if (&b.request == &request) journal->completed_one(b);
      }
    };
  }
}

Journal::~Journal() {
  device_.disk().unregister_memory(mirror());
}

void Journal::resume(std::uint64_t incarnation, JournalPosition newest,
                     JournalPosition tail) noexcept {
  BLOCKD_ASSERT(tail.end_position <= newest.end_position &&
                newest.end_position - tail.end_position <= bytes_);
  incarnation_ = incarnation;
  next_lsn_ = newest.lsn + 1;
  completed_ = newest;
  flushed_lsn_ = newest.lsn;
  head_position_ = newest.end_position;
  tail_ = tail;
}

bool Journal::reserve(std::uint32_t entries, std::uint32_t entry_bytes,
                      std::uint32_t payload_blocks) noexcept {
  entry_bytes += sizeof(format::EntryHeader);  // keep()
  BLOCKD_ASSERT(entry_bytes <= sizeof(format::BatchHeader::entries) &&
                payload_blocks <= kBatchPayloadBlocksMax);
  if (device_.failed() != Error::Ok) return false;
  if (open_) {
    const format::BatchHeader& header = *open_->header;
    const std::uint32_t bytes = header.entry_bytes + kept_bytes_ + entry_bytes;
    const bool fits = bytes <= sizeof header.entries &&
                      header.payload_blocks + payload_blocks <= kBatchPayloadBlocksMax &&
                      header.entry_count + entries <= 0xffff;
    if (fits) return true;
    submit_open();
    if (open_) return false;
  }
  return open_batch();
}

bool Journal::open_batch() noexcept {
  const std::uint64_t start = start_after(head_position_);
  if (start + kBatchBytesMax - tail_.end_position > bytes_) return false;
  BLOCKD_ASSERT(in_flight_ < kBatches);
  open_ = &batches_[(first_ + in_flight_) % kBatches];
  open_->lsn = next_lsn_;
  open_->done = false;
  open_->ops_head = open_->ops_tail = nullptr;
  head_position_ = start;
  auto* at = memory_.base() + start % bytes_;
  open_->header = new (at) format::BatchHeader;
  open_->header->store_id = store_id_;
  open_->header->lsn = next_lsn_;
  open_->header->incarnation = incarnation_;
  return true;
}

// A batch that may not fit before the end of the region starts at its beginning.
std::uint64_t Journal::start_after(std::uint64_t end_position) const noexcept {
  const std::uint64_t to_end = bytes_ - end_position % bytes_;
  return to_end < kBatchBytesMax ? end_position + to_end : end_position;
}

void Journal::append(const format::EntryHeader& entry, std::span<const std::byte> extra) noexcept {
  BLOCKD_ASSERT(open_ != nullptr);
  format::BatchHeader& header = *open_->header;
  BLOCKD_ASSERT(header.entry_bytes + sizeof entry + extra.size() <= sizeof header.entries);
  std::memcpy(header.entries + header.entry_bytes, &entry, sizeof entry);
  header.entry_bytes += sizeof entry;
  if (!extra.empty()) std::memcpy(header.entries + header.entry_bytes, extra.data(), extra.size());
  header.entry_bytes += static_cast<std::uint32_t>(extra.size());
  ++header.entry_count;
}

std::uint32_t Journal::append_payload(const std::byte* block) noexcept {
  BLOCKD_ASSERT(open_ != nullptr && open_->header->payload_blocks < kBatchPayloadBlocksMax);
  const std::uint64_t offset =
      head_position_ % bytes_ + (1 + std::uint64_t{open_->header->payload_blocks}) * kBlockBytes;
  ++open_->header->payload_blocks;
  std::memcpy(memory_.base() + offset, block, kBlockBytes);
  return static_cast<std::uint32_t>(offset / kBlockBytes);
}

void Journal::attach(StoreOp& op) noexcept {
  BLOCKD_ASSERT(open_ != nullptr);
  op.next = nullptr;
  (open_->ops_tail ? open_->ops_tail->next : open_->ops_head) = &op;
  open_->ops_tail = &op;
}

void Journal::submit_open() noexcept {
  if (!has_open() || in_flight_ == kBatchesInFlightMax) return;
  listener_.batch_closes();
  kept_bytes_ = 0;
  Batch& batch = *std::exchange(open_, nullptr);
  const std::uint64_t bytes = (1 + std::uint64_t{batch.header->payload_blocks}) * kBlockBytes;
  batch.header->flushed_lsn = flushed_lsn_;
  format::seal(*batch.header);
  batch.iov = {batch.header, bytes};
  batch.request.error = Error::Ok;
  batch.request.offset_bytes = offset_ + head_position_ % bytes_;
  head_position_ += bytes;
  batch.end_position = head_position_;
  ++next_lsn_;
  ++in_flight_;
  ++device_.stats.journal_batches;
  device_.submit(batch.request);
}

StoreOp* Journal::abandon_open() noexcept {
  BLOCKD_ASSERT(device_.failed() != Error::Ok);
  if (!open_) return nullptr;
  kept_bytes_ = 0;
  return std::exchange(std::exchange(open_, nullptr)->ops_head, nullptr);
}

void Journal::completed_one(Batch& done) noexcept {
  done.done = true;
  if (done.request.error != Error::Ok) device_.note_failure(done.request.error);
  while (in_flight_ > 0 && batches_[first_].done) {
    Batch& batch = batches_[first_];
    first_ = (first_ + 1) % kBatches;
    --in_flight_;
    batch.done = false;
    StoreOp* ops = std::exchange(batch.ops_head, nullptr);
    batch.ops_tail = nullptr;
    const Error error = device_.failed();
    if (error == Error::Ok) completed_ = {batch.lsn, batch.end_position};
    listener_.batch_done(batch.lsn, ops, error);
  }
}

void Journal::set_flushed(std::uint64_t lsn) noexcept {
  BLOCKD_ASSERT(lsn <= completed_.lsn);
  flushed_lsn_ = std::max(flushed_lsn_, lsn);
}

void Journal::release(JournalPosition passed) noexcept {
  BLOCKD_ASSERT(passed.end_position >= tail_.end_position &&
                passed.end_position <= completed_.end_position && passed.lsn <= completed_.lsn);
  tail_ = passed;
}

// Along the headers in the mirror. Each vouches for the end of the one before: memory may rot, and
// a position that is none would lose the journal.
JournalPosition Journal::behind_tail(std::uint64_t bytes) const noexcept {
  JournalPosition at = tail_;
  while (at.lsn < completed_.lsn) {
    const std::uint64_t start = start_after(at.end_position);
    const format::BatchHeader& header = header_at(start);
    if (header.magic != format::kBatchMagic || header.lsn != at.lsn + 1) break;
    if (at.end_position >= tail_.end_position + bytes && at.lsn > tail_.lsn) return at;
    at = {header.lsn, start + (1 + std::uint64_t{header.payload_blocks}) * kBlockBytes};
  }
  return completed_;
}

std::uint64_t Journal::incarnation_behind(const JournalPosition& position) const noexcept {
  if (position.lsn == completed_.lsn) return incarnation_;
  return header_at(start_after(position.end_position)).incarnation;
}

}  // namespace blockd::store
