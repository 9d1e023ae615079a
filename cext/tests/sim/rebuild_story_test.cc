// Rebuilds of a replica that was lost: they end, begin again nowhere near the beginning, and what
// comes of them is what was written.
#include <algorithm>
#include <utility>
#include <vector>

#include "sim/workload.h"
#include "tests/sim/story.h"

namespace blockd::sim {
namespace {

constexpr std::uint64_t kVolumeBytes = 64u << 20;
constexpr std::uint64_t kUnderWayBytes = std::uint64_t{engine::kCopiesPerSegment} * kChunkBytes;

int byte_of(std::uint64_t offset) {
  return static_cast<int>(offset / kMutationBytesMax % 251 + 1);
}

// As if the host's store had been formatted anew, under its old id.
void lose_store(SimCluster& cluster, std::uint32_t host) {
  cluster.kill(host, false);
  FakeMedium& medium = fake(cluster, host).medium();
  medium.base.clear();
  medium.live.clear();
  medium.log.clear();
  medium.done_count = 0;
}

// A volume full of data, of which host 1 has nothing.
struct Lost : Fixture {
  explicit Lost(ClusterOptions options) : Fixture(options) {
    for (std::uint64_t at = 0; at < kVolumeBytes; at += kMutationBytesMax)
      REQUIRE(io.write(at, kMutationBytesMax, byte_of(at)) == Error::Ok);
    REQUIRE(io.flush() == Error::Ok);
    lose_store(cluster, 1);
    REQUIRE(until_in_sync(cluster, options.replicas - 1));
  }
  static ClusterOptions options(std::uint32_t replicas = 3) {
    ClusterOptions options;
    options.volume_bytes = kVolumeBytes;
    options.replicas = replicas;
    options.min_in_sync = 1;
    return options;
  }
  std::uint64_t copied(std::uint32_t holder) {
    return cluster.volume(holder)->stats().resync_bytes;
  }
  void until_half(std::uint32_t holder) {
    const auto half = [&] { return copied(holder) >= kVolumeBytes / 2; };
    REQUIRE(cluster.world().run_until(half, kPatienceUs));
    REQUIRE_FALSE(cluster.in_sync(1));
  }
};

TEST_CASE("a rebuild goes on where it was when the host is killed that is rebuilt") {
  Lost f(Lost::options());
  f.cluster.restart(1);
  f.until_half(0);
  const std::uint64_t before = f.copied(0);
  f.cluster.kill(1, false);
  f.cluster.world().run_for(1'000'000);
  f.cluster.restart(1);
  REQUIRE(until_in_sync(f.cluster, 3));
  CHECK(f.copied(0) - before <= kVolumeBytes - before + kUnderWayBytes);
  CHECK(f.cluster.compare_replicas() == "");
}

TEST_CASE("a rebuild goes on where it was when the host is killed that serves the volume") {
  Lost f(Lost::options());
  f.cluster.restart(1);
  f.until_half(0);
  const std::uint64_t before = f.copied(0);
  f.cluster.kill(0, false);
  f.cluster.restart(0);
  f.cluster.attach(2);
  REQUIRE(until_in_sync(f.cluster, 3));
  CHECK(f.copied(2) <= kVolumeBytes - before + kUnderWayBytes);
  CHECK(f.cluster.compare_replicas() == "");
}

TEST_CASE("a volume is detached in the middle of a rebuild, which goes on at the next holder") {
  Lost f(Lost::options());
  f.cluster.restart(1);
  f.until_half(0);
  const std::uint64_t before = f.copied(0);
  REQUIRE(f.cluster.detach(0));
  CHECK(f.cluster.process(0).pace->under_way() == 0);
  f.cluster.attach(2);
  REQUIRE(until_in_sync(f.cluster, 3));
  CHECK(f.copied(2) <= kVolumeBytes - before + kUnderWayBytes);
  CHECK(f.cluster.compare_replicas() == "");
}

// Its copies wait, for memory or for a write of their chunk, and will never begin.
TEST_CASE("a volume that leaves a host in the middle of a rebuild leaves the pace to others") {
  for (const bool fenced : {false, true}) {
    CAPTURE(fenced);
    Lost f(Lost::options());
    std::vector<BufferRef> taken;
    while (BufferRef buffer = f.cluster.process(0).buffers->chunk.get())
      taken.push_back(std::move(buffer));
    f.cluster.restart(1);
    const auto copies = [&] { return f.cluster.process(0).pace->under_way() > 0; };
    REQUIRE(f.cluster.world().run_until(copies, kPatienceUs));
    if (fenced) {
      f.cluster.attach(2);
      REQUIRE(until_state(f.cluster, 0, VolumeState::fenced));
    } else {
      REQUIRE(f.cluster.detach(0));
    }
    CHECK(f.cluster.process(0).pace->under_way() == 0);
  }
}

TEST_CASE("a replica that was rebuilt shows alone what was written") {
  Lost f(Lost::options(2));
  f.cluster.restart(1);
  f.until_half(0);
  for (std::uint64_t at = 0; at < kVolumeBytes; at += kVolumeBytes / 16)
    REQUIRE(f.io.write(at, kMutationBytesMax, 252) == Error::Ok);
  REQUIRE(until_in_sync(f.cluster, 2));
  REQUIRE(f.cluster.detach(0));
  f.cluster.kill(0, false);
  f.cluster.attach(1);
  REQUIRE(until_state(f.cluster, 1, VolumeState::serving));
  Io alone(f.cluster, 1);
  for (std::uint64_t at = 0; at < kVolumeBytes; at += kMutationBytesMax) {
    CAPTURE(at);
    REQUIRE(alone.read(at, kMutationBytesMax) == Error::Ok);
    CHECK(alone.all(at % (kVolumeBytes / 16) == 0 ? 252 : byte_of(at), 0, kMutationBytesMax));
  }
}

TEST_CASE("a rebuild ends while clients write all over the volume without a pause") {
  Lost f(Lost::options());
  Workload work(f.cluster, kVolumeBytes);
  work.think_us = 100;
  work.start(0, 16);
  f.cluster.restart(1);
  CHECK(until_in_sync(f.cluster, 3, 60'000'000));
  work.stop();
  REQUIRE(f.cluster.world().run_until([&] { return work.idle(); }, kPatienceUs));
  CHECK(f.cluster.compare_replicas() == "");
}

TEST_CASE("a rebuild reads at the other member, too, when reads pile up at the nearest one") {
  Lost f(Lost::options());
  f.cluster.world().run_for(2 * engine::kClientsIdleUs);  // so that many copies are under way
  f.cluster.restart(1);
  REQUIRE(f.cluster.world().run_until([&] { return f.copied(0) > 0; }, kPatienceUs));
  f.cluster.medium(0).set_stuck(true);
  const std::uint64_t before = f.copied(0);
  f.cluster.world().run_for(500'000);  // before anybody takes it for hung
  CHECK(f.copied(0) > before + 4 * kUnderWayBytes);
  f.cluster.medium(0).set_stuck(false);
  REQUIRE(until_in_sync(f.cluster, 3));
  CHECK(f.cluster.compare_replicas() == "");
}

}  // namespace
}  // namespace blockd::sim
