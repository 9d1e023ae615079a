// The device as the store's parts use it: requests counted, and the first failed write remembered.
//
// After a write or flush has failed nothing is known about what the device holds: the store stops
// taking mutations (failed()), goes on reading, and is rebuilt or reopened by whoever runs it.
#pragma once

#include "io/disk.h"
#include "store/store.h"

namespace blockd::store {

class Device {
 public:
  explicit Device(io::Disk& disk) noexcept : disk_(disk) {}

  void submit(io::DiskRequest& request) noexcept {
    std::uint64_t bytes = 0;
    for (std::uint32_t i = 0; i < request.iov_count; ++i) bytes += request.iov[i].iov_len;
    switch (request.op) {
      case io::DiskRequest::Op::read:
        ++stats.device_reads;
        stats.device_read_bytes += bytes;
        break;
      case io::DiskRequest::Op::write:
        ++stats.device_writes;
        stats.device_write_bytes += bytes;
        break;
      case io::DiskRequest::Op::flush:
        ++stats.device_flushes;
        break;
      case io::DiskRequest::Op::discard:
        break;
    }
    disk_.submit(request);
  }
  void note_failure(Error error) noexcept {
    if (failed_ == Error::Ok) failed_ = error;
  }
  [[nodiscard]] Error failed() const noexcept { return failed_; }
  [[nodiscard]] io::Disk& disk() noexcept { return disk_; }

  StoreStats stats;

 private:
  io::Disk& disk_;
  Error failed_ = Error::Ok;
};

}  // namespace blockd::store
