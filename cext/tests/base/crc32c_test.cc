// CRC-32C: the published vectors, and every kernel against the bitwise definition.
#include "base/crc32c.h"

#include <doctest/doctest.h>

#include <array>
#include <cstring>
#include <vector>

#include "base/random.h"
#include "blockd/types.h"

using namespace blockd;

namespace {

std::uint32_t by_definition(const std::vector<std::byte>& data) {
  std::uint32_t crc = ~0u;
  for (const std::byte byte : data) {
    crc ^= static_cast<std::uint32_t>(byte);
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1) ? 0x82f63b78u : 0);
  }
  return ~crc;
}

std::vector<std::byte> random_bytes(Random& random, std::size_t bytes) {
  std::vector<std::byte> data(bytes);
  random.fill(data);
  return data;
}

}  // namespace

TEST_CASE("the vectors of RFC 3720") {
  CHECK(crc32c("123456789", 9) == 0xe3069283u);
  std::array<std::uint8_t, 32> data{};
  CHECK(crc32c(data.data(), 32) == 0x8a9136aau);
  data.fill(0xff);
  CHECK(crc32c(data.data(), 32) == 0x62a8ab43u);
  for (std::uint8_t i = 0; i < 32; ++i) data[i] = i;
  CHECK(crc32c(data.data(), 32) == 0x46dd794eu);
  for (std::uint8_t i = 0; i < 32; ++i) data[i] = static_cast<std::uint8_t>(31 - i);
  CHECK(crc32c(data.data(), 32) == 0x113fdb5cu);
  CHECK(crc32c(nullptr, 0) == 0);
}

TEST_CASE("all kernels agree with the definition at every length and alignment") {
  Random random(1);
  for (std::size_t bytes = 0; bytes < 600; ++bytes) {
    const auto data = random_bytes(random, bytes);
    REQUIRE(crc32c(data.data(), bytes) == by_definition(data));
    REQUIRE(crc32c_portable(0, data.data(), bytes) == by_definition(data));
  }
  for (const std::size_t bytes : {4079u, 4080u, 4081u, 4096u, 8160u, 12'345u, 65'536u, 262'144u}) {
    const auto data = random_bytes(random, bytes + 7);
    for (std::size_t skew = 0; skew < 8; ++skew) {
      REQUIRE(crc32c(data.data() + skew, bytes) == crc32c_portable(0, data.data() + skew, bytes));
    }
  }
}

TEST_CASE("extending equals doing it at once") {
  Random random(2);
  const auto data = random_bytes(random, 20'000);
  const std::uint32_t whole = crc32c(data.data(), data.size());
  for (int i = 0; i < 200; ++i) {
    const std::size_t cut = random.below(data.size() + 1);
    CHECK(crc32c_extend(crc32c(data.data(), cut), data.data() + cut, data.size() - cut) == whole);
  }
}

TEST_CASE("block checksums find the first damaged block") {
  Random random(3);
  auto data = random_bytes(random, 16 * kBlockBytes);
  std::array<std::uint32_t, 16> crcs{};
  crc32c_blocks(data.data(), crcs);
  CHECK(crc32c_verify(data.data(), crcs) == 16);
  for (const std::size_t block : {15u, 7u, 0u}) {
    data[block * kBlockBytes + random.below(kBlockBytes)] ^= std::byte{1};
    CHECK(crc32c_verify(data.data(), crcs) == block);
  }
  const std::vector<std::byte> zeros(kBlockBytes);
  CHECK(crc32c_zero_block() == by_definition(zeros));
}
