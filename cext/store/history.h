// The past of chunks: slots that only snapshots show, a list for each chunk, in no order.
//
// Costs nothing for segments without any. Which era a slot was born and died in says its record.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <vector>

#include "store/store.h"

namespace blockd::store {

class History {
 public:
  History(std::uint32_t slot_count, std::uint32_t segment_limit)
      : slot_count_(slot_count), segments_(segment_limit) {}

  // kNoSlot: there is none (any more).
  [[nodiscard]] std::uint32_t first(SegmentHandle segment, std::uint32_t chunk) const noexcept {
    const Chunks* chunks = segments_[segment].get();
    return chunks ? chunks->first[chunk] - 1 : format::kNoSlot;
  }
  [[nodiscard]] std::uint32_t next(std::uint32_t slot) const noexcept { return next_[slot] - 1; }
  [[nodiscard]] std::uint32_t count(SegmentHandle segment) const noexcept {
    return segments_[segment] ? segments_[segment]->count : 0;
  }
  [[nodiscard]] std::uint32_t total() const noexcept { return total_; }

  void add(SegmentHandle segment, std::uint32_t chunk, std::uint32_t slot);
  void remove(SegmentHandle segment, std::uint32_t chunk, std::uint32_t slot) noexcept;

 private:
  struct Chunks {
    std::vector<std::uint32_t> first;  // slot + 1; 0: none
    std::uint32_t count = 0;
  };
  struct Free {
    void operator()(std::uint32_t* memory) const noexcept { std::free(memory); }
  };

  std::uint32_t slot_count_;
  std::vector<std::unique_ptr<Chunks>> segments_;
  std::unique_ptr<std::uint32_t[], Free>
      next_;  // by slot: slot + 1; its pages come as they are used
  std::uint32_t total_ = 0;
};

}  // namespace blockd::store
