// A store with less memory than its metadata needs, and segments that go by and by.
#include <doctest/doctest.h>

#include "store/layout.h"
#include "store/slot_table.h"
#include "tests/store/store_client.h"

namespace blockd::store::testing {
namespace {

constexpr std::uint32_t kChunks = 400;  // on thirteen pages
constexpr std::uint32_t kBlocks = kChunks * kBlocksPerChunk;

struct Paged {
  explicit Paged(std::uint64_t seed) : rig(seed, 40 * kMiB) {
    rig.format();
    rig.metadata_cache_bytes = 2 * kBlockBytes;
    rig.open();
  }
  Rig rig;
};

void fill(Client& client) {
  for (std::uint32_t chunk = 0; chunk < kChunks; ++chunk)
    REQUIRE(client.write(chunk * kBlocksPerChunk, 1, 1 + chunk) == Error::Ok);
}

TEST_CASE("a slot table gives what was set, also after others are gone") {
  Random random(7);
  SlotTable table(200);
  std::vector<std::uint32_t> model(5000);
  std::size_t used = 0;
  for (std::uint32_t step = 0; step < 200'000; ++step) {
    const auto slot = static_cast<std::uint32_t>(random.below(model.size()));
    const std::uint32_t value = used < 200 && random.chance(2) ? 1 + step : 0;
    if (model[slot] == 0 && value != 0) ++used;
    if (model[slot] != 0 && value == 0) --used;
    model[slot] = value;
    table.set(slot, value);
    if (step % 1000 != 0) continue;
    REQUIRE(table.size() == used);
    for (std::uint32_t at = 0; at < model.size(); ++at) REQUIRE(table.find(at) == model[at]);
  }
}

TEST_CASE("more metadata than memory: every chunk is found, now and after a restart") {
  Paged s(1);
  Client client(s.rig, kBlocks);
  fill(client);
  for (const bool restart : {false, true}) {
    CAPTURE(restart);
    if (restart) {
      REQUIRE(s.rig.close());
      s.rig.open();
    }
    Client again(s.rig, Client::Existing{});
    for (std::uint32_t chunk = 0; chunk < kChunks; chunk += 7)
      CHECK(again.read_one(chunk * kBlocksPerChunk) == 1 + chunk);
    std::vector<ChunkVersion> listed(kChunks + 1);
    CHECK(s.rig.store->list_chunks(again.segment, 0, Version{}, listed) == kChunks);
    CHECK(s.rig.store->check().empty());
  }
}

TEST_CASE("reads of many cold pages at once all end") {
  Paged s(2);
  Client client(s.rig, kBlocks);
  fill(client);
  s.rig.world.run_for(30'000'000);
  std::vector<CallRef> reads;
  for (std::uint32_t i = 0; i < 200; ++i)
    reads.push_back(client.start_read(i * 37 % (kChunks - 4) * kBlocksPerChunk, 64));
  for (std::uint32_t i = 0; i < 200; ++i) {
    REQUIRE(client.finish(*reads[i]) == Error::Ok);
    CHECK(reads[i]->tags()[16] == 2 + i * 37 % (kChunks - 4));
  }
}

TEST_CASE("a metadata page that is lost while the store is open is an error, never a hole") {
  Paged s(3);
  Client client(s.rig, kBlocks);
  fill(client);
  s.rig.world.run_for(30'000'000);  // all of it is home, and only the last pages are in memory
  for (std::uint32_t chunk = kChunks - 40; chunk < kChunks; ++chunk)
    REQUIRE(client.read_one(chunk * kBlocksPerChunk) == 1 + chunk);
  const format::Superblock superblock = read_superblock(s.rig.disk);
  s.rig.disk.fail_reads(superblock.slot_pages_offset,
                        2ull * superblock.slot_page_count * kBlockBytes);
  CHECK(client.try_read(0, 1) == Error::DiskError);
  CHECK(s.rig.store->metadata_lost());
  CHECK(client.write(0, 1, 9) == Error::StoreDamaged);
  CHECK(client.flush() == Error::StoreDamaged);
}

TEST_CASE("a metadata page whose newest write was lost is noticed when it is read again") {
  Paged s(5);
  Client client(s.rig, kBlocks);
  fill(client);
  s.rig.world.run_for(30'000'000);
  const format::Superblock superblock = read_superblock(s.rig.disk);
  io::testing::Page older[2];  // both copies of the first page
  const auto copy_at = [&](std::uint64_t copy) {
    return superblock.slot_pages_offset + copy * superblock.slot_page_count * kBlockBytes;
  };
  for (std::uint64_t copy : {0, 1}) s.rig.disk.peek(copy_at(copy), older[copy].span());
  for (const Tag tag : {Tag{7001}, Tag{7002}}) {  // each copy is written once more
    REQUIRE(client.write(0, 1, tag) == Error::Ok);
    s.rig.world.run_for(30'000'000);
  }
  for (std::uint32_t chunk = kChunks / 2; chunk < kChunks; ++chunk)  // it leaves the cache
    REQUIRE(client.read_one(chunk * kBlocksPerChunk) == 1 + chunk);
  for (std::uint64_t copy : {0, 1})
    REQUIRE(s.rig.disk.write_now(copy_at(copy), older[copy].span()) == Error::Ok);
  CHECK(client.try_read(0, 1) == Error::DiskError);
  CHECK(s.rig.store->metadata_lost());
}

TEST_CASE("a dropped segment is gone at once, and a crash only puts off what it gives back") {
  Paged s(4);
  const std::uint64_t before = s.rig.store->info().allocated_bytes;
  {
    Client client(s.rig, kBlocks);
    fill(client);
    REQUIRE(s.rig.wait([&](Store::Done done) {
      s.rig.store->drop_segment(client.segment, std::move(done));
    }) == Error::Ok);
  }
  CHECK_FALSE(s.rig.store->find_segment(segment_id(0)).has_value());
  CHECK(s.rig.store->segments().empty());
  for (std::uint32_t crash = 0; crash < 6; ++crash) {
    s.rig.power_off(io::SimDisk::Crash::lose_all);
    s.rig.open();
    CHECK_FALSE(s.rig.store->find_segment(segment_id(0)).has_value());
    s.rig.world.run_for(300);
  }
  s.rig.world.run_for(30'000'000);
  CHECK(s.rig.store->info().allocated_bytes == before);
  CHECK(s.rig.store->check().empty());
  Client client(s.rig, kBlocks);  // a new one of the same name
  fill(client);
  CHECK(client.read_one(17 * kBlocksPerChunk) == 18);
}

}  // namespace
}  // namespace blockd::store::testing
