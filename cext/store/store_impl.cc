#include "store/store_impl.h"

#include <algorithm>
#include <bit>
#include <utility>

#include "base/assert.h"
#include "base/crc32c.h"
#include "store/layout.h"

namespace blockd::store {

using format::kNoSlot;

void Store::format(io::Disk& disk, const FormatOptions& options) {
  if (!options.force) {
    try {
      const format::Superblock there = read_superblock(disk);
      throw Fault(Error::AlreadyExists, "store " + uuid_text(there.store_id) + " of cluster " +
                                            uuid_text(there.cluster_id) +
                                            " is here already: use force to overwrite it");
    } catch (const Fault& fault) {
      if (fault.code() == Error::StoreDamaged) {
        throw Fault(Error::AlreadyExists,
                    "a damaged store is here already: use force to overwrite it");
      }
      if (fault.code() != Error::StoreNotFormatted) throw;
    }
  }
  write_empty_store(disk, plan_layout(disk.capacity_bytes(), options), options.incarnation);
}

std::unique_ptr<Store> Store::open(io::Disk& disk, io::Loop& loop, Buffers& buffers,
                                   const OpenOptions& options) {
  const format::Superblock superblock = read_superblock(disk);
  check_compatible(superblock, options.cluster_id, disk.capacity_bytes());
  auto store =
      std::make_unique<StoreImpl>(disk, loop, buffers, superblock, options.metadata_cache_bytes);
  const auto newest = options.newest_openings.find(superblock.store_id);
  store->recover(newest == options.newest_openings.end() ? 0 : newest->second);
  if (superblock.version < format::kStoreVersion) bring_up(disk, superblock);
  return store;
}

StoreImpl::StoreImpl(io::Disk& disk, io::Loop& loop, Buffers& buffers,
                     const format::Superblock& superblock, std::uint64_t metadata_cache_bytes)
    : loop_(loop),
      superblock_(superblock),
      device_(disk),
      metadata_(device_, superblock, metadata_cache_bytes),
      views_(metadata_),
      staged_(static_cast<std::uint32_t>(superblock.journal_bytes / kBlockBytes)),
      journal_(device_, superblock, *this),
      flusher_(device_, loop, journal_,
               superblock.compatible_features & format::power_loss_protected),
      reader_(device_, journal_, metadata_, views_, staged_),
      direct_(device_, metadata_, buffers),
      copies_(device_, journal_, metadata_, staged_),
      schedule_(superblock.journal_bytes),
      small_buffers_{buffers.small.base(), std::min(buffers.small.bytes(), kRegisteredBytesMax)} {
  disk.register_memory(small_buffers_);
  end_task_.owner = this;
  end_task_.run = [](io::Task& task) noexcept {
    static_cast<StoreImpl*>(task.owner)->iteration_end();
  };
  idle_timer_.owner = this;
  idle_timer_.fire = [](io::Timer& timer) noexcept {
    static_cast<StoreImpl*>(timer.owner)->idle_timer_fired();
  };
  flusher_.owner = reader_.owner = direct_.owner = this;
  flusher_.flushed = [](void* self, StoreOp* ops, Error error) noexcept {
    static_cast<StoreImpl*>(self)->flushed(ops, error);
  };
  reader_.finished = [](void* self, StoreOp& op) noexcept {
    auto* store = static_cast<StoreImpl*>(self);
    ++store->device_.stats.reads;
    store->device_.stats.read_bytes += std::uint64_t{op.block_count} * kBlockBytes;
    store->finish(op, op.error);
  };
  reader_.slot_unpinned = [](void* self) noexcept {
    static_cast<StoreImpl*>(self)->reclaim_slots();
  };
  metadata_.slot_pages().owner = this;
  metadata_.slot_pages().came = [](void* self) noexcept {
    static_cast<StoreImpl*>(self)->page_came();
  };
  direct_.written = [](void* self) noexcept { static_cast<StoreImpl*>(self)->wake(); };
  copies_.owner = this;
  copies_.progress = [](void* self) noexcept { static_cast<StoreImpl*>(self)->wake(); };
  forget_timer_.owner = this;
  forget_timer_.fire = [](io::Timer& timer) noexcept {
    auto* store = static_cast<StoreImpl*>(timer.owner);
    store->forget_allowed_ = kForgetSlots;
    store->wake();
  };
}

StoreImpl::~StoreImpl() {
  loop_.cancel(idle_timer_);
  loop_.cancel(forget_timer_);
  device_.disk().unregister_memory(small_buffers_);
}

void StoreImpl::recover(std::uint64_t newest_opening) {
  Recovery recovery(device_, superblock_, journal_, metadata_, staged_);
  recovery.run(newest_opening);
  checkpoint_ = std::make_unique<Checkpoint>(device_, journal_, flusher_, metadata_, staged_,
                                             superblock_, recovery.record_generation());
  checkpoint_->owner = this;
  checkpoint_->finished = [](void* self) noexcept { static_cast<StoreImpl*>(self)->wake(); };
  checkpoint_->slot_unpinned = [](void* self) noexcept {
    static_cast<StoreImpl*>(self)->reclaim_slots();
  };
  for (SegmentHandle handle = 0; handle < metadata_.segment_limit(); ++handle) {
    if (metadata_.segment(handle).dropping()) {
      dropping_.push_back(handle);
    } else if (metadata_.segment(handle).tombstone_count > 0) {
      want_reap(handle);
    }
  }
  if (!reaping_.empty() || !dropping_.empty()) wake();
}

void StoreImpl::submit(StoreOp& op) noexcept {
  op.error = Error::Ok;
  op.next = nullptr;
  op.scratch = nullptr;
  op.scratch_count = 0;
  loop_.defer(end_task_);
  if (stopping_) return finish(op, Error::ShuttingDown);
  if (op.op == StoreOp::Op::flush) {
    if (device_.failed() != Error::Ok) return finish(op, device_.failed());
    return flusher_.add(op);
  }
  if (const Error error = validate(op); error != Error::Ok) return finish(op, error);
  if (op.op == StoreOp::Op::read) return read(op);
  if (device_.failed() != Error::Ok) return finish(op, device_.failed());
  if (op.op != StoreOp::Op::root && pages_ready(op))
    copy_ahead(op);  // else on their way by the time it is its turn
  (waiting_tail_ ? waiting_tail_->next : waiting_head_) = &op;
  waiting_tail_ = &op;
}

// Starts whatever can be started, once an iteration: whoever frees something defers end_task_.
void StoreImpl::pump() noexcept {
  if (device_.failed() != Error::Ok) return fail_everything();
  bool room =
      append_maps() && append_meta_ops() && append_reaps() && append_drops() && append_forgets();
  while (room && waiting_head_) {
    StoreOp& op = *waiting_head_;
    StoreOp* rest = op.next;
    const Start start_result = start(op);
    if (start_result == Start::blocked) break;
    waiting_head_ = rest;
    if (!rest) waiting_tail_ = nullptr;
    room = device_.failed() == Error::Ok;
  }
  if (!waiting_head_) copies_.drop_ready();  // nobody came for them
  maybe_checkpoint();
}

void StoreImpl::iteration_end() noexcept {
  pump();
  journal_.submit_open();
  flusher_.pump();
  deliver();
  maybe_closed();
}

void StoreImpl::batch_done(std::uint64_t lsn, StoreOp* ops, Error error) noexcept {
  (void)lsn;
  while (ops) {
    StoreOp& op = *std::exchange(ops, ops->next);
    --mutations_in_flight_;
    finish(op, error);
  }
  // What a trim gave back is of use only once it is flushed, and perhaps nobody else will flush.
  if (reaped_lsn_ > journal_.flushed_lsn() && reaped_lsn_ <= journal_.completed().lsn) {
    flusher_.request();
  }
  loop_.defer(end_task_);
}

void StoreImpl::flushed(StoreOp* ops, Error error) noexcept {
  while (ops) finish(*std::exchange(ops, ops->next), error);
  if (error == Error::Ok && journal_.flushed_lsn() == journal_.completed().lsn)
    unflushed_map_bytes_ = 0;
  reclaim_slots();
  end_meta_ops();
  loop_.defer(end_task_);
}

void StoreImpl::finish(StoreOp& op, Error error) noexcept {
  op.error = error;
  op.next = nullptr;
  (finished_tail_ ? finished_tail_->next : finished_head_) = &op;
  finished_tail_ = &op;
  loop_.defer(end_task_);
}

void StoreImpl::deliver() noexcept {
  if (std::exchange(delivering_, true)) return;
  while (finished_head_) {
    StoreOp& op = *finished_head_;
    finished_head_ = op.next;
    if (!finished_head_) finished_tail_ = nullptr;
    op.next = nullptr;
    op.done(op);
  }
  delivering_ = false;
}

void StoreImpl::fail_everything() noexcept {
  const Error error = device_.failed();
  for (StoreOp* op = std::exchange(waiting_head_, nullptr); op;)
    finish(*std::exchange(op, op->next), error);
  waiting_tail_ = nullptr;
  for (StoreOp* op = journal_.abandon_open(); op;) {
    --mutations_in_flight_;
    finish(*std::exchange(op, op->next), error);
  }
  while (DirectWrite* write = direct_.ready()) {
    --mutations_in_flight_;
    finish(*write->op, error);
    direct_.retire(*write);
  }
  copies_.drop_ready();
  flusher_.fail_all(error);
  std::deque<MetaOp> failed = std::exchange(meta_waiting_, {});
  for (MetaOp& op : std::exchange(meta_ending_, {})) failed.push_back(std::move(op));
  for (MetaOp& op : failed) op.done(error);
}

void StoreImpl::reclaim_slots() noexcept {
  while (!freed_.empty() && freed_.front().lsn <= journal_.flushed_lsn() &&
         !metadata_.pinned(freed_.front().slot)) {
    metadata_.give_back(freed_.front().slot);
    freed_.pop_front();
    if (waiting_head_) loop_.defer(end_task_);
  }
}

void StoreImpl::maybe_checkpoint() noexcept {
  if (checkpoint_->running() || device_.failed() != Error::Ok) return;
  const bool last = closing_ && !closing_checkpointed_ && mutations_in_flight_ == 0 &&
                    !waiting_head_ && meta_waiting_.empty() && reaping_.empty() && journal_.idle();
  if (last) closing_checkpointed_ = true;
  if (last) return checkpoint_->start(journal_.completed());
  if (!journal_.holds_completed() || closing_checkpointed_) return;
  const std::uint64_t due = schedule_.due(journal_.used_bytes(), metadata_.many_dirty());
  if (due > 0) return checkpoint_->start(journal_.behind_tail(due));
  if (stopping_ || idle_timer_.armed()) return;
  idle_lsn_ = journal_.appended_lsn();
  idle_reads_ = device_.stats.reads;
  loop_.arm(idle_timer_, loop_.now_us() + kIdleCheckpointUs);
}

// Nothing was appended for a while: what is in the journal goes home, so that a restart replays
// nothing.
void StoreImpl::idle_timer_fired() noexcept {
  loop_.defer(end_task_);
  // Also no reads: what goes home at once, most of a journal, would hold them up.
  const bool quiet =
      journal_.idle() && journal_.appended_lsn() == idle_lsn_ && device_.stats.reads == idle_reads_;
  if (!quiet || checkpoint_->running() || device_.failed() != Error::Ok) return;
  if (journal_.holds_completed()) checkpoint_->start(journal_.completed());
}

void StoreImpl::close(Done done) {
  BLOCKD_ASSERT(!stopping_);
  stopping_ = true;
  loop_.cancel(idle_timer_);
  closing_ = std::move(done);
  loop_.defer(end_task_);
}

void StoreImpl::maybe_closed() noexcept {
  if (!closing_ || checkpoint_->running() || finished_head_ || waiting_head_ ||
      mutations_in_flight_ > 0)
    return;
  const bool failed = device_.failed() != Error::Ok;
  if (!journal_.idle() || (!failed && !closing_checkpointed_)) return;
  if (reader_.in_flight() > 0 || cold_reads_ || metadata_.slot_pages().loading() ||
      !flusher_.idle() || !meta_waiting_.empty() || !meta_ending_.empty() || !copies_.idle())
    return;
  std::exchange(closing_, nullptr)(device_.failed());
}

std::optional<SegmentHandle> StoreImpl::find_segment(SegmentId id) const noexcept {
  return metadata_.find(id);
}

const std::uint32_t* StoreImpl::slot_of(SegmentHandle segment, std::uint32_t chunk) const noexcept {
  if (Views::is_view(segment)) {
    if (chunk >= chunk_limit(segment)) return nullptr;
    const std::uint32_t& slot = views_.slot(segment, chunk);
    return slot == kNoSlot ? nullptr : &slot;
  }
  if (segment >= metadata_.segment_limit() || !metadata_.segment(segment).used()) return nullptr;
  const auto& slots = metadata_.segment(segment).slot_of_chunk;
  return chunk < slots.size() && slots[chunk] != kNoSlot ? &slots[chunk] : nullptr;
}

// Chunks that the segment, or the segment of the view, may have.
std::uint32_t StoreImpl::chunk_limit(SegmentHandle segment) const noexcept {
  const SegmentHandle base = Views::is_view(segment) ? views_.segment_of(segment) : segment;
  if (base >= metadata_.segment_limit() || !metadata_.segment(base).used()) return 0;
  return static_cast<std::uint32_t>(metadata_.segment(base).slot_of_chunk.size());
}

std::size_t StoreImpl::list_chunks(SegmentHandle segment, std::uint32_t from_chunk, Version above,
                                   std::span<ChunkVersion> out) const noexcept {
  const std::uint32_t limit = chunk_limit(segment);
  std::size_t count = 0;
  for (std::uint32_t chunk = from_chunk; chunk < limit && count < out.size(); ++chunk) {
    const std::uint32_t* slot = slot_of(segment, chunk);
    if (!slot) continue;
    const format::SlotRecord& record = metadata_.slot(*slot);
    if (record.version <= above) continue;
    out[count++] = {chunk, record.version, record.born, record.valid_mask};
  }
  return count;
}

Version StoreImpl::chunk_version(SegmentHandle segment, std::uint32_t chunk) const noexcept {
  const std::uint32_t* slot = slot_of(segment, chunk);
  return slot ? metadata_.slot(*slot).version : Version{};
}

std::uint16_t StoreImpl::chunk_valid_mask(SegmentHandle segment,
                                          std::uint32_t chunk) const noexcept {
  const std::uint32_t* slot = slot_of(segment, chunk);
  return slot ? metadata_.slot(*slot).valid_mask : std::uint16_t{0};
}

std::size_t StoreImpl::list_digests(SegmentHandle segment, std::uint32_t from_chunk,
                                    std::span<ChunkDigest> out) const noexcept {
  const std::uint32_t limit = chunk_limit(segment);
  std::size_t count = 0;
  for (std::uint32_t chunk = from_chunk; chunk < limit && count < out.size(); ++chunk) {
    const std::uint32_t* slot = slot_of(segment, chunk);
    if (!slot) continue;
    const format::SlotRecord& record = metadata_.slot(*slot);
    std::uint32_t crcs[kBlocksPerChunk];
    for (std::uint32_t b = 0; b < kBlocksPerChunk; ++b) {
      crcs[b] = record.valid_mask >> b & 1 ? record.crcs[b] : crc32c_zero_block();
    }
    out[count++] = {chunk, record.version, record.valid_mask, crc32c(crcs, sizeof crcs),
                    record.born};
  }
  return count;
}

BlockLocation StoreImpl::locate(SegmentHandle segment, std::uint32_t block) const noexcept {
  BlockLocation location;
  const std::uint32_t* slot = slot_of(segment, block / kBlocksPerChunk);
  if (!slot) return location;
  const format::SlotRecord& record = metadata_.slot(*slot);
  const std::uint32_t within = block % kBlocksPerChunk;
  location.chunk_version = record.version;
  location.allocated = record.valid_mask >> within & 1;
  if (!location.allocated) return location;
  location.device_offset_bytes =
      metadata_.device_offset(*slot) + std::uint64_t{within} * kBlockBytes;
  location.crc32c = record.crcs[within];
  const StagedChunk* staged = staged_.find(*slot);
  location.in_journal = staged && (staged->mask >> within & 1);
  return location;
}

StoreInfo StoreImpl::info() const noexcept {
  StoreInfo info;
  info.store_id = superblock_.store_id;
  info.cluster_id = superblock_.cluster_id;
  info.capacity_bytes = std::uint64_t{superblock_.slot_count} * kChunkBytes;
  info.allocated_bytes = info.capacity_bytes - std::uint64_t{metadata_.free_slots()} * kChunkBytes;
  info.past_bytes = std::uint64_t{metadata_.history().total()} * kChunkBytes;
  info.journal_bytes = journal_.capacity_bytes();
  info.journal_used_bytes = journal_.used_bytes();
  info.segment_count = metadata_.segment_count();
  if (superblock_.compatible_features & format::has_device_findings)
    info.findings = superblock_.findings;
  info.power_loss_protected = superblock_.compatible_features & format::power_loss_protected;
  info.incarnation = journal_.incarnation();
  info.failed = device_.failed();
  return info;
}

}  // namespace blockd::store
