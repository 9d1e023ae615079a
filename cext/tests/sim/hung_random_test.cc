// One disk hangs for good while hosts die, come back and the volume moves, at random; then all else
// is well, and has to be so.
#include <algorithm>
#include <memory>
#include <vector>

#include "base/random.h"
#include "tests/seeds.h"
#include "tests/sim/story.h"

namespace blockd::sim {
namespace {

constexpr std::uint32_t kSpanBlocks = 3 * kBlocksPerChunk;

struct OneHangsForGood {
  explicit OneHangsForGood(std::uint64_t seed) : random(seed), f(options_of(seed)) {}

  static ClusterOptions options_of(std::uint64_t seed) {
    ClusterOptions options;
    options.seed = seed;
    options.hosts = 3 + seed % 2;
    options.min_in_sync = 1 + seed % 2;
    options.io_timeout_us = 8'000'000;
    return options;
  }
  void attach(std::uint32_t at) {
    if (f.cluster.volume(holder) != nullptr) kill(holder);
    holder = at;
    if (f.cluster.volume(holder) != nullptr) kill(holder);
    if (!f.cluster.alive(holder)) f.cluster.restart(holder);
    f.cluster.attach(holder);
  }
  void kill(std::uint32_t host) {
    f.cluster.kill(host, false);
    if (host == holder) ios.clear();
  }
  void request() {
    if (!f.cluster.alive(holder) || f.cluster.volume(holder) == nullptr || ios.size() > 12) return;
    ios.push_back(std::make_unique<Io>(f.cluster, holder));
    const std::uint64_t block = random.below(kSpanBlocks);
    std::memset(ios.back()->memory, static_cast<int>(1 + random.below(200)), kChunkBytes);
    switch (random.below(8)) {
      case 0:
        return ios.back()->begin(BlockRequest::Op::flush, 0, 0);
      case 1:
        return ios.back()->begin(BlockRequest::Op::read, block * kBlockBytes, kBlockBytes);
      case 2:
        return ios.back()->begin(BlockRequest::Op::trim, block * kBlockBytes, kBlockBytes);
      case 3:
        return ios.back()->begin(BlockRequest::Op::write, block * kBlockBytes + 512, 1024);
      default:
        return ios.back()->begin(BlockRequest::Op::write, block * kBlockBytes, kBlockBytes);
    }
  }
  void step() {
    const auto host = static_cast<std::uint32_t>(random.below(f.cluster.host_count()));
    const bool alive = f.cluster.alive(host);
    switch (random.below(16)) {
      case 0:
      case 1:
        if (alive) f.cluster.medium(host).set_stuck(true);
        break;
      case 2:
        if (alive) f.cluster.medium(host).set_stuck(false);
        break;
      case 3:
        if (alive) kill(host);
        break;
      case 4:
      case 5:
        if (!alive) f.cluster.restart(host);
        break;
      case 6:
        f.cluster.partition(host, (host + 1) % f.cluster.host_count(), true);
        break;
      case 7:
        f.cluster.heal();
        break;
      case 8:
        f.cluster.reset_links(host, (host + 1) % f.cluster.host_count());
        break;
      case 9:
        if (random.below(3) == 0) attach(host);
        break;
      case 10:
        if (f.cluster.volume(holder) != nullptr && snapshots && random.below(2) == 0)
          (void)f.cluster.take_snapshot(holder);
        break;
      case 11:
        f.cluster.meta_reachable = random.below(2) == 0;
        break;
      case 12:
        if (f.cluster.alive(rotting) && f.cluster.options().min_in_sync > 1)
          (void)f.cluster.medium(rotting).rot(
              {f.cluster.volume_id(), 0}, static_cast<std::uint32_t>(random.below(kSpanBlocks)));
        break;
      default:
        request();
        request();
        break;
    }
    static constexpr std::uint64_t kTimes[] = {300, 5'000, 200'000, 1'500'000};
    f.cluster.world().run_for(random.below(kTimes[random.below(4)]));
    std::erase_if(ios, [](const auto& io) { return io->over; });
  }
  [[nodiscard]] Version stable_at(std::uint32_t host) {
    store::Store& store = fake(f.cluster, host).store();
    return store.segment_info(*store.find_segment({f.cluster.volume_id(), 0})).stable;
  }
  void run() {
    for (std::uint32_t block = 0; block < kSpanBlocks; block += kBlocksPerChunk)
      REQUIRE(f.io.write(std::uint64_t{block} * kBlockBytes, kChunkBytes, 1) == Error::Ok);
    const std::uint64_t steps = random.between(10, 80);
    for (std::uint64_t i = 0; i < steps; ++i) step();
    f.cluster.heal();
    f.cluster.meta_reachable = true;
    if (f.cluster.volume(holder) == nullptr) attach(holder);
    // The holder's own disk, or another: it stays, or becomes, stuck. The damage is elsewhere.
    const std::uint32_t hangs = rotting;
    for (std::uint32_t host = 0; host < f.cluster.host_count(); ++host) {
      if (!f.cluster.alive(host)) f.cluster.restart(host);
      if (host != hangs) f.cluster.medium(host).set_stuck(false);
    }
    f.cluster.world().run_for(random.below(3'000'000));
    const auto others = [&] {
      std::uint32_t count = 0;
      const auto behind = f.cluster.volume(holder)->status()[0].behind;
      for (std::uint32_t host = 0; host < 3; ++host)
        count += host != hangs && f.cluster.in_sync(host) &&
                 std::ranges::find(behind, f.cluster.host_id(host)) == behind.end();
      return count;
    };
    if (!f.cluster.world().run_until([&] { return others() == 2; }, 15'000'000)) {
      f.cluster.medium(hangs).set_stuck(false);  // it alone has what counts
      REQUIRE_MESSAGE(f.cluster.world().run_until([&] { return others() == 2; }, 60'000'000),
                      f.cluster.describe(holder));
    }
    fake(f.cluster, hangs).store().stuck = true;
    f.cluster.world().run_for(random.below(3'000'000));
    REQUIRE_MESSAGE(until_state(f.cluster, holder, VolumeState::serving, 60'000'000),
                    f.cluster.describe(holder));
    Io first(f.cluster, holder);  // or nothing would ask the hung one
    first.begin(BlockRequest::Op::write, 0, kBlockBytes);
    const Error asked = first.wait(15'000'000);
    CHECK(asked == Error::Ok);
    if (!first.over) kill(holder);
    f.cluster.world().run_for(15'000'000);
    REQUIRE_MESSAGE(f.cluster.in_sync_count(0) == 2, f.cluster.describe(holder));
    // What a hung disk has of reads is its own; all else has ended.
    for (const auto& io : ios) {
      const bool ended =
          io->over || io->request.op == BlockRequest::Op::read || io->request.length_bytes == 1024;
      CHECK_MESSAGE(ended,
                    "op " << static_cast<int>(io->request.op) << " " << f.cluster.describe(holder));
    }
    auto all = std::make_unique<Io>(f.cluster, holder);
    for (std::uint32_t block = 0; block < kSpanBlocks; block += kBlocksPerChunk) {
      REQUIRE(all->read(std::uint64_t{block} * kBlockBytes, kChunkBytes) == Error::Ok);
      REQUIRE(all->write(std::uint64_t{block} * kBlockBytes, kBlockBytes, 7) == Error::Ok);
    }
    const std::uint32_t well = (hangs + 1) % 3;
    const Version before = stable_at(well);
    f.cluster.world().run_for(5'000'000);
    CHECK(stable_at(well) > before);
    CHECK(all->flush() == Error::Ok);
    if (snapshots) {
      const Era era = f.cluster.take_snapshot(holder);
      CHECK(f.cluster.world().run_until([&] { return f.cluster.snapshot_final(era); }, 30'000'000));
    }
    // And when it is well again, nothing is the worse for it.
    f.cluster.medium(hangs).set_stuck(false);
    REQUIRE_MESSAGE(until_in_sync(f.cluster, 3, 90'000'000), f.cluster.describe(holder));
    f.cluster.world().run_for(5'000'000);
    for (const auto& io : ios) CHECK(io->over);
    CHECK(f.cluster.compare_replicas() == "");
  }

  Random random;
  Fixture f;
  bool snapshots = random.below(2) == 0;
  std::uint32_t rotting = static_cast<std::uint32_t>(random.below(3));
  std::uint32_t holder = 0;
  std::vector<std::unique_ptr<Io>> ios;
};

TEST_CASE("one disk that hangs for good holds up nobody") {
  for_seeds(60, [](std::uint64_t seed) {
    CAPTURE(seed);
    OneHangsForGood(seed).run();
  });
}

}  // namespace
}  // namespace blockd::sim
