// How one host reaches replicas, its own and others', and serves its own to other hosts' engines.
//
// One hub a host. Outgoing: one link to each other host, shared by all volumes, reconnecting with
// back-off. Incoming: the replica service over this host's stores. The engine sees both through the
// same asynchronous calls (peer/replica_client.h), so that local and remote members differ only in
// cost.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "base/buffer.h"
#include "blockd/types.h"
#include "io/link.h"
#include "io/loop.h"
#include "peer/replica_client.h"
#include "store/store.h"

namespace blockd::peer {

// Told of what an administrator has to know.
class HubWatcher {
 public:
  virtual ~HubWatcher() = default;
  // A host that can be reached and will not be spoken with; once, until it is or the reason
  // changes. StoreForeign: of another cluster; Unsupported: no common version; NotFound: another
  // host than the one that should be there.
  virtual void peer_refused(const Uuid& host, Error reason) noexcept = 0;
};

struct HubConfig {
  Uuid host_id;
  Uuid cluster_id;
  std::uint64_t lease_us = 1'000'000;  // what a member grants with each heartbeat
  std::uint64_t heartbeat_us = 200'000;
  std::uint64_t member_timeout_us = 1'000'000;  // no answer for so long: the member has failed
  // Not to be spoken above, though this code could.
  std::uint16_t wire_version_max = format::kWireVersionMax;
  HubWatcher* watcher = nullptr;  // outlives the hub
};

class PeerHub {
 public:
  static std::unique_ptr<PeerHub> create(io::Loop& loop, Buffers& buffers, io::Network& network,
                                         HubConfig config);
  virtual ~PeerHub() = default;

  virtual io::Endpoint listen(
      const io::Endpoint& at) = 0;  // throws Fault; returns the bound endpoint
  // Where to reach a host; a changed endpoint reconnects.
  virtual void set_peer(const Uuid& host, const io::Endpoint& endpoint) = 0;
  // Serve the replicas of an open store, to others and to this host's engines.
  virtual void add_store(store::Store& store) = 0;
  virtual void remove_store(const Uuid& store_id) = 0;  // its replicas answer NotFound from now on
  [[nodiscard]] virtual bool connected(const Uuid& host) const noexcept = 0;
  // How long the newest lease that an engine of the volume has from this host lives from now; 0:
  // there is none.
  [[nodiscard]] virtual std::uint64_t lease_left_us(const Uuid& volume) const noexcept = 0;
  // The engine's way to a host's replicas; for this host's own id, the stores added here. Lives as
  // long as the hub.
  virtual ReplicaChannel& channel(const Uuid& host) = 0;
  [[nodiscard]] virtual const HubConfig& config() const noexcept = 0;
  // Closes every link. No volume may use the hub any more; stores may be closed after done().
  virtual void close(std::function<void()> done) = 0;
};

}  // namespace blockd::peer
