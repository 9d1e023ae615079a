// Snapshots of a simulated volume, and whether they keep their promises (docs/SNAPSHOTS.md): each
// is a consistent cut, what it showed once it always shows, and every member in sync shows the
// same.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "peer/replica_client.h"
#include "sim/cluster.h"
#include "sim/workload.h"

namespace blockd::sim {

class Snapshots {
 public:
  // durable_only: hosts lose power, so only what the members agree on can be held to its word.
  Snapshots(SimCluster& cluster, Workload& work, bool durable_only = false);
  ~Snapshots();

  void take(std::uint32_t holder);
  void remove_any();
  // Reads some final snapshot at some member in sync, through another host. Empty: as it should be.
  [[nodiscard]] std::string look();
  // Every snapshot there is, at every replica: all are in sync, and nobody writes.
  // may_rot: a block that only snapshots show may be damaged at a replica, for no scrub runs here.
  [[nodiscard]] std::string compare_all(bool may_rot = false);
  [[nodiscard]] std::uint64_t looks() const { return looks_; }
  [[nodiscard]] std::size_t count() const { return taken_.size(); }

 private:
  struct Taken {
    Era era = 0;
    std::uint64_t asked = 0;  // on the history's clock
    std::optional<std::vector<std::uint64_t>> seen;
  };
  struct Asked;

  [[nodiscard]] Error read(std::uint32_t via, std::uint32_t at, Era era,
                           std::vector<std::uint64_t>& tags);
  [[nodiscard]] std::string judge(Taken& taken, std::uint32_t at,
                                  const std::vector<std::uint64_t>& tags);

  SimCluster& cluster_;
  Workload& work_;
  bool durable_only_;
  std::uint64_t looks_ = 0;
  std::vector<Taken> taken_;
  std::vector<std::unique_ptr<Asked>> unanswered_;
};

}  // namespace blockd::sim
