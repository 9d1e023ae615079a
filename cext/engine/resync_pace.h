// How fast resyncs go: clients come first, and what they leave is used.
//
// All engines of a host share one pace, so that a hundred volumes which miss the same host take no
// more than one would. A copy begins when take() says so, and ends with done(). While no client
// asks for anything, kResyncCopiesMax copies are under way. While clients do, it is as many as they
// bear: requests that ran beside a copy are compared with those that ran beside none, for which
// copying pauses now and then. When too many took twice as long as nearly all of those do, there
// are half as many copies, down to one at a time with a pause as long as it took; else more. So a
// resync never starves, and a disk, link or processor that is short costs the resync, not clients.
// All on one loop's thread.
#pragma once

#include <array>
#include <cstdint>

#include "engine/limits.h"
#include "io/loop.h"
#include "peer/list.h"

namespace blockd::engine {

class ResyncPace {
 public:
  // Whoever wants to begin copies. ready: one is granted; take() has it, or give_back() ends it.
  struct Waiter {
    void (*ready)(Waiter&) noexcept = nullptr;
    void* owner = nullptr;
    bool granted = false;
    peer::ListLink<Waiter> link;
  };
  // What a client's request remembers from its beginning to its answer.
  struct Mark {
    std::uint64_t began_us = 0;
    std::uint64_t copies_begun = 0;
    bool beside_copies = false;
  };
  enum class Kind : std::uint8_t { read, write };

  // bytes_per_second: of all copies together, whatever clients do; 0: no limit.
  ResyncPace(io::Loop& loop, std::uint64_t bytes_per_second) noexcept;
  ~ResyncPace();  // REQUIRES: nobody waits
  ResyncPace(const ResyncPace&) = delete;
  ResyncPace& operator=(const ResyncPace&) = delete;

  // True: a copy begins, done() follows. False: the waiter is told when one may.
  [[nodiscard]] bool take(Waiter& waiter) noexcept;
  void charge() noexcept;                     // it brings one content more: a past one
  void done(std::uint64_t copy_us) noexcept;  // how long it took
  void give_back(Waiter& waiter) noexcept;    // a copy that was granted and is not wanted
  void cancel(Waiter& waiter) noexcept;       // waits no more, and has nothing granted
  void forget(Waiter& waiter) noexcept;       // likewise, and nobody else is told now

  [[nodiscard]] Mark client_began() noexcept;
  void client_answered(const Mark& mark, Kind kind) noexcept;

  [[nodiscard]] std::uint32_t under_way() const noexcept { return under_way_; }

 private:
  // Requests by how long they took: bucket i ends below 2^((i + 1) / 4) us. Older ones count less.
  struct Latencies {
    std::array<float, 96> buckets{};
    float count = 0;
    void add(std::uint64_t us) noexcept;
    void fade() noexcept;
    [[nodiscard]] std::uint64_t nearly_all_us() const noexcept;
  };
  struct Seen {
    Latencies alone;
    std::uint64_t bearable_us = 0;  // 0: not known yet
    std::uint32_t beside = 0;       // copies
    std::uint32_t beside_slow = 0;  // of those, above what is bearable
  };

  [[nodiscard]] bool clients_work(std::uint64_t now_us) const noexcept;
  [[nodiscard]] std::uint64_t free_at_us(std::uint64_t now_us) noexcept;
  [[nodiscard]] bool begin(std::uint64_t now_us) noexcept;
  void pass_on() noexcept;
  void look(std::uint64_t now_us) noexcept;
  void adjust(double slow) noexcept;

  io::Loop& loop_;
  const std::uint64_t bytes_per_second_;
  peer::List<Waiter> waiters_;
  io::Timer timer_;
  std::uint32_t under_way_ = 0;  // granted ones are
  std::uint64_t copies_begun_ = 0;
  std::uint32_t window_ = kPacedCopies;  // copies at a time while clients work
  bool pauses_ = false;                  // after each copy, as long as it took
  std::uint64_t rate_free_at_us_ = 0;
  std::uint64_t paused_until_us_ = 0;
  std::uint64_t client_at_us_ = 0;  // the last beginning or answer; 0: none yet
  std::uint64_t period_began_us_ = 0;
  std::uint64_t quiet_us_ = kPaceQuietMinUs;  // of each period: no copy begins
  std::array<Seen, 2> seen_{};                // by Kind
};

}  // namespace blockd::engine
