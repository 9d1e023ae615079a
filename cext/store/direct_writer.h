// Writes of whole chunks: payload straight to fresh slots, then a map entry in the journal.
//
// The old slot stays as it is until a flush has covered the map entry (the store frees it then), so
// a crash finds either the old chunk or the new one. Later mutations of the chunk wait (S3):
// busy().
#pragma once

#include <cstdint>

#include "base/buffer.h"
#include "store/constants.h"
#include "store/device.h"
#include "store/metadata.h"
#include "store/pieces.h"

namespace blockd::store {

inline constexpr std::uint32_t kDirectChunksMax = kMutationBytesMax / kChunkBytes;

struct DirectWrite {
  StoreOp* op = nullptr;
  std::uint32_t first_chunk = 0;
  std::uint32_t chunk_count = 0;
  std::uint32_t first_op_block = 0;            // where the chunks' data starts in the op
  std::uint32_t slots[kDirectChunksMax] = {};  // kNoSlot: this chunk is none of ours
  std::uint32_t pending = 0;
  Error error = Error::Ok;
  io::DiskRequest requests[kDirectChunksMax];
  iovec iov[kDirectChunksMax] = {};
  BufferRef copy;  // the payload, when the op's is not aligned
  DirectWrite* next = nullptr;
  DirectWrite* prev = nullptr;
  void* writer = nullptr;
};

class DirectWriter {
 public:
  DirectWriter(Device& device, Metadata& metadata, Buffers& buffers);

  // Takes slots and submits the device writes for whole chunks [first_chunk, +count) of the op.
  // But for those whose bit is set in `skip`, counted from first_chunk.
  // False: no slots, no buffer or no place; nothing was done and the op may be journaled instead.
  [[nodiscard]] bool start(StoreOp& op, std::uint32_t first_chunk, std::uint32_t count,
                           std::uint32_t first_op_block, PieceMask skip = 0) noexcept;
  [[nodiscard]] bool busy(SegmentHandle segment, std::uint32_t first_chunk,
                          std::uint32_t end_chunk) const noexcept;
  // Written and waiting for its map entries, in order of completion; null when there is none.
  [[nodiscard]] DirectWrite* ready() const noexcept { return ready_head_; }
  void retire(DirectWrite& write) noexcept;  // the first ready one
  [[nodiscard]] bool idle() const noexcept { return !active_ && !ready_head_; }

  void (*written)(void* owner) noexcept = nullptr;
  void* owner = nullptr;

 private:
  [[nodiscard]] bool take_slots(DirectWrite& write, PieceMask skip) noexcept;
  void request_done(DirectWrite& write, Error error) noexcept;

  Device& device_;
  Metadata& metadata_;
  Buffers& buffers_;
  std::vector<DirectWrite> writes_;
  DirectWrite* free_ = nullptr;
  DirectWrite* active_ = nullptr;  // being written
  DirectWrite* ready_head_ = nullptr;
  DirectWrite* ready_tail_ = nullptr;
};

}  // namespace blockd::store
