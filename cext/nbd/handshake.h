// The handshake of one connection: bytes in, bytes out, and what comes next. It owns no memory,
// does no I/O and knows no connection, so a test or a fuzzer can drive it byte by byte.
//
// Fixed newstyle. An option is handled once all its data is in; options longer than kOptionBytesMax
// are skipped as they come and refused. Structured replies, metadata contexts, TLS and extended
// headers are options of their own: each is a case in handle_option() and a field in Negotiated.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "nbd/protocol.h"
#include "nbd/wire.h"

namespace blockd::nbd {

// What a client is told about an export.
struct ExportInfo {
  std::string name;
  std::string description;
  std::uint64_t size_bytes = 0;
  std::uint16_t transmission_flags = 0;
  std::uint32_t request_bytes_max = kRequestBytesMax;
};

// The exports as the handshake sees them.
class ExportDirectory {
 public:
  virtual ~ExportDirectory() = default;
  // Only the exact name: an empty name is no default, since a client that reconnects after the set
  // of exports has changed must never find another volume behind the name it used.
  [[nodiscard]] virtual const ExportInfo* find(std::string_view name) const noexcept = 0;
  [[nodiscard]] virtual const ExportInfo* at(
      std::size_t index) const noexcept = 0;  // null: no more
  [[nodiscard]] virtual bool shutting_down() const noexcept = 0;
};

struct Negotiated {
  const ExportInfo* export_info = nullptr;  // valid only until control returns to the loop
};

class Handshake {
 public:
  // The longest option that is looked at, header included: a name, and more infos than exist.
  static constexpr std::size_t kOptionBytesMax =
      kOptionHeaderBytes + 4 + kStringBytesMax + 2 + 1024;
  // What one step may write at most: a name and a description, each with its headers.
  static constexpr std::size_t kOutputBytesMax = 2 * kStringBytesMax + 512;

  enum class Next : std::uint8_t {
    input,         // call again with more bytes
    output,        // call again, with the same bytes, once the output has gone
    transmission,  // negotiated() says what; the output still has to go
    close          // hang up once the output has gone
  };
  struct Step {
    std::size_t consumed_bytes = 0;
    Next next = Next::input;
  };

  explicit Handshake(const ExportDirectory& directory) noexcept : directory_(directory) {}

  // The server speaks first.
  void greet(ByteWriter& out) noexcept;
  // Looks at `in`, the unconsumed bytes from the client, and goes on as far as one reply.
  // REQUIRES: out.room() >= kOutputBytesMax.
  Step advance(std::span<const std::byte> in, ByteWriter& out) noexcept;

  [[nodiscard]] const Negotiated& negotiated() const noexcept { return negotiated_; }
  [[nodiscard]] bool aborted_by_client() const noexcept { return aborted_; }

 private:
  enum class State : std::uint8_t { client_flags, option, skip, list };

  Step take_client_flags(std::span<const std::byte> in) noexcept;
  Step take_option(std::span<const std::byte> in, ByteWriter& out) noexcept;
  Next handle_option(Option option, std::span<const std::byte> data, ByteWriter& out) noexcept;
  Next handle_export_name(std::span<const std::byte> data, ByteWriter& out) noexcept;
  Next handle_info(Option option, std::span<const std::byte> data, ByteWriter& out) noexcept;
  Next continue_list(ByteWriter& out) noexcept;
  Step skip(std::span<const std::byte> in, ByteWriter& out) noexcept;

  const ExportDirectory& directory_;
  Negotiated negotiated_;
  State state_ = State::client_flags;
  bool no_zeroes_ = false;
  bool aborted_ = false;
  Option skipped_option_ = Option::abort;
  std::uint32_t skip_bytes_ = 0;
  std::size_t list_index_ = 0;
};

}  // namespace blockd::nbd
