#include "store/inspection.h"

#include <cstring>
#include <type_traits>

#include "base/assert.h"
#include "store/soundness.h"

namespace blockd::store {

// Recovery reads with the blocking forms only.
void ReadOnlyDisk::submit(io::DiskRequest&) noexcept {
  BLOCKD_ASSERT(false);
}

Inspection::Inspection(io::Disk& disk, const format::Superblock& superblock)
    : disk_(disk),
      superblock_(superblock),
      device_(disk_),
      metadata_(device_, superblock_, 0),
      staged_(static_cast<std::uint32_t>(superblock_.journal_bytes / kBlockBytes)),
      journal_(device_, superblock_, *this),
      recovery_(device_, superblock_, journal_, metadata_, staged_) {}

void Inspection::replay() {
  recovery_.replay_in_memory(Recovery::Index::later);
}

const std::byte* Inspection::staged(std::uint32_t slot, std::uint32_t block) noexcept {
  const StagedChunk* chunk = staged_.find(slot);
  if (!chunk || !(chunk->mask >> block & 1)) return nullptr;
  return journal_.mirror().data() + std::size_t{chunk->journal_block[block]} * kBlockBytes;
}

bool read_block(io::Disk& disk, std::uint64_t offset, void* into) noexcept {
  alignas(kBlockBytes) std::byte aligned[kBlockBytes];
  if (disk.read_now(offset, aligned) != Error::Ok) return false;
  std::memcpy(into, aligned, kBlockBytes);
  return true;
}

void write_block_flushed(io::Disk& disk, std::uint64_t offset, const void* from) {
  alignas(kBlockBytes) std::byte aligned[kBlockBytes];
  std::memcpy(aligned, from, kBlockBytes);
  if (disk.write_now(offset, aligned) != Error::Ok || disk.flush_now() != Error::Ok) {
    throw Fault(Error::DiskError,
                "the device fails to write at byte " + std::to_string(offset) + ": replace it");
  }
}

BlockCopy<format::Superblock> superblock_copy(io::Disk& disk, std::uint32_t copy) {
  BlockCopy<format::Superblock> found;
  found.device_offset =
      (static_cast<std::uint64_t>(format::FixedBlock::superblock_a) + copy) * kBlockBytes;
  found.readable = read_block(disk, found.device_offset, &found.block);
  found.sound = found.readable && found.block.magic == format::kSuperblockMagic &&
                format::checksum_matches(found.block);
  return found;
}

BlockCopy<format::CheckpointRecord> record_copy(io::Disk& disk,
                                                const format::Superblock& superblock,
                                                std::uint32_t copy) {
  BlockCopy<format::CheckpointRecord> found;
  found.device_offset =
      (static_cast<std::uint64_t>(format::FixedBlock::checkpoint_a) + copy) * kBlockBytes;
  found.readable = read_block(disk, found.device_offset, &found.block);
  found.sound = found.readable && is_sound(found.block, copy, superblock);
  return found;
}

template <class PageType>
BlockCopy<PageType> page_copy(io::Disk& disk, const format::Superblock& superblock,
                              std::uint32_t number, std::uint32_t copy) {
  constexpr bool kSegments = std::is_same_v<PageType, format::SegmentPage>;
  const std::uint64_t region =
      kSegments ? superblock.segment_pages_offset : superblock.slot_pages_offset;
  const std::uint32_t count =
      kSegments ? superblock.segment_page_count : superblock.slot_page_count;
  BlockCopy<PageType> found;
  found.device_offset = region + (std::uint64_t{copy} * count + number) * kBlockBytes;
  found.readable = read_block(disk, found.device_offset, &found.block);
  found.sound =
      found.readable &&
      is_sound(found.block, kSegments ? format::PageKind::segments : format::PageKind::slots,
               number, copy, superblock.store_id);
  return found;
}
template BlockCopy<format::SegmentPage> page_copy(io::Disk&, const format::Superblock&,
                                                  std::uint32_t, std::uint32_t);
template BlockCopy<format::SlotPage> page_copy(io::Disk&, const format::Superblock&, std::uint32_t,
                                               std::uint32_t);

}  // namespace blockd::store
