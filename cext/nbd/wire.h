// Big-endian words in byte ranges: how everything in NBD is laid out.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>

#include "base/assert.h"

namespace blockd::nbd {

template <class Word>
[[nodiscard]] inline Word load_be(const std::byte* at) noexcept {
  Word value = 0;
  for (std::size_t i = 0; i < sizeof(Word); ++i) {
    value = static_cast<Word>((value << 8) | std::to_integer<Word>(at[i]));
  }
  return value;
}

template <>
inline std::uint8_t load_be<std::uint8_t>(const std::byte* at) noexcept {
  return std::to_integer<std::uint8_t>(*at);
}

template <class Word>
inline void store_be(std::byte* at, Word value) noexcept {
  for (std::size_t i = 0; i < sizeof(Word); ++i) {
    at[i] = static_cast<std::byte>(value >> (8 * (sizeof(Word) - 1 - i)));
  }
}

// Appends to memory that its owner has made large enough: running over it is our own bug.
class ByteWriter {
 public:
  explicit ByteWriter(std::span<std::byte> into) noexcept : into_(into) {}

  [[nodiscard]] std::size_t size() const noexcept { return size_; }
  [[nodiscard]] std::size_t room() const noexcept { return into_.size() - size_; }

  template <class Word>
  void put(Word value) noexcept {
    BLOCKD_ASSERT(room() >= sizeof(Word));
    store_be(into_.data() + size_, value);
    size_ += sizeof(Word);
  }
  void put_text(std::string_view text) noexcept {
    BLOCKD_ASSERT(room() >= text.size());
    if (!text.empty()) std::memcpy(into_.data() + size_, text.data(), text.size());
    size_ += text.size();
  }
  void put_zeroes(std::size_t bytes) noexcept {
    BLOCKD_ASSERT(room() >= bytes);
    std::memset(into_.data() + size_, 0, bytes);
    size_ += bytes;
  }

 private:
  std::span<std::byte> into_;
  std::size_t size_ = 0;
};

// Takes words from a range that came from outside; the caller checks left() first.
class ByteReader {
 public:
  explicit ByteReader(std::span<const std::byte> from) noexcept : from_(from) {}

  [[nodiscard]] std::size_t left() const noexcept { return from_.size(); }

  template <class Word>
  [[nodiscard]] Word take() noexcept {
    BLOCKD_ASSERT(left() >= sizeof(Word));
    const Word value = load_be<Word>(from_.data());
    from_ = from_.subspan(sizeof(Word));
    return value;
  }
  [[nodiscard]] std::string_view take_text(std::size_t bytes) noexcept {
    BLOCKD_ASSERT(left() >= bytes);
    const std::string_view text(reinterpret_cast<const char*>(from_.data()), bytes);
    from_ = from_.subspan(bytes);
    return text;
  }

 private:
  std::span<const std::byte> from_;
};

}  // namespace blockd::nbd
