// What a client sends, as byte strings; for tests.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "nbd/protocol.h"
#include "nbd/request.h"
#include "nbd/wire.h"

namespace blockd::nbd {

template <class Word>
inline std::string be(Word value) {
  std::string text(sizeof(Word), '\0');
  store_be(reinterpret_cast<std::byte*>(text.data()), value);
  return text;
}

template <class Word>
inline Word from_be(std::string_view text, std::size_t at) {
  BLOCKD_ASSERT(at + sizeof(Word) <= text.size());
  return load_be<Word>(reinterpret_cast<const std::byte*>(text.data()) + at);
}

inline std::span<const std::byte> as_bytes(std::string_view text) {
  return {reinterpret_cast<const std::byte*>(text.data()), text.size()};
}

inline std::string client_flags(std::uint32_t flags = kClientFixedNewstyle | kClientNoZeroes) {
  return be(flags);
}

inline std::string option(std::uint32_t number, std::string_view data = {}) {
  return be(kOptionMagic) + be(number) + be(static_cast<std::uint32_t>(data.size())) +
         std::string(data);
}
inline std::string option(Option which, std::string_view data = {}) {
  return option(static_cast<std::uint32_t>(which), data);
}

inline std::string info_data(std::string_view name, const std::vector<std::uint16_t>& infos = {}) {
  std::string data = be(static_cast<std::uint32_t>(name.size())) + std::string(name);
  data += be(static_cast<std::uint16_t>(infos.size()));
  for (const std::uint16_t info : infos) data += be(info);
  return data;
}

inline std::string request(Command type, std::uint64_t cookie, std::uint64_t offset_bytes,
                           std::uint32_t length_bytes, std::uint16_t flags = 0) {
  return be(kRequestMagic) + be(flags) + be(static_cast<std::uint16_t>(type)) + be(cookie) +
         be(offset_bytes) + be(length_bytes);
}

// One reply to an option.
struct OptionAnswer {
  std::uint32_t option = 0;
  std::uint32_t type = 0;
  std::string data;
  [[nodiscard]] bool is(OptionReply reply) const {
    return type == static_cast<std::uint32_t>(reply);
  }
};

// Takes whole option replies off the front of `text`.
inline std::vector<OptionAnswer> take_option_answers(std::string& text) {
  std::vector<OptionAnswer> answers;
  while (text.size() >= kOptionReplyHeaderBytes &&
         from_be<std::uint64_t>(text, 0) == kOptionReplyMagic) {
    const auto bytes = from_be<std::uint32_t>(text, 16);
    if (text.size() < kOptionReplyHeaderBytes + bytes) break;
    answers.push_back({from_be<std::uint32_t>(text, 8), from_be<std::uint32_t>(text, 12),
                       text.substr(kOptionReplyHeaderBytes, bytes)});
    text.erase(0, kOptionReplyHeaderBytes + bytes);
  }
  return answers;
}

}  // namespace blockd::nbd
