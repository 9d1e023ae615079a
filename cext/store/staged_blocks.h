// Blocks whose newest content is in the journal and not yet written home: where it is in memory.
//
// The journal's region is mirrored in memory at the same offsets, so a staged block is a block
// number of the journal. Reads look here first; checkpoints empty it. Nothing allocates after
// construction: a chunk entry has at least one staged block, so there are never more than the
// journal has blocks.
#pragma once

#include <cstdint>
#include <vector>

#include "blockd/types.h"
#include "store/slot_table.h"

namespace blockd::store {

struct StagedChunk {
  std::uint32_t slot = 0;
  std::uint16_t mask = 0;   // bit b: block b is staged
  std::uint32_t visit = 0;  // the checkpoint that looked at it last
  std::uint32_t journal_block[kBlocksPerChunk] = {};
  std::uint64_t lsn[kBlocksPerChunk] = {};  // of the batch that holds it
  StagedChunk* prev = nullptr;
  StagedChunk* next = nullptr;
};

class StagedBlocks {
 public:
  explicit StagedBlocks(std::uint32_t journal_blocks);

  void stage(std::uint32_t slot, std::uint32_t block, std::uint32_t journal_block,
             std::uint64_t lsn, std::uint32_t visit) noexcept;
  // Forget blocks of the slot (written home, zeroed, freed).
  void drop(std::uint32_t slot, std::uint16_t mask) noexcept;
  void drop_all(std::uint32_t slot) noexcept { drop(slot, 0xffff); }
  [[nodiscard]] const StagedChunk* find(std::uint32_t slot) const noexcept {
    const std::uint32_t place = index_.find(slot);
    return place == 0 ? nullptr : &chunks_[place - 1];
  }
  // The chunk that was looked at longest ago; null when nothing is staged.
  [[nodiscard]] StagedChunk* oldest() noexcept { return head_; }
  void visited(StagedChunk& chunk, std::uint32_t visit) noexcept;  // moves it to the end
  [[nodiscard]] std::uint64_t block_count() const noexcept { return block_count_; }

 private:
  void append(StagedChunk& chunk) noexcept;
  void unlink(StagedChunk& chunk) noexcept;

  SlotTable index_;  // place in chunks_ + 1
  std::vector<StagedChunk> chunks_;
  StagedChunk* free_ = nullptr;
  StagedChunk* head_ = nullptr;
  StagedChunk* tail_ = nullptr;
  std::uint64_t block_count_ = 0;
};

}  // namespace blockd::store
