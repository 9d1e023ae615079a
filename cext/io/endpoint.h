// Endpoint names ("unix:/path", "tcp:host:port") to socket addresses and back.
#pragma once

#include <sys/socket.h>
#include <sys/un.h>

#include <optional>
#include <string>

#include "io/link.h"

namespace blockd::io {

struct SocketAddress {
  sockaddr_storage storage{};
  socklen_t bytes = 0;
  [[nodiscard]] int family() const noexcept { return storage.ss_family; }
  [[nodiscard]] const sockaddr* get() const noexcept {
    return reinterpret_cast<const sockaddr*>(&storage);
  }
  [[nodiscard]] sockaddr* get() noexcept { return reinterpret_cast<sockaddr*>(&storage); }
};

// None when malformed: hosts are numeric, IPv6 in brackets, a unix path fits sun_path.
[[nodiscard]] std::optional<SocketAddress> parse_endpoint(const Endpoint& endpoint);
[[nodiscard]] Endpoint format_endpoint(const SocketAddress& address);

}  // namespace blockd::io
