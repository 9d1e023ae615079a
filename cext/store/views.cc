#include "store/views.h"

#include <algorithm>

#include "base/assert.h"

namespace blockd::store {

using format::kNoSlot;

SegmentHandle Views::open(SegmentHandle segment, Era era) {
  if (open_ == kViewsMax) return Store::kNoView;
  auto place = std::find(views_.begin(), views_.end(), nullptr);
  if (place == views_.end()) place = views_.insert(place, nullptr);
  *place = std::make_unique<View>();
  (*place)->segment = segment;
  (*place)->era = era;
  (*place)->slots.assign(kChunksPerSegment, kUnknown);
  ++open_;
  return kFirst + static_cast<SegmentHandle>(place - views_.begin());
}

void Views::close(SegmentHandle view) noexcept {
  BLOCKD_ASSERT(is_view(view) && view - kFirst < views_.size() && views_[view - kFirst]);
  views_[view - kFirst].reset();
  --open_;
}

SegmentHandle Views::segment_of(SegmentHandle view) const noexcept {
  const std::uint32_t place = view - kFirst;
  return place < views_.size() && views_[place] ? views_[place]->segment : Store::kNoView;
}

bool Views::ready(SegmentHandle view, std::uint32_t chunk) noexcept {
  View& open = *views_[view - kFirst];
  if (open.slots[chunk] == kUnknown && !resolve(open, chunk, /*read=*/false)) return false;
  return open.slots[chunk] == kNoSlot || metadata_.slot_ready(open.slots[chunk]);
}

const std::uint32_t& Views::slot(SegmentHandle view, std::uint32_t chunk) noexcept {
  View& open = *views_[view - kFirst];
  if (open.slots[chunk] == kUnknown) {
    const bool known = resolve(open, chunk, /*read=*/true);
    BLOCKD_ASSERT(known);
  }
  return open.slots[chunk];
}

// At most one content of the chunk is shown (docs/SNAPSHOTS.md): the first that fits is it.
bool Views::resolve(View& view, std::uint32_t chunk, bool read) noexcept {
  constexpr std::uint32_t kAhead = 16;  // pages asked for at a time
  std::uint32_t missing = 0;
  const auto shows = [&](std::uint32_t slot) {
    if (!read && !metadata_.slot_ready(slot)) {
      ++missing;
      return false;
    }
    const format::SlotRecord& record = metadata_.slot(slot);
    return record.born <= view.era && (record.died == 0 || view.era < record.died);
  };
  const auto found = [&](std::uint32_t slot) {
    view.slots[chunk] = slot;
    return true;
  };
  const auto& current = metadata_.segment(view.segment).slot_of_chunk;
  if (chunk < current.size() && current[chunk] != kNoSlot && shows(current[chunk]))
    return found(current[chunk]);
  const History& history = metadata_.history();
  for (std::uint32_t slot = history.first(view.segment, chunk); slot != kNoSlot && missing < kAhead;
       slot = history.next(slot)) {
    if (shows(slot)) return found(slot);
  }
  return missing == 0 && found(kNoSlot);
}

void Views::chunk_changed(SegmentHandle segment, std::uint32_t chunk) noexcept {
  if (open_ == 0) return;
  for (const auto& view : views_) {
    if (view && view->segment == segment) view->slots[chunk] = kUnknown;
  }
}

void Views::segment_dropped(SegmentHandle segment) noexcept {
  for (const auto& view : views_) {
    if (view && view->segment == segment) view->segment = Store::kNoView;
  }
}

bool Views::any_in(SegmentHandle segment, Era from, Era to) const noexcept {
  if (open_ == 0) return false;
  return std::any_of(views_.begin(), views_.end(), [&](const auto& view) {
    return view && view->segment == segment && from <= view->era && view->era < to;
  });
}

}  // namespace blockd::store
