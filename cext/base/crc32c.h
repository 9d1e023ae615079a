// CRC-32C (Castagnoli, RFC 3720 appendix B.4: polynomial 0x1EDC6F41, reflected, inverted in and
// out).
//
// The fastest kernel the processor offers is chosen once, at first use: three interleaved SSE4.2
// streams, else a table. crc32c("123456789") == 0xE3069283.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace blockd {

[[nodiscard]] std::uint32_t crc32c(const void* data, std::size_t bytes) noexcept;
// Continues `crc`, a value returned before, over further bytes.
[[nodiscard]] std::uint32_t crc32c_extend(std::uint32_t crc, const void* data,
                                          std::size_t bytes) noexcept;
[[nodiscard]] std::uint32_t crc32c_portable(std::uint32_t crc, const void* data,
                                            std::size_t bytes) noexcept;
// One CRC for each 4 KiB block; `data` holds crcs.size() blocks.
void crc32c_blocks(const void* data, std::span<std::uint32_t> crcs) noexcept;
// The index of the first block whose CRC differs, or crcs.size() when all match.
[[nodiscard]] std::size_t crc32c_verify(const void* data,
                                        std::span<const std::uint32_t> crcs) noexcept;
[[nodiscard]] std::uint32_t crc32c_zero_block() noexcept;  // of 4096 zero bytes
[[nodiscard]] const char* crc32c_kernel() noexcept;        // "sse4.2" or "portable"

}  // namespace blockd
