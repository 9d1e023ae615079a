// What an adversary tried: stories of bad timing that the engine does not stand yet.
#include "base/random.h"
#include "tests/seeds.h"
#include "tests/sim/story.h"

namespace blockd::sim {
namespace {

SegmentId first_segment(SimCluster& cluster) {
  return {cluster.volume_id(), 0};
}

Version stable_at(SimCluster& cluster, std::uint32_t host) {
  store::Store& store = fake(cluster, host).store();
  return store.segment_info(*store.find_segment(first_segment(cluster))).stable;
}

TEST_CASE("adversary: a read that the engine's own hung disk has is answered by another member") {
  Fixture f;
  REQUIRE(f.io.write(0, kBlockBytes, 0x11, true) == Error::Ok);
  fake(f.cluster, 0).store().stuck = true;
  f.io.begin(BlockRequest::Op::read, 0, kBlockBytes);
  CHECK(f.io.wait(60'000'000) == Error::Ok);
  if (!f.io.over) f.cluster.kill(0, false);
}

TEST_CASE("adversary: a write that a hung disk has is written anew after the segment reopened") {
  Fixture f;
  REQUIRE(f.io.write(0, kBlockBytes, 0x11, true) == Error::Ok);
  fake(f.cluster, 0).store().stuck = true;
  f.cluster.kill(1, false);
  f.cluster.kill(2, false);
  f.io.begin(BlockRequest::Op::write, 0, kBlockBytes);
  f.cluster.world().run_for(1'000'000);
  f.cluster.restart(1);
  f.cluster.restart(2);
  f.cluster.world().run_for(20'000'000);  // both are opened, and agreed without host 0
  CHECK(f.io.over);
  MESSAGE(f.cluster.describe(0));
  const Error wrote = f.io.wait();
  MESSAGE("write: ", static_cast<int>(wrote), " over ", f.io.over);
  Io other(f.cluster, 0);
  CHECK(other.write(kChunkBytes, kBlockBytes, 0x33) == Error::Ok);
  CHECK(other.read(0, kBlockBytes) == Error::Ok);  // and what it touched is not lost to reads
  if (!f.io.over || !other.over) f.cluster.kill(0, false);
}

TEST_CASE("adversary: the stable mark moves on while a flush hangs at a member that was given up") {
  ClusterOptions options;
  options.min_in_sync = 2;
  Fixture f(options);
  REQUIRE(f.io.write(0, kBlockBytes, 0x11) == Error::Ok);
  fake(f.cluster, 0).store().stuck = true;  // before the background flush, that is once a second
  f.cluster.world().run_for(1'500'000);
  REQUIRE(f.io.write(0, kBlockBytes, 0x22) == Error::Ok);
  REQUIRE(until_in_sync(f.cluster, 2));
  const Version before = stable_at(f.cluster, 1);
  for (int i = 0; i < 5; ++i) {
    REQUIRE(f.io.write(0, kBlockBytes, 0x33) == Error::Ok);
    f.cluster.world().run_for(2'000'000);
  }
  MESSAGE("stable ", before.epoch, ".", before.seq, " -> ", stable_at(f.cluster, 1).epoch, ".",
          stable_at(f.cluster, 1).seq);
  CHECK(stable_at(f.cluster, 1).seq >= before.seq + 4);
}

TEST_CASE("adversary: a repair whose target is lost meanwhile is not reported as done") {
  Fixture f;
  REQUIRE(f.io.write(0, 16 * kBlockBytes, 0x11, true) == Error::Ok);
  REQUIRE(f.cluster.medium(2).rot(first_segment(f.cluster), 3));
  fake(f.cluster, 0).store().stuck = true;  // the source is slow
  bool over = false;
  Error error = Error::Ok;
  f.cluster.volume(0)->repair_chunk(0, 0, 0, f.cluster.host_id(2), [&](Error e) {
    over = true;
    error = e;
  });
  f.cluster.world().run_for(50'000);
  f.cluster.kill(2, false);
  f.cluster.world().run_for(500'000);
  REQUIRE_FALSE(over);
  f.cluster.medium(0).set_stuck(false);
  REQUIRE(f.cluster.world().run_until([&] { return over; }, kPatienceUs));
  CHECK(error != Error::Ok);
  CHECK(f.cluster.notices("block-repaired") == 0);
}

// The member that hangs in the middle of a copy, and another one that is lost by its link, which
// begins the opening anew while the hung copy is still out.
TEST_CASE("adversary: an opening goes on without a hung copy when another loss restarts it") {
  Fixture f;
  REQUIRE(f.io.write(0, 4 * kBlockBytes, 0x11, true) == Error::Ok);
  f.cluster.world().run_for(3'000'000);
  f.cluster.cut_from_metadata(0, true);
  f.cluster.kill(2, false);  // misses what follows, and stays agreed
  for (std::uint64_t chunk = 0; chunk < 8; ++chunk)
    REQUIRE(f.io.write(chunk * kChunkBytes, 4 * kBlockBytes, 0x22) == Error::Ok);
  f.cluster.kill(0, false);
  f.cluster.restart(0);
  f.cluster.restart(2);
  f.cluster.heal();
  f.cluster.attach(1);
  fake(f.cluster, 1).store().stuck = true;
  f.cluster.world().run_for(1'500'000);  // the copies have been asked for
  f.cluster.kill(0, false);
  f.cluster.world().run_for(50'000);
  f.cluster.restart(0);
  const bool served = until_state(f.cluster, 1, VolumeState::serving, 120'000'000);
  CHECK_MESSAGE(served, f.cluster.describe(1));
}

}  // namespace
}  // namespace blockd::sim
