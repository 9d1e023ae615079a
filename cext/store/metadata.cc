#include "store/metadata.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <utility>

#include "base/assert.h"
#include "base/buffer.h"
#include "format/root.h"
#include "store/constants.h"
#include "store/soundness.h"

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

std::uint32_t frames_for(std::uint64_t cache_bytes) {
  const std::uint64_t bytes = cache_bytes ? cache_bytes : kMetadataCacheBytes;
  return static_cast<std::uint32_t>(std::max<std::uint64_t>(bytes / kBlockBytes, 1));
}

// Calls use(page, number) with the newest sound copy of each page; `damaged` gets the pages
// (counted from first_page) with a copy that is not. Throws StoreDamaged where neither is sound.
template <class PageType, class Sound, class Use>
void for_each_page(io::Disk& disk, std::uint64_t offset, std::uint32_t count,
                   std::uint32_t first_page, Sound sound, std::vector<std::uint32_t>& damaged,
                   Use use) {
  constexpr std::uint32_t kPagesPerRead = 256;
  BufferPool pool(kPagesPerRead * kBlockBytes, 2);
  const BufferRef copies[2] = {pool.get(), pool.get()};
  for (std::uint32_t first = 0; first < count; first += kPagesPerRead) {
    const std::uint32_t now = std::min(kPagesPerRead, count - first);
    for (std::uint32_t copy = 0; copy < 2; ++copy) {
      const std::uint64_t at = offset + (std::uint64_t{copy} * count + first) * kBlockBytes;
      read_pages(disk, at, {copies[copy].data(), std::size_t{now} * kBlockBytes});
    }
    for (std::uint32_t i = 0; i < now; ++i) {
      const std::uint32_t number = first + i;
      const PageType* newest = nullptr;
      for (std::uint32_t copy = 0; copy < 2; ++copy) {
        const auto* page =
            reinterpret_cast<const PageType*>(copies[copy].data() + std::size_t{i} * kBlockBytes);
        if (!sound(*page, number, copy)) {
          damaged.push_back(first_page + number);
        } else if (!newest || page->generation > newest->generation) {
          newest = page;
        }
      }
      if (!newest)
        throw Fault(Error::StoreDamaged, "both copies of metadata page " +
                                             std::to_string(first_page + number) +
                                             " are damaged: rebuild this store from its peers");
      use(*newest, number);
    }
  }
}

}  // namespace

Metadata::Metadata(Device& device, const format::Superblock& superblock, std::uint64_t cache_bytes)
    : device_(device),
      superblock_(superblock),
      slot_pages_(device, superblock, frames_for(cache_bytes)),
      taken_((superblock.slot_count + 63) / 64),
      pins_(kPinnedSlotsMax),
      history_(superblock.slot_count, superblock.segment_page_count * kRecordsPerPage),
      segments_(std::size_t{superblock.segment_page_count} * kRecordsPerPage),
      segment_pages_(superblock.segment_page_count) {}

void Metadata::load(const std::vector<bool>& touched, bool index_others) {
  load_segment_pages();
  load_slot_pages(touched, index_others);
}

void Metadata::load_segment_pages() {
  const auto sound = [this](const format::SegmentPage& page, std::uint32_t number,
                            std::uint32_t copy) {
    return is_sound(page, format::PageKind::segments, number, copy, superblock_.store_id);
  };
  for_each_page<format::SegmentPage>(
      device_.disk(), superblock_.segment_pages_offset, superblock_.segment_page_count, 0, sound,
      damaged_pages_, [this](const format::SegmentPage& page, std::uint32_t number) {
        segment_pages_[number].generation = page.generation;
        for (std::uint32_t i = 0; i < kRecordsPerPage; ++i)
          segments_[std::size_t{number} * kRecordsPerPage + i].record = page.records[i];
      });
}

void Metadata::load_slot_pages(const std::vector<bool>& touched, bool index_others) {
  for_each_page<format::SlotPage>(
      device_.disk(), superblock_.slot_pages_offset, superblock_.slot_page_count,
      superblock_.segment_page_count,
      [this](const format::SlotPage& page, std::uint32_t number, std::uint32_t copy) {
        return slot_pages_.sound(page, number, copy);
      },
      damaged_pages_,
      [&](const format::SlotPage& page, std::uint32_t number) {
        slot_pages_.loaded(page, number, touched[number]);
        if (touched[number] || !index_others) return;
        const std::uint32_t first = number * kRecordsPerPage;
        for (std::uint32_t i = 0; i < kRecordsPerPage && first + i < slot_count(); ++i)
          index_slot(first + i, page.records[i]);
      });
}

void Metadata::check_torn_pages() const {
  for (const std::uint32_t page : damaged_pages_) {
    if (page_dirty(page)) continue;
    throw Fault(Error::StoreDamaged,
                "a copy of metadata page " + std::to_string(page) +
                    " is damaged and no interrupted checkpoint explains it: rebuild this "
                    "store from its peers");
  }
}

void Metadata::index(const std::vector<bool>& touched) {
  for (std::uint32_t number = 0; number < touched.size(); ++number) {
    const std::uint32_t first = number * kRecordsPerPage;
    for (std::uint32_t i = 0; touched[number] && i < kRecordsPerPage && first + i < slot_count();
         ++i)
      index_slot(first + i, slot(first + i));
  }
  free_slots_ = slot_count();
  for (SegmentHandle handle = 0; handle < segments_.size(); ++handle) {
    Segment& segment = segments_[handle];
    const std::uint32_t slots = segment.chunk_count + history_.count(handle);
    free_slots_ -= slots;
    if (!(segment.record.flags & format::has_root)) segment.record.root = segment.found;
    if (segment.used()) segment.record.flags |= format::has_root;
    if (segment.used() && segment.found != segment.record.root)
      throw Fault(Error::StoreDamaged,
                  "what segment " + std::to_string(handle) +
                      " holds does not match its root, so a page of metadata is older than it "
                      "should be: rebuild this store from its peers");
    if (segment.used()) add_to_index(handle);
    if (segment.record.state == format::SegmentState::free && slots > 0)
      throw Fault(Error::StoreDamaged,
                  "slots belong to segment " + std::to_string(handle) + ", which is not there");
  }
}

// Before replay it is not known which segments there are and how large: index() looks at that.
void Metadata::index_slot(std::uint32_t slot, const format::SlotRecord& record) {
  if (record.state != format::SlotState::used) return;
  if (record.segment >= segments_.size() || record.chunk >= kChunksPerSegment)
    throw Fault(Error::StoreDamaged, "slot " + std::to_string(slot) + " belongs to no segment");
  Segment& segment = segments_[record.segment];
  if (segment.slot_of_chunk.size() <= record.chunk)
    segment.slot_of_chunk.resize(kChunksPerSegment, kNoSlot);
  set_taken(slot, true);
  segment.newest_era = std::max({segment.newest_era, record.born, record.died});
  if (record.died != 0) return history_.add(record.segment, record.chunk, slot);
  if (segment.slot_of_chunk[record.chunk] != kNoSlot) {
    throw Fault(Error::StoreDamaged, "slots " +
                                         std::to_string(segment.slot_of_chunk[record.chunk]) +
                                         " and " + std::to_string(slot) + " both claim one chunk");
  }
  segment.slot_of_chunk[record.chunk] = slot;
  segment.found += format::root_term(record);
  ++segment.chunk_count;
  if (is_cover(record)) ++segment.cover_count;
  if (is_tombstone(record)) {
    ++segment.tombstone_count;
    segment.oldest_tombstone = std::min(segment.oldest_tombstone, record.version);
  }
}

void Metadata::set_taken(std::uint32_t slot, bool taken) noexcept {
  const std::uint64_t bit = std::uint64_t{1} << slot % 64;
  taken_[slot / 64] = taken ? taken_[slot / 64] | bit : taken_[slot / 64] & ~bit;
}

void Metadata::mark_segment(std::uint32_t handle, std::uint64_t lsn) noexcept {
  BLOCKD_ASSERT(handle < segments_.size());
  SegmentPageState& state = segment_pages_[handle / kRecordsPerPage];
  BLOCKD_ASSERT(lsn >= state.last_lsn);
  if (!std::exchange(state.dirty, true)) state.first_lsn = lsn;
  state.last_lsn = lsn;
}

std::optional<SegmentHandle> Metadata::find(SegmentId id) const noexcept {
  const auto found = by_id_.find(id);
  if (found == by_id_.end()) return std::nullopt;
  return found->second;
}

std::optional<SegmentHandle> Metadata::free_segment() const noexcept {
  for (SegmentHandle handle = 0; handle < segments_.size(); ++handle) {
    if (segments_[handle].record.state == format::SegmentState::free) return handle;
  }
  return std::nullopt;
}

// Throws StoreDamaged when it has chunks beyond its end.
void Metadata::add_to_index(SegmentHandle handle) {
  Segment& segment = segments_[handle];
  const std::uint32_t chunks = (segment.record.block_count + kBlocksPerChunk - 1) / kBlocksPerChunk;
  for (std::size_t chunk = chunks; chunk < segment.slot_of_chunk.size(); ++chunk) {
    if (segment.slot_of_chunk[chunk] != kNoSlot ||
        history_.first(handle, static_cast<std::uint32_t>(chunk)) != kNoSlot)
      throw Fault(Error::StoreDamaged,
                  "segment " + std::to_string(handle) + " has chunks beyond its end");
  }
  segment.slot_of_chunk.resize(chunks, kNoSlot);
  segment.slot_of_chunk.shrink_to_fit();
  by_id_[SegmentId{segment.record.volume, segment.record.index}] = handle;
}

void Metadata::remove_from_index(SegmentHandle handle) {
  by_id_.erase(SegmentId{segments_[handle].record.volume, segments_[handle].record.index});
}

// Slots that were freed lately come first: they have been written before, which file systems and
// thin devices reward, and a store that is not full touches no more of its device than it must. The
// search from there is bounded; a fragmented store falls back to going round.
std::optional<std::uint32_t> Metadata::take_run(std::uint32_t count) noexcept {
  BLOCKD_ASSERT(count > 0);
  if (free_slots_ < count) return std::nullopt;
  constexpr std::uint32_t kNearSlots = 1024;
  if (const auto near = find_run(freed_cursor_, std::min(slot_count(), kNearSlots), count)) {
    freed_cursor_ = take(*near, count);
    return near;
  }
  const auto far = find_run(cursor_, slot_count() + count, count);
  if (far) freed_cursor_ = cursor_ = take(*far, count);
  return far;
}

// The first run of `count` free slots that ends within `steps` slots from `from`, going round.
std::optional<std::uint32_t> Metadata::find_run(std::uint32_t from, std::uint32_t steps,
                                                std::uint32_t count) const noexcept {
  std::uint32_t run = 0;
  for (std::uint32_t step = 0, at = from; step < steps; ++step, ++at) {
    if (at == slot_count()) {
      at = 0;
      run = 0;
    }
    if (at % 64 == 0 && ~taken_[at / 64] == 0 && slot_count() - at > 64) {  // none of 64
      run = 0;
      step += 63;
      at += 63;
      continue;
    }
    run = taken(at) ? 0 : run + 1;
    if (run == count) return at + 1 - count;
  }
  return std::nullopt;
}

// Returns where the search goes on. The records are not needed before the next iteration, mostly.
std::uint32_t Metadata::take(std::uint32_t first, std::uint32_t count) noexcept {
  const std::uint32_t next = first + count;
  for (std::uint32_t slot = first; slot < next; ++slot) {
    BLOCKD_ASSERT(!taken(slot));
    set_taken(slot, true);
  }
  free_slots_ -= count;
  const std::uint32_t ahead = std::min(next / kRecordsPerPage + 1, slot_pages_.count() - 1);
  for (std::uint32_t number = first / kRecordsPerPage; number <= ahead; ++number)
    slot_pages_.prefetch(number);
  return next == slot_count() ? 0 : next;
}

void Metadata::give_back(std::uint32_t slot) noexcept {
  BLOCKD_ASSERT(taken(slot) && !pinned(slot));
  set_taken(slot, false);
  freed_cursor_ = std::min(freed_cursor_, slot);
  ++free_slots_;
}

bool Metadata::page_dirty(std::uint32_t page) const noexcept {
  if (page < segment_pages_.size()) return segment_pages_[page].dirty;
  return slot_pages_.dirty(page - superblock_.segment_page_count);
}

std::uint64_t Metadata::page_lsn(std::uint32_t page) const noexcept {
  if (page < segment_pages_.size()) return segment_pages_[page].last_lsn;
  return slot_pages_.last_lsn(page - superblock_.segment_page_count);
}

std::optional<std::uint32_t> Metadata::page_due(std::uint64_t lsn) const noexcept {
  if (const auto oldest = slot_pages_.oldest_dirty(); oldest && oldest->first_lsn <= lsn)
    return superblock_.segment_page_count + oldest->number;
  for (std::uint32_t page = 0; page < segment_pages_.size(); ++page) {
    if (segment_pages_[page].dirty && segment_pages_[page].first_lsn <= lsn) return page;
  }
  return std::nullopt;
}

std::uint64_t Metadata::stage_page(std::uint32_t page, std::byte* into) noexcept {
  if (page < segment_pages_.size()) return stage_segments(page, into);
  BLOCKD_ASSERT(slot_pages_.oldest_dirty()->number == page - superblock_.segment_page_count);
  return slot_pages_.stage_oldest(into);
}

void Metadata::page_written(std::uint32_t page) noexcept {
  if (page >= segment_pages_.size()) slot_pages_.written(page - superblock_.segment_page_count);
}

std::uint64_t Metadata::stage_segments(std::uint32_t number, std::byte* into) noexcept {
  SegmentPageState& state = segment_pages_[number];
  BLOCKD_ASSERT(state.dirty);
  state.dirty = false;
  ++state.generation;
  format::SegmentPage page;
  page.store_id = superblock_.store_id;
  page.kind = format::PageKind::segments;
  page.number = number;
  page.generation = state.generation;
  for (std::size_t i = 0; i < kRecordsPerPage; ++i)
    page.records[i] = segments_[std::size_t{number} * kRecordsPerPage + i].record;
  format::seal(page);
  std::memcpy(into, &page, kBlockBytes);
  const std::uint64_t copy = state.generation & 1;
  return superblock_.segment_pages_offset +
         (copy * superblock_.segment_page_count + number) * kBlockBytes;
}

}  // namespace blockd::store
