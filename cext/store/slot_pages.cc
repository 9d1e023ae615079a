#include "store/slot_pages.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/assert.h"
#include "store/soundness.h"

namespace blockd::store {

using format::kRecordsPerPage;

SlotPages::SlotPages(Device& device, const format::Superblock& superblock,
                     std::uint32_t frame_limit)
    : device_(device),
      store_id_(superblock.store_id),
      offset_(superblock.slot_pages_offset),
      frame_limit_(frame_limit),
      states_(superblock.slot_page_count),
      memory_(kBlockBytes, kLoadsMax + 1),
      blocking_(memory_.get()) {
  for (std::uint32_t i = kLoadsMax; i-- > 0;) {
    Load& load = loads_[i];
    buffers_[i] = memory_.get();
    load.pages = this;
    load.iov = {buffers_[i].data(), kBlockBytes};
    load.request.op = io::DiskRequest::Op::read;
    load.request.iov = &load.iov;
    load.request.iov_count = 1;
    load.request.owner = &load;
    load.request.done = [](io::DiskRequest& request) noexcept {
      auto* self = static_cast<Load*>(request.owner);
      self->pages->load_done(*self);
    };
    load.next = std::exchange(free_loads_, &load);
  }
}

bool SlotPages::sound(const format::SlotPage& page, std::uint32_t number,
                      std::uint32_t copy) const noexcept {
  return is_sound(page, format::PageKind::slots, number, copy, store_id_);
}

void SlotPages::loaded(const format::SlotPage& page, std::uint32_t number, bool keep) {
  State& state = states_[number];
  state.generation = page.generation;
  state.blank = std::all_of(std::begin(page.records), std::end(page.records),
                            [](const auto& r) { return r.state == format::SlotState::free; });
  if (!keep && !state.frame) return;
  Frame& frame = state.frame ? *state.frame : take_frame(number);
  std::memcpy(static_cast<void*>(frame.records), page.records, sizeof frame.records);
}

const format::SlotRecord& SlotPages::record(std::uint32_t slot) noexcept {
  return resident(slot / kRecordsPerPage).records[slot % kRecordsPerPage];
}

format::SlotRecord& SlotPages::change(std::uint32_t slot, std::uint64_t lsn) noexcept {
  const std::uint32_t number = slot / kRecordsPerPage;
  Frame& frame = resident(number);
  BLOCKD_ASSERT(lsn >= frame.last_lsn);
  frame.last_lsn = lsn;
  State& state = states_[number];
  if (&frame != &nowhere_ && !state.dirty) {
    state.dirty = 1;
    state.blank = 0;
    frame.first_lsn = lsn;
    append_dirty(frame);
  }
  return frame.records[slot % kRecordsPerPage];
}

void SlotPages::append_dirty(Frame& frame) noexcept {
  BLOCKD_ASSERT(!dirty_tail_ || frame.first_lsn >= dirty_tail_->first_lsn);
  frame.next_dirty = nullptr;
  (dirty_tail_ ? dirty_tail_->next_dirty : dirty_head_) = &frame;
  dirty_tail_ = &frame;
  ++dirty_count_;
}

SlotPages::Frame& SlotPages::resident(std::uint32_t number) noexcept {
  BLOCKD_ASSERT(number < states_.size());
  State& state = states_[number];
  if (!state.frame && state.blank) {
    Frame& frame = take_frame(number);
    for (format::SlotRecord& record : frame.records) record = format::SlotRecord{};
  }
  if (!state.frame && !state.lost) {
    const std::span<std::byte> into{blocking_.data(), kBlockBytes};
    const bool read = device_.disk().read_now(newest_copy(number), into) == Error::Ok;
    if (!read || !accept(number, into.data())) {
      state.lost = 1;
      any_lost_ = true;
      device_.note_failure(Error::StoreDamaged);
    }
  }
  if (!state.frame) {
    for (format::SlotRecord& record : nowhere_.records) record = format::SlotRecord{};
    nowhere_.last_lsn = 0;
    return nowhere_;
  }
  state.frame->referenced = true;
  return *state.frame;
}

// Nothing here tells how long it may be before a frame is free: one more is made in that case, and
// the store keeps the number of dirty pages within bounds.
SlotPages::Frame& SlotPages::take_frame(std::uint32_t number) noexcept {
  Frame* frame = frames_.size() < frame_limit_ ? nullptr : evict();
  if (!frame) frame = frames_.emplace_back(std::make_unique<Frame>()).get();
  frame->number = number;
  frame->last_lsn = 0;
  frame->referenced = true;
  states_[number].frame = frame;
  return *frame;
}

SlotPages::Frame* SlotPages::evict() noexcept {
  for (std::size_t step = 0; step < 2 * frames_.size(); ++step) {
    Frame& frame = *frames_[hand_];
    hand_ = hand_ + 1 == frames_.size() ? 0 : hand_ + 1;
    State& state = states_[frame.number];
    if (state.dirty || frame.writing || std::exchange(frame.referenced, false)) continue;
    state.frame = nullptr;
    return &frame;
  }
  return nullptr;
}

std::uint64_t SlotPages::newest_copy(std::uint32_t number) const noexcept {
  const std::uint64_t copy = states_[number].generation & 1;
  return offset_ + (copy * states_.size() + number) * kBlockBytes;
}

// False: this is not the page as it was last written.
bool SlotPages::accept(std::uint32_t number, const std::byte* data) noexcept {
  const State& state = states_[number];
  const auto& page = *reinterpret_cast<const format::SlotPage*>(data);
  if (!sound(page, number, state.generation & 1) || page.generation != state.generation)
    return false;
  std::memcpy(static_cast<void*>(take_frame(number).records), page.records, sizeof page.records);
  return true;
}

void SlotPages::prefetch(std::uint32_t number) noexcept {
  State& state = states_[number];
  if (ready(number) || state.loading || !free_loads_) return;
  state.loading = 1;
  Load& load = *std::exchange(free_loads_, free_loads_->next);
  load.number = number;
  load.request.error = Error::Ok;
  load.request.offset_bytes = newest_copy(number);
  ++loads_in_flight_;
  device_.submit(load.request);
}

// What does not fit may be an older copy: the page was needed, written and evicted meanwhile.
// resident() then reads it again and decides.
void SlotPages::load_done(Load& load) noexcept {
  --loads_in_flight_;
  State& state = states_[load.number];
  state.loading = 0;
  const bool read = load.request.error == Error::Ok;
  const bool came_as_expected =
      ready(load.number) ||
      (read && accept(load.number, static_cast<const std::byte*>(load.iov.iov_base)));
  if (!came_as_expected) static_cast<void>(resident(load.number));
  load.next = std::exchange(free_loads_, &load);
  came(owner);
}

std::uint64_t SlotPages::stage_oldest(std::byte* into) noexcept {
  BLOCKD_ASSERT(dirty_head_ && !dirty_head_->writing);
  const std::uint32_t number = dirty_head_->number;
  dirty_head_ = dirty_head_->next_dirty;
  if (!dirty_head_) dirty_tail_ = nullptr;
  State& state = states_[number];
  state.dirty = 0;
  --dirty_count_;
  state.generation = state.generation + 1;
  state.frame->writing = true;
  format::SlotPage page;
  page.store_id = store_id_;
  page.kind = format::PageKind::slots;
  page.number = number;
  page.generation = state.generation;
  std::memcpy(static_cast<void*>(page.records), state.frame->records, sizeof page.records);
  format::seal(page);
  std::memcpy(into, &page, kBlockBytes);
  return newest_copy(number);
}

void SlotPages::written(std::uint32_t number) noexcept {
  BLOCKD_ASSERT(states_[number].frame && states_[number].frame->writing);
  states_[number].frame->writing = false;
}

}  // namespace blockd::store
