#include "border/changed_chunks.h"

#include "engine/chunk_layers.h"

namespace blockd::border {
namespace {

using States = std::vector<store::ChunkState>;

const store::ChunkState* at_era(const States& states, Era era) {
  for (const store::ChunkState& state : states) {
    const bool there =
        era == 0 ? state.died == 0 : state.born <= era && (state.died == 0 || era < state.died);
    if (there) return &state;
  }
  return nullptr;
}

// The version of what the view shows; nothing: a hole that hides nothing.
std::optional<Version> shown(const States& states, const ChunkView& view) {
  const store::ChunkState* state = at_era(states, view.era);
  if (view.base_era != 0) {
    const engine::BaseRules rules{.self = true, .era = view.base_era, .since = view.since};
    if (state == nullptr || !rules.counts(state->born)) state = at_era(states, view.base_era);
  }
  if (state == nullptr || (state->valid_mask == 0 && !state->covers)) return std::nullopt;
  return state->version;
}

}  // namespace

bool ChangedChunks::step(const Lister& list_states) {
  const store::ChunkState last = page_.empty() ? store::ChunkState{} : page_.back();
  page_.resize(kPage);
  page_.resize(list_states(last.chunk, last.version, page_));
  for (const store::ChunkState& state : page_) {
    if (!states_.empty() && states_.back().chunk != state.chunk) compare();
    states_.push_back(state);
  }
  if (page_.size() == kPage) return true;
  compare();
  return false;
}

void ChangedChunks::compare() {
  if (states_.empty()) return;
  const auto before = from_ ? shown(states_, *from_) : std::nullopt;
  if (before != shown(states_, to_)) changed_.push_back(states_.front().chunk);
  states_.clear();
}

}  // namespace blockd::border
