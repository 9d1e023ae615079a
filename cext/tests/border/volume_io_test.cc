// VolumeIo against a backend in memory: any extent, any delay, few buffers.
#include "border/volume_io.h"

#include <doctest/doctest.h>

#include <cstring>
#include <map>
#include <vector>

#include "io/sim_world.h"

using namespace blockd;
using namespace blockd::border;

namespace {

using Op = IoJob::Op;

class MemoryBackend final : public engine::BlockBackend {
 public:
  MemoryBackend(io::SimWorld& world, io::SimLoop& loop, std::uint64_t size)
      : world_(world), loop_(loop), size_(size), bytes((size + 4095) / 4096 * 4096) {}

  [[nodiscard]] std::uint64_t size_bytes() const noexcept override { return size_; }

  void submit(engine::BlockRequest& request) noexcept override {
    check(request);
    ++in_flight;
    in_flight_max = std::max(in_flight_max, in_flight);
    if (fail_at_once != Error::Ok) return finish(request, fail_at_once);
    world_.after(world_.random().next() % 100 + 1, &loop_, [this, &request] {
      finish(request,
             request.offset_bytes / kMutationBytesMax == bad_window ? Error::DiskError : Error::Ok);
    });
  }

  std::uint64_t bad_window = ~std::uint64_t{0};
  Error fail_at_once = Error::Ok;
  std::size_t in_flight = 0, in_flight_max = 0, requests = 0;

 private:
  io::SimWorld& world_;
  io::SimLoop& loop_;
  std::uint64_t size_;

 public:
  std::vector<std::byte> bytes;

 private:
  void check(const engine::BlockRequest& request) {
    ++requests;
    if (request.op == Op::flush) return;
    const std::uint64_t end = request.offset_bytes + request.length_bytes;
    REQUIRE(end <= bytes.size());
    if (request.op == Op::read) {
      REQUIRE(request.offset_bytes % 4096 == 0);
      REQUIRE(request.length_bytes % 4096 == 0);
      REQUIRE(reinterpret_cast<std::uintptr_t>(request.data) % 4096 == 0);
    }
    if (request.op == Op::read || request.op == Op::write) {
      REQUIRE(request.length_bytes <= kMutationBytesMax);
      REQUIRE(request.hold);
    }
    REQUIRE(request.offset_bytes / kSegmentBytes == (end - 1) / kSegmentBytes);
  }

  void finish(engine::BlockRequest& request, Error error) {
    --in_flight;
    std::byte* place = bytes.data() + request.offset_bytes;
    request.error = error;
    if (error == Error::Ok) {
      if (request.op == Op::read) std::memcpy(request.data, place, request.length_bytes);
      if (request.op == Op::write) std::memcpy(place, request.data, request.length_bytes);
      if (request.op == Op::trim || request.op == Op::write_zeroes) {
        std::memset(place, 0, request.length_bytes);
      }
    }
    request.done(request);
  }
};

struct Fixture : IoJobSink {
  explicit Fixture(std::uint64_t size, std::uint32_t buffers_each = 8)
      : buffers(buffers_each, buffers_each, buffers_each),
        backend(world, loop, size),
        io(std::make_unique<VolumeIo>(loop, buffers, backend, *this)) {}
  ~Fixture() override {
    world.run_until_idle();
    CHECK(io->idle());
    CHECK(buffers.small.free_count() == buffers.small.count());
    CHECK(buffers.chunk.free_count() == buffers.chunk.count());
    CHECK(buffers.large.free_count() == buffers.large.count());
  }

  void finished(std::unique_ptr<IoJob> job) noexcept override {
    REQUIRE(answers.emplace(job->token, job->error).second);
  }
  void give(Token token, Op op, std::uint64_t offset, std::uint64_t length, std::byte* memory) {
    auto job = std::make_unique<IoJob>();
    job->token = token;
    job->op = op;
    job->offset_bytes = offset;
    job->length_bytes = length;
    job->memory = memory;
    io->submit(std::move(job));
  }
  Error run(Op op, std::uint64_t offset, std::uint64_t length, std::byte* memory = nullptr) {
    const Token token = next_token++;
    give(token, op, offset, length, memory);
    world.run_until([&] { return answers.contains(token); });
    return answers.at(token);
  }

  io::SimWorld world{7};
  io::SimLoop loop{world};
  Buffers buffers;
  MemoryBackend backend;
  std::map<Token, Error> answers;
  Token next_token = 1;
  std::unique_ptr<VolumeIo> io;
};

std::vector<std::byte> pattern(std::size_t bytes, unsigned seed) {
  std::vector<std::byte> out(bytes);
  for (std::size_t i = 0; i < bytes; ++i) out[i] = static_cast<std::byte>((i * 31 + seed) >> 2);
  return out;
}

}  // namespace

TEST_CASE("any extent is written and read back") {
  Fixture f(3 * kMutationBytesMax + 512);
  const std::uint64_t size = f.backend.size_bytes();
  std::vector<std::byte> model(size);
  Random random(11);
  for (unsigned round = 0; round < 300; ++round) {
    const std::uint64_t offset = random.next() % size;
    const std::uint64_t length =
        random.next() %
        (round % 3 == 0 ? size - offset + 1 : std::min<std::uint64_t>(9000, size - offset + 1));
    switch (random.next() % 4) {
      case 0: {
        const auto data = pattern(length, round);
        REQUIRE(f.run(Op::write, offset, length, const_cast<std::byte*>(data.data())) == Error::Ok);
        std::memcpy(model.data() + offset, data.data(), length);
        break;
      }
      case 1:
        REQUIRE(f.run(round % 2 ? Op::trim : Op::write_zeroes, offset, length) == Error::Ok);
        std::memset(model.data() + offset, 0, length);
        break;
      default: {
        std::vector<std::byte> into(length + 2, std::byte{0xee});
        REQUIRE(f.run(Op::read, offset, length, into.data() + 1) == Error::Ok);
        REQUIRE(std::memcmp(into.data() + 1, model.data() + offset, length) == 0);
        REQUIRE(into.front() == std::byte{0xee});
        REQUIRE(into.back() == std::byte{0xee});
      }
    }
  }
}

TEST_CASE("a piece never crosses a segment") {
  Fixture f(kSegmentBytes + 8192);
  CHECK(f.run(Op::trim, kSegmentBytes - 4096, 8192) == Error::Ok);
  CHECK(f.backend.requests == 2);
  auto data = pattern(8192, 3);
  CHECK(f.run(Op::write, kSegmentBytes - 4096, 8192, data.data()) == Error::Ok);
  CHECK(f.backend.requests == 4);
}

TEST_CASE("few buffers pause the queue and lose nothing") {
  Fixture f(16 * kMutationBytesMax, 2);
  std::vector<std::vector<std::byte>> payloads;
  for (Token i = 0; i < 16; ++i)
    payloads.push_back(pattern(kMutationBytesMax, static_cast<unsigned>(i)));
  for (Token i = 0; i < 16; ++i) {
    f.give(100 + i, Op::write, i * kMutationBytesMax, kMutationBytesMax, payloads[i].data());
  }
  f.world.run_until_idle();
  CHECK(f.answers.size() == 16);
  CHECK(f.backend.in_flight_max == 2);
  for (Token i = 0; i < 16; ++i) {
    CHECK(f.answers.at(100 + i) == Error::Ok);
    CHECK(std::memcmp(f.backend.bytes.data() + i * kMutationBytesMax, payloads[i].data(),
                      kMutationBytesMax) == 0);
  }
}

TEST_CASE("beyond the end, and nothing at all") {
  Fixture f(1 << 20);
  std::byte memory[16] = {};
  CHECK(f.run(Op::read, 1 << 20, 1, memory) == Error::ExtentOutOfRange);
  CHECK(f.run(Op::read, ~std::uint64_t{0}, 2, memory) == Error::ExtentOutOfRange);
  CHECK(f.run(Op::write, 0, ~std::uint64_t{0}, memory) == Error::ExtentOutOfRange);
  CHECK(f.run(Op::trim, 1, 1 << 20) == Error::ExtentOutOfRange);
  CHECK(f.run(Op::read, 1 << 20, 0, memory) == Error::Ok);
  CHECK(f.backend.requests == 0);
  CHECK(f.run(Op::flush, 0, 0) == Error::Ok);
  CHECK(f.backend.requests == 1);
}

TEST_CASE("the first failing piece ends the job, once, when all its pieces are back") {
  Fixture f(32 * kMutationBytesMax);
  f.backend.bad_window = 3;
  std::vector<std::byte> data(32 * kMutationBytesMax);
  CHECK(f.run(Op::write, 0, data.size(), data.data()) == Error::DiskError);
  CHECK(f.backend.in_flight == 0);
  CHECK(f.backend.requests < 32);
}

TEST_CASE("an error from inside submit() is an answer like any other") {
  Fixture f(4 * kMutationBytesMax);
  f.backend.fail_at_once = Error::EpochFenced;
  std::vector<std::byte> data(4 * kMutationBytesMax);
  for (int i = 0; i < 3; ++i)
    CHECK(f.run(Op::write, 0, data.size(), data.data()) == Error::EpochFenced);
  CHECK(f.run(Op::flush, 0, 0) == Error::EpochFenced);
}

TEST_CASE("stop() ends the waiting, lets the flying land, refuses the late") {
  Fixture f(64 * kMutationBytesMax);
  std::vector<std::byte> data(64 * kMutationBytesMax);
  f.give(101, Op::write, 0, data.size(), data.data());
  f.give(102, Op::write, 0, 4096, data.data());
  f.io->stop(Error::NotAttached);
  CHECK(f.answers.at(102) == Error::NotAttached);
  CHECK_FALSE(f.answers.contains(101));
  f.world.run_until_idle();
  CHECK(f.answers.at(101) == Error::NotAttached);
  CHECK(f.io->idle());
  CHECK(f.run(Op::read, 0, 4096, data.data()) == Error::NotAttached);
}

TEST_CASE("latencies are counted by kind") {
  Fixture f(1 << 20);
  std::byte memory[512] = {};
  for (int i = 0; i < 5; ++i) CHECK(f.run(Op::read, 0, sizeof memory, memory) == Error::Ok);
  std::uint64_t count = 0;
  for (const std::uint64_t bucket : f.io->latency_us(Op::read).buckets) count += bucket;
  CHECK(count == 5);
}
