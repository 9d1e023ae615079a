// One seeded life story of a store: operations, crashes, recoveries, each compared with the model.
//
// The seed decides everything: the store's size, the mixture of operations, when and how each life
// ends. Nothing here reports to the test framework; a run ends with the first thing that was wrong.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "base/random.h"
#include "store/pieces.h"
#include "tests/io/pattern.h"
#include "tests/store/store_model.h"
#include "tests/store/store_rig.h"

namespace blockd::store::testing {

struct CrashStats {
  std::uint64_t lives = 0, power_losses = 0, kills = 0, closes = 0, dead_recoveries = 0;
  std::uint64_t operations = 0, no_space = 0, checkpoints = 0, replayed_batches = 0;
  std::uint64_t snapshots = 0, shown_chunks = 0, past_slots = 0;
};

class CrashRun {
 public:
  CrashRun(std::uint64_t seed, CrashStats& stats);
  ~CrashRun();
  // Empty, or one line on what went wrong.
  [[nodiscard]] std::string run(std::uint32_t lives);

 private:
  static constexpr std::uint32_t kSegments = 4;
  static constexpr std::uint32_t kFlightsMax = 32;
  static constexpr std::uint32_t kBlocksMax = kMutationBytesMax / kBlockBytes;

  enum class Life : std::uint8_t { absent, creating, live, dropping };
  struct StableMark {
    Version version;
    std::uint64_t set_before_op = 0;  // persisted by the first mutation with this id or a later one
  };
  struct DoneMutation {
    std::uint64_t stamp = 0;
    std::uint64_t op_id = 0;
  };
  struct SegmentModel {
    SegmentId id;
    Life life = Life::absent;
    SegmentHandle handle = 0;
    std::uint32_t block_count = 0;                // once done
    std::vector<std::uint32_t> new_block_counts;  // being resized to
    std::uint64_t promised = 0;                   // once done
    std::vector<std::uint64_t> new_promises;
    Version stable;                        // the mark now
    Version stable_ever;                   // the highest one ever: tombstones up to it may be gone
    Version stable_floor;                  // the highest one known to be durable
    std::vector<StableMark> stable_marks;  // not known to be durable yet
    std::vector<DoneMutation> done_mutations;  // not known to be durable yet
    std::set<Version> unfinished;              // versions of mutations in flight
    std::uint32_t in_flight = 0;
    std::map<std::uint32_t, ChunkModel> chunks;
  };
  struct ChunkRead {
    std::uint32_t chunk = 0;
    std::uint64_t floor_op_id = 0;
  };
  struct Flight {
    StoreOp op;
    CrashRun* run = nullptr;
    bool busy = false;
    std::uint64_t id = 0;
    std::uint64_t stamp_at_submit = 0;
    SegmentModel* segment = nullptr;
    PieceMask zeros = 0;  // of a write: the pieces that are zeros, and thereby holes
    io::testing::Memory memory{kMutationBytesMax + kBlockBytes};
    std::array<std::uint32_t, kBlocksMax> crcs{};
    std::vector<ChunkRead> reads;
  };
  struct Weights {  // of each operation, out of their sum
    std::uint32_t small_write, large_write, chunk_write, zero, zero_chunk, replace, drop_chunk,
        read, flush, stable, promise, segment, snapshot;
  };
  enum class Ending : std::uint8_t { power_loss, kill, kill_then_power_loss, close };

  // A life: open, live, end.
  void open_after_crash();
  [[nodiscard]] bool try_to_open();
  void live();
  void end();
  void end_by_crash(Ending ending);
  void close();
  void quiesce();
  void forget_flights();

  // Operations.
  void start_something();
  [[nodiscard]] SegmentModel* pick_live_segment();
  [[nodiscard]] Flight* free_flight() noexcept;
  void start_write(SegmentModel& segment, std::uint32_t first, std::uint32_t count);
  void start_zero(SegmentModel& segment, std::uint32_t first, std::uint32_t count);
  void start_replace(SegmentModel& segment, bool drop);
  void start_read(SegmentModel& segment);
  void start_flush();
  void start_some_extent(SegmentModel& segment, std::uint32_t blocks_max, bool zero);
  void start_whole_chunks(SegmentModel& segment, bool zero);
  void start_segment_change(SegmentModel& segment);
  void create_segment(SegmentModel& segment);
  void drop_segment(SegmentModel& segment);
  void grow_segment(SegmentModel& segment);
  void promise_epoch(SegmentModel& segment);
  void set_stable(SegmentModel& segment);
  void change_snapshots();
  void tell_snapshots();
  void begin(Flight& flight, SegmentModel* segment, StoreOp::Op op);
  void place_data(Flight& flight, std::uint32_t blocks);
  void submit_mutation(Flight& flight, Mutation::Kind kind, Tag first_tag);
  [[nodiscard]] Version next_version(SegmentModel& segment) noexcept;
  [[nodiscard]] Tag take_tags(std::uint32_t count) noexcept;

  // Their ends.
  void finish(Flight& flight);
  void finish_mutation(Flight& flight);
  void finish_read(Flight& flight);
  void finish_flush(const Flight& flight);
  [[nodiscard]] static Version stable_floor_at(const SegmentModel& segment, std::uint64_t stamp);
  [[nodiscard]] bool may_lack_space(const Flight& flight) const;

  // What the store must hold.
  void verify_after_crash(bool power_lost);
  void verify_segment_after_crash(SegmentModel& segment, bool power_lost);
  void verify_stable_mark(const SegmentModel& segment, Version found, bool power_lost);
  void verify_at_rest();
  void verify_listing(SegmentModel& segment, const std::map<std::uint32_t, ModelState>& seen);
  [[nodiscard]] std::vector<ChunkVersion> list_all(const SegmentModel& segment);
  [[nodiscard]] std::set<std::uint32_t> chunks_to_visit(const SegmentModel& segment);
  [[nodiscard]] ModelState observe(const SegmentModel& segment, std::uint32_t chunk) {
    return observe(segment, segment.handle, chunk);
  }
  [[nodiscard]] ModelState observe(const SegmentModel& segment, SegmentHandle handle,
                                   std::uint32_t chunk);
  [[nodiscard]] ChunkModel::Shown observe_snapshots(const SegmentModel& segment,
                                                    std::uint32_t chunk);
  void verify_snapshots(SegmentModel& segment);
  void verify_past_slots();
  void check_structures();

  void fail(const std::string& what);
  [[nodiscard]] bool ok() const noexcept { return failure_.empty(); }
  [[nodiscard]] static std::string where(const SegmentModel& segment, std::uint32_t chunk);

  CrashStats& stats_;
  Random random_;
  Rig rig_;
  std::uint64_t journal_bytes_;
  std::string failure_;
  Weights weights_{};
  std::uint32_t flights_limit_ = 1;
  std::uint32_t chunks_max_ = 16;  // of one segment
  std::array<SegmentModel, kSegments> segments_;
  std::vector<std::unique_ptr<Flight>> flights_;
  std::uint32_t in_flight_ = 0;  // operations
  std::uint32_t changes_ = 0;    // metadata mutations in flight
  std::uint64_t next_op_id_ = 1;
  std::uint64_t next_version_seq_ = 1;
  Tag next_tag_ = 1;
  Era era_ = 1;
  std::set<Era> snapshots_;
  std::uint64_t done_stamp_ = 0;     // of the last mutation that was done
  std::uint64_t flushed_stamp_ = 0;  // everything done by then is durable
  bool power_lost_ = false;          // since the last recovery
  bool closed_ = false;              // the last life ended in order
};

}  // namespace blockd::store::testing
