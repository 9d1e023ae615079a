// The reactor: timers, deferred tasks, posts from other threads, and an end with nothing in flight.
#include "io/uring_loop.h"

#include <doctest/doctest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

#include "tests/io/pattern.h"
#include "tests/io/uring_world.h"

using namespace blockd;
using namespace blockd::io;
using namespace blockd::io::testing;

TEST_CASE("timers fire in order, not early, and not when cancelled") {
  RunningLoop running;
  struct Alarm : Timer {
    UringLoop* loop = nullptr;
    std::vector<int>* log = nullptr;
    int name = 0;
    bool early = false;
  };
  std::vector<int> log;
  std::vector<Alarm> alarms(50);
  running.on_loop([&] {
    running.loop.refresh();
    for (int i = 0; i < 50; ++i) {
      Alarm& alarm = alarms[static_cast<std::size_t>(i)];
      alarm.loop = &running.loop;
      alarm.log = &log;
      alarm.name = i;
      alarm.fire = [](Timer& t) noexcept {
        auto& self = static_cast<Alarm&>(t);
        self.early = self.loop->now_us() < self.deadline_us;
        self.log->push_back(self.name);
      };
      running.loop.arm(
          alarm, running.loop.now_us() + 1000 + static_cast<std::uint64_t>((i * 37) % 50) * 500);
    }
    running.loop.cancel(alarms[10]);
  });
  REQUIRE(running.until([&] { return log.size() == 49; }));
  for (std::size_t i = 1; i < log.size(); ++i) CHECK((log[i - 1] * 37) % 50 < (log[i] * 37) % 50);
  for (const Alarm& alarm : alarms) CHECK_FALSE(alarm.early);
}

TEST_CASE("a timer that re-arms itself in the past does not starve the loop") {
  RunningLoop running;
  struct Busy : Timer {
    UringLoop* loop = nullptr;
    std::uint64_t runs = 0;
  } busy;
  busy.loop = &running.loop;
  busy.fire = [](Timer& t) noexcept {
    auto& self = static_cast<Busy&>(t);
    ++self.runs;
    self.loop->arm(self, 0);
  };
  running.on_loop([&] { running.loop.arm(busy, 0); });
  CHECK(running.until([&] { return busy.runs > 100; }));
  running.on_loop([&] { running.loop.cancel(busy); });
}

TEST_CASE("tasks deferred in one turn run in that turn, once") {
  RunningLoop running;
  struct Note : Task {
    int runs = 0;
  } note;
  note.run = [](Task& t) noexcept { ++static_cast<Note&>(t).runs; };
  running.on_loop([&] {
    running.loop.defer(note);
    running.loop.defer(note);
  });
  running.on_loop([] {});
  running.on_loop([&] { CHECK(note.runs == 1); });
}

TEST_CASE("posts from many threads all run, each thread's in order") {
  RunningLoop running;
  constexpr int kThreads = 4, kPosts = 2000;
  std::vector<int> last(kThreads, -1);
  int ran = 0;
  bool ordered = true;
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < kPosts; ++i) {
        running.loop.post([&, t, i] {
          ordered = ordered && last[static_cast<std::size_t>(t)] == i - 1;
          last[static_cast<std::size_t>(t)] = i;
          ++ran;
        });
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(running.until([&] { return ran == kThreads * kPosts; }));
  CHECK(ordered);
}

TEST_CASE("what was posted before run() runs, and stop() before run() ends it at once") {
  UringLoop loop;
  bool ran = false;
  loop.post([&] { ran = true; });
  loop.stop();
  loop.run();
  CHECK(ran);
}

TEST_CASE("stopping takes back what is in flight") {
  int sockets[2];
  REQUIRE(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets) == 0);
  std::byte buffer[64];
  struct Receive : UringOp {
    std::int32_t result = 1;
  } receive;
  receive.complete = [](UringOp& op, std::int32_t result, std::uint32_t) noexcept {
    static_cast<Receive&>(op).result = result;
  };
  {
    RunningLoop running;
    running.on_loop([&] {
      io_uring_sqe& sqe = running.loop.get_sqe();
      io_uring_prep_recv(&sqe, sockets[0], buffer, sizeof buffer, 0);
      running.loop.queue(sqe, receive);
    });
  }
  CHECK_FALSE(receive.in_flight);
  CHECK(receive.result == -ECANCELED);
  close(sockets[0]);
  close(sockets[1]);
}

TEST_CASE(
    "more requests than the queue holds are submitted in turn; a turn costs one system call") {
  RunningLoop running({.submission_entries = 8, .completion_entries = 16});
  struct Nop : UringOp {
    int* count = nullptr;
  };
  std::vector<Nop> nops(500);
  int count = 0;
  running.on_loop([&] {
    for (Nop& nop : nops) {
      nop.count = &count;
      nop.complete = [](UringOp& op, std::int32_t, std::uint32_t) noexcept {
        ++*static_cast<Nop&>(op).count;
      };
      io_uring_sqe& sqe = running.loop.get_sqe();
      io_uring_prep_nop(&sqe);
      running.loop.queue(sqe, nop);
    }
  });
  CHECK(running.until([&] { return count == 500; }));

  RunningLoop roomy;
  std::uint64_t calls_before = 0;
  count = 0;
  roomy.on_loop([&] {
    calls_before = roomy.loop.stats().system_calls;
    for (Nop& nop : nops) {
      io_uring_sqe& sqe = roomy.loop.get_sqe();
      io_uring_prep_nop(&sqe);
      roomy.loop.queue(sqe, nop);
    }
  });
  CHECK(roomy.until([&] { return count == 500; }));
  roomy.on_loop([&] { CHECK(roomy.loop.stats().system_calls - calls_before < 500); });
}

TEST_CASE("a spinning loop works like a sleeping one") {
  RunningLoop running({.spin_us = 50});
  int ran = 0;
  for (int i = 0; i < 100; ++i) running.on_loop([&] { ++ran; });
  CHECK(ran == 100);
}

TEST_CASE("registered memory is found again, in parts too") {
  UringLoop loop;
  Memory memory(1 << 16);
  loop.register_memory(memory.span());
  loop.register_memory(memory.span());
  const auto slot = loop.fixed_buffer(memory.data() + 4096, 8192);
  if (slot) {  // else the limit on locked memory forbids it here
    CHECK(*slot == 0);
    CHECK_FALSE(loop.fixed_buffer(memory.data() + 4096, 1 << 16));
    CHECK_FALSE(loop.fixed_buffer(&loop, 1));
    loop.unregister_memory(memory.span());
    CHECK(loop.fixed_buffer(memory.data(), 1 << 16));  // it was registered twice
    loop.unregister_memory(memory.span());
    CHECK_FALSE(loop.fixed_buffer(memory.data(), 1));
    loop.unregister_memory(memory.span());  // harmless
    loop.register_memory(memory.span());
    CHECK(loop.fixed_buffer(memory.data(), 1 << 16) == 0);  // at the place that came free
  }
}
