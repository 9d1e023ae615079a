// The slot table and the segment table: what is where, in memory, and the pages that persist it.
//
// All metadata of a store is reached through this class only, so that it can be paged later without
// its users noticing. Records change when a journal entry is appended; the page of a changed record
// is dirty until a checkpoint writes it, and carries the LSN of its last change: it may be written
// only when that LSN has been flushed (the page must never be ahead of the journal).
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <unordered_map>
#include <vector>

#include "format/disk.h"
#include "store/store.h"

namespace blockd::store {

inline constexpr Version kNoTombstone = {~std::uint64_t{0}, ~std::uint64_t{0}};

struct Segment {
  format::SegmentRecord record;
  std::vector<std::uint32_t> slot_of_chunk;  // kNoSlot where the chunk is a hole
  std::uint32_t chunk_count = 0;             // chunks with a slot, tombstones included
  std::uint32_t tombstone_count = 0;         // of those, the ones without a valid block
  Version oldest_tombstone = kNoTombstone;   // none has a lower version
  bool stable_unsaved = false;               // record.stable is newer than any journal entry
  [[nodiscard]] bool used() const noexcept { return record.state == format::SegmentState::used; }
};

// The state of one slot that is not in its record.
struct SlotState {
  std::uint16_t io_pins = 0;  // device reads and home writes in flight: not reusable meanwhile
  bool taken = false;         // not allocatable: used, being written, or freed but not reusable yet
};

class Metadata {
 public:
  explicit Metadata(const format::Superblock& superblock);

  // Reads every page; a page without a sound copy is StoreDamaged. A page with one damaged copy is
  // remembered: unless replay touches it, that was no torn checkpoint write (check_torn_pages).
  void load(io::Disk& disk);
  void check_torn_pages() const;
  // After load and replay: chunk maps, counts, free slots.
  void index();

  [[nodiscard]] std::uint32_t slot_count() const noexcept {
    return static_cast<std::uint32_t>(slots_.size());
  }
  [[nodiscard]] const format::SlotRecord& slot(std::uint32_t slot) const noexcept {
    return slots_[slot];
  }
  [[nodiscard]] SlotState& slot_state(std::uint32_t slot) noexcept { return states_[slot]; }
  [[nodiscard]] const SlotState& slot_state(std::uint32_t slot) const noexcept {
    return states_[slot];
  }
  // For change by the entry with this LSN; marks the page.
  [[nodiscard]] format::SlotRecord& change_slot(std::uint32_t slot, std::uint64_t lsn) noexcept;

  [[nodiscard]] std::uint32_t segment_limit() const noexcept {
    return static_cast<std::uint32_t>(segments_.size());
  }
  [[nodiscard]] Segment& segment(std::uint32_t handle) noexcept { return segments_[handle]; }
  [[nodiscard]] const Segment& segment(std::uint32_t handle) const noexcept {
    return segments_[handle];
  }
  void mark_segment(std::uint32_t handle, std::uint64_t lsn) noexcept;
  [[nodiscard]] std::optional<SegmentHandle> find(SegmentId id) const noexcept;
  [[nodiscard]] std::optional<SegmentHandle> free_segment() const noexcept;
  void add_to_index(SegmentHandle handle);
  void remove_from_index(SegmentHandle handle);

  // `count` consecutive free slots, or none; they are taken.
  [[nodiscard]] std::optional<std::uint32_t> take_run(std::uint32_t count) noexcept;
  void give_back(std::uint32_t slot) noexcept;  // reusable from now on
  [[nodiscard]] std::uint32_t free_slots() const noexcept { return free_slots_; }

  [[nodiscard]] std::uint64_t device_offset(std::uint32_t slot) const noexcept {
    return superblock_.data_offset + std::uint64_t{slot} * kChunkBytes;
  }

  // Pages, segment pages first: one number space.
  [[nodiscard]] std::uint32_t page_count() const noexcept {
    return static_cast<std::uint32_t>(pages_.size());
  }
  [[nodiscard]] bool page_dirty(std::uint32_t page) const noexcept { return pages_[page].dirty; }
  [[nodiscard]] std::uint32_t dirty_pages() const noexcept { return dirty_pages_; }
  [[nodiscard]] std::uint64_t page_lsn(std::uint32_t page) const noexcept {
    return pages_[page].last_lsn;
  }
  // Copies the page as it is now into `into` (4 KiB), clean from here on; returns where to write
  // it.
  [[nodiscard]] std::uint64_t stage_page(std::uint32_t page, std::byte* into) noexcept;

 private:
  struct PageState {
    std::uint64_t generation = 0;
    std::uint64_t last_lsn = 0;
    bool dirty = false;
    bool copy_damaged = false;
  };
  template <class PageType, class Use>
  void load_pages(io::Disk& disk, format::PageKind kind, std::uint64_t offset, std::uint32_t count,
                  std::uint32_t first_page, Use use);
  void mark_page(std::uint32_t page, std::uint64_t lsn) noexcept;
  void index_slot(std::uint32_t slot);
  [[nodiscard]] std::optional<std::uint32_t> find_run(std::uint32_t from, std::uint32_t steps,
                                                      std::uint32_t count) const noexcept;
  [[nodiscard]] std::uint32_t take(std::uint32_t first, std::uint32_t count) noexcept;

  format::Superblock superblock_;
  std::vector<format::SlotRecord> slots_;
  std::vector<SlotState> states_;
  std::vector<Segment> segments_;
  std::unordered_map<SegmentId, SegmentHandle> by_id_;
  std::vector<PageState> pages_;
  std::uint32_t dirty_pages_ = 0;
  std::uint32_t free_slots_ = 0;
  std::uint32_t cursor_ = 0;        // goes round
  std::uint32_t freed_cursor_ = 0;  // goes back to what was freed
};

}  // namespace blockd::store
