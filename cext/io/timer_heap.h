// The timers of one loop: a 4-ary heap on deadline_us, each timer knowing its place, so that moving
// and cancelling one costs O(log n) and no search. Room for kReserved timers is taken at start; the
// heap allocates only beyond that.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/assert.h"
#include "io/loop.h"

namespace blockd::io {

class TimerHeap {
 public:
  TimerHeap() { heap_.reserve(kReserved); }

  [[nodiscard]] bool empty() const noexcept { return heap_.empty(); }
  [[nodiscard]] std::size_t size() const noexcept { return heap_.size(); }
  [[nodiscard]] std::uint64_t next_deadline_us() const noexcept {
    return heap_.empty() ? ~std::uint64_t{0} : heap_.front()->deadline_us;
  }

  void arm(Timer& timer, std::uint64_t deadline_us) {
    if (!timer.armed()) {
      timer.heap_index = heap_.size();
      heap_.push_back(&timer);
    }
    BLOCKD_ASSERT(heap_[timer.heap_index] == &timer);
    timer.deadline_us = deadline_us;
    sift_down(sift_up(timer.heap_index));
  }

  void cancel(Timer& timer) noexcept {
    if (!timer.armed()) return;
    const std::size_t index = timer.heap_index;
    BLOCKD_ASSERT(index < heap_.size() && heap_[index] == &timer);
    Timer* last = heap_.back();
    heap_.pop_back();
    timer.heap_index = Timer::kIdle;
    if (last == &timer) return;
    place(*last, index);
    sift_down(sift_up(index));
  }

  // Takes the earliest timer out. REQUIRES: not empty.
  Timer& pop() noexcept {
    BLOCKD_ASSERT(!heap_.empty());
    Timer& first = *heap_.front();
    cancel(first);
    return first;
  }

  void clear() noexcept {
    for (Timer* timer : heap_) timer->heap_index = Timer::kIdle;
    heap_.clear();
  }

 private:
  static constexpr std::size_t kReserved = 4096;
  static constexpr std::size_t kArity = 4;

  void place(Timer& timer, std::size_t index) noexcept {
    heap_[index] = &timer;
    timer.heap_index = index;
  }

  std::size_t sift_up(std::size_t index) noexcept {
    Timer& timer = *heap_[index];
    while (index > 0) {
      const std::size_t parent = (index - 1) / kArity;
      if (heap_[parent]->deadline_us <= timer.deadline_us) break;
      place(*heap_[parent], index);
      index = parent;
    }
    place(timer, index);
    return index;
  }

  void sift_down(std::size_t index) noexcept {
    Timer& timer = *heap_[index];
    for (;;) {
      const std::size_t first = index * kArity + 1;
      if (first >= heap_.size()) break;
      std::size_t least = first;
      for (std::size_t child = first + 1; child < first + kArity && child < heap_.size(); ++child) {
        if (heap_[child]->deadline_us < heap_[least]->deadline_us) least = child;
      }
      if (heap_[least]->deadline_us >= timer.deadline_us) break;
      place(*heap_[least], index);
      index = least;
    }
    place(timer, index);
  }

  std::vector<Timer*> heap_;
};

}  // namespace blockd::io
