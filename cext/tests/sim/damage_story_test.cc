// Damage at several members, each at other blocks: as long as a block is sound anywhere, it is read
// and healed, and nothing waits for ever.
#include "base/crc32c.h"
#include "tests/sim/story.h"

namespace blockd::sim {
namespace {

TEST_CASE("a read whose blocks are damaged at every member, but not the same ones") {
  Fixture f;
  REQUIRE(f.io.write(0, 16 * kBlockBytes, 0x11, true) == Error::Ok);
  for (std::uint32_t host = 0; host < 3; ++host) damage(f.cluster, host, 2 + host);
  CHECK(f.io.read(0, 16 * kBlockBytes) == Error::Ok);
  CHECK(f.io.all(0x11, 0, 16 * kBlockBytes));
  // Each is healed from the others, though none of these has the whole chunk.
  CHECK(f.cluster.world().run_until([&] { return f.cluster.notices("block-repaired") >= 1; },
                                    kPatienceUs));
  CHECK(f.io.read(0, 16 * kBlockBytes) == Error::Ok);
}

TEST_CASE("a block that is damaged everywhere fails alone") {
  Fixture f;
  REQUIRE(f.io.write(0, 16 * kBlockBytes, 0x11, true) == Error::Ok);
  for (std::uint32_t host = 0; host < 3; ++host) damage(f.cluster, host, 5);
  CHECK(f.io.read(0, 16 * kBlockBytes) == Error::ChecksumMismatch);
  CHECK(f.io.read(0, 5 * kBlockBytes) == Error::Ok);
  CHECK(f.io.read(6 * kBlockBytes, 10 * kBlockBytes) == Error::Ok);
  CHECK(f.io.read(5 * kBlockBytes, kBlockBytes) == Error::ChecksumMismatch);
}

TEST_CASE("a resync takes what its source has lost from another member") {
  Fixture f;
  REQUIRE(f.io.write(0, 16 * kBlockBytes, 0x11, true) == Error::Ok);
  f.cluster.kill(1, false);
  REQUIRE(until_in_sync(f.cluster, 2));
  REQUIRE(f.io.write(0, 8 * kBlockBytes, 0x22, true) == Error::Ok);  // without host1
  damage(f.cluster, 0, 3);
  damage(f.cluster, 0, 9);
  damage(f.cluster, 2, 4);
  f.cluster.restart(1);
  REQUIRE(until_in_sync(f.cluster, 3));
  CHECK(f.cluster.notices("resync-blocked") == 0);
  REQUIRE(f.io.read(0, 16 * kBlockBytes) == Error::Ok);
  CHECK(f.io.all(0x22, 0, 8 * kBlockBytes));
  CHECK(f.io.all(0x11, 8 * kBlockBytes, 8 * kBlockBytes));
}

// Ends in the CRC-32C of what is before, as file systems seal their blocks: whatever the content
// is, the CRC of the whole block is always the same one.
void seal(std::byte* block, int byte) {
  std::memset(block, byte, kBlockBytes);
  const std::uint32_t crc = crc32c(block, kBlockBytes - sizeof(std::uint32_t));
  std::memcpy(block + kBlockBytes - sizeof crc, &crc, sizeof crc);
}

// The joiner has that block, too, but from before; and no link looks at what is local to the
// engine.
TEST_CASE("a lost block is not healed with an older one, not even of the same CRC") {
  Fixture f;
  const std::uint64_t offset = 3 * kBlockBytes;
  REQUIRE(f.io.write(0, 16 * kBlockBytes, 0x11, true) == Error::Ok);
  seal(f.io.memory, 0x11);
  f.io.begin(BlockRequest::Op::write, offset, kBlockBytes, true);
  REQUIRE(f.io.wait() == Error::Ok);
  f.cluster.kill(0, false);
  f.cluster.attach(2);
  Io at_two(f.cluster, 2);
  REQUIRE(until_in_sync(f.cluster, 2));
  seal(at_two.memory, 0x22);
  at_two.begin(BlockRequest::Op::write, offset, kBlockBytes, true);
  REQUIRE(at_two.wait() == Error::Ok);
  damage(f.cluster, 1, 3);
  damage(f.cluster, 2, 3);
  REQUIRE(f.cluster.detach(2));
  f.cluster.restart(0);
  f.cluster.attach(0);
  REQUIRE(until_state(f.cluster, 0, VolumeState::serving));
  f.cluster.world().run_for(4'000'000);
  CHECK_FALSE(f.cluster.in_sync(0));
  CHECK(f.io.read(offset, kBlockBytes) == Error::ChecksumMismatch);
}

TEST_CASE("a resync that nobody can read for does not spin, and goes on once it can") {
  Fixture f;
  REQUIRE(f.io.write(0, 16 * kBlockBytes, 0x11, true) == Error::Ok);
  f.cluster.kill(1, false);
  REQUIRE(until_in_sync(f.cluster, 2));
  REQUIRE(f.io.write(0, 16 * kBlockBytes, 0x22, true) == Error::Ok);
  damage(f.cluster, 0, 3);
  damage(f.cluster, 2, 3);
  f.cluster.restart(1);
  f.cluster.world().run_for(5'000'000);
  CHECK_FALSE(f.cluster.in_sync(1));
  const std::uint64_t blocked = f.cluster.notices("resync-blocked");
  CHECK(blocked >= 2);
  CHECK(blocked <= 8);  // once a second
  REQUIRE(f.io.write(3 * kBlockBytes, kBlockBytes, 0x33, true) == Error::Ok);
  CHECK(until_in_sync(f.cluster, 3));
  CHECK(f.cluster.compare_replicas() == "");
}

// Host2 alone has a write that no client was told of, and cannot read the chunk it is in.
TEST_CASE("an opening is not held up by a write that no quorum can have had") {
  ClusterOptions options;
  options.min_in_sync = 3;  // nothing is acknowledged without all of them
  Fixture f(options);
  REQUIRE(f.io.write(0, 16 * kBlockBytes, 0x11, true) == Error::Ok);
  std::memset(f.io.memory, 0x22, kBlockBytes);
  f.io.begin(BlockRequest::Op::write, kBlockBytes, kBlockBytes);
  f.cluster.kill(1, false);  // before it gets there
  f.cluster.world().run_for(100'000);
  CHECK_FALSE(f.io.over);
  f.cluster.kill(0, false);  // the engine; host0 and host2 have the write
  f.cluster.kill(2, false);
  for (std::uint32_t host = 0; host < 3; ++host) f.cluster.restart(host);
  damage(f.cluster, 0, 1);
  damage(f.cluster, 2, 1);
  f.cluster.attach(1);
  REQUIRE(until_state(f.cluster, 1, VolumeState::serving));
  CHECK(f.cluster.notices("unacknowledged-write-dropped") == 1);
  Io at_one(f.cluster, 1);
  REQUIRE(at_one.read(0, 16 * kBlockBytes) == Error::Ok);
  CHECK(at_one.all(0x11, 0, 16 * kBlockBytes));
  f.cluster.world().run_for(2'000'000);
  CHECK(f.cluster.compare_replicas() == "");
}

// The same while the volume serves: the source of two members that have to catch up cannot read
// what it alone took.
TEST_CASE("a resync that no quorum can do without lets an opening decide what was acknowledged") {
  ClusterOptions options;
  options.min_in_sync = 3;
  Fixture f(options);
  REQUIRE(f.io.write(0, 16 * kBlockBytes, 0x11, true) == Error::Ok);
  f.cluster.kill(1, false);
  f.cluster.kill(2, false);
  std::memset(f.io.memory, 0x22, kBlockBytes);
  f.io.begin(BlockRequest::Op::write, kBlockBytes, kBlockBytes);
  f.cluster.world().run_for(100'000);
  CHECK_FALSE(f.io.over);
  damage(f.cluster, 0, 3);
  f.cluster.restart(1);
  f.cluster.restart(2);
  REQUIRE(f.io.wait() == Error::Ok);  // sequenced anew
  CHECK(f.cluster.notices("unacknowledged-write-dropped") == 1);
  REQUIRE(f.io.read(0, 16 * kBlockBytes) == Error::Ok);
  CHECK(f.io.all(0x11, 0, kBlockBytes));
  CHECK(f.io.all(0x22, kBlockBytes, kBlockBytes));
  CHECK(f.io.all(0x11, 2 * kBlockBytes, 14 * kBlockBytes));
  f.cluster.world().run_for(2'000'000);
  CHECK(f.cluster.compare_replicas() == "");
}

// The same, but a quorum may have had it: better no answer than a wrong one.
TEST_CASE("an opening waits for a write that may have been acknowledged") {
  Fixture f;  // of three, two are enough
  REQUIRE(f.io.write(0, 16 * kBlockBytes, 0x11, true) == Error::Ok);
  f.cluster.kill(1, false);
  REQUIRE(f.io.write(kBlockBytes, kBlockBytes, 0x22, true) == Error::Ok);
  f.cluster.kill(0, false);
  f.cluster.kill(2, false);
  for (std::uint32_t host = 0; host < 3; ++host) f.cluster.restart(host);
  damage(f.cluster, 0, 1);
  damage(f.cluster, 2, 1);
  f.cluster.attach(1);
  f.cluster.world().run_for(3'000'000);
  CHECK(f.cluster.volume(1)->state() != VolumeState::serving);
  CHECK(f.cluster.notices("unacknowledged-write-dropped") == 0);
  CHECK(f.cluster.notices("reconcile-blocked") >= 1);
}

TEST_CASE("a repair whose target is lost meanwhile is not reported as done") {
  Fixture f;
  REQUIRE(f.io.write(0, 16 * kBlockBytes, 0x11, true) == Error::Ok);
  REQUIRE(f.cluster.medium(2).rot({f.cluster.volume_id(), 0}, 3));
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

// A block that nobody can read, in as many segments as may be brought up to date at a time.
TEST_CASE("segments whose resync is blocked let the others be brought up to date") {
  constexpr std::uint32_t kSegments = 10;
  ClusterOptions options;
  options.replicas = 2;
  options.min_in_sync = 1;
  options.volume_bytes = kSegments * kSegmentBytes;
  Fixture f(options);
  REQUIRE(f.io.write(0, kBlockBytes, 0x11, true) == Error::Ok);
  f.cluster.kill(1, false);
  for (std::uint64_t segment = 0; segment < kSegments; ++segment)
    REQUIRE(f.io.write(segment * kSegmentBytes, kChunkBytes, 0x22, true) == Error::Ok);
  for (std::uint32_t segment = 0; segment + 1 < kSegments; ++segment)
    REQUIRE(f.cluster.medium(0).rot({f.cluster.volume_id(), segment}, 3));
  f.cluster.restart(1);
  const auto last_in_sync = [&] { return f.cluster.in_sync_count(kSegments - 1) == 2; };
  CHECK(f.cluster.world().run_until(last_in_sync, 60'000'000));
}

}  // namespace
}  // namespace blockd::sim
