// One device flush at a time, shared by everybody who asked for one before it was submitted.
//
// A waiter names the journal batch that must be covered too: its flush is submitted only when
// batches up to `min_lsn` have completed. A flush covers every device write that completed before
// it. On a device that loses nothing with its power a flush is an order of events and no request.
#pragma once

#include <cstdint>

#include "store/device.h"
#include "store/journal.h"

namespace blockd::store {

struct FlushWaiter {
  std::uint64_t min_lsn = 0;
  void (*done)(FlushWaiter&, Error) noexcept = nullptr;
  void* owner = nullptr;
  FlushWaiter* next = nullptr;
};

class Flusher {
 public:
  Flusher(Device& device, io::Loop& loop, Journal& journal, bool power_loss_protected) noexcept;
  Flusher(const Flusher&) = delete;
  Flusher& operator=(const Flusher&) = delete;

  void wait(FlushWaiter& waiter) noexcept;
  void add(StoreOp& op) noexcept;              // a flush op: covers what has completed by now
  void request() noexcept { wanted_ = true; }  // a flush for its own sake (freed slots, map bytes)
  // Submits a flush if one is wanted and none is in flight. Called when an iteration ends.
  void pump() noexcept;
  [[nodiscard]] bool idle() const noexcept {
    return !in_flight_ && !waiting_ && !ops_waiting_ && !wanted_;
  }
  void fail_all(Error error) noexcept;

  // Called after a flush: with the LSN now covered, and the flush ops that end.
  void (*flushed)(void* owner, StoreOp* ops, Error error) noexcept = nullptr;
  void* owner = nullptr;

 private:
  void completed() noexcept;
  [[nodiscard]] bool take_ready() noexcept;

  Device& device_;
  io::Loop& loop_;
  Journal& journal_;
  const bool power_loss_protected_;
  io::Task protected_task_;
  io::DiskRequest request_;
  bool in_flight_ = false;
  bool wanted_ = false;
  std::uint64_t covers_lsn_ = 0;
  FlushWaiter* waiting_ = nullptr;
  FlushWaiter* current_ = nullptr;
  StoreOp* ops_waiting_ = nullptr;
  StoreOp* ops_current_ = nullptr;
};

}  // namespace blockd::store
