// Where the reactor leaves completions and events for asyncio.
//
// The reactor's thread puts, any one thread takes. The eventfd is written when the box goes from
// empty to filled, and read under the same lock that empties it: so a wake-up is never lost, and a
// busy reactor makes one system call a batch.
#pragma once

#include <mutex>
#include <vector>

#include "border/core.h"

namespace blockd::border {

class Outbox {
 public:
  Outbox() noexcept;
  ~Outbox();
  Outbox(const Outbox&) = delete;
  Outbox& operator=(const Outbox&) = delete;

  void put(Completion completion) noexcept;
  void put(Event event) noexcept;
  void take(std::vector<Completion>& completions, std::vector<Event>& events) noexcept;
  [[nodiscard]] int event_fd() const noexcept { return event_fd_; }  // -1: none could be had

 private:
  void signal_if_empty() noexcept;  // REQUIRES: mutex_ held, before the first item goes in

  std::mutex mutex_;
  std::vector<Completion> completions_;
  std::vector<Event> events_;
  int event_fd_ = -1;
};

}  // namespace blockd::border
