// Helpers of the io tests: aligned pages with a recognisable content, and disk requests that own
// theirs.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <span>

#include "base/random.h"
#include "io/disk.h"

namespace blockd::io::testing {

// Memory aligned to 4096, zeroed.
class Memory {
 public:
  explicit Memory(std::size_t bytes)
      : data_(static_cast<std::byte*>(std::aligned_alloc(4096, bytes)), std::free), bytes_(bytes) {
    std::memset(data_.get(), 0, bytes);
  }
  [[nodiscard]] std::byte* data() const noexcept { return data_.get(); }
  [[nodiscard]] std::span<std::byte> span() const noexcept { return {data_.get(), bytes_}; }

 private:
  std::unique_ptr<std::byte, void (*)(void*)> data_;
  std::size_t bytes_;
};

class Page : public Memory {
 public:
  Page() : Memory(4096) {}
  friend bool operator==(const Page& a, const Page& b) noexcept {
    return std::memcmp(a.data(), b.data(), 4096) == 0;
  }
};

// The page that belongs at `offset_bytes` in generation `tag`.
inline Page pattern(std::uint64_t offset_bytes, std::uint64_t tag) {
  Page page;
  Random random(offset_bytes * 1000 + tag);
  random.fill(page.span());
  return page;
}

// A request with its memory. Kept on the heap so that it may be returned by value.
struct Pending {
  struct State {
    DiskRequest request;
    iovec iov{};
    std::unique_ptr<Memory> memory;
    bool completed = false;
  };
  std::unique_ptr<State> state = std::make_unique<State>();
  DiskRequest& request = state->request;
  bool& completed = state->completed;

  static Pending read(Disk& disk, std::uint64_t offset, std::size_t pages) {
    Pending pending = with_memory(DiskRequest::Op::read, offset, pages);
    pending.submit(disk);
    return pending;
  }
  static Pending write(Disk& disk, std::uint64_t offset, std::size_t pages, std::uint64_t tag) {
    Pending pending = with_memory(DiskRequest::Op::write, offset, pages);
    for (std::size_t i = 0; i < pages; ++i) {
      std::memcpy(pending.bytes().data() + i * 4096, pattern(offset + i * 4096, tag).data(), 4096);
    }
    pending.submit(disk);
    return pending;
  }
  static Pending flush(Disk& disk) {
    Pending pending;
    pending.request.op = DiskRequest::Op::flush;
    pending.submit(disk);
    return pending;
  }
  static Pending discard(Disk& disk, std::uint64_t offset, std::uint64_t length) {
    Pending pending;
    pending.request.op = DiskRequest::Op::discard;
    pending.request.offset_bytes = offset;
    pending.request.length_bytes = length;
    pending.submit(disk);
    return pending;
  }

  [[nodiscard]] std::span<std::byte> bytes() const noexcept { return state->memory->span(); }
  // Whether a completed read found generation `tag`.
  [[nodiscard]] bool holds(std::uint64_t tag) const {
    for (std::size_t at = 0; at < bytes().size(); at += 4096) {
      if (std::memcmp(bytes().data() + at, pattern(request.offset_bytes + at, tag).data(), 4096) !=
          0) {
        return false;
      }
    }
    return true;
  }

 private:
  static Pending with_memory(DiskRequest::Op op, std::uint64_t offset, std::size_t pages) {
    Pending pending;
    pending.state->memory = std::make_unique<Memory>(pages * 4096);
    pending.state->iov = {pending.state->memory->data(), pages * 4096};
    pending.request.op = op;
    pending.request.offset_bytes = offset;
    pending.request.iov = &pending.state->iov;
    pending.request.iov_count = 1;
    return pending;
  }
  void submit(Disk& disk) {
    request.owner = state.get();
    request.done = [](DiskRequest& r) noexcept { static_cast<State*>(r.owner)->completed = true; };
    disk.submit(request);
  }
};

}  // namespace blockd::io::testing
