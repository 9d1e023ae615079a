// A bit a chunk, as resyncs keep many of them.
#pragma once

#include <cstdint>
#include <vector>

namespace blockd::engine {

using Bits = std::vector<std::uint64_t>;

[[nodiscard]] inline bool test(const Bits& bits, std::uint32_t i) noexcept {
  return ((bits[i / 64] >> (i % 64)) & 1) != 0;
}
inline void set(Bits& bits, std::uint32_t i) noexcept {
  bits[i / 64] |= std::uint64_t{1} << (i % 64);
}
inline void clear(Bits& bits, std::uint32_t i) noexcept {
  bits[i / 64] &= ~(std::uint64_t{1} << (i % 64));
}

}  // namespace blockd::engine
