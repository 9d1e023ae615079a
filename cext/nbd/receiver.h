// The bytes of one connection that have arrived and are not yet understood, in one pool buffer.
//
// Contiguous always, so that a header or a small payload is looked at in place, and a payload can
// be handed on as a slice of the buffer (hold()) without a copy. While slices are out their bytes
// are never moved or overwritten: the receiver goes on behind them, and in a fresh buffer when
// there is no more room.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

#include "base/buffer.h"

namespace blockd::nbd {

class Receiver {
 public:
  // `waiter` is queued at the pool when space() finds it empty.
  Receiver(BufferPool& pool, PoolWaiter& waiter) noexcept
      : pool_(pool), waiter_(waiter), buffer_(pool.get()) {}
  ~Receiver() { pool_.cancel(waiter_); }
  Receiver(const Receiver&) = delete;
  Receiver& operator=(const Receiver&) = delete;

  [[nodiscard]] bool usable() const noexcept { return static_cast<bool>(buffer_); }
  [[nodiscard]] std::span<const std::byte> buffered() const noexcept {
    return {buffer_.data() + head_, tail_ - head_};
  }
  [[nodiscard]] std::byte* head() const noexcept { return buffer_.data() + head_; }
  [[nodiscard]] const BufferRef& hold() const noexcept { return buffer_; }

  void consume(std::size_t bytes) noexcept {
    BLOCKD_ASSERT(bytes <= tail_ - head_);
    head_ += bytes;
  }
  void received(std::size_t bytes) noexcept {
    BLOCKD_ASSERT(bytes <= buffer_.capacity_bytes() - tail_);
    tail_ += bytes;
  }

  // Where to receive, so that at least `contiguous_bytes` from head() on will fit. Empty: the pool
  // is exhausted and the waiter queued. REQUIRES: no receive under way, fewer than that many
  // buffered.
  [[nodiscard]] std::span<std::byte> space(std::size_t contiguous_bytes) noexcept {
    BLOCKD_ASSERT(contiguous_bytes > tail_ - head_);
    BLOCKD_ASSERT(contiguous_bytes <= buffer_.capacity_bytes());
    if (head_ == tail_ && buffer_.use_count() == 1) head_ = tail_ = 0;
    const std::size_t room_bytes = buffer_.capacity_bytes() - head_;
    const bool cramped =
        head_ > 0 && room_bytes < kRoomBytesMin;  // many small receives: rather move on
    if ((room_bytes < contiguous_bytes || cramped) && !relocate()) return {};
    return {buffer_.data() + tail_, buffer_.capacity_bytes() - tail_};
  }

 private:
  static constexpr std::size_t kRoomBytesMin = 16 * 1024;

  bool relocate() noexcept {
    const std::size_t bytes = tail_ - head_;
    if (buffer_.use_count() == 1) {
      std::memmove(buffer_.data(), head(), bytes);
    } else {
      BufferRef fresh = pool_.get();
      if (!fresh) {
        pool_.wait(waiter_);
        return false;
      }
      std::memcpy(fresh.data(), head(), bytes);
      buffer_ = std::move(fresh);
    }
    head_ = 0;
    tail_ = bytes;
    return true;
  }

  BufferPool& pool_;
  PoolWaiter& waiter_;
  BufferRef buffer_;
  std::size_t head_ = 0;
  std::size_t tail_ = 0;
};

}  // namespace blockd::nbd
