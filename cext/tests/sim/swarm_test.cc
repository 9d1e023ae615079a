// Lives of clusters under everything we can think of. BLOCKD_SEEDS scales their number, BLOCKD_SEED
// lives one again and prints it.
#include "sim/swarm.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <map>

namespace blockd::sim {
namespace {

std::uint64_t from_environment(const char* name, std::uint64_t otherwise) {
  const char* text = std::getenv(name);
  return text ? std::strtoull(text, nullptr, 10) : otherwise;
}

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

TEST_CASE("a swarm of lives keeps its promises") {
  const std::uint64_t only = from_environment("BLOCKD_SEED", 0);
  const std::uint64_t lives =
      only ? 1 : std::max<std::uint64_t>(1, 150 * from_environment("BLOCKD_SEEDS", 100) / 100);
  const auto started = std::chrono::steady_clock::now();
  std::map<std::string, std::uint64_t> reached;
  std::uint64_t applied[kFaultKinds] = {};
  std::uint64_t simulated_us = 0, answered = 0;
  for (std::uint64_t i = 0; i < lives; ++i) {
    const std::uint64_t seed = only ? only : 1 + i;
    CAPTURE(seed);
    const SwarmPlan plan = draw_plan(seed);
    const SwarmResult result = live(plan);
    const std::string wrong = result.wrong.empty() ? "" : report(plan, result);
    REQUIRE_MESSAGE(wrong.empty(), "seed " << seed << ": " << wrong);
    simulated_us += result.simulated_us;
    answered += result.answered;
    for (const auto& [kind, count] : result.reached) reached[kind] += count;
    for (std::size_t kind = 0; kind < kFaultKinds; ++kind) applied[kind] += result.applied[kind];
  }
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - started;
  std::printf(
      "swarm: %llu lives, %.2f simulated hours (%.0f simulated s a second), %llu requests\n",
      static_cast<unsigned long long>(lives), static_cast<double>(simulated_us) / 3.6e9,
      static_cast<double>(simulated_us) / 1e6 / took.count(),
      static_cast<unsigned long long>(answered));
  for (std::size_t kind = 0; kind < kFaultKinds; ++kind) {
    std::printf("  %s %llu", fault_name(static_cast<FaultKind>(kind)),
                static_cast<unsigned long long>(applied[kind]));
  }
  std::printf("\n");
  for (const auto& [kind, count] : reached)
    std::printf("  %s %llu", kind.c_str(), static_cast<unsigned long long>(count));
  std::printf("\n");
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
