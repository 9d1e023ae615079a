// The numbers of the NBD protocol, named and valued as in its specification (doc/proto.md there).
#pragma once

#include <cstddef>
#include <cstdint>

namespace blockd::nbd {

// Handshake.
inline constexpr std::uint64_t kInitMagic = 0x4e42444d41474943;    // "NBDMAGIC"
inline constexpr std::uint64_t kOptionMagic = 0x49484156454f5054;  // "IHAVEOPT"
inline constexpr std::uint64_t kOptionReplyMagic = 0x0003e889045565a9;

inline constexpr std::uint16_t kFlagFixedNewstyle = 1u << 0;
inline constexpr std::uint16_t kFlagNoZeroes = 1u << 1;
inline constexpr std::uint32_t kClientFixedNewstyle = 1u << 0;
inline constexpr std::uint32_t kClientNoZeroes = 1u << 1;

enum class Option : std::uint32_t { export_name = 1, abort = 2, list = 3, info = 6, go = 7 };

enum class OptionReply : std::uint32_t {
  ack = 1,
  server = 2,
  info = 3,
  err_unsup = 0x80000001,
  err_invalid = 0x80000003,
  err_unknown = 0x80000006,
  err_shutdown = 0x80000007,
  err_too_big = 0x80000009,
};

enum class InfoType : std::uint16_t { export_info = 0, name = 1, description = 2, block_size = 3 };

inline constexpr std::size_t kGreetingBytes = 18;
inline constexpr std::size_t kClientFlagsBytes = 4;
inline constexpr std::size_t kOptionHeaderBytes = 16;
inline constexpr std::size_t kOptionReplyHeaderBytes = 20;
inline constexpr std::size_t kExportNameZeroes = 124;
inline constexpr std::size_t kStringBytesMax = 4096;  // "Protocol phases", on strings

// Transmission.
inline constexpr std::uint16_t kHasFlags = 1u << 0;
inline constexpr std::uint16_t kReadOnly = 1u << 1;
inline constexpr std::uint16_t kSendFlush = 1u << 2;
inline constexpr std::uint16_t kSendFua = 1u << 3;
inline constexpr std::uint16_t kSendTrim = 1u << 5;
inline constexpr std::uint16_t kSendWriteZeroes = 1u << 6;
inline constexpr std::uint16_t kCanMultiConn = 1u << 8;

inline constexpr std::uint32_t kRequestMagic = 0x25609513;
inline constexpr std::uint32_t kSimpleReplyMagic = 0x67446698;
inline constexpr std::size_t kRequestHeaderBytes = 28;
inline constexpr std::size_t kSimpleReplyBytes = 16;

enum class Command : std::uint16_t {
  read = 0,
  write = 1,
  disconnect = 2,
  flush = 3,
  trim = 4,
  write_zeroes = 6,
};

inline constexpr std::uint16_t kCommandFua = 1u << 0;
inline constexpr std::uint16_t kCommandNoHole = 1u << 1;

// The only errors a reply may carry.
enum class Errno : std::uint32_t {
  ok = 0,
  perm = 1,
  io = 5,
  no_memory = 12,
  invalid = 22,
  no_space = 28,
  overflow = 75,
  not_supported = 95,
  shutdown = 108,
};

// The largest payload of one request; also what a client may assume without asking.
inline constexpr std::uint32_t kRequestBytesMax = 32u << 20;

}  // namespace blockd::nbd
