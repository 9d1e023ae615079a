// The scrubber over a real store on a simulated disk.
#include "border/scrubber.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <vector>

#include "base/crc32c.h"
#include "io/sim_disk.h"
#include "io/sim_world.h"

using namespace blockd;
using namespace blockd::border;

namespace {

constexpr std::uint64_t kPatienceUs = 600'000'000;

Uuid uuid(unsigned char last) {
  Uuid id;
  id.bytes.fill(0x22);
  id.bytes[15] = last;
  return id;
}

struct Rig {
  Rig() : world(7), disk(world, 64ull << 20) {
    store::FormatOptions options;
    options.store_id = uuid(1);
    options.cluster_id = uuid(2);
    store::Store::format(disk, options);
    loop = std::make_unique<io::SimLoop>(world);
    disk.attach(*loop);
    store = store::Store::open(disk, *loop, buffers, {.cluster_id = uuid(2)});
    for (std::uint32_t index = 0; index < 2; ++index) create(index);
    scrubber = std::make_unique<Scrubber>(*loop, buffers, *store);
  }
  ~Rig() {
    bool closed = false;
    scrubber->stop();
    store->close([&](Error) { closed = true; });
    REQUIRE(world.run_until([&] { return closed; }, kPatienceUs));
    scrubber.reset();
    store.reset();
  }

  void create(std::uint32_t index) {
    bool done = false;
    store->create_segment({uuid(3), index}, kSegmentBytes / kBlockBytes,
                          [&](Error) { done = true; });
    REQUIRE(world.run_until([&] { return done; }, kPatienceUs));
  }
  store::SegmentHandle segment(std::uint32_t index) {
    return *store->find_segment({uuid(3), index});
  }
  // One block at a time, or as many as `memory` has.
  Error run(store::StoreOp::Op kind, std::uint32_t index, std::uint32_t block,
            std::uint32_t count = 1) {
    bool done = false;
    std::vector<std::byte> memory(std::size_t{count} * kBlockBytes + kBlockBytes);
    std::byte* data = memory.data() +
                      (kBlockBytes - reinterpret_cast<std::uintptr_t>(memory.data()) % kBlockBytes);
    for (std::uint32_t i = 0; i < count; ++i) {
      std::memset(data + std::size_t{i} * kBlockBytes, static_cast<int>(block + i + 1),
                  kBlockBytes);
    }
    std::vector<std::uint32_t> crcs;
    for (std::uint32_t i = 0; i < count; ++i)
      crcs.push_back(crc32c(data + std::size_t{i} * kBlockBytes, kBlockBytes));
    store::StoreOp op;
    op.op = kind;
    op.segment = segment(index);
    op.first_block = block;
    op.block_count = count;
    op.version = {1, ++seq};
    op.era = era;
    op.data = data;
    op.crcs = crcs.data();
    op.owner = &done;
    op.done = [](store::StoreOp& finished) noexcept { *static_cast<bool*>(finished.owner) = true; };
    store->submit(op);
    REQUIRE(world.run_until([&] { return done; }, kPatienceUs));
    return op.error;
  }
  void settle() { world.run_for(30'000'000); }  // what is in the journal goes home
  void rot(std::uint32_t index, std::uint32_t block) {
    const store::BlockLocation at = store->locate(segment(index), block);
    REQUIRE(at.allocated);
    REQUIRE(!at.in_journal);
    disk.corrupt(at.device_offset_bytes + 77, 3);
  }
  const ScrubReport& pass(std::uint64_t rate, ScrubCursor from = {}) {
    scrubber->start(rate, from, 0);
    REQUIRE(world.run_until([&] { return scrubber->report().finished; }, kPatienceUs));
    return scrubber->report();
  }

  io::SimWorld world;
  io::SimDisk disk;
  Buffers buffers{64, 16, 16};
  std::unique_ptr<io::SimLoop> loop;
  std::unique_ptr<store::Store> store;
  std::unique_ptr<Scrubber> scrubber;
  std::uint64_t seq = 0;
  Era era = 1;
};

TEST_CASE("a pass reads every stored block and names each bad one") {
  Rig rig;
  for (std::uint32_t chunk = 0; chunk < 8; ++chunk)
    REQUIRE(rig.run(store::StoreOp::Op::write, 0, chunk * 32, 16) == Error::Ok);
  REQUIRE(rig.run(store::StoreOp::Op::write, 1, 1000, 3) == Error::Ok);
  REQUIRE(rig.run(store::StoreOp::Op::zero, 0, 0, 16) == Error::Ok);
  rig.settle();
  CHECK(rig.pass(64u << 20).findings.empty());
  rig.rot(0, 32 + 4);
  rig.rot(0, 32 + 9);
  rig.rot(1, 1002);
  const ScrubReport& report = rig.pass(64u << 20);
  REQUIRE(report.findings.size() == 3);
  CHECK(report.findings[0].block == 36);
  CHECK(report.findings[1].block == 41);
  CHECK(report.findings[2].block == 1002);
  CHECK(report.findings[2].segment.index == 1);
  CHECK(report.findings[2].error == Error::ChecksumMismatch);
  CHECK(report.read_bytes == (7 * 16 + 3) * std::uint64_t{kBlockBytes});
  CHECK(report.chunks_done == report.chunks_total);
  CHECK(rig.pass(64u << 20, {{uuid(3), 1}, 0}).findings.size() == 1);  // from a cursor on
}

TEST_CASE("what only a snapshot shows is read, too, and named by its era") {
  Rig rig;
  REQUIRE(rig.run(store::StoreOp::Op::write, 0, 0, 16) == Error::Ok);
  REQUIRE(rig.run(store::StoreOp::Op::write, 0, 64, 16) == Error::Ok);
  rig.settle();
  rig.rot(0, 5);
  rig.rot(0, 66);
  for (rig.era = 2; rig.era < 30;
       ++rig.era) {  // more contents of one chunk than are listed at a time
    REQUIRE(rig.run(store::StoreOp::Op::write, 0, 0, 16) == Error::Ok);
  }
  REQUIRE(rig.run(store::StoreOp::Op::zero, 0, 64, 16) == Error::Ok);  // now a hole with a past
  const ScrubReport& report = rig.pass(64u << 20);
  REQUIRE(report.findings.size() == 2);
  CHECK(report.findings[0].block == 5);
  CHECK(report.findings[0].born == 1);
  CHECK(report.findings[1].block == 66);
  CHECK(report.findings[1].born == 1);
  CHECK(report.read_bytes == 30 * std::uint64_t{kChunkBytes});
  CHECK(report.chunks_done == report.chunks_total);
  CHECK(rig.store->check().empty());
}

TEST_CASE("the rate is kept, and is a quarter beside other operations") {
  Rig rig;
  for (std::uint32_t chunk = 0; chunk < 64; ++chunk)
    REQUIRE(rig.run(store::StoreOp::Op::write, 0, chunk * 16, 16) == Error::Ok);
  rig.settle();
  const std::uint64_t rate = 4u << 20;  // 64 chunks of 64 KiB: one second
  std::uint64_t before = rig.world.now_us();
  rig.pass(rate);
  const std::uint64_t alone_us = rig.world.now_us() - before;
  CHECK(alone_us > 950'000);
  CHECK(alone_us < 1'100'000);

  before = rig.world.now_us();
  rig.scrubber->start(rate, {}, 0);
  while (!rig.scrubber->report().finished)
    REQUIRE(rig.run(store::StoreOp::Op::read, 0, 5) == Error::Ok);
  const std::uint64_t beside_us = rig.world.now_us() - before;
  CHECK(beside_us > 3'800'000);
  CHECK(beside_us < 4'400'000);
}

TEST_CASE("a scrub stops, goes on from its cursor, and survives a segment's end") {
  Rig rig;
  for (std::uint32_t chunk = 0; chunk < 32; ++chunk) {
    REQUIRE(rig.run(store::StoreOp::Op::write, 0, chunk * 16, 16) == Error::Ok);
    REQUIRE(rig.run(store::StoreOp::Op::write, 1, chunk * 16, 16) == Error::Ok);
  }
  rig.settle();
  rig.scrubber->start(4u << 20, {}, 0);
  rig.world.run_for(250'000);
  rig.scrubber->stop();
  rig.world.run_for(1'000'000);
  const ScrubReport half = rig.scrubber->report();
  CHECK(!half.running);
  CHECK(!half.finished);
  CHECK(half.chunks_done > 8);
  CHECK(half.chunks_done < 32);
  CHECK(half.cursor.chunk == half.chunks_done);

  rig.scrubber->start(4u << 20, half.cursor, half.chunks_done);
  bool dropped = false;
  rig.store->drop_segment(rig.segment(0), [&](Error) { dropped = true; });
  REQUIRE(rig.world.run_until([&] { return rig.scrubber->report().finished; }, kPatienceUs));
  CHECK(dropped);
  CHECK(rig.scrubber->report().findings.empty());
  CHECK(rig.scrubber->report().read_bytes >= 32 * std::uint64_t{kChunkBytes});
  CHECK(rig.scrubber->report().read_bytes <= 34 * std::uint64_t{kChunkBytes});
}

}  // namespace
