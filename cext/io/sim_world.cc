#include "io/sim_world.h"

#include <algorithm>
#include <utility>

#include "base/assert.h"

namespace blockd::io {

SimWorld::~SimWorld() {
  BLOCKD_ASSERT(loops_.empty());
}

bool SimWorld::later(const Event& a, const Event& b) noexcept {
  return std::pair(a.at_us, a.order) > std::pair(b.at_us, b.order);
}

std::uint64_t SimWorld::join(SimLoop& loop) {
  const std::uint64_t id = next_loop_id_++;
  loops_[id] = &loop;
  return id;
}

void SimWorld::after(std::uint64_t delay_us, SimLoop* loop, std::function<void()> action) {
  events_.push_back({now_us_ + delay_us, next_order_++, loop ? loop->id() : 0, std::move(action)});
  std::push_heap(events_.begin(), events_.end(), later);
}

bool SimWorld::step() {
  return step_before(~std::uint64_t{0});
}

bool SimWorld::run_until_idle(std::uint64_t max_us) {
  const std::uint64_t limit_us = now_us_ + max_us;
  while (step_before(limit_us)) {
  }
  std::uint64_t timer_us = ~std::uint64_t{0};
  return events_.empty() && !next_timer_loop(timer_us);
}

bool SimWorld::run_until(const std::function<bool()>& done, std::uint64_t max_us) {
  const std::uint64_t limit_us = now_us_ + max_us;
  while (!done()) {
    if (!step_before(limit_us)) return done();
  }
  return true;
}

void SimWorld::run_for(std::uint64_t us) {
  const std::uint64_t limit_us = now_us_ + us;
  while (step_before(limit_us)) {
  }
  BLOCKD_ASSERT(now_us_ <= limit_us);
  now_us_ = limit_us;
}

bool SimWorld::step_before(std::uint64_t limit_us) {
  run_tasks();  // those that code outside of any event has left
  std::uint64_t timer_us = ~std::uint64_t{0};
  SimLoop* timer_loop = next_timer_loop(timer_us);
  const std::uint64_t event_us = next_event_us();
  if (std::min(event_us, timer_us) == ~std::uint64_t{0} ||
      std::min(event_us, timer_us) > limit_us) {
    return false;
  }
  const std::uint64_t loop_id = event_us <= timer_us ? events_.front().loop_id : timer_loop->id();
  if (event_us <= timer_us) {
    take_event();
  } else {
    now_us_ = std::max(now_us_, timer_us);
    note(timer_loop->id());
    Timer& timer = timer_loop->timers_.pop();
    timer.fire(timer);
  }
  run_tasks();
  if (after_step) after_step(loop_id);
  return true;
}

void SimWorld::take_event() {
  std::pop_heap(events_.begin(), events_.end(), later);
  Event event = std::move(events_.back());
  events_.pop_back();
  now_us_ = std::max(now_us_, event.at_us);
  note(event.order);
  if (event.loop_id == 0) return event.action();
  const auto loop = loops_.find(event.loop_id);
  if (loop == loops_.end() || !loop->second->alive()) return;
  if (!loop->second->paused()) return event.action();
  event.at_us = loop->second->paused_until_us_;
  event.order = next_order_++;
  events_.push_back(std::move(event));
  std::push_heap(events_.begin(), events_.end(), later);
}

void SimWorld::run_tasks() {
  for (bool ran = true; ran;) {
    ran = false;
    for (auto loop = loops_.begin(); loop != loops_.end(); ++loop) {
      while (!loop->second->tasks_.empty() && !loop->second->paused()) {
        loop->second->tasks_.run_one();
        ran = true;
      }
    }
  }
}

std::uint64_t SimWorld::next_event_us() const noexcept {
  return events_.empty() ? ~std::uint64_t{0} : events_.front().at_us;
}

SimLoop* SimWorld::next_timer_loop(std::uint64_t& at_us) const noexcept {
  SimLoop* next = nullptr;
  for (const auto& [id, loop] : loops_) {
    const std::uint64_t loop_us = loop->next_timer_us();
    if (loop_us < at_us) {
      at_us = loop_us;
      next = loop;
    }
  }
  return next;
}

void SimWorld::note(std::uint64_t what) noexcept {
  ++event_count_;
  for (const std::uint64_t word : {now_us_, what}) digest_ = (digest_ ^ word) * 0x100000001b3ull;
}

SimLoop::SimLoop(SimWorld& world) : world_(world), id_(world.join(*this)) {
  base_world_us_ = base_local_us_ = world.now_us();
}

SimLoop::~SimLoop() {
  if (alive_) kill();
  world_.leave(id_);
}

void SimLoop::arm(Timer& timer, std::uint64_t deadline_us) noexcept {
  if (!alive_) return;
  timers_.arm(timer, std::max(deadline_us, now_us() + 1));
}

void SimLoop::defer(Task& task) noexcept {
  if (alive_) tasks_.push(task);
}

void SimLoop::set_clock_drift_ppm(std::int64_t drift_ppm) noexcept {
  BLOCKD_ASSERT(drift_ppm > -1'000'000 && drift_ppm < 1'000'000);
  base_local_us_ = now_us();
  base_world_us_ = world_.now_us();
  drift_ppm_ = drift_ppm;
}

void SimLoop::pause(std::uint64_t us) noexcept {
  paused_until_us_ = std::max(paused_until_us_, world_.now_us() + us);
}

void SimLoop::kill() {
  if (!alive_) return;
  alive_ = false;
  timers_.clear();
  tasks_.clear();
  for (const auto& action : std::exchange(kill_actions_, {})) action();
}

std::uint64_t SimLoop::local_us(std::uint64_t world_us) const noexcept {
  const std::uint64_t passed_us = world_us - base_world_us_;
  constexpr std::int64_t kMillion = 1'000'000;
  const auto whole = static_cast<std::int64_t>(passed_us / kMillion) * drift_ppm_;
  const auto part = static_cast<std::int64_t>(passed_us % kMillion) * drift_ppm_ / kMillion;
  return base_local_us_ + passed_us + static_cast<std::uint64_t>(whole + part);
}

// The first moment at which local_us() has reached the given one; never, for far-off deadlines.
std::uint64_t SimLoop::world_us(std::uint64_t local) const noexcept {
  constexpr std::uint64_t kNever = ~std::uint64_t{0};
  if (local > kNever / 4) return kNever;
  if (local <= base_local_us_) return base_world_us_;
  const auto rate = 1.0 + static_cast<double>(drift_ppm_) / 1e6;
  const auto guess = static_cast<std::uint64_t>(static_cast<double>(local - base_local_us_) / rate);
  std::uint64_t world = base_world_us_ + guess;
  while (world > base_world_us_ && local_us(world - 1) >= local) --world;
  while (local_us(world) < local) ++world;
  return world;
}

std::uint64_t SimLoop::next_timer_us() const noexcept {
  if (timers_.empty()) return ~std::uint64_t{0};
  if (timers_.next_deadline_us() > ~std::uint64_t{0} / 4) return ~std::uint64_t{0};
  const std::uint64_t due_us = std::max(world_us(timers_.next_deadline_us()), world_.now_us());
  return std::max(due_us, paused_until_us_);
}

}  // namespace blockd::io
