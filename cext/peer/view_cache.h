// The views of segments that snapshots are read through, kept open between reads.
//
// Bounded: the one that was used longest ago makes room, never one with a read in flight. What
// nobody has used for some seconds is closed, so that the space of a deleted snapshot can go.
#pragma once

#include <cstdint>
#include <list>

#include "blockd/types.h"
#include "io/loop.h"
#include "store/store.h"

namespace blockd::peer {

struct CachedView {
  store::Store* store = nullptr;
  SegmentId id;
  Era era = 0;
  store::SegmentHandle segment = 0;  // whose view it is
  store::SegmentHandle handle = 0;
  std::uint32_t reads = 0;  // in flight
  std::uint64_t used_us = 0;
  bool over = false;  // nobody else gets it: closed after its last read
};

class ViewCache {
 public:
  static constexpr std::uint32_t kViewsMax = 128;
  static constexpr std::uint64_t kIdleUs = 5'000'000;

  explicit ViewCache(io::Loop& loop) noexcept;
  ~ViewCache() { loop_.cancel(timer_); }
  ViewCache(const ViewCache&) = delete;
  ViewCache& operator=(const ViewCache&) = delete;

  // For one read; give it back with release(). Null: all are in use, or the store has no more.
  [[nodiscard]] CachedView* acquire(store::Store& store, SegmentId id, store::SegmentHandle segment,
                                    Era era);
  void release(CachedView& view) noexcept;
  // The store says that its segment is gone.
  void drop(CachedView& view) noexcept { view.over = true; }
  void drop_store(const store::Store& store) noexcept;
  void drop_all() noexcept;

  [[nodiscard]] std::size_t size() const noexcept { return views_.size(); }

 private:
  using Views = std::list<CachedView>;  // the most recently used first
  Views::iterator close(Views::iterator view) noexcept;
  [[nodiscard]] bool make_room() noexcept;
  void close_idle() noexcept;

  io::Loop& loop_;
  io::Timer timer_;
  Views views_;
};

}  // namespace blockd::peer
