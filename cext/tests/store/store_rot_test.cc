// Bits that flip and sectors that cannot be read, in any structure, after any end of a life.
//
// The store then opens or says StoreDamaged, as the checker foretold. If it opens, each block reads
// as something that was once written there, or with an error; and where that is older than what a
// flush had covered, the checker has said something about it. BLOCKD_SEED, BLOCKD_SEEDS (1500).
#include <doctest/doctest.h>

#include "format/disk.h"
#include "store/checker.h"
#include "tests/seeds.h"
#include "tests/store/store_client.h"

using namespace blockd;
using namespace blockd::store;
using namespace blockd::store::testing;

namespace {

constexpr std::uint32_t kBlocks = 30 * kBlocksPerChunk;

struct RotStats {
  std::uint32_t refused = 0, unreadable_blocks = 0, undone = 0, untouched = 0;
};

class RotRun {
 public:
  explicit RotRun(std::uint64_t seed) : random_(seed), rig_(seed, 6 * kMiB) {
    rig_.format();
    rig_.open();
    rig_.disk.peek(0, {reinterpret_cast<std::byte*>(&layout_), sizeof layout_});
  }

  void run(RotStats& stats) {
    live();
    for (std::uint64_t i = random_.between(1, 3); i > 0; --i) rot();
    CheckReport report;
    try {
      report = check_store(rig_.disk, {.data = true});
    } catch (const Fault&) {  // no superblock can be told for one
      CHECK_THROWS_AS(rig_.open(), Fault);
      ++stats.refused;
      return;
    }
    Error opened = Error::Ok;
    try {
      rig_.open();
    } catch (const Fault& fault) {
      opened = fault.code();
    }
    CHECK((opened == Error::Ok || opened == Error::StoreDamaged || opened == Error::DiskError));
    CHECK(report.opens == (opened == Error::Ok));
    if (opened != Error::Ok) {
      ++stats.refused;
      CHECK(report.problem_count > 0);
      return;
    }
    verify(report, stats);
  }

 private:
  struct Written {  // one block's tags, in order
    std::vector<Tag> tags{kHole};
    std::size_t flushed = 0;  // index of the one that a flush had covered last
  };

  void live() {
    Client client(rig_, kBlocks);
    for (std::uint64_t i = random_.between(10, 120); i > 0; --i) {
      const std::uint64_t draw = random_.below(20);
      if (draw == 0) {
        rig_.world.run_for(random_.between(1, 12'000'000));
      } else if (draw < 4) {
        REQUIRE(client.flush() == Error::Ok);
        for (Written& block : written_) block.flushed = block.tags.size() - 1;
      } else {
        mutate(client);
      }
    }
    end();
  }

  void mutate(Client& client) {
    const bool chunks = random_.chance(3);
    const auto count = chunks ? 16u : static_cast<std::uint32_t>(random_.between(1, 24));
    auto first = static_cast<std::uint32_t>(random_.below(kBlocks - count));
    if (chunks) first -= first % 16;
    const bool zero = random_.chance(8);
    const Tag tag = zero ? kHole : next_tag_;
    REQUIRE((zero ? client.zero(first, count) : client.write(first, count, tag)) == Error::Ok);
    for (std::uint32_t i = 0; i < count; ++i)
      written_[first + i].tags.push_back(zero ? kHole : tag + i);
    next_tag_ += count;
  }

  void end() {
    const std::uint64_t draw = random_.below(3);
    if (draw == 0) {
      REQUIRE(rig_.close());
      for (Written& block : written_) block.flushed = block.tags.size() - 1;
    } else if (draw == 1) {
      rig_.kill();
    } else {
      rig_.power_off(io::SimDisk::Crash::random);
    }
  }

  void rot() {
    const std::uint64_t data_end = layout_.data_offset + 40ull * kChunkBytes;  // what is in use
    const std::pair<std::uint64_t, std::uint64_t> regions[] = {
        {0, 2 * kBlockBytes},
        {2 * kBlockBytes, 4 * kBlockBytes},
        {layout_.journal_offset, layout_.journal_offset + layout_.journal_bytes},
        {layout_.segment_pages_offset, layout_.slot_pages_offset},
        {layout_.slot_pages_offset, layout_.data_offset},
        {layout_.data_offset, std::min(data_end, layout_.device_bytes)}};
    const auto& [begin, end] = regions[random_.below(std::size(regions))];
    const std::uint64_t at = random_.between(begin, end - 1);
    if (random_.chance(3)) {
      rig_.disk.fail_reads(at / kBlockBytes * kBlockBytes, kBlockBytes);
    } else {
      rig_.disk.corrupt(at, static_cast<unsigned>(random_.below(8)));
    }
  }

  void verify(const CheckReport& report, RotStats& stats) {
    const bool said = report.problem_count > 0 || !report.notes.empty();
    if (!rig_.store->find_segment(segment_id(0))) {
      CHECK(said);  // its creation was in a batch that is gone
      return;
    }
    Client client(rig_, Client::Existing{});
    std::uint32_t errors = 0, undone = 0;
    for (std::uint32_t block = 0; block < kBlocks; ++block) {
      const CallRef call = client.start_read(block, 1);
      const Error error = client.finish(*call);
      if (error != Error::Ok) {
        CHECK((error == Error::ChecksumMismatch || error == Error::DiskError));
        ++errors;
        continue;
      }
      const std::vector<Tag>& tags = written_[block].tags;
      const auto found = std::find(tags.rbegin(), tags.rend(), call->tags()[0]);
      CHECK(found != tags.rend());  // never bytes that nobody wrote there
      const auto index = static_cast<std::size_t>(tags.rend() - found) - 1;
      undone += index < written_[block].flushed;
    }
    if (errors > 0) CHECK(report.problem_count > 0);
    if (undone > 0) CHECK(said);
    CHECK(rig_.store->check().empty());
    stats.unreadable_blocks += errors;
    stats.undone += undone > 0;
    stats.untouched += errors == 0 && undone == 0;
  }

  Random random_;
  Rig rig_;
  format::Superblock layout_;
  std::vector<Written> written_ = std::vector<Written>(kBlocks);
  Tag next_tag_ = 1;
};

}  // namespace

TEST_CASE("rot in any structure is refused, an error or harmless, and the checker knows") {
  const std::uint64_t first = from_environment("BLOCKD_SEED", 1);
  const std::uint64_t count = from_environment("BLOCKD_SEEDS", 1500);
  RotStats stats;
  for (std::uint64_t seed = first; seed < first + count; ++seed) {
    INFO("reproduce with BLOCKD_SEED=" << seed << " BLOCKD_SEEDS=1");
    RotRun(seed).run(stats);
  }
  MESSAGE(count << " stores: " << stats.refused << " refused, " << stats.untouched << " whole, "
                << stats.unreadable_blocks << " blocks with errors, " << stats.undone
                << " with a flush undone");
}
