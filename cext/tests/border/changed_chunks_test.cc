// Which chunks two views of a volume show differently.
#include "border/changed_chunks.h"

#include <doctest/doctest.h>

#include <algorithm>

#include "base/random.h"

using namespace blockd;
using namespace blockd::border;

namespace {

using States = std::vector<store::ChunkState>;
using Chunks = std::vector<std::uint32_t>;

Chunks changed(const States& states, std::optional<ChunkView> from, ChunkView to) {
  ChangedChunks walk(from, to);
  const auto list = [&](std::uint32_t chunk, Version above, std::span<store::ChunkState> out) {
    std::size_t count = 0;
    for (const store::ChunkState& state : states) {
      const bool beyond = state.chunk > chunk || (state.chunk == chunk && state.version > above);
      if (beyond && count < out.size()) out[count++] = state;
    }
    return count;
  };
  while (walk.step(list)) {
  }
  return walk.take();
}

}  // namespace

TEST_CASE("a chunk has changed when another version shows, or it comes or goes") {
  const States states = {
      {0, {1, 1}, 1, 0, 0xffff, false},  // as it was
      {1, {1, 2}, 1, 3, 0xffff, false},  // written in era 3
      {1, {1, 9}, 3, 0, 0xffff, false},
      {2, {1, 3}, 2, 0, 0x0001, false},  // new in era 2
      {3, {1, 4}, 1, 2, 0x0001, false},  // gone in era 2, with a tombstone
      {3, {1, 5}, 2, 0, 0, false},
      {4, {1, 6}, 1, 2, 0x0001, false},  // gone in era 2, hiding a base
      {4, {1, 7}, 2, 0, 0, true},
      {5, {1, 8}, 1, 0, 0, false},  // never had anything
  };
  CHECK(changed(states, ChunkView{1}, ChunkView{1}).empty());
  CHECK(changed(states, ChunkView{1}, ChunkView{2}) == Chunks{2, 3, 4});
  CHECK(changed(states, ChunkView{2}, ChunkView{3}) == Chunks{1});
  CHECK(changed(states, ChunkView{1}, ChunkView{0}) == Chunks{1, 2, 3, 4});
  CHECK(changed(states, ChunkView{0}, ChunkView{1}) == Chunks{1, 2, 3, 4});
  CHECK(changed(states, std::nullopt, ChunkView{1}) == Chunks{0, 1, 3, 4});
  CHECK(changed(states, std::nullopt, ChunkView{0}) == Chunks{0, 1, 2, 4});
}

TEST_CASE("after a rollback what was written between counts no more") {
  // Snapshot 2; written in 3; rolled back to 2 from era 5 on; written in 6.
  const States states = {
      {0, {1, 1}, 1, 3, 0xffff, false}, {0, {1, 5}, 3, 0, 0xffff, false},  // shows the base again
      {1, {1, 6}, 4, 0, 0xffff, false},                                    // shows a hole again
      {2, {1, 2}, 2, 6, 0xffff, false}, {2, {2, 1}, 6, 0, 0xffff, false},  // written after
      {3, {1, 3}, 2, 0, 0xffff, false},                                    // never touched
      {4, {1, 4}, 2, 3, 0xffff, false},                                    // trimmed between
  };
  const ChunkView now{0, 2, 5};
  CHECK(changed(states, ChunkView{2}, now) == Chunks{2});
  CHECK(changed(states, ChunkView{4}, now) == Chunks{0, 1, 2, 4});
  CHECK(changed(states, ChunkView{2}, ChunkView{5, 2, 5}).empty());
  CHECK(changed(states, std::nullopt, now) == Chunks{0, 2, 3, 4});
}

TEST_CASE("a chunk's states may be spread over pages") {
  Random random(7);
  States states;
  Chunks wanted;
  for (std::uint32_t chunk = 0; chunk < 2000; ++chunk) {
    const auto eras = static_cast<Era>(random.between(1, 5));
    for (Era era = 1; era <= eras; ++era) {
      states.push_back({chunk, {1, chunk * 10 + era}, era, era == eras ? 0 : era + 1, 1, false});
    }
    if (eras > 2) wanted.push_back(chunk);
  }
  CHECK(changed(states, ChunkView{2}, ChunkView{0}) == wanted);
  CHECK(changed({}, std::nullopt, ChunkView{0}).empty());
}
