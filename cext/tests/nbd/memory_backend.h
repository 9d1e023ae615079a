// A volume in memory for tests: a byte array behind the BlockBackend contract, with the contract's
// liberties taken. It ends requests late and out of order, takes a write's payload only then, and
// holds on to some payloads beyond done(), checking when it lets go that nobody has changed them.
#pragma once

#include <algorithm>
#include <cstring>
#include <deque>
#include <list>
#include <vector>

#include "base/assert.h"
#include "base/random.h"
#include "blockd/types.h"
#include "engine/block_backend.h"
#include "io/loop.h"

namespace blockd::nbd {

class MemoryBackend final : public engine::BlockBackend {
 public:
  struct Options {
    std::uint64_t seed = 1;
    std::uint64_t delay_us_max = 0;   // 0: end with the loop's next task
    std::uint32_t error_one_in = 0;   // requests that fail with DiskError
    std::uint32_t refuse_one_in = 0;  // requests that fail inside submit()
    std::uint32_t linger_one_in = 0;  // payloads held beyond done()
  };

  MemoryBackend(io::Loop& loop, std::uint64_t size_bytes, Options options)
      : loop_(loop),
        random_(options.seed),
        options_(options),
        bytes_(rounded(size_bytes)),
        size_bytes_(size_bytes) {
    task_.owner = this;
    task_.run = [](io::Task& task) noexcept { static_cast<MemoryBackend*>(task.owner)->turn(); };
    timer_.owner = this;
    timer_.fire = [](io::Timer& timer) noexcept {
      static_cast<MemoryBackend*>(timer.owner)->turn();
    };
  }
  MemoryBackend(io::Loop& loop, std::uint64_t size_bytes)
      : MemoryBackend(loop, size_bytes, Options()) {}
  ~MemoryBackend() override {
    BLOCKD_ASSERT(waiting_.empty());
    let_go();
    loop_.cancel(timer_);
  }

  [[nodiscard]] std::uint64_t size_bytes() const noexcept override { return size_bytes_; }

  void submit(engine::BlockRequest& request) noexcept override {
    check(request);
    ++submitted;
    if (random_.chance(options_.refuse_one_in)) {
      request.error = Error::QuorumLost;
      request.done(request);
      return;
    }
    const std::uint64_t delay_us =
        options_.delay_us_max ? random_.below(options_.delay_us_max + 1) : 0;
    waiting_.push_back({&request, loop_.now_us() + delay_us});
    high_water = std::max(high_water, waiting_.size());
    schedule();
  }

  void grow(std::uint64_t size_bytes) {
    bytes_.resize(rounded(size_bytes));
    size_bytes_ = size_bytes;
  }
  void stall(bool stalled) noexcept {
    stalled_ = stalled;
    schedule();
  }
  [[nodiscard]] std::size_t in_flight() const noexcept { return waiting_.size(); }
  [[nodiscard]] std::vector<std::byte>& bytes() noexcept { return bytes_; }
  // Ends what it holds beyond done().
  void let_go() noexcept {
    for (const Held& held : held_) {
      BLOCKD_ASSERT(std::memcmp(held.data, held.copy.data(), held.copy.size()) == 0);
    }
    held_.clear();
  }

  std::uint64_t submitted = 0;
  std::uint64_t flushed = 0;
  std::uint64_t fua = 0;
  std::size_t high_water = 0;

 private:
  struct Waiting {
    engine::BlockRequest* request;
    std::uint64_t due_us;
  };
  struct Held {
    BufferRef hold;
    const std::byte* data;
    std::vector<std::byte> copy;
  };

  static std::size_t rounded(std::uint64_t size_bytes) {
    return (size_bytes + kBlockBytes - 1) / kBlockBytes * kBlockBytes;
  }

  void check(const engine::BlockRequest& request) const noexcept {
    using Op = engine::BlockRequest::Op;
    if (request.op == Op::flush) return;
    BLOCKD_ASSERT(request.length_bytes > 0);
    BLOCKD_ASSERT(request.offset_bytes + request.length_bytes <=
                  (request.op == Op::read ? bytes_.size() : size_bytes_));
    if (request.op == Op::read || request.op == Op::write) {
      BLOCKD_ASSERT(request.length_bytes <= kMutationBytesMax);
      BLOCKD_ASSERT(request.data != nullptr);
      BLOCKD_ASSERT(request.hold.use_count() > 0);
    }
    if (request.op == Op::read) {
      BLOCKD_ASSERT(!request.fua);
      BLOCKD_ASSERT(request.offset_bytes % kBlockBytes == 0 &&
                    request.length_bytes % kBlockBytes == 0);
      BLOCKD_ASSERT(reinterpret_cast<std::uintptr_t>(request.data) % kBlockBytes == 0);
    }
  }

  void schedule() noexcept {
    if (stalled_ || waiting_.empty()) return;
    if (options_.delay_us_max == 0) return loop_.defer(task_);
    const auto first =
        std::min_element(waiting_.begin(), waiting_.end(),
                         [](const Waiting& a, const Waiting& b) { return a.due_us < b.due_us; });
    if (first->due_us <= loop_.now_us()) {
      loop_.defer(task_);
    } else {
      loop_.arm(timer_, first->due_us);
    }
  }

  void turn() noexcept {
    if (stalled_) return;
    std::vector<engine::BlockRequest*> due;
    for (auto at = waiting_.begin(); at != waiting_.end();) {
      if (at->due_us > loop_.now_us()) {
        ++at;
        continue;
      }
      due.push_back(at->request);
      at = waiting_.erase(at);
    }
    for (std::size_t i = due.size(); i > 1; --i) std::swap(due[i - 1], due[random_.below(i)]);
    for (engine::BlockRequest* request : due) finish(*request);
    if (held_.size() > 8) let_go();
    schedule();
  }

  void finish(engine::BlockRequest& request) noexcept {
    if (random_.chance(options_.error_one_in)) {
      request.error = Error::DiskError;
    } else {
      apply(request);
    }
    if (request.op == engine::BlockRequest::Op::write && random_.chance(options_.linger_one_in)) {
      held_.push_back(
          {request.hold, request.data, {request.data, request.data + request.length_bytes}});
    }
    request.done(request);
  }

  void apply(engine::BlockRequest& request) noexcept {
    using Op = engine::BlockRequest::Op;
    std::byte* at = bytes_.data() + request.offset_bytes;
    if (request.fua) ++fua;
    switch (request.op) {
      case Op::read:
        std::memcpy(request.data, at, request.length_bytes);
        break;
      case Op::write:
        std::memcpy(at, request.data, request.length_bytes);
        break;
      case Op::flush:
        ++flushed;
        break;
      case Op::trim:
      case Op::write_zeroes:
        std::memset(at, 0, request.length_bytes);
        break;
    }
  }

  io::Loop& loop_;
  Random random_;
  Options options_;
  std::vector<std::byte> bytes_;
  std::uint64_t size_bytes_;
  bool stalled_ = false;
  std::deque<Waiting> waiting_;
  std::list<Held> held_;
  io::Task task_;
  io::Timer timer_;
};

}  // namespace blockd::nbd
