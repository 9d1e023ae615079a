#include "nbd/request.h"

#include "nbd/wire.h"

namespace blockd::nbd {
namespace {

bool classify(std::uint16_t type, OpKind& kind) noexcept {
  switch (static_cast<Command>(type)) {
    case Command::read:
      kind = OpKind::read;
      return true;
    case Command::write:
      kind = OpKind::write;
      return true;
    case Command::flush:
      kind = OpKind::flush;
      return true;
    case Command::trim:
      kind = OpKind::trim;
      return true;
    case Command::write_zeroes:
      kind = OpKind::write_zeroes;
      return true;
    case Command::disconnect:
      break;
  }
  return false;
}

std::uint16_t allowed_flags(OpKind kind) noexcept {
  // FUA "is valid for all commands"; clients are known to set it anywhere.
  return kind == OpKind::write_zeroes ? kCommandFua | kCommandNoHole : kCommandFua;
}

bool within(const RequestHeader& header, std::uint64_t size_bytes) noexcept {
  return header.offset_bytes <= size_bytes &&
         header.length_bytes <= size_bytes - header.offset_bytes;
}

Errno find_fault(const RequestHeader& header, OpKind kind, const ExportInfo& info) noexcept {
  const bool modifies =
      kind == OpKind::write || kind == OpKind::trim || kind == OpKind::write_zeroes;
  const bool carries_data = kind == OpKind::read || kind == OpKind::write;
  if (modifies && (info.transmission_flags & kReadOnly) != 0) return Errno::perm;
  if ((header.flags & ~allowed_flags(kind)) != 0) return Errno::invalid;
  if (kind == OpKind::flush) {
    return header.offset_bytes == 0 && header.length_bytes == 0 ? Errno::ok : Errno::invalid;
  }
  if (carries_data && header.length_bytes > info.request_bytes_max) return Errno::invalid;
  if (!within(header, info.size_bytes)) {
    return kind == OpKind::write || kind == OpKind::write_zeroes ? Errno::no_space : Errno::invalid;
  }
  return Errno::ok;
}

}  // namespace

bool decode_request(std::span<const std::byte, kRequestHeaderBytes> in,
                    RequestHeader& header) noexcept {
  ByteReader reader(in);
  if (reader.take<std::uint32_t>() != kRequestMagic) return false;
  header.flags = reader.take<std::uint16_t>();
  header.type = reader.take<std::uint16_t>();
  header.cookie = reader.take<std::uint64_t>();
  header.offset_bytes = reader.take<std::uint64_t>();
  header.length_bytes = reader.take<std::uint32_t>();
  return true;
}

void encode_reply(std::span<std::byte, kSimpleReplyBytes> out, std::uint64_t cookie,
                  Errno error) noexcept {
  ByteWriter writer(out);
  writer.put(kSimpleReplyMagic);
  writer.put(static_cast<std::uint32_t>(error));
  writer.put(cookie);
}

Verdict judge(const RequestHeader& header, const ExportInfo& info) noexcept {
  Verdict verdict;
  if (static_cast<Command>(header.type) == Command::disconnect) {
    verdict.disconnect = true;
    return verdict;
  }
  if (!classify(header.type, verdict.kind)) {
    verdict.error = Errno::invalid;
    verdict.counted = false;
    return verdict;
  }
  verdict.error = find_fault(header, verdict.kind, info);
  verdict.fua = (header.flags & kCommandFua) != 0;
  if (verdict.kind == OpKind::write) verdict.payload_bytes = header.length_bytes;
  return verdict;
}

Errno reply_errno(Error error) noexcept {
  const auto code = static_cast<Errno>(error_nbd_errno(error));
  switch (code) {
    case Errno::ok:
    case Errno::perm:
    case Errno::io:
    case Errno::no_memory:
    case Errno::invalid:
    case Errno::no_space:
    case Errno::shutdown:
      return code;
    case Errno::overflow:
    case Errno::not_supported:
      break;  // reserved to features we do not offer
  }
  return Errno::io;
}

}  // namespace blockd::nbd
