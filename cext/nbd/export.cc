#include "nbd/export.h"

#include <utility>

namespace blockd::nbd {
namespace {

std::uint16_t flags_of(bool read_only) noexcept {
  // Every connection of an export leads to the one engine of its volume: what one has been told is
  // written or flushed, all see. Hence CAN_MULTI_CONN.
  constexpr std::uint16_t always = kHasFlags | kSendFlush | kSendFua | kCanMultiConn;
  return static_cast<std::uint16_t>(always |
                                    (read_only ? kReadOnly : kSendTrim | kSendWriteZeroes));
}

}  // namespace

Export::Export(std::string name_, std::string description_, engine::BlockBackend& backend,
               bool read_only, std::uint32_t request_bytes_max_)
    : ExportInfo{std::move(name_), std::move(description_), backend.size_bytes(),
                 flags_of(read_only), request_bytes_max_},
      backend_(backend) {}

void Export::record(OpKind kind, Errno error, std::uint64_t bytes,
                    std::uint64_t duration_us) noexcept {
  OpStats& op = ops_[static_cast<std::size_t>(kind)];
  ++op.requests;
  op.latency_us.record(duration_us);
  if (error == Errno::ok) {
    op.bytes += bytes;
  } else {
    ++op.errors;
  }
}

ExportStats Export::stats() const {
  return {name, size_bytes, connections, ops_};
}

}  // namespace blockd::nbd
