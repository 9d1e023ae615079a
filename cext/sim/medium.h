// What a simulated host's store stands on: stays when the process dies, and loses power.
#pragma once

#include <memory>

#include "base/buffer.h"
#include "io/sim_disk.h"
#include "io/sim_world.h"
#include "sim/fake_store.h"
#include "store/store.h"

namespace blockd::sim {

class Medium {
 public:
  virtual ~Medium() = default;
  virtual std::unique_ptr<store::Store> open(io::SimLoop& loop, Buffers& buffers) = 0;
  // After the loop was killed.
  virtual void killed(bool power_loss) = 0;
};

// The store of tests: fast, and correct by construction.
class FakeStoreMedium final : public Medium {
 public:
  FakeStoreMedium(io::SimWorld& world, Uuid store_id, Uuid cluster_id) : world_(world) {
    medium_.store_id = store_id;
    medium_.cluster_id = cluster_id;
  }
  std::unique_ptr<store::Store> open(io::SimLoop& loop, Buffers&) override {
    auto opened = std::make_unique<FakeStore>(loop, medium_);
    store_ = opened.get();
    return opened;
  }
  void killed(bool power_loss) override { medium_.crash(world_.random(), power_loss); }
  [[nodiscard]] FakeStore& store() noexcept { return *store_; }  // of the living process
  [[nodiscard]] FakeMedium& medium() noexcept { return medium_; }

 private:
  io::SimWorld& world_;
  FakeMedium medium_;
  FakeStore* store_ = nullptr;
};

// The store itself, on a simulated disk.
class DiskMedium final : public Medium {
 public:
  DiskMedium(io::SimWorld& world, Uuid store_id, Uuid cluster_id, std::uint64_t capacity_bytes,
             std::uint64_t journal_bytes)
      : disk_(world, capacity_bytes), cluster_id_(cluster_id) {
    store::Store::format(disk_, {store_id, cluster_id, journal_bytes, false});
  }
  std::unique_ptr<store::Store> open(io::SimLoop& loop, Buffers& buffers) override {
    disk_.attach(loop);
    return store::Store::open(disk_, loop, buffers, {cluster_id_});
  }
  void killed(bool power_loss) override {
    if (power_loss) disk_.crash(io::SimDisk::Crash::random);
  }
  [[nodiscard]] io::SimDisk& disk() noexcept { return disk_; }

 private:
  io::SimDisk disk_;
  Uuid cluster_id_;
};

}  // namespace blockd::sim
