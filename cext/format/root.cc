#include "format/root.h"

#include <array>

#include "base/crc32c.h"

namespace blockd::format {

namespace {

__extension__ using Product = unsigned __int128;

constexpr std::uint32_t kWords = 4 + kBlocksPerChunk / 2;
constexpr std::uint32_t kLaneKeys = kWords + 2;

// The outputs of SplitMix64 (Steele, Lea, Flood, 2014) from state 0.
constexpr std::array<std::uint64_t, std::size_t{2} * kLaneKeys> make_keys() {
  std::array<std::uint64_t, std::size_t{2} * kLaneKeys> keys{};
  std::uint64_t state = 0;
  for (std::uint64_t& key : keys) {
    std::uint64_t z = state += 0x9e3779b97f4a7c15ull;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    key = z ^ (z >> 31);
  }
  return keys;
}
constexpr std::array<std::uint64_t, std::size_t{2}* kLaneKeys> kKeys = make_keys();

std::uint64_t fold(std::uint64_t a, std::uint64_t b) noexcept {
  const Product product = static_cast<Product>(a) * b;
  return static_cast<std::uint64_t>(product) ^ static_cast<std::uint64_t>(product >> 64);
}

std::uint64_t lane(const std::uint64_t* words, const std::uint64_t* keys) noexcept {
  std::uint64_t mixed = 0;
  for (std::uint32_t i = 0; i < kWords; i += 2)
    mixed ^= fold(words[i] ^ keys[i], words[i + 1] ^ keys[i + 1]);
  return fold(mixed ^ keys[kWords], keys[kWords + 1]);
}

}  // namespace

Root root_term(std::uint32_t chunk, Version version, Era born, std::uint16_t valid_mask,
               const std::uint32_t* crcs) noexcept {
  if (valid_mask == 0) return {};
  const std::uint32_t hole = crc32c_zero_block();
  std::uint64_t words[kWords] = {chunk, born, version.epoch, version.seq};
  for (std::uint32_t block = 0; block < kBlocksPerChunk; ++block) {
    const std::uint64_t crc = valid_mask >> block & 1 ? crcs[block] : hole;
    words[4 + block / 2] |= crc << (block % 2 * 32);
  }
  return {lane(words, kKeys.data()), lane(words, kKeys.data() + kLaneKeys)};
}

Root root_term(const SlotRecord& record) noexcept {
  if (record.state != SlotState::used || record.died != 0) return {};
  return root_term(record.chunk, record.version, record.born, record.valid_mask, record.crcs);
}

}  // namespace blockd::format
