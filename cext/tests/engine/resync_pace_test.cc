// The pace of resyncs, with clients and copies that are nothing but times.
#include "engine/resync_pace.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <vector>

#include "blockd/types.h"
#include "io/sim_world.h"

namespace blockd::engine {
namespace {

constexpr std::uint64_t kSecond = 1'000'000;
constexpr std::uint64_t kCopyUs = 2'000;

struct Rig;

// A segment that never runs out of chunks.
struct Copier {
  Rig& rig;
  ResyncPace::Waiter waiter;
  std::uint64_t done = 0;

  explicit Copier(Rig& in);
  void go_on();
};

struct Rig {
  explicit Rig(std::uint64_t bytes_per_second = 0)
      : loop(world), pace(std::make_unique<ResyncPace>(loop, bytes_per_second)) {}
  ~Rig() {
    for (auto& copier : copiers) pace->cancel(copier->waiter);
  }

  void copy(std::size_t segments) {
    for (std::size_t i = 0; i < segments; ++i) {
      copiers.push_back(std::make_unique<Copier>(*this));
      copiers.back()->go_on();
    }
  }
  // A request every `every_us`, that takes as long as `latency` says when it begins.
  void ask(std::uint64_t every_us, std::function<std::uint64_t(std::uint32_t)> latency) {
    world.after(every_us, &loop, [this, every_us, latency] {
      if (!asking) return;
      const std::uint64_t us = latency(pace->under_way());
      const ResyncPace::Mark mark = pace->client_began();
      last_us.push_back(us);
      world.after(us, &loop,
                  [this, mark] { pace->client_answered(mark, ResyncPace::Kind::write); });
      ask(every_us, latency);
    });
  }
  [[nodiscard]] std::uint64_t copies() const {
    std::uint64_t all = 0;
    for (const auto& copier : copiers) all += copier->done;
    return all;
  }
  // Copies within so long from now.
  std::uint64_t copies_in(std::uint64_t us) {
    const std::uint64_t before = copies();
    last_us.clear();
    world.run_for(us);
    return copies() - before;
  }
  [[nodiscard]] double slow_part(std::uint64_t above_us) const {
    const auto slow = std::ranges::count_if(last_us, [&](auto us) { return us > above_us; });
    return static_cast<double>(slow) / static_cast<double>(last_us.size());
  }

  io::SimWorld world{1};
  io::SimLoop loop;
  std::unique_ptr<ResyncPace> pace;
  std::vector<std::unique_ptr<Copier>> copiers;
  std::vector<std::uint64_t> last_us;  // of the requests since copies_in()
  std::uint32_t most = 0;              // copies at a time
  bool asking = true;
};

Copier::Copier(Rig& in) : rig(in) {
  waiter.owner = this;
  waiter.ready = [](ResyncPace::Waiter& one) noexcept {
    auto& self = *static_cast<Copier*>(one.owner);
    self.rig.world.after(0, &self.rig.loop, [&self] { self.go_on(); });
  };
}

void Copier::go_on() {
  while (rig.pace->take(waiter)) {
    rig.most = std::max(rig.most, rig.pace->under_way());
    rig.world.after(kCopyUs, &rig.loop, [this] {
      ++done;
      rig.pace->done(kCopyUs);
      go_on();
    });
  }
}

TEST_CASE("a hundred resyncs of a host take no more than one, and each its turn") {
  Rig rig;
  rig.copy(100);
  rig.world.run_for(kSecond);
  CHECK(rig.most == kResyncCopiesMax);
  const std::uint64_t all = kResyncCopiesMax * (kSecond / kCopyUs);
  CHECK(rig.copies() > all * 9 / 10);
  for (const auto& copier : rig.copiers) CHECK(copier->done > all / 100 / 2);
}

TEST_CASE("clients whom copies slow down are left alone, and the resync goes on") {
  Rig rig;
  rig.ask(500, [](std::uint32_t copies) { return 1'000 + 400 * copies; });
  rig.world.run_for(kSecond);
  rig.copy(20);
  rig.world.run_for(10 * kSecond);
  const std::uint64_t copied = rig.copies_in(10 * kSecond);
  CHECK(rig.slow_part(2'500) < 0.2);
  CHECK(copied > 10 * kSecond / kCopyUs);  // more than one at a time
}

TEST_CASE("clients who do not mind copies cost the resync only what comparing takes") {
  Rig rig;
  rig.ask(500, [](std::uint32_t) { return 1'000; });
  rig.copy(20);
  rig.world.run_for(30 * kSecond);
  CHECK(rig.copies_in(kSecond) > kResyncCopiesMax * (kSecond / kCopyUs) * 3 / 4);
}

TEST_CASE("one copy at a time, and half the time, is what a resync always gets") {
  Rig rig;
  rig.ask(500, [](std::uint32_t copies) { return copies == 0 ? 100u : 20'000u; });
  rig.world.run_for(kSecond);
  rig.copy(20);
  rig.world.run_for(20 * kSecond);
  rig.most = 0;
  const std::uint64_t copied = rig.copies_in(10 * kSecond);
  CHECK(rig.most == 1);
  CHECK(copied > 10 * kSecond / kCopyUs / 3);
  CHECK(copied < 10 * kSecond / kCopyUs * 6 / 10);
}

TEST_CASE("when clients pause the resync has everything, and when they come back it yields") {
  Rig rig;
  const auto slowed = [](std::uint32_t copies) { return 1'000 + 400 * copies; };
  rig.ask(500, slowed);
  rig.copy(20);
  rig.world.run_for(10 * kSecond);
  rig.asking = false;
  rig.world.run_for(2 * kSecond);
  CHECK(rig.copies_in(kSecond) > kResyncCopiesMax * (kSecond / kCopyUs) * 9 / 10);
  rig.asking = true;
  rig.ask(500, slowed);
  rig.world.run_for(kSecond);
  rig.most = 0;
  (void)rig.copies_in(5 * kSecond);
  CHECK(rig.most < kResyncCopiesMax / 4);
  CHECK(rig.slow_part(2'500) < 0.3);
}

TEST_CASE("a limit of bytes a second is kept, whether clients work or not") {
  Rig rig(20u << 20);
  rig.copy(20);
  const double copied = static_cast<double>(rig.copies_in(10 * kSecond)) * kChunkBytes;
  CHECK(copied > 195.0 * (1 << 20));
  CHECK(copied < 205.0 * (1 << 20));
}

TEST_CASE("what was granted and is not wanted goes to the next who waits") {
  Rig rig;
  rig.copy(1);  // takes all there are
  ResyncPace::Waiter leaving, gone, staying;
  leaving.owner = rig.pace.get();
  leaving.ready = [](ResyncPace::Waiter& one) noexcept {
    static_cast<ResyncPace*>(one.owner)->give_back(one);
  };
  gone.ready = [](ResyncPace::Waiter&) noexcept { FAIL("it had been forgotten"); };
  staying.ready = [](ResyncPace::Waiter&) noexcept {};
  for (ResyncPace::Waiter* one : {&leaving, &gone, &staying}) CHECK_FALSE(rig.pace->take(*one));
  rig.pace->forget(gone);
  rig.world.run_for(2 * kCopyUs);
  CHECK_FALSE(leaving.granted);
  CHECK(staying.granted);
  rig.pace->forget(staying);
  CHECK(rig.pace->under_way() <= kResyncCopiesMax);
}

}  // namespace
}  // namespace blockd::engine
