// The slot table and the segment table: what is where, and the pages that persist it.
//
// Resident for every slot: whether it is taken, and which slot holds which chunk. The slots'
// records (owner, version, mask, checksums) are paged (slot_pages.h). Records change when a journal
// entry is appended; the page of a changed record is dirty until a checkpoint writes it. It carries
// the LSN of the first change since it was last written, which the journal's tail must not pass
// before, and of the last one, which must have been flushed (a page is never ahead of the journal).
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <unordered_map>
#include <vector>

#include "base/assert.h"
#include "format/disk.h"
#include "store/device.h"
#include "store/history.h"
#include "store/slot_pages.h"
#include "store/slot_table.h"
#include "store/store.h"

namespace blockd::store {

inline constexpr Version kNoTombstone = {~std::uint64_t{0}, ~std::uint64_t{0}};

struct Segment {
  format::SegmentRecord record;
  std::vector<std::uint32_t> slot_of_chunk;  // kNoSlot where the chunk is a hole
  std::uint32_t chunk_count = 0;             // chunks with a slot, tombstones included
  std::uint32_t tombstone_count = 0;         // of those, the ones without a valid block
  std::uint32_t cover_count = 0;             // likewise, but those stay: they hide a base
  Version oldest_tombstone = kNoTombstone;   // none has a lower version
  Era newest_era = 0;                        // no slot was born, or died, in a later one
  format::Root found;             // over the slots as they were found when the store was opened
  bool root_unsaved = false;      // record.root is newer than any journal entry
  bool stable_unsaved = false;    // record.stable is newer than any journal entry
  std::uint32_t drop_cursor = 0;  // being dropped: chunks below have no slot any more
  [[nodiscard]] bool used() const noexcept { return record.state == format::SegmentState::used; }
  [[nodiscard]] bool dropping() const noexcept {
    return record.state == format::SegmentState::dropping;
  }
};

// A tombstone keeps a trimmed chunk's version until the stable mark has passed it.
[[nodiscard]] inline bool is_tombstone(const format::SlotRecord& record) noexcept {
  return record.valid_mask == 0 && !(record.flags & format::covers);
}
[[nodiscard]] inline bool is_cover(const format::SlotRecord& record) noexcept {
  return record.valid_mask == 0 && (record.flags & format::covers);
}

class Metadata {
 public:
  // `cache_bytes`: for slot pages, 0 for the default.
  Metadata(Device& device, const format::Superblock& superblock, std::uint64_t cache_bytes);

  // Reads every page; a page without a sound copy is StoreDamaged. A page with one damaged copy is
  // remembered: unless replay touches it, that was no torn checkpoint write (check_torn_pages).
  // Slots of pages with `touched` set are left to index(): replay changes them first. So are all
  // others without `index_others`.
  void load(const std::vector<bool>& touched, bool index_others);
  void check_torn_pages() const;
  // After load and replay: chunk maps, counts, free slots. `touched`: the pages not looked at yet.
  void index(const std::vector<bool>& touched);

  [[nodiscard]] std::uint32_t slot_count() const noexcept { return superblock_.slot_count; }
  [[nodiscard]] const format::SlotRecord& slot(std::uint32_t slot) const noexcept {
    return slot_pages_.record(slot);
  }
  // For change by the entry with this LSN; marks the page.
  [[nodiscard]] format::SlotRecord& change_slot(std::uint32_t slot, std::uint64_t lsn) noexcept {
    return slot_pages_.change(slot, lsn);
  }
  // The paging itself: who uses a slot's record in an iteration asks for it in an earlier one.
  [[nodiscard]] SlotPages& slot_pages() noexcept { return slot_pages_; }
  [[nodiscard]] const SlotPages& slot_pages() const noexcept { return slot_pages_; }
  [[nodiscard]] bool slot_ready(std::uint32_t slot) noexcept {  // false: it is on its way
    const std::uint32_t number = slot / format::kRecordsPerPage;
    if (slot_pages_.ready(number)) return true;
    slot_pages_.prefetch(number);
    return false;
  }

  [[nodiscard]] History& history() noexcept { return history_; }
  [[nodiscard]] const History& history() const noexcept { return history_; }

  // Not reusable while device reads or home writes of it are in flight.
  void pin(std::uint32_t slot) noexcept { pins_.set(slot, pins_.find(slot) + 1); }
  void unpin(std::uint32_t slot) noexcept {
    BLOCKD_ASSERT(pinned(slot));
    pins_.set(slot, pins_.find(slot) - 1);
  }
  [[nodiscard]] bool pinned(std::uint32_t slot) const noexcept { return pins_.find(slot) > 0; }
  // Not allocatable: used, being written, or freed but not reusable yet.
  [[nodiscard]] bool taken(std::uint32_t slot) const noexcept {
    return taken_[slot / 64] >> slot % 64 & 1;
  }

  [[nodiscard]] std::uint32_t segment_limit() const noexcept {
    return static_cast<std::uint32_t>(segments_.size());
  }
  [[nodiscard]] Segment& segment(std::uint32_t handle) noexcept { return segments_[handle]; }
  [[nodiscard]] const Segment& segment(std::uint32_t handle) const noexcept {
    return segments_[handle];
  }
  [[nodiscard]] std::uint32_t segment_count() const noexcept {  // those in use
    return static_cast<std::uint32_t>(by_id_.size());
  }
  void mark_segment(std::uint32_t handle, std::uint64_t lsn) noexcept;
  [[nodiscard]] std::optional<SegmentHandle> find(SegmentId id) const noexcept;
  [[nodiscard]] std::optional<SegmentHandle> free_segment() const noexcept;
  void add_to_index(SegmentHandle handle);
  void remove_from_index(SegmentHandle handle);  // it is no longer found; its chunks stay

  // `count` consecutive free slots, or none; they are taken.
  [[nodiscard]] std::optional<std::uint32_t> take_run(std::uint32_t count) noexcept;
  void give_back(std::uint32_t slot) noexcept;  // reusable from now on
  [[nodiscard]] std::uint32_t free_slots() const noexcept { return free_slots_; }

  [[nodiscard]] std::uint64_t device_offset(std::uint32_t slot) const noexcept {
    return superblock_.data_offset + std::uint64_t{slot} * kChunkBytes;
  }

  // Pages, segment pages first: one number space.
  [[nodiscard]] std::uint32_t page_count() const noexcept {
    return static_cast<std::uint32_t>(segment_pages_.size()) + slot_pages_.count();
  }
  [[nodiscard]] bool page_dirty(std::uint32_t page) const noexcept;
  [[nodiscard]] std::uint64_t page_lsn(std::uint32_t page) const noexcept;
  // A dirty page that has a change up to this LSN to write, oldest first; none: they are written.
  [[nodiscard]] std::optional<std::uint32_t> page_due(std::uint64_t lsn) const noexcept;
  // Copies the page, which page_due() has named, as it is now into `into` (4 KiB), clean from here
  // on; returns where to write it.
  [[nodiscard]] std::uint64_t stage_page(std::uint32_t page, std::byte* into) noexcept;
  void page_written(std::uint32_t page) noexcept;
  // Dirty pages cannot leave memory: a checkpoint is due, and in the end writers wait for it.
  [[nodiscard]] bool many_dirty() const noexcept {
    return slot_pages_.dirty_count() > std::uint64_t{slot_pages_.frame_limit()} * 5 / 8;
  }
  [[nodiscard]] bool too_many_dirty() const noexcept {
    return slot_pages_.dirty_count() > slot_pages_.frame_limit() - slot_pages_.frame_limit() / 8;
  }

 private:
  struct SegmentPageState {
    std::uint64_t generation = 0;
    std::uint64_t first_lsn = 0;  // of the changes that are not written yet
    std::uint64_t last_lsn = 0;
    bool dirty = false;
  };
  void load_segment_pages();
  void load_slot_pages(const std::vector<bool>& touched, bool index_others);
  void index_slot(std::uint32_t slot, const format::SlotRecord& record);
  [[nodiscard]] std::uint64_t stage_segments(std::uint32_t number, std::byte* into) noexcept;
  [[nodiscard]] std::optional<std::uint32_t> find_run(std::uint32_t from, std::uint32_t steps,
                                                      std::uint32_t count) const noexcept;
  [[nodiscard]] std::uint32_t take(std::uint32_t first, std::uint32_t count) noexcept;
  void set_taken(std::uint32_t slot, bool taken) noexcept;

  Device& device_;
  format::Superblock superblock_;
  mutable SlotPages slot_pages_;
  std::vector<std::uint64_t> taken_;  // a bit a slot
  SlotTable pins_;
  History history_;
  std::vector<Segment> segments_;
  std::unordered_map<SegmentId, SegmentHandle> by_id_;
  std::vector<SegmentPageState> segment_pages_;
  std::vector<std::uint32_t> damaged_pages_;  // one copy is, as found when the store was opened
  std::uint32_t free_slots_ = 0;
  std::uint32_t cursor_ = 0;        // goes round
  std::uint32_t freed_cursor_ = 0;  // goes back to what was freed
};

}  // namespace blockd::store
