#include "io/uring_link.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "base/assert.h"

namespace blockd::io {
namespace {

std::size_t item_bytes(const SendItem& item) noexcept {
  std::size_t bytes = 0;
  for (std::uint32_t i = 0; i < item.iov_count; ++i) bytes += item.iov[i].iov_len;
  return bytes;
}

}  // namespace

UringLink::UringLink(UringLoop& loop, int fd, std::string peer_name)
    : loop_(loop), fd_(fd), peer_name_(std::move(peer_name)) {
  task_.owner = connect_timer_.owner = receive_op_.owner = send_op_.owner = connect_op_.owner =
      this;
  task_.run = [](Task& task) noexcept { static_cast<UringLink*>(task.owner)->turn(); };
  connect_timer_.fire = [](Timer& timer) noexcept {
    static_cast<UringLink*>(timer.owner)->fail(Error::Timeout);
  };
  receive_op_.complete = [](UringOp& op, std::int32_t result, std::uint32_t flags) noexcept {
    static_cast<UringLink*>(op.owner)->received(result, flags);
  };
  send_op_.complete = [](UringOp& op, std::int32_t result, std::uint32_t) noexcept {
    static_cast<UringLink*>(op.owner)->sent(result);
  };
  connect_op_.complete = [](UringOp& op, std::int32_t result, std::uint32_t) noexcept {
    static_cast<UringLink*>(op.owner)->connected(result);
  };
}

UringLink::~UringLink() {
  BLOCKD_ASSERT(over_ || !handler_);  // only before any use or after closed()
  BLOCKD_ASSERT(!in_flight());
  BLOCKD_ASSERT(!task_.queued);
  if (fd_ >= 0) ::close(fd_);
}

void UringLink::start(LinkHandler& handler) noexcept {
  handler_ = &handler;
  established_ = true;
  loop_.defer(task_);
}

void UringLink::connect(LinkHandler& handler, const SocketAddress& to,
                        std::uint64_t timeout_us) noexcept {
  handler_ = &handler;
  address_ = to;
  io_uring_sqe& sqe = loop_.get_sqe();
  io_uring_prep_connect(&sqe, fd_, address_.get(), address_.bytes);
  loop_.queue(sqe, connect_op_);
  loop_.arm(connect_timer_, loop_.now_us() + timeout_us);
}

void UringLink::fail_later(LinkHandler& handler, Error reason) noexcept {
  handler_ = &handler;
  fail(reason);
}

void UringLink::send(SendItem& item) noexcept {
  BLOCKD_ASSERT(!over_);
  item.next = nullptr;
  (tail_ ? tail_->next : head_) = &item;
  tail_ = &item;
  queued_bytes_ += item_bytes(item);
  if (handler_ && !closing_ && !send_op_.in_flight) loop_.defer(task_);  // closing: end() drains
}

void UringLink::resume() noexcept {
  if (handler_ && !closing_ && !receive_op_.in_flight) loop_.defer(task_);
}

void UringLink::close() noexcept {
  if (!over_) fail(Error::Ok);
}

// Ends the link for `reason`, once; the task completes it when the kernel has let go of everything.
void UringLink::fail(Error reason) noexcept {
  if (closing_) return;
  closing_ = true;
  reason_ = reason != Error::Ok && loop_.stopping() ? Error::ShuttingDown : reason;
  loop_.cancel(connect_timer_);
  loop_.cancel_op(connect_op_);
  loop_.cancel_op(receive_op_);
  loop_.cancel_op(send_op_);
  if (handler_) loop_.defer(task_);
}

void UringLink::turn() noexcept {
  if (closing_) {
    if (!in_flight()) end();
    return;
  }
  if (!established_) return;
  start_send();
  start_receive();
}

void UringLink::start_receive() noexcept {
  if (receive_op_.in_flight) return;
  lent_ = handler_->receive_buffer();
  if (lent_.empty()) return;  // paused
  io_uring_sqe& sqe = loop_.get_sqe();
  io_uring_prep_recv(&sqe, fd_, lent_.data(), lent_.size(), 0);
  // Trying first costs a futile call into the socket when nothing has come yet.
  if (!data_waits_) sqe.ioprio |= IORING_RECVSEND_POLL_FIRST;
  loop_.queue(sqe, receive_op_);
}

void UringLink::received(std::int32_t result, std::uint32_t flags) noexcept {
  if (result > 0 && !closing_) {
    BLOCKD_ASSERT(static_cast<std::size_t>(result) <= lent_.size());
    data_waits_ = (flags & IORING_CQE_F_SOCK_NONEMPTY) != 0;
    lent_ = {};
    handler_->received(static_cast<std::size_t>(result));
    if (!closing_) start_receive();
    return;
  }
  if (closing_) return loop_.defer(task_);
  if (result == -EINTR || result == -EAGAIN) return loop_.defer(task_);
  if (result == -EINVAL && !data_waits_) {  // before 5.19 there is no POLL_FIRST
    data_waits_ = true;
    return loop_.defer(task_);
  }
  fail(Error::LinkLost);
}

void UringLink::start_send() noexcept {
  if (send_op_.in_flight || !head_) return;
  std::size_t count = 0;
  std::size_t skip = front_sent_bytes_;
  for (const SendItem* item = head_; item && count + item->iov_count <= kGatherMax;
       item = item->next) {
    for (std::uint32_t i = 0; i < item->iov_count; ++i) {
      const std::size_t passed = std::min(skip, item->iov[i].iov_len);
      skip -= passed;
      if (passed == item->iov[i].iov_len) continue;
      gather_[count++] = {static_cast<std::byte*>(item->iov[i].iov_base) + passed,
                          item->iov[i].iov_len - passed};
    }
  }
  message_.msg_iov = gather_.data();
  message_.msg_iovlen = count;
  io_uring_sqe& sqe = loop_.get_sqe();
  io_uring_prep_sendmsg(&sqe, fd_, &message_, MSG_NOSIGNAL | MSG_WAITALL);
  loop_.queue(sqe, send_op_);
}

void UringLink::sent(std::int32_t result) noexcept {
  if (result >= 0) finish_sent(static_cast<std::size_t>(result));
  const bool again = result >= 0 || result == -EINTR || result == -EAGAIN;
  if (!again && !closing_) return fail(Error::LinkLost);
  if (closing_ || head_) loop_.defer(task_);
}

void UringLink::finish_sent(std::size_t bytes) noexcept {
  BLOCKD_ASSERT(bytes <= queued_bytes_);
  queued_bytes_ -= bytes;
  front_sent_bytes_ += bytes;
  while (head_ && front_sent_bytes_ >= item_bytes(*head_)) {
    SendItem& item = *head_;
    front_sent_bytes_ -= item_bytes(item);
    head_ = item.next;
    if (!head_) tail_ = nullptr;
    item.done(item);
  }
}

void UringLink::connected(std::int32_t result) noexcept {
  loop_.cancel(connect_timer_);
  if (closing_) return loop_.defer(task_);
  if (result < 0) return fail(result == -ETIMEDOUT ? Error::Timeout : Error::LinkLost);
  established_ = true;
  handler_->connected();
  loop_.defer(task_);
}

bool UringLink::in_flight() const noexcept {
  return receive_op_.in_flight || send_op_.in_flight || connect_op_.in_flight;
}

void UringLink::end() noexcept {
  while (head_) {
    SendItem& item = *head_;
    head_ = item.next;
    if (!head_) tail_ = nullptr;
    item.done(item);
  }
  queued_bytes_ = 0;
  lent_ = {};
  if (fd_ >= 0) ::close(std::exchange(fd_, -1));
  over_ = true;
  loop_.cancel(connect_timer_);
  BLOCKD_ASSERT(!in_flight());
  BLOCKD_ASSERT(!task_.queued);
  handler_->closed(reason_);  // may destroy this
}

}  // namespace blockd::io
