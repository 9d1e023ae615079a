// A store on a simulated disk, with its power switch; and operations that own their memory.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "io/sim_disk.h"
#include "io/sim_world.h"
#include "store/store.h"

namespace blockd::store::testing {

inline constexpr std::uint64_t kMiB = 1ull << 20;
inline constexpr std::uint64_t kPatienceUs = 600'000'000;  // longer than any operation may take

inline Uuid uuid(std::uint8_t number) {
  Uuid id;
  id.bytes.fill(number);
  return id;
}
inline const Uuid kStoreId = uuid(0x51);
inline const Uuid kClusterId = uuid(0xc1);

inline SegmentId segment_id(std::uint32_t index) {
  return {uuid(0x77), index};
}

// Forwards to the simulated disk, but dies at the n-th blocking write or flush: a crash during
// recovery.
class MortalDisk final : public io::Disk {
 public:
  explicit MortalDisk(io::SimDisk& disk) : disk_(disk) {}

  static constexpr std::uint64_t kImmortal = ~std::uint64_t{0};
  void die_after(std::uint64_t blocking_writes) noexcept { left_ = blocking_writes; }
  [[nodiscard]] bool dead() const noexcept { return left_ == 0; }

  // Writes that touch the range stay on their way until they are let go.
  void hold_writes(std::uint64_t offset_bytes, std::uint64_t length_bytes) noexcept {
    hold_from_ = offset_bytes;
    hold_end_ = offset_bytes + length_bytes;
  }
  [[nodiscard]] std::size_t holding() const noexcept { return held_.size(); }
  void let_go() {
    hold_end_ = hold_from_;
    for (io::DiskRequest* request : std::exchange(held_, {})) disk_.submit(*request);
  }
  void forget_held() noexcept { held_.clear(); }  // their process has died

  void submit(io::DiskRequest& request) noexcept override {
    std::uint64_t end = request.offset_bytes;
    for (std::uint32_t i = 0; i < request.iov_count; ++i) end += request.iov[i].iov_len;
    const bool held = request.op == io::DiskRequest::Op::write &&
                      request.offset_bytes < hold_end_ && hold_from_ < end;
    if (held) return held_.push_back(&request);
    disk_.submit(request);
  }
  [[nodiscard]] std::uint64_t capacity_bytes() const noexcept override {
    return disk_.capacity_bytes();
  }
  [[nodiscard]] Error read_now(std::uint64_t offset_bytes,
                               std::span<std::byte> into) noexcept override {
    return dead() ? Error::DiskError : disk_.read_now(offset_bytes, into);
  }
  [[nodiscard]] Error write_now(std::uint64_t offset_bytes,
                                std::span<const std::byte> from) noexcept override {
    return spend() ? disk_.write_now(offset_bytes, from) : Error::DiskError;
  }
  [[nodiscard]] Error flush_now() noexcept override {
    return spend() ? disk_.flush_now() : Error::DiskError;
  }
  void register_memory(std::span<std::byte> memory) noexcept override {
    registered_.insert({memory.data(), memory.size()});
  }
  void unregister_memory(std::span<std::byte> memory) noexcept override {
    registered_.erase(registered_.find({memory.data(), memory.size()}));
  }
  [[nodiscard]] std::size_t registered() const noexcept { return registered_.size(); }

 private:
  [[nodiscard]] bool spend() noexcept {
    if (left_ == 0) return false;
    if (left_ != kImmortal) --left_;
    return true;
  }

  io::SimDisk& disk_;
  std::uint64_t left_ = kImmortal;
  std::uint64_t hold_from_ = 0, hold_end_ = 0;
  std::vector<io::DiskRequest*> held_;
  std::multiset<std::pair<const std::byte*, std::size_t>> registered_;
};

// One machine: its disk stays, its processes come and go.
class Rig {
 public:
  explicit Rig(std::uint64_t seed, std::uint64_t capacity_bytes = 8 * kMiB)
      : world(seed), disk(world, capacity_bytes), mortal(disk), buffers(64, 32, 32) {}
  ~Rig() { power_off(io::SimDisk::Crash::keep_all); }
  Rig(const Rig&) = delete;
  Rig& operator=(const Rig&) = delete;

  void format(std::uint64_t journal_bytes = kMiB) {
    Store::format(disk,
                  {.store_id = kStoreId, .cluster_id = kClusterId, .journal_bytes = journal_bytes});
  }

  void open() {
    loop = std::make_unique<io::SimLoop>(world);
    disk.attach(*loop);
    store = Store::open(mortal, *loop, buffers,
                        {.cluster_id = kClusterId,
                         .metadata_cache_bytes = metadata_cache_bytes,
                         .newest_openings = newest_openings});
  }

  // The process dies; what it had in flight got anywhere. Then nothing of it is left in memory.
  void kill() {
    if (loop) loop->kill();
    store.reset();
    loop.reset();
    mortal.die_after(MortalDisk::kImmortal);
    mortal.forget_held();
  }
  // Power loss: what was in flight and what was not flushed is kept, lost or torn.
  void power_off(io::SimDisk::Crash mode) {
    disk.crash(mode);
    kill();
  }
  // Power loss some time after the process had died.
  void kill_then_power_off(io::SimDisk::Crash mode) {
    kill();
    disk.crash(mode);
  }

  // Orderly. False: it never finished.
  [[nodiscard]] bool close() {
    const Error error = wait([this](Store::Done done) { store->close(std::move(done)); });
    const bool closed = error == Error::Ok;
    kill();
    return closed;
  }

  // Runs the world until `start`'s Done was called; WriteUnresolved when it never is.
  [[nodiscard]] Error wait(const std::function<void(Store::Done)>& start) {
    Error result = Error::WriteUnresolved;
    bool finished = false;
    start([&](Error error) {
      result = error;
      finished = true;
    });
    (void)world.run_until([&] { return finished; }, kPatienceUs);
    return result;
  }

  [[nodiscard]] bool all_buffers_free() const noexcept {
    return buffers.small.free_count() == buffers.small.count() &&
           buffers.chunk.free_count() == buffers.chunk.count() &&
           buffers.large.free_count() == buffers.large.count();
  }

  io::SimWorld world;
  io::SimDisk disk;
  MortalDisk mortal;
  Buffers buffers;
  std::unique_ptr<io::SimLoop> loop;
  std::uint64_t metadata_cache_bytes = 0;  // of the next open(); 0: the default, ample
  Openings newest_openings;                // likewise
  std::unique_ptr<Store> store;
};

}  // namespace blockd::store::testing
