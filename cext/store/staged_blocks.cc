#include "store/staged_blocks.h"

#include <bit>

#include "base/assert.h"

namespace blockd::store {

StagedBlocks::StagedBlocks(std::uint32_t journal_blocks)
    : index_(journal_blocks), chunks_(journal_blocks), whose_(journal_blocks) {
  BLOCKD_ASSERT(journal_blocks < ~std::uint32_t{0} / kBlocksPerChunk);
  for (auto chunk = chunks_.rbegin(); chunk != chunks_.rend(); ++chunk) {
    chunk->next = free_;
    free_ = &*chunk;
  }
}

void StagedBlocks::stage(std::uint32_t slot, std::uint32_t block,
                         std::uint32_t journal_block) noexcept {
  BLOCKD_ASSERT(block < kBlocksPerChunk && journal_block < whose_.size());
  std::uint32_t place = index_.find(slot);
  if (place == 0) {
    BLOCKD_ASSERT(free_ != nullptr);
    StagedChunk* fresh = free_;
    free_ = fresh->next;
    fresh->slot = slot;
    fresh->mask = 0;
    place = static_cast<std::uint32_t>(fresh - chunks_.data()) + 1;
    index_.set(slot, place);
  }
  StagedChunk& chunk = chunks_[place - 1];
  const auto bit = static_cast<std::uint16_t>(1u << block);
  if (!(chunk.mask & bit)) ++block_count_;
  chunk.mask |= bit;
  chunk.journal_block[block] = journal_block;
  whose_[journal_block] = 1 + (place - 1) * kBlocksPerChunk + block;
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
  chunk.next = free_;
  free_ = &chunk;
}

StagedBlocks::Staged StagedBlocks::to_write(std::uint32_t journal_block) const noexcept {
  const std::uint32_t whose = whose_[journal_block];
  if (whose == 0) return {};
  const StagedChunk& chunk = chunks_[(whose - 1) / kBlocksPerChunk];
  const std::uint32_t block = (whose - 1) % kBlocksPerChunk;
  if (!chunk.holds(block, journal_block)) return {};
  return {&chunk, block};
}

}  // namespace blockd::store
