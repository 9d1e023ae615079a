// The coordinator of one segment: versions, quorum, reads, leases, membership.
//
// The rules and why they hold: docs/REPLICATION.md; numbers in comments (I1, Q2, ...) are its.
//
// segment.cc         mutations: admission, fan-out, quorum
// segment_read.cc    reads, read-modify-write
// segment_flush.cc   flushes, the stable mark
// segment_member.cc  members, leases, the in-sync set
// segment_open.cc    gathering, reconciling
// segment_resync.cc  joins, copies, repairs
// segment_proof.cc   whether members hold the same
// segment_heal.cc    blocks that a copy's source has lost
// segment_past.cc    the past of a chunk that a copy brings along
// segment_preserve.cc  what a joiner has and the history has not, kept in a branch
//
// All on the loop's thread. What is decided late (membership, waiting requests) is decided in
// run(), which poke() has the engine call at the end of the loop's iteration.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <vector>

#include "engine/engine.h"
#include "engine/history.h"
#include "engine/member.h"
#include "engine/ops.h"
#include "engine/volume.h"

namespace blockd::engine {

// Of every segment, also of a volume's last one: where a volume has shrunk, its replicas have to
// agree about what is behind its end as well.
inline constexpr std::uint32_t kBlocksPerSegment = kSegmentBytes / kBlockBytes;

class Segment {
 public:
  Segment(Engine& engine, const SegmentConfig& config);
  ~Segment();
  Segment(const Segment&) = delete;
  Segment& operator=(const Segment&) = delete;

  void submit(Mutation& mutation) noexcept;
  void submit(Read& read) noexcept;
  void submit(Flush& flush) noexcept;

  void run() noexcept;
  void tick() noexcept;
  void host_lost(const MemberHost& host) noexcept;
  void host_back(const MemberHost& host) noexcept;
  void lease_renewed() noexcept;
  void configure(const SegmentConfig& config) noexcept;
  void ask_failed() noexcept;
  // Everything waiting or unanswered gets `error`.
  void fail_requests(Error error) noexcept;
  void announce_stable() noexcept;
  void leave_pace() noexcept;      // it resyncs nothing more
  void tell_preserved() noexcept;  // what resyncs have kept: they go no further
  void repair_chunk(std::uint32_t chunk, Era born, const Uuid& host_id,
                    std::function<void(Error)> done);

  [[nodiscard]] VolumeState state() const noexcept;
  [[nodiscard]] SegmentStatus status() const;
  [[nodiscard]] SegmentConfig config() const;
  [[nodiscard]] bool dirty() const noexcept {
    return max_acked_seq_ > flushed_seq_ || loss_untold_;
  }
  [[nodiscard]] bool serving() const noexcept;
  // Every member that may be taken for in sync holds what the eras before `era` brought, and
  // nothing of them is still to come.
  [[nodiscard]] bool settled_before(Era era) const noexcept;
  [[nodiscard]] bool waiting() const noexcept { return !waiting_.empty(); }
  [[nodiscard]] std::uint32_t index() const noexcept { return index_; }
  [[nodiscard]] std::uint64_t generation() const noexcept { return generation_; }

  bool poked = false;        // the engine's
  bool awaits_join = false;  // a member could be opened, but for the volume's other resyncs

 private:
  enum class Phase : std::uint8_t { gather, list, reconcile, flush, formed };
  struct RepairKey {
    std::uint32_t chunk = 0;
    Era born = 0;  // of a past content; 0: the current one
    std::uint32_t member = 0;
    bool operator==(const RepairKey&) const = default;
  };
  struct RepairWait {
    RepairKey key;
    MemberMask tried = 0;  // sources that could not read the chunk
    std::function<void(Error)> done;
  };
  // What a base member said of a chunk.
  struct Report {
    std::array<Version, kMembersMax> versions{};  // {0,0}: at or below the stable mark
    MemberMask past = 0;                          // has a past content above it
    MemberMask disowned = 0;                      // what it has was never acknowledged (O5)
  };
  using Reports = std::map<std::uint32_t, Report>;
  struct PlanItem {
    std::uint32_t chunk = 0;
    MemberMask targets = 0;
  };

  // segment.cc
  [[nodiscard]] bool try_admit(Mutation& mutation) noexcept;
  [[nodiscard]] bool held() const noexcept;
  void sequence(Mutation& mutation) noexcept;
  [[nodiscard]] MemberMask receivers(const Mutation& mutation) noexcept;
  void send_part(Mutation& mutation, std::uint32_t index) noexcept;
  static void part_done(peer::ReplicaOp& op) noexcept;
  void evaluate(Mutation& mutation) noexcept;
  void evaluate_all() noexcept;
  void count_lag(Mutation& mutation) noexcept;
  void uncount_lag(Mutation& mutation, std::uint32_t index) noexcept;
  void retire(Mutation& mutation) noexcept;
  void requeue(Mutation& mutation) noexcept;
  void again(Mutation& mutation) noexcept;
  void finish(Mutation& mutation, Error error) noexcept;
  [[nodiscard]] bool locked(std::uint32_t first, std::uint32_t end,
                            const RangeLock* own) const noexcept;
  [[nodiscard]] bool being_copied(std::uint32_t chunk) const noexcept;
  void lock(RangeLock& lock, std::uint32_t first, std::uint32_t end) noexcept;
  void unlock(RangeLock& lock) noexcept;
  void filter_add(std::uint32_t first, std::uint32_t count, int by) noexcept;
  [[nodiscard]] bool filter_hit(std::uint32_t first, std::uint32_t count) const noexcept;
  void pump() noexcept;
  void poke() noexcept;
  void wake_at(std::uint64_t at_us) noexcept;

  // segment_read.cc
  [[nodiscard]] bool try_prepare(Mutation& mutation) noexcept;
  void start_edge_read(Mutation& mutation, Read& read, std::uint32_t block) noexcept;
  void edge_read(Mutation& mutation, Error error) noexcept;
  void fill_prepared(Mutation& mutation) noexcept;
  [[nodiscard]] bool try_read(Read& read) noexcept;
  [[nodiscard]] MemberMask readable(const Read& read, bool& must_wait) const noexcept;
  static void read_part_done(peer::ReplicaOp& op) noexcept;
  void read_answered(Read& read) noexcept;
  void let_go_of_reads() noexcept;
  void abandon(Read& read) noexcept;
  [[nodiscard]] bool saw_unsettled(const Read& read) const noexcept;
  [[nodiscard]] bool split(Read& read) noexcept;
  void finish(Read& read, Error error) noexcept;

  // segment_flush.cc
  void pump_flushes() noexcept;
  void send_flush_part(Flush& flush, std::uint32_t index) noexcept;
  static void flush_part_done(peer::ReplicaOp& op) noexcept;
  void evaluate(Flush& flush) noexcept;
  [[nodiscard]] bool awaited(const Flush& flush) const noexcept;
  void background_flush() noexcept;
  void advance_stable() noexcept;
  static void stable_done(peer::ReplicaOp& op) noexcept;

  // segment_member.cc
  [[nodiscard]] std::uint32_t write_quorum(std::uint32_t members) const noexcept;
  [[nodiscard]] bool counted(MemberMask mask, MemberMask config) const noexcept;
  [[nodiscard]] bool quorum(MemberMask mask) const noexcept;
  [[nodiscard]] bool answerable(MemberMask mask) const noexcept;
  [[nodiscard]] bool meets_every_quorum(MemberMask mask) const noexcept;
  [[nodiscard]] MemberMask leased(std::uint64_t now_us) const noexcept;
  void start_open(std::uint32_t index) noexcept;
  void count_join(Member& member, bool joining) noexcept;
  static void open_done(peer::ReplicaOp& op) noexcept;
  void opened(Member& member) noexcept;
  void replica_missing(Member& member) noexcept;
  [[nodiscard]] bool lost() const noexcept;
  void open_members() noexcept;
  void member_failed(std::uint32_t index, Error error) noexcept;
  void member_error(std::uint32_t index, std::uint32_t session, Error error) noexcept;
  void become_ready(std::uint32_t index, std::uint64_t durable_seq) noexcept;
  void reopen() noexcept;
  void maybe_ask() noexcept;
  [[nodiscard]] bool may_ask_for(MemberMask wanted) noexcept;
  void emit_ask(const char* reason) noexcept;
  void maybe_serve() noexcept;
  void check_hung_operations() noexcept;
  [[nodiscard]] MemberMask hung_members() const noexcept;
  void time_out_requests() noexcept;
  void check_hung_controls() noexcept;
  void place_members(const SegmentConfig& config);
  [[nodiscard]] std::vector<Uuid> hosts_of(MemberMask mask) const;
  [[nodiscard]] MemberMask members_in(Member::State state) const noexcept;
  [[nodiscard]] std::uint32_t nearest(MemberMask mask) const noexcept;
  [[nodiscard]] std::uint32_t resync_source(MemberMask mask) const noexcept;
  void control(std::uint32_t owner, std::uint32_t at,
               void (*done)(peer::ReplicaOp&) noexcept) noexcept;
  bool control_back(peer::ReplicaOp& op) noexcept;

  // segment_open.cc
  void advance_gather() noexcept;
  void start_listing() noexcept;
  void list_page(std::uint32_t index) noexcept;
  static void list_done(peer::ReplicaOp& op) noexcept;
  [[nodiscard]] bool may_still_answer(const Member& member) const noexcept;
  void start_reconcile();
  void plan_chunk(std::uint32_t chunk, const Report& report);
  [[nodiscard]] Version highest_reported(std::uint32_t chunk) const noexcept;
  [[nodiscard]] MemberMask sources_of(const PlanItem& item) const noexcept;
  [[nodiscard]] MemberMask newest_at(std::uint32_t chunk) const noexcept;
  [[nodiscard]] bool disown_newest(std::uint32_t chunk);
  void opening_blocked(std::uint32_t chunk) noexcept;
  void advance_reconcile() noexcept;
  void reconciled(ChunkCopy& copy) noexcept;
  void start_base_flush() noexcept;
  static void base_flush_done(peer::ReplicaOp& op) noexcept;
  void look_for_loss(Version highest) noexcept;
  void form() noexcept;
  void restart_opening() noexcept;

  // segment_resync.cc
  void begin_join(std::uint32_t index);
  void join_list_joiner(std::uint32_t index, std::uint32_t from_chunk, Version above = {}) noexcept;
  void join_list_source(std::uint32_t index, std::uint32_t from_chunk, Version above = {}) noexcept;
  static void join_list_done(peer::ReplicaOp& op) noexcept;
  void take_page(Member& member, std::vector<Version>& versions,
                 std::vector<std::uint64_t>& past) noexcept;
  void compare(std::uint32_t index) noexcept;
  void advance_joins() noexcept;
  void advance_copying(std::uint32_t index) noexcept;
  [[nodiscard]] bool copy_next(std::uint32_t index) noexcept;
  [[nodiscard]] MemberMask join_sources(std::uint32_t index, std::uint32_t chunk) noexcept;
  static void join_flush_done(peer::ReplicaOp& op) noexcept;
  [[nodiscard]] bool accepts(Member& member, const Mutation& mutation) noexcept;
  void mark_missed(Member& member, const Mutation& mutation) noexcept;
  void mark_missed(Member& member, std::uint32_t first, std::uint32_t last) noexcept;  // chunks
  [[nodiscard]] ChunkCopy* start_copy(ChunkCopy::Why why, std::uint32_t chunk, std::uint32_t source,
                                      MemberMask targets) noexcept;
  void source_asked(ChunkCopy& copy, bool asked) noexcept;
  void end_pace(ChunkCopy& copy, std::uint64_t copy_us) noexcept;
  void pump_copies() noexcept;
  void let_go_of_copies() noexcept;
  [[nodiscard]] MemberMask awaited(const ChunkCopy& copy) const noexcept;
  void orphan_if_alone(ChunkCopy& copy) noexcept;
  [[nodiscard]] bool has_orphans(std::uint32_t index) const noexcept;
  void settle(ChunkCopy& copy) noexcept;
  void release(ChunkCopy& copy) noexcept;
  [[nodiscard]] bool try_copy(ChunkCopy& copy) noexcept;
  [[nodiscard]] bool quiet(const ChunkCopy& copy, bool with_targets) const noexcept;
  void read_current(ChunkCopy& copy) noexcept;
  void no_longer_pending(ChunkCopy& copy) noexcept;
  void count_copied(const ChunkCopy& copy, std::uint16_t valid_mask) noexcept;
  void resync_blocked(std::uint32_t index) noexcept;
  static void copy_read_done(peer::ReplicaOp& op) noexcept;
  void send_replaces(ChunkCopy& copy) noexcept;
  [[nodiscard]] MemberMask healers() const noexcept;
  [[nodiscard]] bool start_heal(ChunkCopy& copy) noexcept;
  void heal_next(ChunkCopy& copy) noexcept;
  static void heal_done(peer::ReplicaOp& op) noexcept;
  static void take_healed(ChunkCopy& copy) noexcept;
  static void replace_done(peer::ReplicaOp& op) noexcept;
  void finish(ChunkCopy& copy) noexcept;
  void resynced(ChunkCopy& copy) noexcept;
  void repaired(ChunkCopy& copy) noexcept;
  void repair(const Read& read, MemberMask damaged) noexcept;
  [[nodiscard]] bool start_repair(const RepairKey& key, MemberMask sources) noexcept;
  [[nodiscard]] bool repair_from_another(const ChunkCopy& copy, const RepairKey& key) noexcept;
  void end_repair_waits(const RepairKey& key, Error error) noexcept;

  // segment_proof.cc
  [[nodiscard]] MemberMask able_to_prove(MemberMask mask) const noexcept;
  [[nodiscard]] MemberMask joins_to_prove() const noexcept;
  void advance_proofs() noexcept;
  [[nodiscard]] bool begin_proof(MemberMask holders, MemberMask joins) noexcept;
  void ask_root(Proof& proof, std::uint32_t index) noexcept;
  static void root_done(peer::ReplicaOp& op) noexcept;
  [[nodiscard]] MemberMask same_life(const Proof& proof, MemberMask mask) const noexcept;
  [[nodiscard]] MemberMask awaited(const Proof& proof) const noexcept;
  void retire(Proof& proof) noexcept;
  void release(Proof& proof) noexcept;
  void judge_holders(const Proof& proof) noexcept;
  [[nodiscard]] MemberMask alike_with(const Proof& proof, std::uint32_t index,
                                      MemberMask holders) const noexcept;
  [[nodiscard]] MemberMask most_alike(const Proof& proof, MemberMask holders) const noexcept;
  void judge_joins(Proof& proof) noexcept;
  void joined_unproven(MemberMask joins) noexcept;
  void joined(std::uint32_t index) noexcept;
  void mismatched(std::uint32_t index) noexcept;
  void join_list_digests(std::uint32_t index, std::uint32_t from_chunk) noexcept;
  static void join_digests_done(peer::ReplicaOp& op) noexcept;
  void compare_digests(std::uint32_t index) noexcept;

  // segment_past.cc
  [[nodiscard]] bool with_past(const ChunkCopy& copy) const noexcept;
  void start_past(ChunkCopy& copy);
  [[nodiscard]] Version first_unagreed(std::uint32_t chunk) const noexcept;
  void send_past(ChunkCopy& copy, std::uint32_t to,
                 void (*done)(peer::ReplicaOp&) noexcept) noexcept;
  [[nodiscard]] bool past_back(ChunkCopy& copy, peer::ReplicaOp& op) noexcept;
  void list_states(ChunkCopy& copy, PastSync::Step step) noexcept;
  void list_states_page(ChunkCopy& copy) noexcept;
  static void states_listed(peer::ReplicaOp& op) noexcept;
  void fix_past(ChunkCopy& copy) noexcept;
  [[nodiscard]] bool goes_back(const ChunkCopy& copy) const noexcept;
  void wait_again(ChunkCopy& copy) noexcept;
  void fix_next(ChunkCopy& copy) noexcept;
  void forget_next(ChunkCopy& copy) noexcept;
  static void past_forgotten(peer::ReplicaOp& op) noexcept;
  void fetch_next(ChunkCopy& copy) noexcept;
  static void past_fetched(peer::ReplicaOp& op) noexcept;
  void bring_past(ChunkCopy& copy) noexcept;
  static void past_brought(peer::ReplicaOp& op) noexcept;
  [[nodiscard]] bool check_past(ChunkCopy& copy) noexcept;

  // segment_preserve.cc
  void find_diverged(Member& member);
  [[nodiscard]] bool try_preserve(ChunkCopy& copy) noexcept;
  static void held_read(peer::ReplicaOp& op) noexcept;
  void source_read(ChunkCopy& copy) noexcept;
  [[nodiscard]] std::uint32_t complete_held(ChunkCopy& copy) noexcept;
  void send_preserve(ChunkCopy& copy) noexcept;
  static void preserve_done(Preserve& content) noexcept;
  void preserved(ChunkCopy& copy) noexcept;
  void tell_preserved(Member& member) noexcept;

  Engine& engine_;
  std::uint32_t index_;
  std::uint64_t generation_ = 0;
  std::array<Member, kMembersMax> members_;
  MemberMask agreed_ = 0;  // in sync, as last heard
  MemberMask asked_ = 0;   // a change asked for and not answered: may become true at any time
  MemberMask ready_ = 0;
  std::uint64_t asked_at_us_ = 0;
  Phase phase_ = Phase::gather;
  bool serve_started_ = false;  // every agreed member was brought to one state
  bool ever_served_ = false;
  std::uint64_t grace_until_us_ = 0;
  std::uint64_t blocked_until_us_ = 0;  // an opening that nobody could read for
  bool reevaluate_ = false;             // a member is ready no more: less may be needed now
  bool reopen_wanted_ = false;
  std::uint64_t last_seq_ = 0;
  std::uint64_t max_acked_seq_ = 0;
  std::uint64_t flushed_seq_ = 0;  // a client was told so
  std::uint64_t lost_seq_ = 0;     // acknowledged up to here, and some of it went with a power loss
  bool loss_untold_ = false;       // the next flush fails
  Version stable_;
  Version base_stable_;
  History history_;
  Reports reports_;
  std::vector<PlanItem> plan_;                      // still to be reconciled
  std::map<std::uint32_t, MemberMask> unreadable_;  // sources that failed for a chunk of the plan
  MemberMask base_pending_ = 0;                     // base members still listing, or flushing
  std::vector<RepairKey> repairing_;
  std::vector<RepairWait> repair_waits_;  // who wants to know how they end
  peer::List<Proof> proofs_;              // rounds under way
  peer::List<Proof> lost_proofs_;         // over, with operations that are still out
  std::uint64_t proof_at_us_ = 0;         // the next one
  std::uint64_t proven_us_ = 0;           // when all that are ready last agreed; 0: never
  MemberMask differing_ = 0;              // did not agree when they were last asked
  std::uint64_t background_at_us_ = 0;
  bool background_under_way_ = false;
  ResyncPace::Waiter pace_waiter_;
  std::uint64_t resync_done_bytes_ = 0;
  std::uint64_t resync_total_bytes_ = 0;
  std::uint64_t resync_began_us_ = 0;
  peer::List<Mutation> in_flight_;  // in order of their sequence
  peer::List<Mutation> waiting_;
  peer::List<Read> waiting_reads_;
  peer::List<Read> sent_reads_;  // a member has them, oldest first
  peer::List<Read> held_reads_;  // have their data, may have seen an unsettled mutation
  peer::List<Flush> flushes_;
  peer::List<RangeLock> locks_;
  peer::List<ChunkCopy> copies_;         // waiting to begin
  peer::List<ChunkCopy> active_copies_;  // reading, replacing
  peer::List<ChunkCopy> orphans_;        // over, with operations that are still out
  std::uint32_t copies_under_way_ = 0;
  std::array<std::uint16_t, 256> filter_{};  // mutations in flight by chunk, hashed
  std::uint32_t wide_ = 0;                   // those too long to count by chunk
  io::Timer timer_;
};

}  // namespace blockd::engine
