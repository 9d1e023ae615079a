// The hub of peer_hub.h: ties channels, the replica service and incoming links together.
#include <map>
#include <utility>
#include <vector>

#include "base/assert.h"
#include "peer/completion_queue.h"
#include "peer/peer_hub.h"
#include "peer/remote_channel.h"
#include "peer/replica_service.h"
#include "peer/server_link.h"

namespace blockd::peer {

namespace {

// This host's own replicas: the same operations, by direct call.
class LocalChannel final : public ReplicaChannel {
 public:
  LocalChannel(ReplicaService& service, std::uint16_t version) noexcept
      : service_(service), version_(version) {}
  [[nodiscard]] bool connected() const noexcept override { return true; }
  [[nodiscard]] bool unreachable() const noexcept override { return false; }
  [[nodiscard]] std::uint16_t version() const noexcept override { return version_; }
  void submit(ReplicaOp& op) noexcept override { service_.submit(session_, op); }
  void fail() noexcept override {}

 private:
  ReplicaService& service_;
  std::uint16_t version_;
  Session session_;
};

class Hub final : public PeerHub, private io::AcceptHandler {
 public:
  Hub(io::Loop& loop, Buffers& buffers, io::Network& network, HubConfig config)
      : loop_(loop),
        buffers_(buffers),
        network_(network),
        config_(config),
        completions_(loop),
        service_(loop, completions_, config.lease_us),
        local_(service_, config.wire_version_max) {
    close_task_.owner = this;
    close_task_.run = [](io::Task& task) noexcept {
      static_cast<Hub*>(task.owner)->maybe_closed();
    };
  }

  io::Endpoint listen(const io::Endpoint& at) override {
    listeners_.push_back(network_.listen(at, *this));
    return listeners_.back()->endpoint();
  }

  void set_peer(const Uuid& host, const io::Endpoint& endpoint) override {
    if (host != config_.host_id) remote(host).set_endpoint(endpoint);
  }

  void add_store(store::Store& store) override { service_.add_store(store); }
  void remove_store(const Uuid& store_id) override { service_.remove_store(store_id); }

  [[nodiscard]] bool connected(const Uuid& host) const noexcept override {
    if (host == config_.host_id) return true;
    const auto found = channels_.find(host);
    return found != channels_.end() &&
           static_cast<const ReplicaChannel&>(*found->second).connected();
  }

  [[nodiscard]] std::uint64_t lease_left_us(const Uuid& volume) const noexcept override {
    return service_.lease_left_us(volume);
  }

  ReplicaChannel& channel(const Uuid& host) override {
    if (host == config_.host_id) return local_;
    return remote(host);
  }

  [[nodiscard]] const HubConfig& config() const noexcept override { return config_; }

  void close(std::function<void()> done) override {
    BLOCKD_ASSERT(!closing_);
    closing_ = true;
    closed_ = std::move(done);
    listeners_.clear();
    service_.close_views();
    channels_open_ = channels_.size();
    for (auto& [host, channel] : channels_) {
      channel->close([this] {
        --channels_open_;
        loop_.defer(close_task_);
      });
    }
    for (auto& link : links_) link->close();
    loop_.defer(close_task_);
  }

 private:
  RemoteChannel& remote(const Uuid& host) {
    std::unique_ptr<RemoteChannel>& channel = channels_[host];
    if (!channel) {
      const ChannelConfig config{
          config_.cluster_id,        config_.host_id,          host,
          config_.member_timeout_us, config_.wire_version_max, config_.watcher};
      channel = std::make_unique<RemoteChannel>(loop_, network_, completions_, config);
    }
    return *channel;
  }

  io::LinkHandler* accepted(std::unique_ptr<io::Link> link) noexcept override {
    if (closing_) return nullptr;
    const ServerConfig config{config_.cluster_id, config_.host_id, config_.wire_version_max};
    links_.push_back(std::make_unique<ServerLink>(
        loop_, buffers_, service_, config, std::move(link),
        [](ServerLink& over, void* owner) noexcept { static_cast<Hub*>(owner)->link_over(over); },
        this));
    return links_.back().get();
  }

  void link_over(ServerLink& link) noexcept {
    std::erase_if(links_, [&](const auto& held) { return held.get() == &link; });
    if (closing_) loop_.defer(close_task_);
  }

  void maybe_closed() noexcept {
    if (channels_open_ > 0 || !links_.empty() || !completions_.empty()) return;
    if (auto done = std::exchange(closed_, nullptr)) done();
  }

  io::Loop& loop_;
  Buffers& buffers_;
  io::Network& network_;
  HubConfig config_;
  CompletionQueue completions_;
  ReplicaService service_;
  LocalChannel local_;
  std::map<Uuid, std::unique_ptr<RemoteChannel>> channels_;
  std::vector<std::unique_ptr<io::Listener>> listeners_;
  std::vector<std::unique_ptr<ServerLink>> links_;
  io::Task close_task_;
  std::size_t channels_open_ = 0;
  bool closing_ = false;
  std::function<void()> closed_;
};

}  // namespace

std::unique_ptr<PeerHub> PeerHub::create(io::Loop& loop, Buffers& buffers, io::Network& network,
                                         HubConfig config) {
  return std::make_unique<Hub>(loop, buffers, network, config);
}

}  // namespace blockd::peer
