#include "store/copies.h"

#include <algorithm>
#include <cstring>

#include "base/assert.h"
#include "base/crc32c.h"

namespace blockd::store {

using State = ChunkCopy::State;

ChunkCopy* ChunkCopies::find(SegmentHandle segment, std::uint32_t chunk) noexcept {
  for (ChunkCopy* copy : active_) {
    if (copy->segment == segment && copy->chunk == chunk && !copy->unwanted) return copy;
  }
  return nullptr;
}

bool ChunkCopies::start(SegmentHandle segment, std::uint32_t chunk, std::uint32_t from) {
  if (!memory_) {
    memory_ = std::make_unique<BufferPool>(kChunkBytes, kCopiesMax);
    active_.reserve(kCopiesMax);
    free_.reserve(kCopiesMax);
  }
  if (free_.empty() && all_.size() < kCopiesMax) {
    buffers_.push_back(memory_->get());
    all_.push_back(std::make_unique<ChunkCopy>());
    ChunkCopy& fresh = *all_.back();
    fresh.data = buffers_.back().data();
    fresh.copies = this;
    fresh.request.owner = &fresh;
    fresh.request.iov = &fresh.iov;
    fresh.request.iov_count = 1;
    fresh.request.done = [](io::DiskRequest& request) noexcept {
      auto* copy = static_cast<ChunkCopy*>(request.owner);
      static_cast<ChunkCopies*>(copy->copies)->done(*copy);
    };
    free_.push_back(&fresh);
  }
  if (free_.empty()) return false;
  const auto to = metadata_.take_run(1);
  if (!to) return false;
  ChunkCopy& copy = *free_.back();
  free_.pop_back();
  active_.push_back(&copy);
  copy.unwanted = false;
  copy.segment = segment;
  copy.chunk = chunk;
  copy.from = from;
  copy.to = *to;
  copy.record = metadata_.slot(from);
  copy.damaged = 0;
  copy.state = State::reading;
  read(copy, 0, kBlocksPerChunk);
  return true;
}

void ChunkCopies::read(ChunkCopy& copy, std::uint32_t first, std::uint32_t count) noexcept {
  metadata_.pin(copy.from);
  copy.iov = {block_of(copy, first), std::size_t{count} * kBlockBytes};
  copy.request.op = io::DiskRequest::Op::read;
  copy.request.error = Error::Ok;
  copy.request.offset_bytes =
      metadata_.device_offset(copy.from) + std::uint64_t{first} * kBlockBytes;
  device_.submit(copy.request);
}

void ChunkCopies::done(ChunkCopy& copy) noexcept {
  if (copy.state != State::writing) {
    metadata_.unpin(copy.from);
    if (copy.unwanted || device_.failed() != Error::Ok) return retire(copy, false);
    return read_done(copy);
  }
  if (copy.request.error != Error::Ok) device_.note_failure(copy.request.error);
  if (copy.unwanted || device_.failed() != Error::Ok) return retire(copy, false);
  copy.state = State::ready;
  progress(owner);
}

// First the whole chunk; then, one by one, the blocks that did not come well: the device may have
// failed for one of them only, or a checkpoint has written the block since.
void ChunkCopies::read_done(ChunkCopy& copy) noexcept {
  const bool again = copy.state == State::reading_again;
  for (std::uint32_t block = copy.block; block < kBlocksPerChunk; ++block) {
    if (!(copy.record.valid_mask >> block & 1)) {
      std::memset(block_of(copy, block), 0, kBlockBytes);
      continue;
    }
    if (take_staged(copy, block)) continue;
    if (crc32c(block_of(copy, block), kBlockBytes) == copy.record.crcs[block]) continue;
    if (again && block == copy.block) {
      const bool came = copy.request.error == Error::Ok;
      ++(came ? device_.stats.checksum_errors : device_.stats.read_errors);
      copy.damaged |= static_cast<std::uint16_t>(1u << block);
      std::memset(block_of(copy, block), 0, kBlockBytes);
      continue;
    }
    copy.state = State::reading_again;
    copy.block = block;
    return read(copy, block, 1);
  }
  write(copy);
}

bool ChunkCopies::take_staged(ChunkCopy& copy, std::uint32_t block) noexcept {
  const StagedChunk* staged = staged_.find(copy.from);
  if (!staged || !(staged->mask >> block & 1)) return false;
  std::memcpy(block_of(copy, block),
              journal_.mirror().data() + std::uint64_t{staged->journal_block[block]} * kBlockBytes,
              kBlockBytes);
  return crc32c(block_of(copy, block), kBlockBytes) == copy.record.crcs[block];
}

void ChunkCopies::write(ChunkCopy& copy) noexcept {
  copy.state = State::writing;
  copy.iov = {copy.data, kChunkBytes};
  copy.request.op = io::DiskRequest::Op::write;
  copy.request.error = Error::Ok;
  copy.request.offset_bytes = metadata_.device_offset(copy.to);
  device_.submit(copy.request);
}

void ChunkCopies::used(ChunkCopy& copy) noexcept {
  BLOCKD_ASSERT(copy.ready());
  retire(copy, true);
}

void ChunkCopies::retire(ChunkCopy& copy, bool keep_slot) noexcept {
  copy.block = 0;
  std::erase(active_, &copy);
  free_.push_back(&copy);
  if (keep_slot) return;
  metadata_.give_back(copy.to);
  progress(owner);
}

void ChunkCopies::drop(SegmentHandle segment, std::uint32_t chunk) noexcept {
  ChunkCopy* copy = find(segment, chunk);
  if (!copy) return;
  copy->unwanted = true;
  if (copy->ready()) retire(*copy, false);
}

void ChunkCopies::drop_segment(SegmentHandle segment) noexcept {
  for (std::size_t i = active_.size(); i-- > 0;) {
    ChunkCopy& copy = *active_[i];
    if (copy.segment != segment) continue;
    copy.unwanted = true;
    if (copy.ready()) retire(copy, false);
  }
}

void ChunkCopies::drop_ready() noexcept {
  for (std::size_t i = active_.size(); i-- > 0;) {
    if (active_[i]->ready()) retire(*active_[i], false);
  }
}

bool ChunkCopies::drop_others(SegmentHandle segment, std::uint32_t first_chunk,
                              std::uint32_t end_chunk) noexcept {
  bool none = true;
  for (std::size_t i = active_.size(); i-- > 0;) {
    ChunkCopy& copy = *active_[i];
    const bool wanted = copy.segment == segment && copy.chunk >= first_chunk &&
                        copy.chunk < end_chunk && !copy.unwanted;
    if (wanted) continue;
    if (copy.ready()) {
      retire(copy, false);
    } else {
      none = false;
    }
  }
  return none;
}

}  // namespace blockd::store
