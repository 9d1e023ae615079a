// Views: segments as snapshots show them. A handle of a view stands where one of a segment does.
//
// Which slot a view shows of a chunk is found out when somebody asks, and remembered: 4 bytes a
// chunk for each open view. Whoever frees a slot says so here.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "store/metadata.h"

namespace blockd::store {

inline constexpr std::uint32_t kViewsMax = 256;

class Views {
 public:
  explicit Views(Metadata& metadata) noexcept : metadata_(metadata) {}

  [[nodiscard]] static bool is_view(SegmentHandle handle) noexcept { return handle >= kFirst; }
  [[nodiscard]] SegmentHandle open(SegmentHandle segment, Era era);  // kNoView: too many
  void close(SegmentHandle view) noexcept;

  // Of which segment; kNoView when it is closed, or the segment was dropped.
  [[nodiscard]] SegmentHandle segment_of(SegmentHandle view) const noexcept;
  // True: slot() answers without reading. False: what it needs is on its way.
  [[nodiscard]] bool ready(SegmentHandle view, std::uint32_t chunk) noexcept;
  // The slot that the view shows, or kNoSlot. Stays where it is until the slot is freed.
  [[nodiscard]] const std::uint32_t& slot(SegmentHandle view, std::uint32_t chunk) noexcept;

  void chunk_changed(SegmentHandle segment, std::uint32_t chunk) noexcept;  // a slot came or went
  void segment_dropped(SegmentHandle segment) noexcept;
  // Whether one is open of an era e with from <= e < to.
  [[nodiscard]] bool any_in(SegmentHandle segment, Era from, Era to) const noexcept;

 private:
  static constexpr SegmentHandle kFirst = 1u << 31;
  static constexpr std::uint32_t kUnknown = format::kNoSlot - 1;
  struct View {
    SegmentHandle segment = 0;
    Era era = 0;
    std::vector<std::uint32_t> slots;  // kUnknown until asked for
  };

  // False: unknown, and some page is on its way. Never with `read`: then it waits for the device.
  [[nodiscard]] bool resolve(View& view, std::uint32_t chunk, bool read) noexcept;

  Metadata& metadata_;
  std::vector<std::unique_ptr<View>> views_;
  std::uint32_t open_ = 0;
};

}  // namespace blockd::store
