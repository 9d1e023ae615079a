// Clusters under faults, from seeds. BLOCKD_SEEDS scales the number, BLOCKD_SEED runs one of them.
#include "sim/cluster.h"

#include <doctest/doctest.h>

#include <string>

#include "sim/settle.h"
#include "sim/snapshots.h"
#include "sim/workload.h"
#include "tests/seeds.h"

namespace blockd::sim {
namespace {

template <class Story>
void hold(std::uint64_t count, Story story) {
  for_seeds(count, [&](std::uint64_t seed) {
    CAPTURE(seed);
    const std::string wrong = story(seed);
    REQUIRE_MESSAGE(wrong.empty(), "seed " << seed << ": " << wrong);
  });
}

std::string calm_story(std::uint64_t seed, ClusterOptions options) {
  options.seed = seed;
  SimCluster cluster(options);
  Workload work(cluster, 512 * 1024);
  cluster.attach(0);
  if (!serves(cluster, 0)) return "does not open";
  work.start(0, 8);
  cluster.world().run_for(300'000);
  if (work.answered() < 100) return "hardly anything was answered";
  if (work.failed() != 0) return "requests failed without a fault";
  return settle(cluster, work, 0);
}

TEST_CASE("a calm cluster serves and its replicas agree") {
  hold(10, [](std::uint64_t seed) { return calm_story(seed, {}); });
}

TEST_CASE("one, two and five replicas serve; also with none at the engine's host") {
  for (const std::uint32_t replicas : {1u, 2u, 5u}) {
    CAPTURE(replicas);
    hold(4, [&](std::uint64_t seed) {
      ClusterOptions options;
      options.hosts = replicas + 1;
      options.replicas = replicas;
      options.min_in_sync = replicas >= 3 ? 2 : 1;
      options.seed = seed;
      SimCluster cluster(options);
      Workload work(cluster, 256 * 1024);
      cluster.attach(replicas);  // the host without a replica
      if (!serves(cluster, replicas)) return std::string("does not open");
      work.start(replicas, 6);
      cluster.world().run_for(200'000);
      if (work.failed() != 0) return std::string("requests failed without a fault");
      return settle(cluster, work, replicas);
    });
  }
}

enum class Taking : std::uint8_t { some, many };

// Snapshots come and go, and are looked at, while other things happen.
std::string meddle(SimCluster& cluster, Snapshots& snapshots, std::uint32_t holder, Taking taking) {
  Random& random = cluster.world().random();
  const std::uint64_t dice = random.below(6);
  const bool holds = cluster.alive(holder) && cluster.volume(holder) != nullptr;
  if (holds && cluster.meta_reachable) {
    if (dice < 3) snapshots.take(holder);
    for (std::uint64_t more = taking == Taking::many ? random.below(6) : 0; more > 0; --more) {
      cluster.world().run_for(random.below(30'000));
      snapshots.take(holder);
    }
  }
  if (dice == 3 && snapshots.count() > 1) snapshots.remove_any();
  if (random.chance(2)) return snapshots.look();
  return {};
}

// Anything may happen to hosts, links, the metadata service and the attachment.
std::string storm(std::uint64_t seed, ClusterOptions options, bool power_losses = false,
                  Taking taking = Taking::some) {
  options.seed = seed;
  SimCluster cluster(options);
  Random& random = cluster.world().random();
  const bool narrow = random.chance(2) || taking == Taking::many;
  Workload work(cluster, narrow ? 128 * 1024 : 1024 * 1024);
  Snapshots snapshots(cluster, work, power_losses);
  std::uint32_t holder = 0;
  cluster.attach(holder);
  work.start(holder, static_cast<std::uint32_t>(random.between(2, 12)));
  const std::uint64_t steps = random.between(4, 16);
  for (std::uint64_t step = 0; step < steps; ++step) {
    cluster.world().run_for(random.below(800'000));
    std::string wrong = meddle(cluster, snapshots, holder, taking);
    if (!wrong.empty()) return wrong;
    const auto a = static_cast<std::uint32_t>(random.below(cluster.host_count()));
    const auto b = static_cast<std::uint32_t>((a + 1 + random.below(cluster.host_count() - 1)) %
                                              cluster.host_count());
    switch (random.below(9)) {
      case 0:
      case 1:
        if (cluster.alive(a)) cluster.kill(a, power_losses && random.chance(2));
        break;
      case 2:
      case 3:
        if (!cluster.alive(a)) cluster.restart(a);
        break;
      case 4:
        cluster.partition(a, b, true);
        break;
      case 5:
        cluster.partition(a, b, false);
        break;
      case 6:
        cluster.reset_links(a, b);
        break;
      case 7:
        cluster.meta_reachable = !cluster.meta_reachable;
        break;
      default:  // attach elsewhere (or anew), whatever the old holder thinks
        if (!cluster.alive(a) || !cluster.meta_reachable || cluster.volume(a)) break;
        holder = a;
        cluster.attach(a);
        work.start(a, static_cast<std::uint32_t>(random.between(2, 8)));
        break;
    }
  }
  // The holder of the newest epoch settles it.
  if (!cluster.alive(holder)) cluster.restart(holder);
  for (std::uint32_t i = 0; i < cluster.host_count(); ++i) {
    if (cluster.alive(i) && cluster.volume(i) && cluster.process(i).epoch == cluster.epoch())
      holder = i;
  }
  return settle(cluster, work, holder, power_losses, &snapshots);
}

TEST_CASE("three replicas keep their promises in a storm") {
  hold(150, [](std::uint64_t seed) { return storm(seed, {}); });
}

TEST_CASE("snapshots in quick succession keep their promises in a storm") {
  hold(60, [](std::uint64_t seed) { return storm(seed, {}, seed % 4 == 0, Taking::many); });
}

TEST_CASE("two replicas keep their promises in a storm") {
  hold(60, [](std::uint64_t seed) {
    ClusterOptions options;
    options.hosts = 3;
    options.replicas = 2;
    options.min_in_sync = 1;
    return storm(seed, options);
  });
}

TEST_CASE("three of five hosts, and five replicas, keep their promises in a storm") {
  hold(60, [](std::uint64_t seed) {
    ClusterOptions options;
    options.hosts = 5;
    options.replicas = seed % 2 ? 5 : 3;
    options.min_in_sync = 1 + static_cast<std::uint32_t>(seed % 3);
    return storm(seed, options);
  });
}

// All hosts lose power at once, again and again: what was flushed is there.
std::string power_losses(std::uint64_t seed, ClusterOptions options, Taking taking = Taking::some) {
  options.seed = seed;
  SimCluster cluster(options);
  Random& random = cluster.world().random();
  Workload work(cluster, 256 * 1024);
  Snapshots snapshots(cluster, work, true);
  std::uint32_t holder = 0;
  for (int round = 0; round < 3; ++round) {
    cluster.attach(holder);
    if (!serves(cluster, holder)) return "does not open: " + cluster.describe(holder);
    std::vector<std::uint64_t> tags;
    if (!work.read_all(holder, tags)) return std::string("cannot read everything");
    if (!work.wrong().empty()) return work.wrong();
    if (round > 0) {
      std::string wrong = work.history().restart(tags);
      if (!wrong.empty()) return wrong;
    }
    work.start(holder, 6);
    cluster.world().run_for(random.between(50'000, 300'000));
    (void)meddle(cluster, snapshots, holder, taking);
    cluster.world().run_for(random.below(200'000));
    if (random.chance(2)) cluster.reset_links(0, 1 + static_cast<std::uint32_t>(random.below(2)));
    cluster.world().run_for(random.below(100'000));
    std::string wrong = work.history().check();
    if (!wrong.empty()) return wrong;
    for (std::uint32_t i = 0; i < cluster.host_count(); ++i) cluster.kill(i, true);
    for (std::uint32_t i = 0; i < cluster.host_count(); ++i) cluster.restart(i);
    holder = static_cast<std::uint32_t>(random.below(cluster.host_count()));
  }
  cluster.attach(holder);
  if (!serves(cluster, holder)) return "does not open: " + cluster.describe(holder);
  std::vector<std::uint64_t> tags;
  if (!work.read_all(holder, tags)) return std::string("cannot read everything");
  std::string wrong = work.history().restart(tags);
  if (!wrong.empty()) return wrong;
  return settle(cluster, work, holder, false, &snapshots);
}

TEST_CASE("flushed writes survive the power loss of every host") {
  hold(60, [](std::uint64_t seed) { return power_losses(seed, {}); });
}

ClusterOptions on_disks() {
  ClusterOptions options;
  options.make_medium = [](io::SimWorld& world, Uuid store_id,
                           Uuid cluster_id) -> std::unique_ptr<Medium> {
    return std::make_unique<DiskMedium>(world, store_id, cluster_id, 96u << 20, 8u << 20);
  };
  return options;
}

TEST_CASE("on the store itself: a calm cluster serves and its replicas agree") {
  hold(3, [](std::uint64_t seed) { return calm_story(seed, on_disks()); });
}

TEST_CASE("on the store itself: three replicas keep their promises in a storm") {
  hold(24, [](std::uint64_t seed) { return storm(seed, on_disks(), false); });
}

TEST_CASE("flushed writes survive a storm in which hosts lose power") {
  hold(60, [](std::uint64_t seed) { return storm(seed, {}, true); });
}

TEST_CASE("on the store itself: flushed writes survive a storm in which hosts lose power") {
  hold(16, [](std::uint64_t seed) { return storm(seed, on_disks(), true); });
}

TEST_CASE("on the store itself: flushed writes survive the power loss of every host") {
  hold(12, [](std::uint64_t seed) { return power_losses(seed, on_disks()); });
}

}  // namespace
}  // namespace blockd::sim
