#include "io/endpoint.h"

#include <arpa/inet.h>
#include <netinet/in.h>

#include <charconv>
#include <cstddef>
#include <cstring>
#include <string_view>

namespace blockd::io {
namespace {

std::optional<SocketAddress> parse_unix(std::string_view path) {
  SocketAddress address;
  auto& un = reinterpret_cast<sockaddr_un&>(address.storage);
  if (path.empty() || path.size() >= sizeof un.sun_path) return std::nullopt;
  un.sun_family = AF_UNIX;
  std::memcpy(un.sun_path, path.data(), path.size());
  address.bytes = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + path.size() + 1);
  return address;
}

std::optional<SocketAddress> parse_tcp(std::string_view rest) {
  const std::size_t colon = rest.rfind(':');
  if (colon == std::string_view::npos) return std::nullopt;
  std::uint16_t port = 0;
  const std::string_view digits = rest.substr(colon + 1);
  const auto parsed = std::from_chars(digits.data(), digits.data() + digits.size(), port);
  if (digits.empty() || parsed.ec != std::errc{} || parsed.ptr != digits.data() + digits.size())
    return std::nullopt;

  std::string host(rest.substr(0, colon));
  SocketAddress address;
  if (host.size() > 2 && host.front() == '[' && host.back() == ']') {
    auto& in6 = reinterpret_cast<sockaddr_in6&>(address.storage);
    host = host.substr(1, host.size() - 2);
    if (inet_pton(AF_INET6, host.c_str(), &in6.sin6_addr) != 1) return std::nullopt;
    in6.sin6_family = AF_INET6;
    in6.sin6_port = htons(port);
    address.bytes = sizeof in6;
    return address;
  }
  auto& in = reinterpret_cast<sockaddr_in&>(address.storage);
  if (inet_pton(AF_INET, host.c_str(), &in.sin_addr) != 1) return std::nullopt;
  in.sin_family = AF_INET;
  in.sin_port = htons(port);
  address.bytes = sizeof in;
  return address;
}

}  // namespace

std::optional<SocketAddress> parse_endpoint(const Endpoint& endpoint) {
  const std::string_view all = endpoint;
  if (all.starts_with("unix:")) return parse_unix(all.substr(5));
  if (all.starts_with("tcp:")) return parse_tcp(all.substr(4));
  return std::nullopt;
}

Endpoint format_endpoint(const SocketAddress& address) {
  char text[INET6_ADDRSTRLEN] = "?";
  switch (address.family()) {
    case AF_UNIX: {
      const auto& un = reinterpret_cast<const sockaddr_un&>(address.storage);
      if (address.bytes <= offsetof(sockaddr_un, sun_path)) return "unix:";  // the unnamed end
      return std::string("unix:") + un.sun_path;
    }
    case AF_INET: {
      const auto& in = reinterpret_cast<const sockaddr_in&>(address.storage);
      inet_ntop(AF_INET, &in.sin_addr, text, sizeof text);
      return std::string("tcp:") + text + ":" + std::to_string(ntohs(in.sin_port));
    }
    case AF_INET6: {
      const auto& in6 = reinterpret_cast<const sockaddr_in6&>(address.storage);
      inet_ntop(AF_INET6, &in6.sin6_addr, text, sizeof text);
      return std::string("tcp:[") + text + "]:" + std::to_string(ntohs(in6.sin6_port));
    }
    default:
      return "unknown:";
  }
}

}  // namespace blockd::io
