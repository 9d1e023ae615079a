// A small table keyed by slot, for what only few slots have at a time: it costs nothing for the
// millions that have not. Open addressing with linear probing; nothing allocates after
// construction.
#pragma once

#include <bit>
#include <cstdint>
#include <vector>

#include "base/assert.h"

namespace blockd::store {

class SlotTable {
 public:
  // At most `entries` slots have a value at any time.
  explicit SlotTable(std::uint32_t entries) : places_(std::bit_ceil(std::size_t{entries} * 2)) {}

  // 0: none.
  [[nodiscard]] std::uint32_t find(std::uint32_t slot) const noexcept {
    const Place& place = places_[place_of(slot)];
    return place.value;
  }
  // 0 removes it.
  void set(std::uint32_t slot, std::uint32_t value) noexcept {
    const std::size_t at = place_of(slot);
    if (places_[at].value == 0 && value == 0) return;
    if (places_[at].value == 0) {
      BLOCKD_ASSERT(++used_ <= places_.size() / 2);
    }
    places_[at] = {slot, value};
    if (value != 0) return;
    --used_;
    close_gap(at);
  }
  [[nodiscard]] std::size_t size() const noexcept { return used_; }

 private:
  struct Place {
    std::uint32_t slot = 0;
    std::uint32_t value = 0;  // 0: empty
  };

  [[nodiscard]] std::size_t home(std::uint32_t slot) const noexcept {
    return (slot * 0x9e3779b97f4a7c15u) >> 20 & (places_.size() - 1);
  }
  [[nodiscard]] std::size_t next(std::size_t at) const noexcept {
    return (at + 1) & (places_.size() - 1);
  }
  // Where the slot is, or the empty place where it would go.
  [[nodiscard]] std::size_t place_of(std::uint32_t slot) const noexcept {
    std::size_t at = home(slot);
    while (places_[at].value != 0 && places_[at].slot != slot) at = next(at);
    return at;
  }
  // Moves back what probed over the place that is now empty (Knuth, TAOCP 6.4, algorithm R).
  void close_gap(std::size_t gap) noexcept {
    for (std::size_t at = next(gap); places_[at].value != 0; at = next(at)) {
      const std::size_t wanted = home(places_[at].slot);
      const std::size_t distance = (at - wanted) & (places_.size() - 1);
      if (distance < ((at - gap) & (places_.size() - 1))) continue;
      places_[gap] = places_[at];
      places_[at].value = 0;
      gap = at;
    }
  }

  std::vector<Place> places_;
  std::size_t used_ = 0;
};

}  // namespace blockd::store
