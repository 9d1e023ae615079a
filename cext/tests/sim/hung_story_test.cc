// Disks that hang, some with damage elsewhere: what waits for them goes on without them, and when
// they answer after all nothing is the worse for it.
#include "base/random.h"
#include "tests/seeds.h"
#include "tests/sim/story.h"

namespace blockd::sim {
namespace {

// The two that stay have other blocks of the chunk damaged, so that the one heals from the other.
void missed_by_host1(Fixture& f) {
  REQUIRE(f.io.write(0, 16 * kBlockBytes, 0x11, true) == Error::Ok);
  f.cluster.kill(1, false);
  REQUIRE(until_in_sync(f.cluster, 2));
  REQUIRE(f.io.write(0, 16 * kBlockBytes, 0x22, true) == Error::Ok);
}

TEST_CASE("a resync whose source hangs goes on from another one") {
  ClusterOptions options;
  options.hosts = 4;
  Fixture f(options, 3);
  missed_by_host1(f);
  f.cluster.world().run_for(3'000'000);
  fake(f.cluster, 0).store().stuck = true;
  f.cluster.restart(1);
  REQUIRE(f.cluster.world().run_until([&] { return f.cluster.in_sync(1); }, kPatienceUs));
  f.cluster.medium(0).set_stuck(false);
  REQUIRE(until_in_sync(f.cluster, 3));
  CHECK(f.cluster.compare_replicas() == "");
}

TEST_CASE(
    "a resync goes on when the member hangs that heals its source's damage, once it answers") {
  Fixture f;
  missed_by_host1(f);
  damage(f.cluster, 0, 3);
  damage(f.cluster, 2, 4);
  f.cluster.restart(1);
  fake(f.cluster, 2).store().stuck = true;
  f.cluster.world().run_for(5'000'000);
  CHECK_FALSE(f.cluster.in_sync(1));  // one block is nowhere else
  f.cluster.medium(2).set_stuck(false);
  REQUIRE(until_in_sync(f.cluster, 3));
  REQUIRE(f.io.read(0, 16 * kBlockBytes) == Error::Ok);
  CHECK(f.io.all(0x22, 0, 16 * kBlockBytes));
}

TEST_CASE("a member that hangs while it is brought up to date holds up no other one") {
  Fixture f;
  missed_by_host1(f);
  f.cluster.kill(2, false);  // now both are behind, and the quorum waits
  f.io.begin(BlockRequest::Op::write, 0, kBlockBytes);
  f.cluster.restart(1);
  f.cluster.restart(2);
  fake(f.cluster, 1).store().stuck = true;
  REQUIRE(f.io.wait() == Error::Ok);
  f.cluster.medium(1).set_stuck(false);
  REQUIRE(until_in_sync(f.cluster, 3));
  CHECK(f.cluster.compare_replicas() == "");
}

// The engine's own disk: its link never fails, so only the engine's patience ends the wait.
TEST_CASE("an opening whose local source hangs in the middle of a copy takes another one") {
  for (std::uint64_t after_us = 0; after_us < 30'000; after_us += 1'500) {
    CAPTURE(after_us);
    Fixture f;
    for (std::uint64_t chunk = 0; chunk < 8; ++chunk)
      REQUIRE(f.io.write(chunk * kChunkBytes, 4 * kBlockBytes, 0x11) == Error::Ok);
    f.cluster.kill(2, false);
    REQUIRE(until_in_sync(f.cluster, 2));
    for (std::uint64_t chunk = 0; chunk < 8; ++chunk)
      REQUIRE(f.io.write(chunk * kChunkBytes, 4 * kBlockBytes, 0x22) == Error::Ok);
    f.cluster.kill(0, false);
    f.cluster.restart(0);
    f.cluster.restart(2);
    f.cluster.attach(1);
    f.cluster.world().run_for(after_us);
    fake(f.cluster, 1).store().stuck = true;
    Io at_one(f.cluster, 1);
    at_one.begin(BlockRequest::Op::read, 0, 4 * kBlockBytes);
    f.cluster.world().run_for(10'000'000);
    f.cluster.medium(1).set_stuck(false);
    REQUIRE(until_state(f.cluster, 1, VolumeState::serving));
    REQUIRE(at_one.wait() == Error::Ok);
    CHECK(at_one.all(0x22, 0, 4 * kBlockBytes));
    REQUIRE(until_in_sync(f.cluster, 3));
    CHECK(f.cluster.compare_replicas() == "");
  }
}

// The member that hangs in the middle of a copy, and another one that is lost by its link, which
// begins the opening anew while the hung copy is still out.
TEST_CASE("an opening goes on without a hung copy when another loss restarts it") {
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

Version stable_at(SimCluster& cluster, std::uint32_t host) {
  store::Store& store = fake(cluster, host).store();
  return store.segment_info(*store.find_segment({cluster.volume_id(), 0})).stable;
}

TEST_CASE("the stable mark moves on while a flush hangs at a member that was given up") {
  Fixture f;
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
  CHECK(stable_at(f.cluster, 1).seq >= before.seq + 4);
}

TEST_CASE("a write that a hung disk has is written anew after the segment reopened") {
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
  CHECK(f.io.wait() == Error::Ok);
  Io other(f.cluster, 0);
  CHECK(other.write(kChunkBytes, kBlockBytes, 0x33) == Error::Ok);
  CHECK(other.read(0, kBlockBytes) == Error::Ok);  // and what it touched is not lost to reads
}

TEST_CASE("a joiner that hangs while it is opened is opened again once it is well") {
  Fixture f;
  REQUIRE(f.io.write(0, 16 * kBlockBytes, 0x11, true) == Error::Ok);
  fake(f.cluster, 0).store().stuck = true;
  REQUIRE(f.io.write(0, kBlockBytes, 0x22) == Error::Ok);
  REQUIRE(until_in_sync(f.cluster, 2));
  f.cluster.world().run_for(20'000'000);
  f.cluster.medium(0).set_stuck(false);
  REQUIRE(until_in_sync(f.cluster, 3));
  CHECK(f.cluster.compare_replicas() == "");
}

TEST_CASE("a read that the engine's own hung disk has fails in time, and others go elsewhere") {
  Fixture f;
  REQUIRE(f.io.write(0, kBlockBytes, 0x11, true) == Error::Ok);
  fake(f.cluster, 0).store().stuck = true;
  const BufferRef memory = f.cluster.process(0).buffers->small.get();
  bool over = false;
  BlockRequest read;
  read.op = BlockRequest::Op::read;
  read.length_bytes = kBlockBytes;
  read.data = memory.data();
  read.hold = memory;  // the operation keeps it when the request has its answer
  read.owner = &over;
  read.done = [](BlockRequest& r) noexcept { *static_cast<bool*>(r.owner) = true; };
  f.cluster.volume(0)->submit(read);
  REQUIRE(f.cluster.world().run_until([&] { return over; }, kPatienceUs));
  CHECK(read.error == Error::QuorumLost);
  Io other(f.cluster, 0);
  REQUIRE(other.read(0, kBlockBytes) == Error::Ok);
  CHECK(other.all(0x11, 0, kBlockBytes));
  f.cluster.medium(0).set_stuck(false);
  CHECK(until_in_sync(f.cluster, 3));
}

TEST_CASE("a write whose edge the engine's own hung disk was asked for goes on with another one") {
  Fixture f;
  REQUIRE(f.io.write(0, 2 * kBlockBytes, 0x11, true) == Error::Ok);
  fake(f.cluster, 0).store().stuck = true;
  std::memset(f.io.memory, 0x22, kBlockBytes);
  f.io.begin(BlockRequest::Op::write, kBlockBytes / 2, kBlockBytes);  // two edges
  REQUIRE(f.io.wait(10'000'000) == Error::Ok);
  Io other(f.cluster, 0);
  for (const bool stuck : {true, false}) {
    f.cluster.medium(0).set_stuck(stuck);
    REQUIRE(other.read(0, 2 * kBlockBytes) == Error::Ok);
    CHECK(other.all(0x11, 0, kBlockBytes / 2));
    CHECK(other.all(0x22, kBlockBytes / 2, kBlockBytes));
    CHECK(other.all(0x11, kBlockBytes / 2 * 3, kBlockBytes / 2));
  }
  REQUIRE(f.cluster.world().run_until([&] { return f.cluster.all_in_sync(0); }, kPatienceUs));
  CHECK(f.cluster.compare_replicas() == "");
}

// The volume has 64 records of copies. An opening of many segments takes all of them, and its own
// disk hangs with them.
TEST_CASE("copies that a hung disk has leave room for those of the others") {
  constexpr std::uint32_t kSegments = 10;
  ClusterOptions options;
  options.volume_bytes = kSegments * kSegmentBytes;
  Fixture f(options);
  REQUIRE(f.io.write(0, kBlockBytes, 0x11, true) == Error::Ok);
  f.cluster.cut_from_metadata(0, true);
  f.cluster.kill(2, false);  // misses what follows, and stays agreed
  for (std::uint64_t segment = 0; segment < kSegments; ++segment) {
    for (std::uint64_t chunk = 0; chunk < 8; ++chunk)
      REQUIRE(f.io.write(segment * kSegmentBytes + chunk * kChunkBytes, kBlockBytes, 0x22) ==
              Error::Ok);
  }
  f.cluster.kill(0, false);
  f.cluster.restart(0);
  f.cluster.restart(2);
  f.cluster.heal();
  f.cluster.attach(1);
  fake(f.cluster, 1).store().stuck = true;
  const bool served = until_state(f.cluster, 1, VolumeState::serving, 120'000'000);
  CHECK_MESSAGE(served, f.cluster.describe(1));
}

// --- at random -----------------------------------------------------------------------------------

constexpr std::uint32_t kSpanBlocks = 4 * kBlocksPerChunk;
constexpr std::uint64_t kWriteUs = 5'000'000;

struct RandomHangs {
  explicit RandomHangs(std::uint64_t seed) : random(seed), f(options_of(seed)) {}

  static ClusterOptions options_of(std::uint64_t seed) {
    ClusterOptions options;
    options.seed = seed;
    options.min_in_sync = seed % 3 == 0 ? 3 : 2;
    return options;
  }

  void attach() {
    holder = static_cast<std::uint32_t>(random.below(3));
    if (f.cluster.volume(holder) != nullptr) f.cluster.kill(holder, false);
    if (!f.cluster.alive(holder)) f.cluster.restart(holder);
    f.cluster.attach(holder);
  }
  void write() {
    const std::uint64_t offset = random.below(kSpanBlocks) * kBlockBytes;
    Io one(f.cluster, holder);
    if (f.cluster.volume(holder) == nullptr) return;
    one.begin(BlockRequest::Op::write, offset, kBlockBytes);
    (void)one.wait(kWriteUs);
    if (!one.over) f.cluster.kill(holder, false);  // nobody else may answer into its memory
  }
  // Rots at one host alone, so that no acknowledged block is lost everywhere.
  void step() {
    const auto host = static_cast<std::uint32_t>(random.below(3));
    const bool alive = f.cluster.alive(host);
    switch (random.below(8)) {
      case 0:
        if (alive) f.cluster.medium(host).set_stuck(true);
        break;
      case 1:
        if (alive) f.cluster.medium(host).set_stuck(false);
        break;
      case 2:
        if (alive) f.cluster.kill(host, false);
        break;
      case 3:
        if (!alive) f.cluster.restart(host);
        break;
      case 4:
        if (f.cluster.alive(rotting))
          (void)f.cluster.medium(rotting).rot(
              {f.cluster.volume_id(), 0}, static_cast<std::uint32_t>(random.below(kSpanBlocks)));
        break;
      case 5:
        attach();
        break;
      default:
        write();
        break;
    }
    f.cluster.world().run_for(random.below(1'500'000));
  }
  void run() {
    for (std::uint32_t block = 0; block < kSpanBlocks; block += kBlocksPerChunk)
      REQUIRE(f.io.write(std::uint64_t{block} * kBlockBytes, kChunkBytes, 1) == Error::Ok);
    for (int i = 0; i < 40; ++i) step();
    for (std::uint32_t host = 0; host < 3; ++host) {
      if (!f.cluster.alive(host)) f.cluster.restart(host);
      f.cluster.medium(host).set_stuck(false);
    }
    if (f.cluster.volume(holder) == nullptr) f.cluster.attach(holder);
    REQUIRE_MESSAGE(until_state(f.cluster, holder, VolumeState::serving),
                    f.cluster.describe(holder));
    REQUIRE_MESSAGE(until_in_sync(f.cluster, 3, 90'000'000), f.cluster.describe(holder));
    Io all(f.cluster, holder);
    REQUIRE(all.read(0, kSpanBlocks * kBlockBytes) == Error::Ok);
  }

  Random random;
  Fixture f;
  std::uint32_t rotting = static_cast<std::uint32_t>(random.below(3));
  std::uint32_t holder = 0;
};

TEST_CASE("whatever hangs and rots at one host, all is in sync again once it is over") {
  for_seeds(60, [](std::uint64_t seed) { RandomHangs(seed).run(); });
}

}  // namespace
}  // namespace blockd::sim
