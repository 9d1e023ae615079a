// A small seeded generator (xoshiro256**, seeded through splitmix64): the same seed gives the same
// numbers on every machine. For simulation, jitter and identifiers; not for secrets.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

#include "base/assert.h"

namespace blockd {

class Random {
 public:
  explicit Random(std::uint64_t seed) noexcept {
    for (std::uint64_t& word : state_) word = splitmix(seed);
  }

  [[nodiscard]] std::uint64_t next() noexcept {
    const std::uint64_t result = rotate_left(state_[1] * 5, 7) * 9;
    const std::uint64_t shifted = state_[1] << 17;
    state_[2] ^= state_[0];
    state_[3] ^= state_[1];
    state_[1] ^= state_[2];
    state_[0] ^= state_[3];
    state_[2] ^= shifted;
    state_[3] = rotate_left(state_[3], 45);
    return result;
  }

  // Uniform in [0, bound), bound > 0. The bias of the modulo is below bound / 2^64.
  [[nodiscard]] std::uint64_t below(std::uint64_t bound) noexcept {
    BLOCKD_ASSERT(bound > 0);
    return next() % bound;
  }
  // Uniform in [low, high].
  [[nodiscard]] std::uint64_t between(std::uint64_t low, std::uint64_t high) noexcept {
    BLOCKD_ASSERT(low <= high);
    return low + below(high - low + 1);
  }
  // True once in `one_in` draws on average; never when it is 0.
  [[nodiscard]] bool chance(std::uint64_t one_in) noexcept {
    return one_in != 0 && below(one_in) == 0;
  }

  void fill(std::span<std::byte> into) noexcept {
    while (!into.empty()) {
      const std::uint64_t word = next();
      const std::size_t bytes = into.size() < sizeof word ? into.size() : sizeof word;
      std::memcpy(into.data(), &word, bytes);
      into = into.subspan(bytes);
    }
  }

 private:
  static std::uint64_t rotate_left(std::uint64_t value, int bits) noexcept {
    return (value << bits) | (value >> (64 - bits));
  }
  static std::uint64_t splitmix(std::uint64_t& state) noexcept {
    std::uint64_t z = (state += 0x9e3779b97f4a7c15ull);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
  }

  std::array<std::uint64_t, 4> state_{};
};

}  // namespace blockd
