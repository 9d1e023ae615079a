#include "sim/swarm.h"

#include <algorithm>
#include <map>

#include "sim/settle.h"

namespace blockd::sim {

namespace {

class Life {
 public:
  explicit Life(const SwarmPlan& plan)
      : plan_(plan),
        cluster_(plan.cluster),
        work_(cluster_, plan.span_bytes, plan.base_bytes),
        snapshots_(cluster_, work_, plan.loses_power) {
    work_.think_us = plan.think_us;
  }

  SwarmResult run() {
    const std::uint64_t born_us = cluster_.world().now_us();
    cluster_.attach(0);
    work_.start(0, plan_.depth);
    for (const Fault& fault : plan_.faults) {
      run_until(born_us + fault.at_us);
      if (!apply(fault)) continue;
      ++result_.applied[static_cast<std::size_t>(fault.kind)];
      if (!result_.wrong.empty()) return over(born_us);
    }
    run_until(born_us + plan_.life_us);
    result_.wrong =
        settle(cluster_, work_, newest_holder(), plan_.loses_power, &snapshots_, plan_.rots);
    return over(born_us);
  }

 private:
  io::SimWorld& world() { return cluster_.world(); }

  void run_until(std::uint64_t at_us) {
    if (at_us > world().now_us()) world().run_for(at_us - world().now_us());
  }

  SwarmResult over(std::uint64_t born_us) {
    std::map<std::string, std::uint64_t> counts;
    for (const auto& [kind, value] : cluster_.all_notices()) ++counts[kind];
    result_.reached.assign(counts.begin(), counts.end());
    result_.simulated_us = world().now_us() - born_us;
    result_.answered = work_.answered();
    return std::move(result_);
  }

  // The newest attachment's host, alive.
  std::uint32_t newest_holder() {
    for (std::uint32_t i = 0; i < cluster_.host_count(); ++i) {
      const bool newest =
          cluster_.alive(i) && cluster_.volume(i) && cluster_.process(i).epoch == cluster_.epoch();
      if (newest) return holder_ = i;
    }
    if (!cluster_.alive(holder_)) cluster_.restart(holder_);
    if (cluster_.volume(holder_) && !cluster_.detach(holder_)) {
      cluster_.kill(holder_, false);
      cluster_.restart(holder_);
    }
    return holder_;
  }

  bool attach(std::uint32_t host) {
    const bool can = cluster_.alive(host) && cluster_.reaches_metadata(host) &&
                     !cluster_.process(host).loop->paused();
    if (!can) return false;
    if (cluster_.volume(host)) {
      const bool holds = cluster_.process(host).epoch == cluster_.epoch();
      if (holds || !cluster_.detach(host, 10'000'000) || !cluster_.alive(host)) return false;
    }
    holder_ = host;
    cluster_.attach(host);
    work_.start(host, plan_.depth);
    return true;
  }

  bool detach() {
    const bool holds = cluster_.alive(holder_) && cluster_.volume(holder_) &&
                       !cluster_.process(holder_).loop->paused();
    return holds && cluster_.detach(holder_, 10'000'000);
  }

  void flap(const Fault& fault) {
    for (int i = 0; i < 10; ++i) {
      cluster_.partition(fault.a, fault.b, i % 2 == 0);
      world().run_for(fault.value / 10);
    }
  }

  // Of what clients use: the segment, and the block in it.
  std::pair<std::uint32_t, std::uint32_t> some_block() {
    const auto blocks = static_cast<std::uint32_t>(plan_.span_bytes / kBlockBytes);
    const auto base = static_cast<std::uint32_t>(plan_.base_bytes / kBlockBytes);
    const auto per_segment = static_cast<std::uint32_t>(kSegmentBytes / kBlockBytes);
    const std::uint32_t block = base + static_cast<std::uint32_t>(world().random().below(blocks));
    return {block / per_segment, block % per_segment};
  }

  bool rot(std::uint32_t host) {
    const auto [segment, block] = some_block();
    return cluster_.alive(host) &&
           cluster_.medium(host).rot({cluster_.volume_id(), segment}, block);
  }

  bool repair(std::uint32_t host) {
    if (!cluster_.alive(holder_) || !cluster_.volume(holder_)) return false;
    const auto [segment, block] = some_block();
    cluster_.volume(holder_)->repair_chunk(segment, block / kBlocksPerChunk, 0,
                                           cluster_.host_id(host), [](Error) {});
    return true;
  }

  bool snapshot() {
    const bool holds = cluster_.alive(holder_) && cluster_.volume(holder_) &&
                       cluster_.process(holder_).epoch == cluster_.epoch() &&
                       cluster_.reaches_metadata(holder_);
    if (holds) snapshots_.take(holder_);
    return holds;
  }

  // False: there was nothing that it could befall.
  bool apply(const Fault& fault);
  bool apply_to_medium(const Fault& fault);

  const SwarmPlan& plan_;
  SimCluster cluster_;
  Workload work_;
  Snapshots snapshots_;
  std::uint32_t holder_ = 0;
  SwarmResult result_;
};

bool Life::apply(const Fault& fault) {
  const auto [at_us, kind, a, b, value] = fault;
  switch (kind) {
    case FaultKind::kill:
    case FaultKind::power_loss:
      if (!cluster_.alive(a)) return false;
      cluster_.kill(a, kind == FaultKind::power_loss);
      return true;
    case FaultKind::power_loss_all:
      for (std::uint32_t i = 0; i < cluster_.host_count(); ++i) {
        if (cluster_.alive(i)) cluster_.kill(i, true);
      }
      return true;
    case FaultKind::restart:
      if (cluster_.alive(a)) return false;
      cluster_.upgrade(a);
      cluster_.restart(a);
      return true;
    case FaultKind::partition:
      cluster_.partition(a, b, true);
      return true;
    case FaultKind::deaf:
      cluster_.block(a, b, true);
      return true;
    case FaultKind::flap:
      flap(fault);
      return true;
    case FaultKind::mend:
      cluster_.partition(a, b, false);
      return true;
    case FaultKind::reset:
      cluster_.reset_links(a, b);
      return true;
    case FaultKind::slow_network:
      cluster_.set_delays(20, 400 + value % 100'000);
      return true;
    case FaultKind::pause:
      if (!cluster_.alive(a)) return false;
      cluster_.pause(a, value);
      return true;
    case FaultKind::clock: {
      const auto most = static_cast<std::int64_t>(plan_.cluster.clock_error_ppm);
      cluster_.set_clock(a, static_cast<std::int64_t>(value) % (2 * most + 1) - most);
      return cluster_.alive(a);
    }
    case FaultKind::metadata_away:
      cluster_.meta_reachable = false;
      return true;
    case FaultKind::metadata_back:
      cluster_.meta_reachable = true;
      for (std::uint32_t i = 0; i < cluster_.host_count(); ++i)
        cluster_.cut_from_metadata(i, false);
      return true;
    case FaultKind::metadata_cut:
      cluster_.cut_from_metadata(a, true);
      return true;
    case FaultKind::metadata_slow:
      cluster_.meta_delay_us_max = value;
      return true;
    case FaultKind::attach:
      return attach(a);
    case FaultKind::attach_race: {
      const bool first = attach(a);
      world().run_for(value % 5'000);
      return attach(b) && first;
    }
    case FaultKind::detach:
      return detach();
    case FaultKind::repair:
      return repair(a);
    case FaultKind::snapshot:
      return snapshot();
    case FaultKind::snapshot_gone:
      if (snapshots_.count() == 0) return false;
      snapshots_.remove_any();
      return true;
    case FaultKind::snapshot_look:
      result_.wrong = snapshots_.look();
      return true;
    default:
      return apply_to_medium(fault);
  }
}

bool Life::apply_to_medium(const Fault& fault) {
  if (!cluster_.alive(fault.a)) return false;
  Medium& medium = cluster_.medium(fault.a);
  switch (fault.kind) {
    case FaultKind::slow_disk:
      medium.set_slowness(2 + fault.value % 1000);
      return true;
    case FaultKind::stuck_disk:
      medium.set_stuck(true);
      return true;
    case FaultKind::failing_reads:
      medium.fail_reads(true);
      return true;
    case FaultKind::failing_writes:
      medium.fail_writes(Error::DiskError);
      return true;
    case FaultKind::full_disk:
      if (plan_.on_disks) return false;  // a full store there is a matter of what is written
      medium.fail_writes(Error::NoSpace);
      return true;
    case FaultKind::rot:
      return rot(fault.a);
    case FaultKind::lost_write:
      return medium.lose_write();
    case FaultKind::misdirected_write:
      return medium.misdirect_write();
    default:
      medium.set_slowness(1);
      medium.set_stuck(false);
      medium.fail_reads(false);
      medium.fail_writes(Error::Ok);
      return true;
  }
}

}  // namespace

SwarmResult live(const SwarmPlan& plan) {
  return Life(plan).run();
}

}  // namespace blockd::sim
