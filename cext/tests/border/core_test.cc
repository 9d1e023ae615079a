// The core with its real thread: commands from several threads, answers through the eventfd.
#include "border/core.h"

#include <doctest/doctest.h>
#include <poll.h>
#include <stdlib.h>
#include <unistd.h>

#include <atomic>
#include <map>
#include <string>
#include <thread>
#include <vector>

#include "border/text.h"

using namespace blockd;
using namespace blockd::border;

namespace {

Uuid uuid(unsigned char last) {
  Uuid id;
  id.bytes.fill(0x22);
  id.bytes[15] = last;
  return id;
}

CoreConfig small_config() {
  CoreConfig config;
  config.host_id = uuid(1);
  config.cluster_id = uuid(2);
  config.buffer_bytes = 16u << 20;
  return config;
}

struct TempDir {
  TempDir() { REQUIRE(::mkdtemp(path.data()) != nullptr); }
  ~TempDir() {
    ::unlink((path + "/store").c_str());
    ::rmdir(path.c_str());
  }
  std::string path = "/var/tmp/blockd-core-XXXXXX";
};

// Reaps until every one of `tokens` is answered, or ten seconds have passed.
std::map<Token, Completion> reap(Core& core, const std::vector<Token>& tokens) {
  std::map<Token, Completion> answers;
  while (answers.size() < tokens.size()) {
    pollfd readable{core.event_fd(), POLLIN, 0};
    REQUIRE(::poll(&readable, 1, 10'000) == 1);
    std::vector<Completion> completions;
    std::vector<Event> events;
    core.reap(completions, events);
    for (Completion& completion : completions) {
      const Token token = completion.token;
      REQUIRE(answers.emplace(token, std::move(completion)).second);
    }
  }
  for (const Token token : tokens) REQUIRE(answers.contains(token));
  return answers;
}

}  // namespace

TEST_CASE("the core answers commands and closes") {
  Core core(small_config());
  std::string message;
  REQUIRE(core.start(message) == Error::Ok);
  core.store_infos(1);
  core.stats(2);
  core.flush(3, uuid(9));
  auto answers = reap(core, {1, 2, 3});
  CHECK(answers.at(1).reply->stores.empty());
  CHECK_FALSE(answers.at(2).reply->counters.empty());
  CHECK(answers.at(3).error == Error::NotAttached);
  core.close(4);
  CHECK(reap(core, {4}).at(4).error == Error::Ok);
  core.join();
  core.store_infos(5);
  CHECK(reap(core, {5}).at(5).error == Error::ShuttingDown);
}

TEST_CASE("commands from several threads race with closing, and each is answered") {
  constexpr Token kThreads = 4, kEach = 300;
  Core core(small_config());
  std::string message;
  REQUIRE(core.start(message) == Error::Ok);
  std::atomic<Token> given{0};
  std::vector<std::thread> threads;
  for (Token t = 0; t < kThreads; ++t) {
    threads.emplace_back([&core, &given, t] {
      for (Token i = 0; i < kEach; ++i) {
        core.volume_status(1 + t * kEach + i, uuid(9));
        ++given;
      }
    });
  }
  while (given < kThreads * kEach / 2) std::this_thread::yield();
  core.close(100'000);
  for (std::thread& thread : threads) thread.join();
  std::vector<Token> tokens{100'000};
  for (Token i = 1; i <= kThreads * kEach; ++i) tokens.push_back(i);
  for (const auto& [token, completion] : reap(core, tokens)) {
    const bool refused =
        completion.error == Error::NotAttached || completion.error == Error::ShuttingDown;
    const bool right = token == 100'000 ? completion.error == Error::Ok : refused;
    CHECK(right);
  }
  core.join();
}

TEST_CASE("a core that was never closed closes itself") {
  Core core(small_config());
  std::string message;
  REQUIRE(core.start(message) == Error::Ok);
  core.store_infos(1);
}

TEST_CASE("a core that cannot start says why, and may be thrown away") {
  CoreConfig config = small_config();
  config.buffer_bytes = 1;
  Core core(config);
  std::string message;
  CHECK(core.start(message) == Error::InvalidArgument);
  CHECK(message.find("buffer_bytes") != std::string::npos);
}

TEST_CASE("a store is made, opened and refused") {
  TempDir directory;
  const std::string path = directory.path + "/store";
  store::FormatOptions options;
  options.store_id = uuid(3);
  options.cluster_id = uuid(2);
  std::string message;
  CHECK(format_store(path, options, 4096, message) == Error::StoreTooSmall);
  CHECK(::access(path.c_str(), F_OK) != 0);
  REQUIRE(format_store(path, options, 64u << 20, message) == Error::Ok);
  CHECK(format_store(path, options, 64u << 20, message) == Error::AlreadyExists);
  CHECK(message.find(path) == 0);

  Core core(small_config());
  REQUIRE(core.start(message) == Error::Ok);
  core.open_store(1, path);
  auto opened = reap(core, {1});
  REQUIRE(opened.at(1).error == Error::Ok);
  CHECK(opened.at(1).reply->stores.at(0).info.store_id == uuid(3));
  core.open_store(2, path);
  core.open_store(3, directory.path + "/nothing");
  auto refused = reap(core, {2, 3});
  CHECK(refused.at(2).error == Error::StoreInUse);
  CHECK(refused.at(3).error == Error::NotFound);
}

TEST_CASE("looking at a store shows what it holds and counts as no opening") {
  TempDir directory;
  const std::string path = directory.path + "/store";
  store::FormatOptions options;
  options.store_id = uuid(3);
  options.cluster_id = uuid(2);
  std::string message;
  REQUIRE(format_store(path, options, 64u << 20, message) == Error::Ok);
  {
    Core core(small_config());
    REQUIRE(core.start(message) == Error::Ok);
    core.open_store(1, path);
    core.create_replica(2, uuid(3), {uuid(9), 4}, 16);
    reap(core, {1, 2});
    Reply in_use;
    CHECK(look_at_store(path, uuid(2), in_use, message) == Error::StoreInUse);
  }
  for (int i = 0; i < 2; ++i) {
    Reply reply;
    REQUIRE(look_at_store(path, uuid(2), reply, message) == Error::Ok);
    CHECK(reply.stores.at(0).path == path);
    CHECK(reply.stores.at(0).info.incarnation == 2);
    CHECK(reply.replicas.at(0).info.id == SegmentId{uuid(9), 4});
  }
  Reply foreign;
  CHECK(look_at_store(path, uuid(8), foreign, message) == Error::StoreForeign);
}

TEST_CASE("ids are written as everybody writes them") {
  Uuid id;
  for (unsigned char i = 0; i < 16; ++i) id.bytes[i] = static_cast<unsigned char>(i * 17);
  CHECK(text(id) == "00112233-4455-6677-8899-aabbccddeeff");
}
