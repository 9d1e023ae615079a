#include "peer/wire_codec.h"

#include <algorithm>
#include <cstring>

#include "base/assert.h"
#include "base/crc32c.h"

namespace blockd::peer {

using Kind = ReplicaOp::Kind;

format::FrameType frame_type(Kind kind) noexcept {
  return static_cast<format::FrameType>(static_cast<std::uint8_t>(kind) + 1);
}
static_assert(static_cast<int>(Kind::open) + 1 == static_cast<int>(format::FrameType::open));
static_assert(static_cast<int>(Kind::replace) + 1 == static_cast<int>(format::FrameType::replace));
static_assert(static_cast<int>(Kind::release) + 1 == static_cast<int>(format::FrameType::release));
static_assert(static_cast<int>(Kind::list_view) + 1 ==
              static_cast<int>(format::FrameType::list_view));
static_assert(static_cast<int>(Kind::digests) + 1 == static_cast<int>(format::FrameType::digests));

bool kind_of(std::uint8_t type, Kind& kind) noexcept {
  if (type < 1 || type > static_cast<std::uint8_t>(format::FrameType::digests)) return false;
  kind = static_cast<Kind>(type - 1);
  return true;
}

std::uint16_t agreed_version(const format::Hello& theirs, std::uint16_t own_max) noexcept {
  const std::uint32_t their_max = std::max<std::uint32_t>(theirs.version, theirs.version_max);
  const std::uint32_t version = std::min<std::uint32_t>(their_max, own_max);
  const std::uint32_t lowest = std::max<std::uint32_t>(theirs.version, format::kWireVersionMin);
  return version < lowest ? 0 : static_cast<std::uint16_t>(version);
}

void seal(format::Hello& hello) noexcept {
  hello.crc32c = crc32c(reinterpret_cast<const std::byte*>(&hello) + 4, sizeof hello - 4);
}

void seal(format::FrameHeader& header) noexcept {
  header.crc32c = crc32c(reinterpret_cast<const std::byte*>(&header) + 4, sizeof header - 4);
}

namespace {

constexpr bool of_view(Kind kind) noexcept {
  return kind == Kind::read_view || kind == Kind::list_view;
}

constexpr bool has_era(Kind kind) noexcept {
  return is_mutation(kind) || of_view(kind) || kind == Kind::read_chunk;
}

constexpr std::uint32_t payload_blocks(const ReplicaOp& op) noexcept {
  switch (op.kind) {
    case Kind::write:
      return op.block_count;
    case Kind::replace:
      return op.valid_mask != 0 ? kBlocksPerChunk : 0;
    default:
      return 0;
  }
}

void set_parts(ReplicaOp& op, std::uint32_t head_bytes, std::uint32_t data_bytes) noexcept {
  op.frame.header.payload_bytes = head_bytes + data_bytes;
  seal(op.frame.header);
  op.item = io::SendItem{};
  op.item.iov[0] = {&op.frame, sizeof(format::FrameHeader) + head_bytes};
  op.item.iov[1] = {op.data, data_bytes};
  op.item.iov_count = data_bytes > 0 ? 2 : 1;
}

template <class Body>
std::uint32_t put_body(ReplicaOp& op, const Body& body) noexcept {
  static_assert(sizeof body <= sizeof op.frame.tail);
  std::memcpy(op.frame.tail.data(), &body, sizeof body);
  return sizeof body;
}

std::uint32_t put_request_body(ReplicaOp& op) noexcept {
  if (op.kind == Kind::open || of_view(op.kind)) {
    format::OpenBody body;
    body.volume = op.segment.volume;
    body.segment = op.segment.index;
    body.store = op.store;
    body.block_count = op.kind == Kind::open ? op.block_count : 0;
    return put_body(op, body);
  }
  if (op.kind == Kind::heartbeat || op.kind == Kind::release) {
    return put_body(op, format::VolumeBody{op.segment.volume});
  }
  return 0;
}

}  // namespace

void encode_request(ReplicaOp& op) noexcept {
  format::FrameHeader header;
  const bool covers = op.covers && is_mutation(op.kind);
  header.type = static_cast<std::uint8_t>(frame_type(op.kind));
  header.flags = static_cast<std::uint8_t>((op.fua ? format::kFlagFua : 0) |
                                           (op.may_create ? format::kFlagMayCreate : 0) |
                                           (covers ? format::kFlagCovers : 0));
  header.request_id = op.request_id;
  header.handle = op.handle;
  header.valid_mask = op.kind == Kind::replace ? op.valid_mask : std::uint16_t{0};
  header.epoch = op.version.epoch;
  header.seq = op.version.seq;
  header.first_block = op.first_block;
  header.block_count = is_listing(op.kind)
                           ? op.data_bytes / static_cast<std::uint32_t>(sizeof(format::ChunkEntry))
                           : op.block_count;
  header.mark_epoch = op.stable.epoch;
  header.mark_seq = op.stable.seq;
  header.era = has_era(op.kind) ? op.era : 0;
  header.died = op.kind == Kind::replace ? op.died : 0;
  op.frame.header = header;
  const std::uint32_t blocks = payload_blocks(op);
  BLOCKD_ASSERT(blocks <= format::kWireBlocksMax);
  std::uint32_t head_bytes = put_request_body(op);
  if (blocks > 0) {
    head_bytes = blocks * 4;
    std::memcpy(op.frame.tail.data(), op.crcs, head_bytes);
  }
  set_parts(op, head_bytes, blocks * kBlockBytes);
}

bool decode_request(const format::FrameHeader& header, ReplicaOp& op) noexcept {
  if (!kind_of(header.type, op.kind) || (header.flags & ~format::kFlagsKnown) != 0 ||
      header.error != 0)
    return false;
  op.fua = (header.flags & format::kFlagFua) != 0;
  op.may_create = (header.flags & format::kFlagMayCreate) != 0;
  op.covers = (header.flags & format::kFlagCovers) != 0;
  op.error = Error::Ok;
  op.request_id = header.request_id;
  op.handle = header.handle;
  op.valid_mask = header.valid_mask;
  op.version = {header.epoch, header.seq};
  op.first_block = header.first_block;
  op.block_count = header.block_count;
  op.stable = {header.mark_epoch, header.mark_seq};
  op.era = header.era;
  op.died = header.died;
  op.data = nullptr;
  op.data_bytes = 0;
  if ((op.kind == Kind::write || is_read(op.kind)) &&
      (op.block_count == 0 || op.block_count > format::kWireBlocksMax)) {
    return false;
  }
  if (is_listing(op.kind) && (op.block_count == 0 || op.block_count > format::kListEntriesMax))
    return false;
  return request_shape(op).total() == header.payload_bytes;
}

PayloadShape request_shape(const ReplicaOp& op) noexcept {
  if (op.kind == Kind::open || of_view(op.kind)) return {sizeof(format::OpenBody), 0};
  if (op.kind == Kind::heartbeat || op.kind == Kind::release)
    return {sizeof(format::VolumeBody), 0};
  const std::uint32_t blocks = payload_blocks(op);
  return {blocks * 4, blocks * kBlockBytes};
}

void decode_body(ReplicaOp& op) noexcept {
  if (op.kind == Kind::open || of_view(op.kind)) {
    format::OpenBody body;
    std::memcpy(static_cast<void*>(&body), op.frame.tail.data(), sizeof body);
    op.segment = {body.volume, body.segment};
    op.store = body.store;
    if (op.kind == Kind::open) op.block_count = body.block_count;
  } else if (op.kind == Kind::heartbeat || op.kind == Kind::release) {
    format::VolumeBody body;
    std::memcpy(static_cast<void*>(&body), op.frame.tail.data(), sizeof body);
    op.segment = {body.volume, 0};
  }
}

void encode_reply(ReplicaOp& op) noexcept {
  // Damaged blocks are sent as they are: their CRCs tell.
  const bool ok = op.error == Error::Ok || op.damaged != 0;
  format::FrameHeader header;
  header.type = static_cast<std::uint8_t>(static_cast<std::uint8_t>(frame_type(op.kind)) |
                                          format::kFrameReply);
  header.error = static_cast<std::uint16_t>(ok ? Error::Ok : op.error);
  header.request_id = op.request_id;
  std::uint32_t head_bytes = 0;
  std::uint32_t data_bytes = 0;
  switch (op.kind) {
    case Kind::open:
      header.handle = op.handle;
      header.block_count = op.block_count;
      header.era = ok ? op.era : 0;
      header.mark_epoch = ok ? op.stable.epoch : 0;
      header.mark_seq = ok ? op.stable.seq : op.wait_us;
      break;
    case Kind::heartbeat:
      header.mark_seq = op.lease_us;
      header.block_count = op.full ? 1 : 0;
      break;
    case Kind::root:
      header.epoch = ok ? op.root.low : 0;
      header.seq = ok ? op.root.high : 0;
      break;
    case Kind::list:
    case Kind::states:
    case Kind::list_view:
    case Kind::digests:
      if (ok) header.block_count = op.block_count;
      if (ok) data_bytes = op.block_count * static_cast<std::uint32_t>(sizeof(format::ChunkEntry));
      break;
    case Kind::read:
    case Kind::read_view:
    case Kind::read_chunk: {
      const bool chunk = op.kind == Kind::read_chunk;
      const std::uint32_t blocks = !ok     ? 0
                                   : chunk ? (op.valid_mask != 0 ? kBlocksPerChunk : 0)
                                           : op.block_count;
      if (ok && chunk) {
        header.valid_mask = op.valid_mask;
        header.epoch = op.version.epoch;
        header.seq = op.version.seq;
        header.era = op.era;
        header.died = op.died;
        header.flags = op.covers ? format::kFlagCovers : std::uint8_t{0};
      }
      head_bytes = blocks * 4;
      data_bytes = blocks * kBlockBytes;
      if (head_bytes > 0) std::memcpy(op.frame.tail.data(), op.crcs, head_bytes);
      break;
    }
    default:
      break;
  }
  op.frame.header = header;
  set_parts(op, head_bytes, data_bytes);
}

bool decode_reply(const format::FrameHeader& header, ReplicaOp& op, PayloadShape& shape) noexcept {
  if (header.type != (static_cast<std::uint8_t>(frame_type(op.kind)) | format::kFrameReply))
    return false;
  op.error = static_cast<Error>(header.error);
  shape = {};
  const bool ok = op.error == Error::Ok;
  switch (op.kind) {
    case Kind::open:
      op.handle = header.handle;
      if (ok) op.block_count = header.block_count;
      if (ok) op.era = header.era;
      if (ok) op.stable = {header.mark_epoch, header.mark_seq};
      op.wait_us = ok ? 0 : header.mark_seq;
      break;
    case Kind::heartbeat:
      op.lease_us = header.mark_seq;
      op.full = header.block_count != 0;
      break;
    case Kind::root:
      op.root = {header.epoch, header.seq};
      break;
    case Kind::list:
    case Kind::states:
    case Kind::list_view:
    case Kind::digests:
      if (!ok) break;
      if (header.block_count > op.data_bytes / sizeof(format::ChunkEntry)) return false;
      op.block_count = header.block_count;
      shape.data_bytes = op.block_count * static_cast<std::uint32_t>(sizeof(format::ChunkEntry));
      break;
    case Kind::read:
    case Kind::read_view:
      if (ok) shape = {op.block_count * 4, op.block_count * kBlockBytes};
      break;
    case Kind::read_chunk:
      if (!ok) break;
      op.valid_mask = header.valid_mask;
      op.version = {header.epoch, header.seq};
      op.era = header.era;
      op.died = header.died;
      op.covers = (header.flags & format::kFlagCovers) != 0;
      op.block_count = kBlocksPerChunk;
      if (op.valid_mask != 0) shape = {kBlocksPerChunk * 4, kChunkBytes};
      break;
    default:
      break;
  }
  return shape.total() == header.payload_bytes;
}

}  // namespace blockd::peer
