#include "sim/settle.h"

#include <vector>

namespace blockd::sim {

namespace {

// Its medium is well again (rot aside). A store that failed, or could not read its metadata,
// has to be opened anew.
void revive(SimCluster& cluster, std::uint32_t host) {
  if (!cluster.alive(host)) return cluster.restart(host);
  Medium& medium = cluster.medium(host);
  medium.set_slowness(1);
  medium.set_stuck(false);
  medium.fail_reads(false);
  medium.fail_writes(Error::Ok);
  const store::Store& store = *cluster.process(host).store;
  if (store.info().failed == Error::Ok && !store.metadata_lost()) return;
  cluster.kill(host, false);
  cluster.restart(host);
}

bool any_paused(SimCluster& cluster) {
  for (std::uint32_t i = 0; i < cluster.host_count(); ++i) {
    if (cluster.alive(i) && cluster.process(i).loop->paused()) return true;
  }
  return false;
}

}  // namespace

bool serves(SimCluster& cluster, std::uint32_t host, std::uint64_t max_us) {
  return cluster.world().run_until(
      [&] { return cluster.volume(host)->state() == engine::VolumeState::serving; }, max_us);
}

std::string settle(SimCluster& cluster, Workload& work, std::uint32_t holder, bool power_was_lost,
                   Snapshots* snapshots, bool may_rot) {
  cluster.heal();
  for (std::uint32_t i = 0; i < cluster.host_count(); ++i) revive(cluster, i);
  // A detachment that a fault held up is over now.
  const bool leaves =
      cluster.volume(holder) && cluster.process(holder).closing != Process::Closing::no;
  if (leaves && !cluster.detach(holder)) return "a detachment does not end";
  if (!cluster.volume(holder)) cluster.attach(holder);
  if (!serves(cluster, holder))
    return "does not serve after the faults: " + cluster.describe(holder);
  work.stop();
  if (!cluster.world().run_until([&] { return work.idle(); }, 90'000'000)) {
    return "requests are never answered: " + cluster.describe(holder);
  }
  // One that stands still may be behind, and nobody have noticed yet.
  if (!cluster.world().run_until([&] { return !any_paused(cluster); }, 90'000'000))
    return "a host stands still for ever";
  if (!cluster.world().run_until([&] { return cluster.all_in_sync(holder); }, 90'000'000)) {
    return "not all in sync after the faults: " + cluster.describe(holder);
  }
  std::vector<std::uint64_t> tags;
  if (!work.read_all(holder, tags)) return std::string("cannot read everything, ") + work.unread();
  const bool flushed = work.flush(holder);
  if (!power_was_lost && cluster.notices("acknowledged-writes-lost") != 0)
    return "tells of lost writes, and no power was lost";
  // The first flush after a loss fails, to tell of it.
  if (!flushed && !(power_was_lost && work.flush(holder))) return "cannot flush";
  cluster.world().run_for(3'000'000);
  if (snapshots) {
    const std::string differs = snapshots->compare_all(may_rot);
    if (!differs.empty()) return differs;
  }
  if (!cluster.audit().wrong().empty()) return cluster.audit().wrong();
  if (!cluster.branches().wrong().empty()) return cluster.branches().wrong();
  if (!work.wrong().empty()) return work.wrong();
  std::string wrong = power_was_lost ? work.history().restart(tags) : work.history().check();
  if (!wrong.empty()) return wrong;
  return cluster.compare_replicas();
}

}  // namespace blockd::sim
