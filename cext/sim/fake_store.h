// A store in memory for tests of what stands on it: the contract of store/store.h, nothing of its
// work.
//
// The medium outlives the store. It is a log: a killed process keeps a prefix of what was submitted
// that has at least all that was done; a power loss keeps at least all that was flushed (S1..S3).
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/crc32c.h"
#include "io/sim_world.h"
#include "store/store.h"

namespace blockd::sim {

struct FakeChunk {
  Version version;
  Era born = 0;
  bool covers = false;
  std::uint16_t valid_mask = 0;
  std::vector<std::byte> data = std::vector<std::byte>(kChunkBytes);
  std::array<std::uint32_t, kBlocksPerChunk> crcs{};
};

struct FakePast {
  FakeChunk content;
  Era died = 0;
};

struct FakeSegment {
  store::SegmentInfo info;
  std::map<std::uint32_t, FakeChunk> chunks;
  std::map<std::uint32_t, std::vector<FakePast>> past;  // ascending by version

  // What snapshot `era` shows of the chunk; null: a hole.
  [[nodiscard]] const FakeChunk* shown(std::uint32_t chunk, Era era) const;
  void keep(std::uint32_t chunk, FakePast content);
  void forget(std::uint32_t chunk, Version version);
};

// Does a snapshot show what was born in one era and died in another? As far as `set` knows.
[[nodiscard]] bool shown_by_any(const store::SnapshotSet* set, Era born, Era died);

struct FakeMutation {
  store::StoreOp::Op op;
  store::SegmentHandle segment;
  std::uint32_t first_block, block_count;
  Version version;
  std::uint16_t valid_mask;
  Era era, died;
  bool covers;
  std::shared_ptr<const store::SnapshotSet> snapshots;  // as known when it came; null: nothing is
  std::vector<std::byte> data;
  std::vector<std::uint32_t> crcs;
};

// Told of what happens to a medium's content.
class FakeWatcher {
 public:
  virtual ~FakeWatcher() = default;
  virtual void mutates(const FakeSegment& segment, const FakeMutation& m) = 0;  // not done yet
  virtual void reaps(const FakeSegment& segment, std::uint32_t chunk, Version version) = 0;
};

struct FakeMedium {
  FakeWatcher* watcher = nullptr;
  Uuid store_id;
  Uuid cluster_id;
  std::map<store::SegmentHandle, FakeSegment> base;  // with everything flushed
  std::map<store::SegmentHandle, FakeSegment> live;  // with the log on top
  std::vector<FakeMutation> log;
  std::size_t done_count = 0;  // of the log
  store::SegmentHandle next_handle = 1;

  static void apply(std::map<store::SegmentHandle, FakeSegment>& to, const FakeMutation& m);
  void fold(std::size_t count);  // the first `count` of the log are durable
  void crash(Random& random, bool power_loss);
  // Flips a bit of the block as it is now, and as a power loss would bring it back. False: a hole.
  bool rot(SegmentId segment, std::uint32_t block, Random& random);
  // As a store's own fault would leave them: a chunk that is no longer known, or one of the same
  // version whose first block is another, and sound.
  void lose(SegmentId segment, std::uint32_t chunk);
  void falsify(SegmentId segment, std::uint32_t chunk);
};

class FakeStore final : public store::Store {
 public:
  FakeStore(io::SimLoop& loop, FakeMedium& medium) : loop_(loop), medium_(medium) {}

  void record_opening(Done done) override { later(std::move(done), Error::Ok); }
  void create_segment(SegmentId id, std::uint32_t block_count, Done done) override;
  void drop_segment(store::SegmentHandle segment, Done done) override;
  void resize_segment(store::SegmentHandle segment, std::uint32_t block_count, Done done) override;
  void promise_epoch(store::SegmentHandle segment, std::uint64_t epoch, Done done) override;
  [[nodiscard]] std::optional<store::SegmentHandle> find_segment(
      SegmentId id) const noexcept override;
  [[nodiscard]] std::vector<store::SegmentHandle> segments() const override;
  [[nodiscard]] store::SegmentInfo segment_info(
      store::SegmentHandle segment) const noexcept override;
  void set_stable(store::SegmentHandle segment, Version stable) noexcept override;
  void submit(store::StoreOp& op) noexcept override;
  void set_snapshots(store::SnapshotSet set) override;
  [[nodiscard]] store::SegmentHandle open_view(store::SegmentHandle segment, Era era) override;
  void close_view(store::SegmentHandle view) noexcept override;
  [[nodiscard]] std::size_t list_states(store::SegmentHandle segment, std::uint32_t from_chunk,
                                        Version above,
                                        std::span<store::ChunkState> out) const override;
  [[nodiscard]] std::size_t list_chunks(store::SegmentHandle segment, std::uint32_t from_chunk,
                                        Version above,
                                        std::span<store::ChunkVersion> out) const noexcept override;
  [[nodiscard]] Version chunk_version(store::SegmentHandle segment,
                                      std::uint32_t chunk) const noexcept override;
  [[nodiscard]] std::uint16_t chunk_valid_mask(store::SegmentHandle segment,
                                               std::uint32_t chunk) const noexcept override;
  [[nodiscard]] std::size_t list_digests(store::SegmentHandle segment, std::uint32_t from_chunk,
                                         std::span<store::ChunkDigest> out) const noexcept override;
  [[nodiscard]] store::BlockLocation locate(store::SegmentHandle segment,
                                            std::uint32_t block) const noexcept override;
  [[nodiscard]] bool metadata_lost() const noexcept override { return false; }
  [[nodiscard]] store::StoreInfo info() const noexcept override;
  [[nodiscard]] const store::StoreStats& stats() const noexcept override { return stats_; }
  [[nodiscard]] std::vector<std::string> check() const override { return {}; }
  void close(Done done) override { later(std::move(done), Error::Ok); }
  [[nodiscard]] std::size_t view_count() const noexcept { return views_.size(); }

  // Faults.
  Error fail_mutations = Error::Ok;
  std::uint32_t fail_count = ~std::uint32_t{0};  // so many of them
  Error fail_reads = Error::Ok;
  bool stuck = false;  // nothing that comes is answered
  void release();      // it is, and what came is done now
  std::uint64_t slowness = 1;

 private:
  struct View {
    store::SegmentHandle segment = 0;
    Era era = 0;
  };
  static constexpr store::SegmentHandle kFirstView = 0x80000000u;
  // The segment and the era that a handle names; era 0: the segment itself. Null: it is gone.
  struct Shown {
    const FakeSegment* segment = nullptr;
    Era era = 0;
    [[nodiscard]] const FakeChunk* chunk(std::uint32_t index) const;
  };
  [[nodiscard]] Shown shown(store::SegmentHandle handle) const;
  [[nodiscard]] bool viewed(store::SegmentHandle segment, Era born, Era died) const;
  [[nodiscard]] std::shared_ptr<const store::SnapshotSet> snapshots_of(
      store::SegmentHandle segment) const;
  [[nodiscard]] static std::vector<std::uint32_t> chunks_from(const Shown& from,
                                                              std::uint32_t first);
  void reap(FakeSegment& segment) const;
  void later(Done done, Error error);
  [[nodiscard]] std::uint64_t delay_us() {
    return loop_.world().random().between(30, 300) * slowness;
  }
  void complete_in_order(store::StoreOp& op);
  [[nodiscard]] Error read(store::StoreOp& op) noexcept;

  io::SimLoop& loop_;
  FakeMedium& medium_;
  store::StoreStats stats_;
  std::map<Uuid, std::shared_ptr<const store::SnapshotSet>> snapshots_;
  std::map<store::SegmentHandle, View> views_;
  store::SegmentHandle next_view_ = kFirstView;
  std::uint64_t last_completion_us_ = 0;
  std::vector<store::StoreOp*> held_;  // while stuck
};

}  // namespace blockd::sim
