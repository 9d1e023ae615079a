// A simulated disk: loses, tears and rots as real ones do, from the world's seed.
//
// Two images: what reads see (completed writes) and what is durable (flushed). Requests complete
// after a seeded delay, out of order. Power loss keeps any mixture of the 512-byte sectors of
// whatever was not flushed; a killed process leaves completed writes and any mixture of those in
// flight. The contents after a discard are either zeros or what was there before. The memory of a
// write must not change between submit() and done(): asserted.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <unordered_map>
#include <vector>

#include "io/disk.h"
#include "io/sim_world.h"

namespace blockd::io {

struct SimDiskOptions {
  std::uint64_t capacity_bytes = 0;
  std::uint64_t read_us_min = 60, read_us_max = 200;
  std::uint64_t write_us_min = 40, write_us_max = 250;
  std::uint64_t flush_us_min = 100, flush_us_max = 900;
};

struct SimDiskStats {
  std::uint64_t reads = 0, read_bytes = 0;
  std::uint64_t writes = 0, write_bytes = 0;
  std::uint64_t flushes = 0, discards = 0;
};

class SimDisk final : public Disk {
 public:
  enum class Crash : std::uint8_t { lose_all, keep_all, random };

  SimDisk(SimWorld& world, SimDiskOptions options);
  SimDisk(SimWorld& world, std::uint64_t capacity_bytes)
      : SimDisk(world, SimDiskOptions{.capacity_bytes = capacity_bytes}) {}

  // Completions go to `loop` from now on; when it is killed, so is what it has in flight here.
  void attach(SimLoop& loop);

  void submit(DiskRequest& request) noexcept override;
  [[nodiscard]] std::uint64_t capacity_bytes() const noexcept override {
    return options_.capacity_bytes;
  }
  [[nodiscard]] Error read_now(std::uint64_t offset_bytes,
                               std::span<std::byte> into) noexcept override;
  [[nodiscard]] Error write_now(std::uint64_t offset_bytes,
                                std::span<const std::byte> from) noexcept override;
  [[nodiscard]] Error flush_now() noexcept override;

  // Power loss. Requests in flight never complete; the disk is then as a new process would find it.
  void crash(Crash mode = Crash::random);
  // The process using it died: what it had in flight is there in part, or not; nothing completes.
  void kill_process();

  // Faults; all stay until cleared. Ranges in bytes. A block that is wholly written reads well
  // again unless writes to it fail too.
  void fail_reads(std::uint64_t offset_bytes, std::uint64_t length_bytes,
                  Error error = Error::DiskError);
  void fail_writes(std::uint64_t offset_bytes, std::uint64_t length_bytes,
                   Error error = Error::DiskError);
  void fail_flushes(bool failing) noexcept { failing_flushes_ = failing; }
  void fail_everything(bool failing) noexcept {
    failing_everything_ = failing;
  }  // the disk is dead
  void clear_faults() noexcept;
  void corrupt(std::uint64_t offset_bytes, unsigned bit);  // flips one bit at rest
  // Of the next write at or beyond `from_offset_bytes`: acknowledged, never done, or done
  // elsewhere.
  void lose_next_write(std::uint64_t from_offset_bytes = 0) noexcept {
    astray_ = Astray{.from_offset_bytes = from_offset_bytes, .to_offset_bytes = {}};
  }
  void misdirect_next_write(std::uint64_t to_offset_bytes,
                            std::uint64_t from_offset_bytes = 0) noexcept {
    astray_ = Astray{.from_offset_bytes = from_offset_bytes, .to_offset_bytes = to_offset_bytes};
  }
  void set_slowness(std::uint64_t factor) noexcept { slowness_ = factor; }  // 1: as configured
  void set_stuck(bool stuck);  // nothing completes until it is released

  [[nodiscard]] const SimDiskStats& stats() const noexcept { return stats_; }
  [[nodiscard]] std::size_t in_flight() const noexcept { return in_flight_.size(); }
  [[nodiscard]] std::uint64_t unflushed_bytes() const noexcept { return unflushed_bytes_; }
  // What a reader sees, faults and counters aside.
  void peek(std::uint64_t offset_bytes, std::span<std::byte> into) const;

 private:
  static constexpr std::uint64_t kPageBytes = 4096;
  static constexpr std::uint64_t kSectorBytes = 512;
  // A real cache is finite: beyond this the oldest unflushed writes reach the medium by themselves.
  static constexpr std::uint64_t kCacheBytes = 64ull << 20;

  using Page = std::unique_ptr<std::byte[]>;
  class Image {
   public:
    void read(std::uint64_t offset_bytes, std::span<std::byte> into) const;
    void write(std::uint64_t offset_bytes, std::span<const std::byte> from);
    void copy_page(const Image& from, std::uint64_t page);

   private:
    std::unordered_map<std::uint64_t, Page> pages_;  // looked up, never iterated
  };
  struct Write {
    std::uint64_t order = 0;  // of completion
    std::uint64_t offset_bytes = 0;
    std::vector<std::byte> data;
  };
  struct Flight {
    DiskRequest* request = nullptr;
    Write write;                    // write, discard
    std::uint64_t flush_up_to = 0;  // flush: completions below this are covered
    bool held = false;              // due while the disk was stuck
  };

  struct Astray {
    std::uint64_t from_offset_bytes = 0;
    std::optional<std::uint64_t> to_offset_bytes;  // none: lost
  };

  void check(const DiskRequest& request) const noexcept;
  [[nodiscard]] std::uint64_t delay_us(DiskRequest::Op op);
  void complete(std::uint64_t id);
  void schedule(std::uint64_t id);
  [[nodiscard]] Error finish(Flight& flight);
  [[nodiscard]] Error finish_read(const DiskRequest& request);
  [[nodiscard]] Error finish_write(Flight& flight);
  void land(Write write);
  void make_durable(std::uint64_t up_to_order);
  void keep_some(const Write& write, Image& image, Crash mode);
  [[nodiscard]] Error fault_in(const std::map<std::uint64_t, Error>& faults,
                               std::uint64_t offset_bytes,
                               std::uint64_t length_bytes) const noexcept;

  SimWorld& world_;
  SimDiskOptions options_;
  SimLoop* loop_ = nullptr;
  std::shared_ptr<SimDisk*> life_;  // events hold it weakly
  Image seen_;
  Image durable_;
  std::deque<Write> unflushed_;
  std::uint64_t unflushed_bytes_ = 0;
  std::uint64_t next_order_ = 1;
  std::map<std::uint64_t, Flight> in_flight_;  // by id: in order of submission
  std::uint64_t next_id_ = 1;
  std::map<std::uint64_t, Error> failing_reads_;   // by page
  std::map<std::uint64_t, Error> failing_writes_;  // by page
  bool failing_flushes_ = false;
  bool failing_everything_ = false;
  std::optional<Astray> astray_;  // what befalls the next write
  std::uint64_t slowness_ = 1;
  bool stuck_ = false;
  SimDiskStats stats_;
};

}  // namespace blockd::io
