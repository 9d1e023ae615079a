// Turns what a link receives into headers and payloads for a parser, copying as little as can be.
//
// The owner passes LinkHandler::receive_buffer() and received() on to it and then parses in a loop:
//   peek/consume        contiguous bytes, for headers
//   slice               a payload that has arrived whole, handed on without a copy: it keeps the
//                       receive buffer alive
//   read_into           a payload into memory of the caller's choice: what is buffered already is
//                       copied, the rest is received straight into it
//   skip                a payload nobody wants
// When the pool has no buffer the link pauses, and goes on when one comes back. A parser that stops
// with bytes available (its own back-pressure) calls the link's resume() when it goes on, because
// the buffer may have filled up meanwhile. Same thread as the link.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/buffer.h"
#include "io/link.h"

namespace blockd::io {

class StreamReader {
 public:
  struct Slice {
    const std::byte* data = nullptr;
    BufferRef hold;
  };

  // Buffers come from `pool`; a peek() may ask for at most one buffer's capacity.
  explicit StreamReader(BufferPool& pool) noexcept;
  ~StreamReader();  // only when the link no longer uses the memory: before it started or in
                    // closed()
  StreamReader(const StreamReader&) = delete;
  StreamReader& operator=(const StreamReader&) = delete;

  void attach(Link& link) noexcept { link_ = &link; }  // whom to resume; before the first receive
  void detach() noexcept;                              // in closed(): gives the buffer back

  // The two halves of LinkHandler that this serves.
  [[nodiscard]] std::span<std::byte> receive_buffer() noexcept;
  void received(std::size_t bytes) noexcept;

  // For the parser. Between read_into() or skip() and their end (`busy()`) nothing else may be
  // asked.
  [[nodiscard]] std::size_t available() const noexcept { return end_ - begin_; }
  // The next `bytes` bytes, contiguous, or null: then they will be once received() has come often
  // enough. Valid until the next consume() or receive_buffer().
  [[nodiscard]] const std::byte* peek(std::size_t bytes) noexcept;
  void consume(std::size_t bytes) noexcept;               // REQUIRES: available() >= bytes
  [[nodiscard]] Slice slice(std::size_t bytes) noexcept;  // likewise; consumes them
  // True: done already. False: busy() until received() has filled it.
  [[nodiscard]] bool read_into(std::span<std::byte> into) noexcept;
  [[nodiscard]] bool skip(std::uint64_t bytes) noexcept;
  [[nodiscard]] bool busy() const noexcept { return !target_.empty() || skip_bytes_ > 0; }

 private:
  // A payload at least this large makes the next receive short (kShortReceive), so that of a run of
  // large payloads little more than the headers is received into buffers and copied.
  static constexpr std::size_t kLargePayload = 32 * 1024;
  static constexpr std::size_t kShortReceive = 4096;
  // A fresh buffer is taken rather than receiving into a tail shorter than this.
  static constexpr std::size_t kTailMin = 2048;

  [[nodiscard]] bool make_room() noexcept;
  [[nodiscard]] std::size_t room() const noexcept { return buffer_.capacity_bytes() - end_; }

  BufferPool& pool_;
  Link* link_ = nullptr;
  PoolWaiter waiter_;
  BufferRef buffer_;
  std::size_t begin_ = 0;  // unread bytes are [begin_, end_)
  std::size_t end_ = 0;
  std::size_t wanted_ = 1;  // what the last peek() missed: must fit before the buffer's end
  std::span<std::byte> target_;
  std::uint64_t skip_bytes_ = 0;
  bool expect_large_ = false;
  bool woken_ = false;  // by the pool, and no buffer taken since
};

}  // namespace blockd::io
