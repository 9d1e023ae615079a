#include "engine/chunk_copier.h"

#include <algorithm>
#include <cstring>

#include "base/assert.h"
#include "blockd/types.h"

namespace blockd::engine {

using Op = BlockRequest::Op;

void clear_beyond(std::byte* data, std::uint64_t offset, std::uint64_t bytes,
                  std::uint64_t base_bytes) noexcept {
  const std::uint64_t from = std::clamp(base_bytes, offset, offset + bytes) - offset;
  std::memset(data + from, 0, bytes - from);
}

ChunkCopier::ChunkCopier(io::Loop& loop, Buffers& buffers, BlockBackend& upper,
                         BlockBackend& base) noexcept
    : loop_(loop), buffers_(buffers), upper_(upper), base_(base) {
  waiter_.owner = buffers_task_.owner = this;
  // Not at once: whoever gives the buffer back is in the middle of something.
  waiter_.ready = [](PoolWaiter& waiter) noexcept {
    auto& self = *static_cast<ChunkCopier*>(waiter.owner);
    self.loop_.defer(self.buffers_task_);
  };
  buffers_task_.run = [](io::Task& task) noexcept {
    static_cast<ChunkCopier*>(task.owner)->take_buffers();
  };
}

ChunkCopier::~ChunkCopier() {
  BLOCKD_ASSERT(starved_.empty() && !buffers_task_.queued);
  buffers_.chunk.cancel(waiter_);
}

void ChunkCopier::start(ChunkCopyUp& copy) noexcept {
  copy.copier = this;
  copy.request.owner = &copy;
  copy.request.fua = false;
  if (stopped_) return end(copy, Error::ShuttingDown);
  if (!copy.has_data && copy.length_bytes % kBlockBytes == 0) return write(copy);
  if (starved_.empty() && fill(copy)) return;
  starved_.push_back(copy);
  if (!waiter_.queued && !buffers_task_.queued) buffers_.chunk.wait(waiter_);
}

void ChunkCopier::stop() noexcept {
  stopped_ = true;
  while (ChunkCopyUp* copy = starved_.pop_front()) end(*copy, Error::ShuttingDown);
}

void ChunkCopier::take_buffers() noexcept {
  if (starved_.empty()) return buffers_.chunk.pass_on();
  while (!starved_.empty() && fill(*starved_.front())) starved_.pop_front();
  if (!starved_.empty() && !waiter_.queued) buffers_.chunk.wait(waiter_);
}

// False: no buffer now.
bool ChunkCopier::fill(ChunkCopyUp& copy) noexcept {
  copy.buffer = buffers_.chunk.get();
  if (!copy.buffer) return false;
  if (copy.has_data) {
    read_base(copy);
  } else {
    std::memset(copy.buffer.data(), 0, copy.length_bytes);
    write(copy);
  }
  return true;
}

void ChunkCopier::read_base(ChunkCopyUp& copy) noexcept {
  const std::uint64_t base_end = (base_.size_bytes() + kBlockBytes - 1) / kBlockBytes * kBlockBytes;
  BLOCKD_ASSERT(copy.offset_bytes < base_end);
  BlockRequest& request = copy.request;
  request.op = Op::read;
  request.covers = false;
  request.offset_bytes = copy.offset_bytes;
  request.length_bytes = static_cast<std::uint32_t>(
      std::min<std::uint64_t>(kChunkBytes, base_end - copy.offset_bytes));
  request.data = copy.buffer.data();
  request.hold = copy.buffer;
  request.done = [](BlockRequest& done) noexcept {
    auto& over = *static_cast<ChunkCopyUp*>(done.owner);
    over.copier->base_read(over);
  };
  base_.submit(request);
}

void ChunkCopier::base_read(ChunkCopyUp& copy) noexcept {
  if (copy.request.error != Error::Ok) return end(copy, copy.request.error);
  clear_beyond(copy.buffer.data(), copy.offset_bytes, kChunkBytes, base_.size_bytes());
  write(copy);
}

// One mutation for the volume: zeros that end within a block would be two, and a crash between them
// leave a chunk that is neither the base's nor the volume's.
void ChunkCopier::write(ChunkCopyUp& copy) noexcept {
  BlockRequest& request = copy.request;
  request.op = copy.buffer ? Op::write : Op::write_zeroes;
  request.covers = copy.has_data;
  request.offset_bytes = copy.offset_bytes;
  request.length_bytes = copy.length_bytes;
  request.data = copy.buffer ? copy.buffer.data() : nullptr;
  request.hold = copy.buffer;
  request.done = [](BlockRequest& done) noexcept {
    auto& over = *static_cast<ChunkCopyUp*>(done.owner);
    over.copier->end(over, done.error);
  };
  upper_.submit(request);
}

void ChunkCopier::end(ChunkCopyUp& copy, Error error) noexcept {
  copy.request.hold.reset();
  copy.buffer.reset();
  copy.done(copy, error);
}

}  // namespace blockd::engine
