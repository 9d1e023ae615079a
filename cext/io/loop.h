// What a state machine is given instead of a kernel: time, timers, deferred work, random numbers.
//
// One Loop is one reactor thread (or one simulated host). Everything here is called on that thread,
// and every callback runs on it. Nothing allocates: timers and tasks belong to their owners.
#pragma once

#include <cstddef>
#include <cstdint>

namespace blockd::io {

struct Timer {
  void (*fire)(Timer&) noexcept = nullptr;
  void* owner = nullptr;
  std::uint64_t deadline_us = 0;
  static constexpr std::size_t kIdle = ~std::size_t{0};
  std::size_t heap_index = kIdle;  // the loop's own
  [[nodiscard]] bool armed() const noexcept { return heap_index != kIdle; }
};

struct Task {
  void (*run)(Task&) noexcept = nullptr;
  void* owner = nullptr;
  Task* next = nullptr;
  bool queued = false;
};

class Loop {
 public:
  virtual ~Loop() = default;
  // Monotonic microseconds from an arbitrary origin; comparable on this host only. Constant within
  // one iteration of the loop except after refresh.
  [[nodiscard]] virtual std::uint64_t now_us() const noexcept = 0;
  // Fires once, not before deadline_us. Arming an armed timer moves it.
  virtual void arm(Timer& timer, std::uint64_t deadline_us) noexcept = 0;
  virtual void cancel(Timer& timer) noexcept = 0;  // harmless when idle
  // Runs `task` once after the completions at hand have all been delivered and before the loop
  // submits and sleeps: where batches (journal records, replies, frames) are closed. Queuing a
  // queued task is harmless.
  virtual void defer(Task& task) noexcept = 0;
  [[nodiscard]] virtual std::uint64_t random_u64() noexcept = 0;
};

}  // namespace blockd::io
