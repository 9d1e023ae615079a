// One request of the transmission phase: its header on the wire, and what is to become of it.
// Pure functions; the rules of what a client may ask are all in judge().
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "blockd/errors.h"
#include "nbd/handshake.h"
#include "nbd/nbd_stats.h"
#include "nbd/protocol.h"

namespace blockd::nbd {

struct RequestHeader {
  std::uint16_t flags = 0;
  std::uint16_t type = 0;
  std::uint64_t cookie = 0;  // the client's, opaque
  std::uint64_t offset_bytes = 0;
  std::uint32_t length_bytes = 0;
};

// False: the magic is wrong, so the stream can no longer be followed.
bool decode_request(std::span<const std::byte, kRequestHeaderBytes> in,
                    RequestHeader& header) noexcept;
void encode_reply(std::span<std::byte, kSimpleReplyBytes> out, std::uint64_t cookie,
                  Errno error) noexcept;

struct Verdict {
  Errno error = Errno::ok;  // else the request is answered with it and not carried out
  bool disconnect = false;  // no reply; nothing follows
  bool fua = false;
  bool counted = true;  // false: an unknown command, which has no OpKind
  OpKind kind = OpKind::read;
  std::uint32_t payload_bytes = 0;  // follow on the wire whatever the error
};

Verdict judge(const RequestHeader& header, const ExportInfo& info) noexcept;

// The engine's error as the specification lets a reply carry it; anything else is EIO.
Errno reply_errno(Error error) noexcept;

}  // namespace blockd::nbd
