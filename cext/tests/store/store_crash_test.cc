// The store's promises S1 to S5 under crashes at any moment, from seeds.
//
// BLOCKD_SEED: the first seed (1). BLOCKD_SEEDS: how many (1000, some 5,300 crashes).
// BLOCKD_CRASHES: instead, as many seeds as it takes to crash that often. BLOCKD_SEED=n
// BLOCKD_SEEDS=1 repeats the one that a failure names.
#include <doctest/doctest.h>

#include "tests/seeds.h"
#include "tests/store/crash_run.h"

using namespace blockd;
using namespace blockd::store::testing;

namespace {

constexpr std::uint32_t kLivesPerSeed = 6;

void check_seed(std::uint64_t seed, CrashStats& stats) {
  INFO("reproduce with BLOCKD_SEED=" << seed << " BLOCKD_SEEDS=1");
  CrashRun run(seed, stats);
  const std::string failure = run.run(kLivesPerSeed);
  CHECK(failure == "");
}

}  // namespace

TEST_CASE("whatever a crash leaves is a state the store was given, and nothing flushed is lost") {
  const std::uint64_t first = from_environment("BLOCKD_SEED", 1);
  const std::uint64_t count = from_environment("BLOCKD_SEEDS", 1000);
  const std::uint64_t crashes = from_environment("BLOCKD_CRASHES", 0);
  CrashStats stats;
  const auto enough = [&](std::uint64_t seeds) {
    if (crashes == 0) return seeds >= count;
    return stats.power_losses + stats.kills + stats.dead_recoveries >= crashes;
  };
  for (std::uint64_t seeds = 0; !enough(seeds); ++seeds) check_seed(first + seeds, stats);
  MESSAGE(stats.lives << " lives: " << stats.power_losses << " power losses, " << stats.kills
                      << " kills, " << stats.closes << " closes, " << stats.dead_recoveries
                      << " deaths in recovery; " << stats.operations << " operations, "
                      << stats.no_space << " without space, " << stats.checkpoints
                      << " checkpoints, " << stats.replayed_batches << " batches replayed; "
                      << stats.snapshots << " snapshots, " << stats.shown_chunks
                      << " chunks compared, " << stats.past_slots << " past slots");
}

// Slot pages of one chunk's past, or of one long zero, that drove each other out of a tiny cache.
TEST_CASE("seeds that once never finished") {
  CrashStats stats;
  check_seed(1223, stats);
  check_seed(1478, stats);
}

// Tombstones that wait for room in the journal when a store is closed.
TEST_CASE("a seed that once left batches to replay after an orderly end") {
  CrashStats stats;
  check_seed(20367, stats);
}

// A batch that recovery had dropped, whole again when the one written over it was torn.
TEST_CASE("a seed that once brought back what a crash had taken") {
  CrashStats stats;
  check_seed(363790790, stats);
}
