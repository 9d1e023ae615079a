#include "format/disk.h"

#include <array>
#include <cstring>

#include "base/assert.h"
#include "base/crc32c.h"

namespace blockd::format {

std::uint32_t checksum_of(std::span<const std::byte> block, std::size_t crc_offset) noexcept {
  static constexpr std::array<std::byte, 4> kZeroCrc{};
  BLOCKD_ASSERT(crc_offset + kZeroCrc.size() <= block.size());
  const std::size_t rest = crc_offset + kZeroCrc.size();
  std::uint32_t crc = crc32c(block.data(), crc_offset);
  crc = crc32c_extend(crc, kZeroCrc.data(), kZeroCrc.size());
  return crc32c_extend(crc, block.data() + rest, block.size() - rest);
}

bool all_zero(std::span<const std::byte> bytes) noexcept {
  if (bytes.empty()) return true;
  // The first byte is zero, and every other equals the one before it.
  return bytes[0] == std::byte{0} &&
         std::memcmp(bytes.data(), bytes.data() + 1, bytes.size() - 1) == 0;
}

}  // namespace blockd::format
