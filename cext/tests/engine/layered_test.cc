// A volume over a base against a model that knows every sector.
#include "engine/layered.h"

#include <doctest/doctest.h>

#include <deque>
#include <optional>
#include <set>
#include <string>

#include "base/buffer.h"
#include "tests/engine/layer_models.h"
#include "tests/seeds.h"

namespace blockd::engine {
namespace {

using Op = BlockRequest::Op;

struct Asked {
  BlockRequest request;
  std::vector<std::uint64_t> ids;  // a mutation's: of each of its sectors
  bool answered = false;
  bool inside = false;  // submit() is running
};

// A volume and its base; what each sector may hold.
struct Rig {
  Rig(std::uint64_t seed, std::uint64_t upper_bytes, std::uint64_t base_bytes)
      : random(seed),
        world(seed),
        loop(world),
        upper(loop, upper_bytes),
        base(loop, base_bytes),
        may(upper_bytes / kSectorBytes, std::set<std::uint64_t>{0}) {}
  ~Rig() {
    if (layered) close();
  }

  // The base's content is the write `id` here and there.
  void fill_base(std::uint64_t id, std::uint64_t one_in) {
    for (std::uint64_t sector = 0; sector < base.size_bytes() / kSectorBytes; ++sector) {
      if (sector * kSectorBytes % kChunkBytes == 0) filling_ = random.chance(one_in);
      if (filling_ && random.chance(2)) put_base(sector, id);
    }
  }
  void put_base(std::uint64_t sector, std::uint64_t id) {
    fill_sector(base.bytes.data() + sector * kSectorBytes, id, sector);
    may[sector] = {id};
  }

  Error open() {
    std::vector<std::uint16_t> masks;
    for (std::uint64_t chunk = 0; chunk * kChunkBytes < base.bytes.size(); ++chunk) {
      masks.push_back(base.mask(chunk));
    }
    upper.must_cover = [masks](std::uint64_t chunk) {
      return chunk < masks.size() && masks[chunk] != 0;
    };
    layered = Layered::create(loop, buffers, upper, base, rules);
    opened.reset();
    layered->open([this](auto take, auto done) { upper.list(take, done); },
                  [this](auto take, auto done) { base.list(take, done); },
                  [this](Error error) { opened = error; });
    if (!wait_for_open) return Error::Ok;
    REQUIRE(world.run_until([&] { return opened.has_value(); }, 60'000'000));
    return *opened;
  }
  void close() {
    bool closed = false;
    layered->close([&] { closed = true; });
    REQUIRE(world.run_until([&] { return closed && upper.in_flight() + base.in_flight() == 0; },
                            60'000'000));
    layered.reset();
  }

  Asked& submit(Op op, std::uint64_t offset, std::uint64_t bytes, bool zeros = false) {
    Asked& asked = batch.emplace_back();
    asked.request.op = op;
    asked.request.offset_bytes = offset;
    asked.request.length_bytes = static_cast<std::uint32_t>(bytes);
    asked.request.owner = &asked;
    asked.request.done = [](BlockRequest& request) noexcept {
      auto& over = *static_cast<Asked*>(request.owner);
      REQUIRE_FALSE(over.answered);
      REQUIRE_FALSE((over.inside && request.error == Error::Ok));
      over.answered = true;
    };
    if (op == Op::read || op == Op::write) {
      asked.request.hold = buffers.large.get();
      REQUIRE(asked.request.hold);
      asked.request.data = asked.request.hold.data();
    }
    if (op != Op::read && op != Op::flush) note_mutation(asked, zeros || op != Op::write);
    asked.inside = true;
    layered->submit(asked.request);
    asked.inside = false;
    return asked;
  }
  void note_mutation(Asked& asked, bool zeros) {
    const std::uint64_t id = zeros ? 0 : ++last_id;
    for (std::uint64_t at = 0; at < asked.request.length_bytes; at += kSectorBytes) {
      asked.ids.push_back(id);
      if (asked.request.op != Op::write) continue;
      fill_sector(asked.request.data + at, id, (asked.request.offset_bytes + at) / kSectorBytes);
    }
  }
  Error run(Op op, std::uint64_t offset, std::uint64_t bytes, bool zeros = false) {
    submit(op, offset, bytes, zeros);
    const Error error = finish_batch();
    return error;
  }

  // Waits for all of the batch, checks what was read, and takes up what was written. The error of
  // the last one.
  Error finish_batch() {
    REQUIRE(
        world.run_until([&] { return std::ranges::all_of(batch, &Asked::answered); }, 600'000'000));
    std::map<std::uint64_t, std::vector<const Asked*>> writers;
    for (const Asked& asked : batch) {
      if (asked.request.error == Error::ExtentOutOfRange) continue;  // perhaps behind all that is
      for (std::size_t i = 0; i < asked.ids.size(); ++i) {
        writers[asked.request.offset_bytes / kSectorBytes + i].push_back(&asked);
      }
    }
    std::map<std::uint64_t, std::set<std::uint64_t>> before;  // of what was written
    for (const auto& [sector, by] : writers) before[sector] = may[sector];
    for (const auto& [sector, by] : writers) settle_sector(sector, by);
    for (const Asked& asked : batch) {
      if (asked.request.op == Op::read && asked.request.error == Error::Ok) {
        check_read(asked.request, before, writers);
      }
    }
    const Error last = batch.empty() ? Error::Ok : batch.back().request.error;
    batch.clear();
    return last;
  }
  void settle_sector(std::uint64_t sector, const std::vector<const Asked*>& by) {
    std::set<std::uint64_t> now;
    bool sure = false;
    for (const Asked* asked : by) {
      now.insert(asked->ids[0]);
      sure = sure || asked->request.error == Error::Ok;
    }
    if (!sure) now.insert(may[sector].begin(), may[sector].end());
    may[sector] = now;
  }
  void check_read(const BlockRequest& request,
                  const std::map<std::uint64_t, std::set<std::uint64_t>>& before,
                  const std::map<std::uint64_t, std::vector<const Asked*>>& writers) {
    for (std::uint64_t at = 0; at < request.length_bytes; at += kSectorBytes) {
      const std::uint64_t sector = (request.offset_bytes + at) / kSectorBytes;
      if (sector >= may.size()) break;  // of the last block, beyond the end
      if (holds(request.data + at, sector, may[sector])) continue;
      CAPTURE(sector);
      const auto found = writers.find(sector);
      REQUIRE(found != writers.end());
      std::set<std::uint64_t> allowed = before.at(sector);
      for (const Asked* asked : found->second) allowed.insert(asked->ids[0]);
      REQUIRE(holds(request.data + at, sector, allowed));
    }
  }
  static bool holds(const std::byte* data, std::uint64_t sector,
                    const std::set<std::uint64_t>& allowed) {
    return std::ranges::any_of(allowed, [&](std::uint64_t id) {
      std::byte wanted[kSectorBytes];
      fill_sector(wanted, id, sector);
      return std::memcmp(data, wanted, kSectorBytes) == 0;
    });
  }
  // Everything as the volume shows it, or (when nothing shows the base) as the upper layer has it.
  void check_all() {
    for (std::uint64_t at = 0; at < upper.size_bytes(); at += kMutationBytesMax) {
      const std::uint64_t end =
          std::min<std::uint64_t>(at + kMutationBytesMax, (upper.size_bytes() + kBlockBytes - 1) /
                                                              kBlockBytes * kBlockBytes);
      REQUIRE(run(Op::read, at, end - at) == Error::Ok);
    }
  }
  void check_upper() {
    for (std::uint64_t sector = 0; sector < may.size(); ++sector) {
      CAPTURE(sector);
      REQUIRE(holds(upper.bytes.data() + sector * kSectorBytes, sector, may[sector]));
    }
  }
  Error flatten(std::uint64_t bytes_per_second = 100 << 20) {
    std::optional<Error> flat;
    layered->flatten(bytes_per_second, [&](Error error) { flat = error; });
    REQUIRE(world.run_until([&] { return flat.has_value(); }, 600'000'000));
    return *flat;
  }
  void grow(std::uint64_t bytes) {
    upper.grow(bytes);
    may.resize(bytes / kSectorBytes, std::set<std::uint64_t>{0});
    if (layered) layered->resized();
  }

  // Begins it; finish_shrink() waits for it, after finish_batch().
  void shrink(std::uint64_t bytes) {
    shrunk.reset();
    shrinks_to = bytes;
    layered->shrink(
        bytes, [this](auto drained) { upper.drain(std::move(drained)); },
        [this](Error error) { shrunk = error; });
  }
  Error finish_shrink() {
    REQUIRE(world.run_until([&] { return shrunk.has_value(); }, 600'000'000));
    for (std::uint64_t sector = shrinks_to / kSectorBytes; sector < may.size(); ++sector) {
      if (shrunk == Error::Ok) {
        CAPTURE(sector);
        REQUIRE(holds(upper.bytes.data() + sector * kSectorBytes, sector, {0}));
      }
      may[sector].insert(0);
    }
    if (shrunk != Error::Ok) return *shrunk;
    if (layered) REQUIRE(layered->size_bytes() == shrinks_to);
    upper.shrink(shrinks_to);
    may.resize(shrinks_to / kSectorBytes);
    return Error::Ok;
  }

  std::optional<Error> shrunk;
  std::uint64_t shrinks_to = 0;
  Random random;
  io::SimWorld world;
  io::SimLoop loop;
  Buffers buffers{1, 3, 64};
  ModelVolume upper;
  ModelLayer base;
  BaseRules rules;
  bool wait_for_open = true;
  std::unique_ptr<Layered> layered;
  std::optional<Error> opened;
  std::vector<std::set<std::uint64_t>> may;  // of each sector of the volume
  std::deque<Asked> batch;
  std::uint64_t last_id = 100;

 private:
  bool filling_ = false;
};

constexpr std::uint64_t kChunk = kChunkBytes;

TEST_CASE("a clone shows its base until it is written, and copies up only what it must") {
  Rig rig(1, 4 * kChunk, 4 * kChunk);
  rig.put_base(3, 7);            // in chunk 0
  rig.put_base(2 * 128 + 5, 8);  // in chunk 2
  REQUIRE(rig.open() == Error::Ok);
  CHECK(rig.layered->chunks_of_base() == 2);
  rig.check_all();
  const std::uint64_t reads = rig.base.reads;
  CHECK(rig.run(Op::write, kChunk, kChunk) == Error::Ok);  // nothing beneath
  CHECK(rig.run(Op::write, kChunk + 512, 512) == Error::Ok);
  CHECK(rig.run(Op::write, 2 * kChunk, kChunk) == Error::Ok);  // all of what is beneath
  CHECK(rig.base.reads == reads);
  CHECK(rig.upper.covered == 1);
  CHECK(rig.layered->chunks_of_base() == 1);
  CHECK(rig.run(Op::write, 8192, 512) == Error::Ok);  // a part
  CHECK(rig.base.reads == reads + 1);
  CHECK(rig.layered->chunks_of_base() == 0);
  rig.check_all();
}

TEST_CASE("a chunk that is trimmed to nothing goes on hiding the base after a restart") {
  Rig rig(2, 3 * kChunk + 512, 2 * kChunk);
  rig.put_base(3, 7);
  rig.put_base(128, 7);
  REQUIRE(rig.open() == Error::Ok);
  CHECK(rig.run(Op::trim, 0, 3 * kChunk + 512) == Error::Ok);
  CHECK(rig.upper.records.at(0).covers);
  CHECK(rig.upper.records.at(1).covers);
  rig.upper.drop_tombstones();
  CHECK(rig.upper.records.size() == 2);  // of holes over nothing no record is kept
  rig.close();
  REQUIRE(rig.open() == Error::Ok);
  CHECK(rig.layered->chunks_of_base() == 0);
  rig.check_all();
}

TEST_CASE("zeros written over data of the base hide it, too") {
  Rig rig(3, 2 * kChunk, 2 * kChunk);
  rig.put_base(3, 7);
  REQUIRE(rig.open() == Error::Ok);
  CHECK(rig.run(Op::write, 0, 4096, true) == Error::Ok);
  rig.upper.drop_tombstones();
  rig.close();
  REQUIRE(rig.open() == Error::Ok);
  rig.check_all();
  CHECK(rig.layered->chunks_of_base() == 0);
}

TEST_CASE(
    "after a rollback what was written since does not show, also where the base has nothing") {
  Rig rig(4, 4 * kChunk, 4 * kChunk);
  rig.rules = {.self = true, .era = 2, .since = 5, .read_only = false};
  // Chunk 0: as in the snapshot. 1: written since. 2: new since. 3: trimmed since.
  for (std::uint64_t sector : {0, 128, 3 * 128}) rig.put_base(sector, 7);
  rig.upper.bytes = rig.base.bytes;
  rig.upper.records = {{0, {2, false}}, {1, {4, false}}, {2, {3, false}}};
  fill_sector(rig.upper.bytes.data() + kChunk, 9, 128);
  fill_sector(rig.upper.bytes.data() + 2 * kChunk, 9, 256);
  std::memset(rig.upper.bytes.data() + 3 * kChunk, 0, kChunk);
  rig.upper.era = 5;
  REQUIRE(rig.open() == Error::Ok);
  CHECK(rig.layered->chunks_of_base() == 3);
  rig.check_all();
  CHECK(rig.run(Op::write, 2 * kChunk + 512, 512) == Error::Ok);
  rig.check_all();
  CHECK(rig.flatten() == Error::Ok);
  rig.check_upper();
  rig.close();
  REQUIRE(rig.open() == Error::Ok);
  CHECK(rig.layered->chunks_of_base() == 0);
}

TEST_CASE(
    "a base smaller than the volume shows zeros beyond its end, whatever its last block has") {
  Rig rig(5, 3 * kChunk, kChunk + 1536);
  rig.put_base(128, 7);
  rig.put_base(130, 7);
  fill_sector(rig.base.bytes.data() + 131 * kSectorBytes, 9, 131);  // beyond the end
  REQUIRE(rig.open() == Error::Ok);
  rig.check_all();
  CHECK(rig.run(Op::read, kChunk, 4096) == Error::Ok);
  CHECK(rig.run(Op::read, kChunk + 4096, 4096) == Error::Ok);
  CHECK(rig.run(Op::write, kChunk + 8192, 512) == Error::Ok);
  rig.check_all();
  rig.check_upper();
}

TEST_CASE("a last chunk that the end cuts within a block is never half the old and half a third") {
  // Trimmed as a whole it is two mutations for the engine; the process may die between them.
  for (const bool flatten : {false, true}) {
    for (std::uint64_t seed = 1; seed <= 20; ++seed) {
      Rig rig(seed, kChunk + 3 * 4096 + 512, kChunk + 3 * 4096 + 512);
      rig.rules = {.self = true, .era = 1, .since = 3, .read_only = false};
      if (!flatten) rig.put_base(128, 7);
      rig.upper.records = {{1, {2, false}}};
      for (std::uint64_t sector = 128; sector < 128 + 25; ++sector) {
        fill_sector(rig.upper.bytes.data() + sector * kSectorBytes, 9, sector);
      }
      rig.upper.era = 3;
      REQUIRE(rig.open() == Error::Ok);
      rig.upper.error_one_in = 1;
      if (flatten) {
        CHECK(rig.flatten() == Error::WriteUnresolved);
      } else {
        CHECK(rig.run(Op::trim, kChunk, 3 * 4096 + 512) == Error::WriteUnresolved);
      }
      rig.upper.error_one_in = 0;
      rig.close();
      REQUIRE(rig.open() == Error::Ok);
      rig.check_all();
    }
  }
}

TEST_CASE("requests that come before it is open wait for that, and fail with it") {
  Rig rig(6, 2 * kChunk, 2 * kChunk);
  rig.put_base(3, 7);
  rig.wait_for_open = false;
  REQUIRE(rig.open() == Error::Ok);
  rig.submit(Op::read, 0, kChunk);
  rig.submit(Op::flush, 0, 0);
  CHECK(rig.run(Op::read, kChunk, kChunk) == Error::Ok);
  rig.close();
  rig.base.list_error_one_in = 1;
  rig.wait_for_open = false;
  REQUIRE(rig.open() == Error::Ok);
  rig.submit(Op::write, 0, 512);
  CHECK(rig.run(Op::read, 0, 4096) == Error::LinkLost);
  CHECK(rig.run(Op::flush, 0, 0) == Error::LinkLost);
  rig.close();
}

TEST_CASE("bad requests are refused; a read-only one takes no mutation") {
  Rig rig(7, 2 * kChunk + 512, kChunk);
  REQUIRE(rig.open() == Error::Ok);
  CHECK(rig.run(Op::read, 512, 4096) == Error::InvalidArgument);
  CHECK(rig.run(Op::read, 2 * kChunk, 8192) == Error::ExtentOutOfRange);
  CHECK(rig.run(Op::read, 2 * kChunk, 4096) == Error::Ok);
  CHECK(rig.layered->size_bytes() == 2 * kChunk + 512);
  BlockRequest beyond;
  Error error = Error::Ok;
  beyond.op = Op::trim;
  beyond.offset_bytes = ~std::uint64_t{511};
  beyond.length_bytes = 1024;
  beyond.owner = &error;
  beyond.done = [](BlockRequest& r) noexcept { *static_cast<Error*>(r.owner) = r.error; };
  rig.layered->submit(beyond);
  CHECK(error == Error::ExtentOutOfRange);
  rig.close();
  rig.rules.read_only = true;
  REQUIRE(rig.open() == Error::Ok);
  rig.layered->submit(beyond);
  CHECK(error == Error::ReadOnly);
}

TEST_CASE("a listing of both layers has what shows, once") {
  Rig rig(8, 5 * kChunk, 5 * kChunk);
  for (std::uint64_t chunk : {0, 1, 2, 4}) rig.put_base(chunk * 128, 7);
  rig.upper.records = {{1, {1, false}}, {2, {1, true}}, {3, {1, false}}};
  fill_sector(rig.upper.bytes.data() + kChunk, 9, 128);
  fill_sector(rig.upper.bytes.data() + 3 * kChunk, 9, 3 * 128);
  rig.rules.read_only = true;
  REQUIRE(rig.open() == Error::Ok);
  std::vector<std::uint64_t> listed;
  std::optional<Error> error;
  rig.layered->list(
      [&](auto page) {
        for (const auto& chunk : page) listed.push_back(chunk.chunk);
      },
      [&](Error over) { error = over; });
  rig.world.run_for(10'000);
  CHECK(error == Error::Ok);
  std::ranges::sort(listed);
  CHECK(listed == std::vector<std::uint64_t>{0, 1, 3, 4});
}

// The base is larger than the volume has become: where it has data is what decides, not the size.
TEST_CASE("a volume that has shrunk over its base covers it, whatever comes afterwards") {
  for (const bool restart : {false, true}) {
    CAPTURE(restart);
    Rig rig(11, 6 * kChunk, 6 * kChunk);
    for (std::uint64_t chunk = 0; chunk < 6; ++chunk) rig.put_base(chunk * 128 + 5, 7);
    REQUIRE(rig.open() == Error::Ok);
    CHECK(rig.run(Op::write, 4 * kChunk, 4096) == Error::Ok);  // one that is its own by then
    rig.shrink(2 * kChunk + 512);
    REQUIRE(rig.finish_shrink() == Error::Ok);
    CHECK(rig.run(Op::write, 2 * kChunk, 1024) == Error::ExtentOutOfRange);
    CHECK(rig.layered->chunks_of_base() == 2);
    rig.check_all();
    const auto reopen = [&] {
      rig.upper.drop_tombstones();
      if (!restart) return;
      rig.close();
      REQUIRE(rig.open() == Error::Ok);
    };
    reopen();
    rig.grow(6 * kChunk);
    rig.check_all();
    CHECK(rig.run(Op::write, 3 * kChunk, 4096) == Error::Ok);
    CHECK(rig.run(Op::trim, 3 * kChunk, 2 * kChunk) == Error::Ok);  // goes on covering
    reopen();
    rig.check_all();
    CHECK(rig.layered->chunks_of_base() == 2);
    CHECK(rig.flatten() == Error::Ok);
    rig.check_upper();
  }
}

TEST_CASE("a layer's shrink waits for what was asked before, and is refused what makes no sense") {
  Rig rig(12, 6 * kChunk, 6 * kChunk);
  for (std::uint64_t chunk = 0; chunk < 6; ++chunk) rig.put_base(chunk * 128 + 5, 7);
  REQUIRE(rig.open() == Error::Ok);
  Error told = Error::Ok;
  const auto drain = [&](auto drained) { rig.upper.drain(std::move(drained)); };
  for (const std::uint64_t bytes : {std::uint64_t{0}, 6 * kChunk, std::uint64_t{1000}}) {
    rig.layered->shrink(bytes, drain, [&](Error error) { told = error; });
    CHECK(told == Error::InvalidArgument);
  }
  rig.submit(Op::write, 3 * kChunk, 512);
  rig.submit(Op::trim, kChunk + 512, 4 * kChunk);
  rig.submit(Op::write, 5 * kChunk, kChunk);
  rig.shrink(kChunk);
  rig.layered->shrink(512, drain, [&](Error error) { told = error; });
  CHECK(told == Error::Busy);
  rig.submit(Op::write, kChunk, 512);
  CHECK(rig.batch.back().request.error == Error::ExtentOutOfRange);
  CHECK(rig.finish_batch() == Error::ExtentOutOfRange);
  CHECK(rig.finish_shrink() == Error::Ok);
  rig.grow(6 * kChunk);
  rig.check_all();

  rig.shrink(kChunk);
  rig.close();
  CHECK(rig.shrunk == Error::ShuttingDown);
}

TEST_CASE("flatten keeps its rate, says what failed, and ends when the volume closes") {
  Rig rig(9, 64 * kChunk, 64 * kChunk);
  for (std::uint64_t chunk = 0; chunk < 64; ++chunk) rig.put_base(chunk * 128, 7);
  REQUIRE(rig.open() == Error::Ok);
  const std::uint64_t before = rig.world.now_us();
  CHECK(rig.flatten(4 << 20) == Error::Ok);  // 4 MiB at 4 MiB/s
  const std::uint64_t took = rig.world.now_us() - before;
  CHECK(took > 900'000);
  CHECK(took < 1'100'000);
  CHECK(rig.upper.flushes == 1);
  CHECK(rig.layered->chunks_of_base() == 0);
  rig.check_upper();
  CHECK(rig.flatten(1) == Error::Ok);  // nothing to do
  rig.close();
  rig.upper.records.clear();
  REQUIRE(rig.open() == Error::Ok);
  rig.base.error_one_in = 1;
  CHECK(rig.flatten() == Error::ChecksumMismatch);
  rig.base.error_one_in = 0;
  std::vector<Error> ended;
  rig.layered->flatten(4 << 20, [&](Error error) { ended.push_back(error); });
  rig.layered->flatten(2 << 20, [&](Error error) { ended.push_back(error); });
  rig.world.run_for(100'000);
  CHECK(ended.empty());
  rig.close();
  CHECK(ended == std::vector<Error>{Error::ShuttingDown, Error::ShuttingDown});
}

// One life after the other of a volume over its base; everything may fail, and what is read has to
// be what was written or, where a write failed, what was there before.
class RandomRun {
 public:
  explicit RandomRun(std::uint64_t seed)
      : random_(seed), rig_(seed, 512 * random_.between(200, 2000), 1), faulty_(seed % 3 != 0) {
    rig_.base.grow(512 * random_.between(1, rig_.upper.size_bytes() / 512));
    if (seed % 2) {
      rig_.fill_base(7, 2);
    } else {
      roll_back();
    }
  }

  void run() {
    for (int life = 0; life < 4; ++life) {
      faults(false);
      REQUIRE(rig_.open() == Error::Ok);
      rig_.check_all();
      const std::uint64_t steps = random_.between(1, 12);
      for (std::uint64_t step = 0; step < steps; ++step) batch();
      if (random_.chance(3)) flatten();
      if (random_.chance(2)) close_amidst();
      if (rig_.layered) rig_.close();
      if (random_.chance(2)) rig_.upper.drop_tombstones();
      if (random_.chance(2)) ++rig_.upper.era;
    }
    faults(false);
    REQUIRE(rig_.open() == Error::Ok);
    rig_.check_all();
    REQUIRE(rig_.flatten() == Error::Ok);
    rig_.check_all();
    rig_.check_upper();
  }

 private:
  // A history of the volume: the base is what it was at the end of some era.
  void roll_back() {
    const auto era = static_cast<Era>(random_.between(1, 3));
    const auto since = static_cast<Era>(era + random_.between(1, 3));
    rig_.rules = {.self = true, .era = era, .since = since, .read_only = false};
    const std::uint64_t full = rig_.upper.size_bytes();
    const std::uint64_t then = rig_.base.size_bytes();
    for (rig_.upper.era = 1; rig_.upper.era < since; ++rig_.upper.era) {
      const std::uint64_t size = rig_.upper.era <= era ? then : full;
      for (int i = 0; i < 6; ++i) scribble(size);
      if (rig_.upper.era != era) continue;
      std::copy_n(rig_.upper.bytes.begin(), rig_.base.bytes.size(), rig_.base.bytes.begin());
      for (std::uint64_t sector = 0; sector < then / kSectorBytes; ++sector) {
        rig_.may[sector] = {ids_[sector]};
      }
    }
  }
  void scribble(std::uint64_t size) {
    const std::uint64_t sectors = size / kSectorBytes;
    const std::uint64_t first = random_.below(sectors);
    const std::uint64_t count = random_.between(1, std::min<std::uint64_t>(sectors - first, 300));
    const std::uint64_t id = random_.chance(3) ? 0 : ++rig_.last_id;
    ids_.resize(rig_.upper.size_bytes() / kSectorBytes);
    for (std::uint64_t sector = first; sector < first + count; ++sector) {
      ids_[sector] = id;
      fill_sector(rig_.upper.bytes.data() + sector * kSectorBytes, id, sector);
    }
    for (std::uint64_t chunk = first / 128; chunk <= (first + count - 1) / 128; ++chunk) {
      rig_.upper.touch(chunk, false);
    }
  }

  void faults(bool on) {
    on = on && faulty_;
    rig_.upper.refuse_one_in = on ? 30 : 0;
    rig_.upper.error_one_in = rig_.base.error_one_in = on ? 15 : 0;
    rig_.base.refuse_one_in = on ? 50 : 0;
  }
  void batch() {
    faults(true);
    fill_batch();
    if (random_.chance(8)) rig_.grow(rig_.upper.size_bytes() + 512 * random_.between(1, 200));
    const bool shrinks = shrink();
    (void)rig_.finish_batch();
    if (shrinks) (void)rig_.finish_shrink();
    faults(false);
    rig_.check_all();
  }
  bool shrink() {
    const std::uint64_t sectors = rig_.upper.size_bytes() / kSectorBytes;
    if (!random_.chance(6) || sectors <= 64) return false;
    rig_.shrink(kSectorBytes * random_.between(32, sectors - 1));
    return true;
  }
  void fill_batch() {
    for (std::uint64_t i = random_.between(1, 8); i > 0; --i) {
      const auto op = static_cast<Op>(random_.below(5));
      if (op == Op::flush) {
        rig_.submit(op, 0, 0);
        continue;
      }
      const std::uint64_t unit = op == Op::read || random_.chance(2) ? 4096 : 512;
      const std::uint64_t units = rig_.upper.size_bytes() / unit;
      std::uint64_t first = random_.below(units);
      std::uint64_t longest = std::min<std::uint64_t>(units - first, 1 << 20);
      if (op == Op::read || op == Op::write) longest = std::min(longest, kMutationBytesMax / unit);
      std::uint64_t count = random_.between(1, longest);
      if (random_.chance(3)) {  // whole chunks
        first = first / (kChunk / unit) * (kChunk / unit);
        const std::uint64_t whole = std::max<std::uint64_t>(count / (kChunk / unit), 1);
        count = std::min({whole * (kChunk / unit), units - first, kMutationBytesMax / unit});
      }
      if (random_.chance(4)) first = units - count;  // to the end
      rig_.submit(op, first * unit, count * unit, random_.chance(4));
    }
  }
  void flatten() {
    faults(true);
    std::optional<Error> flat;
    rig_.layered->flatten(random_.between(1 << 20, 1 << 30), [&](Error error) { flat = error; });
    while (!flat) {
      fill_batch();
      const bool shrinks = shrink();
      (void)rig_.finish_batch();
      if (shrinks) (void)rig_.finish_shrink();
      rig_.world.run_for(random_.below(20'000));
    }
    if (*flat == Error::Ok) {
      CHECK(rig_.layered->chunks_of_base() == 0);
      rig_.check_upper();
    }
  }
  void close_amidst() {
    faults(true);
    fill_batch();
    std::optional<Error> flat;
    rig_.layered->flatten(1 << 20, [&](Error error) { flat = error; });
    const bool shrinks = shrink();
    rig_.world.run_for(random_.below(500));
    rig_.close();
    CHECK(flat.has_value());
    (void)rig_.finish_batch();
    if (shrinks) (void)rig_.finish_shrink();
  }

  Random random_;
  Rig rig_;
  bool faulty_;
  std::vector<std::uint64_t> ids_;  // while there is no base yet
};

TEST_CASE("random requests, failures and restarts") {
  const std::uint64_t one = from_environment("BLOCKD_SEED", 0);
  const std::uint64_t count = from_environment("BLOCKD_SEEDS", 300);
  for (std::uint64_t seed = one ? one : 1; seed <= (one ? one : count); ++seed) {
    CAPTURE(seed);
    RandomRun(seed).run();
  }
}

}  // namespace
}  // namespace blockd::engine
