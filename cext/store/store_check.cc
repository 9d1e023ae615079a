// What check() looks at: does each slot have one owner, do the counts agree?
#include <string>
#include <vector>

#include "store/store_impl.h"

namespace blockd::store {

using format::kNoSlot;

namespace {

class SlotCensus {
 public:
  SlotCensus(const Metadata& metadata, std::vector<std::string>& problems)
      : metadata_(metadata), problems_(problems), owned_(metadata.slot_count()) {}

  void segment(SegmentHandle handle) {
    const Segment& segment = metadata_.segment(handle);
    const std::string name = "segment " + std::to_string(handle);
    std::uint32_t chunks = 0, tombstones = 0, covers = 0, past = 0;
    format::Root root;
    for (std::uint32_t chunk = 0; chunk < segment.slot_of_chunk.size(); ++chunk) {
      for (std::uint32_t slot = metadata_.history().first(handle, chunk); slot != kNoSlot;
           slot = metadata_.history().next(slot), ++past)
        owner(name, handle, chunk, slot, /*past=*/true);
      const std::uint32_t slot = segment.slot_of_chunk[chunk];
      if (slot == kNoSlot) continue;
      owner(name, handle, chunk, slot, /*past=*/false);
      const format::SlotRecord& record = metadata_.slot(slot);
      ++chunks;
      root += format::root_term(record);
      covers += is_cover(record) ? 1 : 0;
      tombstones += is_tombstone(record) ? 1 : 0;
      if (is_tombstone(record) && record.version < segment.oldest_tombstone)
        problems_.push_back(name + ": slot " + std::to_string(slot) + " is an older tombstone");
    }
    const auto agree = [&](bool same, const char* what) {
      if (!same) problems_.push_back(name + ": the count of " + what + " is off");
    };
    agree(chunks == segment.chunk_count, "chunks");
    agree(tombstones == segment.tombstone_count, "tombstones");
    agree(covers == segment.cover_count, "covering chunks");
    agree(past == metadata_.history().count(handle), "past slots");
    if (segment.used() && root != segment.record.root)
      problems_.push_back(name + ": the root is not that of its chunks");
  }

  [[nodiscard]] std::uint32_t owners(std::uint32_t slot) const { return owned_[slot]; }

 private:
  void owner(const std::string& name, SegmentHandle handle, std::uint32_t chunk, std::uint32_t slot,
             bool past) {
    const format::SlotRecord& record = metadata_.slot(slot);
    const bool matches = record.state == format::SlotState::used && record.segment == handle &&
                         record.chunk == chunk && (record.died != 0) == past;
    if (!matches)
      problems_.push_back(name + ": slot " + std::to_string(slot) + " denies its chunk");
    if (owned_[slot]++)
      problems_.push_back(name + ": slot " + std::to_string(slot) + " has two owners");
  }

  const Metadata& metadata_;
  std::vector<std::string>& problems_;
  std::vector<std::uint8_t> owned_;
};

}  // namespace

std::vector<std::string> StoreImpl::check() const {
  std::vector<std::string> problems;
  SlotCensus census(metadata_, problems);
  for (SegmentHandle handle = 0; handle < metadata_.segment_limit(); ++handle) {
    const Segment& segment = metadata_.segment(handle);
    if (segment.used() || segment.dropping()) census.segment(handle);
  }
  std::vector<std::uint8_t> freed(metadata_.slot_count());
  for (const FreedSlot& slot : freed_) ++freed[slot.slot];
  for (const ChunkCopy* copy : copies_.active()) ++freed[copy->to];
  std::uint32_t free_slots = 0;
  for (std::uint32_t slot = 0; slot < metadata_.slot_count(); ++slot) {
    const bool taken = metadata_.taken(slot);
    if (!taken) ++free_slots;
    if (census.owners(slot) + freed[slot] != (taken ? 1u : 0u))
      problems.push_back("slot " + std::to_string(slot) + " is leaked or shared");
    if (metadata_.slot(slot).state == format::SlotState::used && !census.owners(slot))
      problems.push_back("slot " + std::to_string(slot) + " is used by nobody");
    if (!census.owners(slot) && staged_.find(slot))
      problems.push_back("slot " + std::to_string(slot) + " is staged but free");
  }
  if (free_slots != metadata_.free_slots()) problems.push_back("the count of free slots is off");
  return problems;
}

}  // namespace blockd::store
