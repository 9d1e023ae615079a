// Pools of page-aligned, reference-counted buffers, all allocated at start-up.
//
// One pool belongs to one reactor thread: counts are not atomic and nothing locks. A buffer goes
// back to its pool when its last BufferRef goes. An empty pool answers with a null ref; the caller
// then waits (PoolWaiter) or refuses: nothing on the data path calls the allocator.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

#include "base/assert.h"

namespace blockd {

class BufferPool;

struct Buffer {
  std::byte* data = nullptr;  // aligned to 4096
  std::uint32_t capacity_bytes = 0;
  std::uint32_t refs = 0;
  BufferPool* pool = nullptr;
  Buffer* next = nullptr;  // in the pool's free list
};

class BufferRef {
 public:
  BufferRef() noexcept = default;
  explicit BufferRef(Buffer* buffer) noexcept : buffer_(buffer) {
    if (buffer_) ++buffer_->refs;
  }
  BufferRef(const BufferRef& other) noexcept : BufferRef(other.buffer_) {}
  BufferRef(BufferRef&& other) noexcept : buffer_(std::exchange(other.buffer_, nullptr)) {}
  BufferRef& operator=(BufferRef other) noexcept {
    std::swap(buffer_, other.buffer_);
    return *this;
  }
  ~BufferRef() { reset(); }

  void reset() noexcept;
  [[nodiscard]] explicit operator bool() const noexcept { return buffer_ != nullptr; }
  [[nodiscard]] std::byte* data() const noexcept { return buffer_->data; }
  [[nodiscard]] std::uint32_t capacity_bytes() const noexcept { return buffer_->capacity_bytes; }
  [[nodiscard]] std::uint32_t use_count() const noexcept { return buffer_ ? buffer_->refs : 0; }

 private:
  Buffer* buffer_ = nullptr;
};

// Told, once and in order of waiting, that a buffer came back. Owned by the waiter; unlinks itself.
struct PoolWaiter {
  void (*ready)(PoolWaiter&) noexcept = nullptr;
  void* owner = nullptr;
  PoolWaiter* next = nullptr;
  PoolWaiter* prev = nullptr;
  bool queued = false;
};

class BufferPool {
 public:
  // One mapping of `count` buffers of `buffer_bytes` (a multiple of 4096). Memory is touched on
  // first use.
  BufferPool(std::uint32_t buffer_bytes, std::uint32_t count);
  ~BufferPool();
  BufferPool(const BufferPool&) = delete;
  BufferPool& operator=(const BufferPool&) = delete;

  [[nodiscard]] BufferRef get() noexcept;    // null when exhausted
  void wait(PoolWaiter& waiter) noexcept;    // call ready() when a buffer comes back
  void cancel(PoolWaiter& waiter) noexcept;  // harmless when not queued
  void pass_on() noexcept;  // for a waiter that was told and takes nothing: tells the next one
  [[nodiscard]] std::uint32_t buffer_bytes() const noexcept { return buffer_bytes_; }
  [[nodiscard]] std::uint32_t free_count() const noexcept { return free_count_; }
  [[nodiscard]] std::uint32_t count() const noexcept { return count_; }
  [[nodiscard]] std::byte* base() const noexcept { return base_; }
  [[nodiscard]] std::size_t bytes() const noexcept { return std::size_t{buffer_bytes_} * count_; }

 private:
  friend class BufferRef;
  void put(Buffer* buffer) noexcept;

  std::uint32_t buffer_bytes_;
  std::uint32_t count_;
  std::uint32_t free_count_;
  std::byte* base_ = nullptr;
  Buffer* headers_ = nullptr;
  Buffer* free_ = nullptr;
  PoolWaiter* waiters_head_ = nullptr;
  PoolWaiter* waiters_tail_ = nullptr;
};

inline void BufferRef::reset() noexcept {
  if (Buffer* buffer = std::exchange(buffer_, nullptr)) {
    BLOCKD_ASSERT(buffer->refs > 0);
    if (--buffer->refs == 0) buffer->pool->put(buffer);
  }
}

// The size classes of a reactor: small (4 KiB: one block), chunk (64 KiB + one block), large (one
// mutation of kMutationBytesMax + one block, so that an unaligned extent rounded outwards still
// fits).
struct Buffers {
  Buffers(std::uint32_t small_count, std::uint32_t chunk_count, std::uint32_t large_count);
  [[nodiscard]] BufferPool& pool_for(std::uint32_t bytes) noexcept;  // the smallest class that fits
  BufferPool small;
  BufferPool chunk;
  BufferPool large;
};

}  // namespace blockd
