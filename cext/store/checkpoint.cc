#include "store/checkpoint.h"

#include <algorithm>
#include <cstring>
#include <new>
#include <utility>

#include "base/assert.h"

namespace blockd::store {

Checkpoint::Checkpoint(Device& device, Journal& journal, Flusher& flusher, Metadata& metadata,
                       StagedBlocks& staged, const format::Superblock& superblock,
                       std::uint64_t record_generation)
    : device_(device),
      journal_(journal),
      flusher_(flusher),
      metadata_(metadata),
      staged_(staged),
      store_id_(superblock.store_id),
      journal_blocks_(static_cast<std::uint32_t>(superblock.journal_bytes / kBlockBytes)),
      page_memory_(kBlockBytes, kPagesPerRound + 1),
      generation_(record_generation) {
  device_.disk().register_memory({page_memory_.base(), page_memory_.bytes()});
  flush_.owner = this;
  flush_.done = [](FlushWaiter& waiter, Error error) noexcept {
    static_cast<Checkpoint*>(waiter.owner)->flush_done(error);
  };
  for (HomeWrite& write : home_) {
    write.checkpoint = this;
    write.request.op = io::DiskRequest::Op::write;
    write.request.iov = write.iov;
    write.request.owner = &write;
    write.request.done = [](io::DiskRequest& request) noexcept {
      auto* home = static_cast<HomeWrite*>(request.owner);
      home->checkpoint->home_done(*home);
    };
    write.next = std::exchange(home_free_, &write);
  }
  for (std::uint32_t i = 0; i < kPagesPerRound; ++i) {
    page_buffers_[i] = page_memory_.get();
    PageWrite& write = page_writes_[i];
    write.iov = {page_buffers_[i].data(), kBlockBytes};
    write.request.op = io::DiskRequest::Op::write;
    write.request.iov = &write.iov;
    write.request.iov_count = 1;
    write.request.owner = this;
    write.request.done = [](io::DiskRequest& request) noexcept {
      static_cast<Checkpoint*>(request.owner)->page_done(request);
    };
  }
  record_buffer_ = page_memory_.get();
  record_iov_ = {record_buffer_.data(), kBlockBytes};
  record_write_.op = io::DiskRequest::Op::write;
  record_write_.iov = &record_iov_;
  record_write_.iov_count = 1;
  record_write_.owner = this;
  record_write_.done = [](io::DiskRequest& request) noexcept {
    static_cast<Checkpoint*>(request.owner)->record_done();
  };
}

Checkpoint::~Checkpoint() {
  device_.disk().unregister_memory({page_memory_.base(), page_memory_.bytes()});
}

void Checkpoint::start(JournalPosition target) noexcept {
  BLOCKD_ASSERT(phase_ == Phase::idle && target.lsn <= journal_.completed().lsn);
  target_ = target;
  incarnation_ = journal_.incarnation_behind(target_);
  home_position_ = journal_.tail().end_position;
  flush_journal_then(target_.lsn, Phase::journal_flush);
}

void Checkpoint::flush_then(std::uint64_t min_lsn, Phase phase) noexcept {
  phase_ = phase;
  flush_.min_lsn = min_lsn;
  flusher_.wait(flush_);
  flusher_.pump();
}

// For steps that wait for the journal only: an earlier flush will do.
void Checkpoint::flush_journal_then(std::uint64_t lsn, Phase phase) noexcept {
  if (lsn > journal_.flushed_lsn()) return flush_then(lsn, phase);
  phase_ = phase;
  flush_done(device_.failed());
}

void Checkpoint::flush_done(Error error) noexcept {
  if (error != Error::Ok) return finish();
  switch (phase_) {
    case Phase::journal_flush:
      phase_ = Phase::home;
      return write_home();
    case Phase::pages_flush:
      return write_pages();
    case Phase::home_flush:
      return write_record();
    case Phase::record_flush:
      journal_.release(target_);
      ++device_.stats.checkpoints;
      return finish();
    case Phase::idle:
    case Phase::home:
    case Phase::pages:
    case Phase::record:
      break;
  }
  BLOCKD_ASSERT(false);
}

void Checkpoint::write_home() noexcept {
  if (device_.failed() == Error::Ok) {
    for (; home_position_ < target_.end_position; home_position_ += kBlockBytes) {
      const auto [chunk, block] = staged_.to_write(journal_block(home_position_));
      if (!chunk) continue;
      if (!home_free_) return;  // goes on when a write is done
      submit_home(*chunk, block);
    }
  }
  if (home_in_flight_ > 0) return;
  if (device_.failed() != Error::Ok) return finish();
  stage_pages();
}

// Staged between where we are and the target, and not on its way yet.
bool Checkpoint::due(const StagedChunk& chunk, std::uint32_t block) const noexcept {
  if (!(chunk.mask >> block & 1)) return false;
  const std::uint32_t at = chunk.journal_block[block], here = journal_block(home_position_);
  const std::uint32_t ahead = at >= here ? at - here : at + journal_blocks_ - here;
  return ahead < (target_.end_position - home_position_) / kBlockBytes &&
         staged_.to_write(at).chunk != nullptr;
}

// The block, and those beside it in the chunk that are due as well: one device write.
void Checkpoint::submit_home(const StagedChunk& chunk, std::uint32_t block) noexcept {
  std::uint32_t first = block, end = block + 1;
  while (first > 0 && due(chunk, first - 1)) --first;
  while (end < kBlocksPerChunk && due(chunk, end)) ++end;
  HomeWrite& write = *std::exchange(home_free_, home_free_->next);
  write.slot = chunk.slot;
  write.first_block = first;
  write.block_count = end - first;
  write.request.iov_count = 0;
  write.request.error = Error::Ok;
  write.request.offset_bytes =
      metadata_.device_offset(chunk.slot) + std::uint64_t{first} * kBlockBytes;
  for (block = first; block < end; ++block) {
    const std::uint32_t at = chunk.journal_block[block];
    write.journal_block[block - first] = at;
    staged_.begin_write(at);
    std::byte* data = journal_.mirror().data() + std::uint64_t{at} * kBlockBytes;
    iovec* last = write.request.iov_count ? &write.iov[write.request.iov_count - 1] : nullptr;
    if (last && static_cast<std::byte*>(last->iov_base) + last->iov_len == data) {
      last->iov_len += kBlockBytes;
    } else {
      write.iov[write.request.iov_count++] = {data, kBlockBytes};
    }
  }
  metadata_.pin(chunk.slot);
  ++home_in_flight_;
  device_.submit(write.request);
}

void Checkpoint::home_done(HomeWrite& write) noexcept {
  BLOCKD_ASSERT(phase_ == Phase::home && home_in_flight_ > 0);
  --home_in_flight_;
  metadata_.unpin(write.slot);
  if (write.request.error != Error::Ok) {
    device_.note_failure(write.request.error);
  } else if (const StagedChunk* chunk = staged_.find(write.slot)) {
    std::uint16_t written = 0;
    for (std::uint32_t i = 0; i < write.block_count; ++i) {
      const std::uint32_t block = write.first_block + i;
      if (chunk->holds(block, write.journal_block[i]))
        written |= static_cast<std::uint16_t>(1u << block);
    }
    staged_.drop(write.slot, written);
  }
  write.next = std::exchange(home_free_, &write);
  slot_unpinned(owner);
  write_home();
}

// Journal batches that superseded what step 2 skipped, and those that changed the pages at hand,
// must be flushed before the record is, or the pages are, written.
void Checkpoint::stage_pages() noexcept {
  pages_staged_ = 0;
  std::uint64_t last_lsn = 0;
  while (pages_staged_ < kPagesPerRound) {
    const auto page = metadata_.page_due(target_.lsn);
    if (!page) break;
    last_lsn = std::max(last_lsn, metadata_.page_lsn(*page));
    PageWrite& write = page_writes_[pages_staged_];
    write.page = *page;
    write.request.error = Error::Ok;
    write.request.offset_bytes = metadata_.stage_page(*page, page_buffers_[pages_staged_].data());
    ++pages_staged_;
  }
  if (pages_staged_ > 0) return flush_journal_then(last_lsn, Phase::pages_flush);
  flush_then(journal_.appended_lsn(), Phase::home_flush);
}

void Checkpoint::write_pages() noexcept {
  phase_ = Phase::pages;
  pages_in_flight_ = pages_staged_;
  for (std::uint32_t i = 0; i < pages_staged_; ++i) device_.submit(page_writes_[i].request);
}

void Checkpoint::page_done(io::DiskRequest& request) noexcept {
  if (request.error != Error::Ok) device_.note_failure(request.error);
  BLOCKD_ASSERT(pages_in_flight_ > 0);
  if (--pages_in_flight_ > 0) return;
  for (std::uint32_t i = 0; i < pages_staged_; ++i) metadata_.page_written(page_writes_[i].page);
  if (device_.failed() != Error::Ok) return finish();
  stage_pages();
}

void Checkpoint::write_record() noexcept {
  phase_ = Phase::record;
  ++generation_;
  auto* record = new (record_buffer_.data()) format::CheckpointRecord;
  record->store_id = store_id_;
  record->generation = generation_;
  record->tail_lsn = target_.lsn + 1;
  record->tail_offset = std::uint64_t{journal_block(target_.end_position)} * kBlockBytes;
  record->incarnation = incarnation_;
  format::seal(*record);
  record_write_.error = Error::Ok;
  record_write_.offset_bytes =
      (static_cast<std::uint64_t>(format::FixedBlock::checkpoint_a) + (generation_ & 1)) *
      kBlockBytes;
  device_.submit(record_write_);
}

void Checkpoint::record_done() noexcept {
  if (record_write_.error != Error::Ok) {
    device_.note_failure(record_write_.error);
    return finish();
  }
  flush_then(0, Phase::record_flush);
}

void Checkpoint::finish() noexcept {
  phase_ = Phase::idle;
  finished(owner);
}

}  // namespace blockd::store
