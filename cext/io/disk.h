// A block device or file: asynchronous, unordered, volatile until flushed.
//
// Requests complete in any order; two that overlap and are both in flight leave either's bytes.
// A completed write is seen by later reads but survives power loss only once a flush that was
// submitted after its completion has completed. Memory, offsets and lengths are multiples of 4096.
// A discard is a hint: afterwards the range reads as zeros or as before, until written again.
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <span>

#include "blockd/errors.h"

namespace blockd::io {

struct DiskRequest {
  enum class Op : std::uint8_t { read, write, flush, discard };
  Op op = Op::read;
  Error error = Error::Ok;  // set before done()
  std::uint64_t offset_bytes = 0;
  std::uint64_t length_bytes = 0;  // of discard; else the sum of iov
  iovec* iov = nullptr;            // owned by the caller, untouched until done()
  std::uint32_t iov_count = 0;
  void (*done)(DiskRequest&) noexcept = nullptr;  // called once, never from inside submit()
  void* owner = nullptr;
  DiskRequest* next = nullptr;  // the disk's own while in flight
  std::uint64_t scratch = 0;    // likewise (short transfers resume here)
};

class Disk {
 public:
  virtual ~Disk() = default;
  virtual void submit(DiskRequest& request) noexcept = 0;
  [[nodiscard]] virtual std::uint64_t capacity_bytes() const noexcept = 0;

  // Blocking forms, for format, open and recovery; of them, only read_now() also while requests are
  // in flight.
  [[nodiscard]] virtual Error read_now(std::uint64_t offset_bytes,
                                       std::span<std::byte> into) noexcept = 0;
  [[nodiscard]] virtual Error write_now(std::uint64_t offset_bytes,
                                        std::span<const std::byte> from) noexcept = 0;
  [[nodiscard]] virtual Error flush_now() noexcept = 0;

  // Memory that requests will often use (one range a call); an implementation may register it.
  // Whoever did takes it back, by the same range, before the memory goes, with no request using it.
  virtual void register_memory(std::span<std::byte> memory) noexcept { (void)memory; }
  virtual void unregister_memory(std::span<std::byte> memory) noexcept { (void)memory; }
};

}  // namespace blockd::io
