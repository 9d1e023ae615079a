// Reads and writes of any length and alignment, cut into the requests that a block backend takes.
//
// One for each attached volume, on the reactor's thread. A job is one call from Python; its pieces
// end at multiples of kMutationBytesMax of the volume, so that none crosses a segment and a rounded
// read still fits a buffer. At most kSlots pieces are in flight; jobs wait their turn in order.
// Payloads are copied between the caller's memory and pool buffers: slow members may hold a buffer
// for longer than the caller can be asked to. An empty pool pauses the queue until a buffer comes
// back.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>

#include "base/buffer.h"
#include "blockd/types.h"
#include "border/core.h"
#include "engine/block_backend.h"
#include "io/loop.h"
#include "nbd/nbd_stats.h"

namespace blockd::border {

struct IoJob {
  using Op = engine::BlockRequest::Op;
  Token token = 0;
  Op op = Op::read;
  bool fua = false;
  std::uint64_t offset_bytes = 0;
  std::uint64_t length_bytes = 0;
  std::byte* memory = nullptr;  // of a read or write: the caller's, until finished

  Error error = Error::Ok;             // the first of its pieces'
  std::uint64_t handed_out_bytes = 0;  // in pieces, from the start
  std::uint32_t in_flight = 0;         // pieces
  bool queued = false;                 // has pieces to hand out: cannot end yet
  std::uint64_t started_us = 0;
  IoJob* next = nullptr;
};

// Told on the reactor's thread when a job has ended; takes it over. Called from inside VolumeIo's
// calls, so it must not destroy the VolumeIo nor call it.
class IoJobSink {
 public:
  virtual ~IoJobSink() = default;
  virtual void finished(std::unique_ptr<IoJob> job) noexcept = 0;
};

class VolumeIo {
 public:
  VolumeIo(io::Loop& loop, Buffers& buffers, engine::BlockBackend& backend,
           IoJobSink& sink) noexcept;
  ~VolumeIo();  // REQUIRES: idle()
  VolumeIo(const VolumeIo&) = delete;
  VolumeIo& operator=(const VolumeIo&) = delete;

  void submit(std::unique_ptr<IoJob> job) noexcept;
  // Ends waiting jobs, and later ones, with `error`; pieces in flight still complete.
  void stop(Error error) noexcept;
  [[nodiscard]] bool idle() const noexcept { return head_ == nullptr && free_count_ == kSlots; }
  [[nodiscard]] const nbd::LatencyHistogram& latency_us(IoJob::Op op) const noexcept {
    return latency_us_[static_cast<std::size_t>(op)];
  }

 private:
  static constexpr std::size_t kSlots = 16;
  struct Slot {
    engine::BlockRequest request;
    VolumeIo* owner = nullptr;
    IoJob* job = nullptr;
    std::byte* memory = nullptr;  // this piece's part of the job's
    std::uint32_t length_bytes = 0;
    std::uint32_t skip_bytes = 0;  // of the buffer, before the wanted bytes
    Slot* next = nullptr;
  };

  void pump() noexcept;
  [[nodiscard]] bool hand_out(IoJob& job) noexcept;
  void complete(Slot& slot) noexcept;
  void dequeue() noexcept;
  void end_if_done(IoJob& job) noexcept;
  void finish(IoJob* job) noexcept;

  io::Loop& loop_;
  Buffers& buffers_;
  engine::BlockBackend& backend_;
  IoJobSink& sink_;
  std::array<Slot, kSlots> slots_;
  Slot* free_ = nullptr;
  std::size_t free_count_ = 0;
  IoJob* head_ = nullptr;  // jobs with pieces still to hand out
  IoJob* tail_ = nullptr;
  Error stopped_ = Error::Ok;
  BufferPool* waiting_for_ = nullptr;
  PoolWaiter waiter_;
  io::Task pump_task_;
  std::array<nbd::LatencyHistogram, 5> latency_us_{};
};

}  // namespace blockd::border
