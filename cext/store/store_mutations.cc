// Mutations: what becomes of a write, zero or replace, chunk by chunk.
#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>

#include "base/assert.h"
#include "store/pieces.h"
#include "store/store_impl.h"

namespace blockd::store {

using format::EntryKind;
using format::kNoSlot;

namespace {

constexpr std::uint32_t kOpBlocksMax = kMutationBytesMax / kBlockBytes;
static_assert(kOpBlocksMax <= kBatchPayloadBlocksMax);

std::span<const std::byte> crc_bytes(const std::uint32_t* crcs, std::uint32_t count) noexcept {
  return {reinterpret_cast<const std::byte*>(crcs), std::size_t{count} * 4};
}

std::uint16_t mask_of(std::uint32_t first, std::uint32_t count) noexcept {
  return static_cast<std::uint16_t>(((1u << count) - 1) << first);
}

std::uint32_t end_chunk(const StoreOp& op) noexcept {
  return (op.first_block + op.block_count + kBlocksPerChunk - 1) / kBlocksPerChunk;
}

}  // namespace

Error StoreImpl::validate(const StoreOp& op) const noexcept {
  const bool view = Views::is_view(op.segment);
  const SegmentHandle segment = view ? views_.segment_of(op.segment) : op.segment;
  if (segment >= metadata_.segment_limit() || !metadata_.segment(segment).used())
    return Error::NotFound;
  if (view && op.op != StoreOp::Op::read) return Error::InvalidArgument;
  if (op.op == StoreOp::Op::root) return Error::Ok;
  const std::uint64_t blocks = metadata_.segment(segment).record.block_count;
  if (op.op == StoreOp::Op::forget)
    return op.first_block < blocks ? Error::Ok : Error::ExtentOutOfRange;
  if (op.op == StoreOp::Op::replace) {
    const bool whole = op.first_block % kBlocksPerChunk == 0 && op.block_count == kBlocksPerChunk;
    if (!whole) return Error::InvalidArgument;
    return op.first_block < blocks ? Error::Ok : Error::ExtentOutOfRange;
  }
  if (op.block_count == 0) return Error::InvalidArgument;
  if (std::uint64_t{op.first_block} + op.block_count > blocks) return Error::ExtentOutOfRange;
  if (op.op != StoreOp::Op::zero && op.block_count > kOpBlocksMax) return Error::RequestTooLarge;
  const bool aligned = reinterpret_cast<std::uintptr_t>(op.data) % kBlockBytes == 0;
  return op.op == StoreOp::Op::read && !aligned ? Error::InvalidArgument : Error::Ok;
}

StoreImpl::Start StoreImpl::start(StoreOp& op) noexcept {
  if (const Error error = validate(op);
      error != Error::Ok) {  // the segment may have been dropped since
    finish(op, error);
    return Start::failed;
  }
  if (op.broken && *op.broken) {
    finish(op, Error::NotInSync);
    return Start::failed;
  }
  if (op.op == StoreOp::Op::root) return start_root(op);
  if (metadata_.too_many_dirty() || !may_start(op)) return Start::blocked;
  const std::uint32_t first_chunk = op.first_block / kBlocksPerChunk;
  if (!direct_.idle() && direct_.busy(op.segment, first_chunk, end_chunk(op)))
    return Start::blocked;
  Start result = Start::blocked;
  if (op.op == StoreOp::Op::write) result = start_write(op);
  if (op.op == StoreOp::Op::zero) result = start_zero(op);
  if (op.op == StoreOp::Op::replace) result = op.died ? start_past(op) : start_replace(op);
  if (op.op == StoreOp::Op::forget) result = start_forget(op);
  if (result == Start::failed && op.broken) *op.broken = true;
  if (result == Start::started) {
    Era& newest = metadata_.segment(op.segment).newest_era;
    newest = std::max({newest, op.era, op.died});
    ++device_.stats.writes;
    if (op.op == StoreOp::Op::write)
      device_.stats.write_bytes += std::uint64_t{op.block_count} * kBlockBytes;
  }
  return result;
}

// Started, or why not: blocked while freed slots wait for a flush or for a device request that
// touches them, failed when there are none. Copies that others further back had made give way.
StoreImpl::Start StoreImpl::need_slots(const StoreOp& op, std::uint32_t count) noexcept {
  if (metadata_.free_slots() >= count) return Start::started;
  const bool no_others =
      copies_.drop_others(op.segment, op.first_block / kBlocksPerChunk, end_chunk(op));
  if (metadata_.free_slots() >= count) return Start::started;
  if (freed_.empty()) return direct_.idle() && no_others ? Start::failed : Start::blocked;
  if (freed_.front().lsn > journal_.flushed_lsn()) flusher_.request();
  return Start::blocked;
}

StoreImpl::WritePlan StoreImpl::plan_write(const StoreOp& op) noexcept {
  WritePlan plan;
  plan.zeros = zero_pieces(op);
  for_each_piece(
      op, [&](std::uint32_t chunk, std::uint32_t first, std::uint32_t count, std::uint32_t at) {
        const bool zeros = has_piece(plan.zeros, op, chunk);
        if (zeros && !op.covers && slot_of(op.segment, chunk) == nullptr) return;
        const Room room = room_for(op, chunk, mask_of(first, count));
        plan.copying = plan.copying || room == Room::copying;
        plan.no_room = plan.no_room || room == Room::none;
        if (room == Room::fresh) ++plan.fresh;
        if (room == Room::copied) ++plan.copies;
        if (zeros) {
          ++plan.zero_entries;
          return;
        }
        ++plan.pieces;
        plan.blocks += count;
        if (count != kBlocksPerChunk) return;
        if (plan.whole++ == 0) {
          plan.first_whole = chunk;
          plan.whole_at = at;
        }
        plan.end_whole = chunk + 1;
      });
  return plan;
}

StoreImpl::Start StoreImpl::start_write(StoreOp& op) noexcept {
  const WritePlan plan = plan_write(op);
  if (plan.pieces == 0) return start_zero(op);  // zeros only: holes, as if they had been trimmed
  if (plan.no_room && need_slots(op, 1) == Start::failed) return no_space(op);
  if (plan.no_room || plan.copying) return Start::blocked;
  // Whole chunks over old ones take a fresh slot each when there is one, else they go through the
  // journal.
  const Start slots = need_slots(op, plan.fresh);
  if (slots == Start::failed) return no_space(op);
  if (slots != Start::started) return slots;
  // No more than is needed: a batch takes as many operations as fit (group commit).
  const auto reserve = [&](std::uint32_t pieces, std::uint32_t blocks) {
    const std::uint32_t count = pieces + plan.zero_entries + plan.copies;
    const std::uint32_t crcs = blocks + plan.copies * kBlocksPerChunk;
    return count == 0 ||
           journal_.reserve(count, count * std::uint32_t{sizeof(EntryHeader)} + crcs * 4, blocks);
  };
  if (plan.whole > 0 && metadata_.free_slots() >= plan.fresh + plan.whole) {
    if (!reserve(plan.pieces - plan.whole, plan.blocks - plan.whole * kBlocksPerChunk))
      return Start::blocked;
    const PieceMask skip = plan.zeros >> (plan.first_whole - op.first_block / kBlocksPerChunk);
    if (direct_.start(op, plan.first_whole, plan.end_whole - plan.first_whole, plan.whole_at, skip))
      return journal_blocks(op, plan.zeros, /*direct_started=*/true);
  }
  if (!reserve(plan.pieces, plan.blocks)) return Start::blocked;
  return journal_blocks(op, plan.zeros, /*direct_started=*/false);
}

StoreImpl::Start StoreImpl::journal_blocks(StoreOp& op, PieceMask zeros,
                                           bool direct_started) noexcept {
  ++mutations_in_flight_;
  for_each_piece(
      op, [&](std::uint32_t chunk, std::uint32_t first, std::uint32_t count, std::uint32_t at) {
        if (has_piece(zeros, op, chunk)) {
          if (op.covers || slot_of(op.segment, chunk))
            append_zero(op, chunk, mask_of(first, count));
          return;
        }
        if (direct_started && count == kBlocksPerChunk) return;
        append_write(op, chunk, first, count, at);
      });
  if (direct_started) {
    count_map_bytes(std::uint64_t{op.block_count} * kBlockBytes);
  } else {
    journal_.attach(op);
  }
  return Start::started;
}

// One flush for so many bytes: those mapped while it is on its way count towards the next.
void StoreImpl::count_map_bytes(std::uint64_t bytes) noexcept {
  unflushed_map_bytes_ += bytes;
  if (unflushed_map_bytes_ <= kUnflushedMapBytesMax) return;
  unflushed_map_bytes_ = 0;
  flusher_.request();
}

bool StoreImpl::append_maps() noexcept {
  while (DirectWrite* write = direct_.ready()) {
    StoreOp& op = *write->op;
    if (!journal_.reserve(kDirectChunksMax, kDirectChunksMax * format::kEntryBytesMax, 0))
      return false;
    for (std::uint32_t i = 0; i < write->chunk_count; ++i) {
      if (write->slots[i] == kNoSlot) continue;
      append_map(op, write->first_chunk + i, write->slots[i],
                 op.crcs + write->first_op_block + std::size_t{i} * kBlocksPerChunk);
    }
    journal_.attach(op);
    direct_.retire(*write);
  }
  return true;
}

void StoreImpl::append_map(const StoreOp& op, std::uint32_t chunk, std::uint32_t slot,
                           const std::uint32_t* crcs) noexcept {
  EntryHeader entry;
  entry.kind = EntryKind::map;
  entry.count = kBlocksPerChunk;
  entry.slot = slot;
  entry.mask = 0xffff;
  leave(op, chunk, entry);
  journal_.append(entry, crc_bytes(crcs, kBlocksPerChunk));
  own_slot(op.segment, chunk, slot);
  format::SlotRecord& record = metadata_.change_slot(slot, journal_.open_lsn());
  const RootChange changes(*this, op.segment, record);
  record.version = op.version;
  record.born = op.era;
  set_mask(op.segment, record, 0xffff, op.covers);
  std::memcpy(record.crcs, crcs, sizeof record.crcs);
}

// The chunk leaves its current slot, if it has one, for the entry's.
void StoreImpl::leave(const StoreOp& op, std::uint32_t chunk, EntryHeader& entry) noexcept {
  entry.segment = op.segment;
  entry.chunk = chunk;
  entry.version = op.version;
  entry.born = op.era;
  entry.flags = op.covers ? format::entry_covers : 0;
  copies_.drop(op.segment, chunk);
  const std::uint32_t* current = slot_of(op.segment, chunk);
  if (!current) return;
  const std::uint32_t old = entry.old_slot = *current;
  // The same version is the same content, whole again: of the one that was damaged nobody wants to
  // know.
  const bool repaired = metadata_.slot(old).version == op.version;
  if (!repaired && kept(op.segment, metadata_.slot(old), op.era)) {
    entry.flags |= format::keeps_old;
    return make_past(op.segment, chunk, old, op.era);
  }
  disown(op.segment, chunk, old);
  free_slot(op.segment, chunk, old);
}

// The slot in which these blocks of the chunk change: the one it has, or another when a snapshot
// shows that. Fills in the entry. REQUIRES: room_for() has said that there is room.
std::uint32_t StoreImpl::place(const StoreOp& op, std::uint32_t chunk, std::uint16_t mask,
                               EntryHeader& entry) noexcept {
  const Room room = room_for(op, chunk, mask);
  BLOCKD_ASSERT(room != Room::copying && room != Room::none);
  if (room == Room::copied) append_copy(op, *copy_for(op, chunk));
  if (room == Room::fresh) {
    const auto taken = metadata_.take_run(1);
    BLOCKD_ASSERT(taken.has_value());
    entry.slot = *taken;
    leave(op, chunk, entry);
    return *taken;
  }
  entry.segment = op.segment;
  entry.chunk = chunk;
  entry.version = op.version;
  entry.born = op.era;
  entry.flags = op.covers ? format::entry_covers : 0;
  return entry.slot = *slot_of(op.segment, chunk);
}

void StoreImpl::append_write(const StoreOp& op, std::uint32_t chunk, std::uint32_t first,
                             std::uint32_t count, std::uint32_t op_block) noexcept {
  EntryHeader entry;
  entry.kind = EntryKind::write;
  entry.first = static_cast<std::uint8_t>(first);
  entry.count = static_cast<std::uint8_t>(count);
  const std::uint32_t slot = place(op, chunk, mask_of(first, count), entry);
  journal_.append(entry, crc_bytes(op.crcs + op_block, count));
  own_slot(op.segment, chunk, slot);
  format::SlotRecord& record = metadata_.change_slot(slot, journal_.open_lsn());
  const RootChange changes(*this, op.segment, record);
  record.version = op.version;
  record.born = op.era;
  set_mask(op.segment, record, record.valid_mask | mask_of(first, count), op.covers);
  for (std::uint32_t i = 0; i < count; ++i) {
    const std::uint32_t block =
        journal_.append_payload(op.data + std::size_t{op_block + i} * kBlockBytes);
    record.crcs[first + i] = op.crcs[op_block + i];
    staged_.stage(slot, first + i, block);
  }
}

// Long extents take many batches: op.scratch_count is how far we are, op.scratch the last entry's
// LSN.
StoreImpl::Start StoreImpl::start_zero(StoreOp& op) noexcept {
  if (op.scratch_count == 0) {  // it has an effect, or it has none
    const Start slots = need_slots(op, slots_of_zero(op));
    if (slots == Start::failed) return no_space(op);
    if (slots != Start::started) return slots;
  }
  bool asked = true;  // start() has: for the chunk that we are at
  while (op.scratch_count < op.block_count) {
    const std::uint32_t block = op.first_block + op.scratch_count;
    const std::uint32_t first = block % kBlocksPerChunk;
    const std::uint32_t count =
        std::min(kBlocksPerChunk - first, op.block_count - op.scratch_count);
    const std::uint32_t chunk = block / kBlocksPerChunk;
    if (op.covers || slot_of(op.segment, chunk)) {
      if (metadata_.too_many_dirty() || (!asked && !may_start(op))) return Start::blocked;
      asked = false;
      const Room room = room_for(op, chunk, mask_of(first, count));
      const bool needs = room == Room::fresh || room == Room::none;
      const Start slots = needs ? need_slots(op, 1) : Start::started;
      if (slots == Start::failed) return no_space(op);
      if (slots == Start::blocked || room == Room::copying || room == Room::none)
        return Start::blocked;
      if (!journal_.reserve(2, 2 * sizeof(EntryHeader) + kBlocksPerChunk * 4, 0))
        return Start::blocked;
      append_zero(op, chunk, mask_of(first, count));
    }
    // A hole may be one by an entry that is still on its way.
    op.scratch = reinterpret_cast<void*>(static_cast<std::uintptr_t>(journal_.appended_lsn()));
    op.scratch_count += count;
  }
  return end_with(op, reinterpret_cast<std::uintptr_t>(op.scratch));
}

// How many fresh slots it takes: 0 as long as there are enough of them in any case.
std::uint32_t StoreImpl::slots_of_zero(const StoreOp& op) const noexcept {
  const std::uint32_t chunks = end_chunk(op) - op.first_block / kBlocksPerChunk;
  if (metadata_.free_slots() >= chunks) return 0;
  std::uint32_t count = 0;
  for_each_piece(op, [&](std::uint32_t chunk, std::uint32_t, std::uint32_t, std::uint32_t) {
    const std::uint32_t* slot = slot_of(op.segment, chunk);
    count += slot ? kept(op.segment, metadata_.slot(*slot), op.era) : op.covers;
  });
  return count;
}

// The op ends when the batch with this LSN has.
StoreImpl::Start StoreImpl::end_with(StoreOp& op, std::uint64_t lsn) noexcept {
  if (lsn <= journal_.completed().lsn) {
    finish(op, Error::Ok);
    return Start::started;
  }
  // That batch may have left already: the op then ends with an entry that changes nothing.
  const bool still_open = journal_.has_open() && journal_.open_lsn() == lsn;
  if (!still_open && !append_segment(op.segment)) return Start::blocked;
  ++mutations_in_flight_;
  journal_.attach(op);
  return Start::started;
}

void StoreImpl::append_zero(const StoreOp& op, std::uint32_t chunk, std::uint16_t mask) noexcept {
  EntryHeader entry;
  entry.kind = EntryKind::zero;
  entry.mask = mask;
  const std::uint32_t slot = place(op, chunk, mask, entry);
  journal_.append(entry, {});
  own_slot(op.segment, chunk, slot);
  format::SlotRecord& record = metadata_.change_slot(slot, journal_.open_lsn());
  const RootChange changes(*this, op.segment, record);
  record.version = op.version;
  record.born = op.era;
  set_mask(op.segment, record, record.valid_mask & static_cast<std::uint16_t>(~mask), op.covers);
  for (std::uint32_t block = 0; block < kBlocksPerChunk; ++block) {
    if (mask >> block & 1) record.crcs[block] = 0;
  }
  staged_.drop(slot, mask);
}

StoreImpl::Start StoreImpl::no_space(StoreOp& op) noexcept {
  finish(op, Error::NoSpace);
  return Start::failed;
}

StoreImpl::Start StoreImpl::start_replace(StoreOp& op) noexcept {
  const std::uint32_t chunk = op.first_block / kBlocksPerChunk;
  if (op.version == Version{}) return start_drop(op);
  const std::uint32_t* old = slot_of(op.segment, chunk);
  const bool fresh = !old || (metadata_.slot(*old).version != op.version &&
                              kept(op.segment, metadata_.slot(*old), op.era));
  const Start slots = fresh ? need_slots(op, 1) : Start::started;
  if (slots == Start::failed) return no_space(op);
  if (slots != Start::started) return slots;
  const auto blocks = static_cast<std::uint32_t>(std::popcount(op.valid_mask));
  if (!journal_.reserve(1, sizeof(EntryHeader) + blocks * 4, blocks)) return Start::blocked;
  ++mutations_in_flight_;
  if (op.valid_mask == 0xffff && direct_.start(op, chunk, 1, 0)) {
    count_map_bytes(kChunkBytes);
    return Start::started;  // ends with its map entry
  }
  EntryHeader entry;
  entry.segment = op.segment;
  entry.slot = fresh ? metadata_.take_run(1).value() : *old;
  if (fresh) leave(op, chunk, entry);
  append_replace(op, chunk, entry);
  journal_.attach(op);
  return Start::started;
}

// The chunk is no longer there; of what it was only the past is left.
StoreImpl::Start StoreImpl::start_drop(StoreOp& op) noexcept {
  const std::uint32_t chunk = op.first_block / kBlocksPerChunk;
  const std::uint32_t* old = slot_of(op.segment, chunk);
  if (!old) return end_with(op, journal_.appended_lsn());
  if (!journal_.reserve(1, sizeof(EntryHeader), 0)) return Start::blocked;
  ++mutations_in_flight_;
  if (kept(op.segment, metadata_.slot(*old), op.era)) {
    EntryHeader entry;
    entry.kind = EntryKind::past;
    entry.segment = op.segment;
    entry.chunk = chunk;
    entry.slot = *old;
    entry.died = op.era;
    journal_.append(entry, {});
    make_past(op.segment, chunk, entry.slot, op.era);
  } else {
    append_free(op.segment, chunk, *old);
  }
  journal_.attach(op);
  return Start::started;
}

// The entry says which slot, and what becomes of the one before.
void StoreImpl::append_replace(const StoreOp& op, std::uint32_t chunk, EntryHeader entry) noexcept {
  entry.kind = EntryKind::replace;
  entry.count = static_cast<std::uint8_t>(std::popcount(op.valid_mask));
  entry.segment = op.segment;
  entry.chunk = chunk;
  entry.version = op.version;
  entry.born = op.era;
  entry.died = op.died;
  entry.mask = op.valid_mask;
  if (op.covers) entry.flags |= format::entry_covers;
  std::uint32_t crcs[kBlocksPerChunk];
  std::uint32_t count = 0;
  for (std::uint32_t block = 0; block < kBlocksPerChunk; ++block) {
    if (op.valid_mask >> block & 1) crcs[count++] = op.crcs[block];
  }
  journal_.append(entry, crc_bytes(crcs, count));
  staged_.drop_all(entry.slot);
  if (op.died == 0) own_slot(op.segment, chunk, entry.slot);
  format::SlotRecord& record = metadata_.change_slot(entry.slot, journal_.open_lsn());
  const RootChange changes(*this, op.segment, record);
  record.version = op.version;
  record.born = op.era;
  if (op.died == 0) {
    set_mask(op.segment, record, op.valid_mask, op.covers);
  } else {
    record.state = format::SlotState::used;
    record.segment = op.segment;
    record.chunk = chunk;
    record.died = op.died;
    record.valid_mask = op.valid_mask;
    record.flags = op.covers ? std::uint32_t{format::covers} : 0;
  }
  fill_replaced(op, entry.slot, record);
}

void StoreImpl::fill_replaced(const StoreOp& op, std::uint32_t slot,
                              format::SlotRecord& record) noexcept {
  for (std::uint32_t block = 0; block < kBlocksPerChunk; ++block) {
    record.crcs[block] = 0;
    if (!(op.valid_mask >> block & 1)) continue;
    record.crcs[block] = op.crcs[block];
    const std::uint32_t at = journal_.append_payload(op.data + std::size_t{block} * kBlockBytes);
    staged_.stage(slot, block, at);
  }
}

void StoreImpl::append_free(SegmentHandle handle, std::uint32_t chunk,
                            std::uint32_t slot) noexcept {
  EntryHeader entry;
  entry.kind = EntryKind::free;
  entry.segment = handle;
  entry.chunk = chunk;
  entry.slot = slot;
  journal_.append(entry, {});
  disown(handle, chunk, slot);
  free_slot(handle, chunk, slot);
}

// A slot without a record becomes the chunk's, as a tombstone until set_mask() fills it.
void StoreImpl::own_slot(SegmentHandle handle, std::uint32_t chunk, std::uint32_t slot) noexcept {
  Segment& segment = metadata_.segment(handle);
  if (segment.slot_of_chunk[chunk] == slot) return;
  BLOCKD_ASSERT(segment.slot_of_chunk[chunk] == kNoSlot);
  BLOCKD_ASSERT(metadata_.taken(slot));
  format::SlotRecord& record = metadata_.change_slot(slot, journal_.open_lsn());
  BLOCKD_ASSERT(record.state == format::SlotState::free);
  record = format::SlotRecord{};
  record.state = format::SlotState::used;
  record.segment = handle;
  record.chunk = chunk;
  segment.slot_of_chunk[chunk] = slot;
  ++segment.chunk_count;
  ++segment.tombstone_count;
}

// The chunk has no current slot any more; what becomes of the one it had is the caller's to say.
void StoreImpl::disown(SegmentHandle handle, std::uint32_t chunk, std::uint32_t slot) noexcept {
  Segment& segment = metadata_.segment(handle);
  BLOCKD_ASSERT(segment.slot_of_chunk[chunk] == slot);
  const format::SlotRecord& record = metadata_.slot(slot);
  if (segment.used()) root_of(handle) -= format::root_term(record);
  if (is_tombstone(record)) --segment.tombstone_count;
  if (is_cover(record)) --segment.cover_count;
  --segment.chunk_count;
  segment.slot_of_chunk[chunk] = kNoSlot;
}

// For change by an entry of the open batch, which then ends with the new root.
format::Root& StoreImpl::root_of(SegmentHandle handle) noexcept {
  Segment& segment = metadata_.segment(handle);
  metadata_.mark_segment(handle, journal_.open_lsn());
  if (!std::exchange(segment.root_unsaved, true)) {
    journal_.keep();
    root_changed_.push_back(handle);
  }
  return segment.record.root;
}

void StoreImpl::batch_closes() noexcept {
  for (const SegmentHandle handle : root_changed_) {
    Segment& segment = metadata_.segment(handle);
    segment.root_unsaved = false;
    EntryHeader entry;
    entry.kind = EntryKind::root;
    entry.segment = handle;
    entry.version = {segment.record.root.low, segment.record.root.high};
    journal_.append(entry, {});
  }
  root_changed_.clear();
}

// Of everything that was submitted before, and of nothing else.
StoreImpl::Start StoreImpl::start_root(StoreOp& op) noexcept {
  if (direct_.busy(op.segment, 0, kChunksPerSegment)) return Start::blocked;
  op.root = metadata_.segment(op.segment).record.root;
  finish(op, Error::Ok);
  return Start::started;
}

void StoreImpl::set_mask(SegmentHandle handle, format::SlotRecord& record, std::uint16_t mask,
                         bool covers) noexcept {
  Segment& segment = metadata_.segment(handle);
  if (is_tombstone(record)) --segment.tombstone_count;
  if (is_cover(record)) --segment.cover_count;
  record.valid_mask = mask;
  record.flags = covers ? std::uint32_t{format::covers} : 0;
  if (is_cover(record)) ++segment.cover_count;
  if (!is_tombstone(record)) return;
  ++segment.tombstone_count;
  segment.oldest_tombstone = std::min(segment.oldest_tombstone, record.version);
  if (record.version <= segment.record.stable) want_reap(handle);
}

void StoreImpl::free_slot(SegmentHandle segment, std::uint32_t chunk, std::uint32_t slot) noexcept {
  staged_.drop_all(slot);
  views_.chunk_changed(segment, chunk);
  metadata_.change_slot(slot, journal_.open_lsn()) = format::SlotRecord{};
  freed_.push_back({slot, journal_.open_lsn()});
}

}  // namespace blockd::store
