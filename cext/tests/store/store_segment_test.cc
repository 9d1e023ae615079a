// Segments: their table, their epochs and stable marks, and what they tell about their chunks.
#include <doctest/doctest.h>

#include <set>

#include "tests/store/store_client.h"

using namespace blockd;
using namespace blockd::store;
using namespace blockd::store::testing;

namespace {

struct OpenStore {
  explicit OpenStore(std::uint64_t seed) : rig(seed) {
    rig.format();
    rig.open();
  }
  void power_cycle() {
    rig.power_off(io::SimDisk::Crash::lose_all);
    rig.open();
    CHECK(rig.store->check().empty());
  }
  SegmentHandle handle(std::uint32_t index) {
    const auto found = rig.store->find_segment(segment_id(index));
    REQUIRE(found.has_value());
    return *found;
  }
  Error promise(std::uint32_t index, std::uint64_t epoch) {
    return rig.wait(
        [&](Store::Done done) { rig.store->promise_epoch(handle(index), epoch, std::move(done)); });
  }
  Error drop(std::uint32_t index) {
    return rig.wait(
        [&](Store::Done done) { rig.store->drop_segment(handle(index), std::move(done)); });
  }
  Error resize(std::uint32_t index, std::uint32_t block_count) {
    return rig.wait([&](Store::Done done) {
      rig.store->resize_segment(handle(index), block_count, std::move(done));
    });
  }
  Rig rig;
};

}  // namespace

TEST_CASE("a segment whose creation is done survives power loss, once") {
  OpenStore s(1);
  Client client(s.rig, 100);
  CHECK(client.create(0, 200) == Error::AlreadyExists);
  CHECK(client.create(5, 300) == Error::Ok);
  s.power_cycle();
  CHECK(s.rig.store->segments().size() == 2);
  CHECK(s.rig.store->info().segment_count == 2);
  const SegmentInfo info = s.rig.store->segment_info(s.handle(5));
  CHECK(info.id == segment_id(5));
  CHECK(info.block_count == 300);
  CHECK(info.promised_epoch == 0);
  CHECK(info.stable == Version{});
  CHECK(info.chunk_count == 0);
  CHECK(s.rig.store->segment_info(s.handle(0)).block_count == 100);
  CHECK_FALSE(s.rig.store->find_segment(segment_id(6)).has_value());
}

TEST_CASE("segments that share a store share nothing else") {
  OpenStore s(2);
  Client a(s.rig, 64);
  CHECK(a.create(1, 64) == Error::Ok);
  Client b(s.rig, Client::Existing{});
  b.use(1);
  CHECK(a.write(0, 20, 100) == Error::Ok);
  CHECK(b.write(0, 10, 200) == Error::Ok);
  CHECK(b.zero(5, 1) == Error::Ok);
  CHECK(a.read(0, 20) == tags_from(100, 20));
  CHECK(b.read(0, 5) == tags_from(200, 5));
  CHECK(b.read(10, 10) == tags_from(kHole, 10));
}

TEST_CASE("a dropped segment is gone, its space is free, its id starts anew") {
  OpenStore s(3);
  Client client(s.rig, 640);
  CHECK(client.write(0, 64, 100) == Error::Ok);
  CHECK(client.write(100, 3, 300) == Error::Ok);
  CHECK(s.drop(0) == Error::Ok);
  s.power_cycle();
  CHECK_FALSE(s.rig.store->find_segment(segment_id(0)).has_value());
  CHECK(s.rig.store->info().allocated_bytes == 0);
  Client again(s.rig, 640);
  CHECK(again.read(0, 64) == tags_from(kHole, 64));
  CHECK(again.version_of(0) == Version{});
  s.rig.kill();
  s.rig.open();
  again.use(0);
  CHECK(again.read(64, 64) == tags_from(kHole, 64));
}

TEST_CASE("what waits for a segment that is dropped never reaches the one that takes its place") {
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    CAPTURE(seed);
    OpenStore s(20 + seed);
    Client client(s.rig, 64);
    const CallRef before = client.start_write(0, 16, 100);
    s.rig.world.run_for(1);                                // on its way
    const CallRef behind = client.start_write(3, 1, 200);  // waits for the whole chunk
    const CallRef zero = client.start_zero(0, 2);
    Error dropped = Error::WriteUnresolved;
    s.rig.store->drop_segment(client.segment, [&](Error error) { dropped = error; });
    s.rig.world.run_for(10'000);  // all of it is given back
    REQUIRE(client.create(1, 64) == Error::Ok);
    REQUIRE(dropped == Error::Ok);
    REQUIRE(s.handle(1) == client.segment);  // its place
    CHECK(client.finish(*before) == Error::Ok);
    CHECK(client.finish(*behind) == Error::NotFound);
    CHECK(client.finish(*zero) == Error::NotFound);
    CHECK(client.read(0, 64) == tags_from(kHole, 64));
    CHECK(client.version_of(0) == Version{});
    CHECK(s.rig.store->check().empty());
  }
}

TEST_CASE("a read that waits when its segment is dropped reads no other one's blocks") {
  OpenStore s(41);
  Client client(s.rig, 1024);
  for (std::uint32_t b = 0; b < 1024; b += 2) REQUIRE(client.write(b, 1, 1 + b) == Error::Ok);
  s.rig.world.run_for(30'000'000);  // all home: a device read for each block
  s.rig.disk.set_slowness(100'000);
  std::vector<CallRef> reads;
  for (std::uint32_t i = 0; i < 48; ++i)
    reads.push_back(client.start_read(i * 64 % 1024, 64));  // more than there are places
  s.rig.disk.set_slowness(1);
  Error dropped = Error::WriteUnresolved;
  s.rig.store->drop_segment(client.segment, [&](Error error) { dropped = error; });
  s.rig.world.run_for(10'000);  // all of it is given back
  REQUIRE(client.create(1, 1024) == Error::Ok);
  REQUIRE(dropped == Error::Ok);
  REQUIRE(s.handle(1) == client.segment);
  REQUIRE(client.write(992, 31, 9000) == Error::Ok);
  for (const CallRef& read : reads) {
    const Error error = client.finish(*read);
    CHECK((error == Error::Ok || error == Error::NotFound));
    if (error != Error::Ok) continue;
    for (std::uint32_t i = 0; i < 64; i += 2)
      CHECK(read->tags()[i] == 1 + read->op.first_block + i);
  }
  CHECK(client.read(992, 31) == tags_from(9000, 31));
}

TEST_CASE("there are places for a thousand segments, then NoSpace, then places again") {
  OpenStore s(4);
  Client client(s.rig, 16);
  std::uint32_t count = 1;
  while (client.create(count, 16) == Error::Ok) {
    ++count;
    REQUIRE(count < 5000);
  }
  CHECK(client.create(count, 16) == Error::NoSpace);
  CHECK(count >= 1000);
  CHECK(s.drop(7) == Error::Ok);
  CHECK(client.create(count, 16) == Error::Ok);
  s.power_cycle();
  CHECK(s.rig.store->segments().size() == count);
}

TEST_CASE("a segment grows and keeps its content; it never shrinks") {
  OpenStore s(5);
  Client client(s.rig, 40);
  CHECK(client.write(0, 40, 100) == Error::Ok);
  CHECK(s.resize(0, 100) == Error::Ok);
  CHECK(client.read(0, 40) == tags_from(100, 40));
  CHECK(client.read(40, 60) == tags_from(kHole, 60));
  CHECK(client.write(40, 60, 200) == Error::Ok);
  CHECK(s.resize(0, 99) == Error::InvalidArgument);
  CHECK(s.resize(0, 0) == Error::InvalidArgument);
  CHECK(s.resize(0, 1u << 30) == Error::InvalidArgument);
  CHECK(client.flush() == Error::Ok);
  s.power_cycle();
  client.use(0);
  CHECK(s.rig.store->segment_info(client.segment).block_count == 100);
  CHECK(client.read(0, 40) == tags_from(100, 40));
  CHECK(client.read(40, 60) == tags_from(200, 60));
}

TEST_CASE("a promised epoch fences lower ones, also after power loss") {
  OpenStore s(6);
  Client client(s.rig, 16);
  CHECK(s.promise(0, 5) == Error::Ok);
  CHECK(s.promise(0, 4) == Error::EpochFenced);
  CHECK(s.promise(0, 5) == Error::Ok);
  s.power_cycle();
  CHECK(s.rig.store->segment_info(s.handle(0)).promised_epoch == 5);
  CHECK(s.promise(0, 4) == Error::EpochFenced);
  CHECK(s.promise(0, ~0ull) == Error::Ok);
  CHECK(s.promise(0, 6) == Error::EpochFenced);
}

TEST_CASE("the stable mark moves forward only, and travels with the next flushed write") {
  OpenStore s(7);
  Client client(s.rig, 160);
  CHECK(client.write(0, 1, 1) == Error::Ok);
  s.rig.store->set_stable(client.segment, {1, 1});
  CHECK(s.rig.store->segment_info(client.segment).stable == Version{1, 1});
  s.rig.store->set_stable(client.segment, {0, 9});
  CHECK(s.rig.store->segment_info(client.segment).stable == Version{1, 1});
  CHECK(client.write(1, 1, 2) == Error::Ok);
  CHECK(client.flush() == Error::Ok);
  s.power_cycle();
  CHECK(s.rig.store->segment_info(s.handle(0)).stable == Version{1, 1});
}

TEST_CASE("a tombstone stays until the stable mark has passed it") {
  OpenStore s(8);
  Client client(s.rig, 160);
  CHECK(client.write(0, 16, 1) == Error::Ok);
  CHECK(client.zero(0, 16) == Error::Ok);
  const Version zeroed = client.last_version();
  s.rig.store->set_stable(client.segment, {zeroed.epoch, zeroed.seq - 1});
  CHECK(client.write(32, 1, 5) == Error::Ok);
  CHECK(client.flush() == Error::Ok);
  s.rig.world.run_for(30'000'000);
  s.power_cycle();
  client.use(0);
  CHECK(client.version_of(0) == zeroed);
  s.rig.store->set_stable(client.segment, zeroed);
  CHECK(client.write(33, 1, 6) == Error::Ok);
  CHECK(client.flush() == Error::Ok);
  s.rig.world.run_for(30'000'000);
  CHECK(client.version_of(0) == Version{});
  s.power_cycle();
  client.use(0);
  CHECK(client.version_of(0) == Version{});
  CHECK(client.version_of(2) != Version{});
}

TEST_CASE("trimmed space comes back by itself, in every segment, soon after the stable mark") {
  OpenStore s(14);
  Client a(s.rig, 160);
  REQUIRE(a.create(1, 160) == Error::Ok);
  Client b(s.rig, Client::Existing{});
  b.use(1);
  const std::uint64_t free_before = s.rig.store->info().allocated_bytes;
  CHECK(a.write(0, 64, 1) == Error::Ok);
  CHECK(b.write(0, 64, 2) == Error::Ok);
  CHECK(s.rig.store->info().allocated_bytes == free_before + 8 * kChunkBytes);
  CHECK(a.zero(0, 64) == Error::Ok);
  CHECK(b.zero(0, 64) == Error::Ok);
  // No client asks for anything more: what is freed must not wait for the next write or flush.
  s.rig.store->set_stable(a.segment, a.last_version());
  s.rig.store->set_stable(b.segment, b.last_version());
  s.rig.world.run_for(50'000);
  CHECK(s.rig.store->info().allocated_bytes == free_before);
  CHECK(s.rig.store->check().empty());
}

TEST_CASE("chunks are listed in order, from a chunk, above a version, as many as asked for") {
  OpenStore s(9);
  Client client(s.rig, 640);
  for (const std::uint32_t chunk : {30u, 2u, 7u, 12u, 3u}) {
    CHECK(client.write(chunk * kBlocksPerChunk, 1, chunk) == Error::Ok);
  }
  CHECK(client.zero(12 * kBlocksPerChunk, 16) == Error::Ok);  // a tombstone, version 6
  std::array<ChunkVersion, 8> out;
  auto list = [&](std::uint32_t from, Version above, std::size_t room) {
    std::vector<std::uint32_t> chunks;
    const std::size_t count =
        s.rig.store->list_chunks(client.segment, from, above, std::span(out).first(room));
    for (std::size_t i = 0; i < count; ++i) {
      CHECK(out[i].version == client.version_of(out[i].chunk));
      chunks.push_back(out[i].chunk);
    }
    return chunks;
  };
  using Chunks = std::vector<std::uint32_t>;
  CHECK(list(0, {}, 8) == Chunks{2, 3, 7, 12, 30});
  CHECK(list(3, {}, 8) == Chunks{3, 7, 12, 30});
  CHECK(list(4, {}, 2) == Chunks{7, 12});
  CHECK(list(31, {}, 8) == Chunks{});
  CHECK(list(0, {1, 3}, 8) == Chunks{3, 12});
  CHECK(list(0, {1, 5}, 8) == Chunks{12});
  CHECK(list(0, {1, 6}, 8) == Chunks{});
  CHECK(list(0, {}, 0) == Chunks{});
  CHECK(s.rig.store->segment_info(client.segment).chunk_count == 5);
}

TEST_CASE("a digest depends on a chunk's content and on nothing else") {
  OpenStore s(10);
  Client a(s.rig, 64);
  CHECK(a.create(1, 64) == Error::Ok);
  Client b(s.rig, Client::Existing{});
  b.use(1);
  CHECK(a.write(0, 16, 100) == Error::Ok);
  CHECK(a.zero(3, 1) == Error::Ok);
  CHECK(b.write(4, 12, 104) == Error::Ok);
  CHECK(b.write(0, 3, 100) == Error::Ok);
  std::array<ChunkDigest, 4> of_a, of_b;
  REQUIRE(s.rig.store->list_digests(a.segment, 0, of_a) == 1);
  REQUIRE(s.rig.store->list_digests(b.segment, 0, of_b) == 1);
  ModelState state;
  for (std::uint32_t i = 0; i < 16; ++i) state.tags[i] = i == 3 ? kHole : 100 + i;
  CHECK(of_a[0].digest == state.digest());
  CHECK(of_b[0].digest == state.digest());
  CHECK(of_a[0].valid_mask == 0xfff7);
  CHECK(of_a[0].version == a.version_of(0));
  CHECK(s.rig.store->list_digests(a.segment, 1, of_a) == 0);
}

TEST_CASE("a block's place on the device is where its bytes are") {
  OpenStore s(11);
  Client client(s.rig, 640);
  CHECK(client.write(0, 32, 100) == Error::Ok);
  CHECK(client.write(40, 1, 200) == Error::Ok);
  CHECK_FALSE(s.rig.store->locate(client.segment, 200).allocated);
  std::set<std::uint64_t> places;
  CHECK(client.flush() == Error::Ok);
  s.rig.world.run_for(600'000'000);
  for (const std::uint32_t block : {0u, 5u, 16u, 31u, 40u}) {
    const BlockLocation at = s.rig.store->locate(client.segment, block);
    CHECK(at.allocated);
    CHECK(at.chunk_version == client.version_of(block / kBlocksPerChunk));
    io::testing::Page page;
    s.rig.disk.peek(at.device_offset_bytes, page.span());
    CHECK(tag_of_block(page.data()) == (block == 40 ? 200 : 100 + block));
    CHECK(at.crc32c == crc32c(page.data(), kBlockBytes));
    places.insert(at.device_offset_bytes);
  }
  CHECK(places.size() == 5);
}
