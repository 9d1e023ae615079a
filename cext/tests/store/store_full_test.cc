// A store without a free slot: what gives space back, and what brings it back, still works.
#include <doctest/doctest.h>

#include "tests/store/store_client.h"

using namespace blockd;
using namespace blockd::store;
using namespace blockd::store::testing;

namespace {

// Two segments share a store until it has no slot left; every chunk then changes through the
// journal, which is far smaller than the data and goes round many times.
struct FullStore {
  explicit FullStore(std::uint64_t seed) : rig(seed, 6 * kMiB) {
    rig.format();
    rig.open();
    slots = static_cast<std::uint32_t>(rig.store->info().capacity_bytes / kChunkBytes);
    client = std::make_unique<Client>(rig, 2 * slots * kBlocksPerChunk);
    REQUIRE(client->create(1, 2 * slots * kBlocksPerChunk) == Error::Ok);
    for (std::uint32_t chunk = 0; chunk < slots; ++chunk) {
      client->use(chunk % 2);
      REQUIRE(client->write(chunk * kBlocksPerChunk, 16, 1 + chunk * 100) == Error::Ok);
    }
    client->use(0);
    REQUIRE(client->write(beyond(), 1, 7) == Error::NoSpace);
    REQUIRE(rig.store->info().allocated_bytes == rig.store->info().capacity_bytes);
  }

  void overwrite_all(Tag from) {
    for (std::uint32_t chunk = 0; chunk < slots; ++chunk) {
      client->use(chunk % 2);
      const std::uint32_t block = chunk * kBlocksPerChunk;
      REQUIRE(client->write(block, 16, from + chunk * 100) == Error::Ok);
      REQUIRE(client->write(block + 3, 2, from + chunk * 100 + 50) == Error::Ok);
    }
  }
  void check_all(Tag from) {
    for (std::uint32_t chunk = 0; chunk < slots; ++chunk) {
      client->use(chunk % 2);
      std::vector<Tag> expected = tags_from(from + chunk * 100, 16);
      expected[3] = from + chunk * 100 + 50;
      expected[4] = from + chunk * 100 + 51;
      CHECK(client->read(chunk * kBlocksPerChunk, 16) == expected);
    }
  }
  void reopen() {
    rig.open();
    CHECK(rig.store->check().empty());
    const std::uint64_t seq = client->seq;
    client = std::make_unique<Client>(rig, Client::Existing{});
    client->seq = seq;
  }
  [[nodiscard]] std::uint32_t beyond() const { return slots * kBlocksPerChunk; }

  Rig rig;
  std::uint32_t slots = 0;
  std::unique_ptr<Client> client;
};

}  // namespace

TEST_CASE("a full store is overwritten, crashes and is opened like any other") {
  for (std::uint64_t seed = 0; seed < 12; ++seed) {
    CAPTURE(seed);
    FullStore s(seed);
    s.overwrite_all(100'000);
    s.check_all(100'000);
    if (seed % 3 == 0) s.rig.kill();
    if (seed % 3 == 1) {
      CHECK(s.client->flush() == Error::Ok);
      s.rig.power_off(io::SimDisk::Crash::random);
    }
    if (seed % 3 == 2) CHECK(s.rig.close());
    s.reopen();
    s.check_all(100'000);
    CHECK(s.client->write(s.beyond(), 1, 7) == Error::NoSpace);
    s.overwrite_all(200'000);
    s.check_all(200'000);
  }
}

TEST_CASE("a full store trims, block by block and all at once, and has the space back") {
  for (std::uint64_t seed = 0; seed < 6; ++seed) {
    CAPTURE(seed);
    FullStore s(seed);
    s.overwrite_all(100'000);
    s.client->use(0);
    for (std::uint32_t block = 0; block < kBlocksPerChunk; ++block) {
      REQUIRE(s.client->zero(block, 1) == Error::Ok);
    }
    CHECK(s.client->zero(0, 2 * s.slots * kBlocksPerChunk) == Error::Ok);
    s.rig.store->set_stable(s.client->segment, s.client->last_version());
    if (seed % 2) {
      CHECK(s.client->flush() == Error::Ok);
      s.rig.power_off(io::SimDisk::Crash::random);
      s.reopen();
      s.rig.store->set_stable(s.client->segment, s.client->last_version());
    }
    s.rig.world.run_for(30'000'000);
    const StoreInfo info = s.rig.store->info();
    CHECK(info.allocated_bytes == s.slots / 2 * kChunkBytes);  // the other segment's
    for (std::uint32_t chunk = 0; chunk < s.slots - s.slots / 2; ++chunk) {
      REQUIRE(s.client->write(chunk * kBlocksPerChunk, 1, chunk + 1) == Error::Ok);
    }
    CHECK(s.client->write(s.beyond(), 1, 7) == Error::NoSpace);
    CHECK(s.rig.store->check().empty());
  }
}

TEST_CASE("a full store drops a segment, also with writes under way, and takes another") {
  for (std::uint64_t seed = 0; seed < 6; ++seed) {
    CAPTURE(seed);
    FullStore s(seed);
    s.client->use(1);
    std::vector<CallRef> calls;
    for (std::uint32_t chunk = 1; chunk < s.slots; chunk += 2) {
      calls.push_back(s.client->start_write(chunk * kBlocksPerChunk, 16, 300'000 + chunk * 100));
    }
    const SegmentHandle dropped = s.client->segment;
    CHECK(s.rig.wait([&](Store::Done done) {
      s.rig.store->drop_segment(dropped, std::move(done));
    }) == Error::Ok);
    for (const CallRef& call : calls) {
      const Error error = s.client->finish(*call);
      CHECK((error == Error::Ok || error == Error::NotFound));
    }
    CHECK(s.client->create(2, 2 * s.slots * kBlocksPerChunk) == Error::Ok);
    s.client->use(2);
    for (std::uint32_t chunk = 0; chunk < s.slots / 2; ++chunk) {
      REQUIRE(s.client->write(chunk * kBlocksPerChunk, 16, 1 + chunk) == Error::Ok);
    }
    s.rig.kill();
    s.reopen();
    CHECK_FALSE(s.rig.store->find_segment(segment_id(1)).has_value());
    s.client->use(2);
    CHECK(s.client->read(0, 16) == tags_from(1, 16));
  }
}

TEST_CASE("resync into a full store: chunks that are there are replaced, others say NoSpace") {
  FullStore s(1);
  s.client->use(0);
  CHECK(s.client->replace(0, 0xffff, 500'000, s.client->next_version()) == Error::Ok);
  CHECK(s.client->replace(2, 0x00ff, 600'000, s.client->next_version()) == Error::Ok);
  CHECK(s.client->replace(1, 0xffff, 700'000, s.client->next_version()) == Error::NoSpace);
  CHECK(s.client->version_of(1) == Version{});
  CHECK(s.client->replace(4, 0, 0, {}) == Error::Ok);  // drops a chunk: one slot
  CHECK(s.client->flush() == Error::Ok);
  CHECK(s.client->replace(1, 0xffff, 700'000, s.client->next_version()) == Error::Ok);
  CHECK(s.client->read(0, 48) == [] {
    std::vector<Tag> tags = tags_from(500'000, 16);
    for (const Tag tag : tags_from(700'000, 16)) tags.push_back(tag);
    for (const Tag tag : tags_from(600'000, 8)) tags.push_back(tag);
    tags.resize(48, kHole);
    return tags;
  }());
  CHECK(s.rig.store->check().empty());
}
