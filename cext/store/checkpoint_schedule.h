// When a checkpoint is due, and how much of the journal it leaves.
//
// Each takes only the oldest batches. A block that is written again before its turn never goes home
// as it was, and a metadata page is written once for all its changes since the oldest: the older
// both grow, the less is written. So the tail moves late, in small steps, and what is left in front
// of the head is room for the clients while a step is under way; should they be faster than the
// steps, the steps grow.
#pragma once

#include <algorithm>
#include <cstdint>

#include "store/constants.h"

namespace blockd::store {

class CheckpointSchedule {
 public:
  explicit CheckpointSchedule(std::uint64_t journal_bytes) noexcept {
    const std::uint64_t room =
        std::max(journal_bytes / 4, std::min(journal_bytes / 2, kCheckpointRoomBytes));
    // Early enough that a batch, and the skip before it when it would cross the end, still fit.
    due_bytes_ = std::min(journal_bytes - room, journal_bytes - 2 * kBatchBytesMax);
    keep_bytes_ = due_bytes_ - journal_bytes / 8;
  }

  // How much to free, of what is used; 0: nothing is due. `many_dirty`: of the metadata pages.
  [[nodiscard]] std::uint64_t due(std::uint64_t used_bytes, bool many_dirty) const noexcept {
    const std::uint64_t by_journal = used_bytes > due_bytes_ ? used_bytes - keep_bytes_ : 0;
    const std::uint64_t by_pages = many_dirty ? used_bytes / 4 + 1 : 0;
    return std::max(by_journal, by_pages);
  }

 private:
  std::uint64_t due_bytes_ = 0;
  std::uint64_t keep_bytes_ = 0;
};

}  // namespace blockd::store
