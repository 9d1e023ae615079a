// Which snapshots there are, by volume, as far as the store has been told.
#pragma once

#include <algorithm>
#include <unordered_map>
#include <utility>

#include "store/store.h"

namespace blockd::store {

class SnapshotSets {
 public:
  void set(SnapshotSet set) {
    std::sort(set.eras.begin(), set.eras.end());
    const Uuid volume = set.volume;
    sets_.insert_or_assign(volume, std::move(set));
  }

  // Whether there may be a snapshot e with from <= e < to.
  [[nodiscard]] bool any_in(const Uuid& volume, Era from, Era to) const noexcept {
    if (from >= to) return false;
    const auto found = sets_.find(volume);
    if (found == sets_.end() || to > found->second.known_below) return true;
    const auto at = std::lower_bound(found->second.eras.begin(), found->second.eras.end(), from);
    return at != found->second.eras.end() && *at < to;
  }

  // Covering chunks born before it cover nothing; 0 when nobody said.
  [[nodiscard]] Era uncovered_below(const Uuid& volume) const noexcept {
    const auto found = sets_.find(volume);
    return found == sets_.end() ? 0 : found->second.uncovered_below;
  }

 private:
  std::unordered_map<Uuid, SnapshotSet> sets_;
};

}  // namespace blockd::store
