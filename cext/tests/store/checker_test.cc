// The checker: finds what is wrong and says where, repairs what is certain, writes nothing else.
#include "store/checker.h"

#include <doctest/doctest.h>

#include "format/disk.h"
#include "tests/io/borrowed_disk.h"
#include "tests/store/store_client.h"

using namespace blockd;
using namespace blockd::store;
using namespace blockd::store::testing;

namespace {

// Passes everything on and counts what would change the device.
class CountingDisk final : public io::testing::BorrowedDisk {
 public:
  using BorrowedDisk::BorrowedDisk;
  [[nodiscard]] Error write_now(std::uint64_t offset,
                                std::span<const std::byte> from) noexcept override {
    ++writes;
    return BorrowedDisk::write_now(offset, from);
  }

  std::uint32_t writes = 0;
};

CheckReport check(Rig& rig, CheckOptions options = {.data = true}) {
  CountingDisk disk(rig.disk);
  CheckReport report = check_store(disk, options);
  if (!options.repair) CHECK(disk.writes == 0);
  return report;
}

// Twenty chunks, tombstones, a second segment; closed unless it is to have a journal.
void make_store(Rig& rig, bool close) {
  rig.format();
  rig.open();
  Client client(rig, 640);
  for (std::uint32_t chunk = 0; chunk < 20; ++chunk) {
    REQUIRE(client.write(chunk * 16, 16, 1000 + chunk * 16) == Error::Ok);
    REQUIRE(client.write(chunk * 16 + 3, 2, 2000 + chunk * 16) == Error::Ok);
  }
  REQUIRE(client.zero(64, 16) == Error::Ok);
  REQUIRE(client.create(1, 160) == Error::Ok);
  REQUIRE(client.flush() == Error::Ok);
  if (close) {
    REQUIRE(rig.close());
  } else {
    rig.kill();
  }
}

format::Superblock layout_of(const Rig& rig) {
  io::testing::Page page;
  rig.disk.peek(0, page.span());
  format::Superblock superblock;
  std::memcpy(static_cast<void*>(&superblock), page.data(), sizeof superblock);
  return superblock;
}

std::uint64_t slot_page(const Rig& rig, std::uint32_t copy, std::uint32_t number) {
  const format::Superblock layout = layout_of(rig);
  return layout.slot_pages_offset +
         (std::uint64_t{copy} * layout.slot_page_count + number) * kBlockBytes;
}

// Changes a block that is sealed, and seals it again.
template <class Block, class Change>
void forge(Rig& rig, std::uint64_t offset, Change change) {
  io::testing::Page page;
  rig.disk.peek(offset, page.span());
  Block block;
  std::memcpy(static_cast<void*>(&block), page.data(), kBlockBytes);
  change(block);
  format::seal(block);
  std::memcpy(page.data(), &block, kBlockBytes);
  REQUIRE(rig.disk.write_now(offset, page.span()) == Error::Ok);
}

// The copy of a slot page that counts.
template <class Change>
void forge_slot_page(Rig& rig, std::uint32_t number, Change change) {
  std::uint64_t generation[2];
  for (const std::uint32_t copy : {0u, 1u}) {
    io::testing::Page page;
    rig.disk.peek(slot_page(rig, copy, number), page.span());
    std::memcpy(&generation[copy], page.data() + 32, 8);
  }
  forge<format::SlotPage>(rig, slot_page(rig, generation[1] > generation[0], number), change);
}

void destroy(Rig& rig, std::uint64_t offset) {
  io::testing::Page page;
  std::memset(page.data(), 0x5a, kBlockBytes);
  REQUIRE(rig.disk.write_now(offset, page.span()) == Error::Ok);
}

}  // namespace

TEST_CASE("a store is sound whether it was closed or its process died, and is not written to") {
  for (const bool close : {false, true}) {
    CAPTURE(close);
    Rig rig(1);
    make_store(rig, close);
    const CheckReport report = check(rig);
    CHECK(to_json(report).find("\"problem_count\":0") != std::string::npos);
    CHECK(report.problem_count == 0);
    CHECK(report.opens);
    CHECK(report.store_id == kStoreId);
    CHECK(report.cluster_id == kClusterId);
    CHECK(report.segments == 2);
    CHECK(report.chunks == 20);
    CHECK(report.blocks_verified == 19 * 16);
    CHECK((report.journal_batches == 0) == close);
  }
}

TEST_CASE("stores are sound after any crash") {
  for (std::uint64_t seed = 1; seed <= 60; ++seed) {
    CAPTURE(seed);
    Rig rig(seed);
    rig.format();
    rig.open();
    Client client(rig, 640);
    std::vector<CallRef> calls;
    for (std::uint32_t i = 0; i < 40; ++i) {
      calls.push_back(client.start_write(i * 12 % 500, i % 3 ? 3 : 40, 1000 + i * 64));
      if (i % 7 == 0) calls.push_back(client.start_flush());
    }
    rig.world.run_for(seed * 400);
    rig.power_off(io::SimDisk::Crash::random);
    const CheckReport report = check(rig);
    CHECK(report.problem_count == 0);
    CHECK(report.opens);
  }
}

TEST_CASE("what is no store is no damaged store") {
  Rig rig(2);
  CHECK_THROWS_AS((void)check_store(rig.disk, {}), Fault);
}

TEST_CASE("a damaged superblock is found, and rewritten from the other") {
  for (const std::uint64_t copy : {0u, 1u}) {
    Rig rig(3);
    make_store(rig, true);
    destroy(rig, copy * kBlockBytes);
    CheckReport report = check(rig);
    REQUIRE(report.problem_count == 1);
    CHECK(report.problems[0].structure == "superblock");
    CHECK(report.problems[0].place.copy == static_cast<std::int64_t>(copy));
    CHECK(report.opens);
    report = check(rig, {.data = true, .repair = true});
    CHECK(report.problem_count == 0);
    CHECK(report.repaired.size() == 1);
    CHECK(report.blocks_verified == 19 * 16);
    CHECK(check(rig).problem_count == 0);
    destroy(rig, (1 - copy) * kBlockBytes);  // the one that was rewritten is enough
    rig.open();
  }
}

TEST_CASE("two damaged superblocks, and two that differ, are left as they are") {
  Rig rig(4);
  make_store(rig, true);
  forge<format::Superblock>(rig, kBlockBytes, [](auto& block) { block.compatible_features = 2; });
  CheckReport report = check(rig, {.repair = true});
  REQUIRE(report.problem_count == 1);
  CHECK(report.problems[0].what.find("differ") != std::string::npos);
  rig.disk.corrupt(100, 1);
  rig.disk.corrupt(kBlockBytes + 100, 1);
  report = check(rig, {.repair = true});
  CHECK(report.problem_count == 1);
  CHECK(report.repaired.empty());
  CHECK_FALSE(report.opens);
}

TEST_CASE("a damaged checkpoint record is rewritten so that either copy leads to the same store") {
  for (const std::uint64_t copy : {0u, 1u}) {
    for (const bool one_bit : {false, true}) {
      CAPTURE(copy);
      CAPTURE(one_bit);
      Rig rig(5);
      make_store(rig, false);
      const std::uint64_t at = (2 + copy) * kBlockBytes;
      one_bit ? rig.disk.corrupt(at + 44, 3) : destroy(rig, at);
      CheckReport report = check(rig);
      REQUIRE(report.problem_count == 1);
      CHECK(report.problems[0].structure == "checkpoint record");
      report = check(rig, {.repair = true});
      CHECK(report.problem_count == 0);
      CHECK(report.repaired.size() == 1);
      destroy(rig, (2 + (1 - copy)) * kBlockBytes);
      rig.open();
      Client client(rig, Client::Existing{});
      CHECK(client.read(0, 3) == tags_from(1000, 3));
      CHECK(client.read_one(3) == 2000);
      CHECK(rig.store->check().empty());
    }
  }
}

TEST_CASE("two damaged checkpoint records cannot be repaired, unless by a bit") {
  Rig rig(6);
  make_store(rig, true);
  rig.disk.corrupt(2 * kBlockBytes + 40, 1);
  rig.disk.corrupt(3 * kBlockBytes + 40, 1);
  CHECK(check(rig).problem_count == 2);
  CHECK(check(rig, {.repair = true}).repaired.size() == 2);
  CHECK(check(rig).problem_count == 0);
  destroy(rig, 2 * kBlockBytes);
  destroy(rig, 3 * kBlockBytes);
  CHECK(check(rig, {.repair = true}).problem_count == 2);
}

TEST_CASE("a flipped bit in a page is set right, more damage is left to the peers") {
  for (const bool one_bit : {false, true}) {
    CAPTURE(one_bit);
    Rig rig(7);
    make_store(rig, true);
    for (const std::uint32_t copy : {0u, 1u}) {
      CAPTURE(copy);
      io::testing::Page before;
      rig.disk.peek(slot_page(rig, copy, 0), before.span());
      one_bit ? rig.disk.corrupt(slot_page(rig, copy, 0) + 700, 5)
              : destroy(rig, slot_page(rig, copy, 0));
      CheckReport report = check(rig);
      REQUIRE(report.problem_count == 1);
      CHECK(report.problems[0].structure == "slot page");
      CHECK(report.problems[0].place.page == 0);
      CHECK(report.problems[0].place.copy == copy);
      CHECK(report.problems[0].place.device_offset ==
            static_cast<std::int64_t>(slot_page(rig, copy, 0)));
      CHECK_FALSE(report.opens);
      report = check(rig, {.repair = true});
      CHECK(report.problem_count == (one_bit ? 0 : 1));
      CHECK(report.repaired.size() == (one_bit ? 1 : 0));
      io::testing::Page after;
      rig.disk.peek(slot_page(rig, copy, 0), after.span());
      CHECK((std::memcmp(before.data(), after.data(), kBlockBytes) == 0) == one_bit);
      if (!one_bit) return;
    }
  }
}

TEST_CASE("a page that a torn checkpoint explains is left to recovery") {
  Rig rig(8);
  make_store(rig, false);  // its journal touches slot page 0
  destroy(rig, slot_page(rig, 0, 0));
  const CheckReport report = check(rig, {.repair = true});
  CHECK(report.problem_count == 0);
  CHECK(report.repaired.empty());
  REQUIRE(report.notes.size() == 1);
  CHECK(report.notes[0].structure == "slot page");
  CHECK(report.opens);
  rig.open();
}

TEST_CASE("a page that went astray and a page whose write was lost are told apart from rot") {
  Rig rig(9);
  make_store(rig, true);
  io::testing::Page page;
  rig.disk.peek(slot_page(rig, 1, 2), page.span());
  REQUIRE(rig.disk.write_now(slot_page(rig, 1, 1), page.span()) == Error::Ok);
  CheckReport report = check(rig, {.repair = true});
  REQUIRE(report.problem_count == 1);
  CHECK(report.problems[0].what.find("astray") != std::string::npos);
  Rig lost(9);
  make_store(lost, true);
  forge_slot_page(lost, 0, [](auto& block) { block.generation += 2; });
  report = check(lost);
  REQUIRE(report.problem_count == 1);
  CHECK(report.problems[0].what.find("was lost") != std::string::npos);
}

TEST_CASE("a batch that was flushed and is damaged is found in the journal") {
  Rig rig(10);
  rig.format();
  rig.open();
  Client client(rig);
  for (std::uint32_t i = 0; i < 8; ++i) {
    REQUIRE(client.write(i * 20, 1, 100 + i) == Error::Ok);
    REQUIRE(client.flush() == Error::Ok);
  }
  rig.kill();
  const format::Superblock layout = layout_of(rig);
  rig.disk.corrupt(layout.journal_offset + 500, 2);  // the first header
  const CheckReport report = check(rig, {.repair = true});
  REQUIRE(report.problem_count == 1);
  CHECK(report.problems[0].structure == "journal");
  CHECK(report.problems[0].place.lsn == 1);
  CHECK(report.problems[0].place.device_offset == static_cast<std::int64_t>(layout.journal_offset));
  CHECK_FALSE(report.opens);
}

TEST_CASE("slots that two chunks, no segment or no chunk own are each named") {
  struct Case {
    const char* says;
    void (*change)(format::SlotRecord&);
  };
  const Case cases[] = {
      {"both claim", [](format::SlotRecord& record) { record.chunk = 1; }},
      {"leaked", [](format::SlotRecord& record) { record.segment = 20; }},
      {"leaked", [](format::SlotRecord& record) { record.segment = 1u << 30; }},
      {"behind the end", [](format::SlotRecord& record) { record.chunk = 40; }},
      {"is a hole and has a CRC", [](format::SlotRecord& record) { record.valid_mask = 0xfffe; }},
      {"has state", [](format::SlotRecord& record) { record.state = format::SlotState{7}; }},
      {"is not empty", [](format::SlotRecord& record) { record.state = format::SlotState::free; }},
      {"reserved", [](format::SlotRecord& record) { record.reserved[5] = std::byte{1}; }},
  };
  for (const Case& one : cases) {
    CAPTURE(one.says);
    Rig rig(11);
    make_store(rig, true);
    std::uint32_t victim = 0;
    forge_slot_page(rig, 0, [&](format::SlotPage& page) {
      while (page.records[victim].state != format::SlotState::used ||
             page.records[victim].chunk != 0)
        ++victim;
      one.change(page.records[victim]);
    });
    const CheckReport report = check(rig, {});
    REQUIRE(report.problem_count >= 1);
    CHECK(report.problems[0].what.find(one.says) != std::string::npos);
  }
}

TEST_CASE("reserved bytes that are not zero are found in every structure") {
  Rig rig(12);
  make_store(rig, false);
  const format::Superblock layout = layout_of(rig);
  const auto reserved = [](auto& block) { block.reserved[1] = std::byte{9}; };
  const auto count = [&] { return check(rig, {}).problem_count; };
  forge<format::CheckpointRecord>(rig, 3 * kBlockBytes, reserved);
  CHECK(count() == 1);
  forge<format::SegmentPage>(rig, layout.segment_pages_offset, reserved);
  CHECK(count() == 2);
  forge<format::BatchHeader>(rig, layout.journal_offset, reserved);
  CHECK(count() == 3);
  for (const std::uint64_t copy : {0u, 1u})
    forge<format::Superblock>(rig, copy * kBlockBytes, reserved);
  CHECK(count() == 5);
  rig.open();  // opening does not mind
}

TEST_CASE("a rotten block is named by its place in the volume, staged ones are read too") {
  Rig rig(13);
  make_store(rig, false);
  rig.open();
  Client client(rig, Client::Existing{});
  rig.world.run_for(1000);
  const BlockLocation home = rig.store->locate(client.segment, 40);
  const BlockLocation staged = rig.store->locate(client.segment, 35);
  REQUIRE_FALSE(home.in_journal);
  REQUIRE(staged.in_journal);
  rig.disk.corrupt(home.device_offset_bytes + 9, 2);
  rig.kill();
  CheckReport report = check(rig);  // torn, as far as anybody knows
  CHECK(report.problem_count == 0);
  REQUIRE(report.notes.size() == 1);
  CHECK(report.notes[0].what.find("none says") != std::string::npos);
  rig.disk.corrupt(home.device_offset_bytes + 9, 2);
  rig.open();
  client.seq = 1000;
  REQUIRE(client.write(600, 1, 7) == Error::Ok);  // its batch says what had been flushed
  rig.kill();
  rig.disk.corrupt(home.device_offset_bytes + 9, 2);
  rig.disk.corrupt(staged.device_offset_bytes + 9, 2);  // nobody reads it there
  CHECK(check(rig, {}).problem_count == 0);
  report = check(rig);
  REQUIRE(report.problem_count == 1);
  const Place& place = report.problems[0].place;
  CHECK(place.device_offset == static_cast<std::int64_t>(home.device_offset_bytes));
  CHECK(place.volume == segment_id(0).volume);
  CHECK(place.segment == 0);
  CHECK(place.chunk == 2);
  CHECK(place.block == 40);
  rig.disk.fail_reads(home.device_offset_bytes, kBlockBytes);
  report = check(rig);
  REQUIRE(report.problem_count == 1);
  CHECK(report.problems[0].what == "the device cannot read it");
}
