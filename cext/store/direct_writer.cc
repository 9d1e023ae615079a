#include "store/direct_writer.h"

#include <cstring>
#include <utility>

#include "base/assert.h"

namespace blockd::store {
namespace {

bool overlaps(const DirectWrite& write, SegmentHandle segment, std::uint32_t first,
              std::uint32_t end) noexcept {
  return write.op->segment == segment && write.first_chunk < end &&
         first < write.first_chunk + write.chunk_count;
}

}  // namespace

DirectWriter::DirectWriter(Device& device, Metadata& metadata, Buffers& buffers)
    : device_(device), metadata_(metadata), buffers_(buffers), writes_(kDirectWritesMax) {
  for (auto write = writes_.rbegin(); write != writes_.rend(); ++write) {
    write->writer = this;
    for (std::uint32_t i = 0; i < kDirectChunksMax; ++i) {
      write->requests[i].op = io::DiskRequest::Op::write;
      write->requests[i].iov = &write->iov[i];
      write->requests[i].iov_count = 1;
      write->requests[i].owner = &*write;
      write->requests[i].done = [](io::DiskRequest& request) noexcept {
        auto* self = static_cast<DirectWrite*>(request.owner);
        static_cast<DirectWriter*>(self->writer)->request_done(*self, request.error);
      };
    }
    write->next = std::exchange(free_, &*write);
  }
}

bool DirectWriter::start(StoreOp& op, std::uint32_t first_chunk, std::uint32_t count,
                         std::uint32_t first_op_block, PieceMask skip) noexcept {
  BLOCKD_ASSERT(count > 0 && count <= kDirectChunksMax);
  if (!free_ || metadata_.free_slots() < count) return false;
  std::byte* data = op.data + std::size_t{first_op_block} * kBlockBytes;
  BufferRef copy;
  if (reinterpret_cast<std::uintptr_t>(data) % kBlockBytes != 0) {
    copy = buffers_.pool_for(count * kChunkBytes).get();
    if (!copy) return false;
    std::memcpy(copy.data(), data, std::size_t{count} * kChunkBytes);
    data = copy.data();
  }
  DirectWrite& write = *std::exchange(free_, free_->next);
  write.op = &op;
  write.first_chunk = first_chunk;
  write.chunk_count = count;
  write.first_op_block = first_op_block;
  write.error = Error::Ok;
  write.copy = std::move(copy);
  const bool taken = take_slots(write, skip);
  BLOCKD_ASSERT(taken);
  write.prev = nullptr;
  write.next = active_;
  if (active_) active_->prev = &write;
  active_ = &write;
  write.pending = 1;
  for (std::uint32_t i = 0; i < count;) {
    if (write.slots[i] == format::kNoSlot) {
      ++i;
      continue;
    }
    std::uint32_t run = 1;
    while (i + run < count && write.slots[i + run] == write.slots[i] + run) ++run;
    io::DiskRequest& request = write.requests[i];
    write.iov[i] = {data + std::size_t{i} * kChunkBytes, std::size_t{run} * kChunkBytes};
    request.error = Error::Ok;
    request.offset_bytes = metadata_.device_offset(write.slots[i]);
    ++write.pending;
    device_.submit(request);
    i += run;
  }
  --write.pending;
  return true;
}

bool DirectWriter::take_slots(DirectWrite& write, PieceMask skip) noexcept {
  std::uint32_t wanted = 0;
  for (std::uint32_t i = 0; i < write.chunk_count; ++i) wanted += (skip >> i & 1) ? 0 : 1;
  auto run = metadata_.take_run(wanted);
  for (std::uint32_t i = 0; i < write.chunk_count; ++i) {
    write.slots[i] = format::kNoSlot;
    if (skip >> i & 1) continue;
    const auto slot = run ? run : metadata_.take_run(1);
    if (!slot) return false;
    write.slots[i] = *slot;
    if (run) ++*run;
  }
  return true;
}

bool DirectWriter::busy(SegmentHandle segment, std::uint32_t first_chunk,
                        std::uint32_t end_chunk) const noexcept {
  for (const DirectWrite* write = active_; write; write = write->next) {
    if (overlaps(*write, segment, first_chunk, end_chunk)) return true;
  }
  for (const DirectWrite* write = ready_head_; write; write = write->next) {
    if (overlaps(*write, segment, first_chunk, end_chunk)) return true;
  }
  return false;
}

void DirectWriter::request_done(DirectWrite& write, Error error) noexcept {
  if (error != Error::Ok) {
    device_.note_failure(error);
    write.error = error;
  }
  BLOCKD_ASSERT(write.pending > 0);
  if (--write.pending > 0) return;
  (write.prev ? write.prev->next : active_) = write.next;
  if (write.next) write.next->prev = write.prev;
  write.next = nullptr;
  (ready_tail_ ? ready_tail_->next : ready_head_) = &write;
  ready_tail_ = &write;
  written(owner);
}

void DirectWriter::retire(DirectWrite& write) noexcept {
  BLOCKD_ASSERT(&write == ready_head_);
  ready_head_ = write.next;
  if (!ready_head_) ready_tail_ = nullptr;
  write.op = nullptr;
  write.copy.reset();
  write.next = std::exchange(free_, &write);
}

}  // namespace blockd::store
