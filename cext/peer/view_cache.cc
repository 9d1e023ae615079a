#include "peer/view_cache.h"

#include <algorithm>

#include "base/assert.h"

namespace blockd::peer {

ViewCache::ViewCache(io::Loop& loop) noexcept : loop_(loop) {
  timer_.owner = this;
  timer_.fire = [](io::Timer& timer) noexcept {
    static_cast<ViewCache*>(timer.owner)->close_idle();
  };
}

CachedView* ViewCache::acquire(store::Store& store, SegmentId id, store::SegmentHandle segment,
                               Era era) {
  const auto found = std::ranges::find_if(views_, [&](const CachedView& view) {
    return view.store == &store && view.id == id && view.era == era && !view.over;
  });
  if (found != views_.end() && found->segment == segment) {
    views_.splice(views_.begin(), views_, found);
  } else {
    // Made anew under the same name: the old view shows nothing any more.
    if (found != views_.end() && found->reads == 0)
      close(found);
    else if (found != views_.end())
      found->over = true;
    if (!make_room()) return nullptr;
    const store::SegmentHandle handle = store.open_view(segment, era);
    if (handle == store::Store::kNoView) return nullptr;
    views_.push_front({&store, id, era, segment, handle, 0, 0, false});
  }
  CachedView& view = views_.front();
  ++view.reads;
  view.used_us = loop_.now_us();
  if (!timer_.armed()) loop_.arm(timer_, view.used_us + kIdleUs);
  return &view;
}

void ViewCache::release(CachedView& view) noexcept {
  BLOCKD_ASSERT(view.reads > 0);
  view.used_us = loop_.now_us();
  if (--view.reads > 0 || !view.over) return;
  close(std::ranges::find_if(views_, [&](const CachedView& held) { return &held == &view; }));
}

ViewCache::Views::iterator ViewCache::close(Views::iterator view) noexcept {
  BLOCKD_ASSERT(view->reads == 0);
  view->store->close_view(view->handle);
  return views_.erase(view);
}

bool ViewCache::make_room() noexcept {
  if (views_.size() < kViewsMax) return true;
  for (auto view = views_.end(); view != views_.begin();) {
    --view;
    if (view->reads > 0) continue;
    close(view);
    return true;
  }
  return false;
}

void ViewCache::drop_store(const store::Store& store) noexcept {
  for (auto view = views_.begin(); view != views_.end();) {
    view->over = view->over || view->store == &store;
    view = view->store == &store && view->reads == 0 ? close(view) : std::next(view);
  }
}

void ViewCache::drop_all() noexcept {
  for (auto view = views_.begin(); view != views_.end();) {
    view->over = true;
    view = view->reads == 0 ? close(view) : std::next(view);
  }
  loop_.cancel(timer_);
}

void ViewCache::close_idle() noexcept {
  const std::uint64_t now = loop_.now_us();
  for (auto view = views_.begin(); view != views_.end();) {
    const bool idle = view->reads == 0 && now >= view->used_us + kIdleUs;
    view = idle ? close(view) : std::next(view);
  }
  if (!views_.empty()) loop_.arm(timer_, now + kIdleUs / 2);
}

}  // namespace blockd::peer
