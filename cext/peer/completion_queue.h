// Operations that are decided at once but, by contract, complete later: from the loop's deferred
// task.
#pragma once

#include "io/loop.h"
#include "peer/replica_client.h"

namespace blockd::peer {

class CompletionQueue {
 public:
  explicit CompletionQueue(io::Loop& loop) noexcept : loop_(loop) {
    task_.owner = this;
    task_.run = [](io::Task& task) noexcept { static_cast<CompletionQueue*>(task.owner)->drain(); };
  }

  void push(ReplicaOp& op, Error error) noexcept {
    op.error = error;
    ops_.push_back(op);
    loop_.defer(task_);
  }

  [[nodiscard]] bool empty() const noexcept { return ops_.empty(); }

 private:
  void drain() noexcept {
    for (std::size_t count = ops_.size(); count > 0; --count) {
      ReplicaOp& op = *ops_.pop_front();
      op.done(op);
    }
    if (!ops_.empty()) loop_.defer(task_);
  }

  io::Loop& loop_;
  io::Task task_;
  List<ReplicaOp> ops_;
};

}  // namespace blockd::peer
