#include "store/dump.h"

#include <bit>

#include "store/inspection.h"
#include "store/journal_entries.h"
#include "store/json_writer.h"
#include "store/layout.h"

namespace blockd::store {
namespace {

const char* name_of(EntryKind kind) noexcept {
  switch (kind) {
    case EntryKind::write:
      return "write";
    case EntryKind::map:
      return "map";
    case EntryKind::zero:
      return "zero";
    case EntryKind::free:
      return "free";
    case EntryKind::replace:
      return "replace";
    case EntryKind::segment:
      return "segment";
    case EntryKind::copy:
      return "copy";
    case EntryKind::past:
      return "past";
    case EntryKind::root:
      return "root";
  }
  return "unknown";
}

std::string hex(std::uint64_t value, int digits) {
  static constexpr char kHex[] = "0123456789abcdef";
  std::string text = "0x";
  for (int digit = digits - 1; digit >= 0; --digit) text += kHex[value >> digit * 4 & 15];
  return text;
}

std::string text_of(Version version) {
  return std::to_string(version.epoch) + "." + std::to_string(version.seq);
}

std::string text_of(const format::Root& root) {
  return hex(root.high, 16) + hex(root.low, 16).substr(2);
}

template <class Block>
void begin_copy(JsonWriter& json, std::uint32_t copy, const BlockCopy<Block>& found) {
  json.begin_object().field("copy", copy).field("device_offset_bytes", found.device_offset);
  json.field("state", found.sound ? "sound" : found.readable ? "damaged" : "unreadable");
}

void write_superblocks(JsonWriter& json, io::Disk& disk) {
  json.key("superblock").begin_array();
  for (const std::uint32_t copy : {0u, 1u}) {
    const auto found = superblock_copy(disk, copy);
    begin_copy(json, copy, found);
    const format::Superblock& s = found.block;
    if (found.sound) {
      json.field("version", s.version).field("store_id", uuid_text(s.store_id));
      json.field("cluster_id", uuid_text(s.cluster_id)).field("device_bytes", s.device_bytes);
      json.field("block_bytes", s.block_bytes).field("chunk_bytes", s.chunk_bytes);
      json.field("journal_offset_bytes", s.journal_offset).field("journal_bytes", s.journal_bytes);
      json.field("segment_pages_offset_bytes", s.segment_pages_offset);
      json.field("segment_page_count", s.segment_page_count);
      json.field("slot_pages_offset_bytes", s.slot_pages_offset);
      json.field("slot_page_count", s.slot_page_count);
      json.field("data_offset_bytes", s.data_offset).field("slot_count", s.slot_count);
      json.field("incompatible_features", hex(s.incompatible_features, 16));
      json.field("compatible_features", hex(s.compatible_features, 16));
    }
    json.end_object();
  }
  json.end_array();
}

void write_records(JsonWriter& json, io::Disk& disk, const format::Superblock& superblock) {
  json.key("checkpoint").begin_array();
  for (const std::uint32_t copy : {0u, 1u}) {
    const auto found = record_copy(disk, superblock, copy);
    begin_copy(json, copy, found);
    if (found.sound) {
      json.field("generation", found.block.generation).field("tail_lsn", found.block.tail_lsn);
      json.field("tail_offset_bytes", found.block.tail_offset);
      json.field("incarnation", found.block.incarnation);
    }
    json.end_object();
  }
  json.end_array();
}

void write_entry(JsonWriter& json, const EntryHeader& entry) {
  json.begin_object().field("kind", name_of(entry.kind)).field("segment_handle", entry.segment);
  if (entry.kind == EntryKind::root)
    json.field("root", text_of(format::Root{entry.version.epoch, entry.version.seq}));
  if (!of_segment(entry)) {
    json.field("chunk", entry.chunk).field("slot", entry.slot);
    json.field("version", text_of(entry.version));
  }
  if (entry.kind == EntryKind::write) json.field("first", entry.first).field("count", entry.count);
  const bool masked = entry.kind == EntryKind::zero || entry.kind == EntryKind::replace ||
                      entry.kind == EntryKind::copy;
  if (masked) json.field("mask", hex(entry.mask, 4));
  if (entry.old_slot != format::kNoSlot) json.field("old_slot", entry.old_slot);
  if (entry.flags & format::keeps_old) json.key("keeps_old").boolean(true);
  if (entry.born != 0) json.field("born", entry.born);
  if (entry.died != 0) json.field("died", entry.died);
  json.end_object();
}

void write_journal(JsonWriter& json, const Inspection& inspection) {
  const Recovery& recovery = inspection.recovery();
  json.key("journal").begin_array();
  for (const Recovery::Found& batch : recovery.chain()) {
    const BatchHeader& header = recovery.header_of(batch);
    json.begin_object().field("lsn", batch.lsn);
    json.field("device_offset_bytes", inspection.journal_device_offset(batch.position));
    json.field("bytes", batch.bytes).field("flushed_lsn", batch.flushed_lsn);
    json.field("incarnation", header.incarnation);
    json.key("entries").begin_array();
    (void)for_each_entry(
        header, [&](const EntryHeader& entry, const std::byte*) { write_entry(json, entry); });
    json.end_array().end_object();
  }
  json.end_array();
}

void write_segments(JsonWriter& json, const Metadata& metadata) {
  std::vector<std::uint32_t> chunks(metadata.segment_limit());
  for (std::uint32_t slot = 0; slot < metadata.slot_count(); ++slot) {
    const format::SlotRecord& record = metadata.slot(slot);
    if (record.state == format::SlotState::used && record.segment < chunks.size())
      ++chunks[record.segment];
  }
  json.key("segments").begin_array();
  for (SegmentHandle handle = 0; handle < metadata.segment_limit(); ++handle) {
    const format::SegmentRecord& record = metadata.segment(handle).record;
    if (record.state == format::SegmentState::free) continue;
    json.begin_object().field("handle", handle).field("volume_id", uuid_text(record.volume));
    json.field("state", record.state == format::SegmentState::used ? "used" : "dropping");
    json.field("segment", record.index).field("block_count", record.block_count);
    json.field("chunk_count", chunks[handle]).field("promised_epoch", record.promised_epoch);
    json.field("stable", text_of(record.stable));
    json.field("root", text_of(record.root)).end_object();
  }
  json.end_array();
}

void write_chunk(JsonWriter& json, Inspection& inspection, std::uint32_t slot) {
  const format::SlotRecord& record = inspection.metadata().slot(slot);
  std::uint16_t staged = 0;
  for (std::uint32_t block = 0; block < kBlocksPerChunk; ++block) {
    if (inspection.staged(slot, block)) staged |= static_cast<std::uint16_t>(1u << block);
  }
  json.begin_object().field("chunk", record.chunk).field("slot", slot);
  json.field("device_offset_bytes", inspection.metadata().device_offset(slot));
  json.field("version", text_of(record.version)).field("valid_mask", hex(record.valid_mask, 4));
  json.field("born", record.born);
  if (record.died != 0) json.field("died", record.died);
  if (record.flags & format::covers) json.key("covers").boolean(true);
  json.field("in_journal_mask", hex(staged, 4)).key("crcs").begin_array();
  for (const std::uint32_t crc : record.crcs) json.string(hex(crc, 8));
  json.end_array().end_object();
}

// By slot, not by chunk: a damaged table may have two slots for one.
void write_chunks(JsonWriter& json, Inspection& inspection, const SegmentId& id) {
  const Metadata& metadata = inspection.metadata();
  SegmentHandle handle = 0;
  const auto is_it = [&](const format::SegmentRecord& record) {
    return record.state == format::SegmentState::used && record.volume == id.volume &&
           record.index == id.index;
  };
  while (handle < metadata.segment_limit() && !is_it(metadata.segment(handle).record)) ++handle;
  if (handle == metadata.segment_limit()) {
    throw Fault(Error::NotFound, "no segment " + std::to_string(id.index) + " of volume " +
                                     uuid_text(id.volume) + " is here");
  }
  json.key("chunks").begin_array();
  for (std::uint32_t slot = 0; slot < metadata.slot_count(); ++slot) {
    const format::SlotRecord& record = metadata.slot(slot);
    if (record.state == format::SlotState::used && record.segment == handle)
      write_chunk(json, inspection, slot);
  }
  json.end_array();
}

}  // namespace

std::string dump_store(io::Disk& disk, const DumpOptions& options) {
  const format::Superblock superblock = read_superblock(disk);
  check_compatible(superblock, superblock.cluster_id, disk.capacity_bytes());
  JsonWriter json;
  json.begin_object();
  if (options.superblock) write_superblocks(json, disk);
  if (options.checkpoint) write_records(json, disk, superblock);
  if (options.segments || options.chunks || options.journal) {
    Inspection inspection(disk, superblock);
    inspection.replay();
    if (options.segments) write_segments(json, inspection.metadata());
    if (options.chunks) write_chunks(json, inspection, options.segment);
    if (options.journal) write_journal(json, inspection);
  }
  return json.end_object().text();
}

}  // namespace blockd::store
