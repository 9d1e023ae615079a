// Links over real sockets: every byte in order, back-pressure, ends of every kind.
#include "io/uring_network.h"

#include <doctest/doctest.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <memory>
#include <string>
#include <vector>

#include "io/endpoint.h"
#include "tests/io/talker.h"
#include "tests/io/uring_world.h"

using namespace blockd;
using namespace blockd::io;
using namespace blockd::io::testing;

namespace {

struct Sockets {
  TempDir dir;
  Echo echo;
  Talker talker;
  std::unique_ptr<Listener> listener;
  std::unique_ptr<UringNetwork> network;
  RunningLoop running;

  Sockets() {
    running.on_loop([&] {
      network = std::make_unique<UringNetwork>(running.loop,
                                               UringNetworkOptions{.connect_timeout_us = 300'000});
    });
  }
  ~Sockets() {
    running.on_loop([&] {
      listener.reset();
      if (talker.link && !talker.is_closed) talker.link->close();
    });
    running.stop();
    network.reset();
  }
  void open(const Endpoint& at) {
    running.on_loop([&] {
      listener = network->listen(at, echo);
      talker.link = network->connect(listener->endpoint(), talker);
    });
  }
  bool until(const std::function<bool()>& condition) { return running.until(condition); }
};

Error fault_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Fault& fault) {
    return fault.code();
  }
  return Error::Ok;
}

}  // namespace

TEST_CASE_FIXTURE(Sockets, "every byte comes back, in order, over unix, IPv4 and IPv6") {
  std::string at;
  SUBCASE("unix") {
    at = "unix:" + (dir / "s.sock");
  }
  SUBCASE("ipv4") {
    at = "tcp:127.0.0.1:0";
  }
  SUBCASE("ipv6") {
    at = "tcp:[::1]:0";
    const int fd = socket(AF_INET6, SOCK_STREAM, 0);
    const auto address = parse_endpoint(at);
    const bool has_ipv6 = fd >= 0 && bind(fd, address->get(), address->bytes) == 0;
    if (fd >= 0) close(fd);
    if (!has_ipv6) at = "tcp:127.0.0.1:0";  // a machine without IPv6
  }
  open(at);
  running.on_loop([&] {
    for (int i = 0; i < 300; ++i) talker.say(static_cast<std::size_t>(i * i % 5000 + 1));
    talker.say(1 << 20);
  });
  REQUIRE(until([&] { return talker.heard_bytes == talker.said_bytes; }));
  CHECK(talker.heard_well);
  CHECK(talker.is_connected);
  CHECK(talker.done_count == talker.said_count);
  running.on_loop([&] {
    CHECK(talker.link->queued_bytes() == 0);
    CHECK(talker.link->peer_name() == listener->endpoint());
    talker.link->close();
    talker.link->close();
    CHECK_FALSE(talker.is_closed);
  });
  REQUIRE(until([&] { return talker.is_closed && echo.closed_count == 1; }));
  CHECK(talker.reason == Error::Ok);
  running.on_loop([&] { talker.link.reset(); });
}

TEST_CASE_FIXTURE(Sockets, "what is queued in one turn goes out in few system calls") {
  open("unix:" + (dir / "s.sock"));
  REQUIRE(until([&] { return talker.is_connected; }));
  std::uint64_t before = 0;
  running.on_loop([&] {
    before = running.loop.stats().submissions;
    for (int i = 0; i < 30; ++i) talker.say(100);
  });
  REQUIRE(until([&] { return talker.heard_bytes == 3000; }));
  // One send, one or few receives on each side, the echo's sends; a post a poll of the test.
  running.on_loop([&] { CHECK(running.loop.stats().submissions - before < 60); });
}

TEST_CASE_FIXTURE(Sockets, "a paused receiver holds the sender back and loses nothing") {
  talker.paused = true;
  open("tcp:127.0.0.1:0");
  running.on_loop([&] {
    for (int i = 0; i < 64; ++i) talker.say(1 << 18);
  });
  std::this_thread::sleep_for(std::chrono::milliseconds(200));
  running.on_loop([&] {
    CHECK(talker.heard_bytes == 0);
    CHECK(talker.link->queued_bytes() > 0);
    talker.paused = false;
    talker.link->resume();
  });
  REQUIRE(until([&] { return talker.heard_bytes == talker.said_bytes; }));
  CHECK(talker.heard_well);
}

TEST_CASE_FIXTURE(Sockets, "closing in mid-stream gives every item back before closed()") {
  talker.paused = true;
  open("unix:" + (dir / "s.sock"));
  running.on_loop([&] {
    for (int i = 0; i < 40; ++i) talker.say(1 << 18);
  });
  REQUIRE(until([&] { return talker.is_connected; }));
  running.on_loop([&] { talker.link->close(); });
  REQUIRE(until([&] { return talker.is_closed; }));
  CHECK(talker.done_count == talker.said_count);
  REQUIRE(until([&] { return echo.closed_count == 1; }));
}

TEST_CASE_FIXTURE(Sockets, "failures to connect are told apart, and never from inside connect()") {
  std::string to;
  Error expected = Error::LinkLost;
  SUBCASE("refused") {
    to = "tcp:127.0.0.1:1";
  }
  SUBCASE("no socket file") {
    to = "unix:" + (dir / "absent.sock");
  }
  SUBCASE("malformed") {
    to = "tcp:localhost:http";
    expected = Error::InvalidArgument;
  }
  running.on_loop([&] {
    talker.link = network->connect(to, talker);
    CHECK_FALSE(talker.is_closed);
  });
  REQUIRE(until([&] { return talker.is_closed; }));
  CHECK(talker.reason == expected);
  CHECK_FALSE(talker.is_connected);
}

TEST_CASE_FIXTURE(Sockets, "connecting to one who never answers times out") {
  // A listener whose backlog is full: the kernel drops further attempts.
  const int deaf = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  auto address = *parse_endpoint("tcp:127.0.0.1:0");
  REQUIRE(bind(deaf, address.get(), address.bytes) == 0);
  REQUIRE(listen(deaf, 0) == 0);
  REQUIRE(getsockname(deaf, address.get(), &address.bytes) == 0);
  std::vector<int> fillers;
  for (int i = 0; i < 4; ++i) {
    fillers.push_back(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    (void)connect(fillers.back(), address.get(), address.bytes);
  }
  running.on_loop([&] { talker.link = network->connect(format_endpoint(address), talker); });
  REQUIRE(until([&] { return talker.is_closed; }));
  CHECK(talker.reason == Error::Timeout);
  for (const int fd : fillers) close(fd);
  close(deaf);
}

TEST_CASE_FIXTURE(Sockets,
                  "a link may be closed before it is connected, and refused by the acceptor") {
  echo.refuse = true;
  open("tcp:127.0.0.1:0");
  Talker hasty;
  running.on_loop([&] {
    hasty.link = network->connect(listener->endpoint(), hasty);
    hasty.say(100);
    hasty.link->close();
  });
  REQUIRE(until([&] { return hasty.is_closed && talker.is_closed; }));
  CHECK(hasty.reason == Error::Ok);
  CHECK(hasty.done_count == 1);
  CHECK(talker.reason == Error::LinkLost);
}

TEST_CASE_FIXTURE(
    Sockets, "addresses: taken, stale, malformed; nobody answers after the listener has gone") {
  const std::string at = "unix:" + (dir / "s.sock");
  open(at);
  REQUIRE(until([&] { return talker.is_connected; }));
  running.on_loop([&] {
    CHECK(fault_of([&] { (void)network->listen(at, echo); }) == Error::AddressInUse);
    CHECK(fault_of([&] { (void)network->listen("unix:", echo); }) == Error::InvalidArgument);
    CHECK(fault_of([&] { (void)network->listen("tcp:1.2.3.4:99999", echo); }) ==
          Error::InvalidArgument);
    CHECK(fault_of([&] { (void)network->listen("unix:" + std::string(200, 'x'), echo); }) ==
          Error::InvalidArgument);
    const auto tcp = network->listen("tcp:127.0.0.1:0", echo);
    CHECK(fault_of([&] { (void)network->listen(tcp->endpoint(), echo); }) == Error::AddressInUse);
    listener.reset();
  });
  CHECK_FALSE(std::filesystem::exists(dir / "s.sock"));
  Talker late;
  running.on_loop([&] { late.link = network->connect(at, late); });
  REQUIRE(until([&] { return late.is_closed; }));
  // Links accepted before go on.
  running.on_loop([&] { talker.say(10); });
  REQUIRE(until([&] { return talker.heard_bytes == 10; }));

  const int dead = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);  // leaves its file behind
  const auto address = parse_endpoint(at);
  REQUIRE(bind(dead, address->get(), address->bytes) == 0);
  REQUIRE(listen(dead, 1) == 0);
  close(dead);
  Talker again;
  running.on_loop([&] {
    listener = network->listen(at, echo);
    again.link = network->connect(at, again);
    again.say(5);
  });
  REQUIRE(until([&] { return again.heard_bytes == 5; }));
  running.on_loop([&] { again.link->close(); });
  REQUIRE(until([&] { return again.is_closed; }));
}

TEST_CASE("stopping the loop closes its links first") {
  Echo echo;
  Talker talker;
  std::unique_ptr<UringNetwork> network;
  std::unique_ptr<Listener> listener;
  {
    RunningLoop running;
    running.on_loop([&] {
      network = std::make_unique<UringNetwork>(running.loop);
      listener = network->listen("tcp:127.0.0.1:0", echo);
      talker.link = network->connect(listener->endpoint(), talker);
      for (int i = 0; i < 40; ++i) talker.say(1 << 18);
    });
    CHECK(running.until([&] { return talker.heard_bytes > 0; }));
    running.stop();
    CHECK(talker.is_closed);
    CHECK(talker.reason == Error::ShuttingDown);
    CHECK(talker.done_count == talker.said_count);
    CHECK(echo.closed_count == 1);
    listener.reset();
    network.reset();
  }
}

TEST_CASE("endpoints: what is printed parses back, what is malformed does not") {
  for (const char* good :
       {"tcp:127.0.0.1:80", "tcp:[::1]:10809", "tcp:0.0.0.0:0", "unix:/run/x.sock"}) {
    const auto address = parse_endpoint(good);
    REQUIRE(address);
    CHECK(format_endpoint(*address) == good);
  }
  for (const char* bad :
       {"", "tcp:", "tcp:1.2.3.4", "tcp:1.2.3.4:", "tcp:1.2.3.4:65536", "tcp:1.2.3.4:-1",
        "tcp:::1:80", "tcp:[::1]", "tcp:1.2.3.4:80x", "udp:1.2.3.4:80", "unix:", "x"}) {
    CHECK_FALSE(parse_endpoint(bad));
  }
}
