// One client: the link, the handshake, then the transmission, and an orderly end of each.
//
// Destroyed by the server's context from its own deferred task, once the link has closed and
// nothing of it is with the backend any more.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "io/link.h"
#include "io/loop.h"
#include "io/stream_reader.h"
#include "nbd/handshake.h"
#include "nbd/transmission.h"

namespace blockd::nbd {

class Connection final : public io::LinkHandler {
 public:
  Connection(ServerContext& context, std::unique_ptr<io::Link> link);
  ~Connection() override;
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  [[nodiscard]] bool usable() const noexcept {
    return static_cast<bool>(output_);
  }  // there was memory for it
  void start() noexcept;
  // Ends it: a handshake at once, a transmission once what is in flight has been answered.
  void drain() noexcept;
  [[nodiscard]] std::uint64_t progress_us() const noexcept { return transmission_.progress_us(); }
  [[nodiscard]] bool holds_up_memory() const noexcept { return transmission_.holds_up_memory(); }
  [[nodiscard]] bool awaits_memory() const noexcept { return transmission_.awaits_memory(); }
  void evict() noexcept { close_link(); }

  [[nodiscard]] Export* target() const noexcept { return transmission_.target(); }

  std::span<std::byte> receive_buffer() noexcept override;
  void received(std::size_t bytes) noexcept override;
  void closed(Error reason) noexcept override;

  Connection* next = nullptr;  // the context's list
  Connection* prev = nullptr;

 private:
  enum class Phase : std::uint8_t { handshake, transmission, closing, gone };

  void run_handshake() noexcept;
  std::span<const std::byte> buffered() noexcept;
  void send_output(std::size_t bytes) noexcept;
  void begin_transmission(const ExportInfo& info) noexcept;
  void woken() noexcept;
  void timed_out() noexcept;
  void look_at_transmission() noexcept;
  void close_link() noexcept;

  ServerContext& context_;
  std::unique_ptr<io::Link> link_;
  io::Task wake_;
  io::Timer timer_;  // of the handshake; later of a drain that waits for the client only
  io::StreamReader reader_;
  Transmission transmission_;
  Handshake handshake_;
  BufferRef output_;  // of the handshake
  io::SendItem output_item_;
  bool output_busy_ = false;
  Handshake::Next next_ = Handshake::Next::input;
  Phase phase_ = Phase::handshake;
  bool paused_ = false;  // the link was given no receive buffer
};

}  // namespace blockd::nbd
