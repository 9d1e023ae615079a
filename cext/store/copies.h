// Copies of chunks that a snapshot shows, made before a mutation of a part of such a chunk.
//
// The chunk's content, which nothing changes any more, is read and written to a fresh slot; the
// mutation's own journal batch then says that the chunk is there (an entry `copy`). A block that
// cannot be read, or does not match its CRC, is copied as zeros under the CRC that it should have:
// reads go on to tell, and a repair from another replica heals it. Started early, as soon as the
// mutation is known; what nobody came for is thrown away.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "base/buffer.h"
#include "store/journal.h"
#include "store/metadata.h"
#include "store/staged_blocks.h"

namespace blockd::store {

struct ChunkCopy {
  enum class State : std::uint8_t { reading, reading_again, writing, ready };
  State state = State::reading;
  bool unwanted = false;
  SegmentHandle segment = 0;
  std::uint32_t chunk = 0;
  std::uint32_t from = 0;  // slots
  std::uint32_t to = 0;
  format::SlotRecord record;  // of the source
  std::uint16_t damaged = 0;  // blocks
  std::uint32_t block = 0;    // reading_again
  std::byte* data = nullptr;  // kChunkBytes
  io::DiskRequest request;
  iovec iov{};
  void* copies = nullptr;
  [[nodiscard]] bool ready() const noexcept { return state == State::ready; }
};

class ChunkCopies {
 public:
  ChunkCopies(Device& device, Journal& journal, Metadata& metadata, StagedBlocks& staged) noexcept
      : device_(device), journal_(journal), metadata_(metadata), staged_(staged) {}

  [[nodiscard]] ChunkCopy* find(SegmentHandle segment, std::uint32_t chunk) noexcept;
  // False: too many, or no slot is free. REQUIRES: there is none of the chunk yet, and the record
  // of `from` is resident.
  [[nodiscard]] bool start(SegmentHandle segment, std::uint32_t chunk, std::uint32_t from);
  void used(ChunkCopy& copy) noexcept;  // its slot is the chunk's now
  // Lets go of the chunk's copy, the segment's, or all that are ready (another mutation changed the
  // chunk, or nobody waits for them); their slots are free again.
  void drop(SegmentHandle segment, std::uint32_t chunk) noexcept;
  void drop_segment(SegmentHandle segment) noexcept;
  void drop_ready() noexcept;
  // Lets go of what is for other chunks than these; true: nothing else is left, or under way.
  [[nodiscard]] bool drop_others(SegmentHandle segment, std::uint32_t first_chunk,
                                 std::uint32_t end_chunk) noexcept;
  [[nodiscard]] bool idle() const noexcept { return active_.empty(); }
  [[nodiscard]] const std::vector<ChunkCopy*>& active() const noexcept { return active_; }

  void (*progress)(void* owner) noexcept = nullptr;  // one is ready, or has gone
  void* owner = nullptr;

 private:
  void read(ChunkCopy& copy, std::uint32_t first, std::uint32_t count) noexcept;
  void done(ChunkCopy& copy) noexcept;
  void read_done(ChunkCopy& copy) noexcept;
  [[nodiscard]] bool take_staged(ChunkCopy& copy, std::uint32_t block) noexcept;
  void write(ChunkCopy& copy) noexcept;
  void retire(ChunkCopy& copy, bool keep_slot) noexcept;
  [[nodiscard]] std::byte* block_of(const ChunkCopy& copy, std::uint32_t block) const noexcept {
    return copy.data + std::size_t{block} * kBlockBytes;
  }

  Device& device_;
  Journal& journal_;
  Metadata& metadata_;
  StagedBlocks& staged_;
  std::unique_ptr<BufferPool> memory_;  // from the first copy on
  std::vector<BufferRef> buffers_;
  std::vector<std::unique_ptr<ChunkCopy>> all_;
  std::vector<ChunkCopy*> free_;
  std::vector<ChunkCopy*> active_;
};

}  // namespace blockd::store
