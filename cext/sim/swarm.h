// A life of a whole cluster under faults, drawn from one seed in the manner of swarm testing (Groce
// et al., 2012): each seed first draws the ground (hosts, replicas, segments, media, clocks), then
// which kinds of fault there are at all, then a schedule of them. So some lives have everything,
// many have few kinds but those often, and states that faults mask from each other are reached.
//
// The schedule is data: a life can be lived again with less of it, which is how a failure is
// shrunk.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "sim/cluster.h"

namespace blockd::sim {

enum class FaultKind : std::uint8_t {
  kill,        // of a process
  power_loss,  // of a host: what was not flushed may be gone or torn
  power_loss_all,
  restart,
  partition,  // between two hosts, both ways
  deaf,       // one way only
  flap,       // a partition that comes and goes ten times
  mend,       // the links of two hosts
  reset,      // of their connections, in mid-frame
  slow_network,
  pause,          // of a process; its clock goes on
  clock,          // another rate error
  metadata_away,  // from all
  metadata_back,
  metadata_cut,  // from one host
  metadata_slow,
  slow_disk,
  stuck_disk,
  failing_reads,
  failing_writes,
  full_disk,
  good_disk,  // ends the last five
  rot,
  attach,       // elsewhere, whatever the old holder thinks
  attach_race,  // at two hosts, one right after the other
  detach,
  snapshot,
  snapshot_gone,
  snapshot_look,
  lost_write,         // of data, acknowledged
  misdirected_write,  // of data, to where other data is
  repair,             // of a chunk that may have nothing wrong
};
inline constexpr std::size_t kFaultKinds = static_cast<std::size_t>(FaultKind::repair) + 1;
// Those before have their place in the schedules of seeds that failed once: new kinds come after.
inline constexpr std::size_t kFirstFaultKinds =
    static_cast<std::size_t>(FaultKind::snapshot_look) + 1;
[[nodiscard]] const char* fault_name(FaultKind kind) noexcept;

struct Fault {
  std::uint64_t at_us = 0;  // of the life
  FaultKind kind = FaultKind::kill;
  std::uint32_t a = 0, b = 0;  // hosts
  std::uint64_t value = 0;     // what the kind makes of it
};

struct SwarmPlan {
  std::uint64_t seed = 0;
  ClusterOptions cluster;
  bool on_disks = false;     // the store itself; else the fake one
  bool loses_power = false;  // then only flushed writes are held to their word
  bool rots = false;
  std::uint64_t base_bytes = 0;  // the clients' span of the volume
  std::uint64_t span_bytes = 0;
  std::uint32_t depth = 1;
  std::uint64_t think_us = 0;
  std::uint64_t life_us = 0;
  std::vector<Fault> faults;  // in order
};

// As schedules were drawn when the first seeds failed.
[[nodiscard]] SwarmPlan draw_first_plan(std::uint64_t seed);
// The same, with what has been thought of since.
[[nodiscard]] SwarmPlan draw_plan(std::uint64_t seed);

struct SwarmResult {
  std::string wrong;  // empty: all promises were kept
  std::uint64_t simulated_us = 0;
  std::uint64_t answered = 0;  // requests
  std::array<std::uint32_t, kFaultKinds> applied{};
  std::vector<std::pair<std::string, std::uint64_t>> reached;  // what engines told of, how often
};
[[nodiscard]] SwarmResult live(const SwarmPlan& plan);

// The plan with as few faults as still fail, in at most `lives` attempts.
[[nodiscard]] SwarmPlan shrink(SwarmPlan plan, std::uint32_t lives);
// One line for the ground, one for each fault.
[[nodiscard]] std::string describe(const SwarmPlan& plan);

}  // namespace blockd::sim
