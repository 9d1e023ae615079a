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

}  // namespace
}  // namespace blockd::sim
