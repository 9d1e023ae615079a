// Stories of volumes that shrink: nothing before the new end changes, and nothing that was behind
// it is ever seen again.
#include <doctest/doctest.h>

#include <array>
#include <memory>
#include <optional>
#include <vector>

#include "tests/sim/story.h"

namespace blockd::sim {
namespace {

constexpr std::uint64_t kFull = 2u << 20;
constexpr std::uint64_t kCut = (1u << 20) + kBlockBytes + 512;  // within a block

void fill(Io& io, std::uint64_t from, std::uint64_t to, int byte) {
  for (std::uint64_t at = from; at < to; at += kMutationBytesMax) {
    const auto length =
        static_cast<std::uint32_t>(std::min<std::uint64_t>(kMutationBytesMax, to - at));
    REQUIRE(io.write(at, length, byte) == Error::Ok);
  }
}

// All bytes of [from, to), whose ends are multiples of 512.
bool shows(Io& io, std::uint64_t from, std::uint64_t to, int byte) {
  for (std::uint64_t at = from / kBlockBytes * kBlockBytes; at < to; at += kBlockBytes) {
    if (io.read(at, kBlockBytes) != Error::Ok) return false;
    const std::uint64_t skip = at < from ? from - at : 0;
    const std::uint64_t stop = std::min<std::uint64_t>(kBlockBytes, to - at);
    if (!io.all(byte, skip, stop - skip)) return false;
  }
  return true;
}

}  // namespace

TEST_CASE("a volume that has shrunk ends there, and shows zeros when it grows again") {
  Fixture f;
  fill(f.io, 0, kFull, 1);
  REQUIRE(f.cluster.shrink(0, kCut) == Error::Ok);
  CHECK(f.cluster.volume(0)->size_bytes() == kCut);
  CHECK(shows(f.io, 0, kCut, 1));
  CHECK(f.io.read(kCut / kBlockBytes * kBlockBytes, kBlockBytes) == Error::Ok);
  CHECK(f.io.all(0, 512, kBlockBytes - 512));
  CHECK(f.io.read((kCut / kBlockBytes + 1) * kBlockBytes, kBlockBytes) == Error::ExtentOutOfRange);
  CHECK(f.io.write(kCut, 512, 9) == Error::ExtentOutOfRange);
  CHECK(f.io.trim(kCut - 512, 1024) == Error::ExtentOutOfRange);
  CHECK(f.io.write(kCut - 512, 512, 1) == Error::Ok);
  REQUIRE(f.cluster.grow(0, 2 * kFull));
  CHECK(shows(f.io, 0, kCut, 1));
  CHECK(shows(f.io, kCut, 2 * kFull, 0));
  CHECK(f.cluster.compare_replicas().empty());
}

TEST_CASE("nonsense is refused, and one change of the size is made at a time") {
  Fixture f;
  for (const std::uint64_t size : {std::uint64_t{0}, kFull, kFull + 512, kCut + 1})
    CHECK(f.cluster.shrink(0, size) == Error::InvalidArgument);
  std::optional<Error> first, second, third, fourth;
  f.cluster.volume(0)->shrink(kCut, true, [&](Error error) { first = error; });
  f.cluster.volume(0)->shrink(512, true, [&](Error error) { second = error; });
  f.cluster.volume(0)->grow(2 * kFull, {}, [&](Error error) { third = error; });
  f.cluster.volume(0)->drain([&](Error error) { fourth = error; });
  REQUIRE(
      f.cluster.world().run_until([&] { return first && second && third && fourth; }, kPatienceUs));
  CHECK(first == Error::Ok);
  CHECK(second == Error::Busy);
  CHECK(third == Error::Busy);
  CHECK(fourth == Error::Busy);
  CHECK(f.cluster.volume(0)->size_bytes() == kCut);
}

// Whatever was submitted before is answered as if nothing were, and then it is gone.
TEST_CASE("writes on their way behind the new end leave nothing there") {
  for (std::uint64_t seed = 1; seed <= 60; ++seed) {
    CAPTURE(seed);
    ClusterOptions options;
    options.seed = seed;
    Fixture f(options);
    fill(f.io, 0, kFull, 1);
    std::vector<std::unique_ptr<Io>> before, after;
    for (std::uint32_t i = 0; i < 24; ++i) {
      Io& io = *before.emplace_back(std::make_unique<Io>(f.cluster, 0));
      std::memset(io.memory, 2, kMutationBytesMax);
      const std::uint64_t at = i % 3 == 0 ? kCut - 1024 : kCut / 2 + i * 40'000;
      if (i % 5 == 4) {
        io.begin(BlockRequest::Op::trim, at, 30'000);
      } else {
        io.begin(BlockRequest::Op::write, at, 10'000 + 512 * i, i % 2 == 0);
      }
    }
    f.cluster.world().run_for(seed % 4 * 150);
    std::optional<Error> shrunk;
    f.cluster.volume(0)->shrink(kCut, true, [&](Error error) {
      shrunk = error;
      for (const auto& io : before) CHECK(io->over);
    });
    for (std::uint32_t i = 0; i < 8; ++i) {
      Io& io = *after.emplace_back(std::make_unique<Io>(f.cluster, 0));
      std::memset(io.memory, 3, kMutationBytesMax);
      io.begin(BlockRequest::Op::write, kCut - 512, i % 2 == 0 ? 1024 : 512);
    }
    if (seed % 3 == 0) f.cluster.kill(1 + seed % 2, seed % 4 == 0);
    if (seed % 3 == 1) f.cluster.reset_links(0, 1);
    REQUIRE(f.cluster.world().run_until([&] { return shrunk.has_value(); }, kPatienceUs));
    REQUIRE(shrunk == Error::Ok);
    for (const auto& io : before) CHECK(io->request.error == Error::Ok);
    for (std::uint32_t i = 0; i < 8; ++i)
      CHECK(after[i]->wait() == (i % 2 == 0 ? Error::ExtentOutOfRange : Error::Ok));
    for (std::uint32_t host = 1; host < 3; ++host) {
      if (!f.cluster.alive(host)) f.cluster.restart(host);
    }
    REQUIRE(until_in_sync(f.cluster, 3));
    REQUIRE(f.cluster.grow(0, 2 * kFull));
    CHECK(shows(f.io, kCut - 512, kCut, 3));
    CHECK(shows(f.io, kCut, 2 * kFull, 0));
    CHECK(f.cluster.compare_replicas() == "");
  }
}

TEST_CASE("a member that was away while a volume shrank shows zeros behind its end, too") {
  for (const bool back_before_detach : {true, false}) {
    CAPTURE(back_before_detach);
    Fixture f;
    fill(f.io, 0, kFull, 1);
    f.cluster.kill(2, false);
    REQUIRE(until_in_sync(f.cluster, 2));
    REQUIRE(f.cluster.shrink(0, kCut) == Error::Ok);
    if (back_before_detach) {
      f.cluster.restart(2);
      REQUIRE(until_in_sync(f.cluster, 3));
    }
    REQUIRE(f.cluster.detach(0));
    f.cluster.attach(1);
    REQUIRE(until_state(f.cluster, 1, VolumeState::serving));
    if (!back_before_detach) {
      f.cluster.restart(2);
      REQUIRE(until_in_sync(f.cluster, 3));
    }
    CHECK(f.cluster.compare_replicas().empty());
    REQUIRE(f.cluster.detach(1));
    f.cluster.attach(2);  // reads what is at hand
    REQUIRE(until_state(f.cluster, 2, VolumeState::serving));
    Io io(f.cluster, 2);
    REQUIRE(f.cluster.grow(2, kFull));
    CHECK(shows(io, 0, kCut, 1));
    CHECK(shows(io, kCut, kFull, 0));
  }
}

// The engine dies at some moment: the size on record is the old one, what is before the new end is
// untouched, and shrinking again finishes.
TEST_CASE("a shrink that was cut off can be finished by the next holder") {
  for (std::uint64_t after_us = 0; after_us <= 6'000; after_us += 150) {
    CAPTURE(after_us);
    ClusterOptions options;
    options.seed = after_us + 3;
    Fixture f(options);
    fill(f.io, 0, kFull, 1);
    f.cluster.volume(0)->shrink(kCut, true, [](Error) {});
    f.cluster.world().run_for(after_us);
    f.cluster.kill(0, true);
    f.cluster.attach(1);
    REQUIRE(until_state(f.cluster, 1, VolumeState::serving));
    Io io(f.cluster, 1);
    CHECK(f.cluster.volume(1)->size_bytes() == kFull);
    CHECK(shows(io, 0, kCut, 1));
    REQUIRE(f.cluster.shrink(1, kCut) == Error::Ok);
    f.cluster.restart(0);
    REQUIRE(f.cluster.world().run_until([&] { return f.cluster.all_in_sync(1); }, kPatienceUs));
    REQUIRE(f.cluster.grow(1, kFull));
    CHECK(shows(io, kCut, kFull, 0));
    CHECK(f.cluster.compare_replicas().empty());
  }
}

TEST_CASE("a shrink ends with the engine, and is answered once") {
  for (std::uint64_t after_us = 0; after_us <= 4'000; after_us += 100) {
    CAPTURE(after_us);
    ClusterOptions options;
    options.seed = after_us + 7;
    Fixture f(options);
    fill(f.io, 0, kFull, 1);
    int answers = 0;
    Error told = Error::Ok;
    f.cluster.volume(0)->shrink(kCut, true, [&](Error error) {
      ++answers;
      told = error;
    });
    f.cluster.world().run_for(after_us);
    if (after_us % 200 == 0) {
      REQUIRE(f.cluster.detach(0));
      CHECK((told == Error::Ok || told == Error::ShuttingDown));
    } else {
      f.cluster.attach(1);  // fences it
      REQUIRE(until_state(f.cluster, 0, VolumeState::fenced));
      f.cluster.world().run_for(1'000'000);
      CHECK((told == Error::Ok || told == Error::EpochFenced));
      std::optional<Error> drained, shrunk;
      f.cluster.volume(0)->drain([&](Error error) { drained = error; });
      f.cluster.volume(0)->shrink(512, true, [&](Error error) { shrunk = error; });
      f.cluster.world().run_for(1'000);
      CHECK(drained == Error::EpochFenced);
      CHECK(shrunk == Error::EpochFenced);
    }
    CHECK(answers == 1);
  }
}

TEST_CASE("a snapshot that was taken before shows what is behind the end") {
  Fixture f;
  fill(f.io, 0, kFull, 1);
  const Era taken = f.cluster.take_snapshot(0);
  REQUIRE(
      f.cluster.world().run_until([&] { return f.cluster.snapshot_final(taken); }, kPatienceUs));
  f.cluster.kill(2, false);
  REQUIRE(until_in_sync(f.cluster, 2));
  REQUIRE(f.cluster.shrink(0, kCut) == Error::Ok);
  f.cluster.restart(2);
  REQUIRE(until_in_sync(f.cluster, 3));
  for (std::uint32_t host = 0; host < 3; ++host) {
    CAPTURE(host);
    for (const std::uint64_t at : {std::uint64_t{0}, kCut, kFull - kBlockBytes}) {
      CAPTURE(at);
      std::vector<std::byte> memory(kBlockBytes);
      peer::ReplicaOp op;
      bool over = false;
      op.kind = peer::ReplicaOp::Kind::read_view;
      op.segment = {f.cluster.volume_id(), 0};
      op.store = f.cluster.store_id(host);
      op.era = taken;
      op.first_block = static_cast<std::uint32_t>(at / kBlockBytes);
      op.block_count = 1;
      op.data = memory.data();
      op.owner = &over;
      op.done = [](peer::ReplicaOp& done) noexcept { *static_cast<bool*>(done.owner) = true; };
      f.cluster.process(host == 0 ? 1 : 0).hub->channel(f.cluster.host_id(host)).submit(op);
      REQUIRE(f.cluster.world().run_until([&] { return over; }, kPatienceUs));
      REQUIRE(op.error == Error::Ok);
      CHECK(memory == std::vector<std::byte>(kBlockBytes, std::byte{1}));
    }
  }
  REQUIRE(f.cluster.grow(0, kFull));
  CHECK(shows(f.io, kCut, kFull, 0));
}

}  // namespace blockd::sim
