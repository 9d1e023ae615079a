// The deferred tasks of one loop: an intrusive queue, first come first run.
#pragma once

#include "base/assert.h"
#include "io/loop.h"

namespace blockd::io {

class TaskQueue {
 public:
  [[nodiscard]] bool empty() const noexcept { return head_ == nullptr; }

  void push(Task& task) noexcept {
    if (task.queued) return;
    task.queued = true;
    task.next = nullptr;
    (tail_ ? tail_->next : head_) = &task;
    tail_ = &task;
  }

  // Runs the first task; a task may queue itself or others again. REQUIRES: not empty.
  void run_one() noexcept {
    BLOCKD_ASSERT(head_ != nullptr);
    Task& task = take();
    task.run(task);
  }

  void clear() noexcept {
    while (head_) (void)take();
  }

 private:
  Task& take() noexcept {
    Task& task = *head_;
    head_ = task.next;
    if (!head_) tail_ = nullptr;
    task.next = nullptr;
    task.queued = false;
    return task;
  }

  Task* head_ = nullptr;
  Task* tail_ = nullptr;
};

}  // namespace blockd::io
