#include "base/crc32c.h"

#include <array>
#include <cstring>

#include "blockd/types.h"

#if defined(__x86_64__)
#include <nmmintrin.h>
#endif

namespace blockd {
namespace {

constexpr std::uint32_t kPolynomial = 0x82f63b78;  // 0x1EDC6F41, bit-reflected

constexpr std::array<std::array<std::uint32_t, 256>, 8> make_tables() {
  std::array<std::array<std::uint32_t, 256>, 8> tables{};
  for (std::uint32_t i = 0; i < 256; ++i) {
    std::uint32_t crc = i;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1) ? kPolynomial : 0);
    tables[0][i] = crc;
  }
  for (std::size_t t = 1; t < 8; ++t) {
    for (std::size_t i = 0; i < 256; ++i) {
      tables[t][i] = (tables[t - 1][i] >> 8) ^ tables[0][tables[t - 1][i] & 0xff];
    }
  }
  return tables;
}
constexpr auto kTables = make_tables();

// A CRC is linear: appending n zero bytes is a fixed 32x32 bit matrix. These tables apply it for
// the stripe lengths that the three-stream kernel uses.
constexpr std::uint32_t shift_one_byte(std::uint32_t crc) {
  return (crc >> 8) ^ kTables[0][crc & 0xff];
}

struct ShiftTable {
  std::array<std::array<std::uint32_t, 256>, 4> t{};
  explicit ShiftTable(std::size_t bytes) {
    std::array<std::uint32_t, 32> row{};
    for (std::uint32_t bit = 0; bit < 32; ++bit) {
      std::uint32_t crc = 1u << bit;
      for (std::size_t i = 0; i < bytes; ++i) crc = shift_one_byte(crc);
      row[bit] = crc;
    }
    for (std::size_t k = 0; k < 4; ++k) {
      for (std::uint32_t v = 0; v < 256; ++v) {
        std::uint32_t crc = 0;
        for (std::uint32_t bit = 0; bit < 8; ++bit) {
          if (v & (1u << bit)) crc ^= row[8 * k + bit];
        }
        t[k][v] = crc;
      }
    }
  }
  [[nodiscard]] std::uint32_t operator()(std::uint32_t crc) const noexcept {
    return t[0][crc & 0xff] ^ t[1][(crc >> 8) & 0xff] ^ t[2][(crc >> 16) & 0xff] ^ t[3][crc >> 24];
  }
};

#if defined(__x86_64__)
constexpr std::size_t kStripeBytes = 1360;  // 3 stripes + 16 bytes = one 4 KiB block

std::uint64_t load64(const unsigned char* p) noexcept {
  std::uint64_t v;
  std::memcpy(&v, p, 8);
  return v;
}

// One stream of the crc32 instruction has latency 3 and throughput 1: three independent stripes
// keep it busy, and the shift tables join their results.
__attribute__((target("sse4.2"))) std::uint32_t crc32c_sse42(std::uint32_t crc, const void* data,
                                                             std::size_t bytes) noexcept {
  static const ShiftTable shift1(kStripeBytes), shift2(2 * kStripeBytes);
  const auto* p = static_cast<const unsigned char*>(data);
  std::uint64_t a = ~crc & 0xffffffffu;
  while (bytes >= 3 * kStripeBytes) {
    std::uint64_t b = 0, c = 0;
    for (std::size_t i = 0; i < kStripeBytes; i += 8) {
      a = _mm_crc32_u64(a, load64(p + i));
      b = _mm_crc32_u64(b, load64(p + kStripeBytes + i));
      c = _mm_crc32_u64(c, load64(p + 2 * kStripeBytes + i));
    }
    a = shift2(static_cast<std::uint32_t>(a)) ^ shift1(static_cast<std::uint32_t>(b)) ^ c;
    p += 3 * kStripeBytes;
    bytes -= 3 * kStripeBytes;
  }
  for (; bytes >= 8; p += 8, bytes -= 8) a = _mm_crc32_u64(a, load64(p));
  for (; bytes > 0; ++p, --bytes) a = _mm_crc32_u8(static_cast<std::uint32_t>(a), *p);
  return ~static_cast<std::uint32_t>(a);
}
#endif

using Kernel = std::uint32_t (*)(std::uint32_t, const void*, std::size_t) noexcept;

Kernel choose_kernel() noexcept {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("sse4.2")) return crc32c_sse42;
#endif
  return crc32c_portable;
}

Kernel kernel() noexcept {
  static const Kernel chosen = choose_kernel();
  return chosen;
}

}  // namespace

std::uint32_t crc32c_portable(std::uint32_t crc, const void* data, std::size_t bytes) noexcept {
  const auto* p = static_cast<const unsigned char*>(data);
  crc = ~crc;
  for (; bytes >= 8; p += 8, bytes -= 8) {
    const std::uint32_t low = crc ^ (std::uint32_t{p[0]} | std::uint32_t{p[1]} << 8 |
                                     std::uint32_t{p[2]} << 16 | std::uint32_t{p[3]} << 24);
    crc = kTables[7][low & 0xff] ^ kTables[6][(low >> 8) & 0xff] ^ kTables[5][(low >> 16) & 0xff] ^
          kTables[4][low >> 24] ^ kTables[3][p[4]] ^ kTables[2][p[5]] ^ kTables[1][p[6]] ^
          kTables[0][p[7]];
  }
  for (; bytes > 0; ++p, --bytes) crc = (crc >> 8) ^ kTables[0][(crc ^ *p) & 0xff];
  return ~crc;
}

std::uint32_t crc32c_extend(std::uint32_t crc, const void* data, std::size_t bytes) noexcept {
  return kernel()(crc, data, bytes);
}

std::uint32_t crc32c(const void* data, std::size_t bytes) noexcept {
  return kernel()(0, data, bytes);
}

void crc32c_blocks(const void* data, std::span<std::uint32_t> crcs) noexcept {
  const auto* p = static_cast<const std::byte*>(data);
  for (std::uint32_t& crc : crcs) {
    crc = crc32c(p, kBlockBytes);
    p += kBlockBytes;
  }
}

std::size_t crc32c_verify(const void* data, std::span<const std::uint32_t> crcs) noexcept {
  const auto* p = static_cast<const std::byte*>(data);
  for (std::size_t i = 0; i < crcs.size(); ++i, p += kBlockBytes) {
    if (crc32c(p, kBlockBytes) != crcs[i]) return i;
  }
  return crcs.size();
}

std::uint32_t crc32c_zero_block() noexcept {
  static const std::uint32_t crc = [] {
    static const std::array<std::byte, kBlockBytes> zeros{};
    return crc32c(zeros.data(), zeros.size());
  }();
  return crc;
}

const char* crc32c_kernel() noexcept {
  return kernel() == crc32c_portable ? "portable" : "sse4.2";
}

}  // namespace blockd
