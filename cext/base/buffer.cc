#include "base/buffer.h"

#include <sys/mman.h>

#include <new>

#include "blockd/errors.h"
#include "blockd/types.h"

namespace blockd {

BufferPool::BufferPool(std::uint32_t buffer_bytes, std::uint32_t count)
    : buffer_bytes_(buffer_bytes), count_(count), free_count_(count) {
  BLOCKD_ASSERT(buffer_bytes % kBlockBytes == 0);
  void* memory = mmap(nullptr, bytes(), PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) throw Fault(Error::Busy, "cannot map memory for the buffer pools");
  base_ = static_cast<std::byte*>(memory);
  headers_ = new Buffer[count];
  for (std::uint32_t i = count; i-- > 0;) {
    headers_[i] = Buffer{base_ + std::size_t{i} * buffer_bytes, buffer_bytes, 0, this, free_};
    free_ = &headers_[i];
  }
}

BufferPool::~BufferPool() {
  BLOCKD_ASSERT(free_count_ == count_);
  munmap(base_, bytes());
  delete[] headers_;
}

BufferRef BufferPool::get() noexcept {
  if (!free_) return BufferRef{};
  Buffer* buffer = free_;
  free_ = buffer->next;
  --free_count_;
  return BufferRef{buffer};
}

void BufferPool::put(Buffer* buffer) noexcept {
  buffer->next = free_;
  free_ = buffer;
  ++free_count_;
  pass_on();
}

void BufferPool::pass_on() noexcept {
  PoolWaiter* waiter = waiters_head_;
  if (!free_ || !waiter) return;
  cancel(*waiter);
  waiter->ready(*waiter);
}

void BufferPool::wait(PoolWaiter& waiter) noexcept {
  if (waiter.queued) return;
  waiter.queued = true;
  waiter.next = nullptr;
  waiter.prev = waiters_tail_;
  (waiters_tail_ ? waiters_tail_->next : waiters_head_) = &waiter;
  waiters_tail_ = &waiter;
}

void BufferPool::cancel(PoolWaiter& waiter) noexcept {
  if (!waiter.queued) return;
  (waiter.prev ? waiter.prev->next : waiters_head_) = waiter.next;
  (waiter.next ? waiter.next->prev : waiters_tail_) = waiter.prev;
  waiter.next = waiter.prev = nullptr;
  waiter.queued = false;
}

Buffers::Buffers(std::uint32_t small_count, std::uint32_t chunk_count, std::uint32_t large_count)
    : small(kBlockBytes, small_count),
      chunk(kChunkBytes + kBlockBytes, chunk_count),
      large(kMutationBytesMax + kBlockBytes, large_count) {}

BufferPool& Buffers::pool_for(std::uint32_t bytes) noexcept {
  if (bytes <= small.buffer_bytes()) return small;
  if (bytes <= chunk.buffer_bytes()) return chunk;
  BLOCKD_ASSERT(bytes <= large.buffer_bytes());
  return large;
}

}  // namespace blockd
