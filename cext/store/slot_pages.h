// The pages of the slot table: a bounded cache of them in memory, read when needed.
//
// A page that changed stays until a checkpoint has written it (dirty, then writing); others go when
// room is needed, those that nobody used of late first (CLOCK; Corbato, 1968). Which of a page's
// two copies counts, and whether all of its slots are free, is known of every page, so a page
// without a used slot costs no read. Asynchronous users ask for pages ahead (prefetch) and go on
// when they are resident; whoever does not is served all the same, by a read that blocks.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "base/buffer.h"
#include "format/disk.h"
#include "store/device.h"

namespace blockd::store {

class SlotPages {
 public:
  // Numbers are those of the slot table's pages, from 0. At most `frame_limit` pages stay in memory
  // unless more than that are dirty.
  SlotPages(Device& device, const format::Superblock& superblock, std::uint32_t frame_limit);

  [[nodiscard]] std::uint32_t count() const noexcept {
    return static_cast<std::uint32_t>(states_.size());
  }
  // Is this, read from the page's copy 0 or 1, a sound page with that number?
  [[nodiscard]] bool sound(const format::SlotPage& page, std::uint32_t number,
                           std::uint32_t copy) const noexcept;
  // What was found on the device when the store was opened. `keep`: it will be needed soon.
  void loaded(const format::SlotPage& page, std::uint32_t number, bool keep);

  // Of the page that holds the slot. A page that can no longer be read gives an empty record, and
  // the device has failed. The reference holds until another slot is asked for.
  [[nodiscard]] const format::SlotRecord& record(std::uint32_t slot) noexcept;
  // For change by the entry with this LSN. Holds until the page is staged.
  [[nodiscard]] format::SlotRecord& change(std::uint32_t slot, std::uint64_t lsn) noexcept;

  // Resident, or not to be read any more.
  [[nodiscard]] bool ready(std::uint32_t number) const noexcept {
    return states_[number].frame || states_[number].blank || states_[number].lost;
  }
  void prefetch(std::uint32_t number) noexcept;  // not when too many are on their way already
  [[nodiscard]] bool any_lost() const noexcept { return any_lost_; }
  [[nodiscard]] bool loading() const noexcept { return loads_in_flight_ > 0; }

  [[nodiscard]] bool dirty(std::uint32_t number) const noexcept { return states_[number].dirty; }
  [[nodiscard]] std::uint32_t dirty_count() const noexcept { return dirty_count_; }
  [[nodiscard]] std::uint64_t last_lsn(std::uint32_t number) const noexcept {
    return states_[number].frame ? states_[number].frame->last_lsn : 0;
  }
  // The dirty page whose oldest unwritten change is the oldest of all; null when none is dirty.
  struct Dirty {
    std::uint32_t number = 0;
    std::uint64_t first_lsn = 0;
  };
  [[nodiscard]] std::optional<Dirty> oldest_dirty() const noexcept {
    if (!dirty_head_) return std::nullopt;
    return Dirty{dirty_head_->number, dirty_head_->first_lsn};
  }
  [[nodiscard]] std::uint32_t frame_limit() const noexcept { return frame_limit_; }
  // Copies the oldest dirty page as it is now into `into`, clean from here on; returns where to
  // write it. It stays in memory until written().
  [[nodiscard]] std::uint64_t stage_oldest(std::byte* into) noexcept;
  void written(std::uint32_t number) noexcept;

  void (*came)(void* owner) noexcept = nullptr;  // a page that was prefetched, or that none will
  void* owner = nullptr;

 private:
  static constexpr std::uint32_t kLoadsMax = 64;

  struct Frame {
    std::uint64_t first_lsn = 0;  // of the changes that are not written yet
    std::uint64_t last_lsn = 0;
    Frame* next_dirty = nullptr;
    std::uint32_t number = 0;
    bool referenced = false;
    bool writing = false;
    format::SlotRecord records[format::kRecordsPerPage];
  };
  struct State {
    Frame* frame = nullptr;
    std::uint64_t generation : 60 = 0;
    std::uint64_t dirty : 1 = 0;
    std::uint64_t blank : 1 = 0;  // every record is as formatted
    std::uint64_t loading : 1 = 0;
    std::uint64_t lost : 1 = 0;  // its newest copy can no longer be read
  };
  static_assert(sizeof(State) == 16);
  struct Load {
    io::DiskRequest request;
    iovec iov{};
    std::uint32_t number = 0;
    Load* next = nullptr;
    SlotPages* pages = nullptr;
  };

  void append_dirty(Frame& frame) noexcept;
  [[nodiscard]] Frame& resident(std::uint32_t number) noexcept;
  [[nodiscard]] Frame& take_frame(std::uint32_t number) noexcept;
  [[nodiscard]] Frame* evict() noexcept;
  [[nodiscard]] bool accept(std::uint32_t number, const std::byte* data) noexcept;
  [[nodiscard]] std::uint64_t newest_copy(std::uint32_t number) const noexcept;
  void load_done(Load& load) noexcept;

  Device& device_;
  Uuid store_id_;
  std::uint64_t offset_;
  std::uint32_t frame_limit_;
  std::vector<State> states_;
  std::vector<std::unique_ptr<Frame>> frames_;
  std::size_t hand_ = 0;
  std::uint32_t dirty_count_ = 0;
  Frame* dirty_head_ = nullptr;  // in the order in which they became so, which is that of LSNs
  Frame* dirty_tail_ = nullptr;
  bool any_lost_ = false;
  Frame nowhere_;  // stands for a page that is lost
  BufferPool memory_;
  BufferRef blocking_;
  Load loads_[kLoadsMax];
  BufferRef buffers_[kLoadsMax];
  Load* free_loads_ = nullptr;
  std::uint32_t loads_in_flight_ = 0;
};

}  // namespace blockd::store
