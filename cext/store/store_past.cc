// What snapshots show: kept when its chunk goes on, given back when no snapshot shows it any more.
// The rules: docs/SNAPSHOTS.md, "What a store keeps".
#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>

#include "base/assert.h"
#include "base/crc32c.h"
#include "store/pieces.h"
#include "store/store_impl.h"

namespace blockd::store {

using format::EntryKind;
using format::kNoSlot;

// May a snapshot, or an open view, show this content, were it replaced in era `until`? A hole needs
// no slot to be shown.
bool StoreImpl::kept(SegmentHandle segment, const format::SlotRecord& record,
                     Era until) const noexcept {
  if (record.born >= until || is_tombstone(record)) return false;
  return views_.any_in(segment, record.born, until) ||
         snapshots_.any_in(metadata_.segment(segment).record.volume, record.born, until);
}

// Where a mutation of these blocks of the chunk can go. `copying`: a copy is under way, which it
// may have just started. `none`: it could not be.
StoreImpl::Room StoreImpl::room_for(const StoreOp& op, std::uint32_t chunk,
                                    std::uint16_t mask) noexcept {
  const std::uint32_t* slot = slot_of(op.segment, chunk);
  if (!slot) return Room::fresh;
  const format::SlotRecord& record = metadata_.slot(*slot);
  if (!kept(op.segment, record, op.era)) return Room::in_place;
  if ((record.valid_mask & ~mask) == 0) {
    copies_.drop(op.segment, chunk);  // made ahead for a later one: of no use, and it has a slot
    return Room::fresh;
  }
  if (const ChunkCopy* copy = copy_for(op, chunk))
    return copy->ready() ? Room::copied : Room::copying;
  if (copies_.start(op.segment, chunk, *slot)) return Room::copying;
  const std::uint32_t end = (op.first_block + op.block_count - 1) / kBlocksPerChunk + 1;
  static_cast<void>(copies_.drop_others(op.segment, op.first_block / kBlocksPerChunk, end));
  return copies_.start(op.segment, chunk, *slot) ? Room::copying : Room::none;
}

// The copy of the chunk as it is now; one of what it was before is let go of.
ChunkCopy* StoreImpl::copy_for(const StoreOp& op, std::uint32_t chunk) noexcept {
  ChunkCopy* copy = copies_.find(op.segment, chunk);
  if (!copy) return nullptr;
  const std::uint32_t slot = *slot_of(op.segment, chunk);
  if (copy->from == slot && copy->record.version == metadata_.slot(slot).version) return copy;
  copies_.drop(op.segment, chunk);
  return nullptr;
}

// A mutation that has just come: what it will need copied is copied while it waits for its turn.
void StoreImpl::copy_ahead(const StoreOp& op) noexcept {
  if (op.op == StoreOp::Op::replace || op.op == StoreOp::Op::forget) return;
  std::uint32_t pieces = 0;
  for_each_piece(op,
                 [&](std::uint32_t chunk, std::uint32_t first, std::uint32_t count, std::uint32_t) {
                   if (++pieces > kMutationBytesMax / kChunkBytes + 1 || count == kBlocksPerChunk)
                     return;
                   const std::uint32_t* slot = slot_of(op.segment, chunk);
                   if (!slot || copies_.find(op.segment, chunk) || !metadata_.slot_ready(*slot))
                     return;
                   const format::SlotRecord& record = metadata_.slot(*slot);
                   const auto mask = static_cast<std::uint16_t>(((1u << count) - 1) << first);
                   if ((record.valid_mask & ~mask) == 0 || !kept(op.segment, record, op.era))
                     return;
                   static_cast<void>(copies_.start(op.segment, chunk, *slot));
                 });
}

// The chunk goes over to its copy; the entry of the mutation itself follows in the same batch.
void StoreImpl::append_copy(const StoreOp& op, ChunkCopy& copy) noexcept {
  EntryHeader entry;
  entry.kind = EntryKind::copy;
  entry.count = kBlocksPerChunk;
  entry.slot = copy.to;
  entry.mask = copy.record.valid_mask;
  entry.damaged = copy.damaged;
  const std::uint32_t chunk = copy.chunk;
  const format::SlotRecord source = copy.record;
  copies_.used(copy);
  leave(op, chunk, entry);
  std::uint32_t crcs[kBlocksPerChunk];
  for (std::uint32_t block = 0; block < kBlocksPerChunk; ++block) {
    crcs[block] = source.valid_mask >> block & 1 ? source.crcs[block] : crc32c_zero_block();
  }
  journal_.append(entry, {reinterpret_cast<const std::byte*>(crcs), sizeof crcs});
  own_slot(op.segment, chunk, entry.slot);
  format::SlotRecord& record = metadata_.change_slot(entry.slot, journal_.open_lsn());
  const RootChange changes(*this, op.segment, record);
  record.version = op.version;
  record.born = op.era;
  set_mask(op.segment, record, source.valid_mask, op.covers);
  std::memcpy(record.crcs, source.crcs, sizeof record.crcs);
  count_map_bytes(kChunkBytes);
}

// The current slot of the chunk becomes one of its past. An entry of the open batch says so.
void StoreImpl::make_past(SegmentHandle segment, std::uint32_t chunk, std::uint32_t slot,
                          Era died) noexcept {
  disown(segment, chunk, slot);
  metadata_.change_slot(slot, journal_.open_lsn()).died = died;
  metadata_.history().add(segment, chunk, slot);
}

std::uint32_t StoreImpl::past_slot(SegmentHandle segment, std::uint32_t chunk,
                                   Version version) const noexcept {
  const History& history = metadata_.history();
  std::uint32_t slot = history.first(segment, chunk);
  while (slot != kNoSlot && metadata_.slot(slot).version != version) slot = history.next(slot);
  return slot;
}

// A content of the past, from a member that has it.
StoreImpl::Start StoreImpl::start_past(StoreOp& op) noexcept {
  const std::uint32_t chunk = op.first_block / kBlocksPerChunk;
  const bool nothing = op.valid_mask == 0 && !op.covers;  // shown as a hole without a slot
  if (nothing || op.era >= op.died) return end_with(op, journal_.appended_lsn());
  const std::uint32_t there = past_slot(op.segment, chunk, op.version);
  const Start slots = there == kNoSlot ? need_slots(op, 1) : Start::started;
  if (slots == Start::failed) return no_space(op);
  if (slots != Start::started) return slots;
  const auto blocks = static_cast<std::uint32_t>(std::popcount(op.valid_mask));
  if (!journal_.reserve(1, sizeof(EntryHeader) + blocks * 4, blocks)) return Start::blocked;
  ++mutations_in_flight_;
  EntryHeader entry;
  entry.slot = there == kNoSlot ? metadata_.take_run(1).value() : there;
  append_replace(op, chunk, entry);
  if (there == kNoSlot) metadata_.history().add(op.segment, chunk, entry.slot);
  views_.chunk_changed(op.segment, chunk);
  journal_.attach(op);
  return Start::started;
}

StoreImpl::Start StoreImpl::start_forget(StoreOp& op) noexcept {
  const std::uint32_t chunk = op.first_block / kBlocksPerChunk;
  const std::uint32_t slot = past_slot(op.segment, chunk, op.version);
  if (slot == kNoSlot) return end_with(op, journal_.appended_lsn());
  if (!journal_.reserve(1, sizeof(EntryHeader), 0)) return Start::blocked;
  ++mutations_in_flight_;
  append_forget(op.segment, chunk, slot);
  journal_.attach(op);
  return Start::started;
}

void StoreImpl::append_forget(SegmentHandle segment, std::uint32_t chunk,
                              std::uint32_t slot) noexcept {
  EntryHeader entry;
  entry.kind = EntryKind::free;
  entry.segment = segment;
  entry.chunk = chunk;
  entry.slot = slot;
  journal_.append(entry, {});
  metadata_.history().remove(segment, chunk, slot);
  free_slot(segment, chunk, slot);
}

// --- what snapshots there are
// ----------------------------------------------------------------------

void StoreImpl::set_snapshots(SnapshotSet set) {
  const Uuid volume = set.volume;
  snapshots_.set(std::move(set));
  look_through_past(volume);
}

void StoreImpl::look_through_past(const Uuid& volume) noexcept {
  for (SegmentHandle handle = 0; handle < metadata_.segment_limit(); ++handle) {
    const Segment& segment = metadata_.segment(handle);
    if (!segment.used() || segment.record.volume != volume) continue;
    if (metadata_.history().count(handle) == 0 && segment.cover_count == 0) continue;
    std::erase_if(forgetting_, [&](const ForgetTurn& turn) { return turn.segment == handle; });
    forgetting_.push_back({handle, 0, 0});
  }
  wake();
}

// Gives back what no snapshot shows, so many slots in so long. False: no room in the journal.
bool StoreImpl::append_forgets() noexcept {
  while (!forgetting_.empty() && !stopping_) {
    ForgetTurn& turn = forgetting_.front();
    const std::uint32_t limit = chunk_limit(turn.segment);
    for (bool wait = false; turn.chunk < limit; ++turn.chunk, turn.waits = 0) {
      // Whoever makes pages clean, or brings one, wakes us.
      if (metadata_.many_dirty()) return true;
      if (!forget_chunk(turn, wait)) return false;
      if (!wait && !uncover(turn, wait)) return false;
      if (wait) return true;
    }
    forgetting_.pop_front();
  }
  return true;
}

// `wait`: for a page, or for the timer; the chunk's turn is not over.
bool StoreImpl::forget_chunk(ForgetTurn& turn, bool& wait) noexcept {
  const auto [segment, chunk] = std::pair(turn.segment, turn.chunk);
  const History& history = metadata_.history();
  for (std::uint32_t slot = history.first(segment, chunk); slot != kNoSlot;) {
    const std::uint32_t next = history.next(slot);
    if (!page_there(turn, slot)) {
      wait = true;
      return true;
    }
    const format::SlotRecord& record = metadata_.slot(slot);
    if (!kept(segment, record, record.died)) {
      if (forget_allowed_ == 0) {
        if (!forget_timer_.armed()) loop_.arm(forget_timer_, loop_.now_us() + kForgetUs);
        wait = true;
        return true;
      }
      if (!journal_.reserve(1, sizeof(EntryHeader), 0)) return false;
      --forget_allowed_;
      append_forget(segment, chunk, slot);
      reaped_lsn_ = journal_.open_lsn();
    }
    slot = next;
  }
  return true;
}

// Pages of one chunk that drive each other out are waited for only so often.
bool StoreImpl::page_there(ForgetTurn& turn, std::uint32_t slot) noexcept {
  constexpr std::uint32_t kPatience = 64;
  return metadata_.slot_ready(slot) || ++turn.waits > kPatience;
}

// A chunk that hid a base which is there no more becomes an ordinary tombstone, unless a snapshot
// from before needs it as it is.
bool StoreImpl::uncover(ForgetTurn& turn, bool& wait) noexcept {
  const auto [handle, chunk] = std::pair(turn.segment, turn.chunk);
  Segment& segment = metadata_.segment(handle);
  if (segment.cover_count == 0 || segment.slot_of_chunk[chunk] == kNoSlot) return true;
  const std::uint32_t slot = segment.slot_of_chunk[chunk];
  if (!page_there(turn, slot)) {
    wait = true;
    return true;
  }
  const format::SlotRecord& record = metadata_.slot(slot);
  const Era below = snapshots_.uncovered_below(segment.record.volume);
  if (!is_cover(record) || record.born >= below || kept(handle, record, below)) return true;
  if (direct_.busy(handle, chunk, chunk + 1)) {
    wait = true;
    return true;
  }
  if (!journal_.reserve(1, sizeof(EntryHeader), 0)) return false;
  EntryHeader entry;
  entry.kind = EntryKind::zero;
  entry.segment = handle;
  entry.chunk = chunk;
  entry.slot = slot;
  entry.version = record.version;
  entry.mask = 0xffff;
  entry.born = record.born;
  journal_.append(entry, {});
  set_mask(handle, metadata_.change_slot(slot, journal_.open_lsn()), 0, /*covers=*/false);
  return true;
}

// --- views and listings
// ----------------------------------------------------------------------------

SegmentHandle StoreImpl::open_view(SegmentHandle segment, Era era) {
  if (segment >= metadata_.segment_limit() || !metadata_.segment(segment).used()) return kNoView;
  return views_.open(segment, era);
}

void StoreImpl::close_view(SegmentHandle view) noexcept {
  const SegmentHandle segment = views_.segment_of(view);
  views_.close(view);
  if (segment != kNoView) look_through_past(metadata_.segment(segment).record.volume);
}

std::size_t StoreImpl::list_states(SegmentHandle segment, std::uint32_t from_chunk, Version above,
                                   std::span<ChunkState> out) const {
  const std::uint32_t limit = Views::is_view(segment) ? 0 : chunk_limit(segment);
  std::vector<ChunkState> states;
  std::size_t count = 0;
  for (std::uint32_t chunk = from_chunk; chunk < limit && count < out.size(); ++chunk) {
    states.clear();
    const auto add = [&](std::uint32_t slot) {
      const format::SlotRecord& record = metadata_.slot(slot);
      if (chunk == from_chunk && record.version <= above) return;
      states.push_back({chunk, record.version, record.born, record.died, record.valid_mask,
                        (record.flags & format::covers) != 0});
    };
    if (const std::uint32_t* current = slot_of(segment, chunk)) add(*current);
    const History& history = metadata_.history();
    for (std::uint32_t slot = history.first(segment, chunk); slot != kNoSlot;
         slot = history.next(slot))
      add(slot);
    std::sort(states.begin(), states.end(),
              [](const ChunkState& a, const ChunkState& b) { return a.version < b.version; });
    const std::size_t taken = std::min(states.size(), out.size() - count);
    std::copy_n(states.begin(), taken, out.begin() + static_cast<std::ptrdiff_t>(count));
    count += taken;
  }
  return count;
}

}  // namespace blockd::store
