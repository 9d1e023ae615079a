// Hosts of different releases in one cluster, as while it is upgraded host by host.
#include "tests/sim/story.h"

namespace blockd::sim {
namespace {

constexpr std::uint64_t kRefused = static_cast<std::uint64_t>(Error::Unsupported);

TEST_CASE("hosts are upgraded one by one under a volume that goes on") {
  ClusterOptions options;
  options.seed = 5;
  options.wire_versions = {2, 2, 2};
  Fixture story(options);
  SimCluster& cluster = story.cluster;
  REQUIRE(story.io.write(0, kChunkBytes, 0x11) == Error::Ok);
  for (const std::uint32_t host : {1u, 2u}) {
    cluster.kill(host, false);
    cluster.upgrade(host);
    REQUIRE(story.io.write(host * kChunkBytes, 4 * kBlockBytes, 0x20 + int(host)) == Error::Ok);
    cluster.restart(host);
    REQUIRE(cluster.world().run_until([&] { return cluster.all_in_sync(0); }, kPatienceUs));
  }
  // The holder last: the volume moves to a host of the new release, then it comes back as a
  // replica.
  REQUIRE(story.io.flush() == Error::Ok);
  cluster.kill(0, false);
  cluster.upgrade(0);
  cluster.attach(1);
  REQUIRE(until_state(cluster, 1, VolumeState::serving));
  Io io(cluster, 1);
  REQUIRE(io.write(3 * kChunkBytes, kBlockBytes, 0x33) == Error::Ok);
  cluster.restart(0);
  REQUIRE(cluster.world().run_until([&] { return cluster.all_in_sync(1); }, kPatienceUs));
  CHECK(cluster.compare_replicas() == "");
  REQUIRE(io.read(0, 2 * kChunkBytes) == Error::Ok);
  CHECK(io.all(0x11, 0, kChunkBytes));
  CHECK(io.all(0x21, kChunkBytes, 4 * kBlockBytes));
  CHECK(cluster.notices("peer-refused") == 0);
}

TEST_CASE("a host too old to be spoken with is told of once, and the others serve") {
  ClusterOptions options;
  options.wire_versions = {3, 3, 1};
  Fixture story(options);
  SimCluster& cluster = story.cluster;
  REQUIRE(story.io.write(0, kChunkBytes, 0x11) == Error::Ok);
  REQUIRE(until_in_sync(cluster, 2));
  cluster.world().run_for(10'000'000);  // it is tried again and again
  std::uint32_t told = 0;
  for (const auto& [kind, value] : cluster.all_notices()) {
    if (kind == "peer-refused" && value == kRefused) ++told;
  }
  CHECK(told == 4);  // 0 and 1 of 2, 2 of both
  cluster.kill(2, false);
  cluster.upgrade(2);
  cluster.restart(2);
  REQUIRE(until_in_sync(cluster, 3));
  CHECK(cluster.compare_replicas() == "");
}

}  // namespace
}  // namespace blockd::sim
