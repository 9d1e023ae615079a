// How many pool bytes the requests of all connections hold together, and who waits for more.
//
// A grant is made for all that a waiter asked for or not at all, first come first served: so a read
// of 32 MiB never holds half of its memory while it waits for the other half that another one
// holds.
#pragma once

#include <cstdint>

#include "base/assert.h"

namespace blockd::nbd {

// Owned by the waiter. After ready() the bytes are its own, until release() or cancel().
struct BudgetWaiter {
  void (*ready)(BudgetWaiter&) noexcept = nullptr;
  void* owner = nullptr;
  std::uint64_t bytes = 0;
  bool queued = false;
  bool granted = false;
  BudgetWaiter* next = nullptr;
  BudgetWaiter* prev = nullptr;
};

class MemoryBudget {
 public:
  explicit MemoryBudget(std::uint64_t bytes_max) noexcept : bytes_max_(bytes_max) {}
  ~MemoryBudget() { BLOCKD_ASSERT(bytes_used_ == 0); }
  MemoryBudget(const MemoryBudget&) = delete;
  MemoryBudget& operator=(const MemoryBudget&) = delete;

  [[nodiscard]] std::uint64_t bytes_max() const noexcept { return bytes_max_; }
  [[nodiscard]] std::uint64_t bytes_used() const noexcept { return bytes_used_; }
  [[nodiscard]] const BudgetWaiter* first_waiter() const noexcept { return head_; }

  // True: granted at once, or since the waiter asked before. False: it is (still) queued; ready()
  // comes later. REQUIRES: the same `bytes` until granted.
  [[nodiscard]] bool take(BudgetWaiter& waiter, std::uint64_t bytes) noexcept {
    BLOCKD_ASSERT(bytes <= bytes_max_);
    if (waiter.granted) {
      BLOCKD_ASSERT(waiter.bytes == bytes);
      waiter.granted = false;
      return true;
    }
    if (waiter.queued) return false;
    if (!head_ && bytes_used_ + bytes <= bytes_max_) {
      bytes_used_ += bytes;
      return true;
    }
    enqueue(waiter, bytes);
    return false;
  }

  void release(std::uint64_t bytes) noexcept {
    BLOCKD_ASSERT(bytes <= bytes_used_);
    bytes_used_ -= bytes;
    grant();
  }

  // Harmless when neither queued nor granted.
  void cancel(BudgetWaiter& waiter) noexcept {
    if (waiter.granted) {
      waiter.granted = false;
      release(waiter.bytes);
    } else if (waiter.queued) {
      unlink(waiter);
      grant();  // it may have been the one too large to pass
    }
  }

 private:
  void enqueue(BudgetWaiter& waiter, std::uint64_t bytes) noexcept {
    waiter.bytes = bytes;
    waiter.queued = true;
    waiter.next = nullptr;
    waiter.prev = tail_;
    (tail_ ? tail_->next : head_) = &waiter;
    tail_ = &waiter;
  }
  void unlink(BudgetWaiter& waiter) noexcept {
    (waiter.prev ? waiter.prev->next : head_) = waiter.next;
    (waiter.next ? waiter.next->prev : tail_) = waiter.prev;
    waiter.next = waiter.prev = nullptr;
    waiter.queued = false;
  }
  void grant() noexcept {
    while (head_ && bytes_used_ + head_->bytes <= bytes_max_) {
      BudgetWaiter& waiter = *head_;
      unlink(waiter);
      bytes_used_ += waiter.bytes;
      waiter.granted = true;
      waiter.ready(waiter);
    }
  }

  std::uint64_t bytes_max_;
  std::uint64_t bytes_used_ = 0;
  BudgetWaiter* head_ = nullptr;
  BudgetWaiter* tail_ = nullptr;
};

}  // namespace blockd::nbd
