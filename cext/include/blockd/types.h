// Plain values shared by every room and by the Cython border.
#pragma once

#include <array>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>

namespace blockd {

inline constexpr std::uint32_t kBlockBytes = 4096;       // the unit of checksumming and atomicity
inline constexpr std::uint32_t kChunkBytes = 64 * 1024;  // the unit of allocation and of resync
inline constexpr std::uint32_t kBlocksPerChunk = kChunkBytes / kBlockBytes;
inline constexpr std::uint64_t kSegmentBytes = 1ull << 30;  // the unit of placement
inline constexpr std::uint32_t kChunksPerSegment =
    static_cast<std::uint32_t>(kSegmentBytes / kChunkBytes);
// One engine mutation: one contiguous buffer of at most this.
inline constexpr std::uint32_t kMutationBytesMax = 256 * 1024;

// RFC 4122 bytes, in text order.
struct Uuid {
  std::array<std::uint8_t, 16> bytes{};
  auto operator<=>(const Uuid&) const = default;
};

// The version of a mutation: the attachment's epoch, then a sequence that grows within the epoch,
// for each segment (docs/REPLICATION.md). Ordered lexicographically; {0,0} is "never written".
struct Version {
  std::uint64_t epoch = 0;
  std::uint64_t seq = 0;
  auto operator<=>(const Version&) const = default;
};

// Counts a volume's snapshots (docs/SNAPSHOTS.md): snapshot e is the volume as it was at the end of
// era e. 0: before the first, or "the current state" where an era is asked for.
using Era = std::uint32_t;

struct SegmentId {
  Uuid volume;
  std::uint32_t index =
      0;  // segment i covers volume bytes [i * kSegmentBytes, (i+1) * kSegmentBytes)
  auto operator<=>(const SegmentId&) const = default;
};

}  // namespace blockd

template <>
struct std::hash<blockd::Uuid> {
  std::size_t operator()(const blockd::Uuid& id) const noexcept {
    std::uint64_t a = 0, b = 0;
    std::memcpy(&a, id.bytes.data(), 8);
    std::memcpy(&b, id.bytes.data() + 8, 8);
    return static_cast<std::size_t>(a ^ (b * 0x9e3779b97f4a7c15ull));
  }
};
template <>
struct std::hash<blockd::SegmentId> {
  std::size_t operator()(const blockd::SegmentId& id) const noexcept {
    return std::hash<blockd::Uuid>{}(id.volume) ^
           (static_cast<std::size_t>(id.index) * 0x9e3779b97f4a7c15ull);
  }
};
