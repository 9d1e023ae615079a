// A pool of operations: grows in slabs up to its limit, hands the same objects out again and again.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <vector>

#include "base/assert.h"

namespace blockd::engine {

template <class T>
class Pool {
 public:
  explicit Pool(std::uint32_t limit) : limit_(limit) { free_.reserve(limit); }

  // Null when `limit` objects are out. The object is as its last user left it.
  [[nodiscard]] T* get() {
    if (free_.empty()) grow();
    if (free_.empty()) return nullptr;
    T* object = free_.back();
    free_.pop_back();
    return object;
  }

  void put(T& object) noexcept {
    BLOCKD_ASSERT(free_.size() < made_);
    free_.push_back(&object);
  }

  // So many more, or fewer, may be out: some are, with nobody who waits for them.
  void allow(int more) noexcept {
    limit_ = static_cast<std::uint32_t>(static_cast<int>(limit_) + more);
  }

  [[nodiscard]] std::uint32_t used() const noexcept {
    return made_ - static_cast<std::uint32_t>(free_.size());
  }

 private:
  static constexpr std::uint32_t kSlab = 16;

  void grow() {
    if (made_ >= limit_) return;
    const std::uint32_t count = std::min(kSlab, limit_ - made_);
    slabs_.push_back(std::make_unique<T[]>(count));
    free_.reserve(made_ + count);
    for (std::uint32_t i = 0; i < count; ++i) free_.push_back(&slabs_.back()[i]);
    made_ += count;
  }

  std::uint32_t limit_;
  std::uint32_t made_ = 0;
  std::vector<std::unique_ptr<T[]>> slabs_;
  std::vector<T*> free_;
};

}  // namespace blockd::engine
