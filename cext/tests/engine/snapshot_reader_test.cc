// A snapshot's reader against hosts that fail, rot and go away.
#include "engine/snapshot_reader.h"

#include <doctest/doctest.h>

#include <optional>

#include "base/buffer.h"
#include "tests/engine/fake_hub.h"

namespace blockd::engine {
namespace {

using Op = BlockRequest::Op;

constexpr std::uint64_t kTail = 3 * kChunkBytes + 512;  // of the second segment

struct Asked {
  BlockRequest request;
  bool answered = false;
};

struct Rig {
  explicit Rig(std::uint64_t seed = 1, std::uint64_t size_bytes = kSegmentBytes + kTail)
      : world(seed), loop(world), hub(loop, views) {
    // Only the end of the first segment and the second have data: 1 GiB need not be kept.
    config.volume = test_id(1);
    config.era = 4;
    config.size_bytes = size_bytes;
    const std::uint64_t segments = (size_bytes + kSegmentBytes - 1) / kSegmentBytes;
    for (std::uint32_t i = 0; i < segments; ++i) {
      SegmentConfig segment;
      segment.index = i;
      segment.members = {{test_id(13), test_id(23), 4, true},
                         {test_id(12), test_id(22), 2, true},
                         {test_id(14), test_id(24), 0, false},
                         {test_id(11), test_id(21), 0, true}};
      config.segments.push_back(segment);
    }
  }
  ~Rig() {
    if (reader) close();
  }

  SnapshotReader& open() {
    reader = SnapshotReader::create(loop, hub, config);
    return *reader;
  }
  void close() {
    bool closed = false;
    reader->close([&] { closed = true; });
    REQUIRE(world.run_until([&] { return closed; }, 60'000'000));
    reader.reset();
  }
  void submit(Asked& asked, Op op, std::uint64_t offset, std::uint32_t bytes) {
    asked.request.op = op;
    asked.request.offset_bytes = offset;
    asked.request.length_bytes = bytes;
    asked.request.hold = buffers.large.get();
    asked.request.data = asked.request.hold.data();
    asked.request.owner = &asked;
    asked.request.done = [](BlockRequest& request) noexcept {
      static_cast<Asked*>(request.owner)->answered = true;
    };
    reader->submit(asked.request);
  }
  Error run(Op op, std::uint64_t offset, std::uint32_t bytes) {
    Asked asked;
    submit(asked, op, offset, bytes);
    REQUIRE(world.run_until([&] { return asked.answered; }, 60'000'000));
    result.assign(asked.request.data, asked.request.data + bytes);
    return asked.request.error;
  }
  FakeChannel& host(unsigned char number) { return hub.fake(test_id(number)); }

  io::SimWorld world;
  io::SimLoop loop;
  Buffers buffers{8, 8, 64};
  FakeViews views;
  FakeView& view = views[test_id(1)];
  FakeHub hub;
  SnapshotConfig config;
  std::unique_ptr<SnapshotReader> reader;
  std::vector<std::byte> result;
};

std::vector<std::byte> content(std::uint64_t seed, std::size_t bytes) {
  std::vector<std::byte> data(bytes);
  Random(seed).fill(data);
  return data;
}

TEST_CASE("the nearest member in sync answers, from the store it was said to have") {
  Rig rig(1, 1 << 20);
  rig.view.bytes = content(3, 1 << 20);
  rig.open();
  CHECK(rig.run(Op::read, 8192, 65536) == Error::Ok);
  CHECK(std::equal(rig.result.begin(), rig.result.end(), rig.view.bytes.begin() + 8192));
  CHECK(rig.host(11).asked == 1);
  CHECK(rig.host(11).last_store == test_id(21));
  CHECK(rig.host(12).asked + rig.host(13).asked + rig.host(14).asked == 0);
}

TEST_CASE("a read over the end of a segment is two, and the last block is read whole") {
  Rig rig;
  rig.view.bytes = content(3, 2 << 20);  // the first segment's beginning; holes after it
  rig.open();
  CHECK(rig.run(Op::read, kSegmentBytes - 65536, 131072) == Error::Ok);
  CHECK(rig.host(11).asked == 2);
  CHECK(rig.result == std::vector<std::byte>(131072));
  CHECK(rig.run(Op::read, kSegmentBytes + kTail - 512, 4096) == Error::Ok);
}

TEST_CASE("what a snapshot cannot do is refused") {
  Rig rig(1, 1 << 20);
  rig.open();
  for (const Op op : {Op::write, Op::trim, Op::write_zeroes}) {
    CHECK(rig.run(op, 0, 4096) == Error::ReadOnly);
  }
  CHECK(rig.run(Op::read, 1 << 20, 4096) == Error::ExtentOutOfRange);
  CHECK(rig.run(Op::read, (1 << 20) - 4096, 8192) == Error::ExtentOutOfRange);
  CHECK(rig.run(Op::read, ~std::uint64_t{4095}, 8192) == Error::ExtentOutOfRange);
  CHECK(rig.run(Op::read, 512, 4096) == Error::InvalidArgument);
  CHECK(rig.run(Op::read, 0, 0) == Error::InvalidArgument);
  CHECK(rig.run(Op::flush, 0, 0) == Error::Ok);
  CHECK(rig.host(11).asked == 0);
}

TEST_CASE("a member with a bad block is passed by, also when only the checksum tells") {
  Rig rig(1, 1 << 20);
  rig.view.bytes = content(3, 1 << 20);
  rig.open();
  rig.host(11).rotten = {3};
  rig.host(12).falsified = {3};
  CHECK(rig.run(Op::read, 0, 65536) == Error::Ok);
  CHECK(std::equal(rig.result.begin(), rig.result.end(), rig.view.bytes.begin()));
  CHECK(rig.host(13).asked == 1);
  rig.host(13).fails = Error::DiskError;
  CHECK(rig.run(Op::read, 0, 65536) == Error::DiskError);
  CHECK(rig.run(Op::read, 65536, 65536) == Error::Ok);  // other blocks are not given up
}

TEST_CASE("a read waits for members that are away, but not for ever") {
  Rig rig(1, 1 << 20);
  rig.view.bytes = content(3, 1 << 20);
  rig.open();
  for (unsigned char host = 11; host <= 13; ++host) rig.host(host).set_up(false);
  rig.host(14).set_up(true);  // not in sync: of no use
  Asked asked;
  rig.submit(asked, Op::read, 0, 4096);
  rig.world.run_for(20'000'000);
  CHECK_FALSE(asked.answered);
  rig.host(13).set_up(true);
  rig.world.run_for(1'000);
  CHECK(asked.answered);
  CHECK(asked.request.error == Error::Ok);
  rig.host(13).set_up(false);
  const std::uint64_t before = rig.world.now_us();
  CHECK(rig.run(Op::read, 0, 4096) == Error::LinkLost);
  CHECK(rig.world.now_us() - before > 29'000'000);
  CHECK(rig.world.now_us() - before < 31'000'000);
}

TEST_CASE(
    "a store that is not open yet is waited for; a link that breaks sends the read elsewhere") {
  Rig rig(1, 1 << 20);
  rig.open();
  for (unsigned char host = 11; host <= 13; ++host) rig.host(host).fails = Error::NotFound;
  Asked asked;
  rig.submit(asked, Op::read, 0, 4096);
  rig.world.run_for(3'000'000);
  CHECK_FALSE(asked.answered);
  CHECK(rig.host(11).asked < 40);  // it does not spin
  for (unsigned char host = 11; host <= 13; ++host) rig.host(host).fails = Error::Ok;
  rig.world.run_for(200'000);
  CHECK(asked.answered);
  Asked broken;
  rig.submit(broken, Op::read, 0, 4096);
  rig.host(11).set_up(false);
  rig.world.run_for(2'000);
  CHECK(broken.answered);
  CHECK(broken.request.error == Error::Ok);
}

TEST_CASE("members that change are taken up by reads that wait") {
  Rig rig(1, 1 << 20);
  rig.open();
  for (unsigned char host = 11; host <= 13; ++host) rig.host(host).fails = Error::NotFound;
  Asked asked;
  rig.submit(asked, Op::read, 0, 4096);
  rig.world.run_for(1'000'000);
  SegmentConfig moved;
  moved.members = {{test_id(15), test_id(25), 2, true}};
  rig.reader->members_changed(moved);
  rig.world.run_for(200'000);
  CHECK(asked.answered);
  CHECK(rig.host(15).asked == 1);
  moved.index = 7;  // none of its segments
  rig.reader->members_changed(moved);
}

TEST_CASE("who was in sync before the reader was made is not asked") {
  Rig rig(1, 1 << 20);
  rig.config.segments[0].generation = 5;
  rig.open();
  SegmentConfig news;
  news.members = {{test_id(15), test_id(25), 0, true}};
  news.generation = 4;
  rig.reader->members_changed(news);
  CHECK(rig.run(Op::read, 0, 4096) == Error::Ok);
  CHECK(rig.host(15).asked == 0);
  news.generation = 6;
  rig.reader->members_changed(news);
  CHECK(rig.run(Op::read, 0, 4096) == Error::Ok);
  CHECK(rig.host(15).asked == 1);
}

TEST_CASE("a segment without a member in sync is an error") {
  Rig rig(1, 1 << 20);
  for (MemberConfig& member : rig.config.segments[0].members) member.in_sync = false;
  rig.open();
  CHECK(rig.run(Op::read, 0, 4096) == Error::LinkLost);
  std::optional<Error> listed;
  rig.reader->list([](auto) {}, [&](Error error) { listed = error; });
  rig.world.run_for(1'000);
  CHECK(listed == Error::LinkLost);
}

TEST_CASE("a listing has the chunks of all segments, however many pages they take") {
  Rig rig;
  for (std::uint32_t chunk = 0; chunk < kChunksPerSegment; chunk += 2) {
    rig.view.chunks[0].push_back({chunk, chunk + 3, 7, chunk + 1, 0, 0xff, 0});
  }
  rig.view.chunks[1] = {{0, 9, 8, 1, 0, 0, 1}, {3, 4, 8, 2, 0, 1, 0}};
  rig.open();
  std::vector<SnapshotReader::Chunk> chunks;
  Error error = Error::Timeout;
  rig.reader->list([&](auto page) { chunks.insert(chunks.end(), page.begin(), page.end()); },
                   [&](Error e) { error = e; });
  rig.host(11).set_up(false);  // the next member goes on where this one stopped
  rig.world.run_for(100'000);
  REQUIRE(error == Error::Ok);
  REQUIRE(chunks.size() == kChunksPerSegment / 2 + 2);
  std::ranges::sort(chunks, {}, &SnapshotReader::Chunk::chunk);
  for (std::uint32_t i = 0; i < kChunksPerSegment / 2; ++i) {
    REQUIRE(chunks[i].chunk == 2 * i);
    REQUIRE(chunks[i].born == 2 * i + 3);
    REQUIRE(chunks[i].version == Version{7, 2 * i + 1});
  }
  CHECK(chunks[kChunksPerSegment / 2].chunk == kChunksPerSegment);
  CHECK(chunks[kChunksPerSegment / 2].valid_mask == 0);
  CHECK(chunks.back().chunk == kChunksPerSegment + 3);
}

TEST_CASE("a listing that makes no sense is refused") {
  Rig rig(1, 1 << 20);
  rig.view.chunks[0] = {{5, 1, 1, 1, 0, 1, 0}, {5, 1, 1, 1, 0, 1, 0}};
  rig.open();
  std::optional<Error> listed;
  rig.reader->list([](auto) {}, [&](Error error) { listed = error; });
  rig.world.run_for(1'000'000);
  CHECK(listed == Error::ProtocolError);
}

TEST_CASE("closing answers what is under way and what waits") {
  for (std::uint64_t seed = 1; seed <= 50; ++seed) {
    Rig rig(seed, 1 << 20);
    rig.open();
    if (seed % 2) rig.host(11).set_up(false);
    if (seed % 3) rig.host(12).set_up(false);
    if (seed % 5) rig.host(13).set_up(false);
    std::vector<Asked> asked(20);
    for (Asked& each : asked) rig.submit(each, Op::read, 0, 8192);
    std::optional<Error> listed;
    rig.reader->list([](auto) {}, [&](Error error) { listed = error; });
    rig.world.run_for(seed * 10);
    rig.close();
    for (const Asked& each : asked) CHECK(each.answered);
    CHECK(listed.has_value());
  }
}

TEST_CASE("random failures: what is read is what the snapshot shows") {
  for (std::uint64_t seed = 1; seed <= 100; ++seed) {
    CAPTURE(seed);
    Rig rig(seed, 1 << 20);
    rig.view.bytes = content(seed, 1 << 20);
    rig.open();
    Random random(seed);
    for (unsigned char host = 11; host <= 13; ++host) {
      for (int i = 0; i < 20; ++i) rig.host(host).rotten.insert(random.below(256));
      for (int i = 0; i < 20; ++i) rig.host(host).falsified.insert(random.below(256));
    }
    for (int step = 0; step < 40; ++step) {
      const auto host = static_cast<unsigned char>(random.between(11, 13));
      rig.host(host).set_up(!rig.host(host).connected());
      std::vector<Asked> asked(4);
      for (Asked& each : asked) {
        const std::uint64_t first = random.below(256);
        const std::uint64_t blocks = random.between(1, std::min<std::uint64_t>(64, 256 - first));
        rig.submit(each, Op::read, first * kBlockBytes,
                   static_cast<std::uint32_t>(blocks * kBlockBytes));
      }
      rig.world.run_for(random.below(1000));
      for (unsigned char up = 11; up <= 13; ++up) rig.host(up).set_up(true);
      REQUIRE(rig.world.run_until([&] { return std::ranges::all_of(asked, &Asked::answered); },
                                  60'000'000));
      for (const Asked& each : asked) {
        const BlockRequest& request = each.request;
        if (request.error == Error::Ok) {
          CHECK(std::memcmp(request.data, rig.view.bytes.data() + request.offset_bytes,
                            request.length_bytes) == 0);
          continue;
        }
        CHECK(request.error == Error::ChecksumMismatch);
        for (unsigned char member = 11; member <= 13; ++member) {  // all of them have a bad one
          bool bad = false;
          for (std::uint64_t i = 0; i < request.length_bytes / kBlockBytes; ++i) {
            const std::uint64_t block = request.offset_bytes / kBlockBytes + i;
            bad = bad || rig.host(member).rotten.contains(block) ||
                  rig.host(member).falsified.contains(block);
          }
          CHECK(bad);
        }
      }
    }
  }
}

}  // namespace
}  // namespace blockd::engine
