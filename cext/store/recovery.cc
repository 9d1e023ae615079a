#include "store/recovery.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <utility>

#include "base/assert.h"
#include "base/crc32c.h"
#include "store/journal_entries.h"
#include "store/layout.h"
#include "store/soundness.h"

namespace blockd::store {

using format::BatchHeader;
using format::EntryHeader;
using format::EntryKind;

Recovery::Recovery(Device& device, const format::Superblock& superblock, Journal& journal,
                   Metadata& metadata, StagedBlocks& staged)
    : device_(device),
      superblock_(superblock),
      journal_(journal),
      metadata_(metadata),
      staged_(staged) {}

void Recovery::replay_in_memory(Index index) {
  read_record();
  read_journal();
  scan();
  verify_maps();
  refuse_damage();
  touched_ = touched_pages();
  metadata_.load(touched_, index == Index::now);
  replay();
}

void Recovery::run(std::uint64_t newest_opening) {
  replay_in_memory(Index::now);
  metadata_.check_torn_pages();
  metadata_.index(touched_);
  refuse_older_copy(newest_opening);
  const JournalPosition tail{record_.tail_lsn - 1, record_.tail_offset};
  JournalPosition newest = tail;
  if (!chain_.empty()) newest = {chain_.back().lsn, chain_.back().position + chain_.back().bytes};
  erase_abandoned(newest);
  // The page cache of a dead process may hold what we have just read: durable before anybody relies
  // on it.
  if (device_.disk().flush_now() != Error::Ok)
    throw Fault(Error::DiskError, "the device fails to flush");
  device_.stats.recovered_batches = chain_.size();
  journal_.resume(std::max(newest_incarnation(), newest_opening) + 1, newest, tail);
}

void Recovery::read_record() {
  BufferPool pool(kBlockBytes, 1);
  const BufferRef block = pool.get();
  bool found = false;
  for (std::uint64_t copy : {0, 1}) {
    const std::uint64_t at =
        (static_cast<std::uint64_t>(format::FixedBlock::checkpoint_a) + copy) * kBlockBytes;
    if (device_.disk().read_now(at, {block.data(), kBlockBytes}) != Error::Ok) continue;
    format::CheckpointRecord record;
    std::memcpy(static_cast<void*>(&record), block.data(), kBlockBytes);
    if (is_sound(record, copy, superblock_) && (!found || record.generation > record_.generation)) {
      record_ = record;
      found = true;
    }
  }
  if (!found)
    throw Fault(Error::StoreDamaged,
                "both checkpoint records are damaged: rebuild this store from its peers");
}

void Recovery::read_journal() {
  constexpr std::uint64_t kReadBytes = 1 << 20;
  const std::span<std::byte> mirror = journal_.mirror();
  for (std::uint64_t at = 0; at < mirror.size(); at += kReadBytes) {
    const std::uint64_t bytes = std::min<std::uint64_t>(kReadBytes, mirror.size() - at);
    if (device_.disk().read_now(superblock_.journal_offset + at, mirror.subspan(at, bytes)) ==
        Error::Ok)
      continue;
    for (std::uint64_t block = at; block < at + bytes; block += kBlockBytes) {
      const auto into = mirror.subspan(block, kBlockBytes);
      const Error error = device_.disk().read_now(superblock_.journal_offset + block, into);
      if (error != Error::Ok) std::memset(into.data(), 0, into.size());  // as good as a torn batch
    }
  }
}

const BatchHeader* Recovery::header_at(std::uint64_t offset, std::uint64_t lsn) const {
  const auto* header = reinterpret_cast<const BatchHeader*>(journal_.mirror().data() + offset);
  const bool ours = header->magic == format::kBatchMagic &&
                    header->store_id == superblock_.store_id && (lsn == 0 || header->lsn == lsn);
  return ours && format::checksum_matches(*header) ? header : nullptr;
}

void Recovery::scan() {
  std::uint64_t lsn = record_.tail_lsn;
  std::uint64_t position = record_.tail_offset;
  const std::uint64_t size = superblock_.journal_bytes;
  std::uint64_t incarnation = record_.incarnation;
  for (;; ++lsn) {
    const BatchHeader* header = header_at(position % size, lsn);
    if (!header && position % size != 0) {
      header = header_at(0, lsn);
      if (header) position += size - position % size;
    }
    if (!header || header->incarnation < incarnation) break;
    if (!batch_whole(*header, position % size)) break;
    const std::uint64_t bytes = (1 + std::uint64_t{header->payload_blocks}) * kBlockBytes;
    if (position + bytes - record_.tail_offset > size) break;
    incarnation = header->incarnation;
    chain_.push_back({lsn, position, bytes, header->flushed_lsn});
    position += bytes;
  }
}

bool Recovery::batch_whole(const BatchHeader& header, std::uint64_t offset) const {
  const std::uint64_t bytes = (1 + std::uint64_t{header.payload_blocks}) * kBlockBytes;
  if (header.entry_bytes > sizeof header.entries || offset + bytes > superblock_.journal_bytes)
    return false;
  const std::byte* payload = journal_.mirror().data() + offset + kBlockBytes;
  std::uint32_t block = 0;
  bool whole = true;
  const bool parsed = for_each_entry(header, [&](const EntryHeader& entry, const std::byte* extra) {
    for (std::uint32_t i = 0; whole && i < payload_blocks(entry); ++i, ++block) {
      std::uint32_t crc;
      std::memcpy(&crc, extra + i * 4u, 4);
      whole = block < header.payload_blocks &&
              crc32c(payload + std::size_t{block} * kBlockBytes, kBlockBytes) == crc;
    }
  });
  return parsed && whole && block == header.payload_blocks;
}

const BatchHeader& Recovery::header_of(const Found& batch) const {
  return *reinterpret_cast<const BatchHeader*>(journal_.mirror().data() +
                                               batch.position % superblock_.journal_bytes);
}

// A map entry may have outlived the chunk it points to: the chunk was written first, but nothing
// had flushed either. The chain ends before the first such batch. Blocks that a later batch of the
// chain has superseded do not count: a checkpoint may have written over them, or their slot may
// have been freed and used again; both wait for a flush that covers the batch that superseded them.
void Recovery::verify_maps() {
  std::uint64_t flushed = record_.tail_lsn - 1;
  for (const Found& batch : chain_) flushed = std::max(flushed, batch.flushed_lsn);
  for (;;) {
    const std::size_t whole = whole_length(flushed);
    if (whole == chain_.size()) return;
    chain_.resize(whole);  // what the batches that went had superseded counts again
  }
}

// How many batches come before the first one with a map that is not whole.
std::size_t Recovery::whole_length(std::uint64_t flushed_lsn) {
  superseded_.clear();
  std::size_t length = chain_.size();
  for (std::size_t i = chain_.size(); i-- > 0 && chain_[i].lsn > flushed_lsn;) {
    std::vector<std::pair<EntryHeader, const std::byte*>> entries;
    const bool parsed =
        for_each_entry(header_of(chain_[i]), [&](const EntryHeader& entry, const std::byte* extra) {
          entries.emplace_back(entry, extra);
        });
    bool whole = parsed;
    for (auto entry = entries.rbegin(); entry != entries.rend(); ++entry) {
      const bool mapped =
          entry->first.kind == EntryKind::map || entry->first.kind == EntryKind::copy;
      if (mapped && !map_whole(entry->first, entry->second)) whole = false;
      supersede(entry->first);
    }
    if (!whole) length = i;
  }
  return length;
}

bool Recovery::map_whole(const EntryHeader& entry, const std::byte* extra) {
  if (entry.slot >= metadata_.slot_count() || entry.segment >= metadata_.segment_limit() ||
      !is_sane(entry)) {
    return true;  // replay refuses it
  }
  const auto found = superseded_.find(entry.slot);
  const std::uint16_t superseded = found == superseded_.end() ? 0 : found->second;
  if (superseded == 0xffff) return true;
  BufferPool pool(kChunkBytes, 1);
  const BufferRef chunk = pool.get();
  // What cannot be read cannot be told; whoever reads it later gets the device's error.
  const Error error =
      device_.disk().read_now(metadata_.device_offset(entry.slot), {chunk.data(), kChunkBytes});
  if (error != Error::Ok) return true;
  for (std::uint32_t block = 0; block < kBlocksPerChunk; ++block) {
    if ((superseded | entry.damaged) >> block & 1) continue;
    std::uint32_t crc;
    std::memcpy(&crc, extra + block * 4u, 4);
    if (crc32c(chunk.data() + std::size_t{block} * kBlockBytes, kBlockBytes) != crc) return false;
  }
  return true;
}

// Notes what earlier entries no longer decide, once this one is replayed.
void Recovery::supersede(const EntryHeader& entry) {
  if (!is_sane(entry))
    return;  // replay refuses it, or it is a segment's: slots are freed one by one
  if (entry.kind == EntryKind::past) return;
  std::uint16_t blocks = 0xffff;  // map, copy, replace and free decide the whole chunk
  if (entry.kind == EntryKind::zero) blocks = entry.mask;
  if (entry.kind == EntryKind::write)
    blocks = static_cast<std::uint16_t>(((1u << entry.count) - 1) << entry.first);
  superseded_[entry.slot] |= blocks;
  const bool old_goes = entry.old_slot != format::kNoSlot && !(entry.flags & format::keeps_old);
  if (old_goes) superseded_[entry.old_slot] = 0xffff;
}

void Recovery::refuse_damage() {
  const std::uint64_t next = chain_.empty() ? record_.tail_lsn : chain_.back().lsn + 1;
  for (std::uint64_t offset = 0; offset < superblock_.journal_bytes; offset += kBlockBytes) {
    const BatchHeader* header = header_at(offset, 0);
    if (!header) continue;
    incarnation_seen_ = std::max(incarnation_seen_, header->incarnation);
    newest_seen_ = std::max(newest_seen_, header->lsn);
    if (header->lsn >= next && header->flushed_lsn >= next) {
      throw Fault(Error::StoreDamaged,
                  "journal batch " + std::to_string(next) +
                      " is damaged although it was flushed: rebuild this store from its peers");
    }
  }
}

std::uint64_t Recovery::newest_incarnation() const noexcept {
  return std::max(incarnation_seen_, record_.incarnation);
}

// Before anything is written: a copy that is opened once for each opening it lacks would be as new
// as the store itself, going by its number.
void Recovery::refuse_older_copy(std::uint64_t newest_opening) const {
  if (newest_incarnation() >= newest_opening || metadata_.segment_count() == 0) return;
  throw Fault(Error::OlderCopy, "store " + uuid_text(superblock_.store_id) +
                                    " is an older copy of itself: its newest opening is " +
                                    std::to_string(newest_incarnation()) + ", and " +
                                    std::to_string(newest_opening) +
                                    " is known of; put the newest back, or format it anew");
}

// Headers behind the end of the chain, torn or whole. A batch written over a torn one may itself be
// torn, and the sectors of the two together be the older one, sound: it would come back after it
// was seen not to be there. So they go before anybody is served.
void Recovery::erase_abandoned(const JournalPosition& newest) {
  const std::uint64_t size = superblock_.journal_bytes;
  const std::uint64_t live_bytes = newest.end_position - record_.tail_offset;
  for (std::uint64_t behind = live_bytes; behind < size; behind += kBlockBytes) {
    const std::uint64_t offset = (record_.tail_offset + behind) % size;
    const std::span<std::byte> block = journal_.mirror().subspan(offset, kBlockBytes);
    BatchHeader header;
    std::memcpy(static_cast<void*>(&header), block.data(), sizeof header);
    const bool abandoned = header.magic == format::kBatchMagic &&
                           header.store_id == superblock_.store_id && header.lsn > newest.lsn;
    if (!abandoned) continue;
    std::memset(block.data(), 0, kBlockBytes);
    if (device_.disk().write_now(superblock_.journal_offset + offset, block) != Error::Ok)
      throw Fault(Error::DiskError, "the device fails to write to the journal");
  }
}

// The pages of the slot table that replay will change.
std::vector<bool> Recovery::touched_pages() const {
  std::vector<bool> touched(superblock_.slot_page_count);
  const auto touch = [&](std::uint32_t slot) {
    if (slot < superblock_.slot_count) touched[slot / format::kRecordsPerPage] = true;
  };
  for (const Found& batch : chain_) {
    static_cast<void>(
        for_each_entry(header_of(batch), [&](const EntryHeader& entry, const std::byte*) {
          if (of_segment(entry)) return;
          touch(entry.slot);
          touch(entry.old_slot);
        }));
  }
  return touched;
}

void Recovery::replay() {
  for (const Found& batch : chain_) replay_batch(batch);
}

void Recovery::replay_batch(const Found& batch) {
  auto payload_block =
      static_cast<std::uint32_t>(batch.position % superblock_.journal_bytes / kBlockBytes) + 1;
  const bool parsed =
      for_each_entry(header_of(batch), [&](const EntryHeader& entry, const std::byte* extra) {
        replay_entry(entry, extra, batch, payload_block);
      });
  BLOCKD_ASSERT(parsed);
}

void Recovery::replay_entry(const EntryHeader& entry, const std::byte* extra, const Found& batch,
                            std::uint32_t& payload_block) {
  if (entry.kind == EntryKind::segment) return replay_segment(entry.segment, extra, batch.lsn);
  if (entry.kind == EntryKind::root) return replay_root(entry, batch.lsn);
  const bool sane = is_sane(entry) && entry.slot < metadata_.slot_count() &&
                    entry.segment < metadata_.segment_limit() &&
                    (entry.old_slot == format::kNoSlot || entry.old_slot < metadata_.slot_count());
  if (!sane)
    throw Fault(Error::StoreDamaged, "journal batch " + std::to_string(batch.lsn) +
                                         " contradicts itself or names no slot of this store");
  if (entry.kind == EntryKind::free) return release_slot(entry.slot, batch.lsn);
  if (entry.kind == EntryKind::past) {
    metadata_.change_slot(entry.slot, batch.lsn).died = entry.died;
    return;
  }
  format::SlotRecord& record = own_slot(entry, batch.lsn);
  std::uint16_t blocks = entry.mask;  // those that the CRCs are for
  if (entry.kind == EntryKind::write)
    blocks = static_cast<std::uint16_t>(((1u << entry.count) - 1) << entry.first);
  const bool mapped = entry.kind == EntryKind::map || entry.kind == EntryKind::copy;
  if (entry.kind == EntryKind::map) blocks = 0xffff;
  if (mapped || entry.kind == EntryKind::replace) {
    staged_.drop_all(entry.slot);
    record.valid_mask = 0;
    std::memset(record.crcs, 0, sizeof record.crcs);
  }
  record.version = entry.version;
  record.born = entry.born;
  record.died = entry.died;
  record.flags = (entry.flags & format::entry_covers) ? std::uint32_t{format::covers} : 0;
  if (entry.kind == EntryKind::zero) {
    staged_.drop(entry.slot, entry.mask);
    record.valid_mask &= static_cast<std::uint16_t>(~entry.mask);
  } else {
    record.valid_mask |= blocks;
  }
  for (std::uint32_t block = 0, i = 0; block < kBlocksPerChunk; ++block) {
    if (!(record.valid_mask >> block & 1)) record.crcs[block] = 0;
    if (entry.kind == EntryKind::copy) i = block;  // it has a CRC for the holes, too
    if (entry.kind == EntryKind::zero || !(blocks >> block & 1)) continue;
    std::memcpy(&record.crcs[block], extra + 4 * i++, 4);
    if (!mapped) staged_.stage(entry.slot, block, payload_block++);
  }
  if (entry.old_slot == format::kNoSlot) return;
  if (entry.flags & format::keeps_old) {
    metadata_.change_slot(entry.old_slot, batch.lsn).died = entry.born;
  } else {
    release_slot(entry.old_slot, batch.lsn);
  }
}

// The slot's page may be older or newer than this entry; either way the entries from here to the
// end of the journal decide every block that they name, and the page, if it is newer, decides the
// others.
format::SlotRecord& Recovery::own_slot(const EntryHeader& entry, std::uint64_t lsn) {
  format::SlotRecord& record = metadata_.change_slot(entry.slot, lsn);
  const bool owned = record.state == format::SlotState::used && record.segment == entry.segment &&
                     record.chunk == entry.chunk;
  if (!owned) {
    staged_.drop_all(entry.slot);
    record = format::SlotRecord{};
    record.state = format::SlotState::used;
    record.segment = entry.segment;
    record.chunk = entry.chunk;
  }
  return record;
}

void Recovery::release_slot(std::uint32_t slot, std::uint64_t lsn) {
  staged_.drop_all(slot);
  metadata_.change_slot(slot, lsn) = format::SlotRecord{};
}

void Recovery::replay_segment(std::uint32_t handle, const std::byte* extra, std::uint64_t lsn) {
  format::SegmentRecord record;
  std::memcpy(static_cast<void*>(&record), extra, sizeof record);
  if (handle >= metadata_.segment_limit() || !is_sane(record)) {
    throw Fault(Error::StoreDamaged,
                "journal batch " + std::to_string(lsn) + " names no segment of this store");
  }
  Segment& segment = metadata_.segment(handle);
  segment.record = record;
  metadata_.mark_segment(handle, lsn);
}

void Recovery::replay_root(const EntryHeader& entry, std::uint64_t lsn) {
  if (entry.segment >= metadata_.segment_limit()) {
    throw Fault(Error::StoreDamaged,
                "journal batch " + std::to_string(lsn) + " names no segment of this store");
  }
  format::SegmentRecord& record = metadata_.segment(entry.segment).record;
  record.root = {entry.version.epoch, entry.version.seq};
  record.flags |= format::has_root;
  metadata_.mark_segment(entry.segment, lsn);
}

}  // namespace blockd::store
