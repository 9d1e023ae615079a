// Operations to frames and back. The layout: docs/FORMATS_WIRE.md.
#pragma once

#include "format/wire.h"
#include "peer/replica_client.h"

namespace blockd::peer {

[[nodiscard]] format::FrameType frame_type(ReplicaOp::Kind kind) noexcept;
// False: no such request.
[[nodiscard]] bool kind_of(std::uint8_t type, ReplicaOp::Kind& kind) noexcept;

// The highest version that the sender of `theirs` and one who speaks up to `own_max` both speak.
// 0: there is none.
[[nodiscard]] std::uint16_t agreed_version(const format::Hello& theirs,
                                           std::uint16_t own_max) noexcept;
void seal(format::Hello& hello) noexcept;
void seal(format::FrameHeader& header) noexcept;

// Fill op.frame and the parts of op.item; the caller sets item.done and sends it.
void encode_request(ReplicaOp& op) noexcept;
void encode_reply(ReplicaOp& op) noexcept;

// The fields of a request's header; its payload has not come yet. InvalidArgument...: refuse the
// link.
[[nodiscard]] bool decode_request(const format::FrameHeader& header, ReplicaOp& op) noexcept;
// How many bytes of payload a valid request of this shape carries: first CRCs or body, then data.
struct PayloadShape {
  std::uint32_t head_bytes = 0;
  std::uint32_t data_bytes = 0;
  [[nodiscard]] std::uint32_t total() const noexcept { return head_bytes + data_bytes; }
};
[[nodiscard]] PayloadShape request_shape(const ReplicaOp& op) noexcept;
void decode_body(ReplicaOp& op) noexcept;  // of open, heartbeat, release, read_view, list_view:
                                           // op.frame.tail holds it

// The reply to `op`: false when its shape does not fit the request.
[[nodiscard]] bool decode_reply(const format::FrameHeader& header, ReplicaOp& op,
                                PayloadShape& shape) noexcept;

}  // namespace blockd::peer
