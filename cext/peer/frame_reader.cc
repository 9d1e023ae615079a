#include "peer/frame_reader.h"

#include <algorithm>
#include <cstring>

#include "base/assert.h"
#include "base/crc32c.h"

namespace blockd::peer {

void FrameReader::reset() noexcept {
  head_ = tail_ = 0;
  greeted_ = in_payload_ = paused_ = false;
}

std::span<std::byte> FrameReader::receive_buffer() noexcept {
  if (paused_) return {};
  if (direct()) return target_.runs[0].empty() ? target_.runs[1] : target_.runs[0];
  BLOCKD_ASSERT(tail_ < kStagingBytes);
  return {staging_.get() + tail_, kStagingBytes - tail_};
}

bool FrameReader::received(std::size_t bytes) noexcept {
  if (!direct()) {
    tail_ += bytes;
    BLOCKD_ASSERT(tail_ <= kStagingBytes);
    return parse();
  }
  std::span<std::byte>& run = target_.runs[0].empty() ? target_.runs[1] : target_.runs[0];
  BLOCKD_ASSERT(bytes <= run.size());
  run = run.subspan(bytes);
  if (!target_.runs[0].empty() || !target_.runs[1].empty()) return true;
  return end_frame();
}

bool FrameReader::retry() noexcept {
  if (!paused_) return true;
  paused_ = false;
  return parse();
}

bool FrameReader::parse() noexcept {
  while (!paused_) {
    if (in_payload_) {
      if (!take_payload()) return false;
      if (in_payload_) break;  // the rest comes straight to its place
    } else if (available() >= (greeted_ ? kHeaderBytes : sizeof(format::Hello))) {
      if (!(greeted_ ? take_header() : take_hello())) return false;
    } else {
      break;
    }
  }
  if (head_ == tail_) {
    head_ = tail_ = 0;
  } else if (!paused_ && head_ > 0) {
    std::memmove(staging_.get(), staging_.get() + head_, available());
    tail_ -= head_;
    head_ = 0;
  }
  return true;
}

bool FrameReader::take_hello() noexcept {
  format::Hello hello;
  std::memcpy(&hello, staging_.get() + head_, sizeof hello);
  head_ += sizeof hello;
  greeted_ = true;
  if (hello.magic != format::kWireMagic) return false;
  const auto* bytes = reinterpret_cast<const std::byte*>(&hello);
  if (crc32c(bytes + 4, sizeof hello - 4) != hello.crc32c) return false;
  return sink_.on_hello(hello) == FrameSink::Verdict::go_on;
}

bool FrameReader::take_header() noexcept {
  std::memcpy(&header_, staging_.get() + head_, kHeaderBytes);
  const auto* bytes = reinterpret_cast<const std::byte*>(&header_);
  if (crc32c(bytes + 4, kHeaderBytes - 4) != header_.crc32c) return false;
  if (header_.payload_bytes > format::kPayloadBytesMax || header_.reserved != 0) return false;
  target_ = {};
  switch (sink_.on_header(header_, target_)) {
    case FrameSink::Verdict::refuse:
      return false;
    case FrameSink::Verdict::pause:
      paused_ = true;
      return true;  // the header stays where it is
    case FrameSink::Verdict::go_on:
      break;
  }
  head_ += kHeaderBytes;
  BLOCKD_ASSERT(target_.runs[0].size() + target_.runs[1].size() == header_.payload_bytes);
  if (header_.payload_bytes == 0) return end_frame();
  in_payload_ = true;
  return true;
}

bool FrameReader::take_payload() noexcept {
  for (std::span<std::byte>& run : target_.runs) {
    const std::size_t bytes = std::min(run.size(), available());
    if (bytes == 0) continue;
    std::memcpy(run.data(), staging_.get() + head_, bytes);
    run = run.subspan(bytes);
    head_ += bytes;
  }
  if (!target_.runs[0].empty() || !target_.runs[1].empty()) return true;
  return end_frame();
}

bool FrameReader::end_frame() noexcept {
  in_payload_ = false;
  return sink_.on_frame(header_) != FrameSink::Verdict::refuse;
}

}  // namespace blockd::peer
