// Single stories of a cluster, each about one promise of docs/REPLICATION.md.
#include "tests/sim/story.h"

#include <doctest/doctest.h>

#include <cstdlib>
#include <cstring>
#include <string>

#include "base/crc32c.h"
#include "border/scrubber.h"
#include "sim/cluster.h"
#include "sim/workload.h"

namespace blockd::sim {
namespace {

TEST_CASE("unaligned writes and trims change their bytes and no others") {
  Fixture f;
  REQUIRE(f.io.write(0, 32768, 1) == Error::Ok);
  REQUIRE(f.io.write(1000, 10001, 2) == Error::Ok);
  REQUIRE(f.io.trim(20000, 5000) == Error::Ok);
  REQUIRE(f.io.write(30000, 7, 3) == Error::Ok);
  REQUIRE(f.io.read(0, 32768) == Error::Ok);
  CHECK(f.io.all(1, 0, 1000));
  CHECK(f.io.all(2, 1000, 10001));
  CHECK(f.io.all(1, 11001, 8999));
  CHECK(f.io.all(0, 20000, 5000));
  CHECK(f.io.all(1, 25000, 5000));
  CHECK(f.io.all(3, 30000, 7));
  CHECK(f.io.all(1, 30007, 32768 - 30007));
}

TEST_CASE("the largest unaligned write is taken whole") {
  Fixture f;
  REQUIRE(f.io.write(512, kMutationBytesMax, 7) == Error::Ok);
  REQUIRE(f.io.read(0, kMutationBytesMax) == Error::Ok);
  CHECK(f.io.all(0, 0, 512));
  CHECK(f.io.all(7, 512, kMutationBytesMax - 512));
}

TEST_CASE("requests across a segment's border and a long trim are one request to the client") {
  ClusterOptions options;
  options.volume_bytes = kSegmentBytes + (1u << 20);
  Fixture f(options);
  REQUIRE(f.io.write(kSegmentBytes - 100'000, 200'000, 5, true) == Error::Ok);
  REQUIRE(f.io.read(kSegmentBytes - 65'536, 131'072) == Error::Ok);
  CHECK(f.io.all(5, 0, 131'072));
  REQUIRE(f.io.trim(4096, static_cast<std::uint32_t>(kSegmentBytes)) == Error::Ok);
  REQUIRE(f.io.read(kSegmentBytes - 65'536, 131'072) == Error::Ok);
  CHECK(f.io.all(0, 0, 65'536 + 4096));
  CHECK(f.io.all(5, 65'536 + 4096, 61'440));
}

TEST_CASE("bad requests are refused with the right error") {
  Fixture f;
  f.io.begin(BlockRequest::Op::read, 100, 4096);
  CHECK(f.io.wait() == Error::InvalidArgument);
  f.io.begin(BlockRequest::Op::read, 2u << 20, 4096);
  CHECK(f.io.wait() == Error::ExtentOutOfRange);
  f.io.begin(BlockRequest::Op::write, (2u << 20) - 100, 200);
  CHECK(f.io.wait() == Error::ExtentOutOfRange);
  f.io.begin(BlockRequest::Op::write, 0, kMutationBytesMax + 1);
  CHECK(f.io.wait() == Error::RequestTooLarge);
  f.io.begin(BlockRequest::Op::trim, ~std::uint64_t{0} - 10, 4096);
  CHECK(f.io.wait() == Error::ExtentOutOfRange);
}

TEST_CASE(
    "losing one of three stalls no write for longer than noticing it, also without metadata") {
  Fixture f;
  f.cluster.meta_reachable = false;
  REQUIRE(f.io.write(0, 4096, 1) == Error::Ok);
  f.cluster.kill(2, false);
  const std::uint64_t before = f.cluster.world().now_us();
  for (int i = 0; i < 20; ++i) REQUIRE(f.io.write(0, 4096, i) == Error::Ok);
  REQUIRE(f.io.flush() == Error::Ok);
  CHECK(f.cluster.world().now_us() - before < 200'000);
}

TEST_CASE("losing one of two goes on once the smaller set is agreed") {
  ClusterOptions options;
  options.replicas = 2;
  options.min_in_sync = 1;
  Fixture f(options);
  f.cluster.kill(1, false);
  REQUIRE(f.io.write(0, 4096, 9) == Error::Ok);
  CHECK(f.cluster.in_sync_count(0) == 1);
}

TEST_CASE(
    "below min_in_sync requests wait for the volume's timeout, fail, and go on by themselves") {
  for (const std::uint64_t timeout_us : {0u, 5'000'000u, 70'000'000u}) {  // 0: 30 s
    CAPTURE(timeout_us);
    ClusterOptions options;
    options.replicas = 2;
    options.min_in_sync = 2;
    options.io_timeout_us = timeout_us;
    Fixture f(options);
    const std::uint64_t expected_us = timeout_us != 0 ? timeout_us : 30'000'000;
    REQUIRE(f.io.write(4096, 4096, 1) == Error::Ok);
    f.cluster.kill(1, false);
    Io flush(f.cluster, 0), late(f.cluster, 0);
    f.io.begin(BlockRequest::Op::write, 0, 4096);
    flush.begin(BlockRequest::Op::flush, 0, 0);
    CHECK(f.io.wait(expected_us - 1'000'000) == Error::Timeout);
    CHECK_FALSE(flush.over);
    late.begin(BlockRequest::Op::write, 8192, 4096);
    const Error error = f.io.wait(3'000'000);
    const bool told = error == Error::QuorumLost || error == Error::WriteUnresolved;
    CHECK(told);
    CHECK(flush.wait(3'000'000) != Error::Timeout);
    CHECK_FALSE(late.over);  // it has its own time
    f.cluster.restart(1);
    REQUIRE(until_state(f.cluster, 0, VolumeState::serving));
    CHECK(late.wait() == Error::Ok);
    CHECK(f.io.write(0, 4096, 4) == Error::Ok);
    CHECK(f.cluster.in_sync_count(0) == 2);
  }
}

TEST_CASE("a request fails in time also while the segment is opened again") {
  ClusterOptions options;
  options.hosts = 4;
  options.io_timeout_us = 5'000'000;
  Fixture f(options, 3);
  for (std::uint32_t host = 0; host < 3; ++host) f.cluster.kill(host, false);
  SUBCASE("begun before it is noticed") {}
  SUBCASE("begun after it is noticed") {
    f.cluster.world().run_for(3'000'000);
  }
  Io second(f.cluster, 3);
  f.io.begin(BlockRequest::Op::write, 0, kBlockBytes);
  second.begin(BlockRequest::Op::read, 0, kBlockBytes);
  const Error wrote = f.io.wait();
  const Error read = second.wait();
  CHECK((wrote == Error::QuorumLost || wrote == Error::WriteUnresolved));
  CHECK(read == Error::QuorumLost);
  if (!f.io.over || !second.over) f.cluster.kill(3, false);
}

TEST_CASE(
    "a member that is lost is told of at once, also while the metadata counts it as in sync") {
  Fixture f;
  const auto status = [&] { return f.cluster.volume(0)->status()[0]; };
  CHECK(status().behind.empty());
  f.cluster.meta_reachable = false;
  f.cluster.kill(2, false);
  REQUIRE(f.io.write(0, 4096, 1) == Error::Ok);
  REQUIRE(f.cluster.world().run_until([&] { return !status().behind.empty(); }, 3'000'000));
  CHECK(status().in_sync.size() == 3);
  CHECK(status().behind == std::vector{f.cluster.host_id(2)});
  f.cluster.meta_reachable = true;
  REQUIRE(f.cluster.world().run_until([&] { return status().behind.empty(); }, kPatienceUs));
  CHECK(status().absent == std::vector{f.cluster.host_id(2)});
  f.cluster.restart(2);
  REQUIRE(f.cluster.world().run_until([&] { return f.cluster.all_in_sync(0); }, kPatienceUs));
}

TEST_CASE("a returning member is sent only what it missed") {
  Fixture f;
  for (std::uint64_t at = 0; at < 1u << 20; at += kMutationBytesMax)
    REQUIRE(f.io.write(at, kMutationBytesMax, 1) == Error::Ok);
  REQUIRE(f.io.flush() == Error::Ok);
  f.cluster.kill(1, false);
  REQUIRE(until_in_sync(f.cluster, 2));
  REQUIRE(f.io.write(0, 4096, 2) == Error::Ok);
  REQUIRE(f.io.write(300'000, 4096, 3) == Error::Ok);
  f.cluster.restart(1);
  REQUIRE(until_in_sync(f.cluster, 3));
  CHECK(f.cluster.volume(0)->stats().resync_bytes >= 2 * kChunkBytes);
  CHECK(f.cluster.volume(0)->stats().resync_bytes <=
        3 * kChunkBytes);  // one it may have had in flight
  CHECK(f.cluster.compare_replicas().empty());
}

// As if the host's store had been formatted anew, under its old id.
void format_anew(SimCluster& cluster, std::uint32_t host) {
  FakeMedium& medium = fake(cluster, host).medium();
  medium.base.clear();
  medium.live.clear();
  medium.log.clear();
  medium.done_count = 0;
}

TEST_CASE("a replica that vanished is built anew, and never while it counts as in sync") {
  Fixture f;
  REQUIRE(f.io.write(0, kMutationBytesMax, 1) == Error::Ok);
  f.cluster.kill(2, false);
  format_anew(f.cluster, 2);
  f.cluster.meta_reachable = false;
  f.cluster.restart(2);
  f.cluster.world().run_for(5'000'000);
  CHECK(fake(f.cluster, 2).medium().live.empty());  // still agreed in sync: not created
  f.cluster.meta_reachable = true;
  REQUIRE(until_in_sync(f.cluster, 2));
  REQUIRE(until_in_sync(f.cluster, 3));
  CHECK(f.cluster.compare_replicas().empty());
}

TEST_CASE("a store put in another's place brings back no zeros, and is filled again") {
  Fixture f;
  REQUIRE(f.io.write(0, 65536, 1, true) == Error::Ok);
  REQUIRE(f.cluster.detach(0));
  f.cluster.kill(1, false);
  format_anew(f.cluster, 1);
  f.cluster.restart(1);
  f.cluster.attach(1);  // where reads would go to the local replica
  REQUIRE(until_state(f.cluster, 1, VolumeState::serving));
  Io io(f.cluster, 1);
  REQUIRE(io.read(0, 65536) == Error::Ok);
  CHECK(io.all(1, 0, 65536));
  REQUIRE(until_in_sync(f.cluster, 3));
  CHECK(f.cluster.volume(1)->stats().resync_bytes >= 65536);
  CHECK(f.cluster.compare_replicas().empty());
}

TEST_CASE("with the replicas gone that may be the newest, nothing is served, and that is said") {
  Fixture f;
  REQUIRE(f.io.write(0, 65536, 1, true) == Error::Ok);
  REQUIRE(f.cluster.detach(0));
  for (const std::uint32_t host : {1u, 2u}) {
    f.cluster.kill(host, false);
    format_anew(f.cluster, host);
    f.cluster.restart(host);
  }
  f.cluster.attach(0);
  f.cluster.world().run_for(10'000'000);
  CHECK(f.cluster.volume(0)->state() == VolumeState::opening);
  const std::vector<engine::SegmentStatus> status = f.cluster.volume(0)->status();
  CHECK(status[0].lost);
  CHECK(status[0].missing == std::vector<Uuid>{f.cluster.host_id(1), f.cluster.host_id(2)});
  CHECK(f.cluster.in_sync_count(0) == 3);
}

// The set with host2 has become true, and the engine does not know it yet: to it host2 is asked
// for.
TEST_CASE("a member that may be agreed by now is not made anew, empty") {
  Fixture f;
  REQUIRE(f.io.write(0, 65536, 1, true) == Error::Ok);
  f.cluster.kill(2, false);
  REQUIRE(until_in_sync(f.cluster, 2));
  for (std::uint64_t at = 65536; at < 2u << 20; at += 65536)
    REQUIRE(f.io.write(at, 65536, 2, true) == Error::Ok);
  f.cluster.restart(2);
  REQUIRE(f.cluster.world().run_until([&] { return f.cluster.in_sync(2); }, kPatienceUs));
  f.cluster.cut_from_metadata(0, true);
  f.cluster.world().run_for(1'000'000);
  REQUIRE(f.cluster.volume(0)->status()[0].in_sync.size() == 2);
  f.cluster.kill(2, false);
  format_anew(f.cluster, 2);
  f.cluster.restart(2);
  f.cluster.world().run_for(5'000'000);
  CHECK(fake(f.cluster, 2).medium().live.empty());
  f.cluster.kill(0, false);
  f.cluster.attach(2);
  f.cluster.world().run_for(5'000'000);
  CHECK(f.cluster.volume(2)->state() != VolumeState::serving);  // host1 may lack something
  f.cluster.restart(0);
  REQUIRE(until_state(f.cluster, 2, VolumeState::serving));
  Io io(f.cluster, 2);
  REQUIRE(io.read(0, 65536) == Error::Ok);
  CHECK(io.all(1, 0, 65536));
}

TEST_CASE("a damaged block is read elsewhere, repaired and reported") {
  Fixture f;
  REQUIRE(f.io.write(0, 65536, 6) == Error::Ok);
  f.cluster.world().run_for(100'000);
  FakeMedium& medium = fake(f.cluster, 0).medium();
  medium.fold(medium.done_count);
  for (auto* image : {&medium.base, &medium.live})
    image->begin()->second.chunks.at(0).data[5000] ^= std::byte{1};
  REQUIRE(f.io.read(0, 65536) == Error::Ok);
  CHECK(f.io.all(6, 0, 65536));
  CHECK(f.cluster.world().run_until([&] { return f.cluster.notices("block-repaired") == 1; },
                                    kPatienceUs));
  CHECK(f.cluster.compare_replicas().empty());
  CHECK(medium.live.begin()->second.chunks.at(0).data[5000] == std::byte{6});
  CHECK(f.cluster.volume(0)->stats().remote_reads > 0);
}

TEST_CASE("a scrub finds a rotten block at a replica; it is repaired without any client's read") {
  Fixture f;
  REQUIRE(f.io.write(0, kMutationBytesMax, 6) == Error::Ok);
  REQUIRE(f.io.write(1u << 20, 65536, 7) == Error::Ok);
  f.cluster.world().run_for(100'000);
  FakeMedium& medium = fake(f.cluster, 2).medium();
  medium.fold(medium.done_count);
  for (auto* image : {&medium.base, &medium.live})
    image->begin()->second.chunks.at(2).data[5000] ^= std::byte{1};

  Process& replica = f.cluster.process(2);
  border::Scrubber scrubber(*replica.loop, *replica.buffers, *replica.store);
  const auto scrub = [&] {
    scrubber.start(1u << 20, {}, 0);
    REQUIRE(f.cluster.world().run_until([&] { return scrubber.report().finished; }, kPatienceUs));
    return scrubber.report();
  };
  const border::ScrubReport report = scrub();
  REQUIRE(report.findings.size() == 1);
  CHECK(report.findings[0].block == 2 * kBlocksPerChunk + 1);
  CHECK(report.findings[0].error == Error::ChecksumMismatch);
  CHECK(report.chunks_done == 5);

  Error repaired = Error::Timeout;
  f.cluster.volume(0)->repair_chunk(0, 2, 0,
                                    f.cluster.volume(0)->config().segments[0].members[2].host,
                                    [&](Error error) { repaired = error; });
  CHECK(f.cluster.world().run_until([&] { return repaired == Error::Ok; }, kPatienceUs));
  CHECK(f.cluster.notices("block-repaired") == 1);
  CHECK(f.cluster.volume(0)->stats().reads == 0);
  CHECK(scrub().findings.empty());
  CHECK(f.cluster.compare_replicas().empty());
}

TEST_CASE("what only a snapshot shows is repaired as it was, and the current content left alone") {
  Fixture f;
  REQUIRE(f.io.write(0, 65536, 6) == Error::Ok);
  Error begun = Error::Timeout;
  f.cluster.volume(0)->begin_era(2, [&](Error error) { begun = error; });
  REQUIRE(f.cluster.world().run_until([&] { return begun == Error::Ok; }, kPatienceUs));
  REQUIRE(f.io.write(0, 4096, 7) == Error::Ok);
  f.cluster.world().run_for(100'000);
  FakeMedium& medium = fake(f.cluster, 2).medium();
  medium.fold(medium.done_count);
  for (auto* image : {&medium.base, &medium.live})
    image->begin()->second.past.at(0).at(0).content.data[9000] ^= std::byte{1};
  Process& replica = f.cluster.process(2);
  border::Scrubber scrubber(*replica.loop, *replica.buffers, *replica.store);
  const auto findings = [&] {
    scrubber.start(1u << 20, {}, 0);
    REQUIRE(f.cluster.world().run_until([&] { return scrubber.report().finished; }, kPatienceUs));
    return scrubber.report().findings;
  };
  const auto before = findings();
  REQUIRE(before.size() == 1);
  CHECK(before[0].block == 2);
  CHECK(before[0].born == 1);
  const auto repair = [&](Era born) {
    Error told = Error::Timeout;
    bool over = false;
    engine::Volume& volume = *f.cluster.volume(0);
    volume.repair_chunk(0, 0, born, volume.config().segments[0].members[2].host, [&](Error error) {
      told = error;
      over = true;
    });
    REQUIRE(f.cluster.world().run_until([&] { return over; }, kPatienceUs));
    return told;
  };
  CHECK(repair(0) == Error::Ok);  // that of the current content does not touch it
  CHECK(findings().size() == 1);
  CHECK(repair(1) == Error::Ok);
  CHECK(findings().empty());
  CHECK(repair(5) == Error::NotInSync);  // nobody has a past content of that era
  CHECK(f.io.read(0, 4096) == Error::Ok);
  CHECK(f.io.all(7, 0, 4096));
  CHECK(f.cluster.compare_replicas().empty());
}

TEST_CASE("a repair asks the next member when the first one cannot read the chunk either") {
  Fixture f;
  REQUIRE(f.io.write(0, 65536, 6) == Error::Ok);
  f.cluster.world().run_for(100'000);
  const auto rot = [&](std::uint32_t host, std::size_t at) {
    FakeMedium& medium = fake(f.cluster, host).medium();
    medium.fold(medium.done_count);
    for (auto* image : {&medium.base, &medium.live})
      image->begin()->second.chunks.at(0).data[at] ^= std::byte{1};
  };
  const auto repair = [&](std::uint32_t host) {
    Error told = Error::Timeout;
    bool over = false;
    engine::Volume& volume = *f.cluster.volume(0);
    volume.repair_chunk(0, 0, 0, volume.config().segments[0].members[host].host, [&](Error error) {
      told = error;
      over = true;
    });
    REQUIRE(f.cluster.world().run_until([&] { return over; }, kPatienceUs));
    return told;
  };
  rot(0, 100);  // the nearest, which is asked first
  rot(2, 9000);
  CHECK(repair(2) == Error::Ok);
  CHECK(repair(0) == Error::Ok);
  CHECK(f.cluster.compare_replicas().empty());
  for (std::uint32_t host = 0; host < 3; ++host) rot(host, 200);
  CHECK(repair(1) == Error::ChecksumMismatch);
  f.cluster.kill(1, false);
  REQUIRE(until_in_sync(f.cluster, 2));
  CHECK(repair(1) == Error::NotInSync);
}

TEST_CASE("a block damaged on every replica is an error, never wrong bytes") {
  Fixture f;
  REQUIRE(f.io.write(0, 4096, 6) == Error::Ok);
  f.cluster.world().run_for(100'000);
  for (std::uint32_t host = 0; host < 3; ++host) {
    fake(f.cluster, host).medium().live.begin()->second.chunks.at(0).data[50] ^= std::byte{1};
  }
  CHECK(f.io.read(0, 4096) == Error::ChecksumMismatch);
  CHECK(f.io.write(0, 4096, 8) == Error::Ok);
  CHECK(f.io.read(0, 4096) == Error::Ok);
  CHECK(f.io.all(8, 0, 4096));
}

TEST_CASE("a store that fails writes costs its member, not the volume; the local one too") {
  for (const std::uint32_t failing : {0u, 2u}) {
    Fixture f;
    fake(f.cluster, failing).store().fail_mutations = Error::DiskError;
    REQUIRE(f.io.write(0, 4096, 1) == Error::Ok);
    REQUIRE(until_in_sync(f.cluster, 2));
    REQUIRE(f.io.write(0, 4096, 2) == Error::Ok);
    fake(f.cluster, failing).store().fail_mutations = Error::Ok;
    REQUIRE(until_in_sync(f.cluster, 3));
    CHECK(f.io.read(0, 4096) == Error::Ok);
    CHECK(f.io.all(2, 0, 4096));
    CHECK(f.cluster.compare_replicas().empty());
  }
}

TEST_CASE("a member whose disk hangs is taken out; a slow one sets nobody's latency") {
  Fixture f;
  fake(f.cluster, 1).store().slowness = 500;
  const std::uint64_t before = f.cluster.world().now_us();
  for (int i = 0; i < 20; ++i) REQUIRE(f.io.write(0, 4096, i) == Error::Ok);
  CHECK(f.cluster.world().now_us() - before < 200'000);
  fake(f.cluster, 1).store().slowness = 1;
  fake(f.cluster, 2).store().stuck = true;
  REQUIRE(f.io.write(8192, 4096, 1) == Error::Ok);
  REQUIRE(until_in_sync(f.cluster, 2));
  REQUIRE(f.io.write(8192, 4096, 2) == Error::Ok);
}

TEST_CASE("a detach gives the leases back: the next attach does not wait for them") {
  Fixture f;
  REQUIRE(f.io.write(0, 4096, 1) == Error::Ok);
  f.cluster.world().run_for(f.cluster.options().lease_us);  // the hosts are past their own start
  REQUIRE(f.cluster.detach(0));
  const std::uint64_t before = f.cluster.world().now_us();
  f.cluster.attach(1);
  REQUIRE(until_state(f.cluster, 1, VolumeState::serving));
  CHECK(f.cluster.world().now_us() - before < 100'000);
  Io other(f.cluster, 1);
  REQUIRE(other.read(0, 4096) == Error::Ok);
  CHECK(other.all(1, 0, 4096));
}

TEST_CASE("an attach elsewhere fences a living engine within a lease or so") {
  Fixture f;
  REQUIRE(f.io.write(0, 4096, 1) == Error::Ok);
  f.cluster.attach(2);
  REQUIRE(until_state(f.cluster, 2, VolumeState::serving, 3'000'000));
  REQUIRE(until_state(f.cluster, 0, VolumeState::fenced, 1'000'000));
  CHECK(f.io.write(0, 4096, 2) == Error::EpochFenced);
  CHECK(f.io.read(0, 4096) == Error::EpochFenced);
  CHECK(f.cluster.detach(0));
  Io other(f.cluster, 2);
  REQUIRE(other.read(0, 4096) == Error::Ok);
  CHECK(other.all(1, 0, 4096));
}

TEST_CASE("a holder cut off from everybody serves no read once another may write") {
  Fixture f;
  REQUIRE(f.io.write(0, 4096, 1) == Error::Ok);
  f.cluster.partition(0, 1, true);
  f.cluster.partition(0, 2, true);
  f.cluster.attach(1);
  Io other(f.cluster, 1);
  REQUIRE(until_state(f.cluster, 1, VolumeState::serving));
  REQUIRE(other.write(0, 4096, 2) == Error::Ok);
  f.io.begin(BlockRequest::Op::read, 0, 4096);
  CHECK(f.io.wait(5'000'000) == Error::Timeout);  // it waits; the old value it has is not given out
  f.cluster.heal();
  CHECK(f.io.wait() == Error::EpochFenced);
}

TEST_CASE("with every member's metadata gone an attached volume goes on serving") {
  Fixture f;
  f.cluster.meta_reachable = false;
  for (int i = 0; i < 30; ++i) {
    REQUIRE(f.io.write(0, 4096, i) == Error::Ok);
    if (i == 10) f.cluster.reset_links(0, 1);
    if (i == 20) f.cluster.reset_links(0, 2);
    f.cluster.world().run_for(300'000);
  }
  CHECK(f.cluster.volume(0)->state() == VolumeState::serving);
}

TEST_CASE("a volume grows while it serves") {
  Fixture f;
  REQUIRE(f.io.write(0, 4096, 1) == Error::Ok);
  REQUIRE(f.cluster.grow(0, 4u << 20));
  REQUIRE(f.io.write(3u << 20, 4096, 2) == Error::Ok);
  REQUIRE(f.io.read(3u << 20, 4096) == Error::Ok);
  CHECK(f.io.all(2, 0, 4096));
}

TEST_CASE("a new engine's heartbeat makes no member forget the lease of the old one") {
  Fixture f;
  REQUIRE(f.io.write(0, 4096, 1) == Error::Ok);
  f.cluster.meta_reachable = false;
  f.cluster.partition(0, 1, true);
  f.cluster.reset_links(0, 1);
  f.cluster.world().run_for(2'000'000);  // host 1 knows by now that host 0 cannot be reached
  REQUIRE(f.io.write(0, 4096, 1) == Error::Ok);
  f.cluster.partition(0, 2, true);
  f.cluster.meta_reachable = true;
  f.cluster.attach(1);
  Io other(f.cluster, 1);
  REQUIRE(until_state(f.cluster, 1, VolumeState::serving));
  REQUIRE(other.write(0, 4096, 2) == Error::Ok);
  f.io.begin(BlockRequest::Op::read, 0, 4096);
  CHECK(f.io.wait(100'000) == Error::Timeout);
}

// The bytes around an unaligned write are those that are there when it is sequenced, also when that
// happens again after every member was lost.
TEST_CASE("an unaligned write that is sequenced anew brings back nothing old") {
  for (std::uint64_t after_us = 0; after_us <= 3'000; after_us += 100) {
    CAPTURE(after_us);
    ClusterOptions options;
    options.hosts = 2;
    options.replicas = options.min_in_sync = 1;
    options.seed = after_us + 1;
    Fixture f(options, 1);
    REQUIRE(f.io.write(0, 8192, 1) == Error::Ok);
    Io part(f.cluster, 1);
    Io whole(f.cluster, 1);
    std::memset(part.memory, 2, 512);
    std::memset(whole.memory, 3, 8192);
    part.begin(BlockRequest::Op::write, 4096 - 256, 512);
    f.cluster.world().run_for(after_us);
    f.cluster.partition(0, 1, true);
    f.cluster.world().run_for(330'000);  // no lease any more, but the link is not given up
    whole.begin(BlockRequest::Op::write, 0, 8192);
    f.cluster.world().run_for(1'000'000);
    f.cluster.heal();
    REQUIRE(part.wait() == Error::Ok);
    REQUIRE(whole.wait() == Error::Ok);
    REQUIRE(f.io.read(0, 8192) == Error::Ok);
    CHECK(f.io.all(3, 0, 4096 - 256));
    CHECK(f.io.all(3, 4096 + 256, 4096 - 256));
  }
}

TEST_CASE("a volume grows while a member is resynced") {
  Fixture f;
  for (int byte = 1; byte <= 2; ++byte) {
    for (std::uint64_t at = 0; at < 1u << 20; at += kMutationBytesMax)
      REQUIRE(f.io.write(at, kMutationBytesMax, byte) == Error::Ok);
    if (byte == 2) break;
    f.cluster.kill(1, false);
    REQUIRE(until_in_sync(f.cluster, 2));
  }
  f.cluster.restart(1);
  fake(f.cluster, 1).store().slowness = 100;
  const auto joining = [&] { return !f.cluster.volume(0)->status()[0].joining.empty(); };
  REQUIRE(f.cluster.world().run_until(joining, kPatienceUs));
  REQUIRE(f.cluster.grow(0, 512u << 20));
  REQUIRE(joining());
  for (std::uint64_t at = 2u << 20; at < 512u << 20; at += 5u << 20)
    REQUIRE(f.io.write(at, 8192, 3) == Error::Ok);
  REQUIRE(f.io.trim(4u << 20, 400u << 20) == Error::Ok);
  fake(f.cluster, 1).store().slowness = 1;
  REQUIRE(until_in_sync(f.cluster, 3));
  CHECK(f.cluster.compare_replicas().empty());
}

TEST_CASE("a read that hangs on a member's disk is answered by another, and costs the member") {
  ClusterOptions options;
  options.hosts = 4;
  Fixture f(options, 3);
  REQUIRE(f.io.write(0, 4096, 4) == Error::Ok);
  REQUIRE(f.io.flush() == Error::Ok);
  f.cluster.world().run_for(3'000'000);
  fake(f.cluster, 0).store().stuck = true;  // the nearest
  REQUIRE(f.io.read(0, 4096) == Error::Ok);
  CHECK(f.io.all(4, 0, 4096));
  CHECK(until_in_sync(f.cluster, 2));
}

TEST_CASE("a local disk that hangs keeps later reads for no longer than noticing it") {
  Fixture f;
  REQUIRE(f.io.write(0, 4096, 4) == Error::Ok);
  REQUIRE(f.io.flush() == Error::Ok);
  f.cluster.world().run_for(3'000'000);
  fake(f.cluster, 0).store().stuck = true;
  f.io.begin(BlockRequest::Op::read, 0, 4096);
  CHECK(f.io.wait(10'000'000) == Error::Timeout);  // the device has its memory
  Io later(f.cluster, 0);
  REQUIRE(later.read(0, 4096) == Error::Ok);
  CHECK(later.all(4, 0, 4096));
}

TEST_CASE("a member whose disk hangs while the volume opens is left behind") {
  ClusterOptions options;
  options.hosts = 4;
  Fixture f(options, 3);
  REQUIRE(f.io.write(0, 4096, 4) == Error::Ok);
  fake(f.cluster, 2).store().stuck = true;
  f.cluster.kill(3, false);
  f.cluster.restart(3);
  f.cluster.attach(3);
  REQUIRE(until_state(f.cluster, 3, VolumeState::serving));
  REQUIRE(f.io.read(0, 4096) == Error::Ok);
  CHECK(f.io.all(4, 0, 4096));
}

// I1: a chunk's version never stands for a history with a hole.
TEST_CASE("a mutation that one member refused is not hidden by the next one of its chunk") {
  for (const bool too_small : {false, true}) {
    CAPTURE(too_small);
    Fixture f;
    Io next(f.cluster, 0);
    constexpr std::uint64_t kEnd = (2u << 20) + 4096;
    const auto set_blocks = [&](std::uint64_t bytes) {
      for (auto* image : {&fake(f.cluster, 2).medium().base, &fake(f.cluster, 2).medium().live})
        image->begin()->second.info.block_count = static_cast<std::uint32_t>(bytes / kBlockBytes);
    };
    if (too_small) {
      REQUIRE(f.cluster.grow(0, kEnd + (1u << 20)));
      set_blocks(kEnd);
    } else {
      fake(f.cluster, 2).store().fail_mutations = Error::NoSpace;
      fake(f.cluster, 2).store().fail_count = 1;
    }
    std::memset(f.io.memory, 1, 8192);
    std::memset(next.memory, 2, 4096);
    f.io.begin(BlockRequest::Op::write, kEnd - 4096 - (too_small ? 0 : 8192), 8192);
    next.begin(BlockRequest::Op::write, kEnd - 4096 - (too_small ? 0 : 4096), 4096);
    REQUIRE(f.io.wait() == Error::Ok);
    REQUIRE(next.wait() == Error::Ok);
    f.cluster.world().run_for(20'000);
    set_blocks(too_small ? kEnd + (1u << 20) : 2u << 20);
    REQUIRE(until_in_sync(f.cluster, 2));
    REQUIRE(until_in_sync(f.cluster, 3));
    CHECK(f.cluster.compare_replicas() == "");
  }
}

TEST_CASE("the same seed gives the same run") {
  const auto run = [] {
    ClusterOptions options;
    options.seed = 77;
    SimCluster cluster(options);
    Workload work(cluster, 256 * 1024);
    cluster.attach(0);
    work.start(0, 8);
    cluster.world().run_for(400'000);
    cluster.kill(1, false);
    cluster.world().run_for(400'000);
    return cluster.world().digest();
  };
  CHECK(run() == run());
}

TEST_CASE("the checker finds what it is there to find") {
  History stale(1);
  const std::size_t first = stale.write_called(0, 1, 1);
  stale.write_answered(first);
  const std::size_t second = stale.write_called(0, 1, 2);
  stale.write_answered(second);
  stale.read_answered(stale.read_called(), 0, {1});
  CHECK_FALSE(stale.check().empty());

  History vanished(1);  // an unacknowledged write seen, then not seen
  vanished.write_answered(vanished.write_called(0, 1, 1));
  (void)vanished.write_called(0, 1, 2);
  vanished.read_answered(vanished.read_called(), 0, {2});
  CHECK(vanished.check().empty());
  vanished.read_answered(vanished.read_called(), 0, {1});
  CHECK_FALSE(vanished.check().empty());

  // Asked for before the second write; the first was answered by then, and so was what a write that
  // is in it had seen answered.
  History cut(2);
  cut.write_answered(cut.write_called(0, 1, 1, 0, 1));
  const std::uint64_t asked = cut.tick();
  cut.write_answered(cut.write_called(0, 1, 2, 0, 1));
  cut.write_answered(cut.write_called(1, 1, 3, 0, 1));
  cut.write_answered(cut.write_called(0, 1, 4, 0, 2));
  CHECK(cut.check_snapshot(1, asked, {1, 0}).empty());
  CHECK(cut.check_snapshot(1, asked, {2, 0}).empty());
  CHECK(cut.check_snapshot(1, asked, {2, 3}).empty());
  CHECK_FALSE(cut.check_snapshot(1, asked, {0, 0}).empty());
  CHECK_FALSE(cut.check_snapshot(1, asked, {1, 3}).empty());
  CHECK_FALSE(cut.check_snapshot(1, asked, {4, 3}).empty());
  CHECK(cut.check_snapshot(2, asked, {4, 3}).empty());

  History unwritten(1);
  unwritten.read_answered(unwritten.read_called(), 0, {0});
  CHECK(unwritten.check().empty());
  unwritten.read_answered(unwritten.read_called(), 0, {5});
  CHECK_FALSE(unwritten.check().empty());
}

// Clients that never pause: there is always a write that only the smaller set has.
TEST_CASE("a member comes back into the set under a load that never pauses") {
  for (const std::uint32_t replicas : {2u, 3u, 5u}) {
    CAPTURE(replicas);
    ClusterOptions options;
    options.seed = 3;
    options.hosts = replicas + 1;
    options.replicas = replicas;
    options.min_in_sync = 1;
    SimCluster cluster(options);
    Workload work(cluster, 1 << 20);
    work.think_us = 100;
    cluster.attach(0);
    REQUIRE(until_state(cluster, 0, VolumeState::serving));
    work.start(0, 16);
    cluster.world().run_for(100'000);
    cluster.kill(1, false);
    REQUIRE(until_in_sync(cluster, replicas - 1));
    cluster.restart(1);
    CHECK(until_in_sync(cluster, replicas, 3'000'000));
    work.stop();
    REQUIRE(cluster.world().run_until([&] { return work.idle(); }, kPatienceUs));
    CHECK(work.history().check() == "");
  }
}

// The engine, on a host without a replica, outlives the power of all the others.
TEST_CASE("a flush tells of acknowledged writes that went with the power of too many hosts") {
  std::uint32_t told = 0, kept = 0;
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    CAPTURE(seed);
    const bool power_loss = seed % 4 != 0;
    ClusterOptions options;
    options.seed = seed;
    options.hosts = 4;
    Fixture f(options, 3);
    REQUIRE(f.io.write(0, kBlockBytes, 1) == Error::Ok);
    REQUIRE(f.io.flush() == Error::Ok);
    for (int byte = 2; byte <= 9; ++byte) REQUIRE(f.io.write(0, kBlockBytes, byte) == Error::Ok);
    Io waiting(f.cluster, 3);
    for (std::uint32_t host = 0; host < 3; ++host) f.cluster.kill(host, power_loss);
    if (seed % 2 == 0) waiting.begin(BlockRequest::Op::flush, 0, 0);
    for (std::uint32_t host = 0; host < 3; ++host) f.cluster.restart(host);
    const Error error = seed % 2 == 0 ? waiting.wait() : f.io.flush();
    REQUIRE(f.io.read(0, kBlockBytes) == Error::Ok);
    const bool lost = !f.io.all(9, 0, kBlockBytes);
    CHECK(error == (lost ? Error::DiskError : Error::Ok));
    CHECK(f.cluster.notices("acknowledged-writes-lost") == (lost ? 1 : 0));
    CHECK(f.io.flush() == Error::Ok);  // told once
    REQUIRE(f.io.write(0, kBlockBytes, 10) == Error::Ok);
    CHECK(f.io.flush() == Error::Ok);
    CHECK_FALSE((lost && !power_loss));
    ++(lost ? told : kept);
    CHECK(f.cluster.detach(3));
  }
  CHECK(told > 0);
  CHECK(kept > 0);
}

TEST_CASE("more segments than may be brought up to date at a time all are") {
  constexpr std::uint32_t kSegments = 20;
  ClusterOptions options;
  options.replicas = 2;
  options.min_in_sync = 1;
  options.volume_bytes = kSegments * kSegmentBytes;
  Fixture f(options);
  REQUIRE(f.io.write(0, kBlockBytes, 0x11, true) == Error::Ok);
  f.cluster.kill(1, false);
  for (std::uint64_t segment = 0; segment < kSegments; ++segment)
    REQUIRE(f.io.write(segment * kSegmentBytes, kChunkBytes, 0x22, true) == Error::Ok);
  f.cluster.restart(1);
  const bool all =
      f.cluster.world().run_until([&] { return f.cluster.all_in_sync(0); }, 60'000'000);
  CHECK_MESSAGE(all, f.cluster.describe(0));
}

// What a status says of a resync before it has begun to copy.
TEST_CASE("a resync that only lists does not say that it has copied since the beginning") {
  Fixture f;
  REQUIRE(f.io.write(0, 16 * kBlockBytes, 0x11, true) == Error::Ok);
  f.cluster.kill(1, false);
  REQUIRE(until_in_sync(f.cluster, 2));
  REQUIRE(f.io.write(0, 16 * kBlockBytes, 0x22, true) == Error::Ok);
  f.cluster.world().run_for(30'000'000);
  f.cluster.restart(1);
  std::uint64_t most_us = 0;
  const std::uint64_t before_us = f.cluster.world().now_us();
  f.cluster.world().run_until(
      [&] {
        const auto status = f.cluster.volume(0)->status()[0];
        most_us = std::max(most_us, status.resync_us);
        return f.cluster.in_sync(1);
      },
      10'000'000);
  CHECK(most_us <= f.cluster.world().now_us() - before_us);
}

}  // namespace
}  // namespace blockd::sim
