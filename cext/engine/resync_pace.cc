#include "engine/resync_pace.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/assert.h"
#include "blockd/types.h"

namespace blockd::engine {

void ResyncPace::Latencies::add(std::uint64_t us) noexcept {
  const double quarters = 4 * std::log2(static_cast<double>(us + 1));
  ++buckets[std::min(static_cast<std::size_t>(quarters), buckets.size() - 1)];
  ++count;
}

void ResyncPace::Latencies::fade() noexcept {
  for (float& bucket : buckets) bucket /= 2;
  count /= 2;
}

// The end of the bucket that kPaceNearlyAll of them reach.
std::uint64_t ResyncPace::Latencies::nearly_all_us() const noexcept {
  float below = 0;
  std::size_t i = 0;
  while (i + 1 < buckets.size() && (below += buckets[i]) < count * kPaceNearlyAll) ++i;
  return static_cast<std::uint64_t>(std::exp2(static_cast<double>(i + 1) / 4));
}

ResyncPace::ResyncPace(io::Loop& loop, std::uint64_t bytes_per_second) noexcept
    : loop_(loop), bytes_per_second_(bytes_per_second) {
  timer_.owner = this;
  timer_.fire = [](io::Timer& timer) noexcept { static_cast<ResyncPace*>(timer.owner)->pass_on(); };
}

ResyncPace::~ResyncPace() {
  BLOCKD_ASSERT(waiters_.empty());
  loop_.cancel(timer_);
}

// --- copies --------------------------------------------------------------------------------------

bool ResyncPace::take(Waiter& waiter) noexcept {
  if (std::exchange(waiter.granted, false)) return true;
  if (waiters_.empty() && begin(loop_.now_us())) return true;
  if (!waiter.link.linked) waiters_.push_back(waiter);
  return false;
}

void ResyncPace::done(std::uint64_t copy_us) noexcept {
  BLOCKD_ASSERT(under_way_ > 0);
  --under_way_;
  const std::uint64_t now = loop_.now_us();
  if (pauses_ && clients_work(now)) paused_until_us_ = now + copy_us;
  pass_on();
}

void ResyncPace::give_back(Waiter& waiter) noexcept {
  if (!std::exchange(waiter.granted, false)) return;
  BLOCKD_ASSERT(under_way_ > 0);
  --under_way_;
  pass_on();
}

void ResyncPace::cancel(Waiter& waiter) noexcept {
  if (waiter.link.linked) waiters_.erase(waiter);
  give_back(waiter);
}

void ResyncPace::forget(Waiter& waiter) noexcept {
  if (waiter.link.linked) waiters_.erase(waiter);
  if (std::exchange(waiter.granted, false)) --under_way_;
}

// To those who wait, in their order, as far as copies may begin now.
void ResyncPace::pass_on() noexcept {
  while (!waiters_.empty() && begin(loop_.now_us())) {
    Waiter& waiter = *waiters_.pop_front();
    waiter.granted = true;
    waiter.ready(waiter);
  }
}

// False: not now; the timer, or the end of another copy, comes back to it.
bool ResyncPace::begin(std::uint64_t now_us) noexcept {
  look(now_us);
  if (under_way_ >= (clients_work(now_us) ? window_ : kResyncCopiesMax)) return false;
  const std::uint64_t at_us = free_at_us(now_us);
  if (at_us > now_us) {
    if (!timer_.armed() || at_us < timer_.deadline_us) loop_.arm(timer_, at_us);
    return false;
  }
  ++under_way_;
  ++copies_begun_;
  charge();
  return true;
}

void ResyncPace::charge() noexcept {
  if (bytes_per_second_ == 0) return;
  const std::uint64_t cost_us = std::uint64_t{kChunkBytes} * 1'000'000 / bytes_per_second_;
  rate_free_at_us_ = std::max(rate_free_at_us_, loop_.now_us()) + cost_us;
}

std::uint64_t ResyncPace::free_at_us(std::uint64_t now_us) noexcept {
  std::uint64_t at_us = now_us;
  if (rate_free_at_us_ > now_us + kPaceBurstUs) at_us = rate_free_at_us_ - kPaceBurstUs;
  if (!clients_work(now_us)) return at_us;
  return std::max({at_us, paused_until_us_, period_began_us_ + quiet_us_});
}

// --- clients -------------------------------------------------------------------------------------

bool ResyncPace::clients_work(std::uint64_t now_us) const noexcept {
  return client_at_us_ != 0 && now_us < client_at_us_ + kClientsIdleUs;
}

ResyncPace::Mark ResyncPace::client_began() noexcept {
  client_at_us_ = loop_.now_us();
  return {client_at_us_, copies_begun_, under_way_ > 0};
}

void ResyncPace::client_answered(const Mark& mark, Kind kind) noexcept {
  client_at_us_ = loop_.now_us();
  const std::uint64_t took_us = client_at_us_ - mark.began_us;
  Seen& seen = seen_[static_cast<std::size_t>(kind)];
  if (!mark.beside_copies && mark.copies_begun == copies_begun_) return seen.alone.add(took_us);
  if (seen.bearable_us == 0) return;
  ++seen.beside;
  if (took_us > seen.bearable_us) ++seen.beside_slow;
}

// --- the comparison ------------------------------------------------------------------------------

// At the end of a period: what have clients seen? Where too few of them asked, the next one goes on
// counting.
void ResyncPace::look(std::uint64_t now_us) noexcept {
  if (now_us < period_began_us_ + kPacePeriods * quiet_us_) return;
  period_began_us_ = now_us;
  quiet_us_ = kPaceQuietMinUs;
  double worst = -1;
  for (Seen& seen : seen_) {
    if (seen.alone.count >= kPaceSamplesMin) {
      const std::uint64_t nearly_all_us = seen.alone.nearly_all_us();
      seen.bearable_us = nearly_all_us * kPaceBearable;
      seen.alone.fade();
    }
    quiet_us_ = std::clamp(seen.bearable_us * kPaceQuietRequests, quiet_us_, kPaceQuietMaxUs);
    if (seen.beside < kPaceSamplesMin) continue;
    worst = std::max(worst, static_cast<double>(seen.beside_slow) / seen.beside);
    seen.beside = seen.beside_slow = 0;
  }
  if (worst >= 0) adjust(worst);
}

// slow: the part of the requests beside copies that took too long; of reads or writes, the worse.
void ResyncPace::adjust(double slow) noexcept {
  if (slow > kPaceSlowMax) {
    pauses_ = window_ == 1;
    window_ = std::max(1u, window_ / 2);
  } else if (slow < kPaceSlowMax / 2) {
    if (!std::exchange(pauses_, false))
      window_ = std::min(kResyncCopiesMax, window_ + std::max(1u, window_ / 4));
  }
}

}  // namespace blockd::engine
