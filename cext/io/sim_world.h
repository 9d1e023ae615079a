// A simulated world: one virtual clock, one seeded source of chance, one queue of events.
//
// Everything that happens to simulated hosts, disks and links is an event here. One thread runs it
// all; the same seed and the same calls give the same run to the byte (digest() tells two runs
// apart). Nothing here reads a real clock. Objects of the world may allocate; they are for tests.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <vector>

#include "base/random.h"
#include "io/loop.h"
#include "io/task_queue.h"
#include "io/timer_heap.h"

namespace blockd::io {

class SimLoop;

class SimWorld {
 public:
  static constexpr std::uint64_t kForever = ~std::uint64_t{0} / 2;

  explicit SimWorld(std::uint64_t seed) noexcept : random_(seed) {}
  ~SimWorld();
  SimWorld(const SimWorld&) = delete;
  SimWorld& operator=(const SimWorld&) = delete;

  [[nodiscard]] std::uint64_t now_us() const noexcept { return now_us_; }
  [[nodiscard]] Random& random() noexcept { return random_; }

  // Runs `action` after `delay_us`: on `loop` (dropped when that loop has died by then), or, when
  // it is null, as an act of the world itself.
  void after(std::uint64_t delay_us, SimLoop* loop, std::function<void()> action);

  // One event or timer, then every deferred task it left behind. False: nothing is left to happen.
  bool step();
  // Until nothing is left to happen (true) or max_us have passed (false). Periodic timers never
  // end.
  bool run_until_idle(std::uint64_t max_us = kForever);
  // Until `done` holds (true), nothing is left or max_us have passed (false).
  bool run_until(const std::function<bool()>& done, std::uint64_t max_us = kForever);
  // Lets exactly `us` pass.
  void run_for(std::uint64_t us);

  // Looks on: called when a step and what it left behind are over, with the id of the loop whose
  // step it was, 0 for the world's own. It must change nothing.
  std::function<void(std::uint64_t loop_id)> after_step;

  // A fingerprint of everything that has happened so far.
  [[nodiscard]] std::uint64_t digest() const noexcept { return digest_; }
  [[nodiscard]] std::uint64_t events() const noexcept { return event_count_; }

 private:
  friend class SimLoop;
  struct Event {
    std::uint64_t at_us;
    std::uint64_t order;  // ties: first scheduled, first run
    std::uint64_t loop_id;
    std::function<void()> action;
  };
  static bool later(const Event& a, const Event& b) noexcept;

  std::uint64_t join(SimLoop& loop);
  void leave(std::uint64_t loop_id) noexcept { loops_.erase(loop_id); }
  [[nodiscard]] std::uint64_t next_event_us() const noexcept;
  SimLoop* next_timer_loop(std::uint64_t& at_us) const noexcept;
  bool step_before(std::uint64_t limit_us);
  void take_event();
  void run_tasks();
  void note(std::uint64_t what) noexcept;

  Random random_;
  std::uint64_t now_us_ = 0;
  std::uint64_t next_order_ = 0;
  std::uint64_t next_loop_id_ = 1;
  std::uint64_t event_count_ = 0;
  std::uint64_t digest_ = 0xcbf29ce484222325ull;
  std::vector<Event> events_;                // heap by (at_us, order)
  std::map<std::uint64_t, SimLoop*> loops_;  // by id, so that iteration has one order
};

// One simulated process on one host. kill() ends it: none of its timers, tasks, completions and
// deliveries happen any more; a new SimLoop takes its place. The object must outlive whatever still
// calls it (destructors that cancel timers), which is harmless once it is dead.
class SimLoop final : public Loop {
 public:
  explicit SimLoop(SimWorld& world);
  ~SimLoop() override;
  SimLoop(const SimLoop&) = delete;
  SimLoop& operator=(const SimLoop&) = delete;

  [[nodiscard]] std::uint64_t now_us() const noexcept override { return local_us(world_.now_us()); }
  // A deadline that has passed fires one microsecond from now, so that time always moves.
  void arm(Timer& timer, std::uint64_t deadline_us) noexcept override;
  void cancel(Timer& timer) noexcept override { timers_.cancel(timer); }
  void defer(Task& task) noexcept override;
  [[nodiscard]] std::uint64_t random_u64() noexcept override { return world_.random().next(); }

  // This host's clock: an offset from the world's, and a rate error in parts per million (+ runs
  // fast). Continuous: a change counts from now on.
  void set_clock_offset_us(std::uint64_t offset_us) noexcept { base_local_us_ += offset_us; }
  void set_clock_drift_ppm(std::int64_t drift_ppm) noexcept;

  // Stopped by its operating system (SIGSTOP, a stalled machine): until `us` have passed it does
  // nothing, its clock goes on, and what arrives meanwhile waits for it in order. A longer pause
  // under way stays.
  void pause(std::uint64_t us) noexcept;
  [[nodiscard]] bool paused() const noexcept { return world_.now_us() < paused_until_us_; }

  // The process dies here and now. Disks and networks on this loop see it (in the order they came).
  void kill();
  [[nodiscard]] bool alive() const noexcept { return alive_; }
  void on_kill(std::function<void()> action) { kill_actions_.push_back(std::move(action)); }

  [[nodiscard]] SimWorld& world() noexcept { return world_; }
  [[nodiscard]] std::uint64_t id() const noexcept { return id_; }

 private:
  friend class SimWorld;
  [[nodiscard]] std::uint64_t local_us(std::uint64_t world_us) const noexcept;
  [[nodiscard]] std::uint64_t world_us(std::uint64_t local_us) const noexcept;
  [[nodiscard]] std::uint64_t next_timer_us() const noexcept;  // in the world's time

  SimWorld& world_;
  std::uint64_t id_;
  bool alive_ = true;
  std::uint64_t base_world_us_ = 0;
  std::uint64_t base_local_us_ = 0;
  std::int64_t drift_ppm_ = 0;
  std::uint64_t paused_until_us_ = 0;  // in the world's time
  TimerHeap timers_;
  TaskQueue tasks_;
  std::vector<std::function<void()>> kill_actions_;
};

}  // namespace blockd::io
