#include "border/volume_io.h"

#include <algorithm>
#include <cstring>

namespace blockd::border {
namespace {

using Op = IoJob::Op;

constexpr std::uint64_t kWholeBlock = ~std::uint64_t{kBlockBytes - 1};

bool carries_payload(Op op) noexcept {
  return op == Op::read || op == Op::write;
}

bool within(std::uint64_t offset, std::uint64_t length, std::uint64_t size) noexcept {
  return length <= size && offset <= size - length;
}

// From `offset` to the next multiple of what one request may span, or the job's end.
std::uint32_t piece_bytes(Op op, std::uint64_t offset, std::uint64_t remaining) noexcept {
  const std::uint64_t span = carries_payload(op) ? std::uint64_t{kMutationBytesMax} : kSegmentBytes;
  return static_cast<std::uint32_t>(std::min(remaining, span - offset % span));
}

}  // namespace

VolumeIo::VolumeIo(io::Loop& loop, Buffers& buffers, engine::BlockBackend& backend,
                   IoJobSink& sink) noexcept
    : loop_(loop), buffers_(buffers), backend_(backend), sink_(sink) {
  for (Slot& slot : slots_) {
    slot.owner = this;
    slot.next = free_;
    free_ = &slot;
  }
  free_count_ = kSlots;
  waiter_.owner = this;
  waiter_.ready = [](PoolWaiter& waiter) noexcept {
    auto& self = *static_cast<VolumeIo*>(waiter.owner);
    self.waiting_for_ = nullptr;
    self.loop_.defer(self.pump_task_);
  };
  pump_task_.owner = this;
  pump_task_.run = [](io::Task& task) noexcept { static_cast<VolumeIo*>(task.owner)->pump(); };
}

VolumeIo::~VolumeIo() {
  BLOCKD_ASSERT(idle());
  BLOCKD_ASSERT(!pump_task_.queued);
  if (waiting_for_) waiting_for_->cancel(waiter_);
}

void VolumeIo::submit(std::unique_ptr<IoJob> job) noexcept {
  job->started_us = loop_.now_us();
  const bool flush = job->op == Op::flush;
  if (stopped_ != Error::Ok) {
    job->error = stopped_;
  } else if (!flush && !within(job->offset_bytes, job->length_bytes, backend_.size_bytes())) {
    job->error = Error::ExtentOutOfRange;
  }
  if (flush) job->offset_bytes = job->length_bytes = 0;
  if (job->error != Error::Ok || (!flush && job->length_bytes == 0)) return finish(job.release());

  IoJob* queued = job.release();
  queued->queued = true;
  (tail_ ? tail_->next : head_) = queued;
  tail_ = queued;
  pump();
}

void VolumeIo::stop(Error error) noexcept {
  BLOCKD_ASSERT(error != Error::Ok);
  if (stopped_ == Error::Ok) stopped_ = error;
  if (waiting_for_) std::exchange(waiting_for_, nullptr)->cancel(waiter_);
  while (head_) {
    if (head_->error == Error::Ok) head_->error = stopped_;
    dequeue();
  }
}

// Hands out pieces of the first job until it has no more, then of the next, while slots last. A job
// whose piece has failed gets no further ones.
void VolumeIo::pump() noexcept {
  while (head_ && free_ && !waiting_for_) {
    IoJob& job = *head_;
    if (job.error == Error::Ok && !hand_out(job)) return;
    if (job.error != Error::Ok || job.handed_out_bytes == job.length_bytes) dequeue();
  }
}

void VolumeIo::dequeue() noexcept {
  IoJob& job = *head_;
  head_ = job.next;
  if (!head_) tail_ = nullptr;
  job.next = nullptr;
  job.queued = false;
  end_if_done(job);
}

// Submits the next piece. False: no buffer now, pump() will be called when one is back.
bool VolumeIo::hand_out(IoJob& job) noexcept {
  const std::uint64_t offset = job.offset_bytes + job.handed_out_bytes;
  const std::uint32_t length =
      job.op == Op::flush ? 0
                          : piece_bytes(job.op, offset, job.length_bytes - job.handed_out_bytes);
  const auto skip = static_cast<std::uint32_t>(carries_payload(job.op) ? offset % kBlockBytes : 0);
  BufferRef buffer;
  if (carries_payload(job.op)) {
    BufferPool& pool = buffers_.pool_for((skip + length + kBlockBytes - 1) & ~(kBlockBytes - 1));
    buffer = pool.get();
    if (!buffer) {
      waiting_for_ = &pool;
      pool.wait(waiter_);
      return false;
    }
  }

  Slot& slot = *std::exchange(free_, free_->next);
  --free_count_;
  slot.job = &job;
  slot.length_bytes = length;
  slot.skip_bytes = skip;
  slot.memory = carries_payload(job.op) ? job.memory + job.handed_out_bytes : nullptr;
  ++job.in_flight;
  job.handed_out_bytes += length;

  engine::BlockRequest& request = slot.request;
  request = {};
  request.op = job.op;
  request.fua = job.fua;
  request.offset_bytes = offset;
  request.length_bytes = length;
  request.owner = &slot;
  request.done = [](engine::BlockRequest& done) noexcept {
    auto& finished = *static_cast<Slot*>(done.owner);
    finished.owner->complete(finished);
  };
  if (job.op == Op::write) {
    std::memcpy(buffer.data() + skip, slot.memory, length);
    request.data = buffer.data() + skip;
  } else if (job.op == Op::read) {
    request.offset_bytes = offset & kWholeBlock;
    request.length_bytes = (skip + length + kBlockBytes - 1) & ~(kBlockBytes - 1);
    request.data = buffer.data();
  }
  request.hold = std::move(buffer);
  backend_.submit(request);
  return true;
}

void VolumeIo::complete(Slot& slot) noexcept {
  IoJob& job = *slot.job;
  if (slot.request.error != Error::Ok) {
    if (job.error == Error::Ok) job.error = slot.request.error;
  } else if (job.op == Op::read) {
    std::memcpy(slot.memory, slot.request.data + slot.skip_bytes, slot.length_bytes);
  }
  slot.request.hold.reset();
  slot.job = nullptr;
  slot.next = free_;
  free_ = &slot;
  ++free_count_;
  BLOCKD_ASSERT(job.in_flight > 0);
  --job.in_flight;
  end_if_done(job);
  if (head_) loop_.defer(pump_task_);
}

void VolumeIo::end_if_done(IoJob& job) noexcept {
  if (!job.queued && job.in_flight == 0) finish(&job);
}

void VolumeIo::finish(IoJob* job) noexcept {
  latency_us_[static_cast<std::size_t>(job->op)].record(loop_.now_us() - job->started_us);
  sink_.finished(std::unique_ptr<IoJob>(job));
}

}  // namespace blockd::border
