#include "io/sim_disk.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/assert.h"

namespace blockd::io {
namespace {

std::vector<std::byte> gather(const DiskRequest& request) {
  std::vector<std::byte> data;
  for (std::uint32_t i = 0; i < request.iov_count; ++i) {
    const auto* base = static_cast<const std::byte*>(request.iov[i].iov_base);
    data.insert(data.end(), base, base + request.iov[i].iov_len);
  }
  return data;
}

bool holds(const DiskRequest& request, const std::vector<std::byte>& data) noexcept {
  std::size_t at = 0;
  for (std::uint32_t i = 0; i < request.iov_count; ++i) {
    const iovec& piece = request.iov[i];
    if (std::memcmp(piece.iov_base, data.data() + at, piece.iov_len) != 0) return false;
    at += piece.iov_len;
  }
  return at == data.size();
}

std::uint64_t iov_bytes(const DiskRequest& request) noexcept {
  std::uint64_t bytes = 0;
  for (std::uint32_t i = 0; i < request.iov_count; ++i) bytes += request.iov[i].iov_len;
  return bytes;
}

}  // namespace

void SimDisk::Image::read(std::uint64_t offset_bytes, std::span<std::byte> into) const {
  while (!into.empty()) {
    const std::uint64_t within = offset_bytes % kPageBytes;
    const std::size_t bytes = std::min<std::size_t>(into.size(), kPageBytes - within);
    const auto page = pages_.find(offset_bytes / kPageBytes);
    if (page == pages_.end()) {
      std::memset(into.data(), 0, bytes);
    } else {
      std::memcpy(into.data(), page->second.get() + within, bytes);
    }
    offset_bytes += bytes;
    into = into.subspan(bytes);
  }
}

void SimDisk::Image::write(std::uint64_t offset_bytes, std::span<const std::byte> from) {
  while (!from.empty()) {
    const std::uint64_t within = offset_bytes % kPageBytes;
    const std::size_t bytes = std::min<std::size_t>(from.size(), kPageBytes - within);
    Page& page = pages_[offset_bytes / kPageBytes];
    if (!page) page = std::make_unique<std::byte[]>(kPageBytes);
    std::memcpy(page.get() + within, from.data(), bytes);
    offset_bytes += bytes;
    from = from.subspan(bytes);
  }
}

void SimDisk::Image::copy_page(const Image& from, std::uint64_t page) {
  const auto source = from.pages_.find(page);
  if (source == from.pages_.end()) {
    pages_.erase(page);
    return;
  }
  write(page * kPageBytes, {source->second.get(), kPageBytes});
}

SimDisk::SimDisk(SimWorld& world, SimDiskOptions options)
    : world_(world), options_(options), life_(std::make_shared<SimDisk*>(this)) {
  BLOCKD_ASSERT(options.capacity_bytes > 0 && options.capacity_bytes % kPageBytes == 0);
}

void SimDisk::attach(SimLoop& loop) {
  BLOCKD_ASSERT(in_flight_.empty());
  loop_ = &loop;
  loop.on_kill([life = std::weak_ptr(life_), id = loop.id()] {
    const auto disk = life.lock();
    if (disk && (*disk)->loop_ && (*disk)->loop_->id() == id) {
      (*disk)->kill_process();
      (*disk)->loop_ = nullptr;
    }
  });
}

void SimDisk::submit(DiskRequest& request) noexcept {
  if (!loop_ || !loop_->alive()) return;  // a dead process's last words
  check(request);
  Flight flight;
  flight.request = &request;
  request.error = Error::Ok;
  switch (request.op) {
    case DiskRequest::Op::read:
      break;
    case DiskRequest::Op::write:
      flight.write = {0, request.offset_bytes, gather(request)};
      break;
    case DiskRequest::Op::discard:
      if (world_.random().chance(2)) {
        flight.write = {0, request.offset_bytes, std::vector<std::byte>(request.length_bytes)};
      }
      break;
    case DiskRequest::Op::flush:
      flight.flush_up_to = next_order_;
      break;
  }
  const std::uint64_t id = next_id_++;
  in_flight_.emplace(id, std::move(flight));
  schedule(id);
}

void SimDisk::check(const DiskRequest& request) const noexcept {
  BLOCKD_ASSERT(request.done != nullptr);
  if (request.op == DiskRequest::Op::flush) return;
  const bool moves_data = request.op != DiskRequest::Op::discard;
  const std::uint64_t bytes = moves_data ? iov_bytes(request) : request.length_bytes;
  BLOCKD_ASSERT(bytes > 0);
  BLOCKD_ASSERT(bytes % kPageBytes == 0);
  BLOCKD_ASSERT(request.offset_bytes % kPageBytes == 0);
  BLOCKD_ASSERT(bytes <= capacity_bytes());
  BLOCKD_ASSERT(request.offset_bytes <= capacity_bytes() - bytes);
  for (std::uint32_t i = 0; moves_data && i < request.iov_count; ++i) {
    BLOCKD_ASSERT(reinterpret_cast<std::uintptr_t>(request.iov[i].iov_base) % kPageBytes == 0);
    BLOCKD_ASSERT(request.iov[i].iov_len % kPageBytes == 0);
  }
}

std::uint64_t SimDisk::delay_us(DiskRequest::Op op) {
  Random& random = world_.random();
  switch (op) {
    case DiskRequest::Op::read:
      return slowness_ * random.between(options_.read_us_min, options_.read_us_max);
    case DiskRequest::Op::flush:
      return slowness_ * random.between(options_.flush_us_min, options_.flush_us_max);
    case DiskRequest::Op::write:
    case DiskRequest::Op::discard:
      break;
  }
  return slowness_ * random.between(options_.write_us_min, options_.write_us_max);
}

void SimDisk::schedule(std::uint64_t id) {
  const std::uint64_t delay = delay_us(in_flight_.at(id).request->op);
  world_.after(delay, loop_, [life = std::weak_ptr(life_), id] {
    if (const auto disk = life.lock()) (*disk)->complete(id);
  });
}

void SimDisk::complete(std::uint64_t id) {
  const auto found = in_flight_.find(id);
  if (found == in_flight_.end()) return;  // crashed since
  if (stuck_) {
    found->second.held = true;
    return;
  }
  Flight flight = std::move(found->second);
  in_flight_.erase(found);
  DiskRequest& request = *flight.request;
  request.error = finish(flight);
  request.done(request);
}

Error SimDisk::finish(Flight& flight) {
  if (failing_everything_) return Error::DiskError;
  switch (flight.request->op) {
    case DiskRequest::Op::read:
      return finish_read(*flight.request);
    case DiskRequest::Op::write:
      BLOCKD_ASSERT(holds(*flight.request, flight.write.data));  // unchanged while in flight
      return finish_write(flight);
    case DiskRequest::Op::discard:
      ++stats_.discards;
      if (!flight.write.data.empty()) land(std::move(flight.write));
      return Error::Ok;
    case DiskRequest::Op::flush:
      break;
  }
  ++stats_.flushes;
  if (failing_flushes_) return Error::DiskError;
  make_durable(flight.flush_up_to);
  return Error::Ok;
}

Error SimDisk::finish_read(const DiskRequest& request) {
  const std::uint64_t bytes = iov_bytes(request);
  ++stats_.reads;
  stats_.read_bytes += bytes;
  const Error error = fault_in(failing_reads_, request.offset_bytes, bytes);
  if (error != Error::Ok) return error;
  std::uint64_t at = request.offset_bytes;
  for (std::uint32_t i = 0; i < request.iov_count; ++i) {
    seen_.read(at, {static_cast<std::byte*>(request.iov[i].iov_base), request.iov[i].iov_len});
    at += request.iov[i].iov_len;
  }
  return Error::Ok;
}

Error SimDisk::finish_write(Flight& flight) {
  Write& write = flight.write;
  ++stats_.writes;
  stats_.write_bytes += write.data.size();
  const Error error = fault_in(failing_writes_, write.offset_bytes, write.data.size());
  if (error != Error::Ok) {
    keep_some(write, seen_, Crash::random);  // a failed write may have got anywhere
    return error;
  }
  if (astray_ && write.offset_bytes >= astray_->from_offset_bytes) {
    const Astray astray = *std::exchange(astray_, std::nullopt);
    if (!astray.to_offset_bytes) return Error::Ok;
    write.offset_bytes = *astray.to_offset_bytes;
  }
  land(std::move(write));
  return Error::Ok;
}

void SimDisk::land(Write write) {
  const std::uint64_t first = write.offset_bytes / kPageBytes;
  const std::uint64_t end = (write.offset_bytes + write.data.size()) / kPageBytes;
  failing_reads_.erase(failing_reads_.lower_bound(first), failing_reads_.lower_bound(end));
  seen_.write(write.offset_bytes, write.data);
  write.order = next_order_++;
  unflushed_bytes_ += write.data.size();
  unflushed_.push_back(std::move(write));
  while (unflushed_bytes_ > kCacheBytes) make_durable(unflushed_.front().order + 1);
}

void SimDisk::make_durable(std::uint64_t up_to_order) {
  while (!unflushed_.empty() && unflushed_.front().order < up_to_order) {
    const Write& write = unflushed_.front();
    durable_.write(write.offset_bytes, write.data);
    BLOCKD_ASSERT(unflushed_bytes_ >= write.data.size());
    unflushed_bytes_ -= write.data.size();
    unflushed_.pop_front();
  }
}

// A third of the writes wholly kept, a third wholly lost, a third torn at any sector.
void SimDisk::keep_some(const Write& write, Image& image, Crash mode) {
  if (mode == Crash::lose_all || write.data.empty()) return;
  const std::uint64_t fate = mode == Crash::keep_all ? 0 : world_.random().below(3);
  if (fate == 1) return;
  const std::span<const std::byte> data(write.data);
  for (std::uint64_t at = 0; at < data.size(); at += kSectorBytes) {
    if (fate == 2 && world_.random().chance(2)) continue;
    image.write(write.offset_bytes + at, data.subspan(at, kSectorBytes));
  }
}

void SimDisk::crash(Crash mode) {
  std::set<std::uint64_t> touched;
  auto lose = [&](const Write& write) {
    for (std::uint64_t at = 0; at < write.data.size(); at += kPageBytes) {
      touched.insert((write.offset_bytes + at) / kPageBytes);
    }
    keep_some(write, durable_, mode);
  };
  for (const Write& write : unflushed_) lose(write);
  for (const auto& [id, flight] : in_flight_) lose(flight.write);
  for (const std::uint64_t page : touched) seen_.copy_page(durable_, page);
  unflushed_.clear();
  unflushed_bytes_ = 0;
  in_flight_.clear();
}

void SimDisk::kill_process() {
  for (auto& [id, flight] : std::exchange(in_flight_, {})) {
    const Write& write = flight.write;
    if (write.data.empty()) continue;
    Write left{0, write.offset_bytes, std::vector<std::byte>(write.data.size())};
    seen_.read(left.offset_bytes, left.data);
    Image torn;
    torn.write(left.offset_bytes, left.data);
    keep_some(write, torn, Crash::random);
    torn.read(left.offset_bytes, left.data);
    land(std::move(left));
  }
}

Error SimDisk::read_now(std::uint64_t offset_bytes, std::span<std::byte> into) noexcept {
  BLOCKD_ASSERT(offset_bytes + into.size() <= capacity_bytes());
  if (failing_everything_) return Error::DiskError;
  ++stats_.reads;
  stats_.read_bytes += into.size();
  const Error error = fault_in(failing_reads_, offset_bytes, into.size());
  if (error == Error::Ok) seen_.read(offset_bytes, into);
  return error;
}

Error SimDisk::write_now(std::uint64_t offset_bytes, std::span<const std::byte> from) noexcept {
  BLOCKD_ASSERT(offset_bytes % kPageBytes == 0 && from.size() % kPageBytes == 0);
  BLOCKD_ASSERT(offset_bytes + from.size() <= capacity_bytes());
  if (failing_everything_) return Error::DiskError;
  ++stats_.writes;
  stats_.write_bytes += from.size();
  const Error error = fault_in(failing_writes_, offset_bytes, from.size());
  if (error == Error::Ok) land({0, offset_bytes, std::vector<std::byte>(from.begin(), from.end())});
  return error;
}

Error SimDisk::flush_now() noexcept {
  if (failing_everything_ || failing_flushes_) return Error::DiskError;
  ++stats_.flushes;
  make_durable(next_order_);
  return Error::Ok;
}

void SimDisk::fail_reads(std::uint64_t offset_bytes, std::uint64_t length_bytes, Error error) {
  for (std::uint64_t at = offset_bytes; at < offset_bytes + length_bytes; at += kPageBytes) {
    failing_reads_[at / kPageBytes] = error;
  }
}

void SimDisk::fail_writes(std::uint64_t offset_bytes, std::uint64_t length_bytes, Error error) {
  for (std::uint64_t at = offset_bytes; at < offset_bytes + length_bytes; at += kPageBytes) {
    failing_writes_[at / kPageBytes] = error;
  }
}

void SimDisk::clear_faults() noexcept {
  failing_reads_.clear();
  failing_writes_.clear();
  failing_flushes_ = failing_everything_ = false;
  astray_.reset();
  slowness_ = 1;
  set_stuck(false);
}

void SimDisk::corrupt(std::uint64_t offset_bytes, unsigned bit) {
  BLOCKD_ASSERT(offset_bytes < capacity_bytes() && bit < 8);
  for (Image* image : {&seen_, &durable_}) {
    std::byte byte{};
    image->read(offset_bytes, {&byte, 1});
    byte ^= std::byte{1} << bit;
    image->write(offset_bytes, {&byte, 1});
  }
  for (Write& write : unflushed_) {  // a flush must not heal it
    if (offset_bytes < write.offset_bytes) continue;
    const std::uint64_t within = offset_bytes - write.offset_bytes;
    if (within < write.data.size()) write.data[within] ^= std::byte{1} << bit;
  }
}

void SimDisk::set_stuck(bool stuck) {
  if (stuck_ == stuck) return;
  stuck_ = stuck;
  if (stuck) return;
  for (auto& [id, flight] : in_flight_) {
    if (std::exchange(flight.held, false)) schedule(id);
  }
}

void SimDisk::peek(std::uint64_t offset_bytes, std::span<std::byte> into) const {
  seen_.read(offset_bytes, into);
}

Error SimDisk::fault_in(const std::map<std::uint64_t, Error>& faults, std::uint64_t offset_bytes,
                        std::uint64_t length_bytes) const noexcept {
  if (length_bytes == 0) return Error::Ok;
  const auto fault = faults.lower_bound(offset_bytes / kPageBytes);
  const std::uint64_t last = (offset_bytes + length_bytes - 1) / kPageBytes;
  return fault != faults.end() && fault->first <= last ? fault->second : Error::Ok;
}

}  // namespace blockd::io
