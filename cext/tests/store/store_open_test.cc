// Formatting and opening: what is refused, with which error, and that nothing is lost by refusing.
#include <doctest/doctest.h>

#include <functional>
#include <string>

#include "format/disk.h"
#include "tests/store/store_client.h"

using namespace blockd;
using namespace blockd::store;
using namespace blockd::store::testing;

namespace {

constexpr std::uint64_t kSuperblockB = kBlockBytes;

// The code of the Fault that `action` throws, which must say why in one clear line; Ok: none.
Error fault_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Fault& fault) {
    const std::string line = fault.what();
    CHECK(line.size() > 20);
    CHECK(line.size() < 200);
    CHECK(line.find('\n') == std::string::npos);
    return fault.code();
  }
  return Error::Ok;
}

Error format_fault(Rig& rig, bool force = false) {
  FormatOptions options;
  options.force = force;
  options.store_id = kStoreId;
  options.cluster_id = kClusterId;
  options.journal_bytes = kMiB;
  return fault_of([&] { Store::format(rig.disk, options); });
}

Error open_fault(Rig& rig) {
  const Error error = fault_of([&] { rig.open(); });
  rig.kill();
  return error;
}

// Changes one superblock as a store of that kind would have it, checksum and all.
void edit_superblock(Rig& rig, std::uint64_t offset,
                     const std::function<void(format::Superblock&)>& edit) {
  io::testing::Page page;
  rig.disk.peek(offset, page.span());
  format::Superblock superblock;
  std::memcpy(static_cast<void*>(&superblock), page.data(), sizeof superblock);
  edit(superblock);
  format::seal(superblock);
  std::memcpy(page.data(), &superblock, sizeof superblock);
  REQUIRE(rig.disk.write_now(offset, page.span()) == Error::Ok);
}
void edit_superblocks(Rig& rig, const std::function<void(format::Superblock&)>& edit) {
  for (const std::uint64_t offset : {std::uint64_t{0}, kSuperblockB}) {
    edit_superblock(rig, offset, edit);
  }
}

// Opens the store and has that recorded; the incarnation.
std::uint64_t opened(Rig& rig) {
  rig.open();
  REQUIRE(rig.wait([&](Store::Done done) { rig.store->record_opening(std::move(done)); }) ==
          Error::Ok);
  return rig.store->info().incarnation;
}

constexpr std::uint64_t kDeviceB = 8 * kMiB;

std::vector<std::byte> image(const Rig& rig) {
  std::vector<std::byte> bytes(kDeviceB);
  rig.disk.peek(0, bytes);
  return bytes;
}

void put_back(Rig& rig, const std::vector<std::byte>& bytes) {
  io::testing::Memory memory(kDeviceB);
  std::memcpy(memory.data(), bytes.data(), kDeviceB);
  REQUIRE(rig.disk.write_now(0, memory.span()) == Error::Ok);
}

}  // namespace

TEST_CASE("an older copy is refused however often it comes, and stays as it is") {
  for (std::uint64_t seed = 0; seed < 8; ++seed) {
    CAPTURE(seed);
    Rig rig(seed, kDeviceB);
    rig.format();
    opened(rig);
    CHECK(Client(rig).write(0, 16, 100) == Error::Ok);
    if (seed % 2 == 0) CHECK(rig.close());
    rig.power_off(io::SimDisk::Crash::random);
    const std::vector<std::byte> copy = image(rig);
    const std::uint64_t newest = opened(rig);
    Client client(rig, Client::Existing{});
    CHECK(client.write(0, 16, 200) == Error::Ok);
    CHECK(client.flush() == Error::Ok);
    if (seed % 3 == 0) CHECK(rig.close());
    rig.power_off(io::SimDisk::Crash::random);
    const std::vector<std::byte> store = image(rig);

    put_back(rig, copy);
    rig.newest_openings[kStoreId] = newest;
    for (int i = 0; i < 3; ++i) {
      CHECK(open_fault(rig) == Error::OlderCopy);
      CHECK(image(rig) == copy);
    }
    put_back(rig, store);
    CHECK(opened(rig) > newest);
    CHECK(Client(rig, Client::Existing{}).read(0, 16) == tags_from(200, 16));
  }
}

TEST_CASE("the store itself is no older copy, whatever is known of others") {
  Rig rig(1);
  rig.format();
  rig.newest_openings[uuid(0x52)] = 1000;
  for (int i = 0; i < 4; ++i) {
    rig.newest_openings[kStoreId] = opened(rig);
    if (i == 0) CHECK(Client(rig).write(0, 16, 100) == Error::Ok);
    if (i % 2 == 0) CHECK(rig.close());
    rig.power_off(io::SimDisk::Crash::random);
  }
}

TEST_CASE("a store without segments is opened beyond the newest opening that is known of") {
  Rig rig(1);
  rig.format();
  rig.newest_openings[kStoreId] = 5;
  rig.newest_openings[kStoreId] = opened(rig);
  CHECK(rig.newest_openings[kStoreId] == 6);
  CHECK(Client(rig).write(0, 16, 100) == Error::Ok);
  rig.kill();
  CHECK(opened(rig) == 7);
}

TEST_CASE("each opening that was recorded has a higher incarnation, whatever ends it") {
  for (std::uint64_t seed = 0; seed < 8; ++seed) {
    CAPTURE(seed);
    Rig rig(seed);
    rig.format();
    std::uint64_t newest = 0;
    for (int i = 0; i < 8; ++i) {
      const std::uint64_t incarnation = opened(rig);
      CHECK(incarnation > newest);
      newest = incarnation;
      CHECK(rig.store->check().empty());
      Client client = i == 0 ? Client(rig) : Client(rig, Client::Existing{});
      if (rig.world.random().chance(3)) CHECK(client.write(0, 16, 100) == Error::Ok);
      const std::uint64_t end = rig.world.random().below(3);
      if (end == 0) rig.kill();
      if (end == 1) rig.power_off(io::SimDisk::Crash::random);
      if (end == 2) CHECK(rig.close());
    }
  }
}

TEST_CASE("a formatted store is empty, sound and says who it is") {
  Rig rig(1);
  rig.format();
  rig.open();
  const StoreInfo info = rig.store->info();
  CHECK(info.store_id == kStoreId);
  CHECK(info.cluster_id == kClusterId);
  CHECK(info.capacity_bytes % kChunkBytes == 0);
  CHECK(info.capacity_bytes > 4 * kMiB);
  CHECK(info.capacity_bytes < 8 * kMiB);
  CHECK(info.allocated_bytes == 0);
  CHECK(info.journal_bytes == kMiB);
  CHECK(info.segment_count == 0);
  CHECK(rig.store->segments().empty());
  CHECK(rig.store->stats().recovered_batches == 0);
  CHECK(rig.store->check().empty());
}

TEST_CASE("a device too small for a store is refused and left alone") {
  Rig rig(2, kMiB);
  CHECK(format_fault(rig) == Error::StoreTooSmall);
  io::testing::Page page;
  rig.disk.peek(0, page.span());
  CHECK(page == io::testing::Page());
  Rig tiny(2, kBlockBytes);
  CHECK(format_fault(tiny) == Error::StoreTooSmall);
  CHECK(open_fault(tiny) == Error::StoreNotFormatted);
}

TEST_CASE("the smallest store that format accepts holds its chunks") {
  std::uint64_t bytes = kMiB;
  for (;; bytes += kChunkBytes) {
    Rig rig(3, bytes);
    if (format_fault(rig) != Error::Ok) continue;
    rig.open();
    Client client(rig);
    const auto chunks = static_cast<std::uint32_t>(rig.store->info().capacity_bytes / kChunkBytes);
    for (std::uint32_t chunk = 0; chunk < chunks; ++chunk) {
      CHECK(client.write(chunk * kBlocksPerChunk, 1, chunk + 1) == Error::Ok);
    }
    CHECK(client.write(chunks * kBlocksPerChunk, 1, 999) == Error::NoSpace);
    break;
  }
  CHECK(bytes < 4 * kMiB);
}

TEST_CASE("a store is overwritten only by force") {
  Rig rig(4);
  rig.format();
  rig.open();
  CHECK(Client(rig).write(0, 1, 7) == Error::Ok);
  REQUIRE(rig.close());
  CHECK(format_fault(rig) == Error::AlreadyExists);
  rig.open();
  CHECK(Client(rig, Client::Existing{}).read_one(0) == 7);
  REQUIRE(rig.close());

  CHECK(format_fault(rig, /*force=*/true) == Error::Ok);
  rig.open();
  CHECK(rig.store->segments().empty());
  CHECK(rig.store->info().allocated_bytes == 0);
  CHECK(Client(rig).read(0, 16) == tags_from(kHole, 16));
}

TEST_CASE("a journal of the store that was overwritten is never replayed") {
  Rig rig(5);
  rig.format();
  rig.open();
  {
    Client client(rig);
    for (std::uint32_t i = 0; i < 100; ++i) CHECK(client.write(i, 1, i + 1) == Error::Ok);
  }
  rig.kill();
  CHECK(format_fault(rig, /*force=*/true) == Error::Ok);
  rig.open();
  CHECK(rig.store->stats().recovered_batches == 0);
  CHECK(rig.store->segments().empty());
}

TEST_CASE("what is no store is not opened") {
  Rig blank(6);
  CHECK(open_fault(blank) == Error::StoreNotFormatted);
  Rig noise(6);
  io::testing::Memory memory(kMiB);
  Random(6).fill(memory.span());
  REQUIRE(noise.disk.write_now(0, memory.span()) == Error::Ok);
  CHECK(open_fault(noise) == Error::StoreNotFormatted);
}

TEST_CASE("another cluster's store is refused") {
  Rig rig(7);
  rig.format();
  io::SimLoop loop(rig.world);
  rig.disk.attach(loop);
  const Error error =
      fault_of([&] { (void)Store::open(rig.disk, loop, rig.buffers, {.cluster_id = uuid(0xc2)}); });
  CHECK(error == Error::StoreForeign);
  CHECK(open_fault(rig) == Error::Ok);
}

TEST_CASE("a store of a newer blockd is refused, one with features to ignore is not") {
  Rig rig(8);
  rig.format();
  edit_superblocks(rig, [](format::Superblock& s) { s.version = format::kStoreVersion + 1; });
  CHECK(open_fault(rig) == Error::StoreTooNew);
  edit_superblocks(rig, [](format::Superblock& s) { s.version = format::kStoreVersion; });
  edit_superblocks(rig, [](format::Superblock& s) { s.incompatible_features = 1; });
  CHECK(open_fault(rig) == Error::StoreTooNew);
  edit_superblocks(rig, [](format::Superblock& s) { s.incompatible_features = 0; });
  edit_superblocks(rig, [](format::Superblock& s) { s.compatible_features = 1ull << 63; });
  CHECK(open_fault(rig) == Error::Ok);
}

TEST_CASE("a superblock that contradicts itself is damage, checksum or not") {
  const auto edits = std::to_array<void (*)(format::Superblock&)>({
      [](format::Superblock& s) { s.slot_count = 1u << 30; },
      [](format::Superblock& s) { s.journal_bytes = 1ull << 50; },
      [](format::Superblock& s) { s.journal_bytes = ~0ull & ~4095ull; },
      [](format::Superblock& s) { s.journal_offset = 0; },
      [](format::Superblock& s) { s.data_offset = ~0ull; },
      [](format::Superblock& s) { s.data_offset += 512; },
      [](format::Superblock& s) { s.slot_pages_offset = s.journal_offset; },
      [](format::Superblock& s) { s.segment_pages_offset = ~0ull - 4095; },
      [](format::Superblock& s) { s.segment_page_count = 0; },
      [](format::Superblock& s) { s.segment_page_count = ~0u; },
      [](format::Superblock& s) { s.slot_page_count = 0; },
      [](format::Superblock& s) { s.slot_page_count = ~0u; },
      [](format::Superblock& s) { s.chunk_bytes = 1; },
      [](format::Superblock& s) { s.block_bytes = 512; },
      [](format::Superblock& s) { s.version = 0; },
  });
  for (std::size_t i = 0; i < edits.size(); ++i) {
    CAPTURE(i);
    Rig rig(9);
    rig.format();
    edit_superblocks(rig, edits[i]);
    CHECK(open_fault(rig) == Error::StoreDamaged);
  }
}

TEST_CASE("a journal or a record that contradicts itself is damage, checksum or not") {
  using format::EntryHeader;
  using format::EntryKind;
  struct Contents {
    format::SegmentRecord segment;
    EntryHeader entry;
    std::uint32_t crcs = 0;  // behind the entry
    std::uint64_t tail_offset = 0;
  };
  const auto open_with = [](void (*edit)(Contents&)) {
    Contents contents;
    contents.segment.state = format::SegmentState::used;
    contents.segment.block_count = 64;
    contents.entry.kind = EntryKind::zero;
    contents.entry.slot = 3;
    contents.entry.version = {1, 1};
    contents.entry.mask = 1;
    edit(contents);
    Rig rig(16);
    rig.format();
    io::testing::Page page;
    auto* batch = new (page.data()) format::BatchHeader;
    batch->store_id = kStoreId;
    batch->lsn = batch->incarnation = 1;
    batch->entry_count = 2;
    const auto put = [&](const void* bytes, std::size_t count) {
      std::memcpy(batch->entries + batch->entry_bytes, bytes, count);
      batch->entry_bytes += static_cast<std::uint32_t>(count);
    };
    EntryHeader first;
    first.kind = EntryKind::segment;
    put(&first, sizeof first);
    put(&contents.segment, sizeof contents.segment);
    put(&contents.entry, sizeof contents.entry);
    batch->entry_bytes += contents.crcs * 4;
    format::seal(*batch);
    const std::uint64_t journal =
        static_cast<std::uint64_t>(format::FixedBlock::journal) * kBlockBytes;
    REQUIRE(rig.disk.write_now(journal, page.span()) == Error::Ok);
    if (contents.tail_offset != 0) {
      page = io::testing::Page();
      auto* record = new (page.data()) format::CheckpointRecord;
      record->store_id = kStoreId;
      record->generation = 2;
      record->tail_offset = contents.tail_offset;
      format::seal(*record);
      const std::uint64_t at =
          static_cast<std::uint64_t>(format::FixedBlock::checkpoint_a) * kBlockBytes;
      REQUIRE(rig.disk.write_now(at, page.span()) == Error::Ok);
    }
    const Error error = fault_of([&] { rig.open(); });
    if (error == Error::Ok) CHECK(rig.store->stats().recovered_batches == 1);
    return error;
  };
  CHECK(open_with([](Contents&) {}) == Error::Ok);
  const auto edits = std::to_array<void (*)(Contents&)>({
      [](Contents& c) { c.entry.slot = 1u << 20; },
      [](Contents& c) { c.entry.segment = 1u << 20; },
      [](Contents& c) { c.entry.chunk = 4; },
      [](Contents& c) { c.entry.old_slot = 1u << 20; },
      [](Contents& c) { c.entry.kind = static_cast<EntryKind>(7); },
      [](Contents& c) { c.entry.kind = static_cast<EntryKind>(0); },
      [](Contents& c) { c.entry.count = 1; },
      [](Contents& c) { c.entry.kind = EntryKind::replace, c.entry.mask = 0xffff; },
      [](Contents& c) { c.entry.kind = EntryKind::map; },
      [](Contents& c) {
        c.entry.kind = EntryKind::map, c.entry.count = 16, c.entry.first = 1, c.crcs = 16;
      },
      [](Contents& c) { c.entry.kind = EntryKind::write, c.entry.first = 200; },
      [](Contents& c) { c.segment.block_count = 0; },
      [](Contents& c) { c.segment.block_count = ~0u - 31; },
      [](Contents& c) { c.segment.state = static_cast<format::SegmentState>(3); },
      [](Contents& c) { c.tail_offset = 512; },
      [](Contents& c) { c.tail_offset = kMiB; },
  });
  for (std::size_t i = 0; i < edits.size(); ++i) {
    CAPTURE(i);
    const Error error = open_with(edits[i]);
    // A checkpoint record that is not sound leaves the older one.
    CHECK(error == (i >= edits.size() - 2 ? Error::Ok : Error::StoreDamaged));
  }
}

TEST_CASE("one damaged superblock is made up for by the other, two are not") {
  Rig rig(10);
  rig.format();
  rig.open();
  CHECK(Client(rig).write(3, 1, 7) == Error::Ok);
  REQUIRE(rig.close());
  for (const std::uint64_t offset : {std::uint64_t{0}, kSuperblockB}) {
    rig.disk.corrupt(offset + 100, 3);
    rig.open();
    CHECK(Client(rig, Client::Existing{}).read_one(3) == 7);
    REQUIRE(rig.close());
    rig.disk.corrupt(offset + 100, 3);  // back again, unless it was healed: then it is damaged now
    rig.open();
    REQUIRE(rig.close());
  }
  Rig both(10);
  both.format();
  both.disk.corrupt(100, 3);
  both.disk.corrupt(kSuperblockB + 200, 5);
  CHECK(open_fault(both) == Error::StoreDamaged);
}

TEST_CASE("a device that shrank under its store is damage") {
  Rig whole(11, 8 * kMiB);
  whole.format();
  Rig half(11, 4 * kMiB);
  io::testing::Memory memory(4 * kMiB);
  whole.disk.peek(0, memory.span());
  REQUIRE(half.disk.write_now(0, memory.span()) == Error::Ok);
  CHECK(open_fault(half) == Error::StoreDamaged);
}

TEST_CASE("a device that grew opens with the size it was formatted with") {
  Rig small(12, 4 * kMiB);
  small.format();
  Rig grown(12, 8 * kMiB);
  io::testing::Memory memory(4 * kMiB);
  small.disk.peek(0, memory.span());
  REQUIRE(grown.disk.write_now(0, memory.span()) == Error::Ok);
  grown.open();
  CHECK(grown.store->info().capacity_bytes < 4 * kMiB);
  CHECK(Client(grown).write(0, 16, 1) == Error::Ok);
}

TEST_CASE("a device that fails while it is formatted or opened is a disk error") {
  Rig dead(13);
  dead.disk.fail_everything(true);
  CHECK(format_fault(dead) == Error::DiskError);
  CHECK(open_fault(dead) == Error::DiskError);

  Rig rig(13);
  rig.format();
  rig.disk.fail_reads(0, 2 * kBlockBytes);
  CHECK(open_fault(rig) == Error::DiskError);
  rig.disk.clear_faults();
  rig.disk.fail_reads(0, kBlockBytes);
  CHECK(open_fault(rig) == Error::Ok);  // from the other superblock
}

TEST_CASE("a crash at any write of format leaves no store or a whole one") {
  bool finished = false;
  for (std::uint64_t writes = 0; !finished; ++writes) {
    REQUIRE(writes < 1000);
    CAPTURE(writes);
    Rig rig(writes);
    rig.mortal.die_after(writes);
    const Error error = fault_of([&] {
      Store::format(rig.mortal,
                    {.store_id = kStoreId, .cluster_id = kClusterId, .journal_bytes = kMiB});
    });
    finished = error == Error::Ok;
    if (!finished) CHECK(error == Error::DiskError);
    rig.power_off(io::SimDisk::Crash::random);
    const Error opened = open_fault(rig);
    if (finished) CHECK(opened == Error::Ok);
    const bool none = opened == Error::StoreNotFormatted || opened == Error::StoreDamaged;
    CHECK((opened == Error::Ok || none));
    if (none) CHECK(format_fault(rig, /*force=*/true) == Error::Ok);
  }
}

TEST_CASE("a store takes back the memory that it had registered, also when it does not open") {
  Rig rig(1);
  rig.format();
  rig.open();
  CHECK(rig.mortal.registered() > 0);
  rig.kill();
  CHECK(rig.mortal.registered() == 0);
  rig.mortal.die_after(0);
  CHECK(fault_of([&] { rig.open(); }) != Error::Ok);
  CHECK(rig.mortal.registered() == 0);
}

TEST_CASE("a closed store replays nothing and takes nothing more") {
  Rig rig(14);
  rig.format();
  rig.open();
  Client client(rig);
  for (std::uint32_t i = 0; i < 40; ++i) CHECK(client.write(i * 3, 2, i * 10 + 1) == Error::Ok);
  CHECK(client.write(160, 64, 1000) == Error::Ok);
  const CallRef last = client.start_write(500, 4, 2000);
  bool closed = false;
  rig.store->close([&](Error error) { closed = error == Error::Ok; });
  const CallRef late = client.start_write(600, 1, 3000);
  const CallRef late_read = client.start_read(0, 1);
  const CallRef late_flush = client.start_flush();
  CHECK(rig.world.run_until([&] { return closed; }, kPatienceUs));
  CHECK(last->error() == Error::Ok);  // it was in flight
  CHECK(client.finish(*late) == Error::ShuttingDown);
  CHECK(client.finish(*late_read) == Error::ShuttingDown);
  CHECK(client.finish(*late_flush) == Error::ShuttingDown);
  rig.power_off(io::SimDisk::Crash::lose_all);

  rig.open();
  CHECK(rig.store->stats().recovered_batches == 0);
  CHECK(rig.store->check().empty());
  Client again(rig, Client::Existing{});
  for (std::uint32_t i = 0; i < 40; ++i) CHECK(again.read(i * 3, 2) == tags_from(i * 10 + 1, 2));
  CHECK(again.read(160, 64) == tags_from(1000, 64));
  CHECK(again.read(500, 4) == tags_from(2000, 4));
  CHECK(again.read_one(600) == kHole);
}

TEST_CASE("what recovery replays is bounded by the journal") {
  Rig rig(15, 32 * kMiB);
  rig.format();
  rig.open();
  {
    Client client(rig, 300 * kBlocksPerChunk);
    for (std::uint32_t i = 0; i < 3000; ++i) {
      REQUIRE(client.write(i * 7 % 4800, 1, i + 1) == Error::Ok);
    }
  }
  rig.kill();
  const std::uint64_t reads_before = rig.disk.stats().read_bytes;
  rig.open();
  CHECK(rig.store->stats().recovered_batches > 0);
  CHECK(rig.store->stats().recovered_batches <= kMiB / (2 * kBlockBytes));
  CHECK(rig.disk.stats().read_bytes - reads_before < 4 * kMiB);
  CHECK(rig.store->check().empty());
}
