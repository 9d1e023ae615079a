// Reads: from the journal's mirror where a block is staged, else from its home, verified either
// way.
//
// A device read can race with a checkpoint's home write, a remap or a trim of the same block; the
// record's CRC then changes under it. A mismatch is therefore an error only if the block is still
// what it was when the read was submitted; else that part is read again, by the same run: it never
// needs another.
#pragma once

#include <cstdint>

#include "store/constants.h"
#include "store/journal.h"
#include "store/metadata.h"
#include "store/staged_blocks.h"
#include "store/views.h"

namespace blockd::store {

class Reader {
 public:
  Reader(Device& device, Journal& journal, Metadata& metadata, Views& views, StagedBlocks& staged);

  // Validated by the caller. Ends through `finished`, never from inside this call.
  void start(StoreOp& op) noexcept;
  void resume() noexcept;  // after runs came free
  // What is still to be read of the segment must not be: its handle may be another's soon.
  void segment_dropped(SegmentHandle segment) noexcept;
  [[nodiscard]] std::uint32_t in_flight() const noexcept { return runs_in_flight_; }

  void (*finished)(void* owner, StoreOp& op) noexcept = nullptr;
  void (*slot_unpinned)(void* owner) noexcept = nullptr;
  void* owner = nullptr;

 private:
  struct Run {  // blocks that lie next to each other on the device
    io::DiskRequest request;
    iovec iov{};
    StoreOp* op = nullptr;    // null: free
    std::uint32_t first = 0;  // block of the op
    std::uint32_t count = 0;
    std::uint32_t first_slot = 0;
    std::uint32_t last_slot = 0;
    std::uint32_t crcs[kMutationBytesMax / kBlockBytes] = {};
    std::uint64_t again = 0;  // bit b: block b of the op changed under the read
    Run* next = nullptr;
    Reader* reader = nullptr;
  };
  struct Place {
    // lost: its record can no longer be read
    enum class Kind : std::uint8_t { hole, staged, home, lost } kind = Kind::hole;
    std::uint32_t slot = 0;
    std::uint32_t crc = 0;
    std::uint64_t device_offset = 0;
    const std::byte* memory = nullptr;
  };

  [[nodiscard]] std::uint32_t slot_of(SegmentHandle handle, std::uint32_t chunk) const noexcept;
  [[nodiscard]] Place place_of(const StoreOp& op, std::uint32_t block) const noexcept;
  void read_memory(StoreOp& op, std::uint32_t block, const Place& place) noexcept;
  [[nodiscard]] bool read_blocks(StoreOp& op, std::uint32_t from, std::uint32_t end) noexcept;
  static void begin(Run& run, StoreOp& op, std::uint32_t block, const Place& place) noexcept;
  void submit(Run& run) noexcept;
  void run_done(Run& run) noexcept;
  [[nodiscard]] Error verify(Run& run) noexcept;
  [[nodiscard]] bool read_again(Run& run) noexcept;
  void release(StoreOp& op) noexcept;

  Device& device_;
  Journal& journal_;
  Metadata& metadata_;
  Views& views_;
  StagedBlocks& staged_;
  std::vector<Run> runs_;
  Run* free_ = nullptr;
  std::uint32_t runs_in_flight_ = 0;
  StoreOp* waiting_head_ = nullptr;
  StoreOp* waiting_tail_ = nullptr;
};

}  // namespace blockd::store
