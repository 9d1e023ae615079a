// Stories that catch what no other test did when the mutants of mutants.toml were planted: each is
// about one promise of docs/REPLICATION.md.
#include <doctest/doctest.h>

#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "tests/sim/story.h"

namespace blockd::sim {
namespace {

// What host `at` shows of the first block; -1: not one byte, or no answer.
int shown(SimCluster& cluster, std::uint32_t at) {
  Io io(cluster, at);
  if (io.read(0, kBlockBytes) != Error::Ok) return -1;
  const int byte = static_cast<int>(io.memory[0]);
  return io.all(byte, 0, kBlockBytes) ? byte : -1;
}

// How many hosts' stores show the byte in the block, done or not.
std::uint32_t holders(SimCluster& cluster, std::uint32_t block, int byte) {
  std::uint32_t count = 0;
  for (std::uint32_t host = 0; host < cluster.options().replicas; ++host) {
    const auto& chunks = fake(cluster, host).medium().live.begin()->second.chunks;
    const auto chunk = chunks.find(block / kBlocksPerChunk);
    const std::size_t at = std::size_t{block % kBlocksPerChunk} * kBlockBytes;
    if (chunk != chunks.end() && chunk->second.data[at] == static_cast<std::byte>(byte)) ++count;
  }
  return count;
}

// All that the host's store has not flushed is lost with its power.
void lose_power(SimCluster& cluster, std::uint32_t host) {
  fake(cluster, host).medium().log.clear();
  cluster.kill(host, true);
}

ClusterOptions one_is_enough(std::uint32_t replicas) {
  ClusterOptions options;
  options.replicas = replicas;
  options.min_in_sync = 1;
  return options;
}

// Q1.
TEST_CASE("a write is answered when a quorum has it, a flush when a quorum has flushed") {
  Fixture f;
  Io flush(f.cluster, 0);
  REQUIRE(f.io.write(0, kBlockBytes, 1) == Error::Ok);
  for (const std::uint32_t host : {1u, 2u}) fake(f.cluster, host).store().stuck = true;
  flush.begin(BlockRequest::Op::flush, 0, 0);
  CHECK(flush.wait(500'000) == Error::Timeout);
  f.io.begin(BlockRequest::Op::write, 0, kBlockBytes);
  CHECK(f.io.wait(500'000) == Error::Timeout);
}

// Q1. Host 1 answers nothing more, and host 2 joins slowly, while clients write. What was answered
// by then has to be at host 2, for the engine's own host is lost.
TEST_CASE("a member that joins counts for what it has, not for what it was sent") {
  for (std::uint64_t seed = 1; seed <= 4; ++seed) {
    CAPTURE(seed);
    ClusterOptions options;
    options.seed = seed;
    Fixture f(options);
    f.cluster.kill(2, false);
    REQUIRE(until_in_sync(f.cluster, 2));
    f.cluster.world().run_for(100'000);
    fake(f.cluster, 1).store().stuck = true;
    f.cluster.restart(2);
    fake(f.cluster, 2).store().slowness = 1000;
    std::vector<std::unique_ptr<Io>> writes;
    while (f.cluster.notices("resync-finished") == 0) {
      Io& io = *writes.emplace_back(std::make_unique<Io>(f.cluster, 0));
      std::memset(io.memory, 2, kBlockBytes);
      io.begin(BlockRequest::Op::write, writes.size() * kBlockBytes, kBlockBytes);
      f.cluster.world().run_for(5'000);
      REQUIRE(writes.size() < 500);
    }
    REQUIRE(until_in_sync(f.cluster, 3));
    f.cluster.world().run_for(25'000);
    f.cluster.kill(0, false);
    FakeMedium& medium = fake(f.cluster, 2).medium();
    medium.log.resize(medium.done_count);
    f.cluster.kill(2, false);
    fake(f.cluster, 1).store().stuck = false;
    f.cluster.kill(1, false);
    for (const std::uint32_t host : {1u, 2u}) f.cluster.restart(host);
    f.cluster.attach(1);
    REQUIRE(until_state(f.cluster, 1, VolumeState::serving));
    Io reader(f.cluster, 1);
    for (std::uint64_t i = 0; i < writes.size(); ++i) {
      if (!writes[i]->over) continue;
      REQUIRE(reader.read((i + 1) * kBlockBytes, kBlockBytes) == Error::Ok);
      CHECK(reader.all(2, 0, kBlockBytes));
    }
  }
}

// J1. The nearest member, which a joiner is compared with, lacks a mutation that is in flight.
TEST_CASE("a member that joins has missed what was in flight") {
  Fixture f;
  REQUIRE(f.io.write(0, kBlockBytes, 1) == Error::Ok);
  REQUIRE(f.io.flush() == Error::Ok);
  f.cluster.kill(2, false);
  REQUIRE(until_in_sync(f.cluster, 2));
  f.cluster.world().run_for(100'000);
  fake(f.cluster, 0).store().stuck = true;
  std::memset(f.io.memory, 2, kBlockBytes);
  f.io.begin(BlockRequest::Op::write, 0, kBlockBytes);
  f.cluster.world().run_for(5'000);
  f.cluster.restart(2);
  REQUIRE(f.io.wait() == Error::Ok);
  CHECK(holders(f.cluster, 0, 2) >= 2);
}

// J3. Clients write while the lists and the copies are on their way: now where nothing was before,
// now into what has to be copied, each time another block.
TEST_CASE("a member that joins has missed what came while it was listed and copied") {
  ClusterOptions options;
  options.hosts = 4;
  options.volume_bytes = 64u << 20;
  Fixture f(options, 3);
  f.cluster.kill(2, false);
  REQUIRE(until_in_sync(f.cluster, 2));
  for (std::uint64_t chunk = 0; chunk < 31; ++chunk)
    REQUIRE(f.io.write(chunk * kChunkBytes, kBlockBytes, 1) == Error::Ok);
  f.cluster.fabric().set_delays(1'000, 10'000);
  f.cluster.restart(2);
  std::vector<std::unique_ptr<Io>> writes;
  while (f.cluster.notices("resync-finished") == 0) {
    const std::uint64_t turn = writes.size() / 2;
    const bool fresh = writes.size() % 2 == 0;
    const std::uint64_t chunk = fresh ? 32 + turn : turn % 31;
    const std::uint64_t block = fresh ? 0 : 1 + turn / 31;
    writes.push_back(std::make_unique<Io>(f.cluster, 3));
    std::memset(writes.back()->memory, 2, kBlockBytes);
    writes.back()->begin(BlockRequest::Op::write, chunk * kChunkBytes + block * kBlockBytes,
                         kBlockBytes);
    f.cluster.world().run_for(2'000);
    REQUIRE(writes.size() < 900);
  }
  for (const auto& io : writes) CHECK(io->wait() == Error::Ok);
  REQUIRE(until_in_sync(f.cluster, 3));
  f.cluster.world().run_for(1'000'000);
  CHECK(f.cluster.compare_replicas() == "");
}

// J3. Host 0 alone has a write that nobody was told of, and joins the next engine.
TEST_CASE("a member that joins gives up what nobody agreed on") {
  Fixture f;
  REQUIRE(f.io.write(0, kBlockBytes, 1) == Error::Ok);
  f.cluster.world().run_for(1'000'000);
  for (const std::uint32_t host : {1u, 2u}) f.cluster.partition(0, host, true);
  std::memset(f.io.memory, 2, kBlockBytes);
  f.io.begin(BlockRequest::Op::write, 0, kBlockBytes);
  f.cluster.world().run_for(5'000);
  f.cluster.attach(1);
  REQUIRE(until_state(f.cluster, 1, VolumeState::serving));
  f.cluster.heal();
  REQUIRE(until_in_sync(f.cluster, 3));
  CHECK(shown(f.cluster, 1) == 1);
  CHECK(f.cluster.compare_replicas() == "");
}

// J2. A write across two chunks, of which the joiner has the second one already.
TEST_CASE("a member that joins is brought all chunks of a write that it was not sent") {
  Fixture f;
  f.cluster.kill(2, false);
  REQUIRE(until_in_sync(f.cluster, 2));
  for (std::uint64_t chunk = 0; chunk < 31; ++chunk)
    REQUIRE(f.io.write(chunk * kChunkBytes, kBlockBytes, 1) == Error::Ok);
  f.cluster.restart(2);
  fake(f.cluster, 2).store().slowness = 300;
  const auto copying = [&] { return f.cluster.volume(0)->stats().resync_bytes > 0; };
  REQUIRE(f.cluster.world().run_until(copying, kPatienceUs));
  REQUIRE(f.io.write(31 * kChunkBytes - kBlockBytes, 2 * kBlockBytes, 2) == Error::Ok);
  REQUIRE(until_in_sync(f.cluster, 3));
  CHECK(f.cluster.compare_replicas() == "");
}

// Q2. The metadata service has agreed to a set, and the engine does not know: the one member that
// it had before must not be enough, whatever it hears of older things.
TEST_CASE("a set that was asked for binds until the generation moves") {
  enum class Heard { nothing, failure, old_answer };
  for (const Heard heard : {Heard::nothing, Heard::failure, Heard::old_answer}) {
    CAPTURE(static_cast<int>(heard));
    Fixture f(one_is_enough(2));
    f.cluster.kill(1, false);
    REQUIRE(f.io.write(0, kBlockBytes, 1) == Error::Ok);
    REQUIRE(until_in_sync(f.cluster, 1));
    f.cluster.world().run_for(100'000);
    f.cluster.restart(1);
    REQUIRE(until_in_sync(f.cluster, 2));
    f.cluster.meta_reachable = false;  // the answer is lost
    f.cluster.partition(0, 1, true);
    std::memset(f.io.memory, 2, kBlockBytes);
    if (heard == Heard::nothing) f.io.begin(BlockRequest::Op::write, 0, kBlockBytes);
    f.cluster.world().run_for(2'000'000);  // host 1 is given up
    engine::Volume& volume = *f.cluster.volume(0);
    if (heard == Heard::failure) volume.in_sync_change_failed(0, Error::Timeout);
    if (heard == Heard::old_answer) volume.in_sync_changed(volume.config().segments[0]);
    if (heard != Heard::nothing) f.io.begin(BlockRequest::Op::write, 0, kBlockBytes);
    CHECK(f.io.wait(5'000'000) == Error::Timeout);
    f.cluster.kill(0, false);
    f.cluster.heal();
    f.cluster.attach(1);
    REQUIRE(until_state(f.cluster, 1, VolumeState::serving));
    CHECK(shown(f.cluster, 1) == 1);
  }
}

// Q3. Host 1 lacks the second write, and then it and host 0 are all that is left.
TEST_CASE("a set is asked for only when it has what clients were told") {
  Fixture f(one_is_enough(3));
  REQUIRE(f.io.write(0, kBlockBytes, 1) == Error::Ok);
  f.cluster.world().run_for(2'000'000);
  f.cluster.partition(0, 1, true);
  REQUIRE(f.io.write(0, kBlockBytes, 2) == Error::Ok);
  f.cluster.kill(2, false);
  f.cluster.world().run_for(200'000);  // host 1 has not been given up yet
  f.cluster.kill(0, false);
  f.cluster.heal();
  f.cluster.attach(1);
  CHECK_FALSE(until_state(f.cluster, 1, VolumeState::serving, 5'000'000));
  f.cluster.restart(2);
  REQUIRE(until_state(f.cluster, 1, VolumeState::serving));
  CHECK(shown(f.cluster, 1) == 2);
}

// Q3. Host 1 has the second write, but not on its disk.
TEST_CASE("a set is asked for only when it has flushed what clients were told") {
  Fixture f(one_is_enough(3));
  REQUIRE(f.io.write(0, kBlockBytes, 1) == Error::Ok);
  REQUIRE(f.io.flush() == Error::Ok);
  f.cluster.world().run_for(2'500'000);
  REQUIRE(f.io.write(0, kBlockBytes, 2) == Error::Ok);
  f.cluster.world().run_for(5'000);
  fake(f.cluster, 1).store().stuck = true;
  REQUIRE(f.io.flush() == Error::Ok);
  f.cluster.kill(2, false);
  f.cluster.world().run_for(200'000);
  f.cluster.kill(0, false);
  fake(f.cluster, 1).medium().log.clear();  // the power takes all that was not flushed
  f.cluster.kill(1, true);
  f.cluster.restart(1);
  f.cluster.attach(1);
  CHECK_FALSE(until_state(f.cluster, 1, VolumeState::serving, 5'000'000));
  f.cluster.restart(2);
  REQUIRE(until_state(f.cluster, 1, VolumeState::serving));
  CHECK(shown(f.cluster, 1) == 2);
}

// Q3. The smaller set is agreed to when host 1 is back already, with a write on its way there that
// host 0 has flushed: for that moment only host 0 counts, and the stable mark covers the write.
// Seeds: a store may forget a mark in a crash.
TEST_CASE("a set is asked for only when each of it has flushed what the stable mark covers") {
  for (std::uint64_t seed = 1; seed <= 8; ++seed) {
    CAPTURE(seed);
    ClusterOptions options = one_is_enough(2);
    options.seed = seed;
    Fixture f(options);
    Io reader(f.cluster, 0);
    REQUIRE(f.io.write(0, kBlockBytes, 1) == Error::Ok);
    f.cluster.world().run_for(2'500'000);
    f.cluster.meta_reachable = false;
    f.cluster.kill(1, false);
    f.cluster.world().run_for(200'000);
    f.cluster.restart(1);
    const auto resynced = [&] { return f.cluster.notices("resync-finished") == 1; };
    REQUIRE(f.cluster.world().run_until(resynced, kPatienceUs));
    fake(f.cluster, 1).store().stuck = true;
    std::memset(f.io.memory, 2, kBlockBytes);
    f.io.begin(BlockRequest::Op::write, 0, kBlockBytes);
    f.cluster.world().run_for(10'000);
    f.cluster.meta_reachable = true;
    REQUIRE(until_in_sync(f.cluster, 1));
    f.cluster.world().run_for(100'000);
    REQUIRE(reader.read(kChunkBytes, kBlockBytes) == Error::Ok);  // brings host 0 the mark
    f.cluster.kill(0, false);
    lose_power(f.cluster, 1);
    f.cluster.restart(0);
    f.cluster.restart(1);
    f.cluster.attach(0);
    REQUIRE(until_state(f.cluster, 0, VolumeState::serving));
    const int first = shown(f.cluster, 0);
    REQUIRE(until_in_sync(f.cluster, 2));
    CHECK(f.cluster.compare_replicas() == "");
    f.cluster.attach(1);
    REQUIRE(until_state(f.cluster, 1, VolumeState::serving));
    CHECK(shown(f.cluster, 1) == first);
  }
}

// R1, R2. Only the engine's own host has the second write.
TEST_CASE("a read shows nothing that no quorum has") {
  for (const bool read_first : {false, true}) {
    CAPTURE(read_first);
    Fixture f;
    Io reader(f.cluster, 0);
    REQUIRE(f.io.write(0, kBlockBytes, 1) == Error::Ok);
    f.cluster.world().run_for(1'000'000);
    for (const std::uint32_t host : {1u, 2u}) f.cluster.partition(0, host, true);
    std::memset(f.io.memory, 2, kBlockBytes);
    if (read_first) reader.begin(BlockRequest::Op::read, 0, kBlockBytes);
    f.io.begin(BlockRequest::Op::write, 0, kBlockBytes);
    f.cluster.world().run_for(2'000);
    if (!read_first) reader.begin(BlockRequest::Op::read, 0, kBlockBytes);
    CHECK(reader.wait(100'000) == Error::Timeout);
    f.cluster.kill(0, true);
    f.cluster.attach(1);
    REQUIRE(until_state(f.cluster, 1, VolumeState::serving));
    CHECK(shown(f.cluster, 1) == 1);
  }
}

// R1. The nearest member has the write under way for ever.
TEST_CASE("a read goes to a member that has what was acknowledged") {
  Fixture f;
  REQUIRE(f.io.write(0, kBlockBytes, 1) == Error::Ok);
  f.cluster.world().run_for(100'000);
  fake(f.cluster, 0).store().stuck = true;
  REQUIRE(f.io.write(0, kBlockBytes, 2) == Error::Ok);
  fake(f.cluster, 0).store().stuck = false;
  CHECK(shown(f.cluster, 0) == 2);
}

// O1. Host 2 is up, and lacks the second write.
TEST_CASE("an opening needs enough members to meet every write") {
  Fixture f(one_is_enough(3));
  REQUIRE(f.io.write(0, kBlockBytes, 1) == Error::Ok);
  f.cluster.world().run_for(1'000'000);
  f.cluster.partition(0, 2, true);
  REQUIRE(f.io.write(0, kBlockBytes, 2) == Error::Ok);
  for (const std::uint32_t host : {0u, 1u}) f.cluster.kill(host, false);
  f.cluster.heal();
  f.cluster.attach(2);
  CHECK_FALSE(until_state(f.cluster, 2, VolumeState::serving, 5'000'000));
  f.cluster.restart(0);
  REQUIRE(until_state(f.cluster, 2, VolumeState::serving));
  CHECK(shown(f.cluster, 2) == 2);
}

// O3. Host 0 has a write that nobody was told of. The next engine must not show its absence before
// host 0 is out of the set; and what it does while it waits must not hide the difference.
TEST_CASE("nothing is served, and nothing stable, while an agreed member is absent") {
  Fixture f;
  REQUIRE(f.io.write(0, kBlockBytes, 1) == Error::Ok);
  REQUIRE(f.io.flush() == Error::Ok);
  f.cluster.world().run_for(3'000'000);
  for (const std::uint32_t host : {1u, 2u}) f.cluster.partition(0, host, true);
  std::memset(f.io.memory, 2, kBlockBytes);
  f.io.begin(BlockRequest::Op::write, 0, kBlockBytes);
  f.cluster.world().run_for(5'000);
  for (const std::uint32_t host : {1u, 2u}) f.cluster.reset_links(0, host);
  f.cluster.kill(0, false);
  f.cluster.heal();
  f.cluster.meta_reachable = false;
  f.cluster.attach(1);
  CHECK_FALSE(until_state(f.cluster, 1, VolumeState::serving, 5'000'000));
  f.cluster.kill(1, false);
  f.cluster.meta_reachable = true;
  f.cluster.restart(0);
  f.cluster.restart(1);
  f.cluster.world().run_for(1'000'000);
  f.cluster.attach(2);
  REQUIRE(until_state(f.cluster, 2, VolumeState::serving));
  REQUIRE(until_in_sync(f.cluster, 3));
  const int seen = shown(f.cluster, 2);
  CHECK(f.cluster.compare_replicas() == "");
  CHECK(shown(f.cluster, 2) == seen);
}

// O4. As above, but within one engine: host 0 alone has a write that was given up.
TEST_CASE("nothing is served after a reopening while an agreed member is absent") {
  ClusterOptions options;
  options.hosts = 4;
  Fixture f(options, 3);
  REQUIRE(f.io.write(0, kBlockBytes, 1) == Error::Ok);
  f.cluster.meta_reachable = false;
  for (const std::uint32_t host : {1u, 2u}) f.cluster.partition(3, host, true);
  std::memset(f.io.memory, 2, kBlockBytes);
  f.io.begin(BlockRequest::Op::write, 0, kBlockBytes);
  CHECK(f.io.wait() == Error::WriteUnresolved);
  f.cluster.kill(0, false);
  for (const std::uint32_t host : {1u, 2u}) f.cluster.partition(3, host, false);
  Io reader(f.cluster, 3);
  reader.begin(BlockRequest::Op::read, 0, kBlockBytes);
  CHECK(reader.wait(10'000'000) == Error::Timeout);
  f.cluster.restart(0);
  CHECK(reader.wait() == Error::Ok);
  CHECK(reader.all(2, 0, kBlockBytes));
}

// I1. Every member was lost and is back; then each has a chunk after as many writes as the other.
TEST_CASE("a version is never used again after a reopening") {
  Fixture f(one_is_enough(2), 2);
  for (int byte = 1; byte <= 5; ++byte) REQUIRE(f.io.write(0, kBlockBytes, byte) == Error::Ok);
  for (const std::uint32_t host : {0u, 1u}) f.cluster.partition(2, host, true);
  f.cluster.world().run_for(2'000'000);
  f.cluster.heal();
  REQUIRE(until_state(f.cluster, 2, VolumeState::serving));
  f.cluster.kill(1, false);
  for (int byte = 11; byte <= 15; ++byte) REQUIRE(f.io.write(0, kBlockBytes, byte) == Error::Ok);
  f.cluster.restart(1);
  REQUIRE(until_in_sync(f.cluster, 2));
  CHECK(f.cluster.compare_replicas() == "");
}

// O2. Host 2 is brought to the common state in an opening, and loses its power.
TEST_CASE("what an opening made equal stays so without power") {
  ClusterOptions options;
  options.hosts = 4;
  Fixture f(options);
  REQUIRE(f.io.write(0, kBlockBytes, 1) == Error::Ok);
  REQUIRE(f.io.flush() == Error::Ok);
  f.cluster.world().run_for(3'000'000);
  f.cluster.partition(0, 2, true);
  REQUIRE(f.io.write(0, kBlockBytes, 2) == Error::Ok);
  f.cluster.kill(0, false);
  f.cluster.heal();
  f.cluster.attach(3);
  REQUIRE(until_state(f.cluster, 3, VolumeState::serving));
  f.cluster.world().run_for(3'000'000);
  f.cluster.kill(3, false);
  lose_power(f.cluster, 2);
  for (const std::uint32_t host : {2u, 3u}) f.cluster.restart(host);
  f.cluster.attach(3);
  REQUIRE(until_state(f.cluster, 3, VolumeState::serving));
  f.cluster.restart(0);
  REQUIRE(until_in_sync(f.cluster, 3));
  CHECK(f.cluster.compare_replicas() == "");
}

// J4 and the stable mark. Host 1 joins slowly while clients write, is agreed without the engine's
// knowledge, flushes nothing from then on, and loses its power.
TEST_CASE("the stable mark covers only what a member that joins has flushed") {
  Fixture f(one_is_enough(2), 2);
  f.cluster.kill(1, false);
  REQUIRE(f.io.write(0, kBlockBytes, 1) == Error::Ok);
  REQUIRE(until_in_sync(f.cluster, 1));
  f.cluster.restart(1);
  fake(f.cluster, 1).store().slowness = 300;
  for (std::uint64_t chunk = 1; f.cluster.notices("resync-finished") == 0; chunk = chunk % 30 + 1) {
    REQUIRE(f.io.write(chunk * kChunkBytes, kBlockBytes, 2) == Error::Ok);
    f.cluster.world().run_for(3'000);
  }
  REQUIRE(until_in_sync(f.cluster, 2));
  f.cluster.meta_reachable = false;
  REQUIRE(f.io.write(31 * kChunkBytes, kBlockBytes, 3) == Error::Ok);
  fake(f.cluster, 1).store().stuck = true;
  f.cluster.world().run_for(2'500'000);
  lose_power(f.cluster, 1);
  f.cluster.kill(2, false);
  f.cluster.restart(1);
  f.cluster.restart(2);
  f.cluster.meta_reachable = true;
  f.cluster.attach(2);
  REQUIRE(until_state(f.cluster, 2, VolumeState::serving));
  REQUIRE(until_in_sync(f.cluster, 2));
  CHECK(f.cluster.compare_replicas() == "");
}

// P, step 5. Host 2 is away while a content is overwritten in its own era, and then in the next: it
// never was past, but host 2's store makes it so when it is replaced.
TEST_CASE("on the store itself: a member that joins keeps no past that nobody else has") {
  ClusterOptions options;
  options.make_medium = [](io::SimWorld& world, Uuid store_id,
                           Uuid cluster_id) -> std::unique_ptr<Medium> {
    return std::make_unique<DiskMedium>(world, store_id, cluster_id, 96u << 20, 8u << 20);
  };
  Fixture f(options);
  REQUIRE(f.io.write(0, kBlockBytes, 1) == Error::Ok);
  REQUIRE(f.io.flush() == Error::Ok);
  f.cluster.world().run_for(100'000);
  f.cluster.kill(2, false);
  REQUIRE(until_in_sync(f.cluster, 2));
  REQUIRE(f.io.write(0, kBlockBytes, 2) == Error::Ok);
  const Era taken = f.cluster.take_snapshot(0);
  REQUIRE(
      f.cluster.world().run_until([&] { return f.cluster.snapshot_final(taken); }, kPatienceUs));
  REQUIRE(f.io.write(0, kBlockBytes, 3) == Error::Ok);
  f.cluster.restart(2);
  REQUIRE(until_in_sync(f.cluster, 3));
  f.cluster.world().run_for(1'000'000);
  for (std::uint32_t host = 0; host < 3; ++host) {
    CAPTURE(host);
    const store::Store& store = *f.cluster.process(host).store;
    const auto segment = store.find_segment({f.cluster.volume_id(), 0});
    REQUIRE(segment);
    CHECK(store.segment_info(*segment).past_count == 1);
  }
}

// F1. The older engine has nothing to do but to renew its leases, and cannot hear of the newer one
// but from host 2.
TEST_CASE("a member that knows a newer engine grants the older one nothing") {
  Fixture f;
  REQUIRE(f.io.write(0, kBlockBytes, 1) == Error::Ok);
  REQUIRE(f.io.flush() == Error::Ok);
  f.cluster.world().run_for(3'000'000);
  f.cluster.partition(0, 1, true);
  f.cluster.attach(1);
  Io other(f.cluster, 1);
  REQUIRE(until_state(f.cluster, 1, VolumeState::serving, 3'000'000));
  REQUIRE(other.write(0, kBlockBytes, 2) == Error::Ok);
  CHECK(f.io.read(0, kBlockBytes) == Error::EpochFenced);
}

// F1. Host 2 was opened by the engine at host 1, and has been restarted since.
TEST_CASE("a member that was restarted takes no older engine") {
  Fixture f;
  REQUIRE(f.io.write(0, kBlockBytes, 1) == Error::Ok);
  f.cluster.world().run_for(1'000'000);
  for (const std::uint32_t host : {1u, 2u}) f.cluster.partition(0, host, true);
  f.cluster.attach(1);
  Io other(f.cluster, 1);
  REQUIRE(until_state(f.cluster, 1, VolumeState::serving));
  REQUIRE(other.write(0, kBlockBytes, 2) == Error::Ok);
  f.cluster.kill(2, false);
  f.cluster.partition(1, 2, true);
  f.cluster.partition(0, 2, false);
  f.cluster.restart(2);
  f.io.begin(BlockRequest::Op::read, 0, kBlockBytes);
  CHECK(f.io.wait(10'000'000) == Error::EpochFenced);
}

// F2. Both members of the newer engine have just started, while the older one's leases are alive.
TEST_CASE("a member that was restarted may have granted a lease") {
  ClusterOptions options;
  options.lease_us = 2'000'000;
  options.member_timeout_us = 4'000'000;
  Fixture f(options);
  REQUIRE(f.io.write(0, kBlockBytes, 1) == Error::Ok);
  f.cluster.world().run_for(1'000'000);
  for (const std::uint32_t host : {1u, 2u}) {
    f.cluster.partition(0, host, true);
    f.cluster.kill(host, false);
    f.cluster.restart(host);
  }
  f.cluster.attach(1);
  Io other(f.cluster, 1);
  REQUIRE(until_state(f.cluster, 1, VolumeState::serving));
  REQUIRE(other.write(0, kBlockBytes, 2) == Error::Ok);
  f.io.begin(BlockRequest::Op::read, 0, kBlockBytes);
  CHECK(f.io.wait(50'000) == Error::Timeout);
}

// F3. What an engine's resync sent arrives when a newer one has written.
TEST_CASE("what an ended session sent is refused when it arrives late") {
  for (std::uint64_t seed = 1; seed <= 8; ++seed) {
    CAPTURE(seed);
    ClusterOptions options;
    options.seed = seed;
    Fixture f(options);
    f.cluster.kill(1, false);
    REQUIRE(until_in_sync(f.cluster, 2));
    for (std::uint64_t chunk = 0; chunk < 30; ++chunk)
      REQUIRE(f.io.write(chunk * kChunkBytes, kBlockBytes, 1) == Error::Ok);
    f.cluster.fabric().set_delays(2'000, 20'000);
    f.cluster.restart(1);
    const auto copying = [&] { return f.cluster.volume(0)->stats().resync_bytes > 0; };
    REQUIRE(f.cluster.world().run_until(copying, kPatienceUs));
    f.cluster.partition(0, 1, true);
    f.cluster.attach(2);
    REQUIRE(until_state(f.cluster, 2, VolumeState::serving));
    REQUIRE(f.cluster.world().run_until([&] { return f.cluster.in_sync(1); }, kPatienceUs));
    Io other(f.cluster, 2);
    for (std::uint64_t chunk = 0; chunk < 30; ++chunk)
      REQUIRE(other.write(chunk * kChunkBytes, kBlockBytes, 2) == Error::Ok);
    f.cluster.heal();
    f.cluster.world().run_for(2'000'000);
    REQUIRE(until_in_sync(f.cluster, 3));
    CHECK(f.cluster.compare_replicas() == "");
  }
}

// L. The engine's clock runs slow, its members' run fast, by not quite a fifth between them. Host 1
// has been cut off from host 0 for long, so that an engine there waits for host 2's lease alone.
struct Drifting : Fixture {
  static ClusterOptions long_leases() {
    ClusterOptions options;
    options.lease_us = 2'000'000;
    options.member_timeout_us = 4'000'000;
    return options;
  }
  Drifting() : Fixture(long_leases()) {
    cluster.process(0).loop->set_clock_drift_ppm(-90'000);
    for (const std::uint32_t host : {1u, 2u})
      cluster.process(host).loop->set_clock_drift_ppm(90'000);
    REQUIRE(io.write(0, kBlockBytes, 1) == Error::Ok);
    cluster.meta_reachable = false;
    cluster.partition(0, 1, true);
    cluster.reset_links(0, 1);
    cluster.world().run_for(6'000'000);
    REQUIRE(io.write(0, kBlockBytes, 1) == Error::Ok);
  }
  // Host 0 loses host 2 as well. Another engine writes as soon as it may: does the old one give out
  // what was there before?
  bool stale_after_takeover() {
    cluster.partition(0, 2, true);
    cluster.meta_reachable = true;
    cluster.attach(1);
    Io other(cluster, 1);
    REQUIRE(until_state(cluster, 1, VolumeState::serving));
    REQUIRE(other.write(0, kBlockBytes, 2) == Error::Ok);
    io.begin(BlockRequest::Op::read, 0, kBlockBytes);
    return io.wait(100'000) != Error::Timeout;
  }
};

TEST_CASE("leases end in time where clocks run at different rates") {
  for (std::uint64_t phase_us = 0; phase_us < 80'000; phase_us += 10'000) {
    CAPTURE(phase_us);
    Drifting f;
    f.cluster.world().run_for(phase_us);
    CHECK_FALSE(f.stale_after_takeover());
  }
}

TEST_CASE("leases end in time where their answers are long on their way") {
  for (std::uint64_t late_us = 500'000; late_us <= 1'000'000; late_us += 100'000) {
    CAPTURE(late_us);
    Drifting f;
    f.cluster.fabric().block("host2", "host0", true);
    f.cluster.world().run_for(late_us);
    f.cluster.fabric().block("host2", "host0", false);
    f.cluster.world().run_for(1'000);
    CHECK_FALSE(f.stale_after_takeover());
  }
}

// The first member in line is still agreed, and lacks what the others acknowledged.
TEST_CASE("the highest version is the truth, whoever reports first") {
  Fixture f({}, 2);
  REQUIRE(f.io.write(0, kBlockBytes, 0x11) == Error::Ok);
  f.cluster.meta_reachable = false;  // nobody leaves the set
  f.cluster.kill(0, false);
  REQUIRE(f.io.write(0, kBlockBytes, 0x22) == Error::Ok);
  f.cluster.kill(1, false);
  f.cluster.kill(2, false);
  f.cluster.meta_reachable = true;
  for (std::uint32_t host = 0; host < 3; ++host) f.cluster.restart(host);
  f.cluster.attach(1);
  REQUIRE(until_state(f.cluster, 1, VolumeState::serving));
  Io at_one(f.cluster, 1);
  REQUIRE(at_one.read(0, kBlockBytes) == Error::Ok);
  CHECK(at_one.all(0x22, 0, kBlockBytes));
}

}  // namespace
}  // namespace blockd::sim
