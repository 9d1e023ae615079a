// Lives of clusters under everything we can think of. BLOCKD_SEEDS scales their number,
// BLOCKD_SEED_FROM says with which seed they begin, BLOCKD_SECONDS goes on for so long instead,
// BLOCKD_HOURS for so many simulated hours; BLOCKD_SEED lives one again.
#include "sim/swarm.h"

#include <doctest/doctest.h>

#include <array>
#include <chrono>
#include <cstdio>
#include <map>

#include "tests/seeds.h"

namespace blockd::sim {
namespace {

// What failed, and with how little of the schedule it still fails.
std::string report(const SwarmPlan& plan, const SwarmResult& result) {
  const SwarmPlan small = shrink(plan, 200);
  const SwarmResult again = live(small);
  std::string reached;
  for (const auto& [kind, count] : again.reached)
    reached += " " + kind + " " + std::to_string(count);
  return result.wrong + "\n" + describe(plan) + "shrunk: " + again.wrong + "\n" + describe(small) +
         "engines told:" + reached;
}

// What many lives have seen.
struct Tally {
  std::uint64_t lives = 0, simulated_us = 0, answered = 0;
  std::array<std::uint64_t, kFaultKinds> applied{};
  std::map<std::string, std::uint64_t> reached;
  std::chrono::steady_clock::time_point started = std::chrono::steady_clock::now();

  [[nodiscard]] double seconds() const {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count();
  }
  void add(const SwarmResult& result) {
    ++lives;
    simulated_us += result.simulated_us;
    answered += result.answered;
    for (const auto& [kind, count] : result.reached) reached[kind] += count;
    for (std::size_t kind = 0; kind < kFaultKinds; ++kind) applied[kind] += result.applied[kind];
  }
  void print() const {
    const auto simulated_s = static_cast<double>(simulated_us) / 1e6;
    std::printf(
        "swarm: %llu lives, %.2f simulated hours (%.0f simulated s a second), %llu requests\n",
        static_cast<unsigned long long>(lives), simulated_s / 3600, simulated_s / seconds(),
        static_cast<unsigned long long>(answered));
    std::string faults = " ", told = " ";
    for (std::size_t kind = 0; kind < kFaultKinds; ++kind)
      faults += std::string(" ") + fault_name(static_cast<FaultKind>(kind)) + " " +
                std::to_string(applied[kind]);
    for (const auto& [kind, count] : reached) told += " " + kind + " " + std::to_string(count);
    std::printf("%s\n%s\n", faults.c_str(), told.c_str());
  }
};

void live_and_judge(const SwarmPlan& plan, Tally& tally) {
  const std::uint64_t seed = plan.seed;
  CAPTURE(seed);
  const SwarmResult result = live(plan);
  const std::string wrong = result.wrong.empty() ? "" : report(plan, result);
  REQUIRE_MESSAGE(wrong.empty(), "seed " << seed << ": " << wrong);
  tally.add(result);
}

bool goes_on(const Tally& tally) {
  const std::uint64_t seconds = from_environment("BLOCKD_SECONDS", 0);
  const std::uint64_t hours = from_environment("BLOCKD_HOURS", 0);
  if (seconds) return tally.seconds() < static_cast<double>(seconds);
  if (hours) return tally.simulated_us < hours * 3'600'000'000;
  return tally.lives < from_environment("BLOCKD_SEEDS", 100);
}

TEST_CASE("a swarm of lives keeps its promises") {
  Tally tally;
  if (const std::uint64_t only = from_environment("BLOCKD_SEED", 0)) {
    live_and_judge(draw_plan(only), tally);
  } else {
    const std::uint64_t from = from_environment("BLOCKD_SEED_FROM", 1);
    for (std::uint64_t seed = from; goes_on(tally); ++seed) live_and_judge(draw_plan(seed), tally);
  }
  tally.print();
}

// Each has failed once: an opening and a resync that damage held up for ever, a resync that tried
// without a pause, damage that was copied as sound; flushes that said nothing of a loss, replicas
// compared while one was behind or stood still, a past that was forgotten by a copy that came to
// nothing, what an engine had lost taken for history by the next one.
TEST_CASE("lives that once failed") {
  Tally tally;
  for (const std::uint64_t seed : {22, 33, 143}) live_and_judge(draw_first_plan(seed), tally);
  for (const std::uint64_t seed : {11000112, 31000494, 41000865, 7000138, 51000276, 770195, 100378})
    live_and_judge(draw_plan(seed), tally);
}

TEST_CASE("a life is the same each time it is lived") {
  for (const std::uint64_t seed : {3, 4, 5}) {
    const SwarmResult one = live(draw_plan(seed)), other = live(draw_plan(seed));
    CHECK(one.simulated_us == other.simulated_us);
    CHECK(one.answered == other.answered);
    CHECK(one.reached == other.reached);
  }
}

}  // namespace
}  // namespace blockd::sim
