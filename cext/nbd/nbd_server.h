// The NBD server: offers block backends to hypervisors under export names, at any number of
// endpoints.
//
// Fixed newstyle negotiation and simple replies (the NBD specification, doc/proto.md). Every export
// is offered at every endpoint. All on one loop's thread; after accept nothing here allocates.
// Memory is bounded three times: connections, requests and bytes in flight for each connection, and
// pool bytes for the server as a whole; whoever meets a bound is simply not read from until the
// bound has room.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/buffer.h"
#include "blockd/errors.h"
#include "engine/block_backend.h"
#include "io/link.h"
#include "io/loop.h"
#include "nbd/nbd_stats.h"

namespace blockd::nbd {

struct NbdConfig {
  std::uint32_t connections_max = 256;
  std::uint32_t requests_max = 256;  // in flight, each connection
  std::uint32_t inflight_bytes_max =
      64u << 20;  // payload of those, each connection; a single request may exceed it
  // Pool memory that requests of all connections may hold together; the rest of the pools is left
  // to the engine and the peers, so that a stalled volume cannot starve its own recovery. 0: half
  // of the large pool.
  std::uint64_t pool_bytes_max = 0;
  std::uint64_t handshake_timeout_us = 10'000'000;
  std::uint64_t stall_timeout_us = 30'000'000;  // see ServerContext::watch_memory()
};

struct ExportFlags {
  bool read_only = false;
};

class Export;
class Connection;
struct ServerContext;

class NbdServer {
 public:
  // Throws Fault(InvalidArgument) when the pools cannot hold a single request.
  NbdServer(io::Loop& loop, Buffers& buffers, io::Network& network, NbdConfig config = {});
  ~NbdServer();  // REQUIRES: close() has called back, or nothing was ever accepted
  NbdServer(const NbdServer&) = delete;
  NbdServer& operator=(const NbdServer&) = delete;

  // Returns the endpoint with the port that was picked. Throws Fault(AddressInUse) and the like.
  io::Endpoint listen(const io::Endpoint& at);
  // Stops accepting; connections made there go on. `at` as listen() returned it. Error: NotFound.
  Error close_endpoint(const io::Endpoint& at);

  // `backend` must outlive remove_export's done(). Errors: AlreadyExists, InvalidArgument (a name
  // or description above 4096 bytes), ShuttingDown.
  Error add_export(const std::string& name, const std::string& description,
                   engine::BlockBackend& backend, ExportFlags flags = {});
  // New connections no longer see it; requests in flight are answered, none is taken in any more,
  // then its connections are closed. `done` comes from the loop, never from inside this call: Ok,
  // or NotFound.
  void remove_export(const std::string& name, std::function<void(Error)> done);
  // Takes up the backend's present size. Clients learn it when they connect anew. Error: NotFound.
  Error resize(const std::string& name);

  [[nodiscard]] NbdStats stats() const;

  // Stops listening, removes every export as above, ends handshakes. `done` comes from the loop,
  // after the last connection has gone; the server may be destroyed inside it.
  void close(std::function<void()> done);

 private:
  class Endpoints;

  std::unique_ptr<ServerContext> context_;
  std::unique_ptr<Endpoints> endpoints_;
};

}  // namespace blockd::nbd
