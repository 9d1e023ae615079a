#include "nbd/server_context.h"

#include <algorithm>
#include <new>
#include <utility>

namespace blockd::nbd {
namespace {

std::uint64_t budget_of(const Buffers& buffers, const NbdConfig& config) noexcept {
  return config.pool_bytes_max > 0 ? config.pool_bytes_max : buffers.large.bytes() / 2;
}

// What a single read can have all of its memory for, wherever it begins.
std::uint32_t largest_request(const Buffers& buffers, const NbdConfig& config) {
  const std::uint64_t bytes =
      std::min<std::uint64_t>(budget_of(buffers, config), buffers.large.bytes());
  const std::uint64_t pieces = bytes / buffers.large.buffer_bytes();
  if (pieces < 2)
    throw Fault(Error::InvalidArgument, "the buffer pools are too small to serve NBD");
  return static_cast<std::uint32_t>(
      std::min<std::uint64_t>((pieces - 1) * kMutationBytesMax, kRequestBytesMax));
}

}  // namespace

ServerContext::ServerContext(io::Loop& loop_, Buffers& buffers_, io::Network& network_,
                             NbdConfig config_)
    : loop(loop_),
      buffers(buffers_),
      network(network_),
      config(config_),
      budget(budget_of(buffers_, config_)),
      request_bytes_max(largest_request(buffers_, config_)) {
  if (config.requests_max == 0) throw Fault(Error::InvalidArgument, "requests_max must not be 0");
  settle_task.owner = this;
  settle_task.run = [](io::Task& task) noexcept {
    static_cast<ServerContext*>(task.owner)->settle();
  };
  stall_timer.owner = this;
  stall_timer.fire = [](io::Timer& timer) noexcept {
    static_cast<ServerContext*>(timer.owner)->relieve_memory();
  };
}

ServerContext::~ServerContext() {
  BLOCKD_ASSERT(!connections);
  BLOCKD_ASSERT(!settle_task.queued);
  loop.cancel(stall_timer);
}

// ---- Exports
// -------------------------------------------------------------------------------------

const ExportInfo* ServerContext::find(std::string_view name) const noexcept {
  const auto found = exports.find(name);
  return found == exports.end() || found->second->draining ? nullptr : found->second.get();
}

const ExportInfo* ServerContext::at(std::size_t index) const noexcept {
  for (const auto& [name, target] : exports) {
    if (!target->draining && index-- == 0) return target.get();
  }
  return nullptr;
}

Export& ServerContext::adopt(const ExportInfo& info) noexcept {
  const auto found = exports.find(info.name);
  BLOCKD_ASSERT(found != exports.end());
  BLOCKD_ASSERT(found->second.get() == &info);
  return *found->second;
}

void ServerContext::drain(Export& target, std::function<void(Error)> removed) {
  BLOCKD_ASSERT(!target.draining);
  target.draining = true;
  target.removed = std::move(removed);
  for (Connection* connection = connections; connection; connection = connection->next) {
    if (connection->target() == &target) connection->drain();
  }
  settle_later();
}

void ServerContext::end_handshakes() noexcept {
  for (Connection* connection = connections; connection; connection = connection->next) {
    if (!connection->target()) connection->drain();
  }
}

// ---- Connections
// ---------------------------------------------------------------------------------

io::LinkHandler* ServerContext::accepted(std::unique_ptr<io::Link> link) noexcept {
  std::unique_ptr<Connection> connection;
  if (!closing && totals.connections < config.connections_max) {
    try {
      connection = std::make_unique<Connection>(*this, std::move(link));
    } catch (const std::bad_alloc&) {
      connection = nullptr;
    }
  }
  if (!connection || !connection->usable()) {
    ++totals.connections_refused;
    return nullptr;
  }
  connection->next = connections;
  if (connections) connections->prev = connection.get();
  connections = connection.get();
  ++totals.connections;
  ++totals.connections_accepted;
  connection->start();
  return connection.release();
}

void ServerContext::connection_ended(Connection& connection) noexcept {
  (connection.prev ? connection.prev->next : connections) = connection.next;
  if (connection.next) connection.next->prev = connection.prev;
  --totals.connections;
  if (Export* target = connection.target()) --target->connections;
  delete &connection;
  settle_later();
}

// ---- Ends
// ----------------------------------------------------------------------------------------

// Callbacks may add and remove exports; the last one may destroy this.
void ServerContext::settle() {
  for (const std::function<void(Error)>& answer : std::exchange(not_found, {}))
    answer(Error::NotFound);
  for (auto at = exports.begin(); at != exports.end();) {
    Export& target = *at->second;
    if (!target.draining || target.connections > 0) {
      ++at;
      continue;
    }
    std::function<void(Error)> removed = std::move(target.removed);
    const std::string name = at->first;
    exports.erase(at);
    if (removed) removed(Error::Ok);
    at = exports.upper_bound(name);
  }
  if (!closing || connections || !exports.empty() || settle_task.queued) return;
  if (std::function<void()> done = std::exchange(closed, nullptr)) done();
}

// ---- Memory and counters
// -------------------------------------------------------------------------

bool ServerContext::take_memory(BudgetWaiter& waiter, std::uint64_t bytes) noexcept {
  if (budget.take(waiter, bytes)) return true;
  watch_memory();
  return false;
}

void ServerContext::watch_memory() noexcept {
  if (!stall_timer.armed()) loop.arm(stall_timer, loop.now_us() + config.stall_timeout_us / 2);
}

void ServerContext::relieve_memory() noexcept {
  bool awaited = false;
  Connection* idlest = nullptr;
  for (Connection* connection = connections; connection; connection = connection->next) {
    awaited = awaited || connection->awaits_memory();
    if (!connection->holds_up_memory()) continue;
    if (!idlest || connection->progress_us() < idlest->progress_us()) idlest = connection;
  }
  if (!awaited) return;
  if (idlest && loop.now_us() - idlest->progress_us() >= config.stall_timeout_us) {
    ++totals.evictions;
    idlest->evict();
  }
  watch_memory();
}

void ServerContext::count(Export& target, const Request& answered,
                          std::uint64_t duration_us) noexcept {
  if (answered.counted)
    target.record(answered.kind, answered.error, answered.length_bytes, duration_us);
  ++totals.requests;
  if (answered.error != Errno::ok) {
    ++totals.errors;
  } else if (answered.kind == OpKind::read) {
    totals.bytes_read += answered.length_bytes;
  } else if (answered.kind == OpKind::write) {
    totals.bytes_written += answered.length_bytes;
  }
}

}  // namespace blockd::nbd
