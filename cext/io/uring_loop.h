// The reactor: one thread, one io_uring, everything that is ready handled before one system call
// submits what it led to and waits for more.
//
// An iteration: completions, due timers, deferred tasks, then one io_uring_enter that submits every
// queued request and sleeps until the next completion or timer. Requests to a disk do not wait for
// that when there are many: the device starts on the first while the loop prepares the others.
// Nothing on it allocates or locks; the only door for other threads is post(), whose mutex the loop
// takes only when it was rung.
//
// Constructed anywhere (set-up may register memory and queue requests there), run on one thread:
// from run() on, everything but post() and stop() belongs to that thread. run() returns only when
// nothing is in flight, so that whatever was lent to the kernel may be freed.
#pragma once

#include <liburing.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <vector>

#include "base/random.h"
#include "io/loop.h"
#include "io/task_queue.h"
#include "io/timer_heap.h"

namespace blockd::io {

struct UringLoopOptions {
  std::uint32_t submission_entries = 1024;
  std::uint32_t completion_entries = 8192;
  std::uint32_t spin_us = 0;  // look for completions this long before sleeping
};

struct UringLoopStats {
  std::uint64_t iterations = 0;
  std::uint64_t system_calls = 0;  // io_uring_enter
  std::uint64_t submissions = 0;
  std::uint64_t completions = 0;
  std::uint64_t timers_fired = 0;
  std::uint64_t posts_run = 0;
};

// One request to the kernel; embedded in whoever asks. Must stay where it is while in_flight.
struct UringOp {
  void (*complete)(UringOp&, std::int32_t result, std::uint32_t flags) noexcept = nullptr;
  void* owner = nullptr;
  bool in_flight = false;  // cleared before the last complete(); a multishot one stays set
};

class UringLoop final : public Loop {
 public:
  // Throws Fault(Unsupported) with one line when the kernel offers no io_uring.
  explicit UringLoop(UringLoopOptions options = {});
  ~UringLoop() override;
  UringLoop(const UringLoop&) = delete;
  UringLoop& operator=(const UringLoop&) = delete;

  void run();  // until stop(); once only
  // From any thread, also before run(). stop() cancels what is in flight; run() then waits for it.
  void stop() noexcept;
  // Runs `action` on the loop's thread, in order of posting; never from inside post(). Those posted
  // after run() has returned are dropped with the loop.
  void post(std::function<void()> action);
  [[nodiscard]] bool stopping() const noexcept { return stop_.load(std::memory_order_acquire); }

  [[nodiscard]] std::uint64_t now_us() const noexcept override { return now_us_; }
  void refresh() noexcept;  // reads the clock anew
  void arm(Timer& timer, std::uint64_t deadline_us) noexcept override {
    timers_.arm(timer, deadline_us);
  }
  void cancel(Timer& timer) noexcept override { timers_.cancel(timer); }
  void defer(Task& task) noexcept override { tasks_.push(task); }
  [[nodiscard]] std::uint64_t random_u64() noexcept override { return random_.next(); }

  // For the disks and links on this loop. get_sqe() never fails: a full queue is submitted first.
  [[nodiscard]] io_uring_sqe& get_sqe() noexcept;
  void queue(io_uring_sqe& sqe, UringOp& op) noexcept;  // after the sqe was prepared
  // Submits what is queued once it is at least this many: whoever serves it should not idle until
  // the iteration ends.
  void submit_ahead(unsigned least) noexcept;
  void cancel_op(UringOp& op) noexcept;  // its completion still comes
  // Keeps what a request in flight still points to, until the loop itself goes.
  void keep(std::shared_ptr<void> kept) { kept_.push_back(std::move(kept)); }
  // Fixed files: the index for IOSQE_FIXED_FILE, or none when the table is full or unsupported.
  [[nodiscard]] std::optional<std::uint32_t> register_file(int fd) noexcept;
  void unregister_file(std::uint32_t index) noexcept;
  // Fixed buffers: pins the memory, best effort (a limit on locked memory may forbid it).
  // As often as it was registered it is unregistered, before it is unmapped: the kernel would go on
  // using the old pages. REQUIRES then: no request uses it.
  void register_memory(std::span<std::byte> memory) noexcept;
  void unregister_memory(std::span<std::byte> memory) noexcept;
  [[nodiscard]] std::optional<std::uint16_t> fixed_buffer(const void* base,
                                                          std::size_t bytes) const noexcept;

  [[nodiscard]] const UringLoopStats& stats() const noexcept { return stats_; }
  [[nodiscard]] bool defers_task_work() const noexcept {
    return (ring_.flags & IORING_SETUP_DEFER_TASKRUN) != 0;
  }

 private:
  struct FixedRange {  // its place is that in the kernel's table
    const std::byte* begin = nullptr;
    const std::byte* end = nullptr;
    std::uint32_t users = 0;  // 0: the place is free
  };

  [[nodiscard]] FixedRange* fixed_range(std::span<const std::byte> memory) noexcept;
  void use_range(std::span<std::byte> memory) noexcept;
  void leave_range(std::span<std::byte> memory) noexcept;
  [[nodiscard]] bool update_buffer(std::size_t place, iovec memory) noexcept;
  void set_up_ring();
  bool try_set_up(std::uint32_t flags, int& error);
  void enter_thread();
  void iterate();
  void wait();
  void reap() noexcept;
  void fire_timers() noexcept;
  void run_tasks() noexcept;
  void run_posts() noexcept;
  void listen_for_posts() noexcept;
  void drain();
  void ring_bell() noexcept;
  [[nodiscard]] std::uint64_t sleep_us() const noexcept;
  [[nodiscard]] bool spin(std::uint64_t limit_us) noexcept;
  void entered(int result) noexcept;

  UringLoopOptions options_;
  io_uring ring_{};
  bool enabled_ = false;
  std::uint64_t now_us_ = 0;
  std::uint64_t in_flight_ = 0;
  TimerHeap timers_;
  TaskQueue tasks_;
  Random random_;
  UringLoopStats stats_;

  int bell_fd_ = -1;  // eventfd: rung by post() and stop()
  std::uint64_t bell_value_ = 0;
  UringOp bell_op_;
  UringOp ignored_op_;
  std::atomic<bool> stop_{false};
  std::mutex posts_mutex_;
  std::vector<std::function<void()>> posts_;  // guarded by posts_mutex_

  std::vector<std::shared_ptr<void>> kept_;
  std::vector<bool> files_used_;
  std::vector<FixedRange> buffers_;
  std::size_t buffer_slots_ = 0;
};

}  // namespace blockd::io
