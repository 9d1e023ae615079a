// A reliable, ordered byte stream between two processes, and where such streams come from.
//
// Receiving is pulled: the handler says where the next bytes shall land, so that a large payload
// goes from the kernel straight to its place. Sending is queued: items go out in order, many to a
// system call, and stay with the link until sent() or closed.
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "base/result.h"

namespace blockd::io {

// Owned by the sender; must outlive done(). The parts' memory is read until then.
struct SendItem {
  iovec iov[2] = {};
  std::uint32_t iov_count = 0;
  void (*done)(SendItem&) noexcept = nullptr;  // exactly once: sent to the kernel, or link closed
  void* owner = nullptr;
  SendItem* next = nullptr;  // the link's own while queued
};

// All calls come on the loop's thread and never from inside a call of the link's by the handler
// (send, resume, close): so a handler is not re-entered.
class LinkHandler {
 public:
  virtual ~LinkHandler() = default;
  virtual void connected() noexcept {}  // outgoing links only
  // Where the next bytes shall land; asked before each receive. Empty: pause until resume().
  virtual std::span<std::byte> receive_buffer() noexcept = 0;
  virtual void received(
      std::size_t bytes) noexcept = 0;  // > 0, at the start of the last receive_buffer()
  // The last call: the stream ended, failed to connect, or close() was called. `reason`: Ok only
  // after close(); LinkLost when the other side ended, reset or refused it; Timeout when nobody
  // answered the attempt to connect; InvalidArgument for a malformed endpoint; ShuttingDown when
  // the loop stops. All send items have had their done(), no memory given to the link is used any
  // more. The Link may be destroyed from here on (also inside this call).
  virtual void closed(Error reason) noexcept = 0;
};

class Link {
 public:
  virtual ~Link() = default;                       // only before any use or after closed()
  virtual void send(SendItem& item) noexcept = 0;  // after close(): done() comes all the same
  virtual void resume() noexcept = 0;              // ask receive_buffer() again
  virtual void close() noexcept = 0;               // idempotent; closed() follows later
  [[nodiscard]] virtual std::size_t queued_bytes()
      const noexcept = 0;                                   // given to send(), not yet done
  [[nodiscard]] virtual std::string peer_name() const = 0;  // for logs
};

// "unix:/path", "tcp:host:port" (numeric addresses; [v6] in brackets; port 0 picks a free one).
using Endpoint = std::string;

class AcceptHandler {
 public:
  virtual ~AcceptHandler() = default;
  // Returns the handler of the new link, which starts receiving after this call; null refuses it.
  // `link` is owned by the callee from here on.
  virtual LinkHandler* accepted(std::unique_ptr<Link> link) noexcept = 0;
};

class Listener {
 public:
  virtual ~Listener() = default;  // stops accepting; links accepted before go on
  [[nodiscard]] virtual Endpoint endpoint() const = 0;  // with the port that was picked
};

class Network {
 public:
  virtual ~Network() = default;
  // Throws Fault(AddressInUse, ...) and the like with a line for the user.
  virtual std::unique_ptr<Listener> listen(const Endpoint& at, AcceptHandler& handler) = 0;
  // Never null; failure to connect arrives as handler.closed().
  virtual std::unique_ptr<Link> connect(const Endpoint& to, LinkHandler& handler) = 0;
};

}  // namespace blockd::io
