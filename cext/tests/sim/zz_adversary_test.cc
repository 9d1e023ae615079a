// What an adversary tried: stories of bad timing that the engine does not stand yet.
#include "base/random.h"
#include "tests/seeds.h"
#include "tests/sim/story.h"

namespace blockd::sim {
namespace {

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

}  // namespace
}  // namespace blockd::sim
