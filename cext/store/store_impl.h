// The store itself: takes operations in order and hands them to its parts.
//
// Mutations start in the order of submission; the first that cannot (journal full, its chunk busy
// with a direct write) holds up those behind it, so the order per chunk (S3) needs no further care.
// Reads overtake. A record in memory changes when its journal entry is appended. Everything on one
// loop.
#pragma once

#include <deque>

#include "format/root.h"
#include "store/checkpoint.h"
#include "store/checkpoint_schedule.h"
#include "store/copies.h"
#include "store/direct_writer.h"
#include "store/flusher.h"
#include "store/journal.h"
#include "store/metadata.h"
#include "store/pieces.h"
#include "store/reader.h"
#include "store/recovery.h"
#include "store/snapshot_sets.h"
#include "store/staged_blocks.h"
#include "store/views.h"

namespace blockd::store {

using format::EntryHeader;

class StoreImpl final : public Store, private JournalListener {
 public:
  StoreImpl(io::Disk& disk, io::Loop& loop, Buffers& buffers, const format::Superblock& superblock,
            std::uint64_t metadata_cache_bytes);
  ~StoreImpl() override;
  void recover(std::uint64_t newest_opening);

  void record_opening(Done done) override;
  void create_segment(SegmentId id, std::uint32_t block_count, Done done) override;
  void drop_segment(SegmentHandle segment, Done done) override;
  void resize_segment(SegmentHandle segment, std::uint32_t block_count, Done done) override;
  void promise_epoch(SegmentHandle segment, std::uint64_t epoch, Done done) override;
  [[nodiscard]] std::optional<SegmentHandle> find_segment(SegmentId id) const noexcept override;
  [[nodiscard]] std::vector<SegmentHandle> segments() const override;
  [[nodiscard]] SegmentInfo segment_info(SegmentHandle segment) const noexcept override;
  void set_stable(SegmentHandle segment, Version stable) noexcept override;
  void submit(StoreOp& op) noexcept override;
  void set_snapshots(SnapshotSet set) override;
  [[nodiscard]] SegmentHandle open_view(SegmentHandle segment, Era era) override;
  void close_view(SegmentHandle view) noexcept override;
  [[nodiscard]] std::size_t list_states(SegmentHandle segment, std::uint32_t from_chunk,
                                        Version above, std::span<ChunkState> out) const override;
  [[nodiscard]] std::size_t list_chunks(SegmentHandle segment, std::uint32_t from_chunk,
                                        Version above,
                                        std::span<ChunkVersion> out) const noexcept override;
  [[nodiscard]] Version chunk_version(SegmentHandle segment,
                                      std::uint32_t chunk) const noexcept override;
  [[nodiscard]] std::uint16_t chunk_valid_mask(SegmentHandle segment,
                                               std::uint32_t chunk) const noexcept override;
  [[nodiscard]] std::size_t list_digests(SegmentHandle segment, std::uint32_t from_chunk,
                                         std::span<ChunkDigest> out) const noexcept override;
  [[nodiscard]] BlockLocation locate(SegmentHandle segment,
                                     std::uint32_t block) const noexcept override;
  [[nodiscard]] bool metadata_lost() const noexcept override {
    return metadata_.slot_pages().any_lost();
  }
  [[nodiscard]] StoreInfo info() const noexcept override;
  [[nodiscard]] const StoreStats& stats() const noexcept override { return device_.stats; }
  [[nodiscard]] std::vector<std::string> check() const override;
  void close(Done done) override;

 private:
  enum class Start : std::uint8_t { started, blocked, failed };
  struct FreedSlot {  // reusable once the entry that freed it is flushed
    std::uint32_t slot = 0;
    std::uint64_t lsn = 0;
  };
  struct ForgetTurn {  // a segment whose past is looked through
    SegmentHandle segment = 0;
    std::uint32_t chunk = 0;
    std::uint32_t waits = 0;  // for pages of this chunk
  };
  struct WritePlan {  // pieces and what they hold, but for those that are zeros
    PieceMask zeros = 0;
    std::uint32_t zero_entries = 0;  // zeros where something is stored
    std::uint32_t pieces = 0, blocks = 0;
    std::uint32_t fresh = 0;   // pieces that take a fresh slot
    std::uint32_t copies = 0;  // pieces in chunks that were copied for them
    bool copying = false;      // a copy is still under way
    bool no_room = false;      // a copy could not be begun
    std::uint32_t whole = 0;   // pieces that are whole chunks, all of them within:
    std::uint32_t first_whole = 0, end_whole = 0, whole_at = 0;
  };
  struct MetaOp {  // a change of the segment table; durable before done
    std::function<Start(MetaOp&)> append;
    Done done;
    std::uint64_t lsn = 0;
    Error error = Error::Ok;
  };

  // While a current slot's record changes: what it adds to the segment's root goes at the beginning
  // and comes back at the end. REQUIRES: the open batch gets the entry that says so.
  class RootChange {
   public:
    RootChange(StoreImpl& store, SegmentHandle segment, const format::SlotRecord& record) noexcept
        : store_(store), segment_(segment), record_(record) {
      store_.root_of(segment_) -= format::root_term(record_);
    }
    ~RootChange() { store_.root_of(segment_) += format::root_term(record_); }
    RootChange(const RootChange&) = delete;
    RootChange& operator=(const RootChange&) = delete;

   private:
    StoreImpl& store_;
    SegmentHandle segment_;
    const format::SlotRecord& record_;
  };

  // JournalListener
  void batch_done(std::uint64_t lsn, StoreOp* ops, Error error) noexcept override;
  void batch_closes() noexcept override;

  // Progress (store_impl.cc)
  void wake() noexcept { loop_.defer(end_task_); }
  void pump() noexcept;
  void iteration_end() noexcept;
  void finish(StoreOp& op, Error error) noexcept;
  void deliver() noexcept;
  void fail_everything() noexcept;
  void flushed(StoreOp* ops, Error error) noexcept;
  void reclaim_slots() noexcept;
  void maybe_checkpoint() noexcept;
  void idle_timer_fired() noexcept;
  void maybe_closed() noexcept;
  // Metadata pages that an operation needs (store_paging.cc)
  [[nodiscard]] bool pages_ready(const StoreOp& op) noexcept;
  [[nodiscard]] bool chunk_ready(const StoreOp& op, std::uint32_t chunk) noexcept;
  [[nodiscard]] bool may_start(const StoreOp& op) noexcept;  // the first mutation in line
  void page_came() noexcept;
  void read(StoreOp& op) noexcept;
  void start_cold_reads() noexcept;
  [[nodiscard]] const std::uint32_t* slot_of(SegmentHandle segment,
                                             std::uint32_t chunk) const noexcept;
  [[nodiscard]] std::uint32_t chunk_limit(SegmentHandle segment) const noexcept;

  // Mutations (store_mutations.cc)
  [[nodiscard]] Error validate(const StoreOp& op) const noexcept;
  [[nodiscard]] Start start(StoreOp& op) noexcept;
  [[nodiscard]] WritePlan plan_write(const StoreOp& op) noexcept;
  [[nodiscard]] Start start_write(StoreOp& op) noexcept;
  [[nodiscard]] Start start_zero(StoreOp& op) noexcept;
  [[nodiscard]] std::uint32_t slots_of_zero(const StoreOp& op) const noexcept;
  [[nodiscard]] Start start_replace(StoreOp& op) noexcept;
  [[nodiscard]] Start start_drop(StoreOp& op) noexcept;
  [[nodiscard]] Start no_space(StoreOp& op) noexcept;
  [[nodiscard]] std::uint32_t place(const StoreOp& op, std::uint32_t chunk, std::uint16_t mask,
                                    EntryHeader& entry) noexcept;
  void leave(const StoreOp& op, std::uint32_t chunk, EntryHeader& entry) noexcept;
  [[nodiscard]] Start end_with(StoreOp& op, std::uint64_t lsn) noexcept;
  [[nodiscard]] Start journal_blocks(StoreOp& op, PieceMask zeros, bool direct_started) noexcept;
  void count_map_bytes(std::uint64_t bytes) noexcept;
  [[nodiscard]] bool append_maps() noexcept;
  void append_map(const StoreOp& op, std::uint32_t chunk, std::uint32_t slot,
                  const std::uint32_t* crcs) noexcept;
  void append_write(const StoreOp& op, std::uint32_t chunk, std::uint32_t first,
                    std::uint32_t count, std::uint32_t op_block) noexcept;
  void append_replace(const StoreOp& op, std::uint32_t chunk, EntryHeader entry) noexcept;
  void fill_replaced(const StoreOp& op, std::uint32_t slot, format::SlotRecord& record) noexcept;
  void append_zero(const StoreOp& op, std::uint32_t chunk, std::uint16_t mask) noexcept;
  void append_free(SegmentHandle segment, std::uint32_t chunk, std::uint32_t slot) noexcept;
  [[nodiscard]] Start need_slots(const StoreOp& op, std::uint32_t count) noexcept;
  void own_slot(SegmentHandle segment, std::uint32_t chunk, std::uint32_t slot) noexcept;
  void disown(SegmentHandle segment, std::uint32_t chunk, std::uint32_t slot) noexcept;
  void free_slot(SegmentHandle segment, std::uint32_t chunk, std::uint32_t slot) noexcept;
  [[nodiscard]] format::Root& root_of(SegmentHandle segment) noexcept;
  [[nodiscard]] Start start_root(StoreOp& op) noexcept;
  void set_mask(SegmentHandle segment, format::SlotRecord& record, std::uint16_t mask,
                bool covers) noexcept;

  // The past (store_past.cc)
  enum class Room : std::uint8_t { in_place, fresh, copied, copying, none };
  [[nodiscard]] bool kept(SegmentHandle segment, const format::SlotRecord& record,
                          Era until) const noexcept;
  [[nodiscard]] Room room_for(const StoreOp& op, std::uint32_t chunk, std::uint16_t mask) noexcept;
  void copy_ahead(const StoreOp& op) noexcept;
  [[nodiscard]] ChunkCopy* copy_for(const StoreOp& op, std::uint32_t chunk) noexcept;
  void append_copy(const StoreOp& op, ChunkCopy& copy) noexcept;
  void make_past(SegmentHandle segment, std::uint32_t chunk, std::uint32_t slot, Era died) noexcept;
  [[nodiscard]] std::uint32_t past_slot(SegmentHandle segment, std::uint32_t chunk,
                                        Version version) const noexcept;
  [[nodiscard]] Start start_past(StoreOp& op) noexcept;
  [[nodiscard]] Start start_forget(StoreOp& op) noexcept;
  void append_forget(SegmentHandle segment, std::uint32_t chunk, std::uint32_t slot) noexcept;
  void look_through_past(const Uuid& volume) noexcept;
  [[nodiscard]] bool append_forgets() noexcept;
  [[nodiscard]] bool forget_chunk(ForgetTurn& turn, bool& wait) noexcept;
  [[nodiscard]] bool page_there(ForgetTurn& turn, std::uint32_t slot) noexcept;
  [[nodiscard]] bool uncover(ForgetTurn& turn, bool& wait) noexcept;

  // Segments (store_segments.cc)
  [[nodiscard]] bool append_segment(SegmentHandle segment) noexcept;
  [[nodiscard]] bool append_meta_ops() noexcept;
  [[nodiscard]] bool append_reaps() noexcept;
  [[nodiscard]] bool reap_tombstones(SegmentHandle segment) noexcept;
  void want_reap(SegmentHandle segment) noexcept;
  void queue_meta(std::function<Start(MetaOp&)> append, Done done);
  [[nodiscard]] Start append_create(MetaOp& op, SegmentId id, std::uint32_t block_count);
  [[nodiscard]] Start append_drop(MetaOp& op, SegmentHandle segment);
  void end_meta_ops() noexcept;
  void refuse_waiting(SegmentHandle segment) noexcept;
  [[nodiscard]] bool append_drops() noexcept;
  [[nodiscard]] bool drop_chunks(SegmentHandle segment) noexcept;
  [[nodiscard]] bool drop_pages_ready(SegmentHandle segment, std::uint32_t cursor_slot) noexcept;
  [[nodiscard]] std::uint32_t any_slot(SegmentHandle segment, std::uint32_t chunk) const noexcept;

  io::Loop& loop_;
  format::Superblock superblock_;
  Device device_;
  Metadata metadata_;
  mutable Views views_;  // finds out what it shows when asked
  SnapshotSets snapshots_;
  StagedBlocks staged_;
  Journal journal_;
  Flusher flusher_;
  Reader reader_;
  DirectWriter direct_;
  ChunkCopies copies_;
  const CheckpointSchedule schedule_;
  std::span<std::byte> small_buffers_;      // registered: pinning pages is felt with single blocks
  std::unique_ptr<Checkpoint> checkpoint_;  // after recovery
  io::Task end_task_;
  io::Timer idle_timer_;
  std::uint64_t idle_lsn_ = 0;    // the newest when the timer was armed
  std::uint64_t idle_reads_ = 0;  // by then

  StoreOp* waiting_head_ = nullptr;  // mutations not started, in order
  StoreOp* waiting_tail_ = nullptr;
  StoreOp* cold_reads_ = nullptr;  // waiting for metadata pages
  std::uint32_t pages_came_ = 0;   // since a mutation last started
  StoreOp* finished_head_ = nullptr;
  StoreOp* finished_tail_ = nullptr;
  bool delivering_ = false;
  std::deque<FreedSlot> freed_;
  std::deque<MetaOp> meta_waiting_;
  std::deque<MetaOp> meta_ending_;
  std::deque<SegmentHandle> dropping_;
  std::deque<ForgetTurn> forgetting_;
  std::uint32_t forget_allowed_ = kForgetSlots;  // until the timer fires
  io::Timer forget_timer_;
  std::vector<SegmentHandle> root_changed_;  // by entries of the open batch
  std::vector<SegmentHandle> reaping_;       // segments whose stable mark has moved
  std::uint64_t reaped_lsn_ = 0;             // of the newest entry that freed a tombstone
  std::uint64_t unflushed_map_bytes_ = 0;    // since a flush was last asked for
  std::uint64_t mutations_in_flight_ = 0;
  bool stopping_ = false;  // close() was called
  Done closing_;
  bool closing_checkpointed_ = false;
};

}  // namespace blockd::store
