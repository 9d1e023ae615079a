// The thread that a host's data plane runs on, and the door to it.
//
// Commands come from any thread and run on the reactor's in the order given; each is answered
// through the outbox, also those that come too late: the door is shut (under its lock) before the
// last action is posted, and that action stops the loop. Made and destroyed outside the thread,
// which has ended by then. Signals are blocked on the thread: they are Python's.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>

#include "base/buffer.h"
#include "border/core.h"
#include "border/host_plane.h"
#include "io/uring_loop.h"
#include "io/uring_network.h"

namespace blockd::border {

class Outbox;

class Reactor final : public PlaneSink {
 public:
  Reactor(const CoreConfig& config, Outbox& outbox);  // throws Fault
  ~Reactor() override;                                // REQUIRES: never started, or joined
  Reactor(const Reactor&) = delete;
  Reactor& operator=(const Reactor&) = delete;

  void start();  // throws Fault
  void give(Token token, std::function<void(HostPlane&)> command) noexcept;
  void close(Token token) noexcept;  // idempotent; `token` is answered as the last of all
  void join() noexcept;
  [[nodiscard]] bool running() const noexcept { return thread_.joinable(); }

  [[nodiscard]] CounterReport counters() const;  // of the loop, on its thread

 private:
  void run() noexcept;
  void shut_door(Token token);
  void answer(Completion completion) noexcept override;
  void happened(Event event) noexcept override;

  Outbox& outbox_;
  std::int32_t cpu_;
  io::UringLoop loop_;
  Buffers buffers_;
  io::UringNetwork network_;
  std::unique_ptr<HostPlane> plane_;  // the reactor thread's, once that runs
  std::mutex door_mutex_;
  bool door_open_ = false;  // guarded by door_mutex_
  bool closing_ = false;    // guarded by door_mutex_
  std::thread thread_;
};

}  // namespace blockd::border
