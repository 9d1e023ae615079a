#include "store/metadata.h"

#include <algorithm>
#include <cstring>

#include "base/assert.h"

namespace blockd::store {

using format::kNoSlot;
using format::kRecordsPerPage;

namespace {

// A page that cannot be read is as good as a torn one: zeros. Its neighbours are read without it.
void read_pages(io::Disk& disk, std::uint64_t offset, std::span<std::byte> into) {
  if (disk.read_now(offset, into) == Error::Ok) return;
  for (std::size_t at = 0; at < into.size(); at += kBlockBytes) {
    const std::span<std::byte> page = into.subspan(at, kBlockBytes);
    if (disk.read_now(offset + at, page) != Error::Ok) std::memset(page.data(), 0, page.size());
  }
}

}  // namespace

Metadata::Metadata(const format::Superblock& superblock)
    : superblock_(superblock),
      slots_(superblock.slot_count),
      states_(superblock.slot_count),
      segments_(std::size_t{superblock.segment_page_count} * kRecordsPerPage),
      pages_(std::size_t{superblock.segment_page_count} + superblock.slot_page_count) {}

template <class PageType, class Use>
void Metadata::load_pages(io::Disk& disk, format::PageKind kind, std::uint64_t offset,
                          std::uint32_t count, std::uint32_t first_page, Use use) {
  constexpr std::uint32_t kPagesPerRead = 128;
  BufferPool pool(kPagesPerRead * kBlockBytes, 2);
  const BufferRef copies[2] = {pool.get(), pool.get()};
  auto page = std::make_unique<PageType>();
  for (std::uint32_t first = 0; first < count; first += kPagesPerRead) {
    const std::uint32_t now = std::min(kPagesPerRead, count - first);
    for (std::uint32_t copy = 0; copy < 2; ++copy) {
      const std::uint64_t at = offset + (std::uint64_t{copy} * count + first) * kBlockBytes;
      read_pages(disk, at, {copies[copy].data(), std::size_t{now} * kBlockBytes});
    }
    for (std::uint32_t i = 0; i < now; ++i) {
      PageState& state = pages_[first_page + first + i];
      bool found = false;
      for (std::uint32_t copy = 0; copy < 2; ++copy) {
        std::memcpy(static_cast<void*>(page.get()),
                    copies[copy].data() + std::size_t{i} * kBlockBytes, kBlockBytes);
        const bool sound = page->magic == format::kPageMagic && format::checksum_matches(*page) &&
                           page->store_id == superblock_.store_id && page->kind == kind &&
                           page->number == first + i && (page->generation & 1) == copy;
        if (!sound) {
          state.copy_damaged = true;
        } else if (!found || page->generation > state.generation) {
          found = true;
          state.generation = page->generation;
          use(first + i, *page);
        }
      }
      if (!found) {
        throw Fault(Error::StoreDamaged, "both copies of metadata page " +
                                             std::to_string(first_page + first + i) +
                                             " are damaged: rebuild this store from its peers");
      }
    }
  }
}

void Metadata::load(io::Disk& disk) {
  load_pages<format::SegmentPage>(disk, format::PageKind::segments,
                                  superblock_.segment_pages_offset, superblock_.segment_page_count,
                                  0, [this](std::uint32_t number, const format::SegmentPage& page) {
                                    for (std::uint32_t i = 0; i < kRecordsPerPage; ++i) {
                                      segments_[std::size_t{number} * kRecordsPerPage + i].record =
                                          page.records[i];
                                    }
                                  });
  load_pages<format::SlotPage>(
      disk, format::PageKind::slots, superblock_.slot_pages_offset, superblock_.slot_page_count,
      superblock_.segment_page_count, [this](std::uint32_t number, const format::SlotPage& page) {
        const std::size_t first = std::size_t{number} * kRecordsPerPage;
        for (std::size_t i = 0; i < kRecordsPerPage && first + i < slots_.size(); ++i) {
          slots_[first + i] = page.records[i];
        }
      });
}

void Metadata::check_torn_pages() const {
  for (std::size_t page = 0; page < pages_.size(); ++page) {
    if (pages_[page].copy_damaged && !pages_[page].dirty) {
      throw Fault(Error::StoreDamaged,
                  "a copy of metadata page " + std::to_string(page) +
                      " is damaged and no interrupted checkpoint explains it: rebuild this "
                      "store from its peers");
    }
  }
}

void Metadata::index() {
  for (SegmentHandle handle = 0; handle < segments_.size(); ++handle) {
    if (segments_[handle].used()) add_to_index(handle);
  }
  free_slots_ = 0;
  for (std::uint32_t slot = 0; slot < slots_.size(); ++slot) {
    states_[slot] = SlotState{};
    if (slots_[slot].state == format::SlotState::used) {
      index_slot(slot);
    } else {
      ++free_slots_;
    }
  }
}

void Metadata::index_slot(std::uint32_t slot) {
  const format::SlotRecord& record = slots_[slot];
  const bool known = record.segment < segments_.size() && segments_[record.segment].used() &&
                     record.chunk < segments_[record.segment].slot_of_chunk.size();
  if (!known)
    throw Fault(Error::StoreDamaged, "slot " + std::to_string(slot) + " belongs to no segment");
  Segment& segment = segments_[record.segment];
  if (segment.slot_of_chunk[record.chunk] != kNoSlot) {
    throw Fault(Error::StoreDamaged, "slots " +
                                         std::to_string(segment.slot_of_chunk[record.chunk]) +
                                         " and " + std::to_string(slot) + " both claim one chunk");
  }
  segment.slot_of_chunk[record.chunk] = slot;
  ++segment.chunk_count;
  if (record.valid_mask == 0) {
    ++segment.tombstone_count;
    segment.oldest_tombstone = std::min(segment.oldest_tombstone, record.version);
  }
  states_[slot].taken = true;
}

format::SlotRecord& Metadata::change_slot(std::uint32_t slot, std::uint64_t lsn) noexcept {
  BLOCKD_ASSERT(slot < slots_.size());
  mark_page(superblock_.segment_page_count + slot / kRecordsPerPage, lsn);
  return slots_[slot];
}

void Metadata::mark_segment(std::uint32_t handle, std::uint64_t lsn) noexcept {
  BLOCKD_ASSERT(handle < segments_.size());
  mark_page(handle / kRecordsPerPage, lsn);
}

void Metadata::mark_page(std::uint32_t page, std::uint64_t lsn) noexcept {
  PageState& state = pages_[page];
  if (!state.dirty) {
    state.dirty = true;
    ++dirty_pages_;
  }
  BLOCKD_ASSERT(lsn >= state.last_lsn || lsn == 0);
  state.last_lsn = std::max(state.last_lsn, lsn);
}

std::optional<SegmentHandle> Metadata::find(SegmentId id) const noexcept {
  const auto found = by_id_.find(id);
  if (found == by_id_.end()) return std::nullopt;
  return found->second;
}

std::optional<SegmentHandle> Metadata::free_segment() const noexcept {
  for (SegmentHandle handle = 0; handle < segments_.size(); ++handle) {
    if (!segments_[handle].used()) return handle;
  }
  return std::nullopt;
}

void Metadata::add_to_index(SegmentHandle handle) {
  Segment& segment = segments_[handle];
  const std::uint32_t chunks = (segment.record.block_count + kBlocksPerChunk - 1) / kBlocksPerChunk;
  segment.slot_of_chunk.resize(chunks, kNoSlot);
  by_id_[SegmentId{segment.record.volume, segment.record.index}] = handle;
}

void Metadata::remove_from_index(SegmentHandle handle) {
  Segment& segment = segments_[handle];
  by_id_.erase(SegmentId{segment.record.volume, segment.record.index});
  segment = Segment{};
}

// Slots that were freed lately come first: they have been written before, which file systems and
// thin devices reward, and a store that is not full touches no more of its device than it must. The
// search from there is bounded; a fragmented store falls back to going round.
std::optional<std::uint32_t> Metadata::take_run(std::uint32_t count) noexcept {
  BLOCKD_ASSERT(count > 0);
  if (free_slots_ < count) return std::nullopt;
  constexpr std::uint32_t kNearSlots = 1024;
  const auto total = static_cast<std::uint32_t>(slots_.size());
  if (const auto near = find_run(freed_cursor_, std::min(total, kNearSlots), count)) {
    freed_cursor_ = take(*near, count);
    return near;
  }
  const auto far = find_run(cursor_, total + count, count);
  if (far) freed_cursor_ = cursor_ = take(*far, count);
  return far;
}

// The first run of `count` free slots that ends within `steps` slots from `from`, going round.
std::optional<std::uint32_t> Metadata::find_run(std::uint32_t from, std::uint32_t steps,
                                                std::uint32_t count) const noexcept {
  const auto total = static_cast<std::uint32_t>(slots_.size());
  std::uint32_t run = 0;
  for (std::uint32_t step = 0, at = from; step < steps; ++step, ++at) {
    if (at == total) {
      at = 0;
      run = 0;
    }
    run = states_[at].taken ? 0 : run + 1;
    if (run == count) return at + 1 - count;
  }
  return std::nullopt;
}

// Returns where the search goes on.
std::uint32_t Metadata::take(std::uint32_t first, std::uint32_t count) noexcept {
  for (std::uint32_t slot = first; slot < first + count; ++slot) {
    BLOCKD_ASSERT(!states_[slot].taken);
    states_[slot].taken = true;
  }
  free_slots_ -= count;
  const std::uint32_t next = first + count;
  return next == slots_.size() ? 0 : next;
}

void Metadata::give_back(std::uint32_t slot) noexcept {
  BLOCKD_ASSERT(states_[slot].taken && states_[slot].io_pins == 0);
  BLOCKD_ASSERT(slots_[slot].state == format::SlotState::free);
  states_[slot].taken = false;
  freed_cursor_ = std::min(freed_cursor_, slot);
  ++free_slots_;
}

std::uint64_t Metadata::stage_page(std::uint32_t page, std::byte* into) noexcept {
  PageState& state = pages_[page];
  BLOCKD_ASSERT(state.dirty);
  state.dirty = false;
  --dirty_pages_;
  ++state.generation;
  const std::uint32_t copy = state.generation & 1;
  const bool segments = page < superblock_.segment_page_count;
  const std::uint32_t number = segments ? page : page - superblock_.segment_page_count;
  const std::size_t first = std::size_t{number} * kRecordsPerPage;
  auto fill = [&](auto staged, format::PageKind kind, auto record_at, std::size_t limit) {
    staged.store_id = superblock_.store_id;
    staged.kind = kind;
    staged.number = number;
    staged.generation = state.generation;
    for (std::size_t i = 0; i < kRecordsPerPage && first + i < limit; ++i)
      staged.records[i] = record_at(first + i);
    format::seal(staged);
    std::memcpy(into, &staged, kBlockBytes);
  };
  if (segments) {
    fill(
        format::SegmentPage{}, format::PageKind::segments,
        [&](std::size_t i) { return segments_[i].record; }, segments_.size());
    return superblock_.segment_pages_offset +
           (std::uint64_t{copy} * superblock_.segment_page_count + number) * kBlockBytes;
  }
  fill(
      format::SlotPage{}, format::PageKind::slots, [&](std::size_t i) { return slots_[i]; },
      slots_.size());
  return superblock_.slot_pages_offset +
         (std::uint64_t{copy} * superblock_.slot_page_count + number) * kBlockBytes;
}

}  // namespace blockd::store
