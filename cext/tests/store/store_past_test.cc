// What snapshots show, what that costs, and when it goes. Against a model: crash_run.cc.
#include <doctest/doctest.h>

#include "tests/store/store_client.h"

using namespace blockd;
using namespace blockd::store;
using namespace blockd::store::testing;

namespace {

constexpr std::uint32_t kChunk = kBlocksPerChunk;

std::uint64_t free_bytes(const Rig& rig) {
  const StoreInfo info = rig.store->info();
  return info.capacity_bytes - info.allocated_bytes;
}

void settle(Rig& rig) {
  rig.world.run_for(1'000'000);
}

}  // namespace

TEST_CASE("a snapshot goes on showing what a write of a part of a chunk replaced") {
  Rig rig(1);
  rig.format();
  rig.open();
  Client client(rig);
  client.era = 1;
  CHECK(client.write(0, 16, 100) == Error::Ok);  // straight to its slot
  CHECK(client.write(16, 3, 200) == Error::Ok);  // through the journal, not home yet
  client.era = 2;
  CHECK(client.write(2, 1, 300) == Error::Ok);
  CHECK(client.write(17, 4, 400) == Error::Ok);
  CHECK(client.read_at(1, 0, 16) == tags_from(100, 16));
  CHECK(client.read_at(1, 16, 5) == std::vector<Tag>{200, 201, 202, kHole, kHole});
  CHECK(client.read(1, 3) == std::vector<Tag>{101, 300, 103});
  CHECK(client.read(16, 5) == std::vector<Tag>{200, 400, 401, 402, 403});
  CHECK(client.past_count() == 2);
  const std::uint64_t reads = rig.store->stats().device_reads;
  CHECK(client.write(3, 1, 500) == Error::Ok);  // the chunk is the current state's own by now
  CHECK(rig.store->stats().device_reads == reads);
  CHECK(client.past_count() == 2);
  CHECK(rig.store->check().empty());
}

TEST_CASE("a chunk that is replaced whole is not copied") {
  Rig rig(2);
  rig.format();
  rig.open();
  Client client(rig);
  client.era = 1;
  CHECK(client.write(0, 16, 100) == Error::Ok);
  client.era = 2;
  const std::uint64_t reads = rig.store->stats().device_reads;
  CHECK(client.write(0, 16, 200) == Error::Ok);
  CHECK(rig.store->stats().device_reads == reads);
  CHECK(client.read_at(1, 0, 16) == tags_from(100, 16));
  CHECK(client.read(0, 16) == tags_from(200, 16));
}

TEST_CASE("the newest era is known again after a restart and after a crash") {
  Rig rig(5);
  rig.format();
  rig.open();
  Client client(rig);
  const auto newest = [&] { return rig.store->segment_info(client.segment).newest_era; };
  CHECK(newest() == 0);
  client.era = 3;
  CHECK(client.write(0, 16, 100) == Error::Ok);
  CHECK(newest() == 3);
  client.era = 6;
  CHECK(client.zero(0, 16) == Error::Ok);  // what was there is past, and died in era 6
  CHECK(newest() == 6);
  CHECK(client.flush() == Error::Ok);
  rig.kill();
  rig.open();
  CHECK(newest() == 6);
  CHECK(rig.close());
  rig.open();
  CHECK(newest() == 6);
}

TEST_CASE("a trim leaves the snapshot what it shows") {
  Rig rig(3);
  rig.format();
  rig.open();
  Client client(rig);
  client.era = 1;
  CHECK(client.write(0, 48, 100) == Error::Ok);
  client.era = 2;
  CHECK(client.zero(8, 32) == Error::Ok);
  CHECK(client.read_at(1, 0, 48) == tags_from(100, 48));
  CHECK(client.read(8, 32) == tags_from(kHole, 32));
  CHECK(client.read(40, 8) == tags_from(140, 8));
  CHECK(client.past_count() == 3);
}

TEST_CASE("deleting a snapshot frees exactly what only it showed") {
  Rig rig(4);
  rig.format();
  rig.open();
  Client client(rig);
  client.set_snapshots(1, {});
  const std::uint64_t empty = free_bytes(rig);
  for (Era era = 1; era <= 4; ++era) {  // chunk 0 changes in every era, chunk 1 in 1 and 3
    client.era = era;
    CHECK(client.write(0, 16, 100 * era) == Error::Ok);
    if (era % 2 == 1) CHECK(client.write(16, 16, 1000 * era) == Error::Ok);
    client.set_snapshots(era + 1, {1, 2, 3});
  }
  CHECK(client.past_count() == 4);  // 0: eras 1, 2, 3; 1: era 1, shown by two snapshots
  client.set_snapshots(5, {1, 3});
  settle(rig);
  CHECK(client.past_count() == 3);
  CHECK(client.read_at(1, 16, 16) == tags_from(1000, 16));
  client.set_snapshots(5, {3});
  settle(rig);
  CHECK(client.past_count() == 1);
  CHECK(client.read_at(3, 0, 16) == tags_from(300, 16));
  CHECK(client.read_at(3, 16, 16) == tags_from(3000, 16));
  client.set_snapshots(5, {});
  settle(rig);
  CHECK(client.past_count() == 0);
  CHECK(free_bytes(rig) == empty - 2 * kChunkBytes);
  CHECK(rig.store->check().empty());
}

TEST_CASE("a deletion goes on after a restart, and nothing goes before the store is told") {
  Rig rig(5);
  rig.format();
  rig.open();
  Client client(rig);
  client.era = 1;
  CHECK(client.write(0, 64, 100) == Error::Ok);
  client.era = 2;
  CHECK(client.write(0, 64, 500) == Error::Ok);
  CHECK(client.flush() == Error::Ok);
  rig.power_off(io::SimDisk::Crash::lose_all);
  rig.open();
  Client again(rig, Client::Existing{});
  settle(rig);
  CHECK(again.past_count() == 4);
  CHECK(again.read_at(1, 0, 64) == tags_from(100, 64));
  again.set_snapshots(3, {2});
  settle(rig);
  CHECK(again.past_count() == 0);
}

TEST_CASE("a view keeps what it shows while it is open") {
  Rig rig(6);
  rig.format();
  rig.open();
  Client client(rig);
  client.era = 1;
  CHECK(client.write(0, 16, 100) == Error::Ok);
  client.era = 2;
  const SegmentHandle view = rig.store->open_view(client.segment, 1);
  client.set_snapshots(3, {});  // deleted while somebody reads it
  CHECK(client.write(0, 1, 200) == Error::Ok);
  settle(rig);
  const SegmentHandle mine = std::exchange(client.segment, view);
  CHECK(client.read(0, 16) == tags_from(100, 16));
  client.segment = mine;
  CHECK(client.past_count() == 1);
  rig.store->close_view(view);
  settle(rig);
  CHECK(client.past_count() == 0);
}

TEST_CASE("a view of a dropped segment is NotFound") {
  Rig rig(7);
  rig.format();
  rig.open();
  Client client(rig);
  client.era = 1;
  CHECK(client.write(0, 16, 100) == Error::Ok);
  client.era = 2;
  CHECK(client.write(0, 1, 200) == Error::Ok);
  const std::uint64_t capacity = rig.store->info().capacity_bytes;
  const SegmentHandle view = rig.store->open_view(client.segment, 1);
  CHECK(rig.wait([&](Store::Done done) {
    rig.store->drop_segment(client.segment, std::move(done));
  }) == Error::Ok);
  client.segment = view;
  CHECK(client.try_read(0, 1) == Error::NotFound);
  std::array<ChunkVersion, 2> listed;
  CHECK(rig.store->list_chunks(view, 0, Version{}, listed) == 0);
  settle(rig);
  CHECK(free_bytes(rig) == capacity);  // the past went with it
  rig.store->close_view(view);
  CHECK(rig.store->check().empty());
}

TEST_CASE("a write to a view is refused") {
  Rig rig(8);
  rig.format();
  rig.open();
  Client client(rig);
  const SegmentHandle view = rig.store->open_view(client.segment, 1);
  const SegmentHandle mine = std::exchange(client.segment, view);
  CHECK(client.write(0, 1, 100) == Error::InvalidArgument);
  client.segment = mine;
  rig.store->close_view(view);
}

TEST_CASE(
    "a damaged block is copied as damaged: it is told of in the copy, too, and costs no other") {
  for (const bool unreadable : {false, true}) {
    Rig rig(9);
    rig.format();
    rig.open();
    Client client(rig);
    client.era = 1;
    CHECK(client.write(0, 16, 100) == Error::Ok);
    CHECK(client.flush() == Error::Ok);
    const std::uint64_t at = rig.store->locate(client.segment, 5).device_offset_bytes;
    if (unreadable) {
      rig.disk.fail_reads(at, kBlockBytes, Error::DiskError);
    } else {
      rig.disk.corrupt(at + 77, 3);
    }
    client.era = 2;
    CHECK(client.write(2, 1, 200) == Error::Ok);
    CHECK(client.try_read(5, 1) == Error::ChecksumMismatch);
    CHECK(client.read(0, 5) == std::vector<Tag>{100, 101, 200, 103, 104});
    CHECK(client.read(6, 10) == tags_from(106, 10));
    CHECK(client.read_at(1, 5, 1).empty());
    CHECK(client.read_at(1, 6, 10) == tags_from(106, 10));
    rig.kill();  // nothing was flushed: recovery looks at the copy
    rig.open();
    Client again(rig, Client::Existing{});
    CHECK(again.read(0, 5) == std::vector<Tag>{100, 101, 200, 103, 104});
    CHECK(again.try_read(5, 1) == Error::ChecksumMismatch);
    CHECK(again.replace(0, 0xffff, 700, again.version_of(0)) == Error::Ok);  // repaired
    CHECK(again.read(0, 16) == tags_from(700, 16));
    CHECK(rig.store->check().empty());
  }
}

TEST_CASE("a past content can be put in, put right and taken out") {
  Rig rig(10);
  rig.format();
  rig.open();
  Client client(rig);
  client.era = 5;
  CHECK(client.write(0, 16, 100) == Error::Ok);
  CHECK(client.insert_past(0, 0x00ff, 200, {1, 900}, 2, 4) == Error::Ok);
  CHECK(client.past_count() == 1);
  CHECK(client.read_at(2, 0, 9) == std::vector<Tag>{200, 201, 202, 203, 204, 205, 206, 207, kHole});
  CHECK(client.read_at(3, 0, 1) == std::vector<Tag>{200});
  CHECK(client.read_at(4, 0, 1) == std::vector<Tag>{kHole});
  CHECK(client.insert_past(0, 0xffff, 300, {1, 900}, 2, 5) == Error::Ok);  // the same, whole
  CHECK(client.past_count() == 1);
  CHECK(client.read_at(4, 0, 16) == tags_from(300, 16));
  std::array<ChunkState, 4> states;
  CHECK(rig.store->list_states(client.segment, 0, Version{}, states) == 2);
  CHECK(states[0].version == Version{1, 1});
  CHECK(states[0].died == 0);
  CHECK(states[1].version == Version{1, 900});
  CHECK(states[1].born == 2);
  CHECK(states[1].died == 5);
  CHECK(rig.store->list_states(client.segment, 0, Version{1, 1}, states) == 1);
  CHECK(client.flush() == Error::Ok);
  rig.power_off(io::SimDisk::Crash::lose_all);
  rig.open();
  Client again(rig, Client::Existing{});
  CHECK(again.read_at(4, 0, 16) == tags_from(300, 16));
  CHECK(again.forget(0, {1, 901}) == Error::Ok);  // there is none: nothing to do
  CHECK(again.past_count() == 1);
  CHECK(again.forget(0, {1, 900}) == Error::Ok);
  CHECK(again.past_count() == 0);
  CHECK(again.read(0, 16) == tags_from(100, 16));
  CHECK(rig.store->check().empty());
}

TEST_CASE("listing states goes on where it stopped") {
  Rig rig(11);
  rig.format();
  rig.open();
  Client client(rig);
  for (Era era = 1; era <= 5; ++era) {
    client.era = era;
    CHECK(client.write(0, 1, 100 * era) == Error::Ok);
    CHECK(client.write(16, 1, 100 * era + 50) == Error::Ok);
  }
  std::vector<ChunkState> all;
  std::array<ChunkState, 3> some;
  std::uint32_t from = 0;
  Version above;
  for (;;) {
    const std::size_t count = rig.store->list_states(client.segment, from, above, some);
    all.insert(all.end(), some.begin(), some.begin() + static_cast<std::ptrdiff_t>(count));
    if (count < some.size()) break;
    from = some.back().chunk;
    above = some.back().version;
  }
  REQUIRE(all.size() == 10);
  for (std::uint32_t i = 0; i < 10; ++i) {
    CHECK(all[i].chunk == i / 5);
    CHECK(all[i].born == i % 5 + 1);
    CHECK(all[i].died == (i % 5 == 4 ? 0 : i % 5 + 2));
  }
}

TEST_CASE("a covering chunk stays when it is empty, until it covers nothing") {
  Rig rig(12);
  rig.format();
  rig.open();
  Client client(rig);
  client.set_snapshots(1, {});
  client.era = 1;
  client.covers = true;
  CHECK(client.zero(0, 16) == Error::Ok);  // over nothing
  CHECK(client.finish(*client.start_write_of_zeros(16, 16)) == Error::Ok);
  CHECK(client.write(32, 16, 100) == Error::Ok);
  CHECK(client.zero(32, 16) == Error::Ok);
  rig.store->set_stable(client.segment, client.last_version());
  CHECK(client.flush() == Error::Ok);
  settle(rig);
  std::array<ChunkState, 4> states;
  REQUIRE(rig.store->list_states(client.segment, 0, Version{}, states) == 3);
  for (std::uint32_t i = 0; i < 3; ++i) CHECK(states[i].covers);
  rig.power_off(io::SimDisk::Crash::random);
  rig.open();
  Client again(rig, Client::Existing{});
  REQUIRE(rig.store->list_states(again.segment, 0, Version{}, states) == 3);
  rig.store->set_stable(again.segment, {1, 1000});
  again.set_snapshots(2, {}, 2);
  settle(rig);
  CHECK(rig.store->list_states(again.segment, 0, Version{}, states) == 0);
  CHECK(rig.store->info().allocated_bytes == 0);
  CHECK(rig.store->check().empty());
}

TEST_CASE("a snapshot keeps a covering chunk") {
  Rig rig(13);
  rig.format();
  rig.open();
  Client client(rig);
  client.era = 1;
  client.covers = true;
  CHECK(client.zero(0, 16) == Error::Ok);
  rig.store->set_stable(client.segment, client.last_version());
  client.set_snapshots(2, {1}, 2);
  settle(rig);
  CHECK(rig.store->info().allocated_bytes == kChunkBytes);
  client.era = 2;
  client.covers = false;
  CHECK(client.write(0, 1, 100) == Error::Ok);
  std::array<ChunkState, 4> states;
  REQUIRE(rig.store->list_states(client.segment, 0, Version{}, states) == 2);
  CHECK(states[0].covers);
  CHECK(states[0].died == 2);
  client.set_snapshots(2, {}, 2);
  settle(rig);
  CHECK(client.past_count() == 0);
}

TEST_CASE(
    "a full store refuses what needs a slot for a snapshot, whole, and goes on after a deletion") {
  Rig rig(14, 4 * kMiB);
  rig.format();
  rig.open();
  Client client(rig, 256 * kChunk);
  client.era = 1;
  std::uint32_t chunks = 0;
  while (client.write(chunks * kChunk, kChunk, 1 + chunks * kChunk) == Error::Ok) ++chunks;
  client.era = 2;
  CHECK(client.write(0, 1, 90000) == Error::NoSpace);
  CHECK(client.zero(0, chunks * kChunk) == Error::NoSpace);
  CHECK(client.write(0, kChunk, 90000) == Error::NoSpace);
  for (std::uint32_t chunk = 0; chunk < chunks; ++chunk)
    CHECK(client.read(chunk * kChunk, kChunk) == tags_from(1 + chunk * kChunk, kChunk));
  CHECK(client.read_at(1, 0, kChunk) == tags_from(1, kChunk));
  client.set_snapshots(2, {});  // deleted: all of it may be written in place
  CHECK(client.write(0, 1, 90000) == Error::Ok);
  CHECK(client.zero(kChunk, (chunks - 1) * kChunk) == Error::Ok);
  CHECK(rig.store->check().empty());
}

TEST_CASE("many writes at once to chunks of a snapshot are copied side by side") {
  Rig rig(15, 64 * kMiB);
  rig.format();
  rig.open();
  Client client(rig, 512 * kChunk);
  client.era = 1;
  for (std::uint32_t chunk = 0; chunk < 200; ++chunk)
    CHECK(client.write(chunk * kChunk, kChunk, 1 + chunk * kChunk) == Error::Ok);
  client.era = 2;
  std::vector<CallRef> calls;
  for (std::uint32_t chunk = 0; chunk < 200; ++chunk)
    calls.push_back(client.start_write(chunk * kChunk + 3, 1, 90000 + chunk));
  for (const CallRef& call : calls) CHECK(client.finish(*call) == Error::Ok);
  for (std::uint32_t chunk = 0; chunk < 200; ++chunk) {
    CHECK(client.read_one(chunk * kChunk + 3) == 90000 + chunk);
    CHECK(client.read_one(chunk * kChunk + 4) == 1 + chunk * kChunk + 4);
    CHECK(client.read_at(1, chunk * kChunk, kChunk) == tags_from(1 + chunk * kChunk, kChunk));
  }
  CHECK(rig.store->check().empty());
}
