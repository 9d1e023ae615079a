// Changes of the segment table: each is one journal entry that carries the whole new record.
#include <algorithm>
#include <utility>

#include "base/assert.h"
#include "store/store_impl.h"

namespace blockd::store {

using format::EntryKind;
using format::kNoSlot;

void StoreImpl::queue_meta(std::function<Start(MetaOp&)> append, Done done) {
  MetaOp op;
  op.append = std::move(append);
  op.done = std::move(done);
  if (stopping_) op.error = Error::ShuttingDown;
  if (device_.failed() != Error::Ok) op.error = device_.failed();
  meta_waiting_.push_back(std::move(op));
  loop_.defer(end_task_);
}

// False: no room in the journal now.
bool StoreImpl::append_meta_ops() noexcept {
  while (!meta_waiting_.empty()) {
    MetaOp& op = meta_waiting_.front();
    if (op.error == Error::Ok) {
      const Start result = op.append(op);
      if (result == Start::blocked) return false;
    }
    meta_ending_.push_back(std::move(op));
    meta_waiting_.pop_front();
  }
  end_meta_ops();
  return true;
}

void StoreImpl::end_meta_ops() noexcept {
  while (!meta_ending_.empty()) {
    if (meta_ending_.front().error == Error::Ok &&
        meta_ending_.front().lsn > journal_.flushed_lsn()) {
      if (meta_ending_.front().lsn <= journal_.completed().lsn) flusher_.request();
      return;
    }
    const MetaOp op = std::move(meta_ending_.front());
    meta_ending_.pop_front();
    op.done(op.error);
  }
}

bool StoreImpl::append_segment(SegmentHandle handle) noexcept {
  if (!journal_.reserve(1, sizeof(EntryHeader) + sizeof(format::SegmentRecord), 0)) return false;
  EntryHeader entry;
  entry.kind = EntryKind::segment;
  entry.segment = handle;
  Segment& segment = metadata_.segment(handle);
  const auto* bytes = reinterpret_cast<const std::byte*>(&segment.record);
  journal_.append(entry, {bytes, sizeof segment.record});
  metadata_.mark_segment(handle, journal_.open_lsn());
  segment.stable_unsaved = false;
  return true;
}

// An entry that changes nothing: the batch around it carries the incarnation.
void StoreImpl::record_opening(Done done) {
  queue_meta(
      [this](MetaOp& op) {
        if (!append_segment(0)) return Start::blocked;
        op.lsn = journal_.open_lsn();
        return Start::started;
      },
      std::move(done));
}

void StoreImpl::create_segment(SegmentId id, std::uint32_t block_count, Done done) {
  queue_meta([this, id, block_count](MetaOp& op) { return append_create(op, id, block_count); },
             std::move(done));
}

StoreImpl::Start StoreImpl::append_create(MetaOp& op, SegmentId id, std::uint32_t block_count) {
  auto refuse = [&](Error error) {
    op.error = error;
    return Start::failed;
  };
  if (block_count == 0 || block_count > kSegmentBytes / kBlockBytes)
    return refuse(Error::InvalidArgument);
  if (metadata_.find(id)) return refuse(Error::AlreadyExists);
  const auto handle = metadata_.free_segment();
  if (!handle) return refuse(Error::NoSpace);
  format::SegmentRecord& record = metadata_.segment(*handle).record;
  record = format::SegmentRecord{};
  record.state = format::SegmentState::used;
  record.volume = id.volume;
  record.index = id.index;
  record.block_count = block_count;
  record.flags = format::has_root;
  if (!append_segment(*handle)) {
    record = format::SegmentRecord{};
    return Start::blocked;
  }
  op.lsn = journal_.open_lsn();
  metadata_.add_to_index(*handle);
  return Start::started;
}

void StoreImpl::drop_segment(SegmentHandle segment, Done done) {
  queue_meta([this, segment](MetaOp& op) { return append_drop(op, segment); }, std::move(done));
}

StoreImpl::Start StoreImpl::append_drop(MetaOp& op, SegmentHandle handle) {
  if (handle >= metadata_.segment_limit() || !metadata_.segment(handle).used()) {
    op.error = Error::NotFound;
    return Start::failed;
  }
  if (direct_.busy(handle, 0, kChunksPerSegment)) return Start::blocked;
  format::SegmentState& state = metadata_.segment(handle).record.state;
  state = format::SegmentState::dropping;
  if (!append_segment(handle)) {
    state = format::SegmentState::used;
    return Start::blocked;
  }
  op.lsn = journal_.open_lsn();
  metadata_.remove_from_index(handle);
  dropping_.push_back(handle);
  std::erase(reaping_, handle);
  copies_.drop_segment(handle);
  refuse_waiting(handle);
  reader_.segment_dropped(handle);
  views_.segment_dropped(handle);
  return Start::started;
}

// Gives back what dropped segments hold, a little in each iteration. False: no room in the journal.
bool StoreImpl::append_drops() noexcept {
  while (!dropping_.empty() && !stopping_) {
    const SegmentHandle handle = dropping_.front();
    if (!drop_chunks(handle)) return false;
    Segment& segment = metadata_.segment(handle);
    if (segment.drop_cursor < segment.slot_of_chunk.size()) return true;
    const format::SegmentRecord before = std::exchange(segment.record, format::SegmentRecord{});
    if (!append_segment(handle)) {
      segment.record = before;
      return false;
    }
    segment = Segment{};
    dropping_.pop_front();
  }
  return true;
}

bool StoreImpl::drop_chunks(SegmentHandle handle) noexcept {
  constexpr std::uint32_t kChunksPerTurn = 256;
  Segment& segment = metadata_.segment(handle);
  std::uint32_t turn = 0;
  for (; segment.drop_cursor < segment.slot_of_chunk.size(); ++segment.drop_cursor) {
    const std::uint32_t chunk = segment.drop_cursor;
    for (std::uint32_t slot = any_slot(handle, chunk); slot != kNoSlot;
         slot = any_slot(handle, chunk)) {
      if (turn++ == kChunksPerTurn) {
        wake();
        return true;
      }
      // Whoever makes pages clean, or brings one, wakes us.
      if (metadata_.many_dirty() || !drop_pages_ready(handle, slot)) return true;
      if (!journal_.reserve(1, sizeof(EntryHeader), 0)) return false;
      if (slot == segment.slot_of_chunk[chunk]) {
        append_free(handle, chunk, slot);
      } else {
        append_forget(handle, chunk, slot);
      }
      reaped_lsn_ = journal_.open_lsn();
    }
  }
  return true;
}

// One that the chunk has, of the past first.
std::uint32_t StoreImpl::any_slot(SegmentHandle handle, std::uint32_t chunk) const noexcept {
  const std::uint32_t past = metadata_.history().first(handle, chunk);
  return past != kNoSlot ? past : metadata_.segment(handle).slot_of_chunk[chunk];
}

// The page of the slot at the cursor; those of the next ones are asked for meanwhile.
bool StoreImpl::drop_pages_ready(SegmentHandle handle, std::uint32_t cursor_slot) noexcept {
  constexpr std::uint32_t kChunksAhead = 64;
  if (metadata_.slot_ready(cursor_slot)) return true;
  const Segment& segment = metadata_.segment(handle);
  const std::size_t end =
      std::min<std::size_t>(segment.slot_of_chunk.size(), segment.drop_cursor + kChunksAhead);
  for (std::size_t chunk = segment.drop_cursor + 1; chunk < end; ++chunk) {
    const std::uint32_t slot = any_slot(handle, static_cast<std::uint32_t>(chunk));
    if (slot != kNoSlot) static_cast<void>(metadata_.slot_ready(slot));
  }
  return false;
}

// Operations that name a segment which is gone: the next one may get its handle.
void StoreImpl::refuse_waiting(SegmentHandle handle) noexcept {
  for (StoreOp** link = &cold_reads_; *link;) {
    StoreOp& read = **link;
    const SegmentHandle of =
        Views::is_view(read.segment) ? views_.segment_of(read.segment) : read.segment;
    if (of == handle) {
      *link = read.next;
      finish(read, Error::NotFound);
    } else {
      link = &read.next;
    }
  }
  StoreOp* op = std::exchange(waiting_head_, nullptr);
  waiting_tail_ = nullptr;
  while (op) {
    StoreOp& waiting = *std::exchange(op, op->next);
    if (waiting.segment == handle) {
      finish(waiting, Error::NotFound);
      continue;
    }
    waiting.next = nullptr;
    (waiting_tail_ ? waiting_tail_->next : waiting_head_) = &waiting;
    waiting_tail_ = &waiting;
  }
}

void StoreImpl::resize_segment(SegmentHandle handle, std::uint32_t block_count, Done done) {
  queue_meta(
      [this, handle, block_count](MetaOp& op) {
        const bool known = handle < metadata_.segment_limit() && metadata_.segment(handle).used();
        if (!known || block_count < metadata_.segment(handle).record.block_count ||
            block_count > kSegmentBytes / kBlockBytes) {
          op.error = known ? Error::InvalidArgument : Error::NotFound;
          return Start::failed;
        }
        std::uint32_t& count = metadata_.segment(handle).record.block_count;
        const std::uint32_t before = std::exchange(count, block_count);
        if (!append_segment(handle)) {
          count = before;
          return Start::blocked;
        }
        op.lsn = journal_.open_lsn();
        metadata_.add_to_index(handle);
        return Start::started;
      },
      std::move(done));
}

void StoreImpl::promise_epoch(SegmentHandle handle, std::uint64_t epoch, Done done) {
  queue_meta(
      [this, handle, epoch](MetaOp& op) {
        if (handle >= metadata_.segment_limit() || !metadata_.segment(handle).used()) {
          op.error = Error::NotFound;
          return Start::failed;
        }
        std::uint64_t& promised = metadata_.segment(handle).record.promised_epoch;
        if (epoch < promised) op.error = Error::EpochFenced;
        if (epoch < promised) return Start::failed;
        if (epoch == promised) {
          // An equal promise may still be on its way to the device: done with the newest batch.
          op.lsn = std::min(journal_.appended_lsn(),
                            metadata_.page_lsn(handle / format::kRecordsPerPage));
          return Start::started;
        }
        const std::uint64_t before = std::exchange(promised, epoch);
        if (!append_segment(handle)) {
          promised = before;
          return Start::blocked;
        }
        op.lsn = journal_.open_lsn();
        return Start::started;
      },
      std::move(done));
}

std::vector<SegmentHandle> StoreImpl::segments() const {
  std::vector<SegmentHandle> used;
  for (SegmentHandle handle = 0; handle < metadata_.segment_limit(); ++handle) {
    if (metadata_.segment(handle).used()) used.push_back(handle);
  }
  return used;
}

SegmentInfo StoreImpl::segment_info(SegmentHandle handle) const noexcept {
  SegmentInfo info;
  if (handle >= metadata_.segment_limit() || !metadata_.segment(handle).used()) return info;
  const Segment& segment = metadata_.segment(handle);
  info.id = {segment.record.volume, segment.record.index};
  info.block_count = segment.record.block_count;
  info.promised_epoch = segment.record.promised_epoch;
  info.stable = segment.record.stable;
  info.chunk_count = segment.chunk_count;
  info.past_count = metadata_.history().count(handle);
  info.root = segment.record.root;
  info.newest_era = segment.newest_era;
  return info;
}

void StoreImpl::set_stable(SegmentHandle handle, Version stable) noexcept {
  if (handle >= metadata_.segment_limit()) return;
  Segment& segment = metadata_.segment(handle);
  if (!segment.used() || stable <= segment.record.stable) return;
  segment.record.stable = stable;
  segment.stable_unsaved = true;
  want_reap(handle);
  if (segment.oldest_tombstone <= stable) loop_.defer(end_task_);
}

void StoreImpl::want_reap(SegmentHandle handle) noexcept {
  if (std::find(reaping_.begin(), reaping_.end(), handle) == reaping_.end()) {
    reaping_.push_back(handle);
  }
}

// Tombstones that the stable mark has passed are freed, and the mark itself goes along with a batch
// that is going anyway: it is never worth a device write of its own.
bool StoreImpl::append_reaps() noexcept {
  for (const SegmentHandle handle : reaping_) {
    if (!reap_tombstones(handle)) return false;
  }
  if (!journal_.has_open() && !waiting_head_ && !closing_) return true;
  for (const SegmentHandle handle : reaping_) {
    if (metadata_.segment(handle).stable_unsaved && !append_segment(handle)) return false;
  }
  reaping_.clear();
  return true;
}

// The search visits every chunk, so it is made only when there may be something to find. False: no
// room in the journal, begin again.
bool StoreImpl::reap_tombstones(SegmentHandle handle) noexcept {
  Segment& segment = metadata_.segment(handle);
  if (segment.oldest_tombstone > segment.record.stable) return true;
  Version oldest = kNoTombstone;  // of those that stay
  for (std::uint32_t chunk = 0; segment.tombstone_count > 0 && chunk < segment.slot_of_chunk.size();
       ++chunk) {
    const std::uint32_t slot = segment.slot_of_chunk[chunk];
    if (slot == kNoSlot || !is_tombstone(metadata_.slot(slot))) continue;
    const Version version = metadata_.slot(slot).version;
    if (version > segment.record.stable) {
      oldest = std::min(oldest, version);
      continue;
    }
    // Never without the mark that allows it: an opening judges the chunk's absence by that.
    if (segment.stable_unsaved && !append_segment(handle)) return false;
    if (!journal_.reserve(1, sizeof(EntryHeader), 0)) return false;
    append_free(handle, chunk, slot);
    reaped_lsn_ = journal_.open_lsn();
  }
  segment.oldest_tombstone = oldest;
  return true;
}

}  // namespace blockd::store
