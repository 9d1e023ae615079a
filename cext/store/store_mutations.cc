// Mutations: what becomes of a write, zero or replace, chunk by chunk.
#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>

#include "base/assert.h"
#include "store/pieces.h"
#include "store/store_impl.h"

namespace blockd::store {

using format::EntryHeader;
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
  if (op.segment >= metadata_.segment_limit() || !metadata_.segment(op.segment).used())
    return Error::NotFound;
  const std::uint64_t blocks = metadata_.segment(op.segment).record.block_count;
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
  if (metadata_.too_many_dirty() || !may_start(op)) return Start::blocked;
  const std::uint32_t first_chunk = op.first_block / kBlocksPerChunk;
  if (!direct_.idle() && direct_.busy(op.segment, first_chunk, end_chunk(op)))
    return Start::blocked;
  Start result = Start::blocked;
  if (op.op == StoreOp::Op::write) result = start_write(op);
  if (op.op == StoreOp::Op::zero) result = start_zero(op);
  if (op.op == StoreOp::Op::replace) result = start_replace(op);
  if (result == Start::failed && op.broken) *op.broken = true;
  if (result == Start::started) {
    ++device_.stats.writes;
    if (op.op == StoreOp::Op::write)
      device_.stats.write_bytes += std::uint64_t{op.block_count} * kBlockBytes;
  }
  return result;
}

// Started, or why not: blocked while freed slots wait for a flush or for a device request that
// touches them, failed when there are none.
StoreImpl::Start StoreImpl::need_slots(std::uint32_t count) noexcept {
  if (metadata_.free_slots() >= count) return Start::started;
  if (freed_.empty()) return direct_.idle() ? Start::failed : Start::blocked;
  if (freed_.front().lsn > journal_.flushed_lsn()) flusher_.request();
  return Start::blocked;
}

StoreImpl::WritePlan StoreImpl::plan_write(const StoreOp& op) const noexcept {
  WritePlan plan;
  plan.zeros = zero_pieces(op);
  for_each_piece(op,
                 [&](std::uint32_t chunk, std::uint32_t, std::uint32_t count, std::uint32_t at) {
                   const bool stored = slot_of(op.segment, chunk) != nullptr;
                   if (has_piece(plan.zeros, op, chunk)) {
                     if (stored) ++plan.zero_entries;
                     return;
                   }
                   ++plan.pieces;
                   plan.blocks += count;
                   if (!stored) ++plan.fresh;
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
  // Whole chunks over old ones take a fresh slot each when there is one, else they go through the
  // journal.
  const Start slots = need_slots(plan.fresh);
  if (slots == Start::failed) finish(op, Error::NoSpace);
  if (slots != Start::started) return slots;
  // No more than is needed: a batch takes as many operations as fit (group commit).
  const auto reserve = [&](std::uint32_t pieces, std::uint32_t blocks) {
    const std::uint32_t count = pieces + plan.zero_entries;
    return count == 0 ||
           journal_.reserve(count, count * std::uint32_t{sizeof(EntryHeader)} + blocks * 4, blocks);
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
        const std::uint32_t* old = slot_of(op.segment, chunk);
        if (has_piece(zeros, op, chunk)) {
          if (old) append_zero(op, chunk, *old, mask_of(first, count));
          return;
        }
        if (direct_started && count == kBlocksPerChunk) return;
        std::uint32_t slot = old ? *old : kNoSlot;
        if (!old) {
          const auto taken = metadata_.take_run(1);
          BLOCKD_ASSERT(taken.has_value());
          slot = *taken;
        }
        append_write(op, chunk, first, count, at, slot);
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
  const std::uint32_t* old = slot_of(op.segment, chunk);
  EntryHeader entry;
  entry.kind = EntryKind::map;
  entry.count = kBlocksPerChunk;
  entry.segment = op.segment;
  entry.chunk = chunk;
  entry.slot = slot;
  entry.version = op.version;
  entry.old_slot = old ? *old : kNoSlot;
  entry.mask = 0xffff;
  journal_.append(entry, crc_bytes(crcs, kBlocksPerChunk));
  if (old) {
    Segment& segment = metadata_.segment(op.segment);
    if (metadata_.slot(*old).valid_mask == 0) --segment.tombstone_count;
    --segment.chunk_count;
    free_slot(*old);
    segment.slot_of_chunk[chunk] = kNoSlot;
  }
  own_slot(op.segment, chunk, slot);
  format::SlotRecord& record = metadata_.change_slot(slot, journal_.open_lsn());
  record.version = op.version;
  set_mask(op.segment, record, 0xffff);
  std::memcpy(record.crcs, crcs, sizeof record.crcs);
}

void StoreImpl::append_write(const StoreOp& op, std::uint32_t chunk, std::uint32_t first,
                             std::uint32_t count, std::uint32_t op_block,
                             std::uint32_t slot) noexcept {
  EntryHeader entry;
  entry.kind = EntryKind::write;
  entry.first = static_cast<std::uint8_t>(first);
  entry.count = static_cast<std::uint8_t>(count);
  entry.segment = op.segment;
  entry.chunk = chunk;
  entry.slot = slot;
  entry.version = op.version;
  journal_.append(entry, crc_bytes(op.crcs + op_block, count));
  own_slot(op.segment, chunk, slot);
  format::SlotRecord& record = metadata_.change_slot(slot, journal_.open_lsn());
  record.version = op.version;
  set_mask(op.segment, record, record.valid_mask | mask_of(first, count));
  for (std::uint32_t i = 0; i < count; ++i) {
    const std::uint32_t block =
        journal_.append_payload(op.data + std::size_t{op_block + i} * kBlockBytes);
    record.crcs[first + i] = op.crcs[op_block + i];
    staged_.stage(slot, first + i, block, journal_.open_lsn(), checkpoint_->visit());
  }
}

// Long extents take many batches: op.scratch_count is how far we are, op.scratch the last entry's
// LSN.
StoreImpl::Start StoreImpl::start_zero(StoreOp& op) noexcept {
  while (op.scratch_count < op.block_count) {
    const std::uint32_t block = op.first_block + op.scratch_count;
    const std::uint32_t first = block % kBlocksPerChunk;
    const std::uint32_t count =
        std::min(kBlocksPerChunk - first, op.block_count - op.scratch_count);
    const std::uint32_t* slot = slot_of(op.segment, block / kBlocksPerChunk);
    if (slot) {
      if (metadata_.too_many_dirty() || !may_start(op)) return Start::blocked;
      if (!journal_.reserve(1, sizeof(EntryHeader), 0)) return Start::blocked;
      append_zero(op, block / kBlocksPerChunk, *slot, mask_of(first, count));
    }
    // A hole may be one by an entry that is still on its way.
    op.scratch = reinterpret_cast<void*>(static_cast<std::uintptr_t>(journal_.appended_lsn()));
    op.scratch_count += count;
  }
  return end_with(op, reinterpret_cast<std::uintptr_t>(op.scratch));
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

void StoreImpl::append_zero(const StoreOp& op, std::uint32_t chunk, std::uint32_t slot,
                            std::uint16_t mask) noexcept {
  EntryHeader entry;
  entry.kind = EntryKind::zero;
  entry.segment = op.segment;
  entry.chunk = chunk;
  entry.slot = slot;
  entry.version = op.version;
  entry.mask = mask;
  journal_.append(entry, {});
  format::SlotRecord& record = metadata_.change_slot(slot, journal_.open_lsn());
  record.version = op.version;
  set_mask(op.segment, record, record.valid_mask & static_cast<std::uint16_t>(~mask));
  for (std::uint32_t block = 0; block < kBlocksPerChunk; ++block) {
    if (mask >> block & 1) record.crcs[block] = 0;
  }
  staged_.drop(slot, mask);
}

StoreImpl::Start StoreImpl::start_replace(StoreOp& op) noexcept {
  const std::uint32_t chunk = op.first_block / kBlocksPerChunk;
  const std::uint32_t* old = slot_of(op.segment, chunk);
  const bool drop = op.version == Version{};
  if (drop && !old) return end_with(op, journal_.appended_lsn());
  const Start slots = drop || old ? Start::started : need_slots(1);
  if (slots == Start::failed) finish(op, Error::NoSpace);
  if (slots != Start::started) return slots;
  const auto blocks = static_cast<std::uint32_t>(drop ? 0 : std::popcount(op.valid_mask));
  if (!journal_.reserve(1, sizeof(EntryHeader) + blocks * 4, blocks)) return Start::blocked;
  ++mutations_in_flight_;
  if (drop) {
    append_free(op.segment, chunk, *old);
  } else if (op.valid_mask == 0xffff && direct_.start(op, chunk, 1, 0)) {
    count_map_bytes(kChunkBytes);
    return Start::started;  // ends with its map entry
  } else {
    append_replace(op, chunk, old ? *old : metadata_.take_run(1).value());
  }
  journal_.attach(op);
  return Start::started;
}

void StoreImpl::append_replace(const StoreOp& op, std::uint32_t chunk,
                               std::uint32_t slot) noexcept {
  EntryHeader entry;
  entry.kind = EntryKind::replace;
  entry.count = static_cast<std::uint8_t>(std::popcount(op.valid_mask));
  entry.segment = op.segment;
  entry.chunk = chunk;
  entry.slot = slot;
  entry.version = op.version;
  entry.mask = op.valid_mask;
  std::uint32_t crcs[kBlocksPerChunk];
  std::uint32_t count = 0;
  for (std::uint32_t block = 0; block < kBlocksPerChunk; ++block) {
    if (op.valid_mask >> block & 1) crcs[count++] = op.crcs[block];
  }
  journal_.append(entry, crc_bytes(crcs, count));
  own_slot(op.segment, chunk, slot);
  staged_.drop_all(slot);
  format::SlotRecord& record = metadata_.change_slot(slot, journal_.open_lsn());
  record.version = op.version;
  set_mask(op.segment, record, op.valid_mask);
  for (std::uint32_t block = 0; block < kBlocksPerChunk; ++block) {
    record.crcs[block] = 0;
    if (!(op.valid_mask >> block & 1)) continue;
    record.crcs[block] = op.crcs[block];
    const std::uint32_t at = journal_.append_payload(op.data + std::size_t{block} * kBlockBytes);
    staged_.stage(slot, block, at, journal_.open_lsn(), checkpoint_->visit());
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
  Segment& segment = metadata_.segment(handle);
  if (metadata_.slot(slot).valid_mask == 0) --segment.tombstone_count;
  --segment.chunk_count;
  segment.slot_of_chunk[chunk] = kNoSlot;
  free_slot(slot);
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

void StoreImpl::set_mask(SegmentHandle handle, format::SlotRecord& record,
                         std::uint16_t mask) noexcept {
  Segment& segment = metadata_.segment(handle);
  if (record.valid_mask == 0 && mask != 0) --segment.tombstone_count;
  if (record.valid_mask != 0 && mask == 0) ++segment.tombstone_count;
  record.valid_mask = mask;
  if (mask == 0) segment.oldest_tombstone = std::min(segment.oldest_tombstone, record.version);
  if (mask == 0 && record.version <= segment.record.stable) want_reap(handle);
}

void StoreImpl::free_slot(std::uint32_t slot) noexcept {
  staged_.drop_all(slot);
  metadata_.change_slot(slot, journal_.open_lsn()) = format::SlotRecord{};
  freed_.push_back({slot, journal_.open_lsn()});
}

}  // namespace blockd::store
