// What a resync would throw away is kept in a branch first (docs/REPLICATION.md, B), and nothing
// else is.
#include <doctest/doctest.h>

#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "tests/sim/story.h"

namespace blockd::sim {
namespace {

constexpr std::uint64_t kInFlightUs = 50'000;

// The one branch of the host that has something, or nothing.
Branches::Chunks branch_of(SimCluster& cluster, std::uint32_t host) {
  Branches::Chunks found;
  for (const Branches::Chunks& chunks : cluster.branches().of(cluster.host_id(host))) {
    if (chunks.empty()) continue;
    CHECK(found.empty());
    found = chunks;
  }
  return found;
}

bool is_all(const std::vector<std::byte>& chunk, std::uint32_t block, int byte) {
  for (std::size_t i = 0; i < kBlockBytes; ++i) {
    if (chunk[block * kBlockBytes + i] != static_cast<std::byte>(byte)) return false;
  }
  return true;
}

void sound(SimCluster& cluster, std::uint32_t holder) {
  REQUIRE(cluster.world().run_until([&] { return cluster.all_in_sync(holder); }, kPatienceUs));
  CHECK(cluster.compare_replicas() == "");
  CHECK(cluster.branches().wrong() == "");
}

// The engine at host 0 is cut off with a write that only its own store has, of block `block`; the
// volume goes to host 1.
struct Fenced : Fixture {
  explicit Fenced(std::uint64_t offset = 0, std::uint64_t seed = 1) : Fixture(with(seed)) {
    REQUIRE(io.write(0, 2 * kBlockBytes, 1, true) == Error::Ok);
    for (const std::uint32_t other : {1u, 2u}) cluster.partition(0, other, true);
    std::memset(io.memory, 2, kBlockBytes);
    io.begin(BlockRequest::Op::write, offset, kBlockBytes);
    cluster.world().run_for(kInFlightUs);
    cluster.attach(1);
    REQUIRE(until_state(cluster, 1, VolumeState::serving));
    REQUIRE(until_in_sync(cluster, 2));
    CHECK(!io.over);
  }
  static ClusterOptions with(std::uint64_t seed) {
    ClusterOptions options;
    options.seed = seed;
    return options;
  }
  void come_back() {
    for (const std::uint32_t other : {1u, 2u}) cluster.partition(0, other, false);
  }
};

// B. Its version is above what the others have of the chunk.
TEST_CASE("what only a fenced engine's host has is kept in a branch") {
  for (std::uint64_t seed = 1; seed <= 4; ++seed) {
    CAPTURE(seed);
    Fenced f(0, seed);
    f.come_back();
    sound(f.cluster, 1);
    const Branches::Chunks branch = branch_of(f.cluster, 0);
    REQUIRE(branch.size() == 1);
    CHECK(is_all(branch.at(0), 0, 2));
    CHECK(is_all(branch.at(0), 1, 1));
    CHECK(f.cluster.notices("writes-preserved") == 1);
    Io reader(f.cluster, 1);
    REQUIRE(reader.read(0, kBlockBytes) == Error::Ok);
    CHECK(reader.all(1, 0, kBlockBytes));
  }
}

// B1. The versions of the new epoch are above it, and it is in no history all the same.
TEST_CASE("what the new engine has written over is kept in a branch as well") {
  for (std::uint64_t seed = 1; seed <= 4; ++seed) {
    CAPTURE(seed);
    Fenced f(0, seed);
    Io writer(f.cluster, 1);
    REQUIRE(writer.write(0, kBlockBytes, 3, true) == Error::Ok);
    f.come_back();
    sound(f.cluster, 1);
    const Branches::Chunks branch = branch_of(f.cluster, 0);
    REQUIRE(branch.size() == 1);
    CHECK(is_all(branch.at(0), 0, 2));
    REQUIRE(writer.read(0, kBlockBytes) == Error::Ok);
    CHECK(writer.all(3, 0, kBlockBytes));
  }
}

// B1. The engine that comes after knows where the last epoch before its own ended, not where the
// one before that did.
TEST_CASE("what is fenced is kept in a branch whichever engine finds it") {
  Fenced f;
  Io writer(f.cluster, 1);
  REQUIRE(writer.write(0, kBlockBytes, 3, true) == Error::Ok);
  REQUIRE(f.cluster.detach(1));
  f.cluster.attach(2);
  REQUIRE(until_state(f.cluster, 2, VolumeState::serving));
  Io later(f.cluster, 2);
  REQUIRE(later.write(0, kBlockBytes, 4, true) == Error::Ok);
  f.come_back();
  sound(f.cluster, 2);
  const Branches::Chunks branch = branch_of(f.cluster, 0);
  REQUIRE(branch.size() == 1);
  CHECK(is_all(branch.at(0), 0, 2));
}

// B. The write was acknowledged, and lost with the power of the two hosts that are heard.
TEST_CASE(
    "acknowledged writes that went with the power of a quorum are in the third host's branch") {
  Fixture f;
  REQUIRE(f.io.write(0, 2 * kBlockBytes, 1, true) == Error::Ok);
  REQUIRE(f.io.write(0, kBlockBytes, 2) == Error::Ok);
  f.cluster.world().run_for(5'000);
  f.cluster.kill(0, false);
  for (const std::uint32_t host : {1u, 2u}) {
    fake(f.cluster, host).medium().log.clear();
    f.cluster.kill(host, true);
  }
  for (const std::uint32_t host : {1u, 2u}) f.cluster.restart(host);
  f.cluster.attach(1);
  REQUIRE(until_state(f.cluster, 1, VolumeState::serving));
  Io io(f.cluster, 1);
  REQUIRE(io.read(0, kBlockBytes) == Error::Ok);
  CHECK(io.all(1, 0, kBlockBytes));
  f.cluster.restart(0);
  sound(f.cluster, 1);
  const Branches::Chunks branch = branch_of(f.cluster, 0);
  REQUIRE(branch.size() == 1);
  CHECK(is_all(branch.at(0), 0, 2));
}

// The engine at host 3 outlives the power of hosts 1 and 2, and has written to the chunk since;
// host 0, which is away, has what was lost.
struct Outlived : Fixture {
  Outlived() : Fixture(four(), 3) {
    REQUIRE(io.write(0, 2 * kBlockBytes, 1, true) == Error::Ok);
    REQUIRE(io.write(0, kBlockBytes, 2) == Error::Ok);
    cluster.world().run_for(5'000);
    cluster.kill(0, false);
    for (const std::uint32_t host : {1u, 2u}) {
      fake(cluster, host).medium().log.clear();
      cluster.kill(host, true);
    }
    for (const std::uint32_t host : {1u, 2u}) cluster.restart(host);
    REQUIRE(until_in_sync(cluster, 2));
    (void)io.write(0, kBlockBytes, 3, true);  // a flush fails, to tell of the loss
    REQUIRE(io.write(0, kBlockBytes, 3, true) == Error::Ok);
  }
  static ClusterOptions four() {
    ClusterOptions options;
    options.hosts = 4;
    return options;
  }
  void check_kept(std::uint32_t holder) {
    cluster.restart(0);
    sound(cluster, holder);
    const Branches::Chunks branch = branch_of(cluster, 0);
    REQUIRE(branch.size() == 1);
    CHECK(is_all(branch.at(0), 0, 2));
  }
};

// B1. It opens again under its own epoch, and goes on numbering.
TEST_CASE("what an engine lost and sequenced past is kept when the host that has it is back") {
  Outlived f;
  f.check_kept(3);
}

// B1. The versions of what was lost are below the last one of their epoch.
TEST_CASE("what an engine lost is kept whichever engine finds it") {
  Outlived f;
  REQUIRE(f.cluster.detach(3));
  f.cluster.attach(1);
  REQUIRE(until_state(f.cluster, 1, VolumeState::serving));
  f.check_kept(1);
}

// A trim that only the fenced host has shows as zeros.
TEST_CASE("a fenced trim is kept as zeros") {
  Fixture f;
  REQUIRE(f.io.write(0, 2 * kBlockBytes, 1, true) == Error::Ok);
  for (const std::uint32_t other : {1u, 2u}) f.cluster.partition(0, other, true);
  f.io.begin(BlockRequest::Op::trim, 0, kBlockBytes);
  f.cluster.world().run_for(kInFlightUs);
  f.cluster.attach(1);
  REQUIRE(until_state(f.cluster, 1, VolumeState::serving));
  for (const std::uint32_t other : {1u, 2u}) f.cluster.partition(0, other, false);
  sound(f.cluster, 1);
  const Branches::Chunks branch = branch_of(f.cluster, 0);
  REQUIRE(branch.size() == 1);
  CHECK(is_all(branch.at(0), 0, 0));
  CHECK(is_all(branch.at(0), 1, 1));
}

// B2. No branch can be made: that chunk waits, clients do not, and other chunks are copied.
TEST_CASE("while no branch can be made the resync waits and the volume serves") {
  Fenced f;
  f.come_back();
  f.cluster.cut_from_metadata(1, true);
  Io io(f.cluster, 1);
  for (int i = 0; i < 20; ++i) {  // none of it equal to what is to be kept
    REQUIRE(io.write(kChunkBytes * 4, kBlockBytes, 10 + i, true) == Error::Ok);
    REQUIRE(io.write(0, kBlockBytes, 10 + i, true) == Error::Ok);
    f.cluster.world().run_for(500'000);
  }
  CHECK(f.cluster.in_sync_count(0) == 2);
  CHECK(fake(f.cluster, 0).medium().live.begin()->second.chunks.at(0).data[0] ==
        static_cast<std::byte>(2));
  f.cluster.cut_from_metadata(1, false);
  sound(f.cluster, 1);
  CHECK(is_all(branch_of(f.cluster, 0).at(0), 0, 2));
}

// B2. However much is to be kept, the disks read little of it before there is a branch.
TEST_CASE("while no branch can be made a few chunks a second are tried") {
  Fixture f;
  for (const std::uint32_t other : {1u, 2u}) f.cluster.partition(0, other, true);
  std::vector<std::unique_ptr<Io>> lost;
  for (std::uint64_t at = 0; at < 2u << 20; at += kMutationBytesMax) {
    lost.push_back(std::make_unique<Io>(f.cluster, 0));
    std::memset(lost.back()->memory, 2, kMutationBytesMax);
    lost.back()->begin(BlockRequest::Op::write, at, kMutationBytesMax);
  }
  f.cluster.world().run_for(kInFlightUs);
  f.cluster.attach(1);
  REQUIRE(until_state(f.cluster, 1, VolumeState::serving));
  f.cluster.cut_from_metadata(1, true);
  for (const std::uint32_t other : {1u, 2u}) f.cluster.partition(0, other, false);
  const auto wanted = [&] { return f.cluster.notices("branch-wanted") != 0; };
  REQUIRE(f.cluster.world().run_until(wanted, kPatienceUs));
  f.cluster.world().run_for(10'000'000);
  CHECK(f.cluster.notices("branch-wanted") <= 12 * engine::kPreservesPerJoin);
  f.cluster.cut_from_metadata(1, false);
  sound(f.cluster, 1);
  CHECK(branch_of(f.cluster, 0).size() == (2u << 20) / kChunkBytes);
}

// B2. The branch may be waiting for a resync itself.
TEST_CASE("while a branch stalls other resyncs of the host go on") {
  Fenced f;
  f.cluster.branches_stall_us = 20'000'000;
  f.come_back();
  f.cluster.world().run_for(10'000'000);
  CHECK(f.cluster.in_sync_count(0) == 2);
  CHECK(f.cluster.process(1).pace->under_way() == 0);
  f.cluster.branches_stall_us = 0;
  sound(f.cluster, 1);
  CHECK(is_all(branch_of(f.cluster, 0).at(0), 0, 2));
}

// B2. Killed at every moment from the first look at the joiner to the end.
TEST_CASE("a resync that is interrupted loses nothing of what it preserves") {
  for (std::uint64_t at_us = 1'000; at_us < 1'600'000; at_us += 61'000) {
    for (const bool joiner : {false, true}) {
      CAPTURE(at_us);
      CAPTURE(joiner);
      Fenced f(0, 1 + at_us);
      f.come_back();
      f.cluster.world().run_for(at_us);
      const std::uint32_t victim = joiner ? 0 : 1;
      f.cluster.kill(victim, joiner);
      f.cluster.world().run_for(100'000);
      f.cluster.restart(victim);
      const std::uint32_t holder = joiner ? 1 : 2;
      if (!joiner) f.cluster.attach(holder);
      sound(f.cluster, holder);
      CHECK(is_all(branch_of(f.cluster, 0).at(0), 0, 2));
    }
  }
}

// B1. The joiner takes mutations of its other chunks, and with them it could learn a mark that is
// above what only it has; then it dies.
TEST_CASE("a joiner is told no mark while it may have what it does not speak of") {
  Fenced f;
  f.cluster.cut_from_metadata(1, true);
  Io io(f.cluster, 1);
  REQUIRE(io.write(0, kBlockBytes, 3, true) == Error::Ok);
  f.come_back();
  const auto wanted = [&] { return f.cluster.notices("branch-wanted") != 0; };
  REQUIRE(f.cluster.world().run_until(wanted, kPatienceUs));
  for (int i = 0; i < 20; ++i) {
    REQUIRE(io.write(kChunkBytes * 4, kBlockBytes, i, true) == Error::Ok);
    f.cluster.world().run_for(200'000);
  }
  const FakeMedium& joiner = fake(f.cluster, 0).medium();
  CHECK(joiner.live.begin()->second.chunks.at(4).version.epoch == 2);
  CHECK(joiner.live.begin()->second.info.stable.epoch == 1);
  f.cluster.kill(0, false);
  f.cluster.restart(0);
  f.cluster.cut_from_metadata(1, false);
  sound(f.cluster, 1);
  REQUIRE(branch_of(f.cluster, 0).size() == 1);
  CHECK(is_all(branch_of(f.cluster, 0).at(0), 0, 2));
}

// What rots at the fenced host is lost, and told; the rest of the chunk is kept.
TEST_CASE("the sound blocks of a damaged chunk are kept in a branch") {
  Fenced f;
  REQUIRE(f.cluster.medium(0).rot({f.cluster.volume_id(), 0}, 1));
  f.come_back();
  sound(f.cluster, 1);
  const Branches::Chunks branch = branch_of(f.cluster, 0);
  REQUIRE(branch.size() == 1);
  CHECK(is_all(branch.at(0), 0, 2));
  CHECK(is_all(branch.at(0), 1, 1));  // as the volume has it
  CHECK(f.cluster.notices("diverged-unreadable") == 1);
}

// A disk that gives nothing holds up its host for some seconds, not for ever.
TEST_CASE("what the fenced host cannot read is told, and its resync goes on") {
  Fenced f;
  fake(f.cluster, 0).store().fail_reads = Error::DiskError;
  f.come_back();
  sound(f.cluster, 1);
  CHECK(f.cluster.notices("diverged-unreadable") == 1);
  CHECK(f.cluster.branches().count() == 0);
}

// A source that has lost the chunk has nothing to compare with; another one has it whole.
TEST_CASE("what cannot be compared is kept in a branch") {
  Fenced f;
  for (const std::uint32_t block : {0u, 1u})
    REQUIRE(f.cluster.medium(1).rot({f.cluster.volume_id(), 0}, block));
  f.come_back();
  sound(f.cluster, 1);
  REQUIRE(branch_of(f.cluster, 0).size() == 1);
  CHECK(is_all(branch_of(f.cluster, 0).at(0), 0, 2));
}

TEST_CASE("what is fenced in several chunks and segments is in one branch") {
  ClusterOptions options;
  options.volume_bytes = kSegmentBytes + (2u << 20);
  Fixture f(options);
  for (const std::uint32_t other : {1u, 2u}) f.cluster.partition(0, other, true);
  const std::uint64_t offsets[] = {0, 5 * kChunkBytes, kSegmentBytes, kSegmentBytes + kChunkBytes};
  std::vector<std::unique_ptr<Io>> writes;
  for (const std::uint64_t offset : offsets) {
    Io& io = *writes.emplace_back(std::make_unique<Io>(f.cluster, 0));
    std::memset(io.memory, 2, kBlockBytes);
    io.begin(BlockRequest::Op::write, offset, kBlockBytes);
  }
  f.cluster.world().run_for(kInFlightUs);
  f.cluster.attach(1);
  REQUIRE(until_state(f.cluster, 1, VolumeState::serving));
  for (const std::uint32_t other : {1u, 2u}) f.cluster.partition(0, other, false);
  sound(f.cluster, 1);
  const Branches::Chunks branch = branch_of(f.cluster, 0);
  REQUIRE(branch.size() == 4);
  for (const std::uint64_t offset : offsets) CHECK(is_all(branch.at(offset), 0, 2));
}

// Content that the volume has, too, is not lost: a retry of the fenced write came through.
TEST_CASE("no branch is made of what the volume has all the same") {
  Fenced f;
  Io io(f.cluster, 1);
  REQUIRE(io.write(0, kBlockBytes, 2, true) == Error::Ok);
  f.come_back();
  sound(f.cluster, 1);
  CHECK(f.cluster.branches().count() == 0);
}

// A host that missed writes has an older state of the same history.
TEST_CASE("no branch is made of what a member that was away has") {
  for (std::uint64_t seed = 1; seed <= 8; ++seed) {
    CAPTURE(seed);
    ClusterOptions options;
    options.seed = seed;
    Fixture f(options);
    for (std::uint64_t i = 0; i < 16; ++i) {
      REQUIRE(f.io.write(i * kChunkBytes / 2, kBlockBytes, 1) == Error::Ok);
    }
    f.cluster.kill(2, seed % 2 == 0);
    for (std::uint64_t i = 0; i < 16; ++i) {
      REQUIRE(f.io.write(i * kChunkBytes / 2, kBlockBytes, 2) == Error::Ok);
    }
    if (seed % 4 < 2) {
      REQUIRE(f.cluster.detach(0));
      f.cluster.attach(1);
      REQUIRE(until_state(f.cluster, 1, VolumeState::serving));
      Io later(f.cluster, 1);
      REQUIRE(later.write(0, kBlockBytes, 3) == Error::Ok);
    }
    f.cluster.restart(2);
    sound(f.cluster, seed % 4 < 2 ? 1 : 0);
    CHECK(f.cluster.branches().count() == 0);
    CHECK(f.cluster.notices("branch-wanted") == 0);
  }
}

}  // namespace
}  // namespace blockd::sim
