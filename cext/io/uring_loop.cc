#include "io/uring_loop.h"

#include <sys/eventfd.h>
#include <sys/random.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <ctime>
#include <string>
#include <utility>

#include "base/assert.h"
#include "blockd/errors.h"

namespace blockd::io {
namespace {

constexpr std::uint32_t kFileSlots = 1024;
constexpr std::uint32_t kBufferSlots = 64;
constexpr std::size_t kFixedBytesMax = 1u << 30;  // the kernel's limit for one registered buffer
constexpr std::uint64_t kDrainUs = 5'000'000;
constexpr std::uint64_t kDrainPollUs = 20'000;

std::uint64_t clock_us() noexcept {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<std::uint64_t>(now.tv_sec) * 1'000'000 +
         static_cast<std::uint64_t>(now.tv_nsec) / 1000;
}

std::uint64_t seed() noexcept {
  std::uint64_t value = clock_us();
  if (getrandom(&value, sizeof value, 0) != sizeof value)
    value ^= static_cast<std::uint64_t>(getpid()) << 32;
  return value;
}

__kernel_timespec timespec_of(std::uint64_t us) noexcept {
  __kernel_timespec spec{};
  spec.tv_sec = static_cast<std::int64_t>(us / 1'000'000);
  spec.tv_nsec = static_cast<long long>(us % 1'000'000) * 1000;
  return spec;
}

}  // namespace

UringLoop::UringLoop(UringLoopOptions options) : options_(options), random_(seed()) {
  set_up_ring();
  bell_fd_ = eventfd(0, EFD_CLOEXEC);
  if (bell_fd_ < 0) {
    io_uring_queue_exit(&ring_);
    throw Fault(Error::Busy, std::string("cannot create an eventfd: ") + std::strerror(errno));
  }
  ignored_op_.complete = [](UringOp&, std::int32_t, std::uint32_t) noexcept {};
  if (io_uring_register_files_sparse(&ring_, kFileSlots) == 0)
    files_used_.resize(kFileSlots, false);
  if (io_uring_register_buffers_sparse(&ring_, kBufferSlots) == 0) buffer_slots_ = kBufferSlots;
  buffers_.reserve(kBufferSlots);
  refresh();
}

UringLoop::~UringLoop() {
  io_uring_queue_exit(&ring_);
  kept_.clear();  // while timers_ is still there to be cancelled from
  close(bell_fd_);
}

// Disabled until run(), because a single-issuer ring belongs to the thread that enables it.
void UringLoop::set_up_ring() {
  constexpr std::uint32_t kBase =
      IORING_SETUP_R_DISABLED | IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP;
  constexpr std::uint32_t kSubmitAll = IORING_SETUP_SUBMIT_ALL;                              // 5.18
  constexpr std::uint32_t kCoop = IORING_SETUP_COOP_TASKRUN;                                 // 5.19
  constexpr std::uint32_t kDefer = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN;  // 6.1
  int error = 0;
  for (const std::uint32_t extra : {kSubmitAll | kDefer, kSubmitAll | kCoop, kSubmitAll, 0u}) {
    if (try_set_up(kBase | extra, error)) return;
    if (error != EINVAL) break;
  }
  std::string why = std::strerror(error);
  if (error == EPERM)
    why += " (see sysctl kernel.io_uring_disabled, or the container's seccomp profile)";
  if (error == ENOMEM) why += " (raise the limit on locked memory: ulimit -l)";
  throw Fault(Error::Unsupported, "io_uring is not available: " + why);
}

bool UringLoop::try_set_up(std::uint32_t flags, int& error) {
  io_uring_params params{};
  params.flags = flags;
  params.cq_entries = options_.completion_entries;
  const int result = io_uring_queue_init_params(options_.submission_entries, &ring_, &params);
  if (result < 0) {
    error = -result;
    return false;
  }
  if (params.features & IORING_FEAT_EXT_ARG) return true;  // 5.11: wait with a timeout in one call
  io_uring_queue_exit(&ring_);
  throw Fault(Error::Unsupported, "io_uring of this kernel is too old: 5.11 or newer is needed");
}

void UringLoop::run() {
  enter_thread();
  listen_for_posts();
  while (!stopping()) iterate();
  drain();
  io_uring_unregister_ring_fd(&ring_);
}

void UringLoop::stop() noexcept {
  stop_.store(true, std::memory_order_release);
  ring_bell();
}

void UringLoop::post(std::function<void()> action) {
  bool first = false;
  {
    const std::lock_guard lock(posts_mutex_);
    first = posts_.empty();
    posts_.push_back(std::move(action));
  }
  if (first) ring_bell();
}

void UringLoop::ring_bell() noexcept {
  const std::uint64_t one = 1;
  while (write(bell_fd_, &one, sizeof one) < 0 && errno == EINTR) {
  }
}

void UringLoop::enter_thread() {
  BLOCKD_ASSERT(!enabled_);
  // By its number: the shared liburing 2.3 does not export io_uring_enable_rings().
  const int fd = ring_.ring_fd;
  const int result =
      io_uring_register(static_cast<unsigned>(fd), IORING_REGISTER_ENABLE_RINGS, nullptr, 0);
  BLOCKD_ASSERT(result == 0);
  enabled_ = true;
  (void)io_uring_register_ring_fd(&ring_);  // spares a descriptor look-up a call; 5.18
  refresh();
}

void UringLoop::iterate() {
  ++stats_.iterations;
  run_tasks();
  wait();
  refresh();
  reap();
  fire_timers();
}

void UringLoop::wait() {
  if (io_uring_cq_ready(&ring_) > 0 && io_uring_sq_ready(&ring_) == 0) return;
  const std::uint64_t limit_us = sleep_us();
  if (limit_us == 0 || io_uring_cq_ready(&ring_) > 0 || spin(limit_us)) {
    entered(io_uring_submit_and_get_events(&ring_));
    return;
  }
  io_uring_cqe* cqe = nullptr;
  __kernel_timespec spec = timespec_of(limit_us);
  const bool forever = limit_us == ~std::uint64_t{0};
  entered(io_uring_submit_and_wait_timeout(&ring_, &cqe, 1, forever ? nullptr : &spec, nullptr));
}

std::uint64_t UringLoop::sleep_us() const noexcept {
  const std::uint64_t deadline_us = timers_.next_deadline_us();
  if (deadline_us == ~std::uint64_t{0} && !stopping()) return deadline_us;
  const std::uint64_t until_us = deadline_us > now_us_ ? deadline_us - now_us_ : 0;
  return stopping() ? std::min(until_us, kDrainPollUs) : until_us;
}

// True when something completed within spin_us.
bool UringLoop::spin(std::uint64_t limit_us) noexcept {
  if (options_.spin_us == 0) return false;
  const std::uint64_t until_us = clock_us() + std::min<std::uint64_t>(options_.spin_us, limit_us);
  do {
    entered(io_uring_submit_and_get_events(&ring_));
    if (io_uring_cq_ready(&ring_) > 0) return true;
  } while (clock_us() < until_us);
  return false;
}

void UringLoop::entered(int result) noexcept {
  ++stats_.system_calls;
  // Timed out, interrupted, or out of memory for the moment: the next iteration tries again.
  const bool passes =
      result >= 0 || result == -ETIME || result == -EINTR || result == -EAGAIN || result == -EBUSY;
  BLOCKD_ASSERT(passes);
}

void UringLoop::reap() noexcept {
  io_uring_cqe* cqe = nullptr;
  while (io_uring_cq_ready(&ring_) > 0 && io_uring_peek_cqe(&ring_, &cqe) == 0) {
    auto* op = static_cast<UringOp*>(io_uring_cqe_get_data(cqe));
    const std::int32_t result = cqe->res;
    const std::uint32_t flags = cqe->flags;
    io_uring_cqe_seen(&ring_, cqe);
    ++stats_.completions;
    if (!(flags & IORING_CQE_F_MORE)) {
      BLOCKD_ASSERT(in_flight_ > 0);
      --in_flight_;
      op->in_flight = false;
    }
    op->complete(*op, result, flags);
  }
}

void UringLoop::fire_timers() noexcept {
  // At most as many as there were: a timer that re-arms itself in the past waits for the next turn.
  for (std::size_t left = timers_.size(); left > 0 && timers_.next_deadline_us() <= now_us_;
       --left) {
    ++stats_.timers_fired;
    Timer& timer = timers_.pop();
    timer.fire(timer);
  }
}

void UringLoop::run_tasks() noexcept {
  while (!tasks_.empty()) tasks_.run_one();
}

void UringLoop::listen_for_posts() noexcept {
  bell_op_.owner = this;
  bell_op_.complete = [](UringOp& op, std::int32_t, std::uint32_t) noexcept {
    auto& loop = *static_cast<UringLoop*>(op.owner);
    loop.run_posts();
    if (!loop.stopping()) loop.listen_for_posts();
  };
  io_uring_sqe& sqe = get_sqe();
  io_uring_prep_read(&sqe, bell_fd_, &bell_value_, sizeof bell_value_, 0);
  queue(sqe, bell_op_);
}

void UringLoop::run_posts() noexcept {
  std::vector<std::function<void()>> actions;
  {
    const std::lock_guard lock(posts_mutex_);
    actions.swap(posts_);
  }
  for (const auto& action : actions) {
    ++stats_.posts_run;
    action();
  }
}

// Cancels everything in flight and sees every completion through, so that memory lent to the kernel
// is ours again. A device that answers nothing for kDrainUs is given up on.
void UringLoop::drain() {
  run_posts();
  run_tasks();
  for (const std::uint64_t until_us = clock_us() + kDrainUs;
       in_flight_ > 0 && clock_us() < until_us;) {
    io_uring_sqe& sqe = get_sqe();
    io_uring_prep_cancel(&sqe, nullptr, IORING_ASYNC_CANCEL_ANY | IORING_ASYNC_CANCEL_ALL);
    queue(sqe, ignored_op_);
    do {
      iterate();
      run_tasks();
    } while (in_flight_ > 0 && io_uring_sq_ready(&ring_) > 0);
  }
}

void UringLoop::refresh() noexcept {
  now_us_ = clock_us();
}

io_uring_sqe& UringLoop::get_sqe() noexcept {
  io_uring_sqe* sqe = io_uring_get_sqe(&ring_);
  while (!sqe) {
    BLOCKD_ASSERT(enabled_);  // set-up queues fewer requests than the ring holds
    entered(io_uring_submit(&ring_));
    sqe = io_uring_get_sqe(&ring_);
  }
  return *sqe;
}

void UringLoop::queue(io_uring_sqe& sqe, UringOp& op) noexcept {
  BLOCKD_ASSERT(!op.in_flight || &op == &ignored_op_);
  io_uring_sqe_set_data(&sqe, &op);
  op.in_flight = true;
  ++in_flight_;
  ++stats_.submissions;
}

void UringLoop::submit_ahead(unsigned least) noexcept {
  if (enabled_ && io_uring_sq_ready(&ring_) >= least) entered(io_uring_submit(&ring_));
}

void UringLoop::cancel_op(UringOp& op) noexcept {
  if (!op.in_flight) return;
  io_uring_sqe& sqe = get_sqe();
  io_uring_prep_cancel(&sqe, &op, 0);
  queue(sqe, ignored_op_);
}

std::optional<std::uint32_t> UringLoop::register_file(int fd) noexcept {
  const auto free = std::find(files_used_.begin(), files_used_.end(), false);
  if (free == files_used_.end()) return std::nullopt;
  const auto index = static_cast<std::uint32_t>(free - files_used_.begin());
  if (io_uring_register_files_update(&ring_, index, &fd, 1) != 1) return std::nullopt;
  *free = true;
  return index;
}

void UringLoop::unregister_file(std::uint32_t index) noexcept {
  BLOCKD_ASSERT(index < files_used_.size());
  BLOCKD_ASSERT(files_used_[index]);
  const int none = -1;
  if (io_uring_register_files_update(&ring_, index, &none, 1) == 1) files_used_[index] = false;
}

void UringLoop::register_memory(std::span<std::byte> memory) noexcept {
  for (; !memory.empty(); memory = memory.subspan(std::min(memory.size(), kFixedBytesMax)))
    use_range(memory.first(std::min(memory.size(), kFixedBytesMax)));
}

void UringLoop::unregister_memory(std::span<std::byte> memory) noexcept {
  for (; !memory.empty(); memory = memory.subspan(std::min(memory.size(), kFixedBytesMax)))
    leave_range(memory.first(std::min(memory.size(), kFixedBytesMax)));
}

UringLoop::FixedRange* UringLoop::fixed_range(std::span<const std::byte> memory) noexcept {
  for (FixedRange& range : buffers_) {
    const bool same = range.begin == memory.data() && range.end == memory.data() + memory.size();
    if (range.users > 0 && same) return &range;
  }
  return nullptr;
}

void UringLoop::use_range(std::span<std::byte> memory) noexcept {
  if (FixedRange* known = fixed_range(memory)) {
    ++known->users;
    return;
  }
  const auto free = std::find_if(buffers_.begin(), buffers_.end(),
                                 [](const FixedRange& range) { return range.users == 0; });
  const auto place = static_cast<std::size_t>(free - buffers_.begin());
  if (place == buffer_slots_ || !update_buffer(place, {memory.data(), memory.size()})) return;
  if (free == buffers_.end()) buffers_.emplace_back();
  buffers_[place] = {memory.data(), memory.data() + memory.size(), 1};
}

void UringLoop::leave_range(std::span<std::byte> memory) noexcept {
  FixedRange* range = fixed_range(memory);
  if (!range || --range->users > 0) return;
  range->begin = range->end = nullptr;
  // A ring that its thread has left lets nobody else change it: the place stays taken.
  const auto place = static_cast<std::size_t>(range - buffers_.data());
  if (!update_buffer(place, {nullptr, 0})) range->users = 1;
}

bool UringLoop::update_buffer(std::size_t place, iovec memory) noexcept {
  return io_uring_register_buffers_update_tag(&ring_, static_cast<unsigned>(place), &memory,
                                              nullptr, 1) == 1;
}

std::optional<std::uint16_t> UringLoop::fixed_buffer(const void* base,
                                                     std::size_t bytes) const noexcept {
  const auto* begin = static_cast<const std::byte*>(base);
  for (std::size_t i = 0; i < buffers_.size(); ++i) {
    if (begin >= buffers_[i].begin && begin + bytes <= buffers_[i].end)
      return static_cast<std::uint16_t>(i);
  }
  return std::nullopt;
}

}  // namespace blockd::io
