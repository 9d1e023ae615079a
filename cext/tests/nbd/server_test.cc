// The whole server over simulated links, against memory backends that are late, out of order and
// sometimes fail. Every test ends by closing the server and finding all memory back in its pools.
#include <doctest/doctest.h>

#include "blockd/types.h"
#include "io/sim_network.h"
#include "io/sim_world.h"
#include "nbd/nbd_server.h"
#include "tests/nbd/memory_backend.h"
#include "tests/nbd/test_client.h"

using namespace blockd;
using namespace blockd::nbd;

namespace {

constexpr std::uint64_t kMiB = 1 << 20;

struct Pools {
  std::uint32_t small = 256, chunk = 64, large = 300;
};

struct World {
  explicit World(std::uint64_t seed, NbdConfig config = {}, Pools pools = Pools())
      : world(seed),
        fabric(world),
        server_loop(world),
        client_loop(world),
        server_network(fabric, server_loop, "server"),
        client_network(fabric, client_loop, "client"),
        buffers(pools.small, pools.chunk, pools.large),
        server(server_loop, buffers, server_network, config) {
    endpoint = server.listen("tcp:server:10809");
  }
  ~World() {
    if (!server_closed) close();
    for (auto& client : clients) {
      if (!client->over) client->close();
      CHECK(run_until([&] { return client->over; }));
    }
    CHECK(buffers.small.free_count() == buffers.small.count());
    CHECK(buffers.chunk.free_count() == buffers.chunk.count());
    CHECK(buffers.large.free_count() == buffers.large.count());
  }
  void close() {
    server.close([this] { server_closed = true; });
    CHECK(world.run_until([this] { return server_closed; }, 60'000'000));
  }
  bool run_until(const std::function<bool()>& done, std::uint64_t max_us = 60'000'000) {
    return world.run_until(done, max_us);
  }
  // Clients stay until the world ends: a link may go only once it has closed.
  TestClient* client() {
    clients.push_back(std::make_unique<TestClient>(client_network, endpoint));
    return clients.back().get();
  }
  TestClient* connect(const std::string& name) {
    TestClient* made = client();
    made->go(name);
    REQUIRE(run_until([&] { return made->in_transmission() || made->over; }));
    return made;
  }
  TestClient::Reply reply(TestClient& client, std::uint64_t cookie) {
    REQUIRE(run_until([&] { return client.replies.contains(cookie) || client.over; }));
    REQUIRE(client.replies.contains(cookie));
    return client.replies[cookie];
  }

  io::SimWorld world;
  io::SimFabric fabric;
  io::SimLoop server_loop;
  io::SimLoop client_loop;
  io::SimNetwork server_network;
  io::SimNetwork client_network;
  Buffers buffers;
  NbdServer server;
  io::Endpoint endpoint;
  bool server_closed = false;
  std::vector<std::unique_ptr<TestClient>> clients;
};

std::string noise(Random& random, std::size_t bytes) {
  std::string text(bytes, '\0');
  random.fill({reinterpret_cast<std::byte*>(text.data()), bytes});
  return text;
}

}  // namespace

TEST_CASE("what was written is read back, at any alignment") {
  World world(1);
  MemoryBackend backend(world.server_loop, kMiB);
  REQUIRE(world.server.add_export("vol", "", backend) == Error::Ok);
  auto client = world.connect("vol");
  Random random(7);
  const std::string data = noise(random, 300'001);
  client->ask(Command::write, 1, 12345, static_cast<std::uint32_t>(data.size()), 0, data);
  CHECK(world.reply(*client, 1).error == Errno::ok);
  client->ask(Command::read, 2, 12345, static_cast<std::uint32_t>(data.size()));
  CHECK(world.reply(*client, 2).data == data);
  client->ask(Command::read, 3, 12344, 3);
  CHECK(world.reply(*client, 3).data == std::string(1, '\0') + data.substr(0, 2));
  client->ask(Command::flush, 4, 0, 0);
  CHECK(world.reply(*client, 4).error == Errno::ok);
  CHECK(backend.flushed == 1);
  client->ask(Command::write_zeroes, 5, 20000, 100, kCommandFua | kCommandNoHole);
  CHECK(world.reply(*client, 5).error == Errno::ok);
  CHECK(backend.fua == 1);
  client->ask(Command::read, 6, 20000, 100);
  CHECK(world.reply(*client, 6).data == std::string(100, '\0'));
  client->ask(Command::trim, 7, 0, kMiB);
  CHECK(world.reply(*client, 7).error == Errno::ok);
  CHECK(!client->nonsense);
  client->say(request(Command::disconnect, 0, 0, 0));
  CHECK(world.run_until([&] { return client->over; }));
}

TEST_CASE("the last bytes of a volume that ends within a block can be read and written") {
  World world(2);
  MemoryBackend backend(world.server_loop, 10 * 512);
  REQUIRE(world.server.add_export("vol", "", backend) == Error::Ok);
  auto client = world.connect("vol");
  client->ask(Command::write, 1, 9 * 512, 512, 0, std::string(512, 'e'));
  CHECK(world.reply(*client, 1).error == Errno::ok);
  client->ask(Command::read, 2, 8 * 512, 1024);
  CHECK(world.reply(*client, 2).data == std::string(512, '\0') + std::string(512, 'e'));
  client->ask(Command::read, 3, 9 * 512, 513);
  CHECK(world.reply(*client, 3).error == Errno::invalid);
}

TEST_CASE("bad requests get their error and the connection goes on") {
  World world(3);
  MemoryBackend backend(world.server_loop, kMiB);
  MemoryBackend fixed(world.server_loop, kMiB);
  REQUIRE(world.server.add_export("vol", "", backend) == Error::Ok);
  REQUIRE(world.server.add_export("fixed", "", fixed, {.read_only = true}) == Error::Ok);
  auto client = world.connect("vol");
  client->ask(Command::write, 1, kMiB - 100, 200'000, 0, std::string(200'000, 'x'));
  client->ask(Command::write, 2, 0, 64, 0x80, std::string(64, 'x'));
  client->ask(static_cast<Command>(77), 3, 0, 64);
  client->ask(Command::read, 4, kMiB, 1);
  client->ask(Command::read, 5, 0, 0);
  client->ask(Command::write, 6, 0, 0);
  client->ask(Command::write, 7, 0, kRequestBytesMax + 1, 0,
              std::string(kRequestBytesMax + 1, 'x'));
  client->ask(Command::read, 8, 0, 5);
  CHECK(world.reply(*client, 1).error == Errno::no_space);
  CHECK(world.reply(*client, 2).error == Errno::invalid);
  CHECK(world.reply(*client, 3).error == Errno::invalid);
  CHECK(world.reply(*client, 4).error == Errno::invalid);
  CHECK(world.reply(*client, 5).error == Errno::ok);
  CHECK(world.reply(*client, 6).error == Errno::ok);
  CHECK(world.reply(*client, 7).error == Errno::invalid);
  CHECK(world.reply(*client, 8).data == std::string(5, '\0'));
  CHECK(backend.submitted == 1);
  auto reader = world.connect("fixed");
  reader->ask(Command::write, 1, 0, 10, 0, "0123456789");
  CHECK(world.reply(*reader, 1).error == Errno::perm);
  const NbdStats stats = world.server.stats();
  CHECK(stats.requests == 9);
  CHECK(stats.errors == 6);
  REQUIRE(stats.exports.size() == 2);
  CHECK(stats.exports[1].ops[static_cast<std::size_t>(OpKind::write)].errors == 3);
}

TEST_CASE("a wrong request magic closes the connection") {
  World world(4);
  MemoryBackend backend(world.server_loop, kMiB);
  REQUIRE(world.server.add_export("vol", "", backend) == Error::Ok);
  auto client = world.connect("vol");
  client->say(std::string(28, 'z'));
  CHECK(world.run_until([&] { return client->over; }));
  CHECK(world.run_until([&] { return world.server.stats().connections == 0; }));
  CHECK(world.server.stats().protocol_errors == 1);
}

TEST_CASE("backend errors reach the client as the errno the table gives them") {
  World world(5);
  MemoryBackend backend(world.server_loop, kMiB, {.error_one_in = 1});
  REQUIRE(world.server.add_export("vol", "", backend) == Error::Ok);
  auto client = world.connect("vol");
  client->ask(Command::read, 1, 0, 700'000);
  client->ask(Command::write, 2, 0, 500'000, 0, std::string(500'000, 'x'));
  client->ask(Command::flush, 3, 0, 0);
  for (const std::uint64_t cookie : {1u, 2u, 3u})
    CHECK(world.reply(*client, cookie).error == Errno::io);
}

// Requests of every kind and size, in flight together but never overlapping, checked against a
// plain array; the backend is late, out of order, holds on to payloads and now and then fails.
TEST_CASE("a storm of requests agrees with a plain array") {
  for (std::uint64_t seed = 1; seed <= 25; ++seed) {
    CAPTURE(seed);
    NbdConfig config;
    Pools pools;
    if (seed % 3 == 0)
      config = {.requests_max = 4, .inflight_bytes_max = 1 << 20, .pool_bytes_max = 3 << 20};
    if (seed % 3 == 1) pools = {.small = 3, .chunk = 10, .large = 24};
    World world(seed, config, pools);
    MemoryBackend backend(world.server_loop, 24 * kMiB,
                          {.seed = seed,
                           .delay_us_max = seed % 2 ? 3000u : 0u,
                           .error_one_in = 0,
                           .refuse_one_in = 0,
                           .linger_one_in = pools.large > 100 ? 5u : 0u});
    REQUIRE(world.server.add_export("vol", "", backend) == Error::Ok);
    std::string model(24 * kMiB, '\0');
    Random random(seed * 77);
    auto client = world.connect("vol");
    const auto largest = from_be<std::uint32_t>(client->answers.at(1).data, 10);
    struct Asked {
      Command type;
      std::uint64_t offset_bytes;
      std::uint32_t length_bytes;
    };
    std::map<std::uint64_t, Asked> in_flight;
    const auto settle = [&] {
      for (auto at = in_flight.begin(); at != in_flight.end();) {
        const auto reply = client->replies.find(at->first);
        if (reply == client->replies.end()) {
          ++at;
          continue;
        }
        CHECK(reply->second.error == Errno::ok);
        if (at->second.type == Command::read) {
          CHECK((reply->second.data ==
                 model.substr(at->second.offset_bytes, at->second.length_bytes)));
        }
        client->replies.erase(reply);
        at = in_flight.erase(at);
      }
    };
    const auto free_of = [&](std::uint64_t offset, std::uint64_t length) {
      for (const auto& [cookie, asked] : in_flight) {
        if (offset < asked.offset_bytes + asked.length_bytes &&
            asked.offset_bytes < offset + length)
          return false;
      }
      return true;
    };
    for (std::uint64_t cookie = 1; cookie <= 250; ++cookie) {
      constexpr std::uint64_t sizes[] = {1, 512, 4096, 16384, 65536, 300'000, 1 << 20, 5 << 20};
      const std::uint64_t cap = sizes[random.below(random.chance(8) ? 8 : 6)];
      auto length = static_cast<std::uint32_t>(
          1 + random.below(std::min<std::uint64_t>(cap, largest - 4096)));
      std::uint64_t offset = random.below(model.size() - length + 1);
      if (random.chance(2)) {
        offset = offset / 4096 * 4096;
        length = (length + 4095) / 4096 * 4096;
        if (offset + length > model.size()) offset = model.size() - length;
      }
      if (!free_of(offset, length)) continue;
      const std::uint64_t dice = random.below(10);
      const Command type = dice < 4   ? Command::read
                           : dice < 8 ? Command::write
                           : dice < 9 ? Command::write_zeroes
                                      : Command::trim;
      std::string payload;
      if (type == Command::write) {
        payload = noise(random, length);
        model.replace(offset, length, payload);
      } else if (type != Command::read) {
        model.replace(offset, length, length, '\0');
      }
      in_flight[cookie] = {type, offset, length};
      client->ask(type, cookie, offset, length, random.chance(5) ? kCommandFua : 0, payload);
      const std::size_t most = random.below(24);
      REQUIRE(world.run_until([&] {
        settle();
        return in_flight.size() <= most || client->over;
      }));
      REQUIRE(!client->over);
    }
    REQUIRE(world.run_until([&] {
      settle();
      return in_flight.empty();
    }));
    CHECK(!client->nonsense);
    CHECK(client->input.empty());
    CHECK(std::memcmp(backend.bytes().data(), model.data(), model.size()) == 0);
    backend.let_go();
    world.close();
  }
}

TEST_CASE("errors strike any piece of any request: one reply each, nothing lost") {
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    CAPTURE(seed);
    World world(seed);
    MemoryBackend backend(world.server_loop, 8 * kMiB,
                          {.seed = seed,
                           .delay_us_max = 500,
                           .error_one_in = 10,
                           .refuse_one_in = 10,
                           .linger_one_in = 3});
    REQUIRE(world.server.add_export("vol", "", backend) == Error::Ok);
    Random random(seed);
    auto client = world.connect("vol");
    for (std::uint64_t cookie = 1; cookie <= 100; ++cookie) {
      const auto length =
          static_cast<std::uint32_t>(1 + random.below(random.chance(4) ? 3 << 20 : 20'000));
      const bool write = random.chance(2);
      client->ask(write ? Command::write : Command::read, cookie, random.below(8 * kMiB - length),
                  length, 0, write ? std::string(length, 'w') : "");
    }
    REQUIRE(world.run_until([&] { return client->asked.empty() || client->over; }));
    CHECK(client->replies.size() == 100);
    CHECK(!client->nonsense);
    backend.let_go();
    world.close();
  }
}

TEST_CASE("a client that goes away at any moment leaves nothing behind") {
  for (std::uint64_t seed = 1; seed <= 60; ++seed) {
    CAPTURE(seed);
    World world(seed);
    MemoryBackend backend(world.server_loop, 8 * kMiB,
                          {.seed = seed, .delay_us_max = 2000, .linger_one_in = 4});
    REQUIRE(world.server.add_export("vol", "", backend) == Error::Ok);
    Random random(seed);
    {
      TestClient* client = world.client();
      client->go("vol");
      for (std::uint64_t cookie = 1; cookie <= 20; ++cookie) {
        const auto length = static_cast<std::uint32_t>(1 + random.below(1 << 20));
        const bool write = random.chance(2);
        client->ask(write ? Command::write : Command::read, cookie, random.below(7 * kMiB), length,
                    0, write ? std::string(length, 'w') : "");
      }
      world.world.run_for(random.below(30'000));
      if (random.chance(2)) world.fabric.reset_links("client", "server");
      client->close();
      REQUIRE(world.run_until([&] { return client->over; }));
    }
    REQUIRE(world.run_until([&] { return world.server.stats().connections == 0; }));
    backend.let_go();
    world.close();
  }
}

TEST_CASE("a client may go away while its requests are stuck in the backend") {
  World world(9);
  MemoryBackend backend(world.server_loop, kMiB);
  REQUIRE(world.server.add_export("vol", "", backend) == Error::Ok);
  auto client = world.connect("vol");
  backend.stall(true);
  client->ask(Command::write, 1, 0, 4096, 0, std::string(4096, 'w'));
  client->ask(Command::read, 2, 8192, 4096);
  REQUIRE(world.run_until([&] { return backend.in_flight() == 2; }));
  client->close();
  REQUIRE(world.run_until([&] { return client->over; }));
  world.world.run_for(1'000'000);
  CHECK(world.server.stats().connections == 1);
  backend.stall(false);
  CHECK(world.run_until([&] { return world.server.stats().connections == 0; }));
}

TEST_CASE("removing an export answers what is in flight, then closes its connections") {
  for (std::uint64_t seed = 1; seed <= 30; ++seed) {
    CAPTURE(seed);
    World world(seed);
    MemoryBackend backend(world.server_loop, 8 * kMiB, {.seed = seed, .delay_us_max = 1000});
    MemoryBackend other(world.server_loop, kMiB);
    REQUIRE(world.server.add_export("vol", "", backend) == Error::Ok);
    REQUIRE(world.server.add_export("other", "", other) == Error::Ok);
    Random random(seed);
    auto client = world.connect("vol");
    auto bystander = world.connect("other");
    for (std::uint64_t cookie = 1; cookie <= 30; ++cookie) {
      const auto length = static_cast<std::uint32_t>(1 + random.below(500'000));
      client->ask(cookie % 2 ? Command::write : Command::read, cookie, random.below(7 * kMiB),
                  length, 0, cookie % 2 ? std::string(length, 'w') : "");
    }
    world.world.run_for(random.below(20'000));
    Error removed = Error::Busy;
    bool inside = true;
    world.server.remove_export("vol", [&](Error error) {
      removed = error;
      CHECK(!inside);
      CHECK(backend.in_flight() == 0);
    });
    inside = false;
    CHECK(world.server.add_export("vol", "", backend) == Error::AlreadyExists);
    REQUIRE(world.run_until([&] { return removed == Error::Ok && client->over; }));
    CHECK(!client->nonsense);
    bystander->ask(Command::read, 1, 0, 10);
    CHECK(world.reply(*bystander, 1).error == Errno::ok);
    auto late = world.connect("vol");
    CHECK(!late->in_transmission());
    late->close();
    world.close();
  }
}

TEST_CASE("removing an export waits for its backend but not for a client that takes no replies") {
  World world(11);
  MemoryBackend backend(world.server_loop, 8 * kMiB);
  REQUIRE(world.server.add_export("vol", "", backend) == Error::Ok);
  auto client = world.connect("vol");
  client->pause(true);
  for (std::uint64_t cookie = 1; cookie <= 4; ++cookie)
    client->ask(Command::read, cookie, 0, 1 << 20);
  backend.stall(true);
  REQUIRE(world.run_until([&] { return backend.in_flight() == 16; }));
  bool removed = false;
  world.server.remove_export("vol", [&](Error) { removed = true; });
  world.world.run_for(20'000'000);
  CHECK(!removed);
  backend.stall(false);
  CHECK(world.run_until([&] { return removed; }, 15'000'000));
}

TEST_CASE("unknown exports and endpoints are NotFound, taken names AlreadyExists") {
  World world(12);
  MemoryBackend backend(world.server_loop, kMiB);
  CHECK(world.server.add_export("vol", "", backend) == Error::Ok);
  CHECK(world.server.add_export("vol", "", backend) == Error::AlreadyExists);
  CHECK(world.server.add_export(std::string(4097, 'n'), "", backend) == Error::InvalidArgument);
  CHECK(world.server.add_export("d", std::string(4097, 'n'), backend) == Error::InvalidArgument);
  Error removed = Error::Ok;
  world.server.remove_export("nowhere", [&](Error error) { removed = error; });
  CHECK(removed == Error::Ok);
  CHECK(world.run_until([&] { return removed == Error::NotFound; }));
  CHECK(world.server.resize("nowhere") == Error::NotFound);
  CHECK(world.server.close_endpoint("tcp:nowhere:1") == Error::NotFound);
  CHECK(world.server.close_endpoint(world.endpoint) == Error::Ok);
}

TEST_CASE("a grown volume is taken up by resize and told to new connections") {
  World world(13);
  MemoryBackend backend(world.server_loop, kMiB);
  REQUIRE(world.server.add_export("vol", "", backend) == Error::Ok);
  auto client = world.connect("vol");
  backend.grow(2 * kMiB);
  client->ask(Command::read, 1, kMiB, 512);
  CHECK(world.reply(*client, 1).error == Errno::invalid);
  CHECK(world.server.resize("vol") == Error::Ok);
  client->ask(Command::read, 2, kMiB, 512);
  CHECK(world.reply(*client, 2).error == Errno::ok);
  auto later = world.connect("vol");
  CHECK(from_be<std::uint64_t>(later->answers.at(0).data, 2) == 2 * kMiB);
}

TEST_CASE("a handshake that dawdles is cut off") {
  World world(14, {.handshake_timeout_us = 1'000'000});
  TestClient* client = world.client();
  client->say(client_flags());
  world.world.run_for(900'000);
  CHECK(!client->over);
  CHECK(world.run_until([&] { return client->over; }, 500'000));
  CHECK(world.server.stats().handshakes_failed == 1);
}

TEST_CASE("connections beyond the limit are refused, and room is made by those that end") {
  World world(15, {.connections_max = 2});
  MemoryBackend backend(world.server_loop, kMiB);
  REQUIRE(world.server.add_export("vol", "", backend) == Error::Ok);
  auto first = world.connect("vol");
  world.connect("vol");
  TestClient* third = world.client();
  CHECK(world.run_until([&] { return third->over; }));
  CHECK(world.server.stats().connections_refused == 1);
  first->close();
  REQUIRE(world.run_until([&] { return world.server.stats().connections == 1; }));
  auto fourth = world.connect("vol");
  CHECK(fourth->in_transmission());
}

TEST_CASE("a client that takes no replies is not read from without end") {
  World world(16, {.requests_max = 16, .inflight_bytes_max = 4 << 20});
  MemoryBackend backend(world.server_loop, 8 * kMiB);
  REQUIRE(world.server.add_export("vol", "", backend) == Error::Ok);
  auto client = world.connect("vol");
  client->pause(true);
  for (std::uint64_t cookie = 1; cookie <= 100; ++cookie)
    client->ask(Command::read, cookie, 0, 1 << 20);
  world.world.run_for(5'000'000);
  CHECK(backend.submitted <= 5 * 4);  // 4 MiB unsent, and what fits in the link
  auto other = world.connect("vol");
  other->ask(Command::read, 1, 0, 4096);
  CHECK(world.reply(*other, 1).error == Errno::ok);
  client->pause(false);
  CHECK(world.run_until([&] { return client->replies.size() == 100; }));
}

TEST_CASE("a client that sits on memory others wait for is cut off, an idle one is not") {
  World world(17, {.pool_bytes_max = 5 << 20, .stall_timeout_us = 10'000'000});
  MemoryBackend backend(world.server_loop, 8 * kMiB);
  REQUIRE(world.server.add_export("vol", "", backend) == Error::Ok);
  auto idle = world.connect("vol");
  auto hog = world.connect("vol");
  hog->pause(true);
  for (std::uint64_t cookie = 1; cookie <= 8; ++cookie) hog->ask(Command::read, cookie, 0, 1 << 20);
  world.world.run_for(1'000'000);
  auto waiting = world.connect("vol");
  waiting->ask(Command::read, 1, 0, 4 << 20);
  CHECK(world.run_until([&] { return waiting->replies.contains(1); }, 30'000'000));
  CHECK(world.server.stats().evictions == 1);
  CHECK(!idle->over);
  idle->ask(Command::read, 1, 0, 512);
  CHECK(world.reply(*idle, 1).error == Errno::ok);
}

TEST_CASE("reads that need all the memory there is take turns") {
  World world(18, {}, {.small = 16, .chunk = 32, .large = 70});
  MemoryBackend backend(world.server_loop, 16 * kMiB, {.delay_us_max = 2000});
  REQUIRE(world.server.add_export("vol", "", backend) == Error::Ok);
  std::vector<TestClient*> clients;
  for (int i = 0; i < 6; ++i) clients.push_back(world.connect("vol"));
  const auto largest = from_be<std::uint32_t>(clients[0]->answers.at(1).data, 10);
  CHECK(largest == 34 * kMutationBytesMax);
  for (std::uint64_t cookie = 1; cookie <= 4; ++cookie) {
    for (TestClient* client : clients) client->ask(Command::read, cookie, 511 * cookie, largest);
  }
  CHECK(world.run_until([&] {
    for (auto& client : clients) {
      if (client->replies.size() < 4) return false;
    }
    return true;
  }));
  for (auto& client : clients) CHECK(client->replies[4].error == Errno::ok);
  clients[0]->ask(Command::read, 9, 0, largest + 1);
  CHECK(world.reply(*clients[0], 9).error == Errno::invalid);
}

TEST_CASE("disconnect waits for what is in flight and its replies") {
  World world(19);
  MemoryBackend backend(world.server_loop, 4 * kMiB, {.delay_us_max = 50'000});
  REQUIRE(world.server.add_export("vol", "", backend) == Error::Ok);
  auto client = world.connect("vol");
  for (std::uint64_t cookie = 1; cookie <= 10; ++cookie)
    client->ask(Command::read, cookie, cookie, 300'000);
  client->say(request(Command::disconnect, 99, 0, 0));
  CHECK(world.run_until([&] { return client->over; }));
  CHECK(client->replies.size() == 10);
}

TEST_CASE("closing the server ends handshakes and transmissions alike") {
  World world(20);
  MemoryBackend backend(world.server_loop, 4 * kMiB, {.delay_us_max = 5000});
  REQUIRE(world.server.add_export("vol", "", backend) == Error::Ok);
  auto client = world.connect("vol");
  TestClient* shaking = world.client();
  world.world.run_for(10'000);
  for (std::uint64_t cookie = 1; cookie <= 10; ++cookie)
    client->ask(Command::read, cookie, 0, 100'000);
  world.world.run_for(2'000);
  world.close();
  CHECK(world.run_until([&] { return client->over && shaking->over; }));
  CHECK(client->input.empty());
  CHECK(world.server.add_export("new", "", backend) == Error::ShuttingDown);
  CHECK_THROWS_AS(world.server.listen("tcp:server:1"), Fault);
}

TEST_CASE("requests sent along with the handshake are served") {
  World world(21);
  MemoryBackend backend(world.server_loop, kMiB);
  REQUIRE(world.server.add_export("vol", "", backend) == Error::Ok);
  TestClient* client = world.client();
  client->asked[7] = 0;
  client->asked[8] = 5;
  client->say(client_flags() + option(Option::go, info_data("vol")) +
              request(Command::write, 7, 0, 5) + "hello" + request(Command::flush, 9, 0, 0) +
              request(Command::read, 8, 0, 5));
  client->asked[9] = 0;
  REQUIRE(world.run_until([&] { return client->replies.size() == 3; }));
  CHECK(client->replies[7].error == Errno::ok);
  CHECK(client->replies[9].error == Errno::ok);
}

TEST_CASE("pools too small to serve a request are refused at once") {
  io::SimWorld world(1);
  io::SimFabric fabric(world);
  io::SimLoop loop(world);
  io::SimNetwork network(fabric, loop, "server");
  Buffers buffers(1, 1, 3);
  CHECK_THROWS_AS(NbdServer(loop, buffers, network), Fault);
}
