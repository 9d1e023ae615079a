// Reading and writing: order, holes, alignment, cost, space.
#include <doctest/doctest.h>

#include "tests/store/store_client.h"

using namespace blockd;
using namespace blockd::store;
using namespace blockd::store::testing;

namespace {

struct OpenStore {
  explicit OpenStore(std::uint64_t seed, std::uint64_t capacity_bytes = 8 * kMiB,
                     std::uint32_t chunks = 64)
      : rig(seed, capacity_bytes) {
    rig.format();
    rig.open();
    client = std::make_unique<Client>(rig, chunks * kBlocksPerChunk);
  }
  void reopen_after(void (*end)(Rig&)) {
    end(rig);
    rig.open();
    CHECK(rig.store->check().empty());
    client = std::make_unique<Client>(rig, Client::Existing{});
    client->seq = 1'000'000;
  }
  Rig rig;
  std::unique_ptr<Client> client;
};

std::uint32_t slots_of(Rig& rig) {
  return static_cast<std::uint32_t>(rig.store->info().capacity_bytes / kChunkBytes);
}

// One block in every chunk until the store is full; how many fitted.
std::uint32_t fill(OpenStore& s) {
  std::uint32_t chunk = 0;
  while (s.client->write(chunk * kBlocksPerChunk, 1, chunk + 1) == Error::Ok) ++chunk;
  return chunk;
}

}  // namespace

TEST_CASE("what was written is read, what was not is zeros") {
  OpenStore s(1);
  CHECK(s.client->read(0, 64) == tags_from(kHole, 64));
  CHECK(s.client->write(5, 3, 100) == Error::Ok);
  CHECK(s.client->read(4, 5) == std::vector<Tag>{kHole, 100, 101, 102, kHole});
  CHECK(s.rig.store->chunk_valid_mask(s.client->segment, 0) == 0b11100000);
  CHECK(s.client->write(30, 20, 200) == Error::Ok);  // over two chunk borders
  CHECK(s.client->read(30, 20) == tags_from(200, 20));
  CHECK(s.client->read_one(29) == kHole);
  CHECK(s.client->read_one(50) == kHole);
}

TEST_CASE("a write of any size, place and alignment of memory is read back") {
  OpenStore s(2);
  Random random(2);
  std::vector<Tag> expected(64 * kBlocksPerChunk, kHole);
  Tag tag = 1;
  for (int i = 0; i < 400; ++i) {
    const auto count = static_cast<std::uint32_t>(random.between(1, 64));
    const auto first = static_cast<std::uint32_t>(random.below(expected.size() - count + 1));
    const auto misalignment = static_cast<std::uint32_t>(random.chance(2) ? random.below(4096) : 0);
    REQUIRE(s.client->write(first, count, tag, misalignment) == Error::Ok);
    for (std::uint32_t b = 0; b < count; ++b) expected[first + b] = tag++;
    const auto look = static_cast<std::uint32_t>(random.below(expected.size() - 64));
    const auto from = expected.begin() + look;
    REQUIRE(s.client->read(look, 64) == std::vector<Tag>(from, from + 64));
  }
}

TEST_CASE("a chunk's mutations take effect in the order they were submitted") {
  for (std::uint64_t seed = 0; seed < 60; ++seed) {
    CAPTURE(seed);
    OpenStore s(seed);
    Client& c = *s.client;
    std::vector<CallRef> calls;
    calls.push_back(c.start_write(0, 16, 100));   // whole chunk: straight to its slot
    calls.push_back(c.start_write(3, 2, 200));    // journaled
    calls.push_back(c.start_write(16, 1, 300));   // journaled
    calls.push_back(c.start_write(16, 32, 400));  // two whole chunks
    calls.push_back(c.start_zero(20, 4));
    calls.push_back(c.start_write(22, 1, 500));
    calls.push_back(c.start_write(48, 64, 600));
    calls.push_back(c.start_zero(40, 40));
    calls.push_back(c.start_write(60, 8, 700));
    calls.push_back(c.start_replace(5, 0x00ff, 800, c.next_version()));
    calls.push_back(c.start_write(90, 1, 900));
    for (const CallRef& call : calls) CHECK(c.finish(*call) == Error::Ok);
    for (int round = 0; round < 2; ++round) {
      CHECK(c.read(0, 16) == std::vector<Tag>{100, 101, 102, 200, 201, 105, 106, 107, 108, 109, 110,
                                              111, 112, 113, 114, 115});
      CHECK(c.read(16, 8) == std::vector<Tag>{400, 401, 402, 403, kHole, kHole, 500, kHole});
      CHECK(c.read(24, 16) == tags_from(408, 16));
      CHECK(c.read(40, 20) == tags_from(kHole, 20));
      CHECK(c.read(60, 8) == tags_from(700, 8));
      CHECK(c.read(68, 12) == tags_from(kHole, 12));
      CHECK(c.read(80, 16) == std::vector<Tag>{800, 801, 802, 803, 804, 805, 806, 807, kHole, kHole,
                                               900, kHole, kHole, kHole, kHole, kHole});
      CHECK(c.read(96, 16) == tags_from(648, 16));
      s.rig.world.run_for(30'000'000);  // and when everything has gone home
    }
  }
}

TEST_CASE("a read sees every write that was done before it, whatever is in flight") {
  OpenStore s(3);
  Client& c = *s.client;
  CHECK(c.write(0, 16, 100) == Error::Ok);
  const CallRef direct = c.start_write(0, 16, 200);
  const CallRef read = c.start_read(0, 16);
  CHECK(c.finish(*read) == Error::Ok);
  for (const Tag tag : read->tags()) CHECK((tag / 100 == 1 || tag / 100 == 2));
  CHECK(c.finish(*direct) == Error::Ok);
  CHECK(c.read(0, 16) == tags_from(200, 16));
}

TEST_CASE("a mutation's version is listed when it is done") {
  OpenStore s(4);
  Client& c = *s.client;
  const CallRef call = c.start_write(16, 1, 1);
  CHECK(c.finish(*call) == Error::Ok);
  CHECK(c.version_of(1) == c.last_version());
  CHECK(c.version_of(0) == Version{});
}

TEST_CASE("zeroed blocks are holes, and their chunk keeps its version") {
  OpenStore s(5);
  Client& c = *s.client;
  CHECK(c.write(0, 32, 1) == Error::Ok);
  CHECK(c.zero(4, 2) == Error::Ok);
  CHECK(c.read(3, 4) == std::vector<Tag>{4, kHole, kHole, 7});
  CHECK(c.zero(10, 22) == Error::Ok);  // part of one chunk, the whole of the next
  CHECK(c.read(9, 23).front() == 10);
  CHECK(c.read(10, 22) == tags_from(kHole, 22));
  const Version zeroed = c.last_version();
  CHECK(c.version_of(0) == zeroed);
  CHECK(c.version_of(1) == zeroed);  // a tombstone
  CHECK(s.rig.store->chunk_valid_mask(c.segment, 1) == 0);
  CHECK(c.write(17, 1, 500) == Error::Ok);
  CHECK(c.read(16, 3) == std::vector<Tag>{kHole, 500, kHole});
}

TEST_CASE("writing zeros is zeroing: nothing is stored, and what was stored keeps its version") {
  OpenStore s(23);
  Client& c = *s.client;
  const auto allocated = [&] { return s.rig.store->info().allocated_bytes; };
  for (const std::uint32_t first : {0u, 5u, 32u}) {
    CHECK(c.finish(*c.start_write_of_zeros(first, 64)) == Error::Ok);
  }
  CHECK(allocated() == 0);
  CHECK(s.rig.store->chunk_version(c.segment, 0) == Version{});
  CHECK(c.write(0, 32, 1) == Error::Ok);
  const std::uint64_t payload = s.rig.store->stats().device_write_bytes;
  CHECK(c.finish(*c.start_write_of_zeros(4, 2)) == Error::Ok);  // part of a chunk
  CHECK(c.finish(*c.start_write_of_zeros(16, 64)) == Error::Ok);
  CHECK(s.rig.store->stats().device_write_bytes - payload == 2 * kBlockBytes);  // headers alone
  const Version zeroed = c.last_version();
  for (int round = 0; round < 2; ++round) {
    Client& now = *s.client;
    CHECK(now.read(3, 4) == std::vector<Tag>{4, kHole, kHole, 7});
    CHECK(now.read(16, 64) == tags_from(kHole, 64));
    CHECK(now.version_of(0) == Version{zeroed.epoch, zeroed.seq - 1});
    CHECK(now.version_of(1) == zeroed);  // a tombstone
    CHECK(s.rig.store->chunk_valid_mask(now.segment, 0) == 0xffcf);
    CHECK(s.rig.store->chunk_valid_mask(now.segment, 1) == 0);
    CHECK(now.version_of(2) == Version{});
    if (round == 0) s.reopen_after([](Rig& rig) { rig.kill(); });
  }
}

TEST_CASE("of a large write only the chunks that hold data are stored") {
  for (const std::uint32_t misalignment : {0u, 512u}) {
    for (std::uint32_t mask = 1; mask < 16; ++mask) {  // bit: the chunk holds data
      CAPTURE(mask);
      OpenStore s(mask);
      Client& c = *s.client;
      CHECK(c.write(48, 16, 900) == Error::Ok);  // the last chunk is there already
      std::vector<Tag> tags(64, kHole);
      for (std::uint32_t b = 0; b < 64; ++b) {
        if (mask >> (b / 16) & 1) tags[b] = 100 + b;
      }
      CHECK(c.finish(*c.start_write_of(0, tags, misalignment)) == Error::Ok);
      const Version written = c.last_version();
      CHECK(c.write(7, 1, 5000) == Error::Ok);  // what follows is not overtaken
      tags[7] = 5000;
      s.reopen_after([](Rig& rig) { rig.kill(); });
      CHECK(s.client->read(0, 64) == tags);
      CHECK(s.client->version_of(3) == written);
      for (std::uint32_t chunk = 1; chunk < 3; ++chunk) {
        CHECK(s.client->version_of(chunk) == (mask >> chunk & 1 ? written : Version{}));
      }
    }
  }
}

TEST_CASE("zeros are told from data whose checksum is that of zeros, and mixed pieces are data") {
  OpenStore s(24);
  Client& c = *s.client;
  CHECK(c.finish(*c.start_write_of(0, {kHole, 1, kHole})) == Error::Ok);
  CHECK(c.read(0, 4) == std::vector<Tag>{kHole, 1, kHole, kHole});
  CHECK(s.rig.store->chunk_valid_mask(c.segment, 0) == 0b111);
  // CRC-32C is linear: a block that differs from zeros by a multiple of its polynomial has theirs.
  const CallRef call = c.prepare_write_of(16, {kHole});
  constexpr std::uint64_t kPolynomial = 0x82f63b78ull << 1 | 1;  // bits in the order they are sent
  std::memcpy(call->op.data, &kPolynomial, sizeof kPolynomial);
  REQUIRE(crc32c(call->op.data, kBlockBytes) == crc32c_zero_block());
  c.submit(*call);
  CHECK(c.finish(*call) == Error::Ok);
  CHECK(s.rig.store->chunk_valid_mask(c.segment, 1) == 1);
  const CallRef read = c.start_read(16, 1);
  CHECK(c.finish(*read) == Error::Ok);
  CHECK(std::memcmp(read->memory.data(), &kPolynomial, sizeof kPolynomial) == 0);
}

TEST_CASE("a full store takes zeros") {
  OpenStore s(25, 4 * kMiB);
  Client& c = *s.client;
  const std::uint32_t slots = fill(s);
  CHECK(c.finish(*c.start_write_of_zeros(0, 64)) == Error::Ok);
  CHECK(c.finish(*c.start_write_of_zeros(slots * kBlocksPerChunk, 16)) == Error::Ok);
  CHECK(c.read(0, 64) == tags_from(kHole, 64));
  CHECK(c.write(slots * kBlocksPerChunk, 1, 1) == Error::NoSpace);
}

TEST_CASE("replace makes a chunk exactly what it is given, at exactly its version") {
  OpenStore s(6);
  Client& c = *s.client;
  c.epoch = 7;
  CHECK(c.write(0, 48, 1) == Error::Ok);
  CHECK(c.replace(1, 0b1010, 100, {3, 99}) == Error::Ok);  // to an older version
  CHECK(c.version_of(1) == Version{3, 99});
  CHECK(s.rig.store->chunk_valid_mask(c.segment, 1) == 0b1010);
  CHECK(c.read(16, 5) == std::vector<Tag>{kHole, 101, kHole, 103, kHole});
  CHECK(c.read(0, 16) == tags_from(1, 16));
  CHECK(c.read(32, 16) == tags_from(33, 16));
  CHECK(c.replace(1, 0xffff, 200, {8, 1}) == Error::Ok);
  CHECK(c.read(16, 16) == tags_from(200, 16));
  CHECK(c.replace(5, 0x8001, 300, {8, 2}) == Error::Ok);  // where nothing was
  CHECK(c.read_one(80) == 300);
  CHECK(c.read_one(95) == 315);
  CHECK(c.replace(1, 0, 0, {}) == Error::Ok);
  CHECK(c.version_of(1) == Version{});
  CHECK(c.read(16, 16) == tags_from(kHole, 16));
  CHECK(c.replace(9, 0, 0, {}) == Error::Ok);  // dropping what is not there
  CHECK(c.version_of(9) == Version{});
  s.reopen_after([](Rig& rig) { rig.kill(); });
  CHECK(s.client->version_of(1) == Version{});
  CHECK(s.client->version_of(5) == Version{8, 2});
  CHECK(s.client->read_one(95) == 315);
}

TEST_CASE("an extent outside the segment or of a wrong size is refused") {
  OpenStore s(7, 8 * kMiB, 2);
  Client& c = *s.client;
  CHECK(c.write(31, 1, 1) == Error::Ok);
  CHECK(c.write(32, 1, 1) == Error::ExtentOutOfRange);
  CHECK(c.write(31, 2, 1) == Error::ExtentOutOfRange);
  CHECK(c.zero(~0u, 2) == Error::ExtentOutOfRange);
  CHECK(c.try_read(16, 17) == Error::ExtentOutOfRange);
  CHECK(c.replace(2, 1, 1, {1, 50}) == Error::ExtentOutOfRange);
  CHECK(c.read(30, 2) == std::vector<Tag>{kHole, 1});
  CHECK(s.rig.store->check().empty());
}

TEST_CASE("flushed writes survive power loss, unflushed ones wholly or not at all") {
  for (std::uint64_t seed = 0; seed < 100; ++seed) {
    CAPTURE(seed);
    OpenStore s(seed);
    CHECK(s.client->write(0, 40, 100) == Error::Ok);
    CHECK(s.client->flush() == Error::Ok);
    CHECK(s.client->write(0, 16, 200) == Error::Ok);
    CHECK(s.client->write(20, 2, 300) == Error::Ok);
    s.reopen_after([](Rig& rig) { rig.power_off(io::SimDisk::Crash::random); });
    const std::vector<Tag> first = s.client->read(0, 16);
    CHECK((first == tags_from(100, 16) || first == tags_from(200, 16)));
    const std::vector<Tag> second = s.client->read(20, 2);
    CHECK((second == tags_from(120, 2) || second == tags_from(300, 2)));
    CHECK(s.client->read(22, 18) == tags_from(122, 18));
  }
}

TEST_CASE("a done write survives the death of its process") {
  OpenStore s(8);
  CHECK(s.client->write(0, 64, 100) == Error::Ok);
  CHECK(s.client->write(70, 1, 200) == Error::Ok);
  CHECK(s.client->zero(1, 1) == Error::Ok);
  s.reopen_after([](Rig& rig) { rig.kill(); });
  CHECK(s.client->read(0, 3) == std::vector<Tag>{100, kHole, 102});
  CHECK(s.client->read(3, 61) == tags_from(103, 61));
  CHECK(s.client->read_one(70) == 200);
}

TEST_CASE("zeroing what an earlier operation is still dropping waits for it") {
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    CAPTURE(seed);
    OpenStore s(seed);
    CHECK(s.client->write(0, 16, 100) == Error::Ok);
    CHECK(s.client->flush() == Error::Ok);
    const CallRef drop = s.client->start_replace(0, 0, 0, {});
    s.rig.world.run_for(1);  // its entry is on its way
    const CallRef zero =
        seed % 2 ? s.client->start_zero(0, 4) : s.client->start_replace(0, 0, 0, {});
    CHECK(s.client->finish(*zero) == Error::Ok);
    s.reopen_after([](Rig& rig) { rig.kill(); });
    CHECK(s.client->read(0, 16) == tags_from(kHole, 16));
  }
}

// Cost.

TEST_CASE("small writes of one iteration share one device write") {
  OpenStore s(9);
  Client& c = *s.client;
  const StoreStats before = s.rig.store->stats();
  std::vector<CallRef> calls;
  for (std::uint32_t i = 0; i < 32; ++i) calls.push_back(c.start_write(i * 5, 1, i + 1));
  for (const CallRef& call : calls) CHECK(c.finish(*call) == Error::Ok);
  const StoreStats& after = s.rig.store->stats();
  CHECK(after.device_writes - before.device_writes == 1);
  CHECK(after.device_write_bytes - before.device_write_bytes == 33 * kBlockBytes);
  CHECK(after.journal_batches - before.journal_batches == 1);
  CHECK(after.writes - before.writes == 32);
  CHECK(after.write_bytes - before.write_bytes == 32 * kBlockBytes);
}

TEST_CASE("a large write goes to the device once, with one small journal batch behind it") {
  OpenStore s(10);
  Client& c = *s.client;
  const StoreStats before = s.rig.store->stats();
  CHECK(c.write(0, 64, 1) == Error::Ok);
  const StoreStats& after = s.rig.store->stats();
  CHECK(after.device_writes - before.device_writes == 2);
  CHECK(after.device_write_bytes - before.device_write_bytes == kMutationBytesMax + kBlockBytes);
}

TEST_CASE("whole chunks that stream in ask for a flush now and then, not all the time") {
  Rig rig(20, 480 * kMiB);
  rig.format(32 * kMiB);  // checkpoints are far apart
  rig.open();
  Client c(rig, 512 * kBlocksPerChunk);
  std::vector<CallRef> calls;
  for (std::uint32_t i = 0; i < 16; ++i) calls.push_back(c.start_write(i * 64, 64, 1));
  for (std::uint32_t next = 16; rig.store->stats().write_bytes < 1000 * kMiB; ++next) {
    Call& call = *calls[next % calls.size()];
    REQUIRE(c.finish(call) == Error::Ok);
    call.done = false;
    call.op.first_block = next % 128 * 64;
    call.op.version = c.next_version();
    rig.store->submit(call.op);
  }
  for (const CallRef& call : calls) REQUIRE(c.finish(*call) == Error::Ok);
  CHECK(rig.store->stats().checkpoints == 0);
  CHECK(rig.store->stats().device_flushes >= 3);  // recovery would have too much to verify
  CHECK(rig.store->stats().device_flushes <= 8);
}

TEST_CASE("reads of what was just written need no device, later ones one request") {
  OpenStore s(11);
  Client& c = *s.client;
  CHECK(c.write(0, 4, 1) == Error::Ok);
  CHECK(c.write(32, 64, 100) == Error::Ok);
  const std::uint64_t before = s.rig.store->stats().device_reads;
  CHECK(c.read(0, 4) == tags_from(1, 4));
  CHECK(c.read(1000, 10) == tags_from(kHole, 10));
  CHECK(s.rig.store->stats().device_reads == before);
  CHECK(c.read(32, 64) == tags_from(100, 64));
  CHECK(s.rig.store->stats().device_reads == before + 1);  // four chunks side by side
}

TEST_CASE("reads that a checkpoint overtakes are read again, however many others are in flight") {
  OpenStore s(19);
  Client& c = *s.client;
  constexpr std::uint32_t kBlocks = 64 * kBlocksPerChunk;
  for (std::uint32_t b = 0; b < kBlocks; b += 2) REQUIRE(c.write(b, 1, 1000 + b) == Error::Ok);
  s.rig.world.run_for(30'000'000);  // all home
  // Every other block is a hole: 32 device reads an operation, more of them than there are places.
  s.rig.disk.set_slowness(200'000);
  std::vector<CallRef> reads;
  for (std::uint32_t i = 0; i < 48; ++i) reads.push_back(c.start_read(i * 64 % kBlocks, 64));
  s.rig.world.run_for(1'000);
  s.rig.disk.set_slowness(1);
  for (std::uint32_t b = 0; b < kBlocks; b += 8) REQUIRE(c.write(b, 1, 5000 + b) == Error::Ok);
  s.rig.world.run_for(8'000'000);  // home, too
  REQUIRE_FALSE(s.rig.store->locate(c.segment, 0).in_journal);
  for (const CallRef& read : reads) {
    REQUIRE(c.finish(*read) == Error::Ok);
    const std::vector<Tag> tags = read->tags();
    for (std::uint32_t i = 0; i < 64; ++i) {
      const Tag was = 1000 + read->op.first_block + i;
      const bool right =
          i % 2 ? tags[i] == kHole : tags[i] == was || (i % 8 == 0 && tags[i] == was + 4000);
      CHECK(right);
    }
    CHECK(crc32c_verify(read->memory.data(), {read->crcs.data(), 64}) == 64);
  }
  CHECK(s.rig.store->stats().checksum_errors == 0);
}

TEST_CASE("flushes at the same time share the device's flushes") {
  OpenStore s(12);
  Client& c = *s.client;
  CHECK(c.write(0, 1, 1) == Error::Ok);
  const std::uint64_t before = s.rig.disk.stats().flushes;
  std::vector<CallRef> calls;
  for (int i = 0; i < 20; ++i) calls.push_back(c.start_flush());
  for (const CallRef& call : calls) CHECK(c.finish(*call) == Error::Ok);
  CHECK(s.rig.disk.stats().flushes - before == 1);
}

TEST_CASE("a device that loses nothing with its power is not asked to flush") {
  Rig rig(18);
  Store::format(rig.disk, {.store_id = kStoreId,
                           .cluster_id = kClusterId,
                           .journal_bytes = kMiB,
                           .power_loss_protected = true});
  rig.open();
  CHECK(rig.store->info().power_loss_protected);
  const std::uint64_t before = rig.disk.stats().flushes;
  {
    Client client(rig);
    for (std::uint32_t i = 0; i < 600; ++i)  // the journal wraps
      REQUIRE(client.write(i % 64, 1, 1 + i) == Error::Ok);
    REQUIRE(client.flush() == Error::Ok);
    CHECK(rig.store->stats().checkpoints > 0);
  }
  CHECK(rig.disk.stats().flushes == before);
  CHECK(rig.store->stats().device_flushes == 0);
  rig.power_off(io::SimDisk::Crash::keep_all);
  rig.open();
  Client client(rig, Client::Existing{});
  CHECK(client.read_one(599 % 64) == 600);
}

TEST_CASE("a flush that is asked for while another is in flight covers what was done between") {
  for (std::uint64_t seed = 0; seed < 50; ++seed) {
    CAPTURE(seed);
    OpenStore s(seed);
    Client& c = *s.client;
    CHECK(c.write(0, 1, 1) == Error::Ok);
    const CallRef first = c.start_flush();
    s.rig.world.run_for(1);
    CHECK(c.write(1, 1, 2) == Error::Ok);
    const CallRef second = c.start_flush();
    CHECK(c.finish(*second) == Error::Ok);
    s.reopen_after([](Rig& rig) { rig.power_off(io::SimDisk::Crash::lose_all); });
    CHECK(s.client->read(0, 2) == tags_from(1, 2));
  }
}

TEST_CASE("a journal far smaller than what passes through it loses nothing") {
  OpenStore s(13);
  Client& c = *s.client;
  std::vector<Tag> expected(64 * kBlocksPerChunk, kHole);
  std::vector<CallRef> window;
  for (std::uint32_t i = 0; i < 6000; ++i) {
    const std::uint32_t block = i * 37 % 1024;
    expected[block] = i + 1;
    window.push_back(c.start_write(block, 1, i + 1));
    if (window.size() < 32) continue;
    REQUIRE(c.finish(*window.front()) == Error::Ok);
    window.erase(window.begin());
  }
  for (const CallRef& call : window) REQUIRE(c.finish(*call) == Error::Ok);
  CHECK(s.rig.store->stats().checkpoints >= 5);
  for (std::uint32_t at = 0; at < 1024; at += 64) {
    const auto from = expected.begin() + at;
    CHECK(c.read(at, 64) == std::vector<Tag>(from, from + 64));
  }
  CHECK(s.rig.store->check().empty());
}

// Space.

TEST_CASE("a full store refuses new chunks and goes on with those it has") {
  OpenStore s(14, 4 * kMiB);
  Client& c = *s.client;
  const std::uint32_t slots = slots_of(s.rig);
  CHECK(fill(s) == slots);
  CHECK(s.rig.store->info().allocated_bytes == s.rig.store->info().capacity_bytes);
  CHECK(c.version_of(slots) == Version{});
  CHECK(c.write((slots - 1) * kBlocksPerChunk, 64, 900) == Error::NoSpace);  // in part new
  CHECK(c.read_one((slots - 1) * kBlocksPerChunk) == slots);  // no part of it was done
  CHECK(c.read_one(slots * kBlocksPerChunk) == kHole);
  CHECK(c.write(3, 1, 500) == Error::Ok);
  CHECK(c.write(16, 16, 600) == Error::Ok);  // a whole chunk, in place of the old one
  CHECK(c.zero(32, 2) == Error::Ok);
  CHECK(c.flush() == Error::Ok);
  s.rig.world.run_for(30'000'000);
  CHECK(s.rig.store->check().empty());
  s.reopen_after([](Rig& rig) { rig.power_off(io::SimDisk::Crash::lose_all); });
  CHECK(s.client->read(0, 4) == std::vector<Tag>{1, kHole, kHole, 500});
  CHECK(s.client->read(16, 16) == tags_from(600, 16));
  CHECK(s.client->read_one(48) == 4);
  CHECK(s.client->write(slots * kBlocksPerChunk, 1, 1) == Error::NoSpace);
}

TEST_CASE(
    "what follows a refused mutation of its stream is refused as well, until that is mended") {
  OpenStore s(17, 4 * kMiB);
  Client& c = *s.client;
  const std::uint32_t slots = fill(s);
  const std::uint32_t last = (slots - 1) * kBlocksPerChunk;
  const Version before = c.version_of(slots - 1);
  bool broken = false;
  const CallRef first = c.start_write(last, 64, 900);  // in part new
  const CallRef second = c.start_write(last, 1, 950);
  const CallRef other = c.start_write(last + 1, 1, 960);
  first->op.broken = second->op.broken = &broken;
  CHECK(c.finish(*first) == Error::NoSpace);
  CHECK(c.finish(*second) == Error::NotInSync);
  CHECK(broken);
  CHECK(c.read_one(last) == slots);
  CHECK(c.finish(*other) == Error::Ok);  // of another stream
  CHECK(c.version_of(slots - 1) > before);
  broken = false;
  const CallRef third = c.start_write(last, 1, 970);
  third->op.broken = &broken;
  CHECK(c.finish(*third) == Error::Ok);
  CHECK(c.read_one(last) == 970);
}

TEST_CASE("trim gives space back once the stable mark has passed it") {
  OpenStore s(15, 4 * kMiB);
  Client& c = *s.client;
  const std::uint32_t slots = fill(s);
  CHECK(c.zero(0, 64) == Error::Ok);  // four chunks
  const Version trimmed = c.last_version();
  CHECK(c.version_of(0) == trimmed);
  s.rig.store->set_stable(c.segment, trimmed);
  CHECK(c.flush() == Error::Ok);
  s.rig.world.run_for(30'000'000);
  CHECK(c.version_of(0) == Version{});
  for (std::uint32_t i = 0; i < 4; ++i) {
    CHECK(c.write((slots + i) * kBlocksPerChunk, 1, 800 + i) == Error::Ok);
  }
  CHECK(c.write((slots + 5) * kBlocksPerChunk, 1, 900) == Error::NoSpace);
  CHECK(s.rig.store->check().empty());
}

TEST_CASE("a write that waits for a slot somebody still reads waits quietly, and gets it") {
  OpenStore s(21, 4 * kMiB);
  Client& c = *s.client;
  const std::uint32_t slots = fill(s);
  s.rig.world.run_for(30'000'000);  // all home
  s.rig.disk.set_slowness(10'000);
  const CallRef read = c.start_read(0, 1);
  s.rig.disk.set_slowness(1);
  CHECK(c.replace(0, 0, 0, {}) == Error::Ok);  // its slot is free, but for the read
  const CallRef write = c.start_write(slots * kBlocksPerChunk, 1, 900);
  s.rig.world.run_for(10'000);
  const std::uint64_t flushes = s.rig.store->stats().device_flushes;
  s.rig.world.run_for(100'000);
  CHECK_FALSE(read->done);
  CHECK_FALSE(write->done);
  CHECK(s.rig.store->stats().device_flushes == flushes);
  CHECK(c.finish(*write) == Error::Ok);
  CHECK(c.finish(*read) == Error::Ok);
  CHECK(read->tags() == std::vector<Tag>{1});
  CHECK(c.read_one(slots * kBlocksPerChunk) == 900);
}

TEST_CASE("overwriting whole chunks for ever needs no more slots than chunks") {
  OpenStore s(16, 4 * kMiB);
  Client& c = *s.client;
  for (std::uint32_t i = 0; i < 1000; ++i) {
    REQUIRE(c.write(i % 8 * kBlocksPerChunk, 32, i * 100 + 1) == Error::Ok);
  }
  CHECK(c.flush() == Error::Ok);
  s.rig.world.run_for(30'000'000);
  CHECK(s.rig.store->info().allocated_bytes == 9 * kChunkBytes);
  CHECK(s.rig.store->check().empty());
}

TEST_CASE("a quiet store writes its journal home by itself and then rests") {
  OpenStore s(17);
  for (std::uint32_t i = 0; i < 50; ++i) CHECK(s.client->write(i * 2, 1, i + 1) == Error::Ok);
  CHECK(s.rig.store->locate(s.client->segment, 2).in_journal);
  s.rig.world.run_for(600'000'000);
  const std::uint64_t writes = s.rig.disk.stats().writes;
  CHECK_FALSE(s.rig.store->locate(s.client->segment, 2).in_journal);
  CHECK(s.rig.store->info().journal_used_bytes <= 2 * kBlockBytes);
  s.rig.world.run_for(600'000'000);
  CHECK(s.rig.disk.stats().writes == writes);
}

TEST_CASE("every kind of operation gives its buffers back") {
  OpenStore s(18);
  Client& c = *s.client;
  for (std::uint32_t i = 0; i < 200; ++i) {
    CHECK(c.write(i * 4, 64, i * 100 + 1, i % 2 ? 512 : 0) == Error::Ok);
  }
  CHECK(c.flush() == Error::Ok);
  s.rig.world.run_for(30'000'000);
  CHECK(s.rig.all_buffers_free());
}
