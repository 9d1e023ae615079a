// What snapshots cost: the same I/O on a store whose volume has a thousand and on one that has
// none.
//
//   snapshot_bench FOLDER [ROUNDS] [SECONDS] [SNAPSHOTS]
//
// Makes two files of 4 GiB in FOLDER and removes them. Both stores hold one filled segment of 512
// MiB; in one of them SNAPSHOTS (1000) are taken, with some writes in each era. Then, ROUNDS (5)
// times, each kind of I/O runs for SECONDS (2) on the one and on the other; what counts is the
// ratio within a round, and its median. "first write" is the first to a chunk after a snapshot,
// which copies it; its reference is the same write where there is no snapshot.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <future>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "base/crc32c.h"
#include "base/random.h"
#include "io/uring_disk.h"
#include "store/store.h"

using namespace blockd;
using namespace blockd::store;

namespace {

constexpr std::uint32_t kChunks = 8192;
constexpr std::uint32_t kBlocks = kChunks * kBlocksPerChunk;
constexpr std::uint32_t kDepthMax = 32;
constexpr std::uint32_t kWritesPerEra = 16;

struct Job {
  const char* name;
  StoreOp::Op op;
  std::uint32_t depth;
  bool first_write;
};

constexpr Job kJobs[] = {{"4 KiB random write, d1", StoreOp::Op::write, 1, false},
                         {"4 KiB random write, d32", StoreOp::Op::write, 32, false},
                         {"4 KiB random read, d1", StoreOp::Op::read, 1, false},
                         {"4 KiB random read, d32", StoreOp::Op::read, 32, false},
                         {"4 KiB first write, d32", StoreOp::Op::write, 32, true}};

// A store on a file of its own, and a client that keeps a number of operations in flight.
class Side {
 public:
  // Before the loop runs; the rest from another thread while it does.
  Side(io::UringLoop& loop, const std::string& path, std::uint8_t number) : loop_(loop) {
    io::UringDisk::create_file(path, 4ull << 30);
    disk_ = std::make_unique<io::UringDisk>(loop_, path);
    id_.bytes.fill(number);
    FormatOptions format;
    format.store_id = format.cluster_id = id_;
    Store::format(*disk_, format);
    store_ = Store::open(*disk_, loop_, buffers_, {.cluster_id = id_});
    for (Slot& slot : slots_) {
      slot.side = this;
      slot.buffer = buffers_.large.get();
      random_.fill({slot.buffer.data(), kMutationBytesMax});
      crc32c_blocks(slot.buffer.data(), {slot.crcs, kMutationBytesMax / kBlockBytes});
    }
  }

  void begin() {
    wait([&](auto done) { store_->create_segment({id_, 0}, kBlocks, done); });
    segment_ = *store_->find_segment({id_, 0});
    tell();
    fill();
  }

  // All of it written anew, in order: every chunk is the current era's.
  void fill() { run(StoreOp::Op::write, 8, 64, 0, kBlocks / 64, true); }

  void take_snapshot() {
    eras_.push_back(era_++);
    tell();
  }
  void delete_newest_snapshot() {
    eras_.pop_back();
    tell();
  }
  void some_writes() { run(StoreOp::Op::write, 16, 1, 0, kWritesPerEra, false); }

  // Operations a second.
  double measure(const Job& job, double seconds) {
    return run(job.op, job.depth, 1, seconds, ~std::uint64_t{0}, false);
  }
  [[nodiscard]] std::uint64_t past_mib() const { return store_->info().past_bytes >> 20; }
  void close() {
    wait([&](auto done) { store_->close(done); });
  }

 private:
  struct Slot {
    StoreOp op;
    Side* side = nullptr;
    BufferRef buffer;
    std::uint32_t crcs[kMutationBytesMax / kBlockBytes] = {};
  };

  template <class Start>
  void wait(Start start) {
    std::promise<Error> ended;
    loop_.post([&] { start([&](Error error) { ended.set_value(error); }); });
    if (const Error error = ended.get_future().get(); error != Error::Ok)
      throw Fault(error, "the store refuses");
  }

  void tell() {
    wait([&](auto done) {
      store_->set_snapshots({id_, era_, eras_, 0});
      done(Error::Ok);
    });
  }

  double run(StoreOp::Op op, std::uint32_t depth, std::uint32_t blocks, double seconds,
             std::uint64_t most, bool in_order) {
    kind_ = op;
    blocks_ = blocks;
    in_order_ = in_order;
    left_ = most;
    done_ = cursor_ = 0;
    wait([&](auto done) {
      finished_ = done;
      loop_.refresh();
      started_us_ = loop_.now_us();
      until_us_ = seconds > 0 ? started_us_ + static_cast<std::uint64_t>(seconds * 1e6) : 0;
      for (std::uint32_t i = 0; i < depth; ++i) submit(slots_[i]);
    });
    return static_cast<double>(done_) * 1e6 / static_cast<double>(ended_us_ - started_us_);
  }

  void submit(Slot& slot) {
    if (left_ == 0) return;
    --left_;
    ++running_;
    slot.op = StoreOp{};
    slot.op.op = kind_;
    slot.op.segment = segment_;
    slot.op.block_count = blocks_;
    const std::uint32_t places = kBlocks / blocks_;
    const auto at =
        static_cast<std::uint32_t>(in_order_ ? cursor_++ % places : random_.below(places));
    slot.op.first_block = at * blocks_;
    slot.op.version = {1, ++seq_};
    slot.op.era = era_;
    slot.op.data = slot.buffer.data();
    slot.op.hold = slot.buffer;
    slot.op.crcs = slot.crcs;
    if (kind_ == StoreOp::Op::read) slot.op.crcs_out = slot.crcs;
    slot.op.owner = &slot;
    slot.op.done = [](StoreOp& done) noexcept {
      Slot& ended = *static_cast<Slot*>(done.owner);
      ended.side->ended(ended);
    };
    store_->submit(slot.op);
  }

  void ended(Slot& slot) {
    if (slot.op.error != Error::Ok) {
      std::fprintf(stderr, "snapshot_bench: %s\n", error_name(slot.op.error));
      std::exit(1);
    }
    --running_;
    ++done_;
    loop_.refresh();
    if (until_us_ == 0 || loop_.now_us() < until_us_) submit(slot);
    if (running_ > 0) return;
    ended_us_ = loop_.now_us();
    finished_(Error::Ok);
  }

  io::UringLoop& loop_;
  Buffers buffers_{64, 64, kDepthMax};
  std::unique_ptr<io::UringDisk> disk_;
  std::unique_ptr<Store> store_;
  Uuid id_;
  SegmentHandle segment_ = 0;
  Random random_{1};
  Slot slots_[kDepthMax];
  Era era_ = 1;
  std::vector<Era> eras_;
  StoreOp::Op kind_ = StoreOp::Op::read;
  std::uint32_t blocks_ = 1;
  bool in_order_ = false;
  std::uint64_t left_ = 0, done_ = 0, cursor_ = 0, seq_ = 0;
  std::uint32_t running_ = 0;
  std::uint64_t started_us_ = 0, until_us_ = 0, ended_us_ = 0;
  Store::Done finished_;
};

void compare(Side& none, Side& many, int rounds, double seconds, int snapshots) {
  none.begin();
  many.begin();
  for (int i = 0; i < snapshots; ++i) {
    many.some_writes();
    many.take_snapshot();
  }
  std::printf("%d snapshots hold %llu MiB; ratio to a volume without any, median of %d rounds\n",
              snapshots, static_cast<unsigned long long>(many.past_mib()), rounds);
  for (const Job& job : kJobs) {
    std::vector<double> ratios, speeds;
    for (int round = 0; round < rounds; ++round) {
      many.fill();
      none.fill();
      if (job.first_write) many.take_snapshot();
      const double reference = none.measure(job, seconds);
      speeds.push_back(many.measure(job, job.first_write ? std::min(seconds, 0.3) : seconds));
      ratios.push_back(speeds.back() / reference);
      if (job.first_write) many.delete_newest_snapshot();
    }
    std::sort(ratios.begin(), ratios.end());
    std::sort(speeds.begin(), speeds.end());
    std::printf("%-26s %9.0f per s   ratio %.2f  (%.2f to %.2f)\n", job.name,
                speeds[speeds.size() / 2], ratios[ratios.size() / 2], ratios.front(),
                ratios.back());
    std::fflush(stdout);
  }
}

void run(const std::string& folder, int rounds, double seconds, int snapshots) {
  const std::string paths[2] = {folder + "/snapshot-bench-none", folder + "/snapshot-bench-many"};
  for (const std::string& path : paths) std::filesystem::remove(path);
  io::UringLoop loop;
  Side none(loop, paths[0], 1), many(loop, paths[1], 2);
  std::thread reactor([&] { loop.run(); });
  compare(none, many, rounds, seconds, snapshots);
  none.close();
  many.close();
  loop.stop();
  reactor.join();
  for (const std::string& path : paths) std::filesystem::remove(path);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr, "usage: snapshot_bench FOLDER [ROUNDS] [SECONDS] [SNAPSHOTS]\n");
    return 2;
  }
  try {
    run(argv[1], argc > 2 ? std::atoi(argv[2]) : 5, argc > 3 ? std::atof(argv[3]) : 2,
        argc > 4 ? std::atoi(argv[4]) : 1000);
  } catch (const Fault& fault) {
    std::fprintf(stderr, "snapshot_bench: %s\n", fault.what());
    return 1;
  }
  return 0;
}
