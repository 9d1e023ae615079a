#include "border/reactor.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>

#include <algorithm>
#include <string>
#include <system_error>
#include <utility>

#include "base/assert.h"
#include "border/outbox.h"
#include "io/uring_disk.h"

namespace blockd::border {
namespace {

constexpr std::uint64_t kBufferBytesMin = 16ull << 20;
constexpr std::uint64_t kBufferBytesMax = 64ull << 30;

std::uint64_t checked(std::uint64_t buffer_bytes) {
  if (buffer_bytes < kBufferBytesMin || buffer_bytes > kBufferBytesMax) {
    throw Fault(Error::InvalidArgument, "buffer_bytes must be between 16 MiB and 64 GiB, not " +
                                            std::to_string(buffer_bytes));
  }
  return buffer_bytes;
}

// Half of the memory for large requests, a quarter each for single blocks and chunks.
Buffers make_buffers(std::uint64_t bytes) {
  const auto count = [bytes](std::uint64_t share, std::uint64_t each) {
    return static_cast<std::uint32_t>(bytes / share / each);
  };
  return Buffers(count(4, kBlockBytes), count(4, kChunkBytes + kBlockBytes),
                 count(2, kMutationBytesMax + kBlockBytes));
}

io::UringLoopOptions loop_options(const CoreConfig& config) {
  io::UringLoopOptions options;
  options.spin_us = config.spin_us;
  return options;
}

PlaneConfig plane_config(const CoreConfig& config) {
  PlaneConfig plane;
  plane.hub.host_id = config.host_id;
  plane.hub.cluster_id = config.cluster_id;
  plane.hub.lease_us = config.lease_us;
  plane.hub.heartbeat_us = config.heartbeat_us;
  plane.hub.member_timeout_us = config.member_timeout_us;
  if (config.wire_version_max != 0)
    plane.hub.wire_version_max = std::min(config.wire_version_max, plane.hub.wire_version_max);
  plane.attach_timeout_us = config.attach_timeout_us;
  plane.rebuild_bytes_per_second = config.rebuild_bytes_per_second;
  return plane;
}

// Signals are blocked while this lives; a thread inherits that.
class SignalsBlocked {
 public:
  SignalsBlocked() noexcept {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before_);
  }
  ~SignalsBlocked() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
  SignalsBlocked(const SignalsBlocked&) = delete;
  SignalsBlocked& operator=(const SignalsBlocked&) = delete;

 private:
  sigset_t before_;
};

void check_cpu(std::int32_t cpu) {
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  if (cpu < 0) return;
  if (cpu >= CPU_SETSIZE || sched_getaffinity(0, sizeof allowed, &allowed) != 0 ||
      !CPU_ISSET(static_cast<std::size_t>(cpu), &allowed)) {
    throw Fault(Error::InvalidArgument, "this process may not run on cpu " + std::to_string(cpu));
  }
}

}  // namespace

Reactor::Reactor(const CoreConfig& config, Outbox& outbox)
    : outbox_(outbox),
      cpu_(config.cpu),
      loop_(loop_options(config)),
      buffers_(make_buffers(checked(config.buffer_bytes))),
      network_(loop_) {
  check_cpu(cpu_);
  plane_ = std::make_unique<HostPlane>(
      loop_, buffers_, network_,
      [this](const std::string& path) { return std::make_unique<io::UringDisk>(loop_, path); },
      plane_config(config), *this);
}

Reactor::~Reactor() {
  BLOCKD_ASSERT(!thread_.joinable());
}

void Reactor::start() {
  const SignalsBlocked blocked;
  try {
    door_open_ = true;
    thread_ = std::thread([this] { run(); });
  } catch (const std::system_error& error) {
    door_open_ = false;
    throw Fault(Error::Busy, std::string("cannot start the reactor's thread: ") + error.what());
  }
}

void Reactor::run() noexcept {
  pthread_setname_np(pthread_self(), "blockd-reactor");
  if (cpu_ >= 0) {
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(static_cast<std::size_t>(cpu_), &one);
    pthread_setaffinity_np(pthread_self(), sizeof one, &one);  // best effort: it was allowed before
  }
  loop_.run();
}

void Reactor::give(Token token, std::function<void(HostPlane&)> command) noexcept {
  const std::lock_guard lock(door_mutex_);
  if (!door_open_) return answer({token, Error::ShuttingDown, {}, nullptr});
  loop_.post([this, command = std::move(command)] { command(*plane_); });
}

void Reactor::close(Token token) noexcept {
  const std::lock_guard lock(door_mutex_);
  if (!door_open_ || std::exchange(closing_, true)) {
    return answer({token, Error::ShuttingDown, {}, nullptr});
  }
  loop_.post([this, token] { plane_->close([this, token] { shut_door(token); }); });
}

// No command can follow what is posted here: those given before are answered by the closed plane.
void Reactor::shut_door(Token token) {
  const std::lock_guard lock(door_mutex_);
  door_open_ = false;
  loop_.post([this, token] {
    plane_.reset();
    answer({token, Error::Ok, {}, nullptr});
    loop_.stop();
  });
}

void Reactor::join() noexcept {
  if (thread_.joinable()) thread_.join();
}

void Reactor::answer(Completion completion) noexcept {
  outbox_.put(std::move(completion));
}

void Reactor::happened(Event event) noexcept {
  outbox_.put(std::move(event));
}

CounterReport Reactor::counters() const {
  const io::UringLoopStats& stats = loop_.stats();
  CounterReport report;
  report.subject = CounterReport::Subject::reactor;
  report.counters = {
      {"iterations", stats.iterations},     {"syscalls", stats.system_calls},
      {"submissions", stats.submissions},   {"completions", stats.completions},
      {"timers_fired", stats.timers_fired}, {"commands", stats.posts_run},
  };
  return report;
}

}  // namespace blockd::border
