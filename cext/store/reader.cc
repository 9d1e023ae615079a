#include "store/reader.h"

#include <bit>
#include <cstring>
#include <utility>

#include "base/assert.h"
#include "base/crc32c.h"

namespace blockd::store {

Reader::Reader(Device& device, Journal& journal, Metadata& metadata, Views& views,
               StagedBlocks& staged)
    : device_(device),
      journal_(journal),
      metadata_(metadata),
      views_(views),
      staged_(staged),
      runs_(kReadRunsMax) {
  for (auto run = runs_.rbegin(); run != runs_.rend(); ++run) {
    run->reader = this;
    run->request.op = io::DiskRequest::Op::read;
    run->request.iov = &run->iov;
    run->request.iov_count = 1;
    run->request.owner = &*run;
    run->request.done = [](io::DiskRequest& request) noexcept {
      auto* self = static_cast<Run*>(request.owner);
      self->reader->run_done(*self);
    };
    run->next = std::exchange(free_, &*run);
  }
}

// op.scratch_count counts the runs in flight, and one more while read_blocks may add some;
// op.scratch holds the next block to place when the op waits for a free run.
void Reader::start(StoreOp& op) noexcept {
  op.error = Error::Ok;
  op.scratch_count = 1;
  op.scratch = nullptr;
  op.next = nullptr;
  if (waiting_head_) {  // in turn
    waiting_tail_ = waiting_tail_->next = &op;
    return;
  }
  if (read_blocks(op, 0, op.block_count)) return release(op);
  waiting_head_ = waiting_tail_ = &op;
}

void Reader::resume() noexcept {
  while (waiting_head_ && free_) {
    StoreOp& op = *waiting_head_;
    const auto from = static_cast<std::uint32_t>(reinterpret_cast<std::uintptr_t>(op.scratch));
    if (!read_blocks(op, from, op.block_count)) return;
    waiting_head_ = op.next;
    op.next = nullptr;
    release(op);
  }
}

void Reader::segment_dropped(SegmentHandle segment) noexcept {
  const auto of_segment = [&](const StoreOp& op) {
    return op.segment == segment ||
           (Views::is_view(op.segment) && views_.segment_of(op.segment) == segment);
  };
  for (StoreOp* op = waiting_head_; op; op = op->next) {
    if (!of_segment(*op)) continue;
    op->error = Error::NotFound;
    op->scratch = reinterpret_cast<void*>(static_cast<std::uintptr_t>(op->block_count));
  }
  for (Run& run : runs_) {
    if (run.op && of_segment(*run.op)) run.op->error = Error::NotFound;
  }
}

// What the segment or view has there; kNoSlot once it is dropped.
std::uint32_t Reader::slot_of(SegmentHandle handle, std::uint32_t chunk) const noexcept {
  if (Views::is_view(handle)) {
    return views_.segment_of(handle) == Store::kNoView ? format::kNoSlot
                                                       : views_.slot(handle, chunk);
  }
  const Segment& segment = metadata_.segment(handle);
  if (!segment.used() || chunk >= segment.slot_of_chunk.size()) return format::kNoSlot;
  return segment.slot_of_chunk[chunk];
}

Reader::Place Reader::place_of(const StoreOp& op, std::uint32_t block) const noexcept {
  Place place;
  place.crc = crc32c_zero_block();
  const std::uint32_t in_segment = op.first_block + block;
  const std::uint32_t chunk = in_segment / kBlocksPerChunk, within = in_segment % kBlocksPerChunk;
  const std::uint32_t slot = slot_of(op.segment, chunk);
  if (slot == format::kNoSlot) return place;
  const format::SlotRecord& record = metadata_.slot(slot);
  if (record.state != format::SlotState::used) place.kind = Place::Kind::lost;
  if (!(record.valid_mask >> within & 1)) return place;
  place.slot = slot;
  place.crc = record.crcs[within];
  if (const StagedChunk* staged = staged_.find(slot); staged && (staged->mask >> within & 1)) {
    place.kind = Place::Kind::staged;
    place.memory =
        journal_.mirror().data() + std::uint64_t{staged->journal_block[within]} * kBlockBytes;
    return place;
  }
  place.kind = Place::Kind::home;
  place.device_offset = metadata_.device_offset(slot) + std::uint64_t{within} * kBlockBytes;
  return place;
}

// A block that needs no device: a hole, or one that is staged.
void Reader::read_memory(StoreOp& op, std::uint32_t block, const Place& place) noexcept {
  std::byte* into = op.data + std::size_t{block} * kBlockBytes;
  if (place.kind == Place::Kind::lost) {
    op.error = Error::DiskError;
    return;
  }
  if (place.kind == Place::Kind::hole) {
    std::memset(into, 0, kBlockBytes);
    return;
  }
  std::memcpy(into, place.memory, kBlockBytes);
  if (crc32c(into, kBlockBytes) == place.crc) return;
  ++device_.stats.checksum_errors;  // memory rots too
  op.error = Error::ChecksumMismatch;
}

// False when out of runs; op.scratch then says where to go on.
bool Reader::read_blocks(StoreOp& op, std::uint32_t from, std::uint32_t end) noexcept {
  Run* run = nullptr;
  for (std::uint32_t block = from; block < end; ++block) {
    const Place place = place_of(op, block);
    if (op.crcs_out) op.crcs_out[block] = place.crc;
    if (place.kind != Place::Kind::home) {
      read_memory(op, block, place);
      continue;
    }
    const bool goes_on =
        run && run->first + run->count == block &&
        run->request.offset_bytes + std::uint64_t{run->count} * kBlockBytes == place.device_offset;
    if (!goes_on) {
      if (run) submit(*std::exchange(run, nullptr));
      if (!free_) {
        op.scratch = reinterpret_cast<void*>(static_cast<std::uintptr_t>(block));
        return false;
      }
      run = std::exchange(free_, free_->next);
      begin(*run, op, block, place);
    }
    run->crcs[run->count++] = place.crc;
    run->last_slot = place.slot;
  }
  if (run) submit(*run);
  return true;
}

void Reader::begin(Run& run, StoreOp& op, std::uint32_t block, const Place& place) noexcept {
  run.op = &op;
  run.first = block;
  run.count = 0;
  run.first_slot = run.last_slot = place.slot;
  run.iov.iov_base = op.data + std::size_t{block} * kBlockBytes;
  run.request.offset_bytes = place.device_offset;
}

void Reader::submit(Run& run) noexcept {
  for (std::uint32_t slot = run.first_slot; slot <= run.last_slot; ++slot) metadata_.pin(slot);
  run.iov.iov_len = std::size_t{run.count} * kBlockBytes;
  run.request.error = Error::Ok;
  ++run.op->scratch_count;
  ++runs_in_flight_;
  device_.submit(run.request);
}

void Reader::run_done(Run& run) noexcept {
  for (std::uint32_t slot = run.first_slot; slot <= run.last_slot; ++slot) metadata_.unpin(slot);
  --runs_in_flight_;
  StoreOp& op = *run.op;
  if (run.request.error != Error::Ok) ++device_.stats.read_errors;
  const Error error = run.request.error != Error::Ok ? run.request.error : verify(run);
  if (error != Error::Ok && op.error == Error::Ok) op.error = error;
  if (!read_again(run)) {
    run.op = nullptr;
    run.next = std::exchange(free_, &run);
  }
  release(op);
  resume();
  slot_unpinned(owner);
}

// Notes the blocks that changed under the read.
Error Reader::verify(Run& run) noexcept {
  static_assert(kMutationBytesMax / kBlockBytes <= 64);
  Error error = Error::Ok;
  const auto* data = static_cast<const std::byte*>(run.iov.iov_base);
  for (std::uint32_t i = 0; i < run.count; ++i) {
    if (crc32c(data + std::size_t{i} * kBlockBytes, kBlockBytes) == run.crcs[i]) continue;
    const Place now = place_of(*run.op, run.first + i);
    const std::uint64_t was = run.request.offset_bytes + std::uint64_t{i} * kBlockBytes;
    if (now.kind == Place::Kind::home && now.device_offset == was && now.crc == run.crcs[i]) {
      ++device_.stats.checksum_errors;
      error = Error::ChecksumMismatch;
    } else {
      run.again |= std::uint64_t{1} << (run.first + i);
    }
  }
  return error;
}

// One by one, with the run that has read them: others may all be taken, and there is always this
// one. False: nothing is left to read.
bool Reader::read_again(Run& run) noexcept {
  StoreOp& op = *run.op;
  if (op.error != Error::Ok) run.again = 0;
  while (run.again != 0) {
    const auto block = static_cast<std::uint32_t>(std::countr_zero(run.again));
    run.again &= run.again - 1;
    const Place place = place_of(op, block);
    if (op.crcs_out) op.crcs_out[block] = place.crc;
    if (place.kind != Place::Kind::home) {
      read_memory(op, block, place);
      continue;
    }
    begin(run, op, block, place);
    run.crcs[run.count++] = place.crc;
    submit(run);
    return true;
  }
  return false;
}

void Reader::release(StoreOp& op) noexcept {
  BLOCKD_ASSERT(op.scratch_count > 0);
  if (--op.scratch_count == 0) finished(owner, op);
}

}  // namespace blockd::store
