// Which chunks of a segment look different in two views of its volume: what a backup copies.
//
// A pure walk over the states that a store lists, page by page; the caller says when to go on.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "store/store.h"

namespace blockd::border {

// The volume as a snapshot, or now, shows it; over a base that is a snapshot of itself when it had
// been rolled back.
struct ChunkView {
  Era era = 0;       // 0: the current state
  Era base_era = 0;  // 0: no such base
  Era since = 0;     // content born before it, and after base_era, does not count
};

class ChangedChunks {
 public:
  // Without `from` every chunk that `to` shows is new.
  ChangedChunks(std::optional<ChunkView> from, ChunkView to) : from_(from), to_(to) {}

  // As store::Store::list_states of the segment.
  using Lister = std::function<std::size_t(std::uint32_t from_chunk, Version above,
                                           std::span<store::ChunkState> out)>;
  // Looks at the next page. False: that was all.
  [[nodiscard]] bool step(const Lister& list_states);
  [[nodiscard]] std::vector<std::uint32_t> take() { return std::move(changed_); }  // ascending

 private:
  static constexpr std::size_t kPage = 1024;

  void compare();

  std::optional<ChunkView> from_;
  ChunkView to_;
  std::vector<store::ChunkState> page_;
  std::vector<store::ChunkState> states_;  // of the chunk being looked at
  std::vector<std::uint32_t> changed_;
};

}  // namespace blockd::border
