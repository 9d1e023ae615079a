// A store as its device holds it, for who looks without opening it: nothing is ever written.
//
// The journal is replayed in memory by the same code that opens a store; writes and flushes of that
// code end here. REQUIRES: nobody else has the store open. Blocking, for any thread.
#pragma once

#include <optional>

#include "store/device.h"
#include "store/journal.h"
#include "store/metadata.h"
#include "store/recovery.h"
#include "store/staged_blocks.h"

namespace blockd::store {

// Reads go through; writes and flushes do nothing, and say that they were done.
class ReadOnlyDisk final : public io::Disk {
 public:
  explicit ReadOnlyDisk(io::Disk& disk) noexcept : disk_(disk) {}
  void submit(io::DiskRequest& request) noexcept override;
  [[nodiscard]] std::uint64_t capacity_bytes() const noexcept override {
    return disk_.capacity_bytes();
  }
  [[nodiscard]] Error read_now(std::uint64_t offset, std::span<std::byte> into) noexcept override {
    return disk_.read_now(offset, into);
  }
  [[nodiscard]] Error write_now(std::uint64_t, std::span<const std::byte>) noexcept override {
    return Error::Ok;
  }
  [[nodiscard]] Error flush_now() noexcept override { return Error::Ok; }

 private:
  io::Disk& disk_;
};

class Inspection final : private JournalListener {
 public:
  // REQUIRES: the superblock is sound and compatible.
  Inspection(io::Disk& disk, const format::Superblock& superblock);

  // Throws Fault; chain() and record() are then as far as it came.
  void replay();
  [[nodiscard]] const format::Superblock& superblock() const noexcept { return superblock_; }
  [[nodiscard]] Metadata& metadata() noexcept { return metadata_; }
  [[nodiscard]] const Metadata& metadata() const noexcept { return metadata_; }
  [[nodiscard]] const Recovery& recovery() const noexcept { return recovery_; }
  // The block in the journal when its newest content is there, else null.
  [[nodiscard]] const std::byte* staged(std::uint32_t slot, std::uint32_t block) noexcept;
  [[nodiscard]] bool any_staged(std::uint32_t slot) const noexcept {
    return staged_.find(slot) != nullptr;
  }
  [[nodiscard]] std::uint64_t journal_device_offset(std::uint64_t position) const noexcept {
    return superblock_.journal_offset + position % superblock_.journal_bytes;
  }

 private:
  void batch_done(std::uint64_t, StoreOp*, Error) noexcept override {}
  void batch_closes() noexcept override {}

  ReadOnlyDisk disk_;
  format::Superblock superblock_;
  Device device_;
  Metadata metadata_;
  StagedBlocks staged_;
  Journal journal_;
  Recovery recovery_;
};

// One copy of a block that exists twice: read, and whether it could be.
template <class Block>
struct BlockCopy {
  std::uint64_t device_offset = 0;
  bool readable = false;
  bool sound = false;
  Block block;
};

[[nodiscard]] bool read_block(io::Disk& disk, std::uint64_t offset, void* into) noexcept;
void write_block_flushed(io::Disk& disk, std::uint64_t offset, const void* from);  // throws Fault

[[nodiscard]] BlockCopy<format::Superblock> superblock_copy(io::Disk& disk, std::uint32_t copy);
[[nodiscard]] BlockCopy<format::CheckpointRecord> record_copy(io::Disk& disk,
                                                              const format::Superblock& superblock,
                                                              std::uint32_t copy);
// `number` counts within the kind.
template <class PageType>
[[nodiscard]] BlockCopy<PageType> page_copy(io::Disk& disk, const format::Superblock& superblock,
                                            std::uint32_t number, std::uint32_t copy);

}  // namespace blockd::store
