// Recovery: from the checkpoint record and the journal to the state that the last process left
// behind.
//
// Invariant: what is recovered is a prefix of the journal that contains every flushed batch. The
// first batch that is torn, or whose mapped chunks did not reach the device, ends it; nothing after
// it was covered by a flush, else it would have been whole. A damaged batch that a later one says
// was flushed is no torn tail but a damaged store. Time is bounded by the journal's size and the
// metadata's. The journal is read first: only the pages that it changes have to stay in memory.
#pragma once

#include <unordered_map>
#include <vector>

#include "store/device.h"
#include "store/journal.h"
#include "store/metadata.h"
#include "store/staged_blocks.h"

namespace blockd::store {

class Recovery {
 public:
  Recovery(Device& device, const format::Superblock& superblock, Journal& journal,
           Metadata& metadata, StagedBlocks& staged);

  struct Found {  // a batch of the chain
    std::uint64_t lsn = 0;
    std::uint64_t position = 0;
    std::uint64_t bytes = 0;
    std::uint64_t flushed_lsn = 0;
  };

  // `newest_opening`: the highest incarnation that is known of. Throws Fault.
  void run(std::uint64_t newest_opening);
  // Its first half, for who only looks: the state in memory, nothing written. Throws Fault, and
  // leaves what it had come to.
  // `later`: which slot holds which chunk is not looked at (Metadata::index() does, for all pages).
  enum class Index : std::uint8_t { now, later };
  void replay_in_memory(Index index);
  [[nodiscard]] std::uint64_t record_generation() const noexcept { return record_.generation; }
  [[nodiscard]] const format::CheckpointRecord& record() const noexcept { return record_; }
  [[nodiscard]] const std::vector<Found>& chain() const noexcept { return chain_; }
  [[nodiscard]] const format::BatchHeader& header_of(const Found& batch) const;
  [[nodiscard]] const std::vector<bool>& touched() const noexcept { return touched_; }
  // The highest LSN of any sound header in the journal, also behind the end of the chain.
  [[nodiscard]] std::uint64_t newest_seen() const noexcept { return newest_seen_; }

 private:
  void read_record();
  void read_journal();
  void scan();
  [[nodiscard]] const format::BatchHeader* header_at(std::uint64_t offset, std::uint64_t lsn) const;
  [[nodiscard]] bool batch_whole(const format::BatchHeader& header, std::uint64_t offset) const;
  void verify_maps();
  [[nodiscard]] std::size_t whole_length(std::uint64_t flushed_lsn);
  [[nodiscard]] bool map_whole(const format::EntryHeader& entry, const std::byte* extra);
  void supersede(const format::EntryHeader& entry);
  void refuse_damage();
  [[nodiscard]] std::uint64_t newest_incarnation() const noexcept;
  void refuse_older_copy(std::uint64_t newest_opening) const;
  void erase_abandoned(const JournalPosition& newest);
  [[nodiscard]] std::vector<bool> touched_pages() const;
  void replay();
  void replay_batch(const Found& batch);
  void replay_entry(const format::EntryHeader& entry, const std::byte* extra, const Found& batch,
                    std::uint32_t& payload_block);
  void replay_segment(std::uint32_t handle, const std::byte* extra, std::uint64_t lsn);
  void replay_root(const format::EntryHeader& entry, std::uint64_t lsn);
  void release_slot(std::uint32_t slot, std::uint64_t lsn);
  [[nodiscard]] format::SlotRecord& own_slot(const format::EntryHeader& entry, std::uint64_t lsn);

  Device& device_;
  const format::Superblock& superblock_;
  Journal& journal_;
  Metadata& metadata_;
  StagedBlocks& staged_;
  format::CheckpointRecord record_;
  std::vector<Found> chain_;
  std::uint64_t incarnation_seen_ = 0;
  std::uint64_t newest_seen_ = 0;
  std::unordered_map<std::uint32_t, std::uint16_t> superseded_;  // by slot: later entries decide
  std::vector<bool> touched_;  // pages of the slot table that replay changes
};

}  // namespace blockd::store
