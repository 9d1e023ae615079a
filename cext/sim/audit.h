// Whether the engine's status, the record of the metadata service and what the stores hold agree:
// looked at after every step of the engine's process, and of what is outside of all processes.
//
//  * The engine and the record name the same members in sync, when they are at one generation.
//  * What the engine says of its members does not contradict itself.
//  * Members that it calls in sync and not behind hold the same, by their stores' roots, whenever
//    nothing is on its way to them.
//  * No resync ends with a joiner that its proof finds to differ (unless a story has made it so).
#pragma once

#include <string>
#include <vector>

#include "engine/volume.h"
#include "format/disk.h"

namespace blockd::sim {

class SimCluster;

class Audit {
 public:
  explicit Audit(SimCluster& cluster) : cluster_(cluster) {}

  // After a step of this loop; 0: of the world.
  void look(std::uint64_t loop_id);
  void told(const char* notice);
  // The host may have lost what its engine believes to be there, until the engine has noticed.
  void power_lost(std::uint32_t host);
  // Empty, or the first that was wrong.
  [[nodiscard]] const std::string& wrong() const noexcept { return wrong_; }

  bool may_differ = false;  // a store was made to hold something else than it was given

 private:
  void look_at(const engine::SegmentStatus& status);
  void compare_roots(const engine::SegmentStatus& status);
  void fail(const engine::SegmentStatus& status, const std::string& what);

  SimCluster& cluster_;
  std::string wrong_;
  std::vector<std::vector<bool>> in_doubt_;  // by segment and host
};

}  // namespace blockd::sim
