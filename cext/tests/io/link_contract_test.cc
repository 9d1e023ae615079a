// The rules of io/link.h, held against both worlds by many links that behave at random: they pause,
// send, close and are closed on. No call comes from inside a call, none after closed(); every item
// has its done() once and before that; lent memory is written only between receive_buffer() and
// received(); what one side hears is a prefix of what the other said, and all of it after a quiet
// end.
#include <doctest/doctest.h>

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <vector>

#include "base/random.h"
#include "io/sim_network.h"
#include "io/sim_world.h"
#include "io/uring_network.h"
#include "tests/io/talker.h"
#include "tests/io/uring_world.h"

using namespace blockd;
using namespace blockd::io;
using namespace blockd::io::testing;

namespace {

class Wild : public LinkHandler {
 public:
  explicit Wild(std::uint64_t seed) : random_(seed) {}

  void take(std::unique_ptr<Link> link) { link_ = std::move(link); }
  // One act of the outside: returns at once, whatever it starts comes later.
  void act() {
    if (!link_ || closing_ || closed_) return;
    const Outside outside(*this);
    switch (random_.below(8)) {
      case 0:
        paused_ = false;
        link_->resume();
        break;
      case 1:
        paused_ = true;
        break;
      default:
        if (link_->queued_bytes() < 200'000) say();
    }
  }
  void close() {
    if (!link_ || closed_) return;
    const Outside outside(*this);
    closing_ = true;
    link_->close();
  }
  void wake() {
    if (!link_ || closed_ || closing_) return;
    paused_ = false;
    const Outside outside(*this);
    link_->resume();
  }

  [[nodiscard]] bool is_closed() const noexcept { return closed_; }
  [[nodiscard]] bool linked() const noexcept { return link_ != nullptr; }
  [[nodiscard]] std::uint64_t said() const noexcept { return said_bytes_; }
  [[nodiscard]] std::uint64_t heard() const noexcept { return heard_bytes_; }
  [[nodiscard]] bool faultless() const noexcept {
    return faultless_ && (!closed_ || in_queue_ == 0);
  }

  void connected() noexcept override {
    inside([&] { rule(heard_bytes_ == 0); });
  }
  std::span<std::byte> receive_buffer() noexcept override {
    std::span<std::byte> lent;
    inside([&] {
      rule(lent_ == 0);
      if (paused_) return;
      // Fresh memory each time, freed at received(): whoever writes late is caught by ASan.
      buffer_ = std::make_unique<std::byte[]>(kBufferBytes);
      lent_ = static_cast<std::size_t>(random_.between(1, kBufferBytes));
      lent = {buffer_.get(), lent_};
    });
    return lent;
  }
  void received(std::size_t bytes) noexcept override {
    inside([&] {
      rule(bytes > 0);
      rule(bytes <= lent_);
      for (std::size_t i = 0; i < bytes; ++i) rule(buffer_[i] == spoken(heard_bytes_ + i));
      heard_bytes_ += bytes;
      lent_ = 0;
      buffer_.reset();
      if (random_.chance(10)) paused_ = true;
      if (random_.chance(5)) say();
      if (random_.chance(3)) link_->resume();
    });
  }
  void closed(Error) noexcept override {
    inside([&] { rule(in_queue_ == 0); });
    closed_ = true;
    buffer_.reset();
    link_.reset();
  }

 private:
  static constexpr std::size_t kBufferBytes = 8192;
  struct Said {
    SendItem item;
    std::vector<std::byte> bytes;
    Wild* wild = nullptr;
    bool done = false;
  };
  struct Outside {
    explicit Outside(Wild& wild) : wild_(wild) { wild_.outside_ = true; }
    ~Outside() { wild_.outside_ = false; }
    Wild& wild_;
  };

  void rule(bool holds) noexcept { faultless_ = faultless_ && holds; }
  template <class Action>
  void inside(Action action) noexcept {
    rule(!outside_ && !inside_ && !closed_);
    inside_ = true;
    action();
    inside_ = false;
  }
  void say() {
    Said& one = said_.emplace_back();
    one.wild = this;
    const std::size_t bytes = static_cast<std::size_t>(random_.between(0, 30'000));
    for (std::size_t i = 0; i < bytes; ++i) one.bytes.push_back(spoken(said_bytes_ + i));
    said_bytes_ += bytes;
    const std::size_t cut = static_cast<std::size_t>(random_.between(0, bytes));
    one.item.iov[0] = {one.bytes.data(), cut};
    one.item.iov[1] = {one.bytes.data() + cut, bytes - cut};
    one.item.iov_count = 2;
    one.item.owner = &one;
    one.item.done = [](SendItem& item) noexcept {
      auto& self = *static_cast<Said*>(item.owner);
      self.wild->inside([&] {
        self.wild->rule(!self.done);
        self.done = true;
        --self.wild->in_queue_;
        self.bytes = {};
      });
    };
    ++in_queue_;
    link_->send(one.item);
  }

  Random random_;
  std::unique_ptr<Link> link_;
  std::deque<Said> said_;
  std::unique_ptr<std::byte[]> buffer_;
  std::size_t lent_ = 0;
  std::uint64_t said_bytes_ = 0, heard_bytes_ = 0;
  std::size_t in_queue_ = 0;
  bool paused_ = false, closing_ = false, closed_ = false;
  bool inside_ = false, outside_ = false, faultless_ = true;
};

struct Host : AcceptHandler {
  std::deque<Wild> guests;
  std::uint64_t seed = 0;
  LinkHandler* accepted(std::unique_ptr<Link> link) noexcept override {
    Wild& guest = guests.emplace_back(++seed);
    guest.take(std::move(link));
    return &guest;
  }
};

constexpr std::size_t kLinks = 6;

// `pass` lets some time go by; it returns false when nothing more can happen.
template <class Pass>
void converse(Random& random, std::deque<Wild>& callers, Host& host, Pass pass) {
  for (int round = 0; round < 60; ++round) {
    for (Wild& caller : callers) caller.act();
    for (Wild& guest : host.guests) guest.act();
    if (random.chance(40)) callers[random.below(callers.size())].close();
    if (random.chance(40) && !host.guests.empty())
      host.guests[random.below(host.guests.size())].close();
    pass();
  }
}

void check_rules(const std::deque<Wild>& callers, const Host& host) {
  std::uint64_t said = 0, heard = 0;
  for (const auto* side : {&callers, &host.guests}) {
    for (const Wild& wild : *side) {
      REQUIRE(wild.faultless());
      said += wild.said();
      heard += wild.heard();
    }
  }
  CHECK(heard <= said);
  CHECK(heard > 0);
}

}  // namespace

TEST_CASE("simulated links keep the rules") {
  for (std::uint64_t seed = 1; seed <= 25; ++seed) {
    Random random(seed);
    SimWorld world(seed);
    SimFabric fabric(world, {.window_bytes = random.chance(2) ? 5000u : 262'144u});
    SimLoop near(world), far(world);
    SimNetwork from(fabric, near, "near"), to(fabric, far, "far");
    Host host;
    host.seed = seed * 1000;
    const auto listener = to.listen("tcp:far:1", host);
    std::deque<Wild> callers;
    for (std::size_t i = 0; i < kLinks; ++i) {
      Wild& caller = callers.emplace_back(seed * 100 + i);
      caller.take(from.connect("tcp:far:1", caller));
    }
    converse(random, callers, host, [&] {
      world.run_for(random.below(2000));
      if (random.chance(30)) fabric.reset_links("near", "far");
      if (random.chance(10)) fabric.partition("near", "far", random.chance(2));
    });
    fabric.heal();
    world.run_until_idle(10'000'000);
    check_rules(callers, host);
    for (Wild& caller : callers) caller.close();
    for (int turn = 0; turn < 1000 && fabric.connection_count() > 0; ++turn) {
      for (Wild& guest : host.guests) guest.wake();  // they pause again and again
      world.run_for(1000);
    }
    REQUIRE(world.run_until_idle());
    for (const Wild& caller : callers) REQUIRE(caller.is_closed());
    for (const Wild& guest : host.guests) REQUIRE(guest.is_closed());
    check_rules(callers, host);
    CHECK(fabric.connection_count() == 0);
  }
}

TEST_CASE("links of the kernel keep the rules") {
  TempDir dir;
  for (std::uint64_t seed = 1; seed <= 6; ++seed) {
    Random random(seed);
    RunningLoop running;
    Host host;
    host.seed = seed * 1000;
    std::deque<Wild> callers;
    std::unique_ptr<UringNetwork> network;
    std::unique_ptr<Listener> listener;
    running.on_loop([&] {
      network = std::make_unique<UringNetwork>(running.loop);
      listener = network->listen(seed % 2 ? "unix:" + (dir / "s.sock") : "tcp:127.0.0.1:0", host);
      for (std::size_t i = 0; i < kLinks; ++i) {
        Wild& caller = callers.emplace_back(seed * 100 + i);
        caller.take(network->connect(listener->endpoint(), caller));
      }
    });
    for (int step = 0; step < 40; ++step) {
      running.on_loop([&] { converse(random, callers, host, [] {}); });
    }
    if (seed > 2) {  // a quiet end; the first two are stopped in mid-stream
      running.on_loop([&] {
        for (Wild& caller : callers) caller.close();
      });
      CHECK(running.until([&] {
        for (Wild& guest : host.guests) guest.wake();
        bool all = true;
        for (const Wild& caller : callers) all = all && caller.is_closed();
        for (const Wild& guest : host.guests) all = all && guest.is_closed();
        return all;
      }));
    }
    running.on_loop([&] { listener.reset(); });
    running.stop();
    network.reset();
    check_rules(callers, host);
    for (const Wild& caller : callers) CHECK(caller.is_closed());
  }
}

TEST_CASE("what was said before a quiet end is heard whole") {
  SimWorld world(77);
  SimFabric fabric(world);
  SimLoop near(world), far(world);
  SimNetwork from(fabric, near, "near"), to(fabric, far, "far");
  Echo echo;
  const auto listener = to.listen("tcp:far:1", echo);
  struct Guest : Talker, AcceptHandler {
    LinkHandler* accepted(std::unique_ptr<Link> accepted_link) noexcept override {
      link = std::move(accepted_link);
      return this;
    }
  } guest;
  const auto other = to.listen("tcp:far:2", guest);
  Talker talker;
  talker.link = from.connect("tcp:far:2", talker);
  talker.say(100'000);
  REQUIRE(world.run_until([&] { return talker.done_count == 1; }));
  talker.link->close();
  REQUIRE(world.run_until_idle());
  CHECK(guest.heard_bytes == 100'000);
  CHECK(guest.reason == Error::LinkLost);
}
