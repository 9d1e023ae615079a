#include "store/checker.h"

#include <cstring>
#include <map>
#include <memory>
#include <optional>
#include <type_traits>

#include "base/buffer.h"
#include "base/crc32c.h"
#include "format/root.h"
#include "store/inspection.h"
#include "store/journal_entries.h"
#include "store/json_writer.h"
#include "store/layout.h"
#include "store/soundness.h"

namespace blockd::store {
namespace {

using format::kRecordsPerPage;

constexpr const char* kRebuild = "rebuild this store from its peers";
constexpr const char* kRepairable = "blockd store check --repair rewrites it";
constexpr const char* kFromPeers =
    "the engine reads it from another replica; blockctl volume verify --read shows its extent";

template <class Bytes>
bool zero(const Bytes& bytes) noexcept {
  return format::all_zero({reinterpret_cast<const std::byte*>(&bytes), sizeof bytes});
}

// Sets right the one bit that has flipped, if one alone explains the damage. A damage that is not a
// single bit passes for one with a chance of 1 in 130,000 (32,768 bits, a CRC of 32).
template <class Block, class Sound>
bool flip_back(Block& block, Sound sound) {
  auto* bytes = reinterpret_cast<unsigned char*>(&block);
  for (std::size_t bit = 0; bit < sizeof block * 8; ++bit) {
    bytes[bit / 8] = static_cast<unsigned char>(bytes[bit / 8] ^ (1u << bit % 8));
    if (sound(block)) return true;
    bytes[bit / 8] = static_cast<unsigned char>(bytes[bit / 8] ^ (1u << bit % 8));
  }
  return false;
}

// One pass over the store.
class Checker {
 public:
  Checker(io::Disk& disk, const CheckOptions& options) : disk_(disk), options_(options) {}

  // True: something was repaired, and it all deserves another look.
  bool run(CheckReport& report);

 private:
  struct DamagedPage {
    std::uint32_t page = 0;  // of both kinds
    Finding finding;
    std::vector<std::byte> restored;  // empty: cannot be told
  };

  [[nodiscard]] bool check_superblocks();
  void check_records();
  void check_record(const BlockCopy<format::CheckpointRecord>& record, std::uint32_t copy);
  template <class PageType>
  void check_pages(std::uint32_t count, std::uint32_t first_page, const char* name);
  template <class PageType>
  void check_page_copy(BlockCopy<PageType>& found, std::uint32_t page, const Finding& finding);
  template <class PageType>
  void check_page_reserved(const PageType& page, const Finding& finding);
  void replay();
  void judge_pages();
  void judge_record();
  void check_batches();
  void note_abandoned_batches();
  [[nodiscard]] std::string damage_of_header(std::uint64_t position, std::uint64_t lsn);
  void check_segments();
  void check_slots();
  void check_slot(std::uint32_t slot);
  void check_roots();
  void check_data();
  void check_chunk_data(std::uint32_t slot, std::byte* chunk);

  [[nodiscard]] Place place_of(std::uint32_t slot) const;
  void problem(Finding finding);
  void note(Finding finding) { report_->notes.push_back(std::move(finding)); }
  void repair(const Finding& finding, const void* block, const char* how);
  [[nodiscard]] bool reserved_means_nothing() const noexcept {
    return superblock_.compatible_features == 0;
  }

  io::Disk& disk_;
  CheckOptions options_;
  CheckReport* report_ = nullptr;
  format::Superblock superblock_;
  std::unique_ptr<Inspection> inspection_;
  std::uint32_t sound_records_ = 0;
  std::optional<Finding> damaged_record_;
  bool pages_complete_ = true;   // of each page one copy is sound
  bool pages_in_doubt_ = false;  // a sound copy may be the older one
  bool replayed_ = false;
  bool repaired_ = false;
  std::vector<DamagedPage> damaged_pages_;
  std::vector<std::uint32_t> owner_;  // by segment handle and chunk, where known
  std::vector<std::size_t> first_owner_;
  std::vector<format::Root> roots_;  // by segment handle, over the slots that are there
};

bool Checker::run(CheckReport& report) {
  report_ = &report;
  if (!check_superblocks()) return repaired_;
  inspection_ = std::make_unique<Inspection>(disk_, superblock_);
  check_records();
  check_pages<format::SegmentPage>(superblock_.segment_page_count, 0, "segment page");
  check_pages<format::SlotPage>(superblock_.slot_page_count, superblock_.segment_page_count,
                                "slot page");
  replay();
  judge_record();
  judge_pages();
  if (!replayed_) return repaired_;
  check_batches();
  check_segments();
  check_slots();
  check_roots();
  if (options_.data) check_data();
  try {
    inspection_->metadata().check_torn_pages();
    inspection_->metadata().index(std::vector<bool>(superblock_.slot_page_count, true));
    report.opens = true;
  } catch (const Fault&) {  // what it found is among the problems
  }
  return repaired_;
}

void Checker::problem(Finding finding) {
  ++report_->problem_count;
  if (report_->problems.size() < kProblemsMax) report_->problems.push_back(std::move(finding));
}

void Checker::repair(const Finding& finding, const void* block, const char* how) {
  write_block_flushed(disk_, static_cast<std::uint64_t>(finding.place.device_offset), block);
  Finding done = finding;
  done.advice = how;
  report_->repaired.push_back(std::move(done));
  repaired_ = true;
}

// False: there is nothing to go on with.
bool Checker::check_superblocks() {
  BlockCopy<format::Superblock> copies[2];
  try {
    superblock_ = read_superblock(disk_);
    check_compatible(superblock_, superblock_.cluster_id, disk_.capacity_bytes());
  } catch (const Fault& fault) {
    if (fault.code() != Error::StoreDamaged && fault.code() != Error::DiskError) throw;
    Finding both{"superblock", {}, fault.what(), kRebuild};
    both.place.device_offset = 0;
    problem(std::move(both));
    return false;
  }
  report_->store_id = superblock_.store_id;
  report_->cluster_id = superblock_.cluster_id;
  for (std::uint32_t copy : {0u, 1u}) {
    copies[copy] = superblock_copy(disk_, copy);
    Finding finding{"superblock", {}, "", kRepairable};
    finding.place.device_offset = static_cast<std::int64_t>(copies[copy].device_offset);
    finding.place.copy = copy;
    if (copies[copy].sound) {
      if (reserved_means_nothing() &&
          (!zero(copies[copy].block.reserved) || copies[copy].block.reserved0 != 0)) {
        finding.what = "reserved bytes are not zero";
        finding.advice = "written by a newer blockd or by none: look at it before you rely on it";
        problem(std::move(finding));
      }
      continue;
    }
    finding.what = copies[copy].readable ? "this copy is damaged, the other one is sound"
                                         : "the device cannot read this copy; the other is sound";
    options_.repair ? repair(finding, &superblock_, "rewritten from the other copy")
                    : problem(std::move(finding));
  }
  const bool differ = copies[0].sound && copies[1].sound &&
                      std::memcmp(&copies[0].block, &copies[1].block, kBlockBytes) != 0;
  if (differ) {
    Finding finding{"superblock", {}, "both copies are sound and differ: copy 0 counts", kRebuild};
    finding.place.device_offset = 0;
    problem(std::move(finding));
  }
  return true;
}

void Checker::check_records() {
  for (std::uint32_t copy : {0u, 1u}) check_record(record_copy(disk_, superblock_, copy), copy);
}

void Checker::check_record(const BlockCopy<format::CheckpointRecord>& record, std::uint32_t copy) {
  Finding finding{"checkpoint record", {}, "", kRepairable};
  finding.place.device_offset = static_cast<std::int64_t>(record.device_offset);
  finding.place.copy = copy;
  if (record.sound) {
    ++sound_records_;
    if (!reserved_means_nothing() || zero(record.block.reserved)) return;
    finding.what = "reserved bytes are not zero";
    finding.advice = "written by a newer blockd or by none: look at it before you rely on it";
    return problem(std::move(finding));
  }
  finding.what = record.readable ? "this copy is damaged: torn by a crash, or rotten"
                                 : "the device cannot read this copy";
  format::CheckpointRecord restored = record.block;
  if (options_.repair && record.readable &&
      flip_back(restored, [&](const auto& r) { return is_sound(r, copy, superblock_); })) {
    return repair(finding, &restored, "one bit had flipped: set right");
  }
  if (!damaged_record_) {
    damaged_record_ = std::move(finding);
    return;
  }
  damaged_record_->advice = finding.advice = kRebuild;
  problem(*std::exchange(damaged_record_, std::nullopt));
  problem(std::move(finding));
}

template <class PageType>
void Checker::check_pages(std::uint32_t count, std::uint32_t first_page, const char* name) {
  auto copies = std::make_unique<BlockCopy<PageType>[]>(2);
  for (std::uint32_t number = 0; number < count; ++number, ++report_->metadata_pages) {
    for (std::uint32_t copy : {0u, 1u}) {
      copies[copy] = page_copy<PageType>(disk_, superblock_, number, copy);
      Finding finding{name, {}, "", kRebuild};
      finding.place.device_offset = static_cast<std::int64_t>(copies[copy].device_offset);
      finding.place.copy = copy;
      finding.place.page = number;
      check_page_copy(copies[copy], first_page + number, finding);
    }
    if (!copies[0].sound && !copies[1].sound) pages_complete_ = false;
    if (!copies[0].sound || !copies[1].sound) continue;
    const std::uint64_t a = copies[0].block.generation, b = copies[1].block.generation;
    if (a != b + 1 && b != a + 1) {
      Finding finding{name, {}, "", kRebuild};
      finding.place.device_offset = static_cast<std::int64_t>(copies[a < b ? 0 : 1].device_offset);
      finding.place.copy = a < b ? 0 : 1;
      finding.place.page = number;
      finding.what = "the generations " + std::to_string(a) + " and " + std::to_string(b) +
                     " do not follow one another: a write of this page was lost";
      problem(std::move(finding));
    }
  }
}

template <class PageType>
void Checker::check_page_copy(BlockCopy<PageType>& found, std::uint32_t page,
                              const Finding& finding) {
  if (found.sound) return check_page_reserved(found.block, finding);
  DamagedPage damaged{page, finding, {}};
  constexpr auto kKind = std::is_same_v<PageType, format::SegmentPage> ? format::PageKind::segments
                                                                       : format::PageKind::slots;
  const auto number = static_cast<std::uint32_t>(finding.place.page);
  const auto copy = static_cast<std::uint64_t>(finding.place.copy);
  const bool astray = found.readable && found.block.magic == format::kPageMagic &&
                      format::checksum_matches(found.block);
  damaged.finding.what = !found.readable ? "the device cannot read this copy"
                         : astray
                             ? "this copy is that of another page or store: a write went astray"
                             : "this copy is damaged";
  PageType restored = found.block;
  const bool one_bit = found.readable && !astray && flip_back(restored, [&](const PageType& p) {
                         return is_sound(p, kKind, number, copy, superblock_.store_id);
                       });
  if (one_bit) {
    damaged.restored.resize(kBlockBytes);
    std::memcpy(damaged.restored.data(), &restored, kBlockBytes);
  }
  damaged_pages_.push_back(std::move(damaged));
}

template <class PageType>
void Checker::check_page_reserved(const PageType& page, const Finding& finding) {
  if (!reserved_means_nothing()) return;
  bool clean = zero(page.reserved) && zero(page.reserved1);
  for (std::uint32_t i = 0; i < kRecordsPerPage; ++i) {
    clean = clean && zero(page.records[i].reserved);
    if constexpr (std::is_same_v<PageType, format::SegmentPage>) {
      clean = clean && (page.records[i].flags & ~format::has_root) == 0;
    } else {
      clean = clean && page.records[i].reserved0 == 0;
      clean = clean && (page.records[i].flags & ~format::covers) == 0;
      const std::uint64_t slot = std::uint64_t{page.number} * kRecordsPerPage + i;
      clean = clean && (slot < superblock_.slot_count || zero(page.records[i]));
    }
  }
  if (clean) return;
  Finding dirty = finding;
  dirty.what = "reserved bytes are not zero";
  dirty.advice = "written by a newer blockd or by none: look at it before you rely on it";
  problem(std::move(dirty));
}

void Checker::replay() {
  if (sound_records_ == 0 || !pages_complete_) {
    return note({"journal",
                 {},
                 "not looked at, nor are slots and data: too much else is damaged",
                 kRebuild});
  }
  try {
    inspection_->replay();
    replayed_ = true;
  } catch (const Fault& fault) {
    const Recovery& recovery = inspection_->recovery();
    const auto& chain = recovery.chain();
    Finding finding{"journal", {}, fault.what(), kRebuild};
    const std::uint64_t next =
        chain.empty() ? recovery.record().tail_offset : chain.back().position + chain.back().bytes;
    finding.place.device_offset =
        static_cast<std::int64_t>(inspection_->journal_device_offset(next));
    finding.place.lsn = static_cast<std::int64_t>(chain.empty() ? recovery.record().tail_lsn
                                                                : chain.back().lsn + 1);
    problem(std::move(finding));
    note({"slot record",
          {},
          "slots and data are not looked at: the journal does not replay",
          kRebuild});
  }
}

// Which page an interrupted checkpoint was writing the journal shows; the others have rotted.
void Checker::judge_pages() {
  for (DamagedPage& damaged : damaged_pages_) {
    Finding& finding = damaged.finding;
    if (replayed_ && inspection_->metadata().page_dirty(damaged.page)) {
      finding.what += "; the journal has what was being written there";
      finding.advice = "nothing to do: opening the store makes it good";
      note(std::move(finding));
      continue;
    }
    pages_in_doubt_ = true;
    if (damaged.restored.empty()) {
      finding.what += ", and nothing shows whether it or the other copy is the newer one";
      problem(std::move(finding));
    } else if (options_.repair) {
      repair(finding, damaged.restored.data(), "one bit had flipped: set right");
    } else {
      finding.what += ": one bit has flipped";
      finding.advice = kRepairable;
      problem(std::move(finding));
    }
  }
}

// The other record leads to a journal that replays to its end; the new copy says the same.
void Checker::judge_record() {
  if (!damaged_record_) return;
  if (!replayed_) {
    damaged_record_->advice = kRebuild;
    return problem(*std::move(damaged_record_));
  }
  if (!options_.repair) return problem(*std::move(damaged_record_));
  format::CheckpointRecord record = inspection_->recovery().record();
  ++record.generation;
  format::seal(record);
  repair(*damaged_record_, &record, "rewritten from the other copy");
}

void Checker::check_batches() {
  const Recovery& recovery = inspection_->recovery();
  report_->journal_batches = recovery.chain().size();
  note_abandoned_batches();
  if (!reserved_means_nothing()) return;
  for (const Recovery::Found& batch : recovery.chain()) {
    const BatchHeader& header = recovery.header_of(batch);
    const std::span<const std::byte> rest{header.entries + header.entry_bytes,
                                          sizeof header.entries - header.entry_bytes};
    bool clean = zero(header.reserved) && format::all_zero(rest);
    (void)for_each_entry(header, [&](const EntryHeader& entry, const std::byte*) {
      const bool known = (entry.flags & ~(format::keeps_old | format::entry_covers)) == 0;
      clean = clean && known && (entry.damaged == 0 || entry.kind == EntryKind::copy);
    });
    if (clean) continue;
    Finding finding{"journal",
                    {},
                    "reserved bytes are not zero",
                    "written by a newer blockd or by none: look at it before you rely on it"};
    finding.place.device_offset =
        static_cast<std::int64_t>(inspection_->journal_device_offset(batch.position));
    finding.place.lsn = static_cast<std::int64_t>(batch.lsn);
    problem(std::move(finding));
  }
}

// No flush is known to have covered them, so an open store will not have them. Where a flush had,
// and nothing was written after it, nothing on the device says so.
void Checker::note_abandoned_batches() {
  const Recovery& recovery = inspection_->recovery();
  const auto& chain = recovery.chain();
  const std::uint64_t next = chain.empty() ? recovery.record().tail_lsn : chain.back().lsn + 1;
  const std::uint64_t end =
      chain.empty() ? recovery.record().tail_offset : chain.back().position + chain.back().bytes;
  Finding finding{"journal", {}, "", "nothing to do after a crash; else compare it with its peers"};
  finding.place.lsn = static_cast<std::int64_t>(next);
  finding.place.device_offset = static_cast<std::int64_t>(inspection_->journal_device_offset(end));
  if (recovery.newest_seen() >= next) {
    finding.what = "the journal ends before batch " + std::to_string(next) +
                   ", which is torn or maps a chunk that is; headers up to batch " +
                   std::to_string(recovery.newest_seen()) +
                   " are there, and none says that it had been flushed";
    return note(std::move(finding));
  }
  for (const std::uint64_t position : {end, std::uint64_t{0}}) {
    finding.what = damage_of_header(position, next);
    if (finding.what.empty()) continue;
    finding.place.device_offset =
        static_cast<std::int64_t>(inspection_->journal_device_offset(position));
    return note(std::move(finding));
  }
}

// Whether batch `lsn` may have been there: empty, or what speaks for it.
std::string Checker::damage_of_header(std::uint64_t position, std::uint64_t lsn) {
  auto header = std::make_unique<BatchHeader>();
  const std::uint64_t at = inspection_->journal_device_offset(position);
  if (!read_block(disk_, at, header.get()))
    return "the device cannot read the block where batch " + std::to_string(lsn) + " would be";
  const bool torn = header->magic == format::kBatchMagic && header->lsn == lsn &&
                    header->store_id == superblock_.store_id;
  const bool rotten = !torn && flip_back(*header, [&](const BatchHeader& h) {
    return h.magic == format::kBatchMagic && h.lsn == lsn && format::checksum_matches(h) &&
           h.store_id == superblock_.store_id;
  });
  if (!torn && !rotten) return {};
  return "the header of batch " + std::to_string(lsn) +
         " is there and damaged: torn by a crash, or rotten";
}

// Also counts where the owners of each segment's chunks are noted.
void Checker::check_segments() {
  const Metadata& metadata = inspection_->metadata();
  std::map<SegmentId, SegmentHandle> seen;
  first_owner_.assign(metadata.segment_limit(), 0);
  roots_.assign(metadata.segment_limit(), {});
  for (SegmentHandle handle = 0; handle < metadata.segment_limit(); ++handle) {
    const format::SegmentRecord& record = metadata.segment(handle).record;
    Finding finding{"segment record", {}, "", kRebuild};
    finding.place.page = handle / kRecordsPerPage;
    finding.place.volume = record.volume;
    finding.place.segment = record.index;
    if (!is_sane(record)) {
      finding.what = "record " + std::to_string(handle) + " has state " +
                     std::to_string(static_cast<std::uint32_t>(record.state)) + " and " +
                     std::to_string(record.block_count) + " blocks";
      problem(std::move(finding));
      continue;
    }
    if (record.state == format::SegmentState::free) continue;
    if (record.state == format::SegmentState::used) {  // else its slots are being given back
      ++report_->segments;
      const auto [other, fresh] = seen.emplace(SegmentId{record.volume, record.index}, handle);
      if (!fresh) {
        finding.what = "records " + std::to_string(other->second) + " and " +
                       std::to_string(handle) + " are both this segment";
        problem(std::move(finding));
      }
    }
    first_owner_[handle] = owner_.size();
    owner_.resize(owner_.size() + (record.block_count + kBlocksPerChunk - 1) / kBlocksPerChunk,
                  format::kNoSlot);
  }
}

Place Checker::place_of(std::uint32_t slot) const {
  const Metadata& metadata = inspection_->metadata();
  const format::SlotRecord& record = metadata.slot(slot);
  Place place;
  place.device_offset = static_cast<std::int64_t>(metadata.device_offset(slot));
  place.slot = slot;
  place.page = slot / kRecordsPerPage;
  if (record.state != format::SlotState::used) return place;
  place.chunk = record.chunk;
  if (record.segment >= metadata.segment_limit()) return place;
  const format::SegmentRecord& segment = metadata.segment(record.segment).record;
  place.volume = segment.volume;
  place.segment = segment.index;
  return place;
}

void Checker::check_slots() {
  for (std::uint32_t slot = 0; slot < superblock_.slot_count; ++slot) check_slot(slot);
}

void Checker::check_slot(std::uint32_t slot) {
  const Metadata& metadata = inspection_->metadata();
  const format::SlotRecord& record = metadata.slot(slot);
  const auto wrong = [&](const std::string& what) {
    problem({"slot record", place_of(slot), what, kRebuild});
  };
  if (record.state == format::SlotState::free) {
    if (!zero(record)) wrong("the slot is free and its record is not empty");
    if (inspection_->any_staged(slot)) wrong("the slot is free and the journal has blocks for it");
    return;
  }
  if (record.state != format::SlotState::used) {
    return wrong("the slot has state " + std::to_string(static_cast<std::uint32_t>(record.state)));
  }
  ++report_->chunks;
  for (std::uint32_t block = 0; block < kBlocksPerChunk; ++block) {
    if (record.valid_mask >> block & 1 || record.crcs[block] == 0) continue;
    wrong("block " + std::to_string(block) + " of the chunk is a hole and has a CRC");
  }
  const bool owned = record.segment < metadata.segment_limit() &&
                     metadata.segment(record.segment).record.state != format::SegmentState::free &&
                     is_sane(metadata.segment(record.segment).record);
  if (!owned) return wrong("the slot is leaked: no segment " + std::to_string(record.segment));
  const format::SegmentRecord& segment = metadata.segment(record.segment).record;
  if (record.chunk >= (segment.block_count + kBlocksPerChunk - 1) / kBlocksPerChunk)
    return wrong("the chunk lies behind the end of its segment");
  if (record.died != 0) {
    ++report_->past_chunks;
    if (record.born >= record.died) wrong("the chunk's past content died before it was born");
    return;
  }
  std::uint32_t& owner = owner_[first_owner_[record.segment] + record.chunk];
  if (owner != format::kNoSlot)
    return wrong("slots " + std::to_string(owner) + " and " + std::to_string(slot) +
                 " both claim this chunk");
  owner = slot;
  roots_[record.segment] += format::root_term(record);
}

// Only what is flushed and then not there explains it: every other damage shows by itself.
void Checker::check_roots() {
  if (pages_in_doubt_) return;
  const Metadata& metadata = inspection_->metadata();
  for (SegmentHandle handle = 0; handle < metadata.segment_limit(); ++handle) {
    const format::SegmentRecord& record = metadata.segment(handle).record;
    const bool kept =
        record.state == format::SegmentState::used && (record.flags & format::has_root) != 0;
    if (!kept || roots_[handle] == record.root) continue;
    Finding finding{"segment record", {}, "", kRebuild};
    finding.place.page = handle / kRecordsPerPage;
    finding.place.volume = record.volume;
    finding.place.segment = record.index;
    finding.what = "the root is not that of the segment's chunks: a write of a page was lost";
    problem(std::move(finding));
  }
}

void Checker::check_data() {
  BufferPool pool(kChunkBytes, 1);
  const BufferRef chunk = pool.get();
  for (std::uint32_t slot = 0; slot < superblock_.slot_count; ++slot) {
    const format::SlotRecord& record = inspection_->metadata().slot(slot);
    if (record.state == format::SlotState::used && record.valid_mask != 0)
      check_chunk_data(slot, chunk.data());
  }
}

void Checker::check_chunk_data(std::uint32_t slot, std::byte* chunk) {
  const Metadata& metadata = inspection_->metadata();
  const format::SlotRecord& record = metadata.slot(slot);
  const std::uint64_t at = metadata.device_offset(slot);
  const bool whole = disk_.read_now(at, {chunk, kChunkBytes}) == Error::Ok;
  for (std::uint32_t block = 0; block < kBlocksPerChunk; ++block) {
    if (!(record.valid_mask >> block & 1)) continue;
    const std::size_t within = std::size_t{block} * kBlockBytes;
    const std::byte* bytes = inspection_->staged(slot, block);
    bool readable = true;
    if (!bytes) {
      bytes = chunk + within;
      readable = whole || disk_.read_now(at + within, {chunk + within, kBlockBytes}) == Error::Ok;
    }
    ++report_->blocks_verified;
    if (readable && crc32c(bytes, kBlockBytes) == record.crcs[block]) continue;
    Finding finding{"block", place_of(slot), "", kFromPeers};
    finding.place.device_offset = static_cast<std::int64_t>(at + within);
    finding.place.block = std::int64_t{record.chunk} * kBlocksPerChunk + block;
    finding.what = readable ? "the block does not match its CRC" : "the device cannot read it";
    problem(std::move(finding));
  }
}

}  // namespace

CheckReport check_store(io::Disk& disk, const CheckOptions& options) {
  constexpr int kRepairPasses = 3;  // what one repairs may let the next one see more
  std::vector<Finding> repaired;
  CheckOptions now = options;
  for (int pass = 1;; ++pass) {
    CheckReport report;
    now.repair = options.repair && pass <= kRepairPasses;
    now.data = options.data && !now.repair;
    const bool again = Checker(disk, now).run(report);
    repaired.insert(repaired.end(), report.repaired.begin(), report.repaired.end());
    if (again || (now.data != options.data)) {
      if (!again) pass = kRepairPasses;
      continue;
    }
    report.repaired = std::move(repaired);
    return report;
  }
}

namespace {

void write_findings(JsonWriter& json, std::string_view name, const std::vector<Finding>& findings) {
  json.key(name).begin_array();
  for (const Finding& finding : findings) {
    const Place& place = finding.place;
    json.begin_object().field("structure", finding.structure);
    json.field("what", finding.what).field("advice", finding.advice);
    const auto number = [&](std::string_view key, std::int64_t value) {
      if (value >= 0) json.field(key, static_cast<std::uint64_t>(value));
    };
    number("device_offset_bytes", place.device_offset);
    number("copy", place.copy);
    number("page", place.page);
    number("slot", place.slot);
    number("lsn", place.lsn);
    if (place.volume != Uuid{}) json.field("volume_id", uuid_text(place.volume));
    number("segment", place.segment);
    number("chunk", place.chunk);
    number("block", place.block);
    json.end_object();
  }
  json.end_array();
}

}  // namespace

std::string to_json(const CheckReport& report) {
  JsonWriter json;
  json.begin_object();
  json.field("store_id", uuid_text(report.store_id));
  json.field("cluster_id", uuid_text(report.cluster_id));
  json.key("sound").boolean(report.problem_count == 0);
  json.key("opens").boolean(report.opens);
  json.field("metadata_pages", report.metadata_pages);
  json.field("journal_batches", report.journal_batches);
  json.field("segments", report.segments).field("chunks", report.chunks);
  json.field("past_chunks", report.past_chunks);
  json.field("blocks_verified", report.blocks_verified);
  json.field("problem_count", report.problem_count);
  write_findings(json, "problems", report.problems);
  write_findings(json, "repaired", report.repaired);
  write_findings(json, "notes", report.notes);
  return json.end_object().text();
}

}  // namespace blockd::store
