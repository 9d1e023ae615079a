// When a copy of a structure that exists twice counts. Shared by those who read the store
// (recovery, metadata) and those who look for damage (the checker, the dump).
#pragma once

#include "format/disk.h"

namespace blockd::store {

[[nodiscard]] inline bool is_sound(const format::CheckpointRecord& record, std::uint64_t copy,
                                   const format::Superblock& superblock) noexcept {
  return record.magic == format::kCheckpointMagic && format::checksum_matches(record) &&
         record.store_id == superblock.store_id && (record.generation & 1) == copy &&
         record.tail_offset < superblock.journal_bytes && record.tail_offset % kBlockBytes == 0;
}

// `number` counts within the kind.
template <class PageType>
[[nodiscard]] bool is_sound(const PageType& page, format::PageKind kind, std::uint32_t number,
                            std::uint64_t copy, const Uuid& store_id) noexcept {
  return page.magic == format::kPageMagic && format::checksum_matches(page) &&
         page.store_id == store_id && page.kind == kind && page.number == number &&
         (page.generation & 1) == copy;
}

}  // namespace blockd::store
