// Cuts a link's byte stream into a hello and frames; checks each header before a byte of it is
// used.
//
// A payload goes straight to the memory the sink names (two runs: CRCs, then data); only what
// shared a receive with a header is copied. Nothing here allocates after construction.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "format/wire.h"

namespace blockd::peer {

struct PayloadTarget {
  std::array<std::span<std::byte>, 2> runs;  // together exactly the header's payload_bytes
};

class FrameSink {
 public:
  enum class Verdict : std::uint8_t { go_on, pause, refuse };
  virtual ~FrameSink() = default;
  virtual Verdict on_hello(const format::Hello& hello) noexcept = 0;
  // The header's checksum holds; everything else is the sink's to check. pause: asked again by
  // retry().
  virtual Verdict on_header(const format::FrameHeader& header, PayloadTarget& target) noexcept = 0;
  virtual Verdict on_frame(
      const format::FrameHeader& header) noexcept = 0;  // its payload is in place
};

class FrameReader {
 public:
  explicit FrameReader(FrameSink& sink) : sink_(sink), staging_(new std::byte[kStagingBytes]) {}

  void reset() noexcept;
  [[nodiscard]] std::span<std::byte> receive_buffer() noexcept;
  // False: the peer broke the protocol; close the link.
  [[nodiscard]] bool received(std::size_t bytes) noexcept;
  // After a pause: the sink may have room now. False as above.
  [[nodiscard]] bool retry() noexcept;
  [[nodiscard]] bool paused() const noexcept { return paused_; }

 private:
  static constexpr std::size_t kStagingBytes = 64 * 1024;
  static constexpr std::size_t kHeaderBytes = sizeof(format::FrameHeader);

  bool parse() noexcept;
  bool take_hello() noexcept;
  bool take_header() noexcept;
  bool take_payload() noexcept;
  bool end_frame() noexcept;
  [[nodiscard]] bool direct() const noexcept { return in_payload_ && head_ == tail_; }
  [[nodiscard]] std::size_t available() const noexcept { return tail_ - head_; }

  FrameSink& sink_;
  std::unique_ptr<std::byte[]> staging_;
  std::size_t head_ = 0;
  std::size_t tail_ = 0;
  bool greeted_ = false;
  bool in_payload_ = false;
  bool paused_ = false;
  format::FrameHeader header_;
  PayloadTarget target_;
};

}  // namespace blockd::peer
