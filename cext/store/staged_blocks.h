// Blocks whose newest content is in the journal and not yet written home: where it is in memory.
//
// The journal's region is mirrored in memory at the same offsets, so a staged block is a block
// number of the journal, and one of the journal is at most one staged block. Reads look by slot;
// checkpoints go along the journal, oldest first. Nothing allocates after construction: a chunk
// entry has at least one staged block, so there are never more than the journal has blocks.
#pragma once

#include <cstdint>
#include <vector>

#include "blockd/types.h"
#include "store/slot_table.h"

namespace blockd::store {

struct StagedChunk {
  std::uint32_t slot = 0;
  std::uint16_t mask = 0;  // bit b: block b is staged
  std::uint32_t journal_block[kBlocksPerChunk] = {};
  StagedChunk* next = nullptr;

  [[nodiscard]] bool holds(std::uint32_t block, std::uint32_t at) const noexcept {
    return (mask >> block & 1) && journal_block[block] == at;
  }
};

class StagedBlocks {
 public:
  explicit StagedBlocks(std::uint32_t journal_blocks);

  void stage(std::uint32_t slot, std::uint32_t block, std::uint32_t journal_block) noexcept;
  // Forget blocks of the slot (written home, zeroed, freed).
  void drop(std::uint32_t slot, std::uint16_t mask) noexcept;
  void drop_all(std::uint32_t slot) noexcept { drop(slot, 0xffff); }
  [[nodiscard]] const StagedChunk* find(std::uint32_t slot) const noexcept {
    const std::uint32_t place = index_.find(slot);
    return place == 0 ? nullptr : &chunks_[place - 1];
  }

  struct Staged {
    const StagedChunk* chunk = nullptr;
    std::uint32_t block = 0;
  };
  // What this block of the journal is the newest content of, unless it is on its way home already;
  // the chunk is null when it is of nothing: a header, or superseded.
  [[nodiscard]] Staged to_write(std::uint32_t journal_block) const noexcept;
  // It is on its way home now.
  void begin_write(std::uint32_t journal_block) noexcept { whose_[journal_block] = 0; }
  [[nodiscard]] std::uint64_t block_count() const noexcept { return block_count_; }

 private:
  SlotTable index_;  // place in chunks_ + 1
  std::vector<StagedChunk> chunks_;
  StagedChunk* free_ = nullptr;
  // Of each block of the journal: 1 + 16 times the place in chunks_ + the block. What was there
  // before stays when it is superseded, and holds() then tells.
  std::vector<std::uint32_t> whose_;
  std::uint64_t block_count_ = 0;
};

}  // namespace blockd::store
