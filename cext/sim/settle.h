// The end of every life: faults are over, and the cluster has to show that it kept its promises.
#pragma once

#include <cstdint>
#include <string>

#include "sim/cluster.h"
#include "sim/snapshots.h"
#include "sim/workload.h"

namespace blockd::sim {

// False: the host's volume does not serve within max_us.
[[nodiscard]] bool serves(SimCluster& cluster, std::uint32_t host,
                          std::uint64_t max_us = 60'000'000);

// Everything comes back; the volume serves again, every replica is in sync, and holds what clients
// saw, all within a bounded time. power_was_lost: only flushes are held to their word, for a host
// without its power forgets the rest. may_rot: as in Snapshots::compare_all(). Empty, or what is
// wrong.
[[nodiscard]] std::string settle(SimCluster& cluster, Workload& work, std::uint32_t holder,
                                 bool power_was_lost = false, Snapshots* snapshots = nullptr,
                                 bool may_rot = false);

}  // namespace blockd::sim
