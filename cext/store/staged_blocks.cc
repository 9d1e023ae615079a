#include "store/staged_blocks.h"

#include <bit>

#include "base/assert.h"

namespace blockd::store {

StagedBlocks::StagedBlocks(std::uint32_t journal_blocks)
    : index_(journal_blocks), chunks_(journal_blocks) {
  for (auto chunk = chunks_.rbegin(); chunk != chunks_.rend(); ++chunk) {
    chunk->next = free_;
    free_ = &*chunk;
  }
}

void StagedBlocks::stage(std::uint32_t slot, std::uint32_t block, std::uint32_t journal_block,
                         std::uint64_t lsn, std::uint32_t visit) noexcept {
  BLOCKD_ASSERT(block < kBlocksPerChunk);
  std::uint32_t place = index_.find(slot);
  if (place == 0) {
    BLOCKD_ASSERT(free_ != nullptr);
    StagedChunk* fresh = free_;
    free_ = fresh->next;
    fresh->slot = slot;
    fresh->mask = 0;
    fresh->visit = visit;
    append(*fresh);
    place = static_cast<std::uint32_t>(fresh - chunks_.data()) + 1;
    index_.set(slot, place);
  }
  StagedChunk& chunk = chunks_[place - 1];
  const auto bit = static_cast<std::uint16_t>(1u << block);
  if (!(chunk.mask & bit)) ++block_count_;
  chunk.mask |= bit;
  chunk.journal_block[block] = journal_block;
  chunk.lsn[block] = lsn;
}

void StagedBlocks::drop(std::uint32_t slot, std::uint16_t mask) noexcept {
  const std::uint32_t place = index_.find(slot);
  if (place == 0) return;
  StagedChunk& chunk = chunks_[place - 1];
  BLOCKD_ASSERT(chunk.slot == slot);
  block_count_ -=
      static_cast<std::uint64_t>(std::popcount(static_cast<std::uint16_t>(chunk.mask & mask)));
  chunk.mask &= static_cast<std::uint16_t>(~mask);
  if (chunk.mask != 0) return;
  index_.set(slot, 0);
  unlink(chunk);
  chunk.next = free_;
  free_ = &chunk;
}

void StagedBlocks::visited(StagedChunk& chunk, std::uint32_t visit) noexcept {
  unlink(chunk);
  append(chunk);
  chunk.visit = visit;
}

void StagedBlocks::append(StagedChunk& chunk) noexcept {
  chunk.next = nullptr;
  chunk.prev = tail_;
  (tail_ ? tail_->next : head_) = &chunk;
  tail_ = &chunk;
}

void StagedBlocks::unlink(StagedChunk& chunk) noexcept {
  (chunk.prev ? chunk.prev->next : head_) = chunk.next;
  (chunk.next ? chunk.next->prev : tail_) = chunk.prev;
}

}  // namespace blockd::store
