// What a simulated host's store stands on: stays when the process dies, and loses power.
#pragma once

#include <memory>

#include "base/buffer.h"
#include "format/disk.h"
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

  // Faults, while a process has it open; a new process finds none of them but the rot.
  virtual void set_slowness(std::uint64_t factor) = 0;
  virtual void set_stuck(bool stuck) = 0;  // what comes meanwhile is done when it is released
  virtual void fail_reads(bool failing) = 0;
  virtual void fail_writes(Error error) = 0;  // Ok: no longer
  // Flips a bit of one block of the segment at rest. False: it picked one that holds nothing.
  virtual bool rot(SegmentId segment, std::uint32_t block) = 0;
  // The next write of data (not of metadata) is acknowledged and never done, or done to other data.
  // False: there is no disk.
  virtual bool lose_write() { return false; }
  virtual bool misdirect_write() { return false; }
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
  void set_slowness(std::uint64_t factor) override { store_->slowness = factor; }
  void set_stuck(bool stuck) override {
    if (stuck) store_->stuck = true;
    if (!stuck && store_->stuck) store_->release();
  }
  void fail_reads(bool failing) override {
    store_->fail_reads = failing ? Error::DiskError : Error::Ok;
  }
  void fail_writes(Error error) override { store_->fail_mutations = error; }
  bool rot(SegmentId segment, std::uint32_t block) override {
    return medium_.rot(segment, block, world_.random());
  }
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
      : world_(world), disk_(world, capacity_bytes), cluster_id_(cluster_id) {
    store::Store::format(disk_, {store_id, cluster_id, journal_bytes, false});
  }
  std::unique_ptr<store::Store> open(io::SimLoop& loop, Buffers& buffers) override {
    disk_.attach(loop);
    auto opened = store::Store::open(disk_, loop, buffers, {cluster_id_});
    store_ = opened.get();
    return opened;
  }
  void killed(bool power_loss) override {
    if (power_loss) disk_.crash(io::SimDisk::Crash::random);
    disk_.set_slowness(1);
    disk_.set_stuck(false);
    disk_.clear_faults();
  }
  void set_slowness(std::uint64_t factor) override { disk_.set_slowness(factor); }
  void set_stuck(bool stuck) override { disk_.set_stuck(stuck); }
  void fail_reads(bool failing) override {
    disk_.clear_faults();
    if (failing) disk_.fail_reads(0, disk_.capacity_bytes());
  }
  void fail_writes(Error error) override {
    disk_.clear_faults();
    if (error != Error::Ok) disk_.fail_everything(true);
  }
  bool rot(SegmentId segment, std::uint32_t block) override;
  bool lose_write() override {
    disk_.lose_next_write(data_offset_bytes());
    return true;
  }
  bool misdirect_write() override {
    const std::uint64_t from = data_offset_bytes();
    disk_.misdirect_next_write(from + world_.random().below(kStrayChunks) * kChunkBytes, from);
    return true;
  }
  [[nodiscard]] io::SimDisk& disk() noexcept { return disk_; }

 private:
  static constexpr std::uint64_t kStrayChunks = 64;  // the first ones, which are in use
  [[nodiscard]] std::uint64_t data_offset_bytes() const;

  io::SimWorld& world_;
  io::SimDisk disk_;
  Uuid cluster_id_;
  store::Store* store_ = nullptr;  // of the living process
};

inline std::uint64_t DiskMedium::data_offset_bytes() const {
  format::Superblock superblock;
  disk_.peek(0, {reinterpret_cast<std::byte*>(&superblock), sizeof superblock});
  return superblock.data_offset;
}

inline bool DiskMedium::rot(SegmentId segment, std::uint32_t block) {
  const auto handle = store_->find_segment(segment);
  if (!handle || block >= store_->segment_info(*handle).block_count) return false;
  const store::BlockLocation at = store_->locate(*handle, block);
  if (!at.allocated || at.in_journal) return false;
  const std::uint64_t byte = world_.random().below(kBlockBytes);
  disk_.corrupt(at.device_offset_bytes + byte, static_cast<unsigned>(world_.random().below(8)));
  return true;
}

}  // namespace blockd::sim
