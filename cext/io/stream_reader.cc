#include "io/stream_reader.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/assert.h"

namespace blockd::io {

StreamReader::StreamReader(BufferPool& pool) noexcept : pool_(pool) {
  waiter_.owner = this;
  waiter_.ready = [](PoolWaiter& waiter) noexcept {
    auto& reader = *static_cast<StreamReader*>(waiter.owner);
    reader.woken_ = true;
    if (reader.link_) reader.link_->resume();
  };
}

StreamReader::~StreamReader() {
  detach();
}

void StreamReader::detach() noexcept {
  pool_.cancel(waiter_);
  link_ = nullptr;
  buffer_.reset();
  begin_ = end_ = 0;
  target_ = {};
  skip_bytes_ = 0;
  if (std::exchange(woken_, false))
    pool_.pass_on();  // the buffer that was ours to take is another's
}

std::span<std::byte> StreamReader::receive_buffer() noexcept {
  if (!target_.empty()) return target_;
  if (!make_room()) return {};
  const std::size_t limit = expect_large_ ? kShortReceive : room();
  return {buffer_.data() + end_, std::min(room(), limit)};
}

// Sees to it that what the parser waits for fits behind begin_. False: pause, because the pool is
// empty (it will resume the link) or because a parser that has what it asked for leaves no room (so
// will it).
bool StreamReader::make_room() noexcept {
  const std::size_t held = available();
  if (buffer_) {
    const bool fits = begin_ + std::max(wanted_, held + 1) <= buffer_.capacity_bytes();
    if (fits && (held > 0 || room() >= kTailMin)) return true;
    if (held >= wanted_) return false;
    if (buffer_.use_count() == 1) {  // no slice of it is out: the bytes may move within
      std::memmove(buffer_.data(), buffer_.data() + begin_, held);
      begin_ = 0;
      end_ = held;
      return true;
    }
  }
  BufferRef fresh = pool_.get();
  if (!fresh) {
    pool_.wait(waiter_);
    return false;
  }
  woken_ = false;
  if (held > 0) std::memcpy(fresh.data(), buffer_.data() + begin_, held);
  buffer_ = std::move(fresh);
  begin_ = 0;
  end_ = held;
  return true;
}

void StreamReader::received(std::size_t bytes) noexcept {
  BLOCKD_ASSERT(bytes > 0);
  if (!target_.empty()) {
    BLOCKD_ASSERT(bytes <= target_.size());
    target_ = target_.subspan(bytes);
    return;
  }
  BLOCKD_ASSERT(bytes <= room());
  end_ += bytes;
  expect_large_ = false;
  if (skip_bytes_ == 0) return;
  const std::size_t skipped =
      static_cast<std::size_t>(std::min<std::uint64_t>(skip_bytes_, available()));
  skip_bytes_ -= skipped;
  consume(skipped);
}

const std::byte* StreamReader::peek(std::size_t bytes) noexcept {
  BLOCKD_ASSERT(!busy());
  BLOCKD_ASSERT(bytes > 0 && bytes <= pool_.buffer_bytes());
  if (available() >= bytes) return buffer_.data() + begin_;
  wanted_ = bytes;
  return nullptr;
}

void StreamReader::consume(std::size_t bytes) noexcept {
  BLOCKD_ASSERT(available() >= bytes);
  begin_ += bytes;
  wanted_ = 1;
  if (begin_ == end_ && buffer_.use_count() == 1) begin_ = end_ = 0;  // all of it is free again
}

StreamReader::Slice StreamReader::slice(std::size_t bytes) noexcept {
  BLOCKD_ASSERT(!busy());
  BLOCKD_ASSERT(bytes > 0 && available() >= bytes);
  Slice slice{buffer_.data() + begin_, buffer_};
  consume(bytes);
  return slice;
}

bool StreamReader::read_into(std::span<std::byte> into) noexcept {
  BLOCKD_ASSERT(!busy());
  const std::size_t buffered = std::min(into.size(), available());
  if (buffered > 0) {
    std::memcpy(into.data(), buffer_.data() + begin_, buffered);
    consume(buffered);
  }
  target_ = into.subspan(buffered);
  expect_large_ = into.size() >= kLargePayload && !target_.empty();
  return target_.empty();
}

bool StreamReader::skip(std::uint64_t bytes) noexcept {
  BLOCKD_ASSERT(!busy());
  const std::size_t buffered =
      static_cast<std::size_t>(std::min<std::uint64_t>(bytes, available()));
  consume(buffered);
  skip_bytes_ = bytes - buffered;
  return skip_bytes_ == 0;
}

}  // namespace blockd::io
