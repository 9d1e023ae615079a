// One socket as a Link. See uring_network.h.
#pragma once

#include <sys/socket.h>

#include <array>
#include <cstdint>
#include <string>

#include "io/endpoint.h"
#include "io/link.h"
#include "io/uring_loop.h"

namespace blockd::io {

class UringLink final : public Link {
 public:
  // Takes over `fd`. Inert until start() or connect().
  UringLink(UringLoop& loop, int fd, std::string peer_name);
  ~UringLink() override;
  UringLink(const UringLink&) = delete;
  UringLink& operator=(const UringLink&) = delete;

  void start(LinkHandler& handler) noexcept;  // an accepted socket
  void connect(LinkHandler& handler, const SocketAddress& to, std::uint64_t timeout_us) noexcept;
  void fail_later(LinkHandler& handler, Error reason) noexcept;  // a link that never was

  void send(SendItem& item) noexcept override;
  void resume() noexcept override;
  void close() noexcept override;
  [[nodiscard]] std::size_t queued_bytes() const noexcept override { return queued_bytes_; }
  [[nodiscard]] std::string peer_name() const override { return peer_name_; }

 private:
  static constexpr std::size_t kGatherMax = 64;

  void turn() noexcept;  // the deferred task: starts what can be started, or ends
  void start_receive() noexcept;
  void start_send() noexcept;
  void received(std::int32_t result, std::uint32_t flags) noexcept;
  void sent(std::int32_t result) noexcept;
  void connected(std::int32_t result) noexcept;
  void finish_sent(std::size_t bytes) noexcept;
  void fail(Error reason) noexcept;
  void end() noexcept;
  [[nodiscard]] bool in_flight() const noexcept;

  UringLoop& loop_;
  int fd_;
  std::string peer_name_;
  LinkHandler* handler_ = nullptr;
  bool established_ = false;
  bool closing_ = false;
  bool over_ = false;
  bool data_waits_ = false;  // the kernel said so: receive without polling first
  Error reason_ = Error::Ok;

  Task task_;
  Timer connect_timer_;
  UringOp receive_op_;
  UringOp send_op_;
  UringOp connect_op_;
  std::span<std::byte> lent_;
  SendItem* head_ = nullptr;
  SendItem* tail_ = nullptr;
  std::size_t front_sent_bytes_ = 0;  // of *head_
  std::size_t queued_bytes_ = 0;
  msghdr message_{};
  std::array<iovec, kGatherMax> gather_{};
  SocketAddress address_;
};

}  // namespace blockd::io
