// What travels between hosts: the peer protocol's structs, little-endian, nothing else.
//
// Written down byte by byte in docs/FORMATS_WIRE.md; golden bytes in cext/tests/peer/wire_test.cc.
// Numbers here are for ever: a retired one stays a gap.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>

#include "blockd/types.h"

namespace blockd::format {

static_assert(std::endian::native == std::endian::little, "the wire structs are used in place");

inline constexpr std::uint64_t kWireMagic = 0x3152454550444b42ull;  // "BKDPEER1"
// The versions that this code speaks; each link uses the highest that both its ends do.
inline constexpr std::uint16_t kWireVersionMin = 2;
inline constexpr std::uint16_t kWireVersionMax = 3;
inline constexpr std::uint32_t kWireBlocksMax = kMutationBytesMax / kBlockBytes;

// The first 64 bytes in each direction.
struct Hello {
  std::uint32_t crc32c = 0;                 // over bytes [4, 64)
  std::uint32_t version = kWireVersionMin;  // the lowest that the sender speaks
  std::uint64_t magic = kWireMagic;
  Uuid cluster_id;
  Uuid host_id;                   // of the sender
  std::uint16_t error = 0;        // in the answer: why the link is refused
  std::uint16_t version_max = 0;  // the highest that the sender speaks; 0: `version` alone
  std::uint8_t reserved[12] = {};
};
static_assert(sizeof(Hello) == 64 && offsetof(Hello, magic) == 8 &&
              offsetof(Hello, cluster_id) == 16 && offsetof(Hello, host_id) == 32 &&
              offsetof(Hello, error) == 48 && offsetof(Hello, version_max) == 50);

enum class FrameType : std::uint8_t {
  open = 1,
  list = 2,
  read = 3,
  read_chunk = 4,
  write = 5,
  zero = 6,
  replace = 7,
  flush = 8,
  stable = 9,
  heartbeat = 10,
  release = 11,
  forget = 12,
  states = 13,
  read_view = 14,
  list_view = 15,
  root = 16,     // from version 3 on
  digests = 17,  // likewise
};
inline constexpr std::uint16_t kWireVersionRoot = 3;
inline constexpr std::uint8_t kFrameReply = 0x80;  // or-ed to the type of the request

inline constexpr std::uint8_t kFlagFua = 0x01;        // write, zero: durable before the answer
inline constexpr std::uint8_t kFlagMayCreate = 0x02;  // open: an unknown replica may be made, empty
inline constexpr std::uint8_t kFlagCovers = 0x04;     // write, zero, replace; reply to read_chunk
inline constexpr std::uint8_t kFlagsKnown = kFlagFua | kFlagMayCreate | kFlagCovers;

// Before every frame's payload.
struct FrameHeader {
  std::uint32_t crc32c = 0;  // over bytes [4, 72)
  std::uint8_t type = 0;
  std::uint8_t flags = 0;
  std::uint16_t error = 0;       // replies
  std::uint32_t request_id = 0;  // echoed
  std::uint32_t handle = 0;      // of an opened replica
  std::uint32_t payload_bytes = 0;
  std::uint16_t valid_mask = 0;  // replace; reply to read_chunk
  std::uint16_t reserved = 0;
  std::uint64_t epoch = 0;  // with seq: the version of a mutation; open, heartbeat, release: the
                            // epoch; reply to root: the root's halves, the lower one first
  std::uint64_t seq = 0;
  std::uint32_t first_block = 0;  // in the segment; list: a chunk
  std::uint32_t block_count = 0;
  std::uint64_t mark_epoch = 0;  // requests: the stable mark; replies to open: the replica's own
  std::uint64_t mark_seq =
      0;  // replies to heartbeat, open: microseconds in mark_epoch (lease, wait)
  // Of a mutation: the volume's; replace, reply to read_chunk: in which the content was born; read
  // requests: of which era, 0 the current state; reply to open: the newest that the replica met.
  std::uint32_t era = 0;
  std::uint32_t died = 0;  // replace, reply to read_chunk; 0: the current content
};
static_assert(sizeof(FrameHeader) == 72 && offsetof(FrameHeader, request_id) == 8 &&
              offsetof(FrameHeader, payload_bytes) == 16 && offsetof(FrameHeader, epoch) == 24 &&
              offsetof(FrameHeader, first_block) == 40 && offsetof(FrameHeader, mark_epoch) == 48 &&
              offsetof(FrameHeader, era) == 64);

// Payload of open, read_view, list_view.
struct OpenBody {
  Uuid volume;
  Uuid store;
  std::uint32_t segment = 0;
  std::uint32_t block_count = 0;  // open
  std::uint64_t reserved = 0;
};
static_assert(sizeof(OpenBody) == 48);

// Payload of heartbeat and release.
struct VolumeBody {
  Uuid volume;
};
static_assert(sizeof(VolumeBody) == 16);

inline constexpr std::uint16_t kEntryCovers = 0x01;  // states: the content covers a base
// list: the chunk has a past content above the asked version; its current one may be older.
inline constexpr std::uint16_t kEntryPast = 0x02;

// Payload of the reply to list, states, list_view and digests: an array of these.
struct ChunkEntry {
  std::uint32_t chunk = 0;
  std::uint32_t born = 0;
  std::uint64_t epoch = 0;
  std::uint64_t seq = 0;
  std::uint32_t died = 0;  // states: 0 is the current content; digests: the chunk's digest
  std::uint16_t valid_mask = 0;
  std::uint16_t flags = 0;
};
static_assert(sizeof(ChunkEntry) == 32 && offsetof(ChunkEntry, died) == 24);

inline constexpr std::uint32_t kListEntriesMax = kChunkBytes / sizeof(ChunkEntry);
// write, replace and the replies to read, read_view, read_chunk: one u32 CRC-32C a block, then the
// blocks.
inline constexpr std::uint32_t kPayloadBytesMax = kWireBlocksMax * (kBlockBytes + 4);

}  // namespace blockd::format
