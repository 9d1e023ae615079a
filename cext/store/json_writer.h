// Writes one JSON document, for what the store tells people and programs about itself.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace blockd::store {

class JsonWriter {
 public:
  JsonWriter& begin_object() { return open('{'); }
  JsonWriter& end_object() { return close('}'); }
  JsonWriter& begin_array() { return open('['); }
  JsonWriter& end_array() { return close(']'); }
  // The next value, object or array belongs to it.
  JsonWriter& key(std::string_view name) {
    string(name);
    text_ += ':';
    separate_ = false;
    return *this;
  }
  JsonWriter& string(std::string_view value) {
    separate();
    text_ += '"';
    for (const char c : value) {
      if (c == '"' || c == '\\') text_ += '\\';
      text_ += static_cast<unsigned char>(c) < 0x20 ? ' ' : c;
    }
    text_ += '"';
    return *this;
  }
  JsonWriter& number(std::uint64_t value) { return raw(std::to_string(value)); }
  JsonWriter& boolean(bool value) { return raw(value ? "true" : "false"); }
  JsonWriter& field(std::string_view name, std::uint64_t value) { return key(name).number(value); }
  JsonWriter& field(std::string_view name, std::string_view value) {
    return key(name).string(value);
  }
  [[nodiscard]] const std::string& text() const noexcept { return text_; }

 private:
  void separate() {
    if (separate_) text_ += ',';
    separate_ = true;
  }
  JsonWriter& raw(std::string_view value) {
    separate();
    text_ += value;
    return *this;
  }
  JsonWriter& open(char bracket) {
    separate();
    text_ += bracket;
    separate_ = false;
    return *this;
  }
  JsonWriter& close(char bracket) {
    text_ += bracket;
    separate_ = true;
    return *this;
  }

  std::string text_;
  bool separate_ = false;
};

}  // namespace blockd::store
