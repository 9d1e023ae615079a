// One export: what clients are told about it, the backend behind it, and what it has counted.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "engine/block_backend.h"
#include "nbd/handshake.h"
#include "nbd/nbd_stats.h"

namespace blockd::nbd {

class Export : public ExportInfo {
 public:
  Export(std::string name_, std::string description_, engine::BlockBackend& backend, bool read_only,
         std::uint32_t request_bytes_max_);
  Export(const Export&) = delete;
  Export& operator=(const Export&) = delete;

  [[nodiscard]] engine::BlockBackend& backend() const noexcept { return backend_; }
  void take_up_size() noexcept { size_bytes = backend_.size_bytes(); }

  // One request answered. `bytes` count when there was no error.
  void record(OpKind kind, Errno error, std::uint64_t bytes, std::uint64_t duration_us) noexcept;
  [[nodiscard]] ExportStats stats() const;

  std::uint32_t connections = 0;       // in transmission
  bool draining = false;               // being removed: no new connections
  std::function<void(Error)> removed;  // when draining and the last connection has gone

 private:
  engine::BlockBackend& backend_;
  std::array<OpStats, kOpKinds> ops_{};
};

}  // namespace blockd::nbd
