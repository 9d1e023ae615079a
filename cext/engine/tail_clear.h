// Clears the end of what shrinks: trims, some at a time, then a flush.
//
// Its requests reach behind the new end, where others' are refused: whoever takes them tells them
// apart by owns(). All on one loop's thread; one clearing at a time.
#pragma once

#include <array>
#include <cstdint>
#include <functional>

#include "engine/block_backend.h"

namespace blockd::engine {

class TailClear {
 public:
  using Submit = std::function<void(BlockRequest&)>;

  explicit TailClear(Submit submit);
  TailClear(const TailClear&) = delete;
  TailClear& operator=(const TailClear&) = delete;

  // [from, to) shows zeros, and that is durable: then done. The first error ends it: done when
  // what was under way has been answered. May come from inside.
  void start(std::uint64_t from_bytes, std::uint64_t to_bytes, std::function<void(Error)> done);
  [[nodiscard]] bool owns(const BlockRequest& request) const noexcept {
    return request.owner == this;
  }

 private:
  static constexpr std::size_t kTrims = 8;

  void pump() noexcept;
  void submit(BlockRequest& request) noexcept;

  Submit submit_;
  std::array<BlockRequest, kTrims> requests_;
  std::array<bool, kTrims> busy_{};
  std::uint32_t under_way_ = 0;
  std::uint64_t next_bytes_ = 0;
  std::uint64_t end_bytes_ = 0;
  bool pumping_ = false;
  bool flushed_ = false;
  Error error_ = Error::Ok;
  std::function<void(Error)> done_;
};

}  // namespace blockd::engine
