// Operations and the metadata pages that they need: in memory before an operation starts.
#include <algorithm>
#include <utility>

#include "store/store_impl.h"

namespace blockd::store {

namespace {

constexpr std::uint32_t kChunksAhead = 64;  // of a long zero
// So many pages have come and an operation has still not had all of its own at once: it goes on all
// the same, and waits for the device where one is missing.
constexpr std::uint32_t kPatience = 256;

}  // namespace

// False: some are on their way, and their coming wakes the store. A zero needs those at the point
// that it has reached; a few more come along.
bool StoreImpl::pages_ready(const StoreOp& op) noexcept {
  const bool zero = op.op == StoreOp::Op::zero;
  const std::uint32_t first = (op.first_block + (zero ? op.scratch_count : 0)) / kBlocksPerChunk;
  const std::uint32_t last_block = op.first_block + std::max(op.block_count, 1u) - 1;
  const std::uint32_t end = std::min(last_block / kBlocksPerChunk + 1, first + kChunksAhead);
  bool ready = true;
  for (std::uint32_t chunk = first; chunk < end; ++chunk) {
    const bool needed = !zero || chunk == first;
    if (!chunk_ready(op, chunk) && needed) ready = false;
    if (zero && ready) return true;
  }
  return ready;
}

bool StoreImpl::chunk_ready(const StoreOp& op, std::uint32_t chunk) noexcept {
  if (Views::is_view(op.segment)) {
    return chunk >= chunk_limit(op.segment) || views_.ready(op.segment, chunk);
  }
  const std::uint32_t* slot = slot_of(op.segment, chunk);
  bool ready = !slot || metadata_.slot_ready(*slot);
  if (op.op != StoreOp::Op::forget && op.died == 0) return ready;
  const History& history = metadata_.history();
  for (std::uint32_t past = history.first(op.segment, chunk); past != format::kNoSlot;
       past = history.next(past))
    ready = metadata_.slot_ready(past) && ready;
  return ready;
}

bool StoreImpl::may_start(const StoreOp& op) noexcept {
  if (!pages_ready(op) && pages_came_ <= kPatience) return false;
  pages_came_ = 0;
  return true;
}

void StoreImpl::page_came() noexcept {
  ++pages_came_;
  start_cold_reads();
  wake();
}

void StoreImpl::read(StoreOp& op) noexcept {
  if (pages_ready(op)) return reader_.start(op);
  op.next = std::exchange(cold_reads_, &op);
}

void StoreImpl::start_cold_reads() noexcept {
  for (StoreOp** link = &cold_reads_; *link;) {
    StoreOp& op = **link;
    if (!pages_ready(op) && ++op.scratch_count <= kPatience) {
      link = &op.next;
      continue;
    }
    *link = op.next;
    reader_.start(op);
  }
}

}  // namespace blockd::store
