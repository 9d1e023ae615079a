// Snapshots over snapshots: which of them a block comes from, and that closing ends it all.
#include "border/base_stack.h"

#include <doctest/doctest.h>

#include <optional>

#include "tests/engine/fake_hub.h"
#include "tests/nbd/memory_backend.h"

using namespace blockd;
using namespace blockd::border;
using engine::BlockRequest;
using engine::test_id;

namespace {

constexpr std::uint32_t kChunks = 6;
constexpr std::uint64_t kBytes = kChunks * std::uint64_t{kChunkBytes};

engine::SegmentConfig segment_at(unsigned char host) {
  engine::SegmentConfig segment;
  segment.members = {{test_id(host), test_id(90), 2, true}};
  return segment;
}

engine::SnapshotConfig snapshot_of(unsigned char volume, Era era) {
  return {test_id(volume), era, kBytes, {segment_at(static_cast<unsigned char>(volume + 10))}};
}

// Volume 3 over snapshot 5 of volume 2 over snapshot 4 of volume 1; the hosts have number 11
// and 12.
struct Rig {
  Rig() : loop(world), hub(loop, views), upper(loop, kBytes) {
    fill(1, {0, 1, 2, 3});
    fill(2, {1, 2});
    views[test_id(2)].chunks[0][1].valid_mask = 0;  // trimmed: it covers
    std::fill_n(views[test_id(2)].bytes.begin() + 2 * kChunkBytes, kChunkBytes, std::byte{0});
    auto lowest = std::make_shared<BaseSpec>();
    lowest->snapshot = snapshot_of(1, 4);
    spec.snapshot = snapshot_of(2, 5);
    spec.base = lowest;
    std::fill_n(upper.bytes().begin() + 3 * kChunkBytes, kChunkBytes, std::byte{3});
    own = {{3, {1, 1}, 1, 0xffff}};
  }
  ~Rig() {
    if (stack) close();
  }

  void fill(unsigned char volume, std::initializer_list<std::uint32_t> chunks) {
    engine::FakeView& view = views[test_id(volume)];
    view.bytes.resize(kBytes);
    for (const std::uint32_t chunk : chunks) {
      std::fill_n(view.bytes.begin() + chunk * kChunkBytes, kChunkBytes, std::byte{volume});
      view.chunks[0].push_back({chunk, 1, 1, chunk + 1, 0, 0xffff, 0});
    }
  }
  std::optional<Error> open(std::uint64_t wait_us = 1'000'000) {
    stack = std::make_unique<BaseStack>(loop, buffers, hub, upper, true, spec);
    opened.reset();
    stack->open([this](auto take, auto done) { take(own), done(Error::Ok); },
                [this](Error error) { opened = error; });
    world.run_for(wait_us);
    return opened;
  }
  void close() {
    bool closed = false;
    stack->close([&] { closed = true; });
    REQUIRE(world.run_until([&] { return closed; }, 60'000'000));
    stack.reset();
  }
  // The byte that all of the chunk has; -1: they differ, or it cannot be read.
  int shown(std::uint32_t chunk) {
    BlockRequest request;
    bool answered = false;
    request.offset_bytes = chunk * kChunkBytes;
    request.length_bytes = kChunkBytes;
    request.hold = buffers.chunk.get();
    request.data = request.hold.data();
    request.owner = &answered;
    request.done = [](BlockRequest& done) noexcept { *static_cast<bool*>(done.owner) = true; };
    stack->top().submit(request);
    REQUIRE(world.run_until([&] { return answered; }, 60'000'000));
    const bool same = std::all_of(request.data, request.data + kChunkBytes,
                                  [&](std::byte b) { return b == request.data[0]; });
    return request.error == Error::Ok && same ? static_cast<int>(request.data[0]) : -1;
  }
  std::vector<int> all() {
    std::vector<int> found;
    for (std::uint32_t chunk = 0; chunk < kChunks; ++chunk) found.push_back(shown(chunk));
    return found;
  }

  io::SimWorld world{1};
  io::SimLoop loop;
  Buffers buffers{4, 8, 8};
  engine::FakeViews views;
  engine::FakeHub hub;
  nbd::MemoryBackend upper;
  BaseSpec spec;
  std::vector<engine::Layered::Chunk> own;
  std::unique_ptr<BaseStack> stack;
  std::optional<Error> opened;
};

}  // namespace

TEST_CASE("each chunk comes from the topmost layer that has it") {
  Rig rig;
  REQUIRE(rig.open() == Error::Ok);
  CHECK(rig.all() == std::vector<int>{1, 2, 0, 3, 0, 0});
  CHECK(rig.stack->top().chunks_of_base() == 2);  // 0 and 1; what covers shows nothing
}

TEST_CASE("flattening takes content from every layer beneath") {
  Rig rig;
  REQUIRE(rig.open() == Error::Ok);
  std::optional<Error> flat;
  rig.stack->top().flatten(1 << 30, [&](Error error) { flat = error; });
  rig.world.run_for(1'000'000);
  CHECK(flat == Error::Ok);
  CHECK(rig.stack->top().chunks_of_base() == 0);
  for (unsigned char host : {11, 12}) rig.hub.fake(test_id(host)).set_up(false);
  CHECK(rig.all() == std::vector<int>{1, 2, 0, 3, 0, 0});
}

TEST_CASE("it opens once the hosts of every layer are there, wherever they have moved") {
  Rig rig;
  rig.hub.fake(test_id(11)).set_up(false);
  CHECK_FALSE(rig.open().has_value());
  rig.stack->members_changed(test_id(1), segment_at(40));
  rig.world.run_for(1'000'000);
  CHECK(rig.opened == Error::Ok);
  CHECK(rig.hub.fake(test_id(40)).asked > 0);
  CHECK(rig.all() == std::vector<int>{1, 2, 0, 3, 0, 0});
}

TEST_CASE("it cannot be opened when a layer cannot be listed") {
  Rig rig;
  rig.hub.fake(test_id(12)).fails = Error::DiskError;
  CHECK(rig.open() == Error::DiskError);
  CHECK(rig.shown(0) == -1);
}

TEST_CASE("closing ends what waits for hosts, at any time") {
  for (std::uint64_t wait_us = 0; wait_us < 3'000; wait_us += 50) {
    Rig rig;
    rig.hub.fake(test_id(wait_us % 100 ? 11 : 12)).set_up(wait_us % 300 == 0);
    (void)rig.open(wait_us);
    std::optional<Error> flat;
    rig.stack->top().flatten(1 << 20, [&](Error error) { flat = error; });
    rig.world.run_for(wait_us / 2);
    rig.close();
    CHECK(rig.opened.has_value());
    CHECK(flat == Error::ShuttingDown);
  }
}
