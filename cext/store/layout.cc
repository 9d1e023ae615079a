#include "store/layout.h"

#include <algorithm>
#include <cstring>

#include "store/constants.h"

namespace blockd::store {
namespace {

constexpr std::uint32_t kSlotsMin = 16;
constexpr std::uint64_t kZeroBytes = 1 << 20;

std::uint64_t align_up(std::uint64_t value, std::uint64_t to) {
  return (value + to - 1) / to * to;
}
std::uint32_t pages_for(std::uint64_t records) {
  return static_cast<std::uint32_t>((records + format::kRecordsPerPage - 1) /
                                    format::kRecordsPerPage);
}

std::uint64_t default_journal_bytes(std::uint64_t device_bytes) {
  const std::uint64_t share = device_bytes / kJournalShare / kBlockBytes * kBlockBytes;
  return std::clamp(share, kJournalBytesDefaultMin, kJournalBytesDefaultMax);
}

// Aligned memory for the blocking transfers of format and open.
struct AlignedBlock {
  alignas(kBlockBytes) std::byte bytes[kBlockBytes] = {};
};

void must(Error error, const char* what) {
  if (error != Error::Ok) throw Fault(error, std::string("the device failed: ") + what);
}

template <class Block>
void write_block(io::Disk& disk, std::uint64_t offset, const Block& block, const char* what) {
  AlignedBlock aligned;
  std::memcpy(aligned.bytes, &block, kBlockBytes);
  must(disk.write_now(offset, aligned.bytes), what);
}

std::uint64_t offset_of(format::FixedBlock block) {
  return static_cast<std::uint64_t>(block) * kBlockBytes;
}

void write_zeros(io::Disk& disk, std::uint64_t offset, std::uint64_t bytes) {
  BufferPool pool(kZeroBytes, 1);
  const BufferRef zeros = pool.get();
  std::memset(zeros.data(), 0, kZeroBytes);
  for (std::uint64_t done = 0; done < bytes;) {
    const std::uint64_t now = std::min(kZeroBytes, bytes - done);
    must(disk.write_now(offset + done, {zeros.data(), now}), "cannot write the journal");
    done += now;
  }
}

template <class PageType>
void write_empty_pages(io::Disk& disk, const Uuid& store_id, format::PageKind kind,
                       std::uint64_t offset, std::uint32_t count) {
  BufferPool pool(kZeroBytes, 1);
  const BufferRef staged = pool.get();
  const std::uint32_t per_write = kZeroBytes / kBlockBytes;
  for (std::uint32_t copy = 0; copy < 2; ++copy) {
    for (std::uint32_t first = 0; first < count; first += per_write) {
      const std::uint32_t now = std::min(per_write, count - first);
      for (std::uint32_t i = 0; i < now; ++i) {
        PageType page;
        page.store_id = store_id;
        page.kind = kind;
        page.number = first + i;
        page.generation = copy;  // copy B, generation 1, counts
        format::seal(page);
        std::memcpy(staged.data() + std::size_t{i} * kBlockBytes, &page, kBlockBytes);
      }
      const std::uint64_t at = offset + (std::uint64_t{copy} * count + first) * kBlockBytes;
      must(disk.write_now(at, {staged.data(), std::size_t{now} * kBlockBytes}),
           "cannot write metadata");
    }
  }
}

// The regions follow one another, in this order and in whole blocks, and end within the device.
bool is_sane(const format::Superblock& s) {
  if (s.version < format::kStoreVersionMin || s.block_bytes != kBlockBytes ||
      s.chunk_bytes != kChunkBytes)
    return false;
  std::uint64_t end = offset_of(format::FixedBlock::journal);
  const auto follows = [&](std::uint64_t offset, std::uint64_t bytes) {
    const bool fits = offset % kBlockBytes == 0 && bytes % kBlockBytes == 0 && offset >= end &&
                      offset <= s.device_bytes && bytes <= s.device_bytes - offset;
    end = offset + bytes;
    return fits;
  };
  return follows(s.journal_offset, s.journal_bytes) && s.journal_bytes >= kJournalBytesMin &&
         follows(s.segment_pages_offset, 2ull * s.segment_page_count * kBlockBytes) &&
         follows(s.slot_pages_offset, 2ull * s.slot_page_count * kBlockBytes) &&
         follows(s.data_offset, std::uint64_t{s.slot_count} * kChunkBytes) &&
         s.slot_count >= kSlotsMin && s.segment_page_count > 0 &&
         std::uint64_t{s.slot_page_count} * format::kRecordsPerPage >= s.slot_count;
}

}  // namespace

format::Superblock plan_layout(std::uint64_t device_bytes, const FormatOptions& options) {
  format::Superblock plan;
  plan.store_id = options.store_id;
  plan.cluster_id = options.cluster_id;
  plan.device_bytes = device_bytes / kBlockBytes * kBlockBytes;
  plan.journal_bytes = options.journal_bytes ? options.journal_bytes / kBlockBytes * kBlockBytes
                                             : default_journal_bytes(device_bytes);
  plan.journal_bytes = std::max(plan.journal_bytes, kJournalBytesMin);
  plan.journal_offset = offset_of(format::FixedBlock::journal);
  const std::uint64_t chunks = plan.device_bytes / kChunkBytes;
  const std::uint64_t segments =
      std::max<std::uint64_t>(kSegmentCountMin, chunks / kChunksPerSegment * kSegmentOvercommit);
  plan.segment_page_count = pages_for(segments);
  plan.slot_page_count = pages_for(chunks);  // a little more than the slots that remain
  plan.segment_pages_offset = plan.journal_offset + plan.journal_bytes;
  plan.slot_pages_offset = plan.segment_pages_offset + 2ull * plan.segment_page_count * kBlockBytes;
  plan.data_offset =
      align_up(plan.slot_pages_offset + 2ull * plan.slot_page_count * kBlockBytes, kChunkBytes);
  if (plan.data_offset + kSlotsMin * std::uint64_t{kChunkBytes} > plan.device_bytes) {
    throw Fault(Error::StoreTooSmall,
                "a device of " + std::to_string(device_bytes) +
                    " bytes is too small for a store with a journal of " +
                    std::to_string(plan.journal_bytes) + " bytes: give it at least " +
                    std::to_string(plan.data_offset + kSlotsMin * std::uint64_t{kChunkBytes}) +
                    " bytes");
  }
  plan.slot_count =
      static_cast<std::uint32_t>((plan.device_bytes - plan.data_offset) / kChunkBytes);
  plan.findings = options.findings;
  if (plan.findings.probed_unix_s != 0) plan.compatible_features |= format::has_device_findings;
  if (options.power_loss_protected) plan.compatible_features |= format::power_loss_protected;
  format::seal(plan);
  return plan;
}

void write_empty_store(io::Disk& disk, const format::Superblock& plan, std::uint64_t incarnation) {
  // The old superblocks go first and the new ones come last: a crash in between leaves no store at
  // all.
  write_zeros(disk, 0, offset_of(format::FixedBlock::journal));
  must(disk.flush_now(), "cannot flush");
  write_zeros(disk, plan.journal_offset, plan.journal_bytes);
  write_empty_pages<format::SegmentPage>(disk, plan.store_id, format::PageKind::segments,
                                         plan.segment_pages_offset, plan.segment_page_count);
  write_empty_pages<format::SlotPage>(disk, plan.store_id, format::PageKind::slots,
                                      plan.slot_pages_offset, plan.slot_page_count);
  format::CheckpointRecord record;
  record.store_id = plan.store_id;
  record.incarnation = incarnation;
  for (std::uint64_t generation : {0, 1}) {
    record.generation = generation;
    format::seal(record);
    write_block(disk, offset_of(format::FixedBlock::checkpoint_a) + generation * kBlockBytes,
                record, "cannot write the checkpoint record");
  }
  must(disk.flush_now(), "cannot flush");
  write_block(disk, offset_of(format::FixedBlock::superblock_a), plan,
              "cannot write the superblock");
  write_block(disk, offset_of(format::FixedBlock::superblock_b), plan,
              "cannot write the superblock");
  must(disk.flush_now(), "cannot flush");
}

// The copy that counts while both are sound comes last: what a crash leaves half-way is the older
// version, and brought up again.
void bring_up(io::Disk& disk, format::Superblock superblock) {
  superblock.version = format::kStoreVersion;
  format::seal(superblock);
  for (auto copy : {format::FixedBlock::superblock_b, format::FixedBlock::superblock_a}) {
    write_block(disk, offset_of(copy), superblock, "cannot write the superblock");
    must(disk.flush_now(), "cannot flush");
  }
}

format::Superblock read_superblock(io::Disk& disk) {
  if (disk.capacity_bytes() < offset_of(format::FixedBlock::journal)) {
    throw Fault(Error::StoreNotFormatted,
                "no blockd store here: the device is smaller than a superblock");
  }
  bool magic_seen = false, readable = false;
  for (auto which : {format::FixedBlock::superblock_a, format::FixedBlock::superblock_b}) {
    AlignedBlock block;
    if (disk.read_now(offset_of(which), block.bytes) != Error::Ok) continue;
    readable = true;
    format::Superblock superblock;
    std::memcpy(static_cast<void*>(&superblock), block.bytes, kBlockBytes);
    if (superblock.magic != format::kSuperblockMagic) continue;
    magic_seen = true;
    if (format::checksum_matches(superblock)) return superblock;
  }
  if (!readable) throw Fault(Error::DiskError, "the device fails to read its superblocks");
  if (magic_seen)
    throw Fault(Error::StoreDamaged,
                "both superblocks are damaged: rebuild this store from its peers");
  throw Fault(Error::StoreNotFormatted,
              "no blockd store here: format it with `blockd store format`");
}

void check_compatible(const format::Superblock& s, const Uuid& cluster_id,
                      std::uint64_t device_bytes) {
  if (s.version > format::kStoreVersion || s.incompatible_features != 0) {
    throw Fault(Error::StoreTooNew, "the store has format version " + std::to_string(s.version) +
                                        ", newer than this blockd reads (" +
                                        std::to_string(format::kStoreVersion) +
                                        "): upgrade blockd");
  }
  if (s.version < format::kStoreVersionMin) {
    throw Fault(Error::StoreDamaged,
                "the store has format version " + std::to_string(s.version) +
                    ", which this blockd no longer reads: format it anew with --force and have it "
                    "rebuilt from its peers");
  }
  if (s.cluster_id != cluster_id) {
    throw Fault(Error::StoreForeign, "the store belongs to cluster " + uuid_text(s.cluster_id) +
                                         ", not to " + uuid_text(cluster_id) +
                                         ": it is left untouched");
  }
  if (!is_sane(s))
    throw Fault(Error::StoreDamaged,
                "the superblock contradicts itself: rebuild this store from its peers");
  if (s.device_bytes > device_bytes) {
    throw Fault(Error::StoreDamaged, "the device has " + std::to_string(device_bytes) +
                                         " bytes, fewer than the " +
                                         std::to_string(s.device_bytes) + " it was formatted with");
  }
}

std::string uuid_text(const Uuid& id) {
  static constexpr char kHex[] = "0123456789abcdef";
  std::string text;
  for (std::size_t i = 0; i < id.bytes.size(); ++i) {
    if (i == 4 || i == 6 || i == 8 || i == 10) text += '-';
    text += kHex[id.bytes[i] >> 4];
    text += kHex[id.bytes[i] & 15];
  }
  return text;
}

}  // namespace blockd::store
