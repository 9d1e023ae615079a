// Links over unix and TCP sockets on io_uring.
//
// A link has at most one receive and one send with the kernel. What is queued within one iteration
// of the loop goes out in one sendmsg (up to kGatherMax pieces), from a deferred task; all calls to
// a handler come from completions and from that task, never from inside send(), resume() or
// close(). All on the loop's thread, but for listen(), which may come before run().
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "io/link.h"
#include "io/uring_loop.h"

namespace blockd::io {

struct UringNetworkOptions {
  std::uint64_t connect_timeout_us = 5'000'000;
};

class UringAcceptor;

// Must outlive its listeners, not its links. The loop must outlive both.
class UringNetwork final : public Network {
 public:
  explicit UringNetwork(UringLoop& loop, UringNetworkOptions options = {});
  ~UringNetwork() override;
  UringNetwork(const UringNetwork&) = delete;
  UringNetwork& operator=(const UringNetwork&) = delete;

  // Throws Fault: AddressInUse, InvalidArgument. A socket file that a dead process has left is
  // replaced.
  std::unique_ptr<Listener> listen(const Endpoint& at, AcceptHandler& handler) override;
  std::unique_ptr<Link> connect(const Endpoint& to, LinkHandler& handler) override;

 private:
  friend class UringListener;
  void forget(UringAcceptor& acceptor);

  UringLoop& loop_;
  UringNetworkOptions options_;
  std::vector<std::shared_ptr<UringAcceptor>> acceptors_;
};

}  // namespace blockd::io
