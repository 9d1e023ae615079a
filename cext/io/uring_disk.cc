#include "io/uring_disk.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "base/assert.h"
#include "blockd/types.h"

namespace blockd::io {
namespace {

// Requests that go to the device in one system call, before the iteration ends. A client waits for
// each read, and a busy device does best with its queue full; behind most writes (a checkpoint's)
// nobody waits. With few in flight the iteration ends soon anyway.
constexpr unsigned kWritesAhead = 8;
constexpr unsigned kReadsAhead = 1;
constexpr std::uint32_t kFewInFlight = 4;

Error error_of(int error) noexcept {
  switch (error) {
    case ENOSPC:
    case EDQUOT:
      return Error::NoSpace;
    case ECANCELED:
      return Error::ShuttingDown;
    default:
      return Error::DiskError;
  }
}

[[noreturn]] void fail(Error code, const std::string& doing, const std::string& path, int error) {
  throw Fault(code, "cannot " + doing + " " + path + ": " + std::strerror(error));
}

Error open_error(int error) noexcept {
  switch (error) {
    case ENOENT:
    case ENXIO:
    case ENODEV:
      return Error::NotFound;
    case EBUSY:
      return Error::StoreInUse;
    case EIO:
      return Error::DiskError;
    default:
      return Error::InvalidArgument;
  }
}

}  // namespace

UringDisk::UringDisk(UringLoop& loop, const std::string& path, UringDiskOptions options)
    : loop_(loop) {
  open(path, options);
  try {
    measure(path);
  } catch (...) {
    close(fd_);
    throw;
  }
  file_index_ = loop_.register_file(fd_);
  for (Slot& slot : slots_) {
    slot.owner = this;
    slot.complete = [](UringOp& op, std::int32_t result, std::uint32_t) noexcept {
      static_cast<UringDisk*>(op.owner)->completed(static_cast<Slot&>(op), result);
    };
    slot.next = std::exchange(free_slots_, &slot);
  }
}

UringDisk::~UringDisk() {
  BLOCKD_ASSERT(in_flight_ == 0);
  BLOCKD_ASSERT(waiting_head_ == nullptr);
  if (file_index_) loop_.unregister_file(*file_index_);
  flock(fd_, LOCK_UN);  // a ring that still refers to the file must not keep the lock
  close(fd_);
}

void UringDisk::open(const std::string& path, UringDiskOptions options) {
  struct stat status {};
  if (stat(path.c_str(), &status) != 0) fail(open_error(errno), "open", path, errno);
  is_device_ = S_ISBLK(status.st_mode);
  if (!is_device_ && !S_ISREG(status.st_mode)) {
    throw Fault(Error::InvalidArgument, path + " is neither a file nor a block device");
  }
  const int flags =
      O_RDWR | O_CLOEXEC | (is_device_ ? O_EXCL : 0);  // O_EXCL: not mounted, not in RAID
  fd_ = ::open(path.c_str(), flags | O_DIRECT);
  if (fd_ < 0 && errno == EINVAL) {
    if (!options.allow_buffered) {
      throw Fault(Error::Unsupported,
                  "the file system of " + path + " has no O_DIRECT; use another place");
    }
    direct_ = false;
    fd_ = ::open(path.c_str(), flags);
  }
  if (fd_ < 0 && errno == EBUSY) {
    throw Fault(Error::StoreInUse, path + " is in use by another process or mounted");
  }
  if (fd_ < 0) fail(open_error(errno), "open", path, errno);
  if (flock(fd_, LOCK_EX | LOCK_NB) != 0) {
    const int error = errno;
    close(fd_);
    if (error == EWOULDBLOCK) throw Fault(Error::StoreInUse, path + " is open in another process");
    fail(Error::InvalidArgument, "lock", path, error);
  }
}

void UringDisk::measure(const std::string& path) {
  std::uint64_t bytes = 0;
  if (is_device_) {
    int sector_bytes = 0;
    if (ioctl(fd_, BLKGETSIZE64, &bytes) != 0) fail(Error::DiskError, "measure", path, errno);
    if (ioctl(fd_, BLKSSZGET, &sector_bytes) == 0 &&
        static_cast<std::uint32_t>(sector_bytes) > kBlockBytes) {
      throw Fault(Error::Unsupported, path + " has sectors larger than 4096 bytes");
    }
  } else {
    struct stat status {};
    if (fstat(fd_, &status) != 0) fail(Error::DiskError, "measure", path, errno);
    bytes = static_cast<std::uint64_t>(status.st_size);
  }
  capacity_bytes_ = bytes - bytes % kBlockBytes;
}

void UringDisk::create_file(const std::string& path, std::uint64_t bytes) {
  const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  if (fd < 0 && errno == EEXIST) throw Fault(Error::AlreadyExists, path + " exists already");
  if (fd < 0) fail(open_error(errno), "create", path, errno);
  const int error = posix_fallocate(fd, 0, static_cast<off_t>(bytes));
  const int sync_error = error == 0 && fsync(fd) != 0 ? errno : 0;
  close(fd);
  if (error == 0 && sync_error == 0) return;
  unlink(path.c_str());
  const bool full = error == ENOSPC || error == EDQUOT || error == EFBIG;
  const Error code = error == 0 ? Error::DiskError : full ? Error::NoSpace : Error::InvalidArgument;
  fail(code, "allocate " + std::to_string(bytes) + " bytes for", path,
       error != 0 ? error : sync_error);
}

void UringDisk::submit(DiskRequest& request) noexcept {
  BLOCKD_ASSERT(request.done != nullptr);
  BLOCKD_ASSERT(request.offset_bytes % kBlockBytes == 0);
  request.error = Error::Ok;
  if (!free_slots_) {
    request.next = nullptr;
    (waiting_tail_ ? waiting_tail_->next : waiting_head_) = &request;
    waiting_tail_ = &request;
    return;
  }
  Slot& slot = *free_slots_;
  free_slots_ = slot.next;
  ++in_flight_;
  slot.request = &request;
  slot.done_bytes = 0;
  slot.total_bytes = 0;
  for (std::uint32_t i = 0; i < request.iov_count; ++i) slot.total_bytes += request.iov[i].iov_len;
  if (request.op == DiskRequest::Op::discard) slot.total_bytes = request.length_bytes;
  BLOCKD_ASSERT(slot.total_bytes > 0 || request.op == DiskRequest::Op::flush);
  BLOCKD_ASSERT(slot.total_bytes % kBlockBytes == 0);
  BLOCKD_ASSERT(slot.total_bytes <= capacity_bytes_);
  BLOCKD_ASSERT(request.offset_bytes <= capacity_bytes_ - slot.total_bytes);
  start(slot);
}

void UringDisk::start(Slot& slot) noexcept {
  io_uring_sqe& sqe = loop_.get_sqe();
  prepare(sqe, slot);
  if (file_index_) {
    sqe.fd = static_cast<int>(*file_index_);
    sqe.flags |= IOSQE_FIXED_FILE;
  }
  loop_.queue(sqe, slot);
  const bool at_once = slot.request->op == DiskRequest::Op::read && in_flight_ > kFewInFlight;
  loop_.submit_ahead(at_once ? kReadsAhead : kWritesAhead);
}

void UringDisk::prepare(io_uring_sqe& sqe, const Slot& slot) noexcept {
  const DiskRequest& request = *slot.request;
  switch (request.op) {
    case DiskRequest::Op::read:
    case DiskRequest::Op::write:
      return prepare_transfer(sqe, slot);
    case DiskRequest::Op::flush:
      return io_uring_prep_fsync(&sqe, fd_, IORING_FSYNC_DATASYNC);
    case DiskRequest::Op::discard:
      // On a block device the kernel turns this into a discard too.
      return io_uring_prep_fallocate(&sqe, fd_, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                                     static_cast<off_t>(request.offset_bytes),
                                     static_cast<off_t>(request.length_bytes));
  }
}

// Whole requests go as they came; the rest of a short one goes piece by piece.
void UringDisk::prepare_transfer(io_uring_sqe& sqe, const Slot& slot) noexcept {
  const DiskRequest& request = *slot.request;
  const bool is_read = request.op == DiskRequest::Op::read;
  const std::uint64_t at = request.offset_bytes + slot.done_bytes;
  if (slot.done_bytes == 0 && request.iov_count > 1) {
    if (is_read) return io_uring_prep_readv(&sqe, fd_, request.iov, request.iov_count, at);
    return io_uring_prep_writev(&sqe, fd_, request.iov, request.iov_count, at);
  }
  std::uint64_t skip = slot.done_bytes;
  const iovec* piece = request.iov;
  for (; skip >= piece->iov_len; ++piece) skip -= piece->iov_len;
  auto* base = static_cast<std::byte*>(piece->iov_base) + skip;
  const auto bytes = static_cast<unsigned>(piece->iov_len - skip);
  if (const auto buffer = loop_.fixed_buffer(base, bytes)) {
    ++stats_.fixed;
    if (is_read) return io_uring_prep_read_fixed(&sqe, fd_, base, bytes, at, *buffer);
    return io_uring_prep_write_fixed(&sqe, fd_, base, bytes, at, *buffer);
  }
  if (is_read) return io_uring_prep_read(&sqe, fd_, base, bytes, at);
  return io_uring_prep_write(&sqe, fd_, base, bytes, at);
}

void UringDisk::completed(Slot& slot, std::int32_t result) noexcept {
  if (result == -EINTR || result == -EAGAIN) return start(slot);
  const DiskRequest::Op op = slot.request->op;
  if (op == DiskRequest::Op::discard && result == -EOPNOTSUPP)
    return finish(slot, Error::Ok);  // a hint
  if (result < 0) return finish(slot, error_of(-result));
  if (op == DiskRequest::Op::flush || op == DiskRequest::Op::discard)
    return finish(slot, Error::Ok);
  slot.done_bytes += static_cast<std::uint64_t>(result);
  BLOCKD_ASSERT(slot.done_bytes <= slot.total_bytes);
  if (slot.done_bytes == slot.total_bytes) return finish(slot, Error::Ok);
  if (result == 0) return finish(slot, Error::DiskError);  // the file was cut short under us
  ++stats_.resumed;
  start(slot);
}

void UringDisk::finish(Slot& slot, Error error) noexcept {
  DiskRequest& request = *slot.request;
  if (error == Error::Ok) count(slot);
  if (error != Error::Ok) ++stats_.errors;
  slot.request = nullptr;
  slot.next = std::exchange(free_slots_, &slot);
  BLOCKD_ASSERT(in_flight_ > 0);
  --in_flight_;
  if (DiskRequest* next = waiting_head_) {
    waiting_head_ = next->next;
    if (!waiting_head_) waiting_tail_ = nullptr;
    submit(*next);
  }
  request.error = error;
  request.done(request);
}

void UringDisk::count(const Slot& slot) noexcept {
  switch (slot.request->op) {
    case DiskRequest::Op::read:
      ++stats_.reads;
      stats_.read_bytes += slot.total_bytes;
      return;
    case DiskRequest::Op::write:
      ++stats_.writes;
      stats_.write_bytes += slot.total_bytes;
      return;
    case DiskRequest::Op::flush:
      ++stats_.flushes;
      return;
    case DiskRequest::Op::discard:
      ++stats_.discards;
      return;
  }
}

Error UringDisk::read_now(std::uint64_t offset_bytes, std::span<std::byte> into) noexcept {
  while (!into.empty()) {
    const ssize_t got = pread(fd_, into.data(), into.size(), static_cast<off_t>(offset_bytes));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return error_of(errno);
    if (got == 0) return Error::DiskError;
    into = into.subspan(static_cast<std::size_t>(got));
    offset_bytes += static_cast<std::uint64_t>(got);
  }
  return Error::Ok;
}

Error UringDisk::write_now(std::uint64_t offset_bytes, std::span<const std::byte> from) noexcept {
  while (!from.empty()) {
    const ssize_t put = pwrite(fd_, from.data(), from.size(), static_cast<off_t>(offset_bytes));
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) return error_of(errno);
    if (put == 0) return Error::DiskError;
    from = from.subspan(static_cast<std::size_t>(put));
    offset_bytes += static_cast<std::uint64_t>(put);
  }
  return Error::Ok;
}

Error UringDisk::flush_now() noexcept {
  return fdatasync(fd_) == 0 ? Error::Ok : error_of(errno);
}

}  // namespace blockd::io
