// A whole cluster in one thread, from one seed: hosts of the real peer and engine code over
// simulated links, clocks and stores, and a model of the metadata service.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "engine/resync_pace.h"
#include "engine/volume.h"
#include "io/sim_network.h"
#include "io/sim_world.h"
#include "peer/peer_hub.h"
#include "sim/audit.h"
#include "sim/branches.h"
#include "sim/medium.h"

namespace blockd::sim {

struct ClusterOptions {
  std::uint64_t seed = 1;
  std::uint32_t hosts = 3;
  std::uint32_t replicas = 3;  // on the first hosts
  std::uint32_t min_in_sync = 2;
  std::uint64_t io_timeout_us = 0;  // 0: the default
  std::uint64_t volume_bytes = 2u << 20;
  std::uint64_t lease_us = 400'000;
  std::uint64_t heartbeat_us = 80'000;
  std::uint64_t member_timeout_us = 400'000;
  std::uint64_t clock_error_ppm = 10'000;  // at most, either way, of each process's clock
  // The highest version of the peer protocol that each host speaks; what is missing: the newest.
  std::vector<std::uint16_t> wire_versions;
  // What each host's store stands on; empty: a fake store.
  std::function<std::unique_ptr<Medium>(io::SimWorld&, Uuid store_id, Uuid cluster_id)> make_medium;
};

class SimCluster;

// One simulated process: everything that dies with it.
struct Process {
  std::unique_ptr<io::SimLoop> loop;
  std::unique_ptr<Buffers> buffers;
  std::unique_ptr<io::SimNetwork> network;
  std::unique_ptr<store::Store> store;
  std::unique_ptr<peer::HubWatcher> watcher;  // of the hub
  std::unique_ptr<peer::PeerHub> hub;
  std::unique_ptr<engine::ResyncPace> pace;
  std::unique_ptr<engine::VolumeEvents> events;
  std::unique_ptr<engine::Volume> volume;
  std::uint64_t epoch = 0;  // of the volume
  Era opened_in = 0;        // the era it was attached in
  enum class Closing : std::uint8_t { no, under_way, done } closing = Closing::no;  // the volume
};

class SimCluster {
 public:
  explicit SimCluster(const ClusterOptions& options);
  ~SimCluster();
  SimCluster(const SimCluster&) = delete;
  SimCluster& operator=(const SimCluster&) = delete;

  // Faults.
  void kill(std::uint32_t host, bool power_loss);
  void restart(std::uint32_t host);
  void partition(std::uint32_t a, std::uint32_t b, bool parted);
  void reset_links(std::uint32_t a, std::uint32_t b);
  void block(std::uint32_t from, std::uint32_t to, bool blocked);  // what `from` sends is not heard
  void pause(std::uint32_t host, std::uint64_t us);                // SIGSTOP, and SIGCONT in time
  void set_clock(std::uint32_t host, std::int64_t error_ppm);
  void set_delays(std::uint64_t us_min, std::uint64_t us_max);
  void cut_from_metadata(std::uint32_t host, bool cut) { hosts_[host].cut = cut; }
  // The host's next process speaks all that the code does.
  void upgrade(std::uint32_t host);
  // Ends every fault but death, pauses and what a medium has.
  void heal();
  bool meta_reachable = true;
  std::uint64_t meta_delay_us_max = 20'000;
  std::uint64_t branches_stall_us = 0;  // they have no quorum, and say so after so long; 0: they do

  [[nodiscard]] bool reaches_metadata(std::uint32_t host) const {
    return meta_reachable && !hosts_[host].cut;
  }

  // A new epoch for a living host; another holder is not told.
  engine::Volume& attach(std::uint32_t host);
  // Ends the host's volume in good order. False: not within max_us.
  bool detach(std::uint32_t host, std::uint64_t max_us = 60'000'000);

  // Within the first segment. False: not within a minute.
  bool grow(std::uint32_t host, std::uint64_t size_bytes);
  // REQUIRES: the engine answers within a minute.
  Error shrink(std::uint32_t host, std::uint64_t size_bytes);

  // The metadata begins the next era and tells the holder's engine a little later. Returns the
  // snapshot's era.
  Era take_snapshot(std::uint32_t holder);
  // The stores hear of it by and by.
  void delete_snapshot(Era era);
  [[nodiscard]] bool snapshot_final(Era era);
  [[nodiscard]] Era era() const { return era_; }

  [[nodiscard]] bool in_sync(std::uint32_t host, std::uint32_t segment = 0) const {
    return meta_[segment].in_sync[host];
  }
  [[nodiscard]] std::uint64_t generation(std::uint32_t segment) const {
    return meta_[segment].generation;
  }
  [[nodiscard]] Audit& audit() { return audit_; }
  [[nodiscard]] const Uuid& host_id(std::uint32_t host) const { return hosts_[host].id; }
  [[nodiscard]] const Uuid& store_id(std::uint32_t host) const { return hosts_[host].store_id; }
  [[nodiscard]] const Uuid& volume_id() const { return volume_id_; }

  [[nodiscard]] bool alive(std::uint32_t host) const { return hosts_[host].process != nullptr; }
  [[nodiscard]] engine::Volume* volume(std::uint32_t host) {
    return hosts_[host].process ? hosts_[host].process->volume.get() : nullptr;
  }
  [[nodiscard]] Process& process(std::uint32_t host) { return *hosts_[host].process; }
  [[nodiscard]] Medium& medium(std::uint32_t host) { return *hosts_[host].medium; }
  [[nodiscard]] io::SimWorld& world() { return world_; }
  [[nodiscard]] io::SimFabric& fabric() { return fabric_; }
  [[nodiscard]] std::uint32_t host_count() const {
    return static_cast<std::uint32_t>(hosts_.size());
  }
  [[nodiscard]] const ClusterOptions& options() const { return options_; }
  [[nodiscard]] std::uint64_t epoch() const { return epoch_; }
  // Every replica of every segment is in sync, as agreed and as the host's engine says itself.
  [[nodiscard]] bool all_in_sync(std::uint32_t holder) const;
  [[nodiscard]] std::uint32_t in_sync_count(std::uint32_t segment) const;
  // Empty: all replicas hold the same bytes at the same versions (tombstones aside).
  [[nodiscard]] std::string compare_replicas();
  [[nodiscard]] std::string describe(std::uint32_t host);
  [[nodiscard]] Branches& branches() { return branches_; }
  [[nodiscard]] std::uint64_t notices(const std::string& kind) const;
  [[nodiscard]] const std::vector<std::pair<std::string, std::uint64_t>>& all_notices() const {
    return notices_;
  }

 private:
  friend class Agent;
  friend class Refusals;
  struct Host {
    std::string name;
    Uuid id, store_id;
    std::unique_ptr<Medium> medium;
    std::unique_ptr<Process> process;
    bool cut = false;  // from the metadata service
    std::unique_ptr<FakeWatcher> watcher;
  };
  struct MetaSegment {
    std::uint64_t generation = 1;
    std::vector<bool> in_sync;  // by host
  };

  [[nodiscard]] engine::SegmentConfig segment_config(std::uint32_t segment,
                                                     std::uint32_t viewer) const;
  void change_in_sync(std::uint32_t host, std::uint64_t epoch, std::uint32_t segment,
                      std::uint64_t generation, std::vector<Uuid> in_sync);
  void answer(std::uint32_t host, std::uint64_t epoch, std::uint32_t segment);
  void check_rules(const MetaSegment& meta, const std::vector<Uuid>& in_sync) const;
  [[nodiscard]] std::uint64_t meta_delay_us();
  [[nodiscard]] io::SimLoop* loop_of(std::uint32_t host, std::uint64_t epoch);
  [[nodiscard]] engine::Volume* volume_of(std::uint32_t host, std::uint64_t epoch);
  void boot(std::uint32_t host);
  void noticed(std::uint32_t host, std::uint64_t epoch, const Uuid& about, const std::string& kind,
               std::uint64_t value);
  void preserve(std::uint32_t host, std::uint64_t epoch, engine::Preserve& content);
  void tell_snapshots(std::uint32_t host);

  ClusterOptions options_;
  io::SimWorld world_;
  io::SimFabric fabric_;
  Uuid cluster_id_, volume_id_;
  std::vector<Host> hosts_;
  std::vector<MetaSegment> meta_;
  std::uint64_t epoch_ = 0;
  Era era_ = 1;
  std::set<Era> snapshots_;  // that there are
  std::set<Era> final_;
  std::vector<std::unique_ptr<Process>> graves_;
  Branches branches_;
  std::vector<std::pair<std::string, std::uint64_t>> notices_;
  Audit audit_{*this};
};

}  // namespace blockd::sim
