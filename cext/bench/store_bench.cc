// The store alone on a real file or device: what a write, a read and a flush cost without any
// network.
//
//   store_bench PATH [SECONDS] [SIZE_MIB] [--json]
//
// PATH is made (SIZE_MIB, 2048) when it is not there; what is on it is OVERWRITTEN. Each row runs
// for SECONDS (3) at its depth; "device bytes" are those that the store wrote for each byte it was
// given, checkpoints included. Everything runs on one loop on this thread. bench/store.py sets it
// against the raw file.
#include <sys/resource.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/crc32c.h"
#include "base/random.h"
#include "io/uring_disk.h"
#include "store/store.h"

using namespace blockd;
using namespace blockd::store;

namespace {

constexpr std::uint32_t kDepthMax = 64;
constexpr std::uint32_t kSegmentBlocks = kSegmentBytes / kBlockBytes;

struct Row {
  const char* name;
  StoreOp::Op op;
  std::uint32_t block_count;
  std::uint32_t depth;
  bool sequential;
};

constexpr Row kRows[] = {
    {"256 KiB sequential write, fresh", StoreOp::Op::write, 64, 8, true},
    {"256 KiB sequential write", StoreOp::Op::write, 64, 8, true},
    {"64 KiB sequential write", StoreOp::Op::write, 16, 16, true},
    {"4 KiB random write", StoreOp::Op::write, 1, 1, false},
    {"4 KiB random write", StoreOp::Op::write, 1, 32, false},
    {"4 KiB random read", StoreOp::Op::read, 1, 1, false},
    {"4 KiB random read", StoreOp::Op::read, 1, 32, false},
    {"64 KiB sequential read", StoreOp::Op::read, 16, 16, true},
    {"256 KiB sequential read", StoreOp::Op::read, 64, 8, true},
    {"flush after a 4 KiB write", StoreOp::Op::flush, 1, 1, false},
};

struct CpuTime {
  double user_us = 0;
  double kernel_us = 0;
};

CpuTime cpu_time() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto us = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) * 1e6 + static_cast<double>(t.tv_usec);
  };
  return {us(usage.ru_utime), us(usage.ru_stime)};
}

// Runs one row after the other, each from a full queue to an empty one.
class Bench {
 public:
  Bench(io::UringLoop& loop, Store& store, Buffers& buffers, std::vector<SegmentHandle> segments,
        std::uint32_t block_count, double seconds, bool json)
      : loop_(loop),
        store_(store),
        segments_(std::move(segments)),
        block_count_(block_count),
        run_us_(static_cast<std::uint64_t>(seconds * 1e6)),
        json_(json) {
    for (Slot& slot : slots_) {
      slot.bench = this;
      slot.small = buffers.small.get();
      slot.buffer = buffers.large.get();
      random_.fill({slot.buffer.data(), kMutationBytesMax});
      std::memcpy(slot.small.data(), slot.buffer.data(), kBlockBytes);
      crc32c_blocks(slot.buffer.data(), {slot.crcs, kMutationBytesMax / kBlockBytes});
      slot.small_crc = slot.crcs[0];
    }
  }

  void start(std::function<void()> finished) {
    finished_ = std::move(finished);
    if (!json_)
      std::printf("%-32s %5s %9s %8s %7s %7s %8s %7s %9s %6s %12s\n", "", "depth", "per s", "MiB/s",
                  "p50 us", "p99 us", "p99.9 us", "user us", "kernel us", "calls", "device bytes");
    start_row();
  }

 private:
  struct Slot {
    StoreOp op;
    Bench* bench = nullptr;
    BufferRef buffer;  // for operations of many blocks
    BufferRef small;   // for those of one, as a client has it
    std::uint32_t small_crc = 0;
    std::uint32_t crcs[kMutationBytesMax / kBlockBytes] = {};
    std::uint64_t started_us = 0;
  };

  const Row& row() const { return kRows[row_]; }

  void start_row() {
    loop_.refresh();
    latencies_.clear();
    cursor_ = 0;
    before_ = store_.stats();
    calls_before_ = loop_.stats().system_calls;
    cpu_before_ = cpu_time();
    started_us_ = loop_.now_us();
    running_ = row().depth;
    for (std::uint32_t i = 0; i < row().depth; ++i) submit(slots_[i], row().op);
  }

  // A flush row alternates: a write, then the flush that is measured.
  void submit(Slot& slot, StoreOp::Op op) {
    const bool flush_row = row().op == StoreOp::Op::flush;
    slot.op = StoreOp{};
    slot.op.op = flush_row && op != StoreOp::Op::flush ? StoreOp::Op::write : op;
    slot.op.block_count = row().block_count;
    const std::uint32_t places = block_count_ / row().block_count;
    const auto at =
        static_cast<std::uint32_t>(row().sequential ? cursor_++ % places : random_.below(places));
    const std::uint32_t block = at * row().block_count;
    slot.op.segment = segments_[block / kSegmentBlocks];
    slot.op.first_block = block % kSegmentBlocks;
    slot.op.version = {1, ++seq_};
    const bool one = row().block_count == 1;
    slot.op.hold = one ? slot.small : slot.buffer;
    slot.op.data = slot.op.hold.data();
    std::uint32_t* crcs = one ? &slot.small_crc : slot.crcs;
    if (slot.op.op == StoreOp::Op::write) slot.op.crcs = crcs;
    if (slot.op.op == StoreOp::Op::read) slot.op.crcs_out = crcs;
    slot.op.owner = &slot;
    slot.op.done = [](StoreOp& done) noexcept {
      Slot& ended = *static_cast<Slot*>(done.owner);
      ended.bench->ended(ended);
    };
    slot.started_us = loop_.now_us();
    store_.submit(slot.op);
  }

  void ended(Slot& slot) {
    loop_.refresh();
    if (slot.op.error != Error::Ok) {
      std::fprintf(stderr, "store_bench: %s: %s\n", row().name, error_name(slot.op.error));
      std::exit(1);
    }
    const bool half = row().op == StoreOp::Op::flush && slot.op.op == StoreOp::Op::write;
    if (half) return submit(slot, StoreOp::Op::flush);
    latencies_.push_back(static_cast<std::uint32_t>(loop_.now_us() - slot.started_us));
    const bool first_pass_done = row_ == 0 && cursor_ >= block_count_ / row().block_count;
    const bool over = row_ == 0 ? first_pass_done : loop_.now_us() - started_us_ >= run_us_;
    if (!over) return submit(slot, row().op == StoreOp::Op::flush ? StoreOp::Op::write : row().op);
    if (--running_ > 0) return;
    report();
    if (++row_ == std::size(kRows)) return finished_();
    start_row();
  }

  void report() {
    const double seconds = static_cast<double>(loop_.now_us() - started_us_) / 1e6;
    const auto count = static_cast<double>(latencies_.size());
    std::sort(latencies_.begin(), latencies_.end());
    const StoreStats& after = store_.stats();
    const double given = static_cast<double>(after.write_bytes - before_.write_bytes);
    const double cost = static_cast<double>(after.device_write_bytes - before_.device_write_bytes);
    const auto percentile = [this](std::size_t per_mille) {
      return latencies_[latencies_.size() * per_mille / 1000];
    };
    const double mib = count * row().block_count * kBlockBytes / seconds / (1 << 20);
    const CpuTime cpu = cpu_time();
    const double user = (cpu.user_us - cpu_before_.user_us) / count;
    const double kernel = (cpu.kernel_us - cpu_before_.kernel_us) / count;
    const double calls = static_cast<double>(loop_.stats().system_calls - calls_before_) / count;
    const double amplification = given > 0 ? cost / given : 0;
    const char* format =
        json_ ? "{\"name\": \"%s\", \"depth\": %u, \"per_s\": %.0f, \"mib_per_s\": %.1f, "
                "\"p50_us\": %u, \"p99_us\": %u, \"p999_us\": %u, \"user_us\": %.2f, "
                "\"kernel_us\": %.2f, \"system_calls\": %.3f, \"device_bytes_per_byte\": %.3f}\n"
              : "%-32s %5u %9.0f %8.1f %7u %7u %8u %7.2f %9.2f %6.3f %12.3f\n";
    std::printf(format, row().name, row().depth, count / seconds, mib, percentile(500),
                percentile(990), percentile(999), user, kernel, calls, amplification);
    std::fflush(stdout);
  }

  io::UringLoop& loop_;
  Store& store_;
  std::vector<SegmentHandle> segments_;
  std::uint32_t block_count_;
  std::uint64_t run_us_;
  bool json_;
  Random random_{1};
  Slot slots_[kDepthMax];
  std::function<void()> finished_;
  std::size_t row_ = 0;
  std::uint64_t seq_ = 0;
  std::uint64_t cursor_ = 0;
  std::uint32_t running_ = 0;
  std::uint64_t started_us_ = 0;
  std::uint64_t calls_before_ = 0;
  CpuTime cpu_before_;
  StoreStats before_;
  std::vector<std::uint32_t> latencies_;
};

void run(const std::string& path, double seconds, std::uint64_t size_mib, bool json) {
  if (!std::filesystem::exists(path)) io::UringDisk::create_file(path, size_mib << 20);
  io::UringLoop loop;
  io::UringDisk disk(loop, path);
  Uuid id;
  id.bytes.fill(0xbe);
  FormatOptions format;
  format.store_id = format.cluster_id = id;
  format.force = true;
  Store::format(disk, format);
  Buffers buffers(256, 64, kDepthMax);
  const std::unique_ptr<Store> store = Store::open(disk, loop, buffers, {.cluster_id = id});
  // Three quarters of the store, so that whole chunks find fresh slots.
  const auto blocks = static_cast<std::uint32_t>(
      store->info().capacity_bytes / 4 * 3 / kMutationBytesMax * (kMutationBytesMax / kBlockBytes));
  std::vector<SegmentHandle> segments;
  std::unique_ptr<Bench> bench;
  std::function<void()> create_next = [&] {
    const auto index = static_cast<std::uint32_t>(segments.size());
    if (index * kSegmentBlocks >= blocks) {
      bench = std::make_unique<Bench>(loop, *store, buffers, segments, blocks, seconds, json);
      return bench->start([&] { store->close([&](Error) { loop.stop(); }); });
    }
    const SegmentId segment{id, index};
    const std::uint32_t count = std::min(kSegmentBlocks, blocks - index * kSegmentBlocks);
    store->create_segment(segment, count, [&, segment](Error error) {
      if (error != Error::Ok) throw Fault(error, "cannot create the segment");
      segments.push_back(*store->find_segment(segment));
      create_next();
    });
  };
  create_next();
  loop.run();
  if (json) return;
  const StoreStats& stats = store->stats();
  std::printf("checkpoints %llu, journal batches %llu, writes per batch %.1f, flushes %llu\n",
              static_cast<unsigned long long>(stats.checkpoints),
              static_cast<unsigned long long>(stats.journal_batches),
              static_cast<double>(stats.writes) / static_cast<double>(stats.journal_batches),
              static_cast<unsigned long long>(stats.device_flushes));
}

}  // namespace

int main(int argc, char** argv) {
  const bool json = argc > 1 && std::string(argv[argc - 1]) == "--json";
  if (json) --argc;
  if (argc < 2) {
    std::fprintf(stderr,
                 "usage: store_bench PATH [SECONDS] [SIZE_MIB] [--json]   (overwrites PATH)\n");
    return 2;
  }
  try {
    run(argv[1], argc > 2 ? std::atof(argv[2]) : 3,
        argc > 3 ? std::strtoull(argv[3], nullptr, 10) : 2048, json);
  } catch (const Fault& fault) {
    std::fprintf(stderr, "store_bench: %s\n", fault.what());
    return 1;
  }
  return 0;
}
