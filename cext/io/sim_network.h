// Simulated links between simulated hosts: in order, delayed, split anywhere, cut when told so.
//
// One SimFabric a world joins the hosts; one SimNetwork is the sockets of one process. Bytes go in
// pieces of seeded size and delay, through a bounded window (so that senders feel a slow receiver).
// A partition delivers nothing, neither data nor the end of a stream, until it is healed, as TCP
// would; connecting across one times out. When a process dies its peers see LinkLost after a delay,
// having received any prefix of what it had sent. The rules of io/link.h are kept to the letter:
// handlers are called from events only, and lend a receive buffer before its bytes arrive.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "io/link.h"
#include "io/sim_world.h"

namespace blockd::io {

class SimNetwork;
struct SimConnection;

struct SimFabricOptions {
  std::uint64_t delay_us_min = 20, delay_us_max = 400;
  std::uint64_t connect_timeout_us = 2'000'000;
  std::size_t piece_bytes_max = 64 * 1024;
  std::size_t window_bytes = 256 * 1024;  // sent, not yet received by the handler
};

class SimFabric {
 public:
  explicit SimFabric(SimWorld& world, SimFabricOptions options = {});
  ~SimFabric();
  SimFabric(const SimFabric&) = delete;
  SimFabric& operator=(const SimFabric&) = delete;

  // Stops (or heals) what `from` sends to `to`; partition() does both ways.
  void block(const std::string& from, const std::string& to, bool blocked);
  void partition(const std::string& a, const std::string& b, bool parted);
  void heal();
  // Breaks every link between the two hosts in mid-stream: both ends see LinkLost.
  void reset_links(const std::string& a, const std::string& b);
  void set_delays(std::uint64_t us_min, std::uint64_t us_max) noexcept;

  [[nodiscard]] std::size_t connection_count() const noexcept { return connections_.size(); }
  [[nodiscard]] SimWorld& world() noexcept { return world_; }

 private:
  friend class SimNetwork;
  friend class SimListener;
  friend class SimLink;
  struct Bound {
    SimNetwork* network;
    AcceptHandler* handler;
  };

  [[nodiscard]] bool blocked(const std::string& from, const std::string& to) const;
  [[nodiscard]] std::uint64_t delay_us();
  void later(std::uint64_t wait_us, SimLoop* loop, std::function<void(SimFabric&)> action);
  std::shared_ptr<SimConnection> open(SimNetwork& from, const Endpoint& to, LinkHandler& handler);
  void syn(const std::shared_ptr<SimConnection>& connection);
  void accept(const std::shared_ptr<SimConnection>& connection, const Bound& bound);
  void established(const std::shared_ptr<SimConnection>& connection);
  void transmit(const std::shared_ptr<SimConnection>& connection, int end);
  void arrive(const std::shared_ptr<SimConnection>& connection, int end);
  void pump(const std::shared_ptr<SimConnection>& connection, int end);
  void finish(const std::shared_ptr<SimConnection>& connection, int end, Error reason);
  void end_stream(const std::shared_ptr<SimConnection>& connection, int end);
  void schedule_transmit(const std::shared_ptr<SimConnection>& connection, int end);
  void schedule_arrival(const std::shared_ptr<SimConnection>& connection, int end);
  void schedule_pump(const std::shared_ptr<SimConnection>& connection, int end);
  void schedule_finish(const std::shared_ptr<SimConnection>& connection, int end, Error reason);
  void kill(SimNetwork& network);
  void forget_if_over(const std::shared_ptr<SimConnection>& connection);

  SimWorld& world_;
  SimFabricOptions options_;
  std::shared_ptr<SimFabric*> life_;  // events hold it weakly
  std::map<Endpoint, Bound> listeners_;
  std::set<std::pair<std::string, std::string>> blocked_;
  std::map<std::uint64_t, std::shared_ptr<SimConnection>> connections_;  // by id: one order
  std::uint64_t next_id_ = 1;
  std::uint32_t next_port_ = 40000;
};

// The sockets of one simulated process; dies with its loop. Must outlive the links made through it
// unless the loop was killed, and not the fabric.
class SimNetwork final : public Network {
 public:
  SimNetwork(SimFabric& fabric, SimLoop& loop, std::string host);
  ~SimNetwork() override;
  SimNetwork(const SimNetwork&) = delete;
  SimNetwork& operator=(const SimNetwork&) = delete;

  std::unique_ptr<Listener> listen(const Endpoint& at, AcceptHandler& handler) override;
  std::unique_ptr<Link> connect(const Endpoint& to, LinkHandler& handler) override;
  [[nodiscard]] const std::string& host() const noexcept { return host_; }
  [[nodiscard]] SimLoop& loop() noexcept { return loop_; }

 private:
  SimFabric& fabric_;
  SimLoop& loop_;
  std::string host_;
  std::shared_ptr<SimNetwork*> life_;
};

}  // namespace blockd::io
