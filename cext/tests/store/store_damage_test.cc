// Damage and failing devices: an error or the right bytes, never wrong ones, and never a hang.
#include <doctest/doctest.h>

#include "format/disk.h"
#include "tests/store/store_client.h"

using namespace blockd;
using namespace blockd::store;
using namespace blockd::store::testing;

namespace {

constexpr std::uint32_t kChunks = 40;

// A store with content in its journal, its pages and its slots.
void make_store(Rig& rig) {
  rig.format();
  rig.open();
  Client client(rig, kChunks * kBlocksPerChunk);
  for (std::uint32_t i = 0; i < 20; ++i) {
    REQUIRE(client.write(i * 16, 16, 1000 + i * 16) == Error::Ok);
    REQUIRE(client.write(i * 16 + 3, 2, 2000 + i * 16) == Error::Ok);
  }
  REQUIRE(client.write(330, 5, 3000) == Error::Ok);
  REQUIRE(client.flush() == Error::Ok);
}

std::vector<Tag> expected_tags() {
  std::vector<Tag> tags(kChunks * kBlocksPerChunk, kHole);
  for (std::uint32_t b = 0; b < 320; ++b) tags[b] = 1000 + b;
  for (std::uint32_t i = 0; i < 20; ++i)
    tags[i * 16 + 3] = 2000 + i * 16, tags[i * 16 + 4] = 2001 + i * 16;
  for (std::uint32_t b = 0; b < 5; ++b) tags[330 + b] = 3000 + b;
  return tags;
}

struct Outcome {
  Error opened = Error::Ok;
  std::uint32_t unreadable = 0;  // blocks, with an error
  std::uint32_t wrong = 0;       // blocks that read as something else
};

Outcome open_and_read(Rig& rig) {
  Outcome outcome;
  try {
    rig.open();
  } catch (const Fault& fault) {
    outcome.opened = fault.code();
    return outcome;
  }
  if (!rig.store->find_segment(segment_id(0))) {
    outcome.wrong = ~0u;
    return outcome;
  }
  Client client(rig, Client::Existing{});
  const std::vector<Tag> expected = expected_tags();
  for (std::uint32_t block = 0; block < expected.size(); ++block) {
    const CallRef call = client.start_read(block, 1);
    const Error error = client.finish(*call);
    if (error == Error::ChecksumMismatch) {
      ++outcome.unreadable;
    } else if (error != Error::Ok || call->tags()[0] != expected[block]) {
      ++outcome.wrong;
    }
  }
  return outcome;
}

format::Superblock superblock_of(const Rig& rig) {
  io::testing::Page page;
  rig.disk.peek(0, page.span());
  format::Superblock superblock;
  std::memcpy(static_cast<void*>(&superblock), page.data(), sizeof superblock);
  return superblock;
}

Error wait_resize(Rig& rig, Client& client) {
  return rig.wait(
      [&](Store::Done done) { rig.store->resize_segment(client.segment, 640, std::move(done)); });
}

}  // namespace

TEST_CASE("a bit that flips anywhere on a closed store never makes a wrong byte") {
  std::uint32_t errors = 0;
  for (std::uint64_t seed = 0; seed < 300; ++seed) {
    CAPTURE(seed);
    Rig rig(seed, 6 * kMiB);
    make_store(rig);
    REQUIRE(rig.close());
    const format::Superblock layout = superblock_of(rig);
    Random random(seed);
    // A third each: fixed blocks, metadata pages, anywhere.
    std::uint64_t at = random.below(rig.disk.capacity_bytes());
    if (seed % 3 == 0) at = random.below(4 * kBlockBytes);
    if (seed % 3 == 1) at = random.between(layout.segment_pages_offset, layout.data_offset - 1);
    CAPTURE(at);
    rig.disk.corrupt(at, static_cast<unsigned>(random.below(8)));
    const Outcome outcome = open_and_read(rig);
    CHECK((outcome.opened == Error::Ok || outcome.opened == Error::StoreDamaged));
    CHECK(outcome.wrong == 0);
    CHECK(outcome.unreadable <= 1);
    errors += outcome.unreadable > 0 || outcome.opened != Error::Ok;
  }
  CHECK(errors > 0);
}

TEST_CASE("a bit that flips in a slot is found by the read and counted, its neighbours are well") {
  Rig rig(1);
  make_store(rig);
  rig.world.run_for(600'000'000);  // all home
  Client client(rig, Client::Existing{});
  const BlockLocation at = rig.store->locate(client.segment, 100);
  REQUIRE(at.allocated);
  REQUIRE_FALSE(at.in_journal);
  rig.disk.corrupt(at.device_offset_bytes + 77, 2);
  CHECK(client.try_read(100, 1) == Error::ChecksumMismatch);
  CHECK(client.try_read(96, 16) == Error::ChecksumMismatch);
  CHECK(rig.store->stats().checksum_errors >= 2);
  CHECK(client.read(96, 3) == std::vector<Tag>{1096, 1097, 1098});
  CHECK(client.read(101, 11) == tags_from(1101, 11));
  CHECK(client.write(100, 1, 5000) == Error::Ok);  // repaired
  CHECK(client.read_one(100) == 5000);
  rig.world.run_for(600'000'000);
  CHECK(client.read(99, 3) == std::vector<Tag>{2096, 5000, 1101});
}

TEST_CASE(
    "a damaged block at the end of the journal is taken for a torn write, one before it is not") {
  for (const bool newest : {false, true}) {
    CAPTURE(newest);
    Rig rig(2);
    rig.format();
    rig.open();
    Client client(rig);
    for (std::uint32_t i = 0; i < 10; ++i) {
      REQUIRE(client.write(i * 20, 1, 100 + i) == Error::Ok);
      REQUIRE(client.flush() == Error::Ok);
    }
    const std::uint32_t victim = newest ? 9 : 4;
    io::testing::Page page;
    const format::Superblock layout = superblock_of(rig);
    std::uint64_t at = layout.journal_offset;
    for (;; at += kBlockBytes) {  // where its payload lies in the journal
      REQUIRE(at < layout.journal_offset + layout.journal_bytes);
      rig.disk.peek(at, page.span());
      if (tag_of_block(page.data()) == Tag{100 + victim}) break;
    }
    rig.kill();
    rig.disk.corrupt(at + 9, 1);
    Error opened = Error::Ok;
    try {
      rig.open();
    } catch (const Fault& fault) {
      opened = fault.code();
    }
    if (!newest) {
      CHECK(opened == Error::StoreDamaged);
      continue;
    }
    REQUIRE(opened == Error::Ok);
    Client again(rig, Client::Existing{});
    for (std::uint32_t i = 0; i < 9; ++i) CHECK(again.read_one(i * 20) == 100 + i);
    CHECK(again.read_one(180) == kHole);
    CHECK(rig.store->check().empty());
  }
}

TEST_CASE("a chunk that did not reach the device does not count although a lost one replaced it") {
  Rig rig(10);
  rig.format();
  rig.open();
  Client client(rig);
  REQUIRE(client.write(100, 1, 50) == Error::Ok);
  REQUIRE(client.flush() == Error::Ok);
  io::testing::Memory nothing(kChunkBytes);
  std::vector<std::uint64_t> slots;
  for (const Tag tag : {Tag{100}, Tag{200}}) {
    REQUIRE(client.write(0, 16, tag) == Error::Ok);
    slots.push_back(rig.store->locate(client.segment, 0).device_offset_bytes);
  }
  REQUIRE(slots[0] != slots[1]);
  rig.kill();
  for (const std::uint64_t slot : slots)  // the power failed: the journal is there, they are not
    REQUIRE(rig.disk.write_now(slot, nothing.span()) == Error::Ok);
  rig.open();
  Client again(rig, Client::Existing{});
  CHECK(again.read(0, 16) == tags_from(kHole, 16));
  CHECK(again.version_of(0) == Version{});
  CHECK(again.read_one(100) == 50);
  CHECK(rig.store->check().empty());
}

TEST_CASE(
    "a slot of a dropped segment may be written over before anything else is in the journal") {
  Rig rig(11);
  rig.format();
  rig.open();
  Client client(rig, 64);
  REQUIRE(client.create(1, 64) == Error::Ok);
  REQUIRE(client.write(0, 16, 100) == Error::Ok);
  const std::uint64_t slot = rig.store->locate(client.segment, 0).device_offset_bytes;
  REQUIRE(rig.wait([&](Store::Done done) {
    rig.store->drop_segment(client.segment, std::move(done));
  }) == Error::Ok);
  client.use(1);
  const CallRef write = client.start_write(0, 16, 200);  // takes the slot
  rig.world.run_for(1);
  rig.power_off(io::SimDisk::Crash::keep_all);  // its chunk is there, its entry is not
  io::testing::Page page;
  rig.disk.peek(slot, page.span());
  REQUIRE(tag_of_block(page.data()) == 200);
  rig.open();
  CHECK_FALSE(rig.store->find_segment(segment_id(0)).has_value());
  CHECK(rig.store->find_segment(segment_id(1)).has_value());
  CHECK(rig.store->check().empty());
}

TEST_CASE("a chunk that rots after its flush costs its own blocks, not the store") {
  Rig rig(12);
  rig.format();
  rig.open();
  Client client(rig);
  REQUIRE(client.write(0, 16, 100) == Error::Ok);
  const std::uint64_t slot = rig.store->locate(client.segment, 0).device_offset_bytes;
  REQUIRE(client.flush() == Error::Ok);
  REQUIRE(client.write(40, 1, 300) == Error::Ok);  // its batch says what has been flushed
  REQUIRE(client.flush() == Error::Ok);
  rig.kill();
  rig.disk.corrupt(slot + 5 * kBlockBytes, 3);
  rig.open();
  Client again(rig, Client::Existing{});
  CHECK(again.try_read(5, 1) == Error::ChecksumMismatch);
  CHECK(again.read(6, 10) == tags_from(106, 10));
  CHECK(again.read_one(40) == 300);
}

TEST_CASE("a slot is not used again while a checkpoint still writes to it") {
  Rig rig(13);
  rig.format();
  rig.open();
  Client client(rig);
  REQUIRE(client.write(0, 1, 100) == Error::Ok);
  const std::uint64_t slot = rig.store->locate(client.segment, 0).device_offset_bytes;
  rig.mortal.hold_writes(slot, kBlockBytes);
  rig.world.run_for(12'000'000);  // the block is on its way home, and stays there
  REQUIRE(rig.mortal.holding() == 1);
  REQUIRE(client.write(0, 16, 200) == Error::Ok);  // to another slot
  REQUIRE(client.flush() == Error::Ok);
  for (std::uint32_t chunk = 1; chunk < 4; ++chunk)
    REQUIRE(client.write(chunk * 16, 16, 1000 + chunk * 16) == Error::Ok);
  rig.mortal.let_go();
  rig.world.run_for(12'000'000);
  CHECK(client.read(0, 16) == tags_from(200, 16));
  CHECK(client.read(16, 48) == tags_from(1016, 48));
  REQUIRE(client.write(64, 16, 3000) == Error::Ok);  // now it is
  CHECK(rig.store->locate(client.segment, 64).device_offset_bytes == slot);
  CHECK(rig.store->check().empty());
}

TEST_CASE("one damaged checkpoint record is made up for, two are damage") {
  Rig rig(3);
  make_store(rig);
  REQUIRE(rig.close());
  rig.disk.corrupt(2 * kBlockBytes + 30, 1);
  rig.disk.corrupt(3 * kBlockBytes + 30, 1);
  CHECK(open_and_read(rig).opened == Error::StoreDamaged);
}

TEST_CASE("a metadata page in another's place is damage, not that page") {
  Rig rig(4);
  make_store(rig);
  REQUIRE(rig.close());
  const format::Superblock layout = superblock_of(rig);
  REQUIRE(layout.slot_page_count >= 2);
  io::testing::Page page;
  for (std::uint64_t copy : {0, 1}) {
    const std::uint64_t first =
        layout.slot_pages_offset + copy * layout.slot_page_count * kBlockBytes;
    rig.disk.peek(first + kBlockBytes, page.span());
    REQUIRE(rig.disk.write_now(first, page.span()) == Error::Ok);
  }
  CHECK(open_and_read(rig).opened == Error::StoreDamaged);
}

TEST_CASE("a page that cannot be read is one damaged page, not all of its neighbours") {
  Rig rig(9);
  make_store(rig);
  rig.kill();
  const format::Superblock layout = superblock_of(rig);
  REQUIRE(layout.slot_page_count >= 3);
  const auto copy = [&](std::uint64_t which, std::uint64_t page) {
    return layout.slot_pages_offset + (which * layout.slot_page_count + page) * kBlockBytes;
  };
  rig.disk.fail_reads(copy(0, 0), kBlockBytes);  // the journal has what is on this page
  Outcome outcome = open_and_read(rig);
  CHECK(outcome.opened == Error::Ok);
  CHECK(outcome.unreadable + outcome.wrong == 0);
  rig.kill();
  rig.disk.fail_reads(copy(1, layout.slot_page_count - 1), kBlockBytes);  // and nothing of this one
  CHECK(open_and_read(rig).opened == Error::StoreDamaged);
  rig.kill();
  rig.disk.clear_faults();
  CHECK(open_and_read(rig).opened == Error::Ok);
}

TEST_CASE("a write that went astray makes errors, not wrong bytes") {
  for (std::uint64_t seed = 0; seed < 60; ++seed) {
    CAPTURE(seed);
    Rig rig(seed, 6 * kMiB);
    make_store(rig);
    rig.world.run_for(600'000'000);
    Client client(rig, Client::Existing{});
    client.seq = 1000;
    const BlockLocation elsewhere = rig.store->locate(client.segment, 200);
    rig.disk.misdirect_next_write(elsewhere.device_offset_bytes);
    REQUIRE(client.write(400, seed % 2 ? 16 : 1, 9000) == Error::Ok);
    rig.world.run_for(600'000'000);
    const CallRef there = client.start_read(200, 1);
    const Error error = client.finish(*there);
    CHECK((error == Error::ChecksumMismatch || there->tags()[0] == 1200));
    const CallRef here = client.start_read(400, 1);
    const Error own = client.finish(*here);
    CHECK((own == Error::ChecksumMismatch || here->tags()[0] == 9000));
  }
}

TEST_CASE("a device that fails to read fails that read alone") {
  Rig rig(5);
  make_store(rig);
  rig.world.run_for(600'000'000);
  Client client(rig, Client::Existing{});
  client.seq = 1000;
  const BlockLocation at = rig.store->locate(client.segment, 50);
  rig.disk.fail_reads(at.device_offset_bytes, kBlockBytes);
  CHECK(client.try_read(50, 1) == Error::DiskError);
  CHECK(client.try_read(40, 20) == Error::DiskError);
  CHECK(client.read_one(49) == 1049);
  CHECK(client.write(50, 1, 5000) == Error::Ok);
  CHECK(client.read_one(50) == 5000);
  rig.disk.clear_faults();
  CHECK(rig.close());
}

TEST_CASE("a failed write is reported, never acknowledged, and stops the store's mutations") {
  for (const std::uint32_t count : {1u, 16u, 64u}) {
    CAPTURE(count);
    Rig rig(6);
    make_store(rig);
    Client client(rig, Client::Existing{});
    client.seq = 1000;
    rig.disk.fail_writes(0, rig.disk.capacity_bytes());
    CHECK(client.write(400, count, 7000) == Error::DiskError);
    rig.disk.clear_faults();
    CHECK(client.write(500, 1, 8000) == Error::DiskError);
    CHECK(client.zero(500, 1) == Error::DiskError);
    CHECK(client.flush() == Error::DiskError);
    CHECK(wait_resize(rig, client) == Error::DiskError);
    CHECK(client.read(0, 3) == tags_from(1000, 3));  // reads go on
    CHECK(rig.wait([&](Store::Done done) { rig.store->close(std::move(done)); }) !=
          Error::WriteUnresolved);
    rig.kill();
    const Outcome outcome = open_and_read(rig);
    CHECK(outcome.opened == Error::Ok);
    CHECK(outcome.unreadable == 0);
    CHECK(outcome.wrong <= count);  // what the failed write may have left
    CHECK(rig.store->check().empty());
  }
}

TEST_CASE("a flush that failed is reported and no later one makes it good") {
  Rig rig(7);
  make_store(rig);
  Client client(rig, Client::Existing{});
  client.seq = 1000;
  CHECK(client.write(400, 1, 7000) == Error::Ok);
  rig.disk.fail_flushes(true);
  CHECK(client.flush() == Error::DiskError);
  rig.disk.fail_flushes(false);
  CHECK(client.flush() == Error::DiskError);
  CHECK(client.write(401, 1, 7001) == Error::DiskError);
  CHECK(client.read_one(0) == 1000);
}

TEST_CASE("a device that dies ends everything in flight with an error") {
  for (std::uint64_t seed = 0; seed < 40; ++seed) {
    CAPTURE(seed);
    Rig rig(seed);
    make_store(rig);
    Client client(rig, Client::Existing{});
    client.seq = 1000;
    std::vector<CallRef> calls;
    for (std::uint32_t i = 0; i < 30; ++i) {
      calls.push_back(client.start_write(i * 20, i % 3 ? 1 : 48, 10'000 + i * 64));
      if (i % 4 == 0) calls.push_back(client.start_flush());
      if (i % 5 == 0) calls.push_back(client.start_read(i * 16, 16));
    }
    rig.world.run_for(seed * 13);
    rig.disk.fail_everything(true);
    for (const CallRef& call : calls) CHECK(client.finish(*call) != Error::WriteUnresolved);
    CHECK(client.write(0, 1, 1) == Error::DiskError);
    CHECK(rig.wait([&](Store::Done done) { rig.store->close(std::move(done)); }) !=
          Error::WriteUnresolved);
    rig.kill();
    CHECK(rig.all_buffers_free());
    rig.disk.clear_faults();
    rig.open();
    CHECK(rig.store->check().empty());
  }
}

TEST_CASE("a store whose device has failed closes when nothing of it is in flight any more") {
  for (std::uint64_t seed = 0; seed < 60; ++seed) {
    CAPTURE(seed);
    Rig rig(seed);
    make_store(rig);
    rig.world.run_for(600'000'000);
    Client client(rig, Client::Existing{});
    client.seq = 1000;
    const format::Superblock layout = superblock_of(rig);
    rig.disk.fail_writes(layout.data_offset, layout.device_bytes - layout.data_offset);
    const CallRef write = client.start_write(400, 16, 7000);
    rig.world.run_for(seed * 2);
    rig.store->create_segment(segment_id(1), 16, [](Error) {});  // alone in its batch
    std::size_t in_flight = ~std::size_t{0};
    rig.store->close([&](Error) { in_flight = rig.disk.in_flight(); });
    (void)rig.world.run_until([&] { return in_flight != ~std::size_t{0}; }, kPatienceUs);
    CHECK(in_flight == 0);
    CHECK(client.finish(*write) == Error::DiskError);
  }
}

TEST_CASE("a slow and a stuck device delay operations and fail none") {
  Rig rig(8);
  make_store(rig);
  Client client(rig, Client::Existing{});
  client.seq = 1000;
  rig.disk.set_stuck(true);
  const CallRef write = client.start_write(400, 20, 7000);
  const CallRef flush = client.start_flush();
  rig.world.run_for(5'000'000);
  CHECK_FALSE(write->done);
  CHECK_FALSE(flush->done);
  rig.disk.set_stuck(false);
  CHECK(client.finish(*write) == Error::Ok);
  CHECK(client.finish(*flush) == Error::Ok);
  rig.disk.set_slowness(100);
  CHECK(client.write(400, 20, 8000) == Error::Ok);
  CHECK(client.read(400, 20) == tags_from(8000, 20));
}
