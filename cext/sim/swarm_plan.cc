#include <algorithm>
#include <iterator>

#include "sim/swarm.h"

namespace blockd::sim {

namespace {

constexpr const char* kNames[] = {
    "kill",
    "power-loss",
    "power-loss-all",
    "restart",
    "partition",
    "deaf",
    "flap",
    "mend",
    "reset",
    "slow-network",
    "pause",
    "clock",
    "metadata-away",
    "metadata-back",
    "metadata-cut",
    "metadata-slow",
    "slow-disk",
    "stuck-disk",
    "failing-reads",
    "failing-writes",
    "full-disk",
    "good-disk",
    "rot",
    "attach",
    "attach-race",
    "detach",
    "snapshot",
    "snapshot-gone",
    "snapshot-look",
    "lost-write",
    "misdirected-write",
    "repair",
};
static_assert(std::size(kNames) == kFaultKinds);

// Small ones count microseconds, large ones seconds.
std::uint64_t some_time_us(Random& random) {
  switch (random.below(4)) {
    case 0:
      return random.between(1, 2'000);
    case 1:
      return random.between(1'000, 100'000);
    case 2:
      return random.between(50'000, 1'000'000);
    default:
      return random.between(500'000, 6'000'000);
  }
}

void draw_cluster(SwarmPlan& plan, Random& random) {
  ClusterOptions& cluster = plan.cluster;
  cluster.seed = plan.seed;
  cluster.hosts = static_cast<std::uint32_t>(random.between(3, 7));
  const std::uint32_t replicas[] = {3, 3, 3, 2, 5, 1};
  cluster.replicas = std::min(replicas[random.below(std::size(replicas))], cluster.hosts);
  cluster.min_in_sync = cluster.replicas == 1   ? 1
                        : cluster.replicas == 2 ? static_cast<std::uint32_t>(random.between(1, 2))
                                                : static_cast<std::uint32_t>(random.between(1, 3));
  cluster.clock_error_ppm = random.chance(2) ? 10'000 : 90'000;
  // Some spans lie across the border of two segments.
  const std::uint64_t spans[] = {64u << 10, 256u << 10, 1u << 20};
  plan.span_bytes = spans[random.below(std::size(spans))];
  if (random.chance(4)) {
    cluster.volume_bytes = kSegmentBytes + (1u << 20);
    plan.base_bytes = kSegmentBytes - plan.span_bytes / 2;
  }
  plan.on_disks = random.chance(4);
  if (plan.on_disks) {
    cluster.make_medium = [](io::SimWorld& world, Uuid store_id,
                             Uuid cluster_id) -> std::unique_ptr<Medium> {
      return std::make_unique<DiskMedium>(world, store_id, cluster_id, 96u << 20, 8u << 20);
    };
  }
  plan.depth = static_cast<std::uint32_t>(random.between(1, 12));
  plan.think_us = random.chance(2) ? 8'000 : 200'000;
}

bool two_copies(const SwarmPlan& plan) {
  return plan.cluster.replicas >= 2 && plan.cluster.min_in_sync >= 2;
}

// How often each kind comes; 0: not in this life.
std::array<std::uint32_t, kFirstFaultKinds> draw_weights(const SwarmPlan& plan, Random& random) {
  std::array<std::uint32_t, kFirstFaultKinds> weights{};
  for (std::uint32_t& weight : weights) {
    if (random.chance(2)) weight = 1u << random.below(4);
  }
  const auto weight = [&](FaultKind kind) -> std::uint32_t& {
    return weights[static_cast<std::size_t>(kind)];
  };
  // What ends others is always there, or a life would only die.
  for (const FaultKind kind : {FaultKind::restart, FaultKind::mend, FaultKind::metadata_back,
                               FaultKind::good_disk, FaultKind::attach}) {
    weight(kind) = std::max(weight(kind), 2u);
  }
  // Rot may take one copy of what has another.
  if (!two_copies(plan)) weight(FaultKind::rot) = weight(FaultKind::failing_reads) = 0;
  if (weight(FaultKind::rot) != 0)
    weight(FaultKind::power_loss) = weight(FaultKind::power_loss_all) = 0;
  if (plan.base_bytes != 0) {  // snapshots are looked at in the first segment
    weight(FaultKind::snapshot) = weight(FaultKind::snapshot_gone) = 0;
    weight(FaultKind::snapshot_look) = 0;
  }
  return weights;
}

// What a medium forgets has to be somewhere else: only one of a life does.
std::uint32_t forgetful(const SwarmPlan& plan) {
  return static_cast<std::uint32_t>(plan.seed % plan.cluster.replicas);
}

// Some more faults, at most `most`, in their places.
template <class Draw>
void scatter(SwarmPlan& plan, Random& random, std::uint64_t most, Draw draw) {
  for (std::uint64_t left = random.between(1, most); left > 0; --left)
    draw(plan.faults.emplace_back());
  std::ranges::stable_sort(plan.faults, {}, &Fault::at_us);
}

// Writes that go astray at one replica, a few at a time. Its store may lose what was not flushed
// with them when its process dies: such a life is held to the word of flushes.
void add_stray_writes(SwarmPlan& plan, Random& random) {
  const auto loses_power = [](const Fault& fault) {
    return fault.kind == FaultKind::power_loss || fault.kind == FaultKind::power_loss_all;
  };
  if (!plan.on_disks || !two_copies(plan) || std::ranges::any_of(plan.faults, loses_power)) return;
  if (random.chance(3)) return;
  plan.loses_power = plan.rots = true;
  scatter(plan, random, 12, [&](Fault& fault) {
    fault.kind = random.chance(2) ? FaultKind::lost_write : FaultKind::misdirected_write;
    fault.at_us = random.below(plan.life_us);
    fault.a = fault.b = forgetful(plan);
  });
}

// What scrubs and clients that met damage order, whether there is any or not.
void add_repairs(SwarmPlan& plan, Random& random) {
  scatter(plan, random, 40, [&](Fault& fault) {
    fault.kind = FaultKind::repair;
    fault.at_us = random.below(plan.life_us);
    fault.a = fault.b = static_cast<std::uint32_t>(random.below(plan.cluster.replicas));
  });
}

// The same schedule in a time eight times as long, with clients that are slow: what takes long
// comes to its end between two faults.
void slow_down(SwarmPlan& plan) {
  constexpr std::uint64_t kSlower = 8;
  for (Fault& fault : plan.faults) fault.at_us *= kSlower;
  plan.life_us *= kSlower;
  plan.think_us = 2'000'000;
}

// Some hosts are of an older release until they start again.
void mix_releases(SwarmPlan& plan, Random& random) {
  for (std::uint32_t host = 0; host < plan.cluster.hosts; ++host) {
    const bool older = random.chance(2);
    plan.cluster.wire_versions.push_back(older ? format::kWireVersionMin : format::kWireVersionMax);
  }
}

}  // namespace

const char* fault_name(FaultKind kind) noexcept {
  return kNames[static_cast<std::size_t>(kind)];
}

SwarmPlan draw_first_plan(std::uint64_t seed) {
  Random random(seed * 0x9e3779b97f4a7c15ull + 1);
  SwarmPlan plan;
  plan.seed = seed;
  draw_cluster(plan, random);
  const std::array<std::uint32_t, kFirstFaultKinds> weights = draw_weights(plan, random);
  plan.loses_power = weights[static_cast<std::size_t>(FaultKind::power_loss)] != 0 ||
                     weights[static_cast<std::size_t>(FaultKind::power_loss_all)] != 0;
  plan.rots = weights[static_cast<std::size_t>(FaultKind::rot)] != 0;
  std::uint64_t total = 0;
  for (const std::uint32_t weight : weights) total += weight;
  const std::uint64_t count = random.between(2, 40);
  std::uint64_t at_us = random.below(400'000);
  for (std::uint64_t i = 0; i < count; ++i) {
    Fault fault;
    std::uint64_t dice = random.below(total);
    std::size_t kind = 0;
    while (dice >= weights[kind]) dice -= weights[kind++];
    fault.kind = static_cast<FaultKind>(kind);
    fault.at_us = at_us;
    fault.a = static_cast<std::uint32_t>(random.below(plan.cluster.hosts));
    fault.b = (fault.a + 1 + static_cast<std::uint32_t>(random.below(plan.cluster.hosts - 1))) %
              plan.cluster.hosts;
    fault.value = some_time_us(random);
    if (fault.kind == FaultKind::rot || fault.kind == FaultKind::failing_reads)
      fault.a = forgetful(plan);
    plan.faults.push_back(fault);
    at_us += some_time_us(random);
  }
  plan.life_us = at_us;
  return plan;
}

SwarmPlan draw_plan(std::uint64_t seed) {
  SwarmPlan plan = draw_first_plan(seed);
  Random random(seed * 0x9e3779b97f4a7c15ull + 2);
  add_stray_writes(plan, random);
  if (random.chance(4)) slow_down(plan);
  if (random.chance(3)) mix_releases(plan, random);
  if (random.chance(3)) add_repairs(plan, random);
  return plan;
}

std::string describe(const SwarmPlan& plan) {
  const ClusterOptions& cluster = plan.cluster;
  std::string text = "seed " + std::to_string(plan.seed) + ": " + std::to_string(cluster.hosts) +
                     " hosts, " + std::to_string(cluster.replicas) + " replicas, min_in_sync " +
                     std::to_string(cluster.min_in_sync) + ", " +
                     (plan.on_disks ? "stores on disks" : "fake stores") + ", span " +
                     std::to_string(plan.span_bytes >> 10) + " KiB" +
                     (plan.base_bytes != 0 ? " over two segments" : "") + ", " +
                     std::to_string(plan.depth) + " clients\n";
  for (const Fault& fault : plan.faults) {
    text += "  " + std::to_string(fault.at_us) + " us  " + fault_name(fault.kind) + "  host" +
            std::to_string(fault.a) + "  host" + std::to_string(fault.b) + "  " +
            std::to_string(fault.value) + "\n";
  }
  return text;
}

namespace {

// What went wrong, without its numbers: a smaller schedule has to fail in the same way.
std::string kind_of(const std::string& wrong) {
  return wrong.substr(0, wrong.find_first_of("0123456789"));
}

}  // namespace

// Delta debugging: halves, then quarters, ... of the schedule are left out as long as it fails.
SwarmPlan shrink(SwarmPlan plan, std::uint32_t lives) {
  const std::string kind = kind_of(live(plan).wrong);
  std::size_t piece = std::max<std::size_t>(1, plan.faults.size() / 2);
  while (lives > 0) {
    bool smaller = false;
    for (std::size_t from = 0; from < plan.faults.size() && lives > 0;) {
      SwarmPlan without = plan;
      const auto begin = without.faults.begin() + static_cast<std::ptrdiff_t>(from);
      const std::size_t count = std::min(piece, without.faults.size() - from);
      without.faults.erase(begin, begin + static_cast<std::ptrdiff_t>(count));
      --lives;
      if (kind_of(live(without).wrong) != kind) {
        from += piece;
      } else {
        plan = std::move(without);
        smaller = true;
      }
    }
    if (piece == 1 && !smaller) break;
    if (!smaller || piece > plan.faults.size()) piece = std::max<std::size_t>(1, piece / 2);
  }
  return plan;
}

}  // namespace blockd::sim
