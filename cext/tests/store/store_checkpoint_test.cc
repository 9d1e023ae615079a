// Checkpoints take the oldest part of the journal; what is younger waits, to cost less or nothing.
#include <doctest/doctest.h>

#include <map>

#include "store/checkpoint_schedule.h"
#include "store/layout.h"
#include "store/staged_blocks.h"
#include "tests/store/store_client.h"

namespace blockd::store::testing {
namespace {

constexpr std::uint64_t kJournal = 8 * kMiB;
constexpr std::uint64_t kKept = 3 * kMiB;  // due at a half, in steps of an eighth
constexpr std::uint32_t kChunks = 900;     // on thirty metadata pages

struct LongJournal {
  explicit LongJournal(std::uint64_t seed) : rig(seed, 128 * kMiB) {
    rig.format(kJournal);
    rig.open();
    client = std::make_unique<Client>(rig, kChunks * kBlocksPerChunk);
  }
  void reopen() {
    rig.open();
    client = std::make_unique<Client>(rig, Client::Existing{});
  }
  // The i-th write of a stream that touches every chunk before it comes back to one, each time to
  // another block. It leaves out block 0 of each.
  static std::uint32_t cold(std::uint32_t i) {
    return i % kChunks * kBlocksPerChunk + 1 + i / kChunks % 15;
  }
  void write_cold(std::uint32_t from, std::uint32_t end) {
    for (std::uint32_t i = from; i < end; ++i)
      REQUIRE(client->write(cold(i), 1, 1 + i) == Error::Ok);
  }
  [[nodiscard]] BlockLocation locate(std::uint32_t block) const {
    return rig.store->locate(client->segment, block);
  }

  Rig rig;
  std::unique_ptr<Client> client;
};

// How often the first page of the slot table has been written.
std::uint64_t writes_of_first_page(Rig& rig) {
  const format::Superblock superblock = read_superblock(rig.disk);
  std::uint64_t newest = 0;
  for (std::uint64_t copy : {0, 1}) {
    io::testing::Page page;
    rig.disk.peek(superblock.slot_pages_offset + copy * superblock.slot_page_count * kBlockBytes,
                  page.span());
    newest =
        std::max(newest, reinterpret_cast<const format::SlotPage*>(page.span().data())->generation);
  }
  return newest;
}

TEST_CASE("the journal is freed in steps, the oldest first, and most of it stays") {
  LongJournal s(1);
  std::uint64_t least = kJournal, most = 0;
  for (std::uint32_t i = 0; i < 2000; ++i) {
    s.write_cold(i, i + 1);
    const std::uint64_t used = s.rig.store->info().journal_used_bytes;
    most = std::max(most, used);
    if (s.rig.store->stats().checkpoints > 0) least = std::min(least, used);
  }
  CHECK(s.rig.store->stats().checkpoints >= 8);
  CHECK(least + 3 * kBlockBytes >= kKept);
  CHECK(most < kJournal / 8 * 5);
  CHECK_FALSE(s.locate(LongJournal::cold(0)).in_journal);
  std::uint32_t home = 0;
  while (!s.locate(LongJournal::cold(home)).in_journal) ++home;
  for (std::uint32_t i = home; i < 2000; ++i) REQUIRE(s.locate(LongJournal::cold(i)).in_journal);
  for (std::uint32_t i = 0; i < 2000; i += 13)
    CHECK(s.client->read_one(LongJournal::cold(i)) == 1 + i);
}

TEST_CASE("a block that is written again in time never goes home, a cold one once") {
  LongJournal s(2);
  REQUIRE(s.client->write(0, 1, 7000) == Error::Ok);
  const std::uint64_t hot = s.locate(0).device_offset_bytes;
  s.rig.mortal.hold_writes(hot, kBlockBytes);
  for (std::uint32_t i = 0; i < 2000; ++i) {
    s.write_cold(i, i + 1);
    if (i % 100 == 0) REQUIRE(s.client->write(0, 1, 7001 + i) == Error::Ok);
  }
  CHECK(s.rig.store->stats().checkpoints >= 8);
  CHECK(s.rig.mortal.holding() == 0);
  CHECK(s.locate(0).in_journal);
  s.rig.mortal.hold_writes(s.locate(0).device_offset_bytes, kBlockBytes);
  s.rig.world.run_for(4'000'000);  // a checkpoint that is under way ends; it is not idle yet
  const StoreStats before = s.rig.store->stats();
  std::uint32_t home = 0;
  while (!s.locate(LongJournal::cold(home)).in_journal) ++home;
  s.rig.mortal.let_go();
  for (int second = 0; second < 30; ++second) {  // not idle: somebody reads
    CHECK(s.client->read_one(LongJournal::cold(1)) == 2);
    s.rig.world.run_for(1'000'000);
  }
  CHECK(s.locate(0).in_journal);
  s.rig.world.run_for(30'000'000);  // idle: all goes home
  CHECK_FALSE(s.locate(0).in_journal);
  // One write of the hot block, one of each cold one that was left, those pages and the record.
  const StoreStats& after = s.rig.store->stats();
  CHECK(after.device_writes - before.device_writes >= 1 + 2000 - home);
  CHECK(after.device_writes - before.device_writes <= 1 + 2000 - home + 33);
  CHECK(s.client->read_one(0) == 7001 + 1900);
}

TEST_CASE("a metadata page that changes all the time is not written by every checkpoint") {
  LongJournal s(3);
  const std::uint64_t before = writes_of_first_page(s.rig);
  for (std::uint32_t i = 0; i < 2600; ++i) {
    s.write_cold(i, i + 1);
    if (i % 20 == 0) REQUIRE(s.client->write(0, 1, 7001 + i) == Error::Ok);
  }
  const std::uint64_t checkpoints = s.rig.store->stats().checkpoints;
  CHECK(checkpoints >= 12);
  const std::uint64_t writes = writes_of_first_page(s.rig) - before;
  CHECK(writes >= 3);
  CHECK(writes * 3 <= checkpoints + 2);
}

TEST_CASE("a checkpoint that passes only a part of what a crash left loses none of the rest") {
  for (const bool twice : {false, true}) {
    CAPTURE(twice);
    LongJournal s(4);
    s.write_cold(0, 450);
    REQUIRE(s.client->flush() == Error::Ok);
    s.rig.power_off(io::SimDisk::Crash::lose_all);
    s.reopen();
    std::uint32_t end = 450;
    for (; s.rig.store->stats().checkpoints == 0; ++end) s.write_cold(end, end + 1);
    REQUIRE(s.client->flush() == Error::Ok);
    s.rig.power_off(io::SimDisk::Crash::lose_all);
    s.reopen();
    CHECK(s.rig.store->stats().recovered_batches > end - 450);  // of both lives
    if (twice) {
      s.rig.power_off(io::SimDisk::Crash::lose_all);
      s.reopen();
    }
    for (std::uint32_t i = 0; i < end; ++i)
      REQUIRE(s.client->read_one(LongJournal::cold(i)) == 1 + i);
    CHECK(s.rig.store->check().empty());
  }
}

TEST_CASE(
    "the schedule leaves room for batches in every journal, and frees what it says it is for") {
  for (std::uint64_t bytes = kJournalBytesMin; bytes <= 1024 * kMiB; bytes += bytes / 4096 * 1024) {
    CAPTURE(bytes);
    const CheckpointSchedule schedule(bytes);
    std::uint64_t first = 0;
    for (std::uint64_t used = 0; used <= bytes; used += bytes / 1024) {
      const std::uint64_t due = schedule.due(used, /*many_dirty=*/false);
      REQUIRE(due <= used);
      if (due == 0) continue;
      if (first == 0) first = used;
      CHECK(due + bytes / 1024 >= bytes / 8);
    }
    CHECK(first + 2 * kBatchBytesMax <= bytes + bytes / 1024);
    CHECK(first >= bytes / 8 * 3);
    CHECK(schedule.due(4 * kBlockBytes, /*many_dirty=*/true) > 0);
    CHECK(schedule.due(bytes / 4, /*many_dirty=*/true) < bytes / 8);
  }
  CHECK(CheckpointSchedule(128 * kMiB).due(96 * kMiB, false) == 0);
  CHECK(CheckpointSchedule(128 * kMiB).due(96 * kMiB + 1, false) == 16 * kMiB + 1);
}

TEST_CASE("staged blocks are found by slot and by journal block, each to be written once") {
  constexpr std::uint32_t kBlocks = 64;
  struct Place {
    std::uint32_t slot = 0, block = 0;
    auto operator<=>(const Place&) const = default;
  };
  Random random(5);
  StagedBlocks staged(kBlocks);
  std::map<Place, std::uint32_t> model;  // the journal block of each
  std::set<std::uint32_t> going;
  for (std::uint32_t step = 0; step < 20'000; ++step) {
    const Place place{static_cast<std::uint32_t>(random.below(12)),
                      static_cast<std::uint32_t>(random.below(kBlocksPerChunk))};
    const std::uint32_t at = step % kBlocks;
    for (auto it = model.begin(); it != model.end();) {  // its space is used again: it is home
      if (it->second != at) {
        ++it;
        continue;
      }
      staged.drop(it->first.slot, static_cast<std::uint16_t>(1u << it->first.block));
      it = model.erase(it);
    }
    going.erase(at);
    if (random.chance(5)) {
      staged.drop_all(place.slot);
      std::erase_if(model, [&](const auto& entry) { return entry.first.slot == place.slot; });
    }
    staged.stage(place.slot, place.block, at);
    model[place] = at;
    if (const auto any = static_cast<std::uint32_t>(random.below(kBlocks));
        random.chance(3) && staged.to_write(any).chunk) {
      staged.begin_write(any);
      going.insert(any);
    }
    REQUIRE(staged.block_count() == model.size());
    std::map<std::uint32_t, Place> by_journal;
    for (const auto& [where, journal] : model) {
      by_journal[journal] = where;
      REQUIRE(staged.find(where.slot)->holds(where.block, journal));
    }
    for (std::uint32_t journal = 0; journal < kBlocks; ++journal) {
      const auto [chunk, block] = staged.to_write(journal);
      const bool due = by_journal.count(journal) && !going.count(journal);
      REQUIRE((chunk != nullptr) == due);
      if (due) REQUIRE(Place{chunk->slot, block} == by_journal[journal]);
    }
  }
}

}  // namespace
}  // namespace blockd::store::testing
