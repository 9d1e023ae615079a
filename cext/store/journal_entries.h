// The entries of a journal batch: how long each is, whether it contradicts itself, one after
// another. Used by whatever reads a journal: recovery, the checker, the dump. Format:
// docs/FORMATS.md.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>

#include "format/disk.h"

namespace blockd::store {

using format::BatchHeader;
using format::EntryHeader;
using format::EntryKind;

inline std::uint32_t extra_bytes(const EntryHeader& entry) noexcept {
  switch (entry.kind) {
    case EntryKind::write:
    case EntryKind::map:
    case EntryKind::replace:
    case EntryKind::copy:
      return entry.count * 4u;
    case EntryKind::segment:
      return sizeof(format::SegmentRecord);
    case EntryKind::zero:
    case EntryKind::free:
    case EntryKind::past:
    case EntryKind::root:
      break;
  }
  return 0;
}

inline std::uint32_t payload_blocks(const EntryHeader& entry) noexcept {
  return entry.kind == EntryKind::write || entry.kind == EntryKind::replace ? entry.count : 0;
}

// Of a segment, not of a slot.
inline bool of_segment(const EntryHeader& entry) noexcept {
  return entry.kind == EntryKind::segment || entry.kind == EntryKind::root;
}

// What the entry says of itself: how many blocks, which, and that there is a CRC for each.
inline bool is_sane(const EntryHeader& entry) noexcept {
  const std::uint32_t count = entry.count;
  switch (entry.kind) {
    case EntryKind::write:
      return count > 0 && entry.first + count <= kBlocksPerChunk;
    case EntryKind::map:
    case EntryKind::copy:
      return entry.first == 0 && count == kBlocksPerChunk;
    case EntryKind::replace:
      return entry.first == 0 && count == static_cast<std::uint32_t>(std::popcount(entry.mask));
    case EntryKind::zero:
    case EntryKind::free:
      return entry.first == 0 && count == 0;
    case EntryKind::past:
      return entry.first == 0 && count == 0 && entry.died != 0;
    case EntryKind::segment:
    case EntryKind::root:
      break;
  }
  return false;
}

inline bool is_sane(const format::SegmentRecord& record) noexcept {
  if (record.state == format::SegmentState::free) return true;
  const bool known =
      record.state == format::SegmentState::used || record.state == format::SegmentState::dropping;
  return known && record.block_count > 0 && record.block_count <= kSegmentBytes / kBlockBytes;
}

// Calls use(entry, extra) for each entry; false when the entries do not parse.
template <class Use>
bool for_each_entry(const BatchHeader& header, Use use) {
  std::uint32_t at = 0;
  for (std::uint32_t i = 0; i < header.entry_count; ++i) {
    EntryHeader entry;
    if (at + sizeof entry > header.entry_bytes) return false;
    std::memcpy(static_cast<void*>(&entry), header.entries + at, sizeof entry);
    at += sizeof entry;
    const std::uint32_t extra = extra_bytes(entry);
    if (at + extra > header.entry_bytes) return false;
    use(entry, header.entries + at);
    at += extra;
  }
  return at == header.entry_bytes;
}

}  // namespace blockd::store
