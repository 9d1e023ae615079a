// Stories of the proof: a member counts as in sync only when its root is the others' (J4), and goes
// on counting only as long as it is.
#include "tests/sim/story.h"

namespace blockd::sim {
namespace {

constexpr std::uint32_t kChunks = 8;

SegmentId segment(const SimCluster& cluster) {
  return {cluster.volume_id(), 0};
}

// A volume that serves, with data that is stable everywhere, and stores that may be made to differ.
struct Proven : Fixture {
  explicit Proven(ClusterOptions options = {}) : Fixture(options) {
    for (std::uint32_t chunk = 0; chunk < kChunks; ++chunk)
      REQUIRE(io.write(std::uint64_t{chunk} * kChunkBytes, kChunkBytes, 1 + int(chunk)) ==
              Error::Ok);
    REQUIRE(io.flush() == Error::Ok);
    cluster.world().run_for(3'000'000);
    cluster.audit().may_differ = true;
  }
  void lose_host(std::uint32_t host) {
    cluster.kill(host, false);
    REQUIRE(until_in_sync(cluster, 2));
  }
  [[nodiscard]] engine::SegmentStatus status() { return cluster.volume(0)->status().at(0); }
  // Until the host is agreed in sync. At that moment it holds what the others do.
  [[nodiscard]] std::string joins(std::uint32_t host) {
    if (!cluster.world().run_until([&] { return cluster.in_sync(host); }, kPatienceUs))
      return "it never joins";
    return cluster.compare_replicas();
  }
};

TEST_CASE("a joiner that differs at equal versions is mended before it counts") {
  Proven f;
  f.lose_host(2);
  fake(f.cluster, 2).medium().falsify(segment(f.cluster), 3);
  f.cluster.restart(2);
  CHECK(f.joins(2) == "");
  CHECK(f.cluster.notices("resync-mismatch") == 1);
  CHECK(f.status().differing.empty());
  CHECK(f.io.read(3 * kChunkBytes, kChunkBytes) == Error::Ok);
  CHECK(f.io.all(4, 0, kChunkBytes));
}

TEST_CASE("a chunk that a joiner forgets while it is resynced is brought before it counts") {
  Proven f;
  f.lose_host(2);
  for (std::uint32_t chunk = 2; chunk < kChunks; ++chunk)
    REQUIRE(f.io.write(std::uint64_t{chunk} * kChunkBytes, 4096, 77) == Error::Ok);
  f.cluster.restart(2);
  const auto compared = [&] { return f.status().resync_bytes_total > 0; };
  REQUIRE(f.cluster.world().run_until(compared, kPatienceUs));
  REQUIRE(!f.cluster.in_sync(2));
  fake(f.cluster, 2).medium().lose(segment(f.cluster), 0);
  CHECK(f.joins(2) == "");
  CHECK(f.cluster.notices("resync-mismatch") == 1);
}

TEST_CASE("a joiner that never agrees never counts, and joins once it does") {
  Proven f;
  f.lose_host(2);
  fake(f.cluster, 2).medium().falsify(segment(f.cluster), 1);
  f.cluster.restart(2);
  for (std::uint64_t times = 1; times <= 7; ++times) {
    const auto again = [&] { return f.cluster.notices("resync-mismatch") == times; };
    REQUIRE(f.cluster.world().run_until(again, kPatienceUs));
    CHECK(!f.cluster.in_sync(2));
    REQUIRE(f.status().differing.size() == 1);
    CHECK(f.status().differing.front() == f.cluster.host_id(2));
    // Mended, and wrong again by the time that it is asked.
    const auto mended = [&] { return f.cluster.compare_replicas().empty(); };
    if (times < 7 && f.cluster.world().run_until(mended, 200'000))
      fake(f.cluster, 2).medium().falsify(segment(f.cluster), 1);
  }
  CHECK(f.cluster.notices("resync-started") >= 3);
  CHECK(f.joins(2) == "");
}

TEST_CASE("a joiner is not made to differ by the one member that answers first and is wrong") {
  Proven f;
  f.lose_host(2);
  fake(f.cluster, 0).medium().falsify(segment(f.cluster), 3);
  f.cluster.restart(2);
  REQUIRE(f.cluster.world().run_until([&] { return f.cluster.in_sync(2); }, kPatienceUs));
  f.cluster.world().run_for(5'000'000);
  REQUIRE(f.cluster.world().run_until([&] { return f.cluster.all_in_sync(0); }, kPatienceUs));
  CHECK(f.cluster.compare_replicas() == "");
  CHECK(f.status().differing.empty());
  CHECK(f.io.read(3 * kChunkBytes, kChunkBytes) == Error::Ok);
  CHECK(f.io.all(4, 0, kChunkBytes));
}

TEST_CASE("a joiner is proved while clients never pause") {
  Proven f;
  f.lose_host(2);
  fake(f.cluster, 2).medium().falsify(segment(f.cluster), 6);
  f.cluster.restart(2);
  Io other(f.cluster, 0);
  std::uint64_t writes = 0;
  while (!f.cluster.in_sync(2)) {
    REQUIRE(++writes < 200'000);
    f.io.begin(BlockRequest::Op::write, writes % 4 * kChunkBytes, 8192);
    other.begin(BlockRequest::Op::write, (writes % 5) * kChunkBytes + 8192, 4096);
    REQUIRE(f.io.wait() == Error::Ok);
    REQUIRE(other.wait() == Error::Ok);
  }
  CHECK(f.cluster.notices("resync-mismatch") == 1);
  REQUIRE(f.io.flush() == Error::Ok);
  f.cluster.world().run_for(1'000'000);
  CHECK(f.cluster.compare_replicas() == "");
}

TEST_CASE("a member in sync that differs from most is given up, and comes back as they are") {
  for (const std::uint32_t host : {0u, 1u}) {  // the engine's own, another
    CAPTURE(host);
    Proven f;
    CHECK(f.status().proven_ago_us < 10'000'000);
    fake(f.cluster, host).medium().falsify(segment(f.cluster), 2);
    const auto differs = [&] { return f.cluster.notices("replica-differs") == 1; };
    REQUIRE(f.cluster.world().run_until(differs, 60'000'000));
    REQUIRE(f.cluster.world().run_until([&] { return f.cluster.all_in_sync(0); }, kPatienceUs));
    CHECK(f.cluster.compare_replicas() == "");
    CHECK(f.io.read(2 * kChunkBytes, kChunkBytes) == Error::Ok);
    CHECK(f.io.all(3, 0, kChunkBytes));
    f.cluster.world().run_for(1'000'000);
    CHECK(f.status().differing.empty());
    CHECK(f.cluster.notices("replica-differs") == 1);
  }
}

TEST_CASE("two members that differ are told of, and both go on") {
  ClusterOptions options;
  options.replicas = 2;
  Proven f(options);
  fake(f.cluster, 1).medium().falsify(segment(f.cluster), 2);
  f.cluster.world().run_for(100'000'000);
  CHECK(f.cluster.notices("replica-differs") == 1);  // told once
  CHECK(f.cluster.in_sync_count(0) == 2);
  REQUIRE(f.status().differing.size() == 1);
  CHECK(f.status().proven_ago_us > 30'000'000);
  CHECK(f.io.write(0, 4096, 9) == Error::Ok);
}

TEST_CASE("a member that does not answer holds up no joiner's proof for ever") {
  ClusterOptions options;
  options.min_in_sync = 1;
  Proven f(options);
  f.lose_host(2);
  f.cluster.restart(2);
  fake(f.cluster, 1).set_stuck(true);
  CHECK(f.cluster.world().run_until([&] { return f.cluster.in_sync(2); }, kPatienceUs));
  fake(f.cluster, 1).set_stuck(false);
  CHECK(f.cluster.world().run_until([&] { return f.cluster.all_in_sync(0); }, kPatienceUs));
  CHECK(f.cluster.compare_replicas() == "");
}

TEST_CASE("an engine compares its members when it begins to serve") {
  Proven f;
  REQUIRE(f.cluster.detach(0));
  fake(f.cluster, 2).medium().falsify(segment(f.cluster), 5);
  f.cluster.attach(1);
  REQUIRE(until_state(f.cluster, 1, VolumeState::serving));
  const auto differs = [&] { return f.cluster.notices("replica-differs") == 1; };
  CHECK(f.cluster.world().run_until(differs, 2'000'000));
  REQUIRE(f.cluster.world().run_until([&] { return f.cluster.all_in_sync(1); }, kPatienceUs));
  CHECK(f.cluster.compare_replicas() == "");
}

TEST_CASE("a host of wire version 2 joins without a proof, and is proved once it is upgraded") {
  ClusterOptions options;
  options.wire_versions = {3, 3, 2};
  Proven f(options);
  f.lose_host(2);
  fake(f.cluster, 2).medium().falsify(segment(f.cluster), 4);
  f.cluster.restart(2);
  REQUIRE(until_in_sync(f.cluster, 3));
  f.cluster.world().run_for(60'000'000);
  CHECK(f.cluster.notices("resync-mismatch") == 0);
  CHECK(f.cluster.notices("replica-differs") == 0);
  CHECK(f.status().proven_ago_us == engine::SegmentStatus::kNeverProven);
  f.cluster.kill(2, false);
  REQUIRE(until_in_sync(f.cluster, 2));
  f.cluster.upgrade(2);
  f.cluster.restart(2);
  CHECK(f.joins(2) == "");
  CHECK(f.cluster.notices("resync-mismatch") == 1);
}

TEST_CASE("the audit finds stores that differ, and proofs that found it") {
  for (const bool away : {false, true}) {
    CAPTURE(away);
    SimCluster cluster({});
    cluster.attach(0);
    REQUIRE(until_state(cluster, 0, VolumeState::serving));
    Io io(cluster, 0);
    REQUIRE(io.write(0, kChunkBytes, 1) == Error::Ok);
    REQUIRE(io.flush() == Error::Ok);
    cluster.world().run_for(3'000'000);
    if (away) {
      cluster.kill(1, false);
      REQUIRE(until_in_sync(cluster, 2));
    }
    REQUIRE(cluster.audit().wrong() == "");
    fake(cluster, 1).medium().falsify({cluster.volume_id(), 0}, 0);
    if (away) cluster.restart(1);
    cluster.world().run_for(away ? 5'000'000 : 200'000);
    CHECK(cluster.audit().wrong().find(away ? "resync-mismatch" : "differs") != std::string::npos);
  }
}

}  // namespace
}  // namespace blockd::sim
