// A disk that its borrower opens and closes while the content stays.
#pragma once

#include <span>

#include "io/sim_disk.h"

namespace blockd::io::testing {

class BorrowedDisk : public Disk {
 public:
  explicit BorrowedDisk(SimDisk& disk) : disk_(disk) {}
  void submit(DiskRequest& request) noexcept override { disk_.submit(request); }
  [[nodiscard]] std::uint64_t capacity_bytes() const noexcept override {
    return disk_.capacity_bytes();
  }
  [[nodiscard]] Error read_now(std::uint64_t offset, std::span<std::byte> into) noexcept override {
    return disk_.read_now(offset, into);
  }
  [[nodiscard]] Error write_now(std::uint64_t offset,
                                std::span<const std::byte> from) noexcept override {
    return disk_.write_now(offset, from);
  }
  [[nodiscard]] Error flush_now() noexcept override { return disk_.flush_now(); }

 private:
  SimDisk& disk_;
};

}  // namespace blockd::io::testing
