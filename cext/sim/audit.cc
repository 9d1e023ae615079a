#include "sim/audit.h"

#include <algorithm>
#include <cstring>
#include <optional>

#include "sim/cluster.h"

namespace blockd::sim {

namespace {

bool has(const std::vector<Uuid>& hosts, const Uuid& host) {
  return std::ranges::find(hosts, host) != hosts.end();
}

}  // namespace

void Audit::fail(const engine::SegmentStatus& status, const std::string& what) {
  if (!wrong_.empty()) return;
  wrong_ = "at " + std::to_string(cluster_.world().now_us()) + " us, segment " +
           std::to_string(status.index) + ": " + what;
}

void Audit::power_lost(std::uint32_t host) {
  for (std::vector<bool>& segment : in_doubt_) segment[host] = true;
}

void Audit::told(const char* notice) {
  const bool differs =
      std::strcmp(notice, "resync-mismatch") == 0 || std::strcmp(notice, "replica-differs") == 0;
  if (differs && !may_differ && wrong_.empty())
    wrong_ = std::string("an engine tells of ") + notice;
}

void Audit::look(std::uint64_t loop_id) {
  if (!wrong_.empty()) return;
  for (std::uint32_t i = 0; i < cluster_.host_count(); ++i) {
    const bool newest =
        cluster_.alive(i) && cluster_.volume(i) && cluster_.process(i).epoch == cluster_.epoch();
    if (!newest || (loop_id != 0 && loop_id != cluster_.process(i).loop->id())) continue;
    if (cluster_.volume(i)->state() == engine::VolumeState::fenced) continue;
    for (const engine::SegmentStatus& status : cluster_.volume(i)->status()) look_at(status);
  }
}

void Audit::look_at(const engine::SegmentStatus& status) {
  if (in_doubt_.size() <= status.index)
    in_doubt_.resize(status.index + 1, std::vector<bool>(cluster_.host_count()));
  const std::uint64_t recorded = cluster_.generation(status.index);
  if (status.generation > recorded) fail(status, "the engine is ahead of the record");
  for (std::uint32_t i = 0; i < cluster_.host_count(); ++i) {
    const Uuid& id = cluster_.host_id(i);
    const bool in_sync = has(status.in_sync, id), behind = has(status.behind, id);
    const bool joining = has(status.joining, id), absent = has(status.absent, id);
    if (status.generation == recorded && in_sync != cluster_.in_sync(i, status.index))
      fail(status, "the engine and the record disagree about host " + std::to_string(i));
    const bool clear = (!behind || in_sync) && (!joining || !in_sync || behind) &&
                       (!absent || (!in_sync && !joining)) &&
                       (in_sync || joining || absent || i >= cluster_.options().replicas);
    if (!clear) fail(status, "what the status says of host " + std::to_string(i) + " is no state");
    if (!in_sync || behind) in_doubt_[status.index][i] = false;  // it will be looked at anew
  }
  if (status.state == engine::VolumeState::serving && status.in_flight == 0) compare_roots(status);
}

void Audit::compare_roots(const engine::SegmentStatus& status) {
  std::optional<format::Root> first;
  for (std::uint32_t i = 0; i < cluster_.host_count(); ++i) {
    const Uuid& id = cluster_.host_id(i);
    if (!cluster_.alive(i) || !has(status.in_sync, id) || has(status.behind, id)) continue;
    const store::Store& store = *cluster_.process(i).store;
    const auto segment = store.find_segment({cluster_.volume_id(), status.index});
    const bool lost = store.info().failed != Error::Ok || store.metadata_lost();
    if (!segment || lost || in_doubt_[status.index][i]) continue;
    const format::Root root = store.segment_info(*segment).root;
    if (first && root != *first && !may_differ)
      fail(status, "host " + std::to_string(i) + " is called in sync and differs");
    first = root;
  }
}

}  // namespace blockd::sim
