// The transmission phase of one connection: takes requests in, has the backend carry them out,
// answers.
//
// Requests are taken in one after the other and answered in whatever order they end. A payload goes
// three ways: wholly received already, it is handed on as a slice of the receive buffer; small, it
// is waited for there; else it is received straight into the aligned buffer of its piece, and each
// piece is submitted when it is full. So writes need little memory at a time, while a read, whose
// reply may say "no error" only once all of it is known, is granted all its memory or waits
// (memory_budget.h).
//
// Waiting for requests, pieces, bytes or buffers means that nothing is read from the client.
#pragma once

#include <cstdint>
#include <span>

#include "io/link.h"
#include "io/loop.h"
#include "io/stream_reader.h"
#include "nbd/export.h"
#include "nbd/memory_budget.h"
#include "nbd/request_pool.h"

namespace blockd::nbd {

struct ServerContext;

class Transmission {
 public:
  // `wake` runs pump() and looks at the state below; deferred whenever there may be something new.
  Transmission(ServerContext& context, io::StreamReader& reader, io::Task& wake);
  ~Transmission();
  Transmission(const Transmission&) = delete;
  Transmission& operator=(const Transmission&) = delete;

  void begin(Export& target, io::Link& link) noexcept;

  [[nodiscard]] std::span<std::byte> receive_buffer() noexcept;  // empty: blocked or stopped
  void received(std::size_t bytes) noexcept;
  void pump() noexcept;  // go on with what has been received, as far as resources allow

  void stop() noexcept;       // take nothing more in; what is in flight is still answered
  void link_lost() noexcept;  // the link must not be used any more, nor does it use our memory

  // The client's stream makes no sense any more.
  [[nodiscard]] bool broken() const noexcept { return broken_; }
  [[nodiscard]] bool stopped() const noexcept { return stage_ == Stage::stopped; }
  [[nodiscard]] bool answered() const noexcept;  // stopped, and all replies have left
  [[nodiscard]] bool idle() const noexcept { return requests_in_flight_ == 0; }
  [[nodiscard]] bool backend_busy() const noexcept { return blocks_in_flight_ > 0; }
  [[nodiscard]] bool awaits_memory() const noexcept {
    return starved_ || budget_waiter_.queued || pool_waiter_.queued;
  }
  // Memory is held, and it is for the client to move: to send a payload or to take replies.
  [[nodiscard]] bool holds_up_memory() const noexcept;
  // When the client last made a move: bytes came in or replies went out.
  [[nodiscard]] std::uint64_t progress_us() const noexcept { return progress_us_; }
  [[nodiscard]] Export* target() const noexcept { return export_; }

 private:
  enum class Stage : std::uint8_t { header, admit, read_buffers, payload, drain, stopped };
  enum class Input : std::uint8_t { none, buffered, direct };  // what the link is to receive

  bool step() noexcept;  // false: needs input or resources
  bool take_header() noexcept;
  bool admit() noexcept;
  bool blocked() noexcept;
  bool need(Input input) noexcept;
  void cut(Request& request) noexcept;
  bool gather_read_buffers() noexcept;
  bool take_payload() noexcept;
  bool place_payload(Piece& piece) noexcept;
  bool take_buffer(Piece& piece, std::uint32_t bytes) noexcept;
  bool drain_payload() noexcept;
  void taken_in() noexcept;
  void submit(Piece& piece) noexcept;
  void piece_done(Piece& piece) noexcept;
  void part_ended(Request& request) noexcept;
  void finish(Request& request) noexcept;
  void send_reply(Request& request) noexcept;
  void reply_part_sent(Request& request) noexcept;
  void release(Piece& piece) noexcept;
  void free_request(Request& request) noexcept;
  void abandon_incoming() noexcept;

  ServerContext& context_;
  io::StreamReader& reader_;
  io::Task& wake_;
  io::Link* link_ = nullptr;
  Export* export_ = nullptr;
  RequestPool pool_;
  BudgetWaiter budget_waiter_;
  PoolWaiter pool_waiter_;
  BufferPool* awaited_pool_ = nullptr;

  Stage stage_ = Stage::header;
  Input input_ = Input::none;
  bool pumping_ = false;
  bool blocked_ = false;  // for a request, pieces or bytes of this connection
  bool broken_ = false;
  bool starved_ = false;  // there was no buffer to receive into

  // The request being taken in.
  RequestHeader header_;
  Verdict verdict_;
  std::uint64_t started_us_ = 0;
  Request* incoming_ = nullptr;
  Piece* incoming_piece_ = nullptr;
  std::uint32_t drain_bytes_ = 0;

  std::uint32_t requests_in_flight_ = 0;
  std::uint32_t blocks_in_flight_ = 0;
  std::uint32_t parts_unsent_ = 0;
  std::uint64_t bytes_in_flight_ = 0;
  std::uint64_t progress_us_ = 0;
};

}  // namespace blockd::nbd
