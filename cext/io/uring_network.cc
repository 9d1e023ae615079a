#include "io/uring_network.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string>
#include <utility>

#include "base/assert.h"
#include "io/endpoint.h"
#include "io/uring_link.h"

namespace blockd::io {
namespace {

constexpr int kBacklog = 1024;
constexpr int kUnixBufferBytes = 1 << 20;  // a reply of 256 KiB goes out in one call
constexpr std::uint64_t kAcceptRetryUs = 100'000;

void set_option(int fd, int level, int name, int value) noexcept {
  (void)setsockopt(fd, level, name, &value, sizeof value);
}

void tune(int fd, int family) noexcept {
  if (family == AF_UNIX) {
    set_option(fd, SOL_SOCKET, SO_SNDBUF, kUnixBufferBytes);
    set_option(fd, SOL_SOCKET, SO_SNDBUFFORCE, kUnixBufferBytes);  // beyond the limit, when root
    return;
  }
  set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1);
  set_option(fd, SOL_SOCKET, SO_KEEPALIVE, 1);  // so that a client that has vanished is noticed
  set_option(fd, IPPROTO_TCP, TCP_KEEPIDLE, 30);
  set_option(fd, IPPROTO_TCP, TCP_KEEPINTVL, 10);
  set_option(fd, IPPROTO_TCP, TCP_KEEPCNT, 3);
}

// A socket file nobody listens on any more.
bool is_stale(const SocketAddress& address) noexcept {
  const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return false;
  const bool refused = connect(fd, address.get(), address.bytes) != 0 && errno == ECONNREFUSED;
  close(fd);
  return refused;
}

const char* unix_path(const SocketAddress& address) noexcept {
  return reinterpret_cast<const sockaddr_un&>(address.storage).sun_path;
}

ino_t inode_of(const SocketAddress& address) noexcept {
  struct stat status {};
  return address.family() == AF_UNIX && stat(unix_path(address), &status) == 0 ? status.st_ino : 0;
}

int bind_error(int fd, const SocketAddress& address) noexcept {
  if (bind(fd, address.get(), address.bytes) == 0) return 0;
  if (errno != EADDRINUSE || address.family() != AF_UNIX || !is_stale(address)) return errno;
  unlink(unix_path(address));
  return bind(fd, address.get(), address.bytes) == 0 ? 0 : errno;
}

int open_listener(const Endpoint& at, const SocketAddress& address) {
  const int fd = socket(address.family(), SOCK_STREAM | SOCK_CLOEXEC, 0);
  int error = fd < 0 ? errno : 0;
  if (error == 0 && address.family() != AF_UNIX) set_option(fd, SOL_SOCKET, SO_REUSEADDR, 1);
  if (error == 0 && address.family() == AF_INET6) set_option(fd, IPPROTO_IPV6, IPV6_V6ONLY, 1);
  if (error == 0) error = bind_error(fd, address);
  if (error == 0 && listen(fd, kBacklog) != 0) error = errno;
  if (error == 0) return fd;
  if (fd >= 0) close(fd);
  if (error == EADDRINUSE)
    throw Fault(Error::AddressInUse, "cannot listen on " + at + ": the address is in use");
  throw Fault(Error::InvalidArgument, "cannot listen on " + at + ": " + std::strerror(error));
}

std::string name_of_peer(int fd) {
  SocketAddress address;
  address.bytes = sizeof address.storage;
  if (getpeername(fd, address.get(), &address.bytes) != 0) return "unknown";
  if (address.family() != AF_UNIX) return format_endpoint(address);
  ucred credentials{};
  socklen_t bytes = sizeof credentials;
  if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &credentials, &bytes) != 0) return "unix";
  return "unix:pid=" + std::to_string(credentials.pid);
}

}  // namespace

// The listening socket and its accept request, which outlives the Listener until the kernel lets
// go.
class UringAcceptor {
 public:
  UringAcceptor(UringLoop& loop, int fd, SocketAddress bound, AcceptHandler& handler)
      : loop_(loop), fd_(fd), bound_(bound), handler_(&handler), inode_(inode_of(bound)) {
    op_.owner = retry_.owner = this;
    op_.complete = [](UringOp& op, std::int32_t result, std::uint32_t) noexcept {
      static_cast<UringAcceptor*>(op.owner)->completed(result);
    };
    retry_.fire = [](Timer& timer) noexcept { static_cast<UringAcceptor*>(timer.owner)->arm(); };
    arm();
  }
  ~UringAcceptor() {
    loop_.cancel(retry_);
    if (fd_ >= 0) close(fd_);
  }
  UringAcceptor(const UringAcceptor&) = delete;
  UringAcceptor& operator=(const UringAcceptor&) = delete;

  [[nodiscard]] const SocketAddress& bound() const noexcept { return bound_; }
  [[nodiscard]] bool over() const noexcept { return !handler_ && !op_.in_flight; }

  void stop() noexcept {
    handler_ = nullptr;
    loop_.cancel(retry_);
    loop_.cancel_op(op_);
    shutdown(fd_, SHUT_RDWR);  // refuses from now on, also before the cancellation is seen
    if (bound_.family() == AF_UNIX && inode_of(bound_) == inode_)
      unlink(unix_path(bound_));  // ours still
  }

 private:
  void arm() noexcept {
    io_uring_sqe& sqe = loop_.get_sqe();
    io_uring_prep_accept(&sqe, fd_, nullptr, nullptr, SOCK_CLOEXEC);
    if (multishot_) sqe.ioprio |= IORING_ACCEPT_MULTISHOT;
    loop_.queue(sqe, op_);
  }

  void completed(std::int32_t result) noexcept {
    if (result >= 0) welcome(result);
    if (op_.in_flight || !handler_ || loop_.stopping()) return;
    if (result == -EINVAL && std::exchange(multishot_, false)) return arm();  // before 5.19
    const bool wait =
        result == -EMFILE || result == -ENFILE || result == -ENOBUFS || result == -ENOMEM;
    if (wait) return loop_.arm(retry_, loop_.now_us() + kAcceptRetryUs);
    arm();
  }

  void welcome(int fd) noexcept {
    if (!handler_ || loop_.stopping()) {
      close(fd);
      return;
    }
    tune(fd, bound_.family());
    auto link = std::make_unique<UringLink>(loop_, fd, name_of_peer(fd));
    UringLink& started = *link;
    if (LinkHandler* handler = handler_->accepted(std::move(link))) started.start(*handler);
  }

  UringLoop& loop_;
  int fd_;
  SocketAddress bound_;
  AcceptHandler* handler_;
  ino_t inode_;
  bool multishot_ = true;
  UringOp op_;
  Timer retry_;
};

class UringListener final : public Listener {
 public:
  UringListener(UringNetwork& network, UringAcceptor& acceptor)
      : network_(network), acceptor_(acceptor) {}
  ~UringListener() override { network_.forget(acceptor_); }
  UringListener(const UringListener&) = delete;
  UringListener& operator=(const UringListener&) = delete;
  [[nodiscard]] Endpoint endpoint() const override { return format_endpoint(acceptor_.bound()); }

 private:
  UringNetwork& network_;
  UringAcceptor& acceptor_;
};

UringNetwork::UringNetwork(UringLoop& loop, UringNetworkOptions options)
    : loop_(loop), options_(options) {}

UringNetwork::~UringNetwork() {
  for (auto& acceptor : acceptors_) loop_.keep(std::move(acceptor));
}

std::unique_ptr<Listener> UringNetwork::listen(const Endpoint& at, AcceptHandler& handler) {
  const auto address = parse_endpoint(at);
  if (!address)
    throw Fault(Error::InvalidArgument,
                "malformed address " + at + ": unix:/path or tcp:host:port");
  const int fd = open_listener(at, *address);
  SocketAddress bound;
  bound.bytes = sizeof bound.storage;
  if (getsockname(fd, bound.get(), &bound.bytes) != 0) bound = *address;
  acceptors_.push_back(std::make_shared<UringAcceptor>(loop_, fd, bound, handler));
  return std::make_unique<UringListener>(*this, *acceptors_.back());
}

void UringNetwork::forget(UringAcceptor& acceptor) {
  acceptor.stop();
  std::erase_if(acceptors_, [](const auto& one) { return one->over(); });
}

std::unique_ptr<Link> UringNetwork::connect(const Endpoint& to, LinkHandler& handler) {
  const auto address = parse_endpoint(to);
  const int fd = address ? socket(address->family(), SOCK_STREAM | SOCK_CLOEXEC, 0) : -1;
  auto link = std::make_unique<UringLink>(loop_, fd, to);
  if (fd < 0) {
    link->fail_later(handler, address ? Error::Busy : Error::InvalidArgument);
    return link;
  }
  tune(fd, address->family());
  link->connect(handler, *address, options_.connect_timeout_us);
  return link;
}

}  // namespace blockd::io
