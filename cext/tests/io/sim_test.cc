// The simulated world keeps its own promises: the same seed gives the same run, a crash loses only
// what was not flushed, a partition delivers nothing and loses nothing.
#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "io/sim_disk.h"
#include "io/sim_network.h"
#include "io/sim_world.h"
#include "tests/io/pattern.h"
#include "tests/io/talker.h"

using namespace blockd;
using namespace blockd::io;
using blockd::io::testing::Echo;
using blockd::io::testing::Page;
using blockd::io::testing::pattern;
using blockd::io::testing::Pending;
using blockd::io::testing::Talker;

TEST_CASE("timers fire in order of deadline, cancelled ones never") {
  SimWorld world(1);
  SimLoop loop(world);
  std::vector<int> fired;
  struct Alarm : Timer {
    std::vector<int>* log = nullptr;
    int name = 0;
  };
  std::array<Alarm, 20> alarms;
  for (int i = 0; i < 20; ++i) {
    alarms[static_cast<std::size_t>(i)].log = &fired;
    alarms[static_cast<std::size_t>(i)].name = i;
    alarms[static_cast<std::size_t>(i)].fire = [](Timer& t) noexcept {
      auto& alarm = static_cast<Alarm&>(t);
      alarm.log->push_back(alarm.name);
    };
    loop.arm(alarms[static_cast<std::size_t>(i)],
             static_cast<std::uint64_t>((i * 7) % 20 + 1) * 100);
  }
  loop.cancel(alarms[3]);
  loop.arm(alarms[0], 5000);
  CHECK(world.run_until_idle());
  CHECK(fired.size() == 19);
  CHECK(fired.back() == 0);
  CHECK(std::find(fired.begin(), fired.end(), 3) == fired.end());
  for (std::size_t i = 1; i + 1 < fired.size(); ++i)
    CHECK((fired[i - 1] * 7) % 20 < (fired[i] * 7) % 20);
  CHECK(world.now_us() == 5000);
}

TEST_CASE("a drifting clock measures its own seconds") {
  SimWorld world(2);
  SimLoop fast(world), slow(world);
  fast.set_clock_offset_us(123'456);
  fast.set_clock_drift_ppm(100'000);
  slow.set_clock_drift_ppm(-100'000);
  struct At : Timer {
    SimWorld* world = nullptr;
    std::uint64_t at_us = 0;
  };
  At one, two;
  for (At* at : {&one, &two}) {
    at->world = &world;
    at->fire = [](Timer& t) noexcept {
      static_cast<At&>(t).at_us = static_cast<At&>(t).world->now_us();
    };
  }
  fast.arm(one, fast.now_us() + 1'100'000);
  slow.arm(two, slow.now_us() + 900'000);
  CHECK(world.run_until_idle());
  CHECK(one.at_us == 1'000'000);
  CHECK(two.at_us >= 999'999);
  CHECK(two.at_us <= 1'000'000);
}

TEST_CASE("deferred tasks run after the event and before time moves") {
  SimWorld world(3);
  SimLoop loop(world);
  struct Note : Task {
    SimWorld* world = nullptr;
    int runs = 0;
    std::uint64_t at_us = 0;
  } note;
  note.world = &world;
  note.run = [](Task& t) noexcept {
    auto& self = static_cast<Note&>(t);
    ++self.runs;
    self.at_us = self.world->now_us();
  };
  world.after(10, &loop, [&] {
    loop.defer(note);
    loop.defer(note);
  });
  world.after(20, &loop, [] {});
  CHECK(world.run_until_idle());
  CHECK(note.runs == 1);
  CHECK(note.at_us == 10);
}

TEST_CASE("nothing of a killed loop happens any more") {
  SimWorld world(4);
  SimLoop loop(world);
  SimDisk disk(world, 1 << 20);
  disk.attach(loop);
  Timer timer;
  timer.fire = [](Timer&) noexcept { FAIL("a dead loop's timer fired"); };
  loop.arm(timer, 100);
  Pending write = Pending::write(disk, 0, 1, 7);
  world.after(1000, &loop, [] { FAIL("a dead loop's event ran"); });
  world.run_for(10);
  loop.kill();
  CHECK_FALSE(timer.armed());
  CHECK(world.run_until_idle());
  CHECK_FALSE(write.completed);
  SimLoop next(world);
  disk.attach(next);
  Pending read = Pending::read(disk, 0, 1);
  CHECK(world.run_until_idle());
  CHECK(read.completed);
}

TEST_CASE("a flushed write survives power loss, an unflushed one may be torn at any sector") {
  std::set<std::size_t> kept_sectors;
  for (std::uint64_t seed = 0; seed < 200; ++seed) {
    SimWorld world(seed);
    SimLoop loop(world);
    SimDisk disk(world, 1 << 20);
    disk.attach(loop);
    Pending first = Pending::write(disk, 0, 1, 1);
    REQUIRE(world.run_until_idle());
    Pending flush = Pending::flush(disk);
    REQUIRE(world.run_until_idle());
    REQUIRE(flush.completed);
    Pending second = Pending::write(disk, 0, 1, 2);
    Pending third = Pending::write(disk, 8192, 1, 3);
    if (seed % 2 == 0) REQUIRE(world.run_until_idle());  // completed, or still in flight
    loop.kill();
    disk.crash();
    Page page;
    disk.peek(0, page.span());
    std::size_t kept = 0;
    for (std::size_t sector = 0; sector < 8; ++sector) {
      const bool is_old =
          std::memcmp(page.data() + sector * 512, pattern(0, 1).data() + sector * 512, 512) == 0;
      const bool is_new =
          std::memcmp(page.data() + sector * 512, pattern(0, 2).data() + sector * 512, 512) == 0;
      CHECK((is_old || is_new));
      kept += is_new;
    }
    kept_sectors.insert(kept);
  }
  CHECK(kept_sectors.size() == 9);
}

TEST_CASE("crash modes: lose all, keep all") {
  for (const auto mode : {SimDisk::Crash::lose_all, SimDisk::Crash::keep_all}) {
    SimWorld world(9);
    SimLoop loop(world);
    SimDisk disk(world, 1 << 20);
    disk.attach(loop);
    Pending write = Pending::write(disk, 4096, 2, 5);
    REQUIRE(world.run_until_idle());
    disk.crash(mode);
    Page page;
    disk.peek(8192, page.span());
    CHECK(page == (mode == SimDisk::Crash::keep_all ? pattern(8192, 5) : Page{}));
  }
}

TEST_CASE("a flush covers what had completed when it was submitted, not what completes meanwhile") {
  int lost = 0;
  for (std::uint64_t seed = 0; seed < 50; ++seed) {
    SimWorld world(seed);
    SimLoop loop(world);
    SimDisk disk(world, 1 << 20);
    disk.attach(loop);
    Pending flush = Pending::flush(disk);
    Pending write = Pending::write(disk, 0, 1, 1);
    REQUIRE(world.run_until_idle());
    loop.kill();
    disk.crash(SimDisk::Crash::lose_all);
    Page page;
    disk.peek(0, page.span());
    lost += page == Page{};
  }
  CHECK(lost == 50);
}

TEST_CASE("a killed process leaves its completed writes; power loss later still takes them") {
  SimWorld world(11);
  SimLoop loop(world);
  SimDisk disk(world, 1 << 20);
  disk.attach(loop);
  Pending write = Pending::write(disk, 0, 1, 4);
  REQUIRE(world.run_until_idle());
  loop.kill();
  Page page;
  disk.peek(0, page.span());
  CHECK(page == pattern(0, 4));
  disk.crash(SimDisk::Crash::lose_all);
  disk.peek(0, page.span());
  CHECK(page == Page{});
}

TEST_CASE(
    "disk faults: latent errors heal by rewriting, bits rot, writes get lost or misdirected") {
  SimWorld world(12);
  SimLoop loop(world);
  SimDisk disk(world, 1 << 20);
  disk.attach(loop);
  disk.fail_reads(4096, 4096);
  Pending bad = Pending::read(disk, 0, 2);
  Pending good = Pending::read(disk, 0, 1);
  REQUIRE(world.run_until_idle());
  CHECK(bad.request.error == Error::DiskError);
  CHECK(good.request.error == Error::Ok);
  Pending heal = Pending::write(disk, 4096, 1, 1);
  REQUIRE(world.run_until_idle());
  Pending healed = Pending::read(disk, 4096, 1);
  REQUIRE(world.run_until_idle());
  CHECK(healed.request.error == Error::Ok);

  disk.corrupt(4096 + 5, 3);
  Page page;
  disk.peek(4096, page.span());
  Page expected = pattern(4096, 1);
  expected.data()[5] ^= std::byte{8};
  CHECK(page == expected);

  disk.lose_next_write();
  Pending lost = Pending::write(disk, 0, 1, 2);
  REQUIRE(world.run_until_idle());
  CHECK(lost.request.error == Error::Ok);
  disk.peek(0, page.span());
  CHECK(page == Page{});

  disk.misdirect_next_write(12288, 8192);  // what is before that goes where it should
  Pending ordinary = Pending::write(disk, 4096, 1, 3);
  REQUIRE(world.run_until_idle());
  Pending astray = Pending::write(disk, 8192, 1, 4);
  REQUIRE(world.run_until_idle());
  CHECK(ordinary.request.error == Error::Ok);
  CHECK(astray.request.error == Error::Ok);
  disk.peek(4096, page.span());
  CHECK(page == pattern(4096, 3));
  disk.peek(8192, page.span());
  CHECK(page == Page{});
  disk.peek(12288, page.span());
  CHECK(page == pattern(8192, 4));

  disk.set_stuck(true);
  Pending stuck = Pending::read(disk, 0, 1);
  world.run_for(10'000'000);
  CHECK_FALSE(stuck.completed);
  disk.set_stuck(false);
  world.run_for(10'000);
  CHECK(stuck.completed);

  disk.fail_writes(0, 4096, Error::NoSpace);
  Pending full = Pending::write(disk, 0, 1, 2);
  REQUIRE(world.run_until_idle());
  CHECK(full.request.error == Error::NoSpace);
}

namespace {

// Two hosts, one listens and echoes, the other sends and checks what comes back.
struct Pair {
  explicit Pair(std::uint64_t seed) : world(seed), fabric(world), a(world), b(world) {
    net_a = std::make_unique<SimNetwork>(fabric, a, "a");
    net_b = std::make_unique<SimNetwork>(fabric, b, "b");
    listener = net_b->listen("tcp:b:7000", echo);
    talker.link = net_a->connect("tcp:b:7000", talker);
  }
  SimWorld world;
  SimFabric fabric;
  SimLoop a, b;
  std::unique_ptr<SimNetwork> net_a, net_b;
  Echo echo;
  std::unique_ptr<Listener> listener;
  Talker talker;
};

}  // namespace

TEST_CASE("a link carries every byte, in order, whatever the pieces") {
  for (std::uint64_t seed = 0; seed < 30; ++seed) {
    Pair pair(seed);
    pair.talker.say(300'000);
    pair.talker.say(1);
    pair.talker.say(17);
    REQUIRE(pair.world.run_until([&] { return pair.talker.heard_bytes == 300'018; }));
    CHECK(pair.talker.heard_well);
    CHECK(pair.talker.link->queued_bytes() == 0);
    pair.talker.link->close();
    REQUIRE(pair.world.run_until_idle());
    CHECK(pair.talker.reason == Error::Ok);
    CHECK(pair.echo.closed_count == 1);
    CHECK(pair.fabric.connection_count() == 0);
  }
}

TEST_CASE("a partition delivers nothing, and everything once it has healed") {
  Pair pair(5);
  REQUIRE(pair.world.run_until([&] { return pair.talker.is_connected; }));
  pair.fabric.partition("a", "b", true);
  pair.talker.say(2'000'000);  // more than the window: the queue must wait
  pair.world.run_for(60'000'000);
  CHECK(pair.talker.heard_bytes == 0);
  CHECK(pair.talker.link->queued_bytes() > 0);
  CHECK_FALSE(pair.talker.is_closed);

  Talker other;
  other.link = pair.net_a->connect("tcp:b:7000", other);
  pair.world.run_for(10'000'000);
  CHECK(other.reason == Error::Timeout);

  pair.fabric.heal();
  REQUIRE(pair.world.run_until([&] { return pair.talker.heard_bytes == 2'000'000; }));
  CHECK(pair.talker.heard_well);
  pair.talker.link->close();
  CHECK(pair.world.run_until_idle());
}

TEST_CASE("the peers of a killed process see LinkLost; refused and reset links too") {
  Pair pair(6);
  pair.talker.say(500'000);
  REQUIRE(pair.world.run_until([&] { return pair.talker.heard_bytes > 1000; }));
  SUBCASE("killed") {
    pair.b.kill();
    REQUIRE(pair.world.run_until_idle());
    CHECK(pair.talker.reason == Error::LinkLost);
    Talker refused;
    refused.link = pair.net_a->connect("tcp:b:7000", refused);
    REQUIRE(pair.world.run_until_idle());
    CHECK(refused.reason == Error::LinkLost);
  }
  SUBCASE("reset") {
    pair.fabric.reset_links("b", "a");
    REQUIRE(pair.world.run_until_idle());
    CHECK(pair.talker.reason == Error::LinkLost);
    CHECK(pair.echo.closed_count == 1);
  }
  SUBCASE("killed behind a partition: heard of only after it has healed") {
    pair.fabric.partition("a", "b", true);
    pair.b.kill();
    pair.world.run_for(60'000'000);
    CHECK_FALSE(pair.talker.is_closed);
    pair.fabric.heal();
    REQUIRE(pair.world.run_until_idle());
    CHECK(pair.talker.reason == Error::LinkLost);
  }
  CHECK(pair.talker.done_count == pair.talker.said_count);
  CHECK(pair.fabric.connection_count() == 0);
}

TEST_CASE("listening twice on one address is refused with a clear fault") {
  Pair pair(7);
  Echo second;
  CHECK_THROWS_AS((void)pair.net_a->listen("tcp:b:7000", second), Fault);
  const auto any = pair.net_a->listen("tcp:a:0", second);
  CHECK(any->endpoint() != "tcp:a:0");
  pair.talker.link->close();
  CHECK(pair.world.run_until_idle());
}

TEST_CASE("the same seed gives the same run, another seed another") {
  auto run = [](std::uint64_t seed) {
    Pair pair(seed);
    SimDisk disk(pair.world, 1 << 20);
    disk.attach(pair.a);
    pair.talker.say(100'000);
    Pending write = Pending::write(disk, 0, 4, 9);
    pair.world.run_for(20'000);
    pair.fabric.reset_links("a", "b");
    CHECK(pair.world.run_until_idle());
    return pair.world.digest();
  };
  for (std::uint64_t seed = 0; seed < 20; ++seed) CHECK(run(seed) == run(seed));
  CHECK(run(1) != run(2));
}
