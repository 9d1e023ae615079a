#include "nbd/nbd_server.h"

#include <utility>

#include "nbd/server_context.h"

namespace blockd::nbd {

class NbdServer::Endpoints {
 public:
  std::map<io::Endpoint, std::unique_ptr<io::Listener>> listeners;
};

NbdServer::NbdServer(io::Loop& loop, Buffers& buffers, io::Network& network, NbdConfig config)
    : context_(std::make_unique<ServerContext>(loop, buffers, network, config)),
      endpoints_(std::make_unique<Endpoints>()) {}

NbdServer::~NbdServer() = default;

io::Endpoint NbdServer::listen(const io::Endpoint& at) {
  if (context_->closing) throw Fault(Error::ShuttingDown, "the NBD server is stopping");
  std::unique_ptr<io::Listener> listener = context_->network.listen(at, *context_);
  io::Endpoint bound = listener->endpoint();
  endpoints_->listeners[bound] = std::move(listener);
  return bound;
}

Error NbdServer::close_endpoint(const io::Endpoint& at) {
  return endpoints_->listeners.erase(at) > 0 ? Error::Ok : Error::NotFound;
}

Error NbdServer::add_export(const std::string& name, const std::string& description,
                            engine::BlockBackend& backend, ExportFlags flags) {
  if (context_->closing) return Error::ShuttingDown;
  if (name.size() > kStringBytesMax || description.size() > kStringBytesMax)
    return Error::InvalidArgument;
  if (context_->exports.contains(name)) return Error::AlreadyExists;
  context_->exports.emplace(name,
                            std::make_unique<Export>(name, description, backend, flags.read_only,
                                                     context_->request_bytes_max));
  return Error::Ok;
}

void NbdServer::remove_export(const std::string& name, std::function<void(Error)> done) {
  const auto found = context_->exports.find(name);
  if (found == context_->exports.end() || found->second->draining) {
    context_->not_found.push_back(std::move(done));
    context_->settle_later();
    return;
  }
  context_->drain(*found->second, std::move(done));
}

Error NbdServer::resize(const std::string& name) {
  const auto found = context_->exports.find(name);
  if (found == context_->exports.end() || found->second->draining) return Error::NotFound;
  found->second->take_up_size();
  return Error::Ok;
}

NbdStats NbdServer::stats() const {
  NbdStats stats = context_->totals;
  stats.exports.reserve(context_->exports.size());
  for (const auto& [name, target] : context_->exports) stats.exports.push_back(target->stats());
  return stats;
}

void NbdServer::close(std::function<void()> done) {
  BLOCKD_ASSERT(!context_->closing);
  context_->closing = true;
  context_->closed = std::move(done);
  endpoints_->listeners.clear();
  context_->end_handshakes();
  for (const auto& [name, target] : context_->exports) {
    if (!target->draining) context_->drain(*target, nullptr);
  }
  context_->settle_later();
}

}  // namespace blockd::nbd
