// The disk against a real file: what was written is read, exclusively, through every path.
#include "io/uring_disk.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <fstream>
#include <map>
#include <memory>
#include <vector>

#include "base/random.h"
#include "tests/io/pattern.h"
#include "tests/io/uring_world.h"

using namespace blockd;
using namespace blockd::io;
using namespace blockd::io::testing;

namespace {

constexpr std::uint64_t kFileBytes = 8 << 20;

struct Fixture {
  TempDir dir;
  std::string path = dir / "store";
  RunningLoop running;
  std::unique_ptr<UringDisk> disk;
  Fixture() {
    UringDisk::create_file(path, kFileBytes);
    running.on_loop([&] { disk = std::make_unique<UringDisk>(running.loop, path); });
  }
  ~Fixture() {
    running.on_loop([&] { disk.reset(); });
  }
  Pending start(const std::function<Pending()>& make) {
    std::unique_ptr<Pending> pending;
    running.on_loop([&] { pending = std::make_unique<Pending>(make()); });
    return std::move(*pending);
  }
  Pending done(const std::function<Pending()>& make) {
    Pending pending = start(make);
    REQUIRE(running.until([&] { return pending.completed; }));
    return pending;
  }
};

Error fault_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Fault& fault) {
    CHECK(std::string(fault.what()).size() > 10);
    return fault.code();
  }
  return Error::Ok;
}

}  // namespace

TEST_CASE_FIXTURE(Fixture, "reads find what was written, flushed, over many requests in flight") {
  CHECK(disk->capacity_bytes() == kFileBytes);
  CHECK(disk->is_direct());
  Random random(1);
  std::map<std::uint64_t, std::uint64_t> tags;
  std::vector<Pending> writes;
  running.on_loop([&] {
    for (std::uint64_t i = 0; i < 600; ++i) {  // beyond the depth of the queue
      const std::uint64_t page = (i * 997) % 1800;
      tags[page] = i;
      writes.push_back(Pending::write(*disk, page * 4096, 1, i));
    }
  });
  REQUIRE(running.until([&] {
    return std::all_of(writes.begin(), writes.end(), [](const Pending& w) { return w.completed; });
  }));
  for (const Pending& write : writes) CHECK(write.request.error == Error::Ok);
  CHECK(done([&] { return Pending::flush(*disk); }).request.error == Error::Ok);
  for (const auto& [page, tag] : tags) {
    if (page % 10 != 0) continue;
    CHECK(done([&, page = page] { return Pending::read(*disk, page * 4096, 1); }).holds(tag));
  }
  running.on_loop([&] {
    CHECK(disk->stats().writes == 600);
    CHECK(disk->stats().flushes == 1);
    Page page;
    CHECK(disk->read_now(0, page.span()) == Error::Ok);
    CHECK(page == pattern(0, tags.at(0)));
  });
}

TEST_CASE_FIXTURE(Fixture, "requests of several pieces, and fixed buffers") {
  struct Gather {
    Memory memory{5 * 4096};
    iovec iov[3];
    DiskRequest request;
    bool completed = false;
  };
  auto go = [&](DiskRequest::Op op, Gather& gather) {
    gather.iov[0] = {gather.memory.data(), 4096};
    gather.iov[1] = {gather.memory.data() + 4096, 8192};
    gather.iov[2] = {gather.memory.data() + 3 * 4096, 8192};
    gather.request.op = op;
    gather.request.offset_bytes = 12'288;
    gather.request.iov = gather.iov;
    gather.request.iov_count = 3;
    gather.request.owner = &gather;
    gather.request.done = [](DiskRequest& r) noexcept {
      static_cast<Gather*>(r.owner)->completed = true;
    };
    gather.completed = false;
    running.on_loop([&] { disk->submit(gather.request); });
    REQUIRE(running.until([&] { return gather.completed; }));
    CHECK(gather.request.error == Error::Ok);
  };
  Gather out, in;
  Random(7).fill(out.memory.span());
  go(DiskRequest::Op::write, out);
  running.on_loop([&] { disk->register_memory(in.memory.span()); });
  go(DiskRequest::Op::read, in);
  CHECK(std::memcmp(in.memory.data(), out.memory.data(), 5 * 4096) == 0);

  Gather fixed;
  running.on_loop([&] { disk->register_memory(fixed.memory.span()); });
  fixed.request.offset_bytes = 12'288;
  fixed.iov[0] = {fixed.memory.data(), 5 * 4096};
  fixed.request.iov = fixed.iov;
  fixed.request.iov_count = 1;
  fixed.request.owner = &fixed;
  fixed.request.done = [](DiskRequest& r) noexcept {
    static_cast<Gather*>(r.owner)->completed = true;
  };
  running.on_loop([&] { disk->submit(fixed.request); });
  REQUIRE(running.until([&] { return fixed.completed; }));
  CHECK(std::memcmp(fixed.memory.data(), out.memory.data(), 5 * 4096) == 0);
  running.on_loop([&] {
    const bool can_fix = running.loop.fixed_buffer(fixed.memory.data(), 4096).has_value();
    CHECK(disk->stats().fixed == (can_fix ? 1 : 0));
  });
}

// The kernel keeps to the pages that it was shown, whatever is mapped there later.
TEST_CASE_FIXTURE(Fixture, "memory that took the place of registered memory is read and written") {
  (void)done([&] { return Pending::write(*disk, 0, 1, 5); });
  struct Mapped {
    std::byte* at = nullptr;
    iovec iov{};
    DiskRequest request;
    bool completed = false;
    void map() {
      const int fixed = at ? MAP_FIXED_NOREPLACE : 0;
      void* memory =
          mmap(at, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | fixed, -1, 0);
      REQUIRE(memory != MAP_FAILED);
      at = static_cast<std::byte*>(memory);
    }
    std::span<std::byte> span() const { return {at, 4096}; }
  } mapped;
  auto read = [&] {
    mapped.iov = {mapped.at, 4096};
    mapped.request.iov = &mapped.iov;
    mapped.request.iov_count = 1;
    mapped.request.owner = &mapped;
    mapped.request.done = [](DiskRequest& r) noexcept {
      static_cast<Mapped*>(r.owner)->completed = true;
    };
    mapped.completed = false;
    running.on_loop([&] { disk->submit(mapped.request); });
    REQUIRE(running.until([&] { return mapped.completed; }));
    CHECK(std::memcmp(mapped.at, pattern(0, 5).data(), 4096) == 0);
  };
  for (int turn = 0; turn < 100; ++turn) {  // more than the kernel has places for
    mapped.map();
    running.on_loop([&] { disk->register_memory(mapped.span()); });
    read();
    running.on_loop([&] { disk->unregister_memory(mapped.span()); });
    munmap(mapped.at, 4096);
  }
  mapped.map();
  read();
  munmap(mapped.at, 4096);
  running.on_loop([&] { CHECK(disk->stats().fixed <= 100); });
}

// System calls that `count` requests, submitted in one iteration, have cost before it ends.
template <typename Request>
std::uint64_t calls_within(Fixture& fixture, std::size_t count, Request&& request) {
  std::vector<Pending> pending;
  std::uint64_t calls = 0;
  fixture.running.on_loop([&] {
    const std::uint64_t before = fixture.running.loop.stats().system_calls;
    for (std::size_t i = 0; i < count; ++i) pending.push_back(request(i * 4096));
    calls = fixture.running.loop.stats().system_calls - before;
  });
  REQUIRE(fixture.running.until([&] {
    return std::all_of(pending.begin(), pending.end(),
                       [](const Pending& p) { return p.completed; });
  }));
  return calls;
}

TEST_CASE_FIXTURE(Fixture, "a read goes to a busy device at once, writes eight at a time") {
  const auto read = [&](std::uint64_t at) { return Pending::read(*disk, at, 1); };
  const auto write = [&](std::uint64_t at) { return Pending::write(*disk, at, 1, 3); };
  CHECK(calls_within(*this, 4, read) == 0);  // the iteration ends soon
  CHECK(calls_within(*this, 64, read) == 60);
  CHECK(calls_within(*this, 64, write) == 8);
}

TEST_CASE_FIXTURE(Fixture, "a discarded range of a file reads as zeros and gives its space back") {
  (void)done([&] { return Pending::write(*disk, 0, 256, 3); });
  struct stat before {
  }, after{};
  stat(path.c_str(), &before);
  CHECK(done([&] { return Pending::discard(*disk, 0, 1 << 20); }).request.error == Error::Ok);
  stat(path.c_str(), &after);
  CHECK(after.st_blocks < before.st_blocks);
  CHECK(after.st_size == before.st_size);
  const Pending read = done([&] { return Pending::read(*disk, 4096, 1); });
  CHECK(std::all_of(read.bytes().begin(), read.bytes().end(),
                    [](std::byte b) { return b == std::byte{0}; }));
}

TEST_CASE_FIXTURE(Fixture, "a file cut short under us is a disk error, not zeros") {
  REQUIRE(truncate(path.c_str(), 4096 * 3) == 0);
  const Pending read = done([&] { return Pending::read(*disk, 8192, 4); });
  CHECK(read.request.error == Error::DiskError);
  running.on_loop([&] { CHECK(disk->stats().resumed == 1); });
}

TEST_CASE_FIXTURE(Fixture, "a store has one owner, and bad paths get a clear fault") {
  UringLoop other;
  CHECK(fault_of([&] { UringDisk second(other, path); }) == Error::StoreInUse);
  CHECK(fault_of([&] { UringDisk none(other, dir / "absent"); }) == Error::NotFound);
  CHECK(fault_of([&] { UringDisk folder(other, dir / "."); }) == Error::InvalidArgument);
  CHECK(fault_of([&] { UringDisk::create_file(path, 4096); }) == Error::AlreadyExists);
  CHECK(fault_of([&] { UringDisk::create_file(dir / "huge", 1ull << 60); }) == Error::NoSpace);
  CHECK_FALSE(std::filesystem::exists(dir / "huge"));
}

TEST_CASE("without O_DIRECT a store is refused unless buffering is allowed") {
  std::string path = "/dev/shm/blockd-io-" + std::to_string(getpid());
  UringDisk::create_file(path, 1 << 20);
  UringLoop loop;
  bool refused = false;
  try {
    UringDisk disk(loop, path);
  } catch (const Fault& fault) {
    refused = fault.code() == Error::Unsupported;
  }
  // tmpfs takes O_DIRECT since Linux 6.6.
  const bool takes_direct = [&] {
    const int fd = open(path.c_str(), O_RDWR | O_DIRECT | O_CLOEXEC);
    if (fd >= 0) close(fd);
    return fd >= 0;
  }();
  CHECK(refused != takes_direct);
  UringDisk buffered(loop, path, {.allow_buffered = true});
  CHECK(buffered.is_direct() == takes_direct);
  CHECK(buffered.write_now(0, pattern(0, 1).span()) == Error::Ok);
  CHECK(buffered.flush_now() == Error::Ok);
  std::filesystem::remove(path);
}
