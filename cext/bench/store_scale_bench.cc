// A store whose metadata is that of a full device of the size asked for: what it costs to have it
// open, to open it after a crash with a full journal, and to write to all of it at random.
//
//   store_scale_bench PATH [CAPACITY_GIB] [SECONDS] [WORKING_SET_GIB]
//
// PATH is made as a sparse file and OVERWRITTEN; the disk needs room for the metadata (0.4 % of the
// capacity) and for what is written meanwhile. CAPACITY_GIB is 1024, SECONDS (20) how long each of
// the two loads runs; WORKING_SET_GIB (all) bounds what they touch. Each stage is a process of its
// own, so that resident memory is that stage's.
#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <new>
#include <string>

#include "base/crc32c.h"
#include "base/random.h"
#include "io/uring_disk.h"
#include "store/constants.h"
#include "store/layout.h"
#include "store/store.h"

using namespace blockd;
using namespace blockd::store;

namespace {

constexpr std::uint32_t kDepth = 32;
constexpr std::uint32_t kBlocksPerSegment = static_cast<std::uint32_t>(kSegmentBytes / kBlockBytes);

struct Arguments {
  std::string path;
  std::uint64_t capacity_bytes = 1024ull << 30;
  double seconds = 20;
  std::uint64_t working_set_bytes = ~std::uint64_t{0};
};

Uuid bench_id() {
  Uuid id;
  id.bytes.fill(0xbe);
  return id;
}

// From /proc/self/status, in MiB: VmRSS (now) or VmHWM (at most).
double memory_mib(const std::string& key) {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.rfind(key + ":", 0) == 0)
      return std::strtod(line.c_str() + key.size() + 1, nullptr) / 1024;
  }
  return 0;
}

// Writes both copies of every page of one table. `fill` makes the records of a page.
template <class PageType, class Fill>
void write_pages(io::Disk& disk, format::PageKind kind, std::uint64_t offset, std::uint32_t count,
                 Fill fill) {
  constexpr std::uint32_t kPagesPerWrite = 256;
  BufferPool pool(kPagesPerWrite * kBlockBytes, 1);
  const BufferRef memory = pool.get();
  for (std::uint64_t copy = 0; copy < 2; ++copy) {
    for (std::uint32_t first = 0; first < count; first += kPagesPerWrite) {
      const std::uint32_t now = std::min(kPagesPerWrite, count - first);
      for (std::uint32_t i = 0; i < now; ++i) {
        auto* page = new (memory.data() + std::size_t{i} * kBlockBytes) PageType;
        page->store_id = bench_id();
        page->kind = kind;
        page->number = first + i;
        page->generation = 2 + copy;
        fill(*page, first + i);
        format::seal(*page);
      }
      const std::uint64_t at = offset + (copy * count + first) * kBlockBytes;
      if (disk.write_now(at, {memory.data(), std::size_t{now} * kBlockBytes}) != Error::Ok)
        throw Fault(Error::DiskError, "cannot write the metadata");
    }
  }
}

// Every slot holds a chunk of zeros, which is what a sparse file reads as.
void fill(const Arguments& arguments) {
  std::filesystem::remove(arguments.path);
  const int fd = ::open(arguments.path.c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0600);
  if (fd < 0 || ::ftruncate(fd, static_cast<off_t>(arguments.capacity_bytes)) != 0)
    throw Fault(Error::InvalidArgument, "cannot make " + arguments.path);
  ::close(fd);
  io::UringLoop loop;
  io::UringDisk disk(loop, arguments.path);
  FormatOptions options;
  options.store_id = options.cluster_id = bench_id();
  options.force = true;
  Store::format(disk, options);
  const format::Superblock superblock = read_superblock(disk);
  const std::uint32_t whole = superblock.slot_count / kChunksPerSegment * kChunksPerSegment;
  write_pages<format::SegmentPage>(
      disk, format::PageKind::segments, superblock.segment_pages_offset,
      superblock.segment_page_count, [&](format::SegmentPage& page, std::uint32_t number) {
        for (std::uint32_t i = 0; i < format::kRecordsPerPage; ++i) {
          const std::uint32_t segment = number * format::kRecordsPerPage + i;
          if (segment >= whole / kChunksPerSegment) continue;
          page.records[i].state = format::SegmentState::used;
          page.records[i].index = segment;
          page.records[i].volume = bench_id();
          page.records[i].block_count = kBlocksPerSegment;
        }
      });
  write_pages<format::SlotPage>(disk, format::PageKind::slots, superblock.slot_pages_offset,
                                superblock.slot_page_count,
                                [&](format::SlotPage& page, std::uint32_t number) {
                                  for (std::uint32_t i = 0; i < format::kRecordsPerPage; ++i) {
                                    const std::uint32_t slot = number * format::kRecordsPerPage + i;
                                    if (slot >= whole) continue;
                                    page.records[i].state = format::SlotState::used;
                                    page.records[i].segment = slot / kChunksPerSegment;
                                    page.records[i].chunk = slot % kChunksPerSegment;
                                    page.records[i].valid_mask = 0xffff;
                                    page.records[i].version = {1, 1};
                                    for (std::uint32_t& crc : page.records[i].crcs)
                                      crc = crc32c_zero_block();
                                  }
                                });
  if (disk.flush_now() != Error::Ok) throw Fault(Error::DiskError, "cannot flush");
}

// Random 4 KiB operations over the working set, kDepth at a time, until `over` says so.
class Load {
 public:
  Load(io::UringLoop& loop, Store& store, Buffers& buffers, std::uint64_t working_set_bytes)
      : loop_(loop), store_(store) {
    segments_ = std::max<std::uint32_t>(
        1, static_cast<std::uint32_t>(std::min<std::uint64_t>(store.info().segment_count,
                                                              working_set_bytes / kSegmentBytes)));
    for (Slot& slot : slots_) {
      slot.load = this;
      slot.buffer = buffers.large.get();
      random_.fill({slot.buffer.data(), kBlockBytes});
      slot.crc = crc32c(slot.buffer.data(), kBlockBytes);
    }
  }

  // `ended` is called when the last operation is done; it may start the next run.
  void start(StoreOp::Op op, std::function<bool()> over, std::function<void()> ended) {
    op_ = op;
    over_ = std::move(over);
    ended_ = std::move(ended);
    operations_ = 0;
    running_ = kDepth;
    for (Slot& slot : slots_) submit(slot);
  }
  [[nodiscard]] std::uint64_t operations() const { return operations_; }

 private:
  struct Slot {
    StoreOp op;
    Load* load = nullptr;
    BufferRef buffer;
    std::uint32_t crc = 0;
    std::uint32_t crc_read = 0;
  };

  void submit(Slot& slot) {
    slot.op = StoreOp{};
    slot.op.op = op_;
    slot.op.segment =
        *store_.find_segment({bench_id(), static_cast<std::uint32_t>(random_.below(segments_))});
    slot.op.first_block = static_cast<std::uint32_t>(random_.below(kBlocksPerSegment));
    slot.op.block_count = 1;
    slot.op.version = {2, ++seq_};
    slot.op.data = slot.buffer.data();
    slot.op.crcs = &slot.crc;
    slot.op.crcs_out = op_ == StoreOp::Op::read ? &slot.crc_read : nullptr;
    slot.op.owner = &slot;
    slot.op.done = [](StoreOp& done) noexcept {
      Slot& ended = *static_cast<Slot*>(done.owner);
      ended.load->ended(ended);
    };
    store_.submit(slot.op);
  }

  void ended(Slot& slot) {
    if (slot.op.error != Error::Ok) {
      std::fprintf(stderr, "store_scale_bench: %s\n", error_name(slot.op.error));
      std::_Exit(1);
    }
    ++operations_;
    loop_.refresh();
    if (!over_()) return submit(slot);
    if (--running_ > 0) return;
    const std::function<void()> next = std::move(ended_);
    next();
  }

  io::UringLoop& loop_;
  Store& store_;
  Random random_{1};
  Slot slots_[kDepth];
  StoreOp::Op op_ = StoreOp::Op::write;
  std::function<bool()> over_;
  std::function<void()> ended_;
  std::uint32_t segments_ = 0;
  std::uint32_t running_ = 0;
  std::uint64_t operations_ = 0;
  std::uint64_t seq_ = 0;
};

struct Opened {
  explicit Opened(const Arguments& arguments)
      : disk(loop, arguments.path), buffers(256, 64, kDepth) {
    const auto before = std::chrono::steady_clock::now();
    store = Store::open(disk, loop, buffers, {.cluster_id = bench_id()});
    seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - before).count();
  }
  io::UringLoop loop;
  io::UringDisk disk;
  Buffers buffers;
  std::unique_ptr<Store> store;
  double seconds = 0;
};

// The kernel takes a while to let go of a process that died with requests in flight.
std::unique_ptr<Opened> open_when_free(const Arguments& arguments) {
  for (std::uint32_t attempt = 0;; ++attempt) {
    try {
      return std::make_unique<Opened>(arguments);
    } catch (const Fault& fault) {
      if (fault.code() != Error::StoreInUse || attempt == 600) throw;
      ::usleep(100'000);
    }
  }
}

// Dies, as if killed, when the journal is as full as it gets.
void crash(const Arguments& arguments) {
  const std::unique_ptr<Opened> owned = open_when_free(arguments);
  Opened& opened = *owned;
  std::printf("%-28s open %.2f s, resident %.0f MiB\n", "at rest", opened.seconds,
              memory_mib("VmRSS"));
  Load load(opened.loop, *opened.store, opened.buffers, arguments.working_set_bytes);
  std::uint64_t fullest = 0;
  const auto as_full_as_it_gets = [&] {
    const std::uint64_t used = opened.store->info().journal_used_bytes;
    const bool falls = opened.store->stats().checkpoints > 2 && used < fullest;
    fullest = std::max(fullest, used);
    return falls || used > opened.store->info().journal_bytes / 10 * 9 ||
           (opened.store->stats().checkpoints > 2 && used >= fullest);
  };
  load.start(StoreOp::Op::write, as_full_as_it_gets, [&] { opened.loop.stop(); });
  opened.loop.run();
  std::printf("%-28s %.0f MiB in the journal\n", "killed",
              static_cast<double>(opened.store->info().journal_used_bytes) / (1 << 20));
  std::fflush(stdout);
  std::_Exit(0);
}

void measure(const Arguments& arguments) {
  const std::unique_ptr<Opened> owned = open_when_free(arguments);
  Opened& opened = *owned;
  std::printf("%-28s open %.2f s with %llu batches to replay, resident %.0f MiB\n",
              "after the crash", opened.seconds,
              static_cast<unsigned long long>(opened.store->stats().recovered_batches),
              memory_mib("VmRSS"));
  Load load(opened.loop, *opened.store, opened.buffers, arguments.working_set_bytes);
  StoreStats before = opened.store->stats();
  opened.loop.refresh();
  std::uint64_t started_us = opened.loop.now_us();
  const auto run_us = static_cast<std::uint64_t>(arguments.seconds * 1e6);
  const auto over = [&] { return opened.loop.now_us() - started_us >= run_us; };
  const auto report = [&](const char* name) {
    const StoreStats& after = opened.store->stats();
    const double seconds = static_cast<double>(opened.loop.now_us() - started_us) / 1e6;
    std::printf("%-28s %.0f per s, ", name, static_cast<double>(load.operations()) / seconds);
    if (after.write_bytes > before.write_bytes) {
      std::printf("%.2f device bytes a byte, %llu checkpoints, ",
                  static_cast<double>(after.device_write_bytes - before.device_write_bytes) /
                      static_cast<double>(after.write_bytes - before.write_bytes),
                  static_cast<unsigned long long>(after.checkpoints - before.checkpoints));
    }
    std::printf("resident at most %.0f MiB\n", memory_mib("VmHWM"));
    std::fflush(stdout);
    before = after;
    started_us = opened.loop.now_us();
  };
  load.start(StoreOp::Op::write, over, [&] {
    report("4 KiB random write");
    load.start(StoreOp::Op::read, over, [&] {
      report("4 KiB random read");
      opened.loop.stop();
    });
  });
  opened.loop.run();
  std::_Exit(0);
}

void in_process(void (*stage)(const Arguments&), const Arguments& arguments) {
  std::fflush(stdout);
  const pid_t child = ::fork();
  if (child == 0) {
    try {
      stage(arguments);
      std::_Exit(0);
    } catch (const Fault& fault) {
      std::fprintf(stderr, "store_scale_bench: %s\n", fault.what());
      std::_Exit(1);
    }
  }
  int status = 0;
  if (child < 0 || ::waitpid(child, &status, 0) != child || status != 0) std::exit(1);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr,
                 "usage: store_scale_bench PATH [CAPACITY_GIB] [SECONDS] [WORKING_SET_GIB]   "
                 "(overwrites PATH)\n");
    return 2;
  }
  Arguments arguments;
  arguments.path = argv[1];
  if (argc > 2) arguments.capacity_bytes = std::strtoull(argv[2], nullptr, 10) << 30;
  if (argc > 3) arguments.seconds = std::atof(argv[3]);
  if (argc > 4) arguments.working_set_bytes = std::strtoull(argv[4], nullptr, 10) << 30;
  for (auto* stage : {fill, crash, measure}) in_process(stage, arguments);
  return 0;
}
