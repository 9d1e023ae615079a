#include "store/flusher.h"

#include <utility>

#include "base/assert.h"

namespace blockd::store {

Flusher::Flusher(Device& device, io::Loop& loop, Journal& journal,
                 bool power_loss_protected) noexcept
    : device_(device), loop_(loop), journal_(journal), power_loss_protected_(power_loss_protected) {
  protected_task_.owner = this;
  protected_task_.run = [](io::Task& task) noexcept {
    static_cast<Flusher*>(task.owner)->completed();
  };
  request_.op = io::DiskRequest::Op::flush;
  request_.owner = this;
  request_.done = [](io::DiskRequest& request) noexcept {
    static_cast<Flusher*>(request.owner)->completed();
  };
}

void Flusher::wait(FlushWaiter& waiter) noexcept {
  waiter.next = waiting_;
  waiting_ = &waiter;
}

void Flusher::add(StoreOp& op) noexcept {
  op.next = ops_waiting_;
  ops_waiting_ = &op;
}

bool Flusher::take_ready() noexcept {
  const std::uint64_t completed = journal_.completed().lsn;
  FlushWaiter* rest = nullptr;
  for (FlushWaiter* waiter = std::exchange(waiting_, nullptr); waiter;) {
    FlushWaiter* next = waiter->next;
    FlushWaiter*& list = waiter->min_lsn <= completed ? current_ : rest;
    waiter->next = list;
    list = waiter;
    waiter = next;
  }
  waiting_ = rest;
  ops_current_ = std::exchange(ops_waiting_, nullptr);
  return std::exchange(wanted_, false) || current_ || ops_current_;
}

void Flusher::pump() noexcept {
  if (in_flight_) return;
  if (const Error error = device_.failed(); error != Error::Ok) return fail_all(error);
  if (!take_ready()) return;
  in_flight_ = true;
  covers_lsn_ = journal_.completed().lsn;
  if (power_loss_protected_) return loop_.defer(protected_task_);
  device_.submit(request_);
}

void Flusher::completed() noexcept {
  in_flight_ = false;
  if (request_.error != Error::Ok) device_.note_failure(request_.error);
  const Error error = device_.failed();
  if (error == Error::Ok) journal_.set_flushed(covers_lsn_);
  FlushWaiter* waiters = std::exchange(current_, nullptr);
  StoreOp* ops = std::exchange(ops_current_, nullptr);
  while (waiters) {
    FlushWaiter& waiter = *std::exchange(waiters, waiters->next);
    waiter.done(waiter, error);
  }
  flushed(owner, ops, error);
}

void Flusher::fail_all(Error error) noexcept {
  BLOCKD_ASSERT(error != Error::Ok);
  wanted_ = false;
  FlushWaiter* waiters = std::exchange(waiting_, nullptr);
  StoreOp* ops = std::exchange(ops_waiting_, nullptr);
  while (waiters) {
    FlushWaiter& waiter = *std::exchange(waiters, waiters->next);
    waiter.done(waiter, error);
  }
  if (ops) flushed(owner, ops, error);
}

}  // namespace blockd::store
