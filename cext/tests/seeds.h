// How tests that draw from seeds are told which: BLOCKD_SEED lives one again, BLOCKD_SEEDS scales
// or sets their number (each test says which).
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>

namespace blockd {

// REQUIRES: what is set is a decimal number.
inline std::uint64_t from_environment(const char* name, std::uint64_t otherwise) {
  const char* const text = std::getenv(name);
  return text ? std::strtoull(text, nullptr, 10) : otherwise;
}

// `count` seeds, of which BLOCKD_SEEDS says how many in a hundred.
template <class Run>
void for_seeds(std::uint64_t count, Run run) {
  const std::uint64_t scale = from_environment("BLOCKD_SEEDS", 100);
  const std::uint64_t only = from_environment("BLOCKD_SEED", 0);
  const std::uint64_t last = only ? only : std::max<std::uint64_t>(1, count * scale / 100);
  for (std::uint64_t seed = only ? only : 1; seed <= last; ++seed) run(seed);
}

}  // namespace blockd
