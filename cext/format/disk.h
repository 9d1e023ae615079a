// Every structure a store keeps on its device, byte by byte. Described in docs/FORMATS.md, "Store".
//
// All integers little-endian. Reserved bytes are zero when written; `blockd store check` reports
// others, opening a store ignores them: a later version may use them under a compatible feature.
// Each structure's CRC-32C is computed with its own crc field zero, and covers the structure's
// identity (store id, kind, number), so that a block written to the wrong place is never taken for
// another.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>

#include "blockd/types.h"

namespace blockd::format {

static_assert(std::endian::native == std::endian::little,
              "structs are written as they lie in memory");

inline constexpr std::uint64_t kSuperblockMagic = 0x45524f5453444b42;  // "BKDSTORE"
inline constexpr std::uint32_t kCheckpointMagic = 0x50434b42;          // "BKCP"
inline constexpr std::uint32_t kPageMagic = 0x47504b42;                // "BKPG"
inline constexpr std::uint32_t kBatchMagic = 0x4c4a4b42;               // "BKJL"
inline constexpr std::uint32_t kStoreVersion = 3;
inline constexpr std::uint32_t kStoreVersionMin = 2;  // the oldest that is opened, and brought up

// Where the fixed structures lie, in blocks of 4 KiB from the start of the device.
enum class FixedBlock : std::uint64_t {
  superblock_a = 0,
  superblock_b = 1,
  checkpoint_a = 2,
  checkpoint_b = 3,
  journal = 16
};

// What qualification found before the device held data, for people to look up later; nothing is
// decided by it. In a superblock when its compatible feature says so. 0 in a figure: not measured.
struct DeviceFindings {
  enum Flag : std::uint32_t {
    rotational_told = 1u << 0,  // each of these: whether the kernel tells, and then what it tells
    rotational = 1u << 1,
    cache_told = 1u << 2,
    volatile_cache = 1u << 3,
    fua_told = 1u << 4,
    fua = 1u << 5,
    discard_zeroes = 1u << 6  // tried: discarded space reads as zeros
  };
  std::uint64_t probed_unix_s = 0;           // 0: never
  std::uint32_t direct_alignment_bytes = 0;  // smallest O_DIRECT transfer that works
  std::uint32_t logical_block_bytes = 0;     // this and the next three as the kernel tells
  std::uint32_t physical_block_bytes = 0;
  std::uint32_t atomic_write_bytes = 0;
  std::uint32_t discard_granularity_bytes = 0;
  std::uint32_t flags = 0;
  std::uint32_t write_us = 0;        // median of a 4 KiB write, one at a time
  std::uint32_t flush_us = 0;        // of the flush after it
  std::uint32_t dsync_write_us = 0;  // of one that is durable when it is done
  std::uint32_t write_mib_s = 0;     // in order
  std::uint32_t read_mib_s = 0;
  std::uint32_t write_iops = 0;  // 4 KiB, at random, several at a time
  std::uint32_t flushed_write_iops = 0;
  std::uint32_t reserved = 0;
};
static_assert(sizeof(DeviceFindings) == 64 && offsetof(DeviceFindings, flags) == 28);

enum CompatibleFeature : std::uint64_t {
  has_device_findings = 1u << 0,
  power_loss_protected = 1u << 1  // a write that is done survives power loss: flushes are left out
};

struct Superblock {
  std::uint64_t magic = kSuperblockMagic;
  std::uint32_t version = kStoreVersion;
  std::uint32_t crc = 0;
  Uuid store_id;
  Uuid cluster_id;
  std::uint64_t device_bytes = 0;
  std::uint32_t block_bytes = kBlockBytes;
  std::uint32_t chunk_bytes = kChunkBytes;
  std::uint64_t journal_offset = 0;
  std::uint64_t journal_bytes = 0;
  std::uint64_t segment_pages_offset = 0;  // copy A of every page, then copy B of every page
  std::uint64_t slot_pages_offset = 0;     // likewise
  std::uint64_t data_offset = 0;
  std::uint32_t segment_page_count = 0;
  std::uint32_t slot_page_count = 0;
  std::uint32_t slot_count = 0;
  std::uint32_t reserved0 = 0;
  std::uint64_t incompatible_features = 0;  // unknown bits: refuse to open
  std::uint64_t compatible_features = 0;    // unknown bits: ignore
  DeviceFindings findings;                  // has_device_findings
  std::byte reserved[kBlockBytes - 200] = {};
};
static_assert(sizeof(Superblock) == kBlockBytes &&
              offsetof(Superblock, incompatible_features) == 120 &&
              offsetof(Superblock, findings) == 136);

// Written alternately to two places; the valid one with the higher generation counts.
struct CheckpointRecord {
  std::uint32_t magic = kCheckpointMagic;
  std::uint32_t crc = 0;
  Uuid store_id;
  std::uint64_t generation = 0;   // generation & 1 is the copy it is written to
  std::uint64_t tail_lsn = 1;     // replay starts with this batch
  std::uint64_t tail_offset = 0;  // from the start of the journal
  std::uint64_t incarnation = 0;  // batches from the tail on have this one or a higher one
  std::byte reserved[kBlockBytes - 56] = {};
};
static_assert(sizeof(CheckpointRecord) == kBlockBytes &&
              offsetof(CheckpointRecord, tail_offset) == 40);

enum class SlotState : std::uint32_t { free = 0, used = 1 };

struct SlotRecord {
  SlotState state = SlotState::free;
  std::uint32_t segment = 0;  // handle: index in the segment table
  std::uint32_t chunk = 0;    // in the segment
  std::uint16_t valid_mask =
      0;  // bit b: block b of the chunk holds data; 0 on a used slot: a tombstone
  std::uint16_t reserved0 = 0;
  Version version;
  std::uint32_t crcs[kBlocksPerChunk] = {};  // of the blocks, 0 where the mask has no bit
  Era born = 0;                              // of the last mutation
  Era died = 0;             // not 0: a past content, replaced in that era; only snapshots show it
  std::uint32_t flags = 0;  // SlotFlag
  std::byte reserved[20] = {};
};
static_assert(sizeof(SlotRecord) == 128 && offsetof(SlotRecord, version) == 16 &&
              offsetof(SlotRecord, crcs) == 32 && offsetof(SlotRecord, born) == 96);

enum SlotFlag : std::uint32_t {
  covers = 1u << 0  // without any valid block it still hides what the volume's base has there
};

// Of all that a replica holds now (format/root.h).
struct Root {
  std::uint64_t low = 0;
  std::uint64_t high = 0;
  bool operator==(const Root&) const = default;
  Root& operator+=(const Root& term) noexcept {
    low += term.low;
    high += term.high;
    return *this;
  }
  Root& operator-=(const Root& term) noexcept {
    low -= term.low;
    high -= term.high;
    return *this;
  }
};

// dropping: gone for everybody, its slots are being given back one by one.
enum class SegmentState : std::uint32_t { free = 0, used = 1, dropping = 2 };

enum SegmentFlag : std::uint32_t {
  has_root = 1u << 0  // else it was written by a version that kept none
};

struct SegmentRecord {
  SegmentState state = SegmentState::free;
  std::uint32_t index = 0;  // SegmentId
  Uuid volume;
  std::uint32_t block_count = 0;
  std::uint32_t flags = 0;  // SegmentFlag
  std::uint64_t promised_epoch = 0;
  Version stable;
  Root root;
  std::byte reserved[56] = {};
};
static_assert(sizeof(SegmentRecord) == 128 && offsetof(SegmentRecord, stable) == 40 &&
              offsetof(SegmentRecord, root) == 56);

// A page of the slot table or the segment table: kept twice, written alternately.
enum class PageKind : std::uint32_t { segments = 1, slots = 2 };
inline constexpr std::uint32_t kRecordsPerPage = 31;

template <class Record>
struct Page {
  std::uint32_t magic = kPageMagic;
  std::uint32_t crc = 0;
  Uuid store_id;
  PageKind kind = PageKind::slots;
  std::uint32_t number = 0;
  std::uint64_t generation = 0;  // generation & 1 is the copy it is written to; 0: as formatted
  std::byte reserved[24] = {};
  Record records[kRecordsPerPage];
  std::byte reserved1[kBlockBytes - 64 - kRecordsPerPage * 128] = {};
};
using SlotPage = Page<SlotRecord>;
using SegmentPage = Page<SegmentRecord>;
static_assert(sizeof(SlotPage) == kBlockBytes && sizeof(SegmentPage) == kBlockBytes);

// A journal batch: this header block, then payload_blocks blocks. Entries follow the fixed part.
inline constexpr std::uint32_t kBatchFixedBytes = 64;
struct BatchHeader {
  std::uint32_t magic = kBatchMagic;
  std::uint32_t crc = 0;  // over the header block
  Uuid store_id;
  std::uint64_t lsn = 0;          // 1, 2, 3, ... without gaps
  std::uint64_t flushed_lsn = 0;  // batches up to this one were flushed when this one was written
  std::uint16_t entry_count = 0;
  std::uint16_t payload_blocks = 0;
  std::uint32_t entry_bytes = 0;
  std::uint64_t incarnation = 0;  // of the open that wrote it; never falls along the journal
  std::byte reserved[8] = {};
  std::byte entries[kBlockBytes - kBatchFixedBytes] = {};
};
static_assert(sizeof(BatchHeader) == kBlockBytes &&
              offsetof(BatchHeader, entries) == kBatchFixedBytes);

enum class EntryKind : std::uint8_t {
  write = 1,    // blocks [first, first+count) of the chunk in `slot`; their payload is in the batch
  map = 2,      // the whole chunk is in `slot`, written there before this batch; old_slot is freed
  zero = 3,     // the blocks of `mask` become holes
  free = 4,     // the slot is given back
  replace = 5,  // as write, for the blocks of `mask`; all other blocks become holes
  segment = 6,  // record `segment` of the segment table becomes the SegmentRecord that follows
  copy = 7,     // what the chunk held is in `slot` too, written there before this batch: the blocks
                // of `mask`; old_slot, where it was copied from, becomes past
  past = 8,     // the slot's content becomes past, or died in another era than was said before
  root = 9      // the segment's root, in `version`, behind all entries of the batch
};

enum EntryFlag : std::uint8_t {
  keeps_old = 1u << 0,  // old_slot is not freed: it becomes past, in the era `born`
  entry_covers = 1u << 1
};

inline constexpr std::uint32_t kNoSlot = ~std::uint32_t{0};

// Followed by `count` CRCs (write, map, replace, copy) or a SegmentRecord (segment).
struct EntryHeader {
  EntryKind kind = EntryKind::write;
  std::uint8_t first = 0;
  std::uint8_t count = 0;
  std::uint8_t flags = 0;  // EntryFlag
  std::uint32_t segment = 0;
  std::uint32_t chunk = 0;
  std::uint32_t slot = kNoSlot;
  Version version;
  std::uint32_t old_slot = kNoSlot;
  std::uint16_t mask = 0;
  std::uint16_t damaged =
      0;         // copy: blocks whose copy does not match its CRC, as the source did not
  Era born = 0;  // of the slot's content from now on
  Era died = 0;  // replace, past: likewise
};
static_assert(sizeof(EntryHeader) == 48 && offsetof(EntryHeader, version) == 16 &&
              offsetof(EntryHeader, mask) == 36 && offsetof(EntryHeader, born) == 40);
inline constexpr std::uint32_t kEntryBytesMax = sizeof(EntryHeader) + sizeof(SegmentRecord);

template <class Block>
concept ChecksummedBlock = sizeof(Block) == kBlockBytes&& std::is_trivially_copyable_v<Block>;

// Sets block.crc. Pairs with checksum_matches() on the way back.
std::uint32_t checksum_of(std::span<const std::byte> block, std::size_t crc_offset) noexcept;
template <ChecksummedBlock Block>
void seal(Block& block) noexcept {
  block.crc =
      checksum_of({reinterpret_cast<const std::byte*>(&block), sizeof block}, offsetof(Block, crc));
}
template <ChecksummedBlock Block>
[[nodiscard]] bool checksum_matches(const Block& block) noexcept {
  return block.crc == checksum_of({reinterpret_cast<const std::byte*>(&block), sizeof block},
                                  offsetof(Block, crc));
}
[[nodiscard]] bool all_zero(std::span<const std::byte> bytes) noexcept;

}  // namespace blockd::format
