#include "border/outbox.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <cstdint>
#include <iterator>

#include "base/assert.h"

namespace blockd::border {

Outbox::Outbox() noexcept : event_fd_(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) {}

Outbox::~Outbox() {
  if (event_fd_ >= 0) ::close(event_fd_);
}

void Outbox::put(Completion completion) noexcept {
  const std::lock_guard lock(mutex_);
  signal_if_empty();
  completions_.push_back(std::move(completion));
}

void Outbox::put(Event event) noexcept {
  const std::lock_guard lock(mutex_);
  signal_if_empty();
  events_.push_back(std::move(event));
}

void Outbox::take(std::vector<Completion>& completions, std::vector<Event>& events) noexcept {
  const std::lock_guard lock(mutex_);
  std::uint64_t count = 0;
  const ssize_t got = ::read(event_fd_, &count, sizeof count);
  BLOCKD_ASSERT(got == sizeof count || (completions_.empty() && events_.empty()));
  std::move(completions_.begin(), completions_.end(), std::back_inserter(completions));
  std::move(events_.begin(), events_.end(), std::back_inserter(events));
  completions_.clear();
  events_.clear();
}

void Outbox::signal_if_empty() noexcept {
  if (!completions_.empty() || !events_.empty()) return;
  const std::uint64_t one = 1;
  const ssize_t put = ::write(event_fd_, &one, sizeof one);
  BLOCKD_ASSERT(put == sizeof one);
}

}  // namespace blockd::border
