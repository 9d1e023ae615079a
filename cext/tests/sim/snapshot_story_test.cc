// Single stories of snapshots, each about one promise of docs/SNAPSHOTS.md or I2 of REPLICATION.md.
#include <doctest/doctest.h>

#include <array>
#include <cstring>
#include <iterator>
#include <string>
#include <vector>

#include "peer/view_cache.h"
#include "tests/sim/story.h"

namespace blockd::sim {
namespace {

using peer::ReplicaOp;

// Asks a host's replica about a snapshot, over the wire when `via` is another host.
struct Viewer {
  Viewer(SimCluster& in, std::uint32_t via_host, std::uint32_t at_host)
      : cluster(in), via(via_host), at(at_host) {
    op.segment = {in.volume_id(), 0};
    op.store = in.store_id(at_host);
    op.data = memory.data();
    op.owner = this;
    op.done = [](ReplicaOp& done) noexcept { static_cast<Viewer*>(done.owner)->over = true; };
  }
  Error ask() {
    over = false;
    cluster.process(via).hub->channel(cluster.host_id(at)).submit(op);
    return cluster.world().run_until([&] { return over; }, kPatienceUs) ? op.error : Error::Timeout;
  }
  Error read(Era era, std::uint32_t first_block, std::uint32_t block_count) {
    op.kind = ReplicaOp::Kind::read_view;
    op.era = era;
    op.first_block = first_block;
    op.block_count = block_count;
    return ask();
  }
  Error list(Era era) {
    op.kind = ReplicaOp::Kind::list_view;
    op.era = era;
    op.first_block = 0;
    op.data_bytes = static_cast<std::uint32_t>(memory.size());
    return ask();
  }
  format::ChunkEntry entry(std::uint32_t index) const {
    format::ChunkEntry entry;
    std::memcpy(static_cast<void*>(&entry), memory.data() + index * sizeof entry, sizeof entry);
    return entry;
  }
  // The byte that the whole first block of the chunk has; -1: not one byte, or an error.
  int byte(Era era, std::uint32_t chunk) {
    if (read(era, chunk * kBlocksPerChunk, 1) != Error::Ok) return -1;
    for (std::size_t i = 0; i < kBlockBytes; ++i) {
      if (memory[i] != memory[0]) return -1;
    }
    return static_cast<int>(memory[0]);
  }

  SimCluster& cluster;
  std::uint32_t via, at;
  std::vector<std::byte> memory = std::vector<std::byte>(kChunkBytes);
  bool over = false;
  ReplicaOp op;
};

int shown(SimCluster& cluster, std::uint32_t at, Era era, std::uint32_t chunk = 0) {
  return Viewer(cluster, at == 0 ? 1 : 0, at).byte(era, chunk);
}

Error begin_era(SimCluster& cluster, Era era, std::uint32_t host = 0,
                std::uint64_t max_us = kPatienceUs) {
  Error told = Error::Timeout;
  bool over = false;
  cluster.volume(host)->begin_era(era, [&](Error error) {
    told = error;
    over = true;
  });
  REQUIRE(cluster.world().run_until([&] { return over; }, max_us));
  return told;
}

std::uint32_t past_count(SimCluster& cluster, std::uint32_t host) {
  store::Store& store = *cluster.process(host).store;
  return store.segment_info(*store.find_segment({cluster.volume_id(), 0})).past_count;
}

void set_snapshots(SimCluster& cluster, std::uint32_t host, Era known_below,
                   std::vector<Era> eras) {
  cluster.process(host).store->set_snapshots(
      {cluster.volume_id(), known_below, std::move(eras), 0});
}

TEST_CASE("a snapshot shows what was there when it was taken, at every member") {
  Fixture f;
  REQUIRE(f.io.write(0, 8192, 1) == Error::Ok);
  REQUIRE(f.io.write(1u << 20, 4096, 7) == Error::Ok);
  REQUIRE(begin_era(f.cluster, 2) == Error::Ok);
  REQUIRE(f.io.write(0, 4096, 2) == Error::Ok);
  REQUIRE(begin_era(f.cluster, 3) == Error::Ok);
  REQUIRE(f.io.trim(0, 65536) == Error::Ok);
  f.cluster.world().run_for(3'000'000);  // the trim's record is let go
  for (std::uint32_t host = 0; host < 3; ++host) {
    CAPTURE(host);
    CHECK(shown(f.cluster, host, 1) == 1);
    CHECK(shown(f.cluster, host, 2) == 2);
    CHECK(shown(f.cluster, host, 3) == 0);
    CHECK(shown(f.cluster, host, 0) == 0);
    CHECK(shown(f.cluster, host, 2, 16) == 7);
    CHECK(past_count(f.cluster, host) == 2);
    Viewer viewer(f.cluster, (host + 1) % 3, host);
    REQUIRE(viewer.list(1) == Error::Ok);
    REQUIRE(viewer.op.block_count == 2);
    CHECK(viewer.entry(0).born == 1);
    CHECK(viewer.entry(0).valid_mask == 3);
    CHECK(viewer.entry(1).chunk == 16);
    REQUIRE(viewer.list(0) == Error::Ok);
    CHECK(viewer.op.block_count == 1);
  }
  f.cluster.world().run_for(3 * peer::ViewCache::kIdleUs);  // or it is kept for who reads it
  set_snapshots(f.cluster, 1, 3, {1});
  CHECK(past_count(f.cluster, 1) == 1);
  CHECK(shown(f.cluster, 1, 1) == 1);
}

// The metadata may have been restored from a backup: the members' stores know better.
TEST_CASE("an engine is in no era before one that a member has met") {
  Fixture f;
  REQUIRE(f.io.write(0, 4096, 1) == Error::Ok);
  CHECK(f.cluster.volume(0)->config().era == 1);
  REQUIRE(begin_era(f.cluster, 7) == Error::Ok);
  REQUIRE(f.io.write(0, 4096, 2, true) == Error::Ok);
  f.cluster.attach(1);  // the metadata's era is the first
  REQUIRE(until_state(f.cluster, 1, VolumeState::serving));
  CHECK(f.cluster.volume(1)->config().era == 7);
  REQUIRE(begin_era(f.cluster, 2, 1) == Error::Ok);
  CHECK(f.cluster.volume(1)->config().era == 7);
  Io io(f.cluster, 1);
  REQUIRE(io.write(4096, 4096, 3) == Error::Ok);
  REQUIRE(begin_era(f.cluster, 8, 1) == Error::Ok);
  REQUIRE(io.write(0, 8192, 4) == Error::Ok);
  for (std::uint32_t host = 0; host < 3; ++host) {
    CAPTURE(host);
    CHECK(shown(f.cluster, host, 1) == 1);
    CHECK(shown(f.cluster, host, 7) == 2);
  }
}

TEST_CASE("a member that was away is brought every past it missed, and no more") {
  Fixture f;
  for (std::uint64_t at = 0; at < 1u << 20; at += kMutationBytesMax)
    REQUIRE(f.io.write(at, kMutationBytesMax, 1) == Error::Ok);
  REQUIRE(begin_era(f.cluster, 2) == Error::Ok);
  REQUIRE(f.io.write(0, 4096, 2) == Error::Ok);
  REQUIRE(f.io.flush() == Error::Ok);
  f.cluster.kill(2, false);
  REQUIRE(until_in_sync(f.cluster, 2));
  REQUIRE(begin_era(f.cluster, 3) == Error::Ok);
  REQUIRE(f.io.write(0, 4096, 3) == Error::Ok);
  REQUIRE(f.io.trim(65536, 65536) == Error::Ok);
  REQUIRE(begin_era(f.cluster, 4) == Error::Ok);
  REQUIRE(f.io.write(0, 4096, 4) == Error::Ok);
  f.cluster.world().run_for(3'000'000);
  f.cluster.restart(2);
  REQUIRE(until_in_sync(f.cluster, 3));
  for (const int era : {1, 2, 3}) CHECK(shown(f.cluster, 2, static_cast<Era>(era)) == era);
  CHECK(shown(f.cluster, 2, 0) == 4);
  CHECK(shown(f.cluster, 2, 2, 1) == 1);
  CHECK(shown(f.cluster, 2, 3, 1) == 0);
  CHECK(past_count(f.cluster, 2) == past_count(f.cluster, 0));
  CHECK(f.cluster.volume(0)->stats().resync_bytes <= 6 * kChunkBytes);
  CHECK(f.cluster.compare_replicas().empty());
}

TEST_CASE("a long past is brought while clients go on writing") {
  constexpr Era kEras = 12;
  Fixture f;
  Io writer(f.cluster, 0);
  REQUIRE(f.io.write(0, 4096, 1) == Error::Ok);
  f.cluster.kill(2, false);
  REQUIRE(until_in_sync(f.cluster, 2));
  for (Era era = 2; era <= kEras; ++era) {
    REQUIRE(begin_era(f.cluster, era) == Error::Ok);
    REQUIRE(f.io.write(0, 4096, static_cast<int>(era)) == Error::Ok);
  }
  f.cluster.restart(2);
  fake(f.cluster, 2).store().slowness = 50;
  const auto joining = [&] { return !f.cluster.volume(0)->status()[0].joining.empty(); };
  REQUIRE(f.cluster.world().run_until(joining, kPatienceUs));
  std::uint64_t slowest_us = 0;
  for (Era era = kEras + 1; joining(); ++era) {
    REQUIRE(begin_era(f.cluster, era, 0, 60'000'000) == Error::Ok);
    const std::uint64_t before = f.cluster.world().now_us();
    REQUIRE(writer.write(0, 4096, static_cast<int>(era)) == Error::Ok);
    slowest_us = std::max(slowest_us, f.cluster.world().now_us() - before);
    f.cluster.world().run_for(30'000);
  }
  CHECK(slowest_us < 60'000);  // eleven contents took a tenth of a second and more
  REQUIRE(until_in_sync(f.cluster, 3));
  for (Era era = 1; era <= kEras; ++era) CHECK(shown(f.cluster, 2, era) == static_cast<int>(era));
  CHECK(past_count(f.cluster, 2) == past_count(f.cluster, 0));
}

TEST_CASE("a replica built anew has what only snapshots hold") {
  Fixture f;
  REQUIRE(f.io.write(0, 4096, 1) == Error::Ok);
  REQUIRE(begin_era(f.cluster, 2) == Error::Ok);
  REQUIRE(f.io.trim(0, 65536) == Error::Ok);
  f.cluster.world().run_for(3'000'000);
  f.cluster.kill(2, false);
  REQUIRE(until_in_sync(f.cluster, 2));
  FakeMedium& medium = fake(f.cluster, 2).medium();
  medium.base.clear();
  medium.live.clear();
  medium.log.clear();
  medium.done_count = 0;
  f.cluster.restart(2);
  REQUIRE(until_in_sync(f.cluster, 3));
  CHECK(shown(f.cluster, 2, 1) == 1);
  CHECK(shown(f.cluster, 2, 0) == 0);
}

// Host 0 alone has a write of era 1 and one of era 2; a new engine elsewhere never hears of them.
TEST_CASE("a past that nobody agreed on is taken away with the content that made it") {
  for (const bool also_written_elsewhere : {false, true}) {
    CAPTURE(also_written_elsewhere);
    Fixture f;
    Io late(f.cluster, 0);
    REQUIRE(f.io.write(0, 4096, 1) == Error::Ok);
    REQUIRE(f.io.flush() == Error::Ok);
    f.cluster.world().run_for(3'000'000);
    f.cluster.partition(0, 1, true);
    f.cluster.partition(0, 2, true);
    std::memset(f.io.memory, 8, 4096);
    f.io.begin(BlockRequest::Op::write, 0, 4096);
    f.cluster.world().run_for(2'000);
    Error told = Error::Ok;
    f.cluster.volume(0)->begin_era(2, [&](Error error) { told = error; });
    std::memset(late.memory, 9, 4096);
    late.begin(BlockRequest::Op::write, 0, 4096);
    f.cluster.world().run_for(50'000);
    CHECK(past_count(f.cluster, 0) == 1);
    f.cluster.attach(1);
    REQUIRE(until_state(f.cluster, 1, VolumeState::serving));
    Io other(f.cluster, 1);
    REQUIRE(other.read(0, 4096) == Error::Ok);
    CHECK(other.all(1, 0, 4096));
    REQUIRE(begin_era(f.cluster, 3, 1) == Error::Ok);
    if (also_written_elsewhere) REQUIRE(other.write(0, 4096, 5) == Error::Ok);
    f.cluster.heal();
    REQUIRE(until_in_sync(f.cluster, 3));
    f.cluster.world().run_for(2'000'000);
    CHECK(told == Error::EpochFenced);
    for (std::uint32_t host = 0; host < 3; ++host) {
      CAPTURE(host);
      CHECK(shown(f.cluster, host, 1) == 1);
      CHECK(shown(f.cluster, host, 2) == 1);
      CHECK(shown(f.cluster, host, 0) == (also_written_elsewhere ? 5 : 1));
      CHECK(past_count(f.cluster, host) == (also_written_elsewhere ? 1 : 0));
    }
  }
}

// A copy that ended half-way: the past is there, the content that goes with it is not.
// Host 2 alone has what was written after the snapshot: it is ahead, and has as past what both
// others have as current and can no longer read whole.
TEST_CASE("a joiner that is ahead keeps its past until it has gone back") {
  ClusterOptions options;
  options.hosts = 4;
  Fixture f(options, 3);
  REQUIRE(f.io.write(0, kChunkBytes, 0x11, true) == Error::Ok);
  const Era taken = f.cluster.take_snapshot(3);
  REQUIRE(
      f.cluster.world().run_until([&] { return f.cluster.snapshot_final(taken); }, kPatienceUs));
  for (const std::uint32_t host : {0u, 1u}) {
    f.cluster.partition(3, host, true);
    f.cluster.reset_links(3, host);
  }
  std::memset(f.io.memory, 0x22, kChunkBytes);
  f.io.begin(BlockRequest::Op::write, 0, kChunkBytes);
  f.cluster.world().run_for(50'000);
  f.cluster.kill(3, false);
  f.cluster.kill(2, false);
  f.cluster.heal();
  f.cluster.restart(3);
  f.cluster.attach(3);
  REQUIRE(until_state(f.cluster, 3, VolumeState::serving));
  damage(f.cluster, 0, 5);
  damage(f.cluster, 1, 5);
  f.cluster.restart(2);
  f.cluster.world().run_for(5'000'000);
  REQUIRE_FALSE(f.cluster.in_sync(2));  // nobody can read what it has to be given
  CHECK(shown(f.cluster, 2, taken) == 0x11);
  REQUIRE(f.io.write(5 * kBlockBytes, kBlockBytes, 0x33) == Error::Ok);
  REQUIRE(until_in_sync(f.cluster, 3));
  CHECK(shown(f.cluster, 2, taken) == 0x11);
  CHECK(f.cluster.compare_replicas() == "");
}

TEST_CASE("a past that is ahead of its chunk counts for nothing once the volume has been opened") {
  Fixture f;
  REQUIRE(f.io.write(0, 4096, 1) == Error::Ok);
  REQUIRE(f.io.flush() == Error::Ok);
  REQUIRE(begin_era(f.cluster, 3) == Error::Ok);
  f.cluster.world().run_for(3'000'000);
  REQUIRE(f.cluster.detach(0));
  FakeChunk ahead;
  ahead.version = {1, 1000};
  ahead.born = 2;
  ahead.valid_mask = 1;
  FakeMedium& medium = fake(f.cluster, 1).medium();
  medium.fold(medium.done_count);
  for (auto* image : {&medium.base, &medium.live}) image->begin()->second.keep(0, {ahead, 3});
  f.cluster.take_snapshot(0);
  f.cluster.take_snapshot(0);
  f.cluster.attach(2);
  REQUIRE(until_state(f.cluster, 2, VolumeState::serving));
  CHECK(past_count(f.cluster, 1) == 0);
  CHECK(shown(f.cluster, 1, 2) == 1);
}

TEST_CASE("a damaged past is brought from the next member") {
  Fixture f;
  REQUIRE(f.io.write(0, 4096, 1) == Error::Ok);
  REQUIRE(begin_era(f.cluster, 2) == Error::Ok);
  f.cluster.kill(2, false);
  REQUIRE(until_in_sync(f.cluster, 2));
  REQUIRE(f.io.write(0, 4096, 2) == Error::Ok);
  f.cluster.world().run_for(100'000);
  FakeMedium& medium = fake(f.cluster, 0).medium();
  medium.fold(medium.done_count);
  medium.live = medium.base;
  for (auto* image : {&medium.base, &medium.live})
    image->begin()->second.past.at(0).at(0).content.data[100] ^= std::byte{1};
  CHECK(shown(f.cluster, 0, 1) == -1);
  fake(f.cluster, 2).medium().base.clear();
  fake(f.cluster, 2).medium().live.clear();
  fake(f.cluster, 2).medium().log.clear();
  fake(f.cluster, 2).medium().done_count = 0;
  f.cluster.restart(2);
  REQUIRE(until_in_sync(f.cluster, 3));
  CHECK(shown(f.cluster, 2, 1) == 1);
}

TEST_CASE("a snapshot is final when the slowest member has what it shows") {
  Fixture f;
  fake(f.cluster, 2).store().slowness = 500;
  REQUIRE(f.io.write(0, 4096, 1) == Error::Ok);  // by the other two
  Error told = Error::Timeout;
  f.cluster.volume(0)->begin_era(2, [&](Error error) { told = error; });
  f.cluster.world().run_for(5'000);
  CHECK(told == Error::Timeout);
  REQUIRE(f.cluster.world().run_until([&] { return told == Error::Ok; }, kPatienceUs));
  CHECK(shown(f.cluster, 2, 1) == 1);
}

TEST_CASE(
    "a member that was given up keeps a snapshot from being final until it is out of the set") {
  Fixture f;
  f.cluster.meta_reachable = false;
  f.cluster.kill(2, false);
  REQUIRE(f.io.write(0, 4096, 1) == Error::Ok);
  Error told = Error::Timeout;
  f.cluster.volume(0)->begin_era(2, [&](Error error) { told = error; });
  f.cluster.world().run_for(5'000'000);
  CHECK(told == Error::Timeout);
  f.cluster.meta_reachable = true;
  REQUIRE(f.cluster.world().run_until([&] { return told == Error::Ok; }, kPatienceUs));
  CHECK(f.cluster.in_sync_count(0) == 2);
}

TEST_CASE("who waits for an era hears of the volume's end") {
  Fixture f;
  f.cluster.meta_reachable = false;
  f.cluster.kill(2, false);
  REQUIRE(f.io.write(0, 4096, 1) == Error::Ok);
  Error told = Error::Timeout;
  f.cluster.volume(0)->begin_era(2, [&](Error error) { told = error; });
  f.cluster.world().run_for(1'000'000);
  Error late = Error::Timeout;
  f.cluster.volume(0)->close([](Error) {});
  f.cluster.volume(0)->begin_era(3, [&](Error error) { late = error; });
  REQUIRE(f.cluster.world().run_until([&] { return told != Error::Timeout; }, kPatienceUs));
  CHECK(told == Error::ShuttingDown);
  CHECK(late == Error::ShuttingDown);
}

TEST_CASE("a lower era changes nothing") {
  Fixture f;
  REQUIRE(begin_era(f.cluster, 5) == Error::Ok);
  REQUIRE(begin_era(f.cluster, 3) == Error::Ok);
  CHECK(f.cluster.volume(0)->config().era == 5);
}

TEST_CASE("mutations are held as long as asked, reads are not") {
  Fixture f;
  REQUIRE(f.io.write(0, 4096, 1) == Error::Ok);
  Io reader(f.cluster, 0);
  const auto held_for = [&](auto then) {
    const std::uint64_t before = f.cluster.world().now_us();
    f.cluster.volume(0)->hold_mutations(200'000);
    f.io.begin(BlockRequest::Op::write, 100, 4096);
    REQUIRE(reader.read(0, 4096) == Error::Ok);
    REQUIRE(reader.write(8192, 0, 0) == Error::InvalidArgument);
    f.cluster.world().run_for(50'000);
    CHECK_FALSE(f.io.over);
    then();
    REQUIRE(f.io.wait() == Error::Ok);
    return f.cluster.world().now_us() - before;
  };
  CHECK(held_for([] {}) >= 190'000);
  CHECK(held_for([&] { f.cluster.volume(0)->hold_mutations(0); }) < 100'000);
}

TEST_CASE("views answer any request with an answer, and find a segment that was made anew") {
  Fixture f;
  REQUIRE(f.io.write(0, 4096, 1) == Error::Ok);
  REQUIRE(begin_era(f.cluster, 2) == Error::Ok);
  for (const std::uint32_t via : {0u, 1u}) {
    Viewer viewer(f.cluster, via, 1);
    CHECK(viewer.read(1, 511, 1) == Error::Ok);
    CHECK(viewer.read(1, 512, 1) == Error::ExtentOutOfRange);
    CHECK(viewer.read(1, ~0u, 16) == Error::ExtentOutOfRange);
    CHECK(viewer.read(~0u, 0, 1) == Error::Ok);
    viewer.op.segment.index = 7;
    CHECK(viewer.read(1, 0, 1) == Error::NotFound);
    CHECK(viewer.list(1) == Error::NotFound);
    viewer.op.segment.index = 0;
    viewer.op.store.bytes[3] = 1;
    CHECK(viewer.read(1, 0, 1) == Error::NotFound);
    CHECK(viewer.list(0) == Error::NotFound);
  }
  // More eras than there are views: the oldest make room.
  for (Era era = 1; era < 3 * peer::ViewCache::kViewsMax; ++era)
    REQUIRE(shown(f.cluster, 1, era) == 1);
  CHECK(fake(f.cluster, 1).store().view_count() <= peer::ViewCache::kViewsMax);
  f.cluster.world().run_for(3 * peer::ViewCache::kIdleUs);
  CHECK(fake(f.cluster, 1).store().view_count() == 0);

  CHECK(shown(f.cluster, 1, 1) == 1);
  store::Store& store = *f.cluster.process(1).store;
  int left = 2;
  f.cluster.audit().may_differ = true;  // behind the engine's back
  store.drop_segment(*store.find_segment({f.cluster.volume_id(), 0}), [&](Error) { --left; });
  CHECK(shown(f.cluster, 1, 1) == -1);
  store.create_segment({f.cluster.volume_id(), 0}, 512, [&](Error) { --left; });
  REQUIRE(f.cluster.world().run_until([&] { return left == 0; }, kPatienceUs));
  CHECK(shown(f.cluster, 1, 1) == 0);

  CHECK(shown(f.cluster, 2, 1) == 1);
  f.cluster.process(2).hub->remove_store(f.cluster.store_id(2));
  CHECK(Viewer(f.cluster, 0, 2).read(1, 0, 1) == Error::NotFound);
  CHECK(fake(f.cluster, 2).store().view_count() == 0);
}

TEST_CASE("every request about the past gets an answer, whatever it asks") {
  SimCluster cluster({});
  cluster.world().run_for(1'000'000);
  Random& random = cluster.world().random();
  Viewer viewer(cluster, 0, 1);
  ReplicaOp& op = viewer.op;
  op.kind = ReplicaOp::Kind::open;
  op.version = {1, 0};
  op.block_count = 512;
  std::uint32_t answered = 0;
  std::uint32_t handle = 0;
  const auto any = [&](std::uint32_t most) {
    return static_cast<std::uint32_t>(random.chance(20) ? random.next() : random.below(most));
  };
  for (std::uint64_t seq = 1; seq < 4000; ++seq) {
    if (seq % 50 == 1) {  // a mutation that was refused ends the opening
      op.kind = ReplicaOp::Kind::open;
      op.version = {seq, 0};
      REQUIRE(viewer.ask() == Error::Ok);
      handle = op.handle;
    }
    constexpr ReplicaOp::Kind kKinds[] = {ReplicaOp::Kind::list,      ReplicaOp::Kind::read_chunk,
                                          ReplicaOp::Kind::zero,      ReplicaOp::Kind::replace,
                                          ReplicaOp::Kind::forget,    ReplicaOp::Kind::states,
                                          ReplicaOp::Kind::read_view, ReplicaOp::Kind::list_view};
    op.kind = kKinds[random.below(std::size(kKinds))];
    op.handle = random.chance(50) ? any(4) : handle;
    op.first_block = random.chance(2) ? any(32) * kBlocksPerChunk : any(600);
    op.block_count = 1 + any(64) % 64;
    op.version = {seq - seq % 50 + 1, random.chance(10) ? any(60) : seq};
    op.era = any(6);
    op.died = random.chance(3) ? any(9) : 0;
    op.valid_mask = 0;
    op.covers = random.chance(3);
    op.data_bytes = (1 + any(64) % 64) * static_cast<std::uint32_t>(sizeof(format::ChunkEntry));
    std::array<std::uint32_t, format::kWireBlocksMax> crcs;
    std::vector<std::byte> memory(kMutationBytesMax);
    op.crcs = crcs.data();
    op.data = memory.data();
    const Error error = viewer.ask();
    REQUIRE(error != Error::Timeout);
    REQUIRE(error != Error::LinkLost);
    if (error == Error::Ok) ++answered;
  }
  CHECK(answered > 1000);
}

}  // namespace
}  // namespace blockd::sim
