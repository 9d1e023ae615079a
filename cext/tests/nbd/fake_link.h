// A loop and a link without a world around them, for driving one connection by hand: quick to set
// up a million times over, and hostile within the rules of io/link.h. The buffer lent for a receive
// stays lent over other events until bytes arrive; sends are taken one by one or held back.
#pragma once

#include <algorithm>
#include <cstring>
#include <memory>
#include <string>

#include "base/random.h"
#include "io/link.h"
#include "io/loop.h"
#include "io/task_queue.h"
#include "io/timer_heap.h"

namespace blockd::nbd {

class FakeLoop final : public io::Loop {
 public:
  explicit FakeLoop(std::uint64_t seed) : random_(seed) {}
  [[nodiscard]] std::uint64_t now_us() const noexcept override { return now_us_; }
  void arm(io::Timer& timer, std::uint64_t deadline_us) noexcept override {
    timers_.arm(timer, deadline_us);
  }
  void cancel(io::Timer& timer) noexcept override { timers_.cancel(timer); }
  void defer(io::Task& task) noexcept override { tasks_.push(task); }
  [[nodiscard]] std::uint64_t random_u64() noexcept override { return random_.next(); }

  void run_tasks() {
    while (!tasks_.empty()) tasks_.run_one();
  }
  void advance(std::uint64_t us) {
    now_us_ += us;
    while (timers_.next_deadline_us() <= now_us_) {
      io::Timer& timer = timers_.pop();
      timer.fire(timer);
      run_tasks();
    }
  }

 private:
  std::uint64_t now_us_ = 1;
  Random random_;
  io::TimerHeap timers_;
  io::TaskQueue tasks_;
};

// The server's end of a link; the test is the other end. Lives on in the FakeNetwork's hands when
// the connection has let go of it.
class FakeLink final : public io::Link {
 public:
  struct Far {
    io::LinkHandler* handler = nullptr;
    std::string inbound;   // said by the client, not yet received
    std::string outbound;  // sent by the server
    std::span<std::byte> lent;
    bool asked = false;  // `lent` is what receive_buffer() last said
    bool closing = false;
    bool over = false;
    io::SendItem* first = nullptr;
    io::SendItem* last = nullptr;

    // What happens next, if anything can: one receive, one send, or the end. True: something did.
    bool receive(std::size_t bytes_max) {
      if (over || closing) return false;
      if (!asked) {
        lent = handler->receive_buffer();
        asked = true;
      }
      const std::size_t bytes = std::min({bytes_max, lent.size(), inbound.size()});
      if (bytes == 0) return false;
      std::memcpy(lent.data(), inbound.data(), bytes);
      inbound.erase(0, bytes);
      asked = false;
      handler->received(bytes);
      return true;
    }
    bool take_one_send() {
      if (!first || over) return false;
      io::SendItem& item = *first;
      first = item.next;
      if (!first) last = nullptr;
      for (std::uint32_t i = 0; i < item.iov_count; ++i) {
        outbound.append(static_cast<const char*>(item.iov[i].iov_base), item.iov[i].iov_len);
      }
      item.next = nullptr;
      item.done(item);
      return true;
    }
    void end(Error reason) {
      if (over) return;
      closing = true;
      while (io::SendItem* item = first) {
        first = item->next;
        item->next = nullptr;
        item->done(*item);
      }
      over = true;
      handler->closed(reason);
    }
  };

  explicit FakeLink(std::shared_ptr<Far> far) : far_(std::move(far)) {}
  void send(io::SendItem& item) noexcept override {
    BLOCKD_ASSERT(!far_->over);
    item.next = nullptr;
    (far_->last ? far_->last->next : far_->first) = &item;
    far_->last = &item;
  }
  void resume() noexcept override {
    BLOCKD_ASSERT(!far_->over);
    if (far_->lent.empty()) far_->asked = false;
  }
  void close() noexcept override { far_->closing = true; }
  [[nodiscard]] std::size_t queued_bytes() const noexcept override { return 0; }
  [[nodiscard]] std::string peer_name() const override { return "fake"; }

 private:
  std::shared_ptr<Far> far_;
};

class FakeNetwork final : public io::Network {
 public:
  std::unique_ptr<io::Listener> listen(const io::Endpoint& at,
                                       io::AcceptHandler& handler) override {
    handler_ = &handler;
    return std::make_unique<Listening>(at);
  }
  std::unique_ptr<io::Link> connect(const io::Endpoint&, io::LinkHandler&) override {
    throw Fault(Error::Unsupported, "the fake network only listens");
  }
  // Null: refused.
  std::shared_ptr<FakeLink::Far> arrive() {
    auto far = std::make_shared<FakeLink::Far>();
    far->handler = handler_->accepted(std::make_unique<FakeLink>(far));
    return far->handler ? far : nullptr;
  }

 private:
  class Listening final : public io::Listener {
   public:
    explicit Listening(io::Endpoint at) : at_(std::move(at)) {}
    [[nodiscard]] io::Endpoint endpoint() const override { return at_; }

   private:
    io::Endpoint at_;
  };
  io::AcceptHandler* handler_ = nullptr;
};

}  // namespace blockd::nbd
