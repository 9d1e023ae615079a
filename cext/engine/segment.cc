// Mutations: admission, fan-out to the members, the write quorum.
#include "engine/segment.h"

#include <algorithm>
#include <utility>

#include "base/assert.h"
#include "base/crc32c.h"

namespace blockd::engine {

using peer::ReplicaOp;

Segment::Segment(Engine& engine, const SegmentConfig& config)
    : engine_(engine), index_(config.index), generation_(config.generation) {
  place_members(config);
  timer_.owner = this;
  timer_.fire = [](io::Timer& timer) noexcept { static_cast<Segment*>(timer.owner)->poke(); };
  pace_waiter_.owner = this;
  pace_waiter_.ready = [](ResyncPace::Waiter& waiter) noexcept {
    static_cast<Segment*>(waiter.owner)->poke();
  };
}

Segment::~Segment() {
  engine_.loop.cancel(timer_);
  engine_.pace.forget(pace_waiter_);
}

// Other volumes' copies would have it run again; its own will not begin any more, or end nobody
// knows when.
void Segment::leave_pace() noexcept {
  engine_.pace.cancel(pace_waiter_);
  for (const auto* list : {&copies_, &active_copies_}) {
    for (ChunkCopy* copy = list->front(); copy != nullptr;
         copy = peer::List<ChunkCopy>::next(*copy))
      end_pace(*copy, 0);
  }
}

void Segment::poke() noexcept {
  engine_.poke(*this);
}

void Segment::wake_at(std::uint64_t at_us) noexcept {
  if (!timer_.armed() || at_us < timer_.deadline_us) engine_.loop.arm(timer_, at_us);
}

// What is decided late; the fast path never comes here.
void Segment::run() noexcept {
  if (engine_.fenced || engine_.closed) return leave_pace();
  open_members();
  if (std::exchange(reevaluate_, false)) evaluate_all();
  if (phase_ == Phase::gather) advance_gather();
  if (phase_ == Phase::reconcile) advance_reconcile();
  pump_copies();
  advance_joins();
  engine_.pace.give_back(pace_waiter_);
  advance_proofs();
  if (std::exchange(reopen_wanted_, false) && phase_ == Phase::formed) reopen();
  maybe_ask();
  maybe_serve();
  pump_flushes();
  pump();
}

void Segment::submit(Mutation& mutation) noexcept {
  mutation.segment = this;
  mutation.started_us = engine_.loop.now_us();
  mutation.quorum_acked = mutation.requeue = mutation.no_space = mutation.completed = false;
  mutation.abandoned = mutation.reread = false;
  mutation.acked = mutation.outstanding = mutation.lagging = 0;
  mutation.read_error = Error::Ok;
  const bool begun =
      mutation.stage == Mutation::Stage::prepare ? try_prepare(mutation) : try_admit(mutation);
  if (!begun) waiting_.push_back(mutation);
}

bool Segment::try_admit(Mutation& mutation) noexcept {
  const std::uint32_t end = mutation.first_block + mutation.block_count;
  if (held() || !serving() || locked(mutation.first_block, end, &mutation.lock)) return false;
  sequence(mutation);
  return true;
}

bool Segment::held() const noexcept {
  return engine_.hold_until_us != 0 && engine_.loop.now_us() < engine_.hold_until_us;
}

// A member that is agreed in sync and was given up still counts for those who read snapshots: it
// has to be out of the set, or to hold everything again. What an operation of an ended session may
// still do is refused there (F3).
bool Segment::settled_before(Era era) const noexcept {
  if (!serve_started_ || ((agreed_ | asked_) & ~ready_) != 0) return false;
  for (const Mutation* m = in_flight_.front(); m != nullptr && m->era < era;
       m = peer::List<Mutation>::next(*m)) {
    if (!m->quorum_acked) return false;
    for (std::uint32_t i = 0; i < kMembersMax; ++i) {
      const bool here =
          (m->outstanding & member_bit(i)) && m->parts[i].session == members_[i].session;
      if (here) return false;
    }
  }
  return true;
}

void Segment::sequence(Mutation& mutation) noexcept {
  BLOCKD_ASSERT(mutation.outstanding == 0 && !mutation.quorum_acked);
  BLOCKD_ASSERT(mutation.first_block + mutation.block_count <= kBlocksPerSegment);
  mutation.seq = ++last_seq_;
  mutation.era = engine_.era;
  mutation.stage = Mutation::Stage::in_flight;
  mutation.requeue = false;
  mutation.acked = 0;
  mutation.sent_us = engine_.loop.now_us();
  in_flight_.push_back(mutation);
  filter_add(mutation.first_block, mutation.block_count, 1);
  unlock(mutation.lock);
  const MemberMask to = receivers(mutation);
  mutation.outstanding = to;
  for (std::uint32_t i = 0; i < kMembersMax; ++i) {
    if (to & member_bit(i)) send_part(mutation, i);
  }
}

// The ready members, and the joining ones that have the chunks already.
MemberMask Segment::receivers(const Mutation& mutation) noexcept {
  MemberMask to = ready_;
  for (std::uint32_t i = 0; i < kMembersMax; ++i) {
    if (members_[i].state != Member::State::syncing) continue;
    if (accepts(members_[i], mutation)) {
      to |= member_bit(i);
    } else {
      mark_missed(members_[i], mutation);
    }
  }
  return to;
}

void Segment::send_part(Mutation& mutation, std::uint32_t index) noexcept {
  Member& member = members_[index];
  ReplicaOp& op = mutation.parts[index];
  op.kind = mutation.zero ? ReplicaOp::Kind::zero : ReplicaOp::Kind::write;
  op.fua = mutation.fua;
  op.handle = member.handle;
  op.first_block = mutation.first_block;
  op.block_count = mutation.block_count;
  op.version = {engine_.epoch, mutation.seq};
  op.era = mutation.era;
  op.covers = mutation.covers;
  // A joiner may still have what the mark does not speak of: what only it had (B1).
  const bool ready = member.state == Member::State::ready;
  op.stable = ready ? member.stable_sent = stable_ : Version{};
  op.data = mutation.zero ? nullptr : mutation.data;
  op.crcs = mutation.crcs.data();
  op.hold = mutation.hold;
  op.done = part_done;
  op.owner = &mutation;
  op.tag = index;
  op.session = member.session;
  engine_.submit(*member.host, op);
}

void Segment::part_done(ReplicaOp& op) noexcept {
  Mutation& mutation = *static_cast<Mutation*>(op.owner);
  Segment& self = *mutation.segment;
  const std::uint32_t index = op.tag;
  self.engine_.op_back();
  op.hold.reset();
  self.uncount_lag(mutation, index);
  // Still counted as outstanding: losing the member must not let go of the mutation under our
  // hands.
  if (op.error == Error::NoSpace) mutation.no_space = true;
  if (op.error != Error::Ok) self.member_error(index, op.session, op.error);
  mutation.outstanding &= static_cast<MemberMask>(~member_bit(index));
  if (mutation.abandoned) {
    if (mutation.outstanding == 0) self.finish(mutation, Error::Ok);
    return;
  }
  if (op.error == Error::Ok && op.session == self.members_[index].session)
    mutation.acked |= member_bit(index);
  self.evaluate(mutation);
}

// After anything that may settle or retire the mutation.
void Segment::evaluate(Mutation& mutation) noexcept {
  BLOCKD_ASSERT(mutation.stage == Mutation::Stage::in_flight);
  Parent* answer = nullptr;
  if (!mutation.quorum_acked && !mutation.requeue && answerable(mutation.acked)) {
    mutation.quorum_acked = true;
    max_acked_seq_ = std::max(max_acked_seq_, mutation.seq);
    answer = std::exchange(mutation.parent, nullptr);
    count_lag(mutation);
  }
  const bool awaited = !waiting_reads_.empty() || !held_reads_.empty() || !copies_.empty();
  if (awaited || phase_ != Phase::formed || (asked_ == 0 && ready_ != agreed_)) poke();
  if (mutation.outstanding == 0) {
    if (mutation.quorum_acked) {
      retire(mutation);
    } else if (mutation.requeue) {
      requeue(mutation);
    }
  }
  if (answer) engine_.piece_done(*answer, Error::Ok);
}

void Segment::evaluate_all() noexcept {
  for (Mutation* mutation = in_flight_.front(); mutation != nullptr;) {
    Mutation* next = peer::List<Mutation>::next(*mutation);
    evaluate(*mutation);
    mutation = next;
  }
  for (Flush* flush = flushes_.front(); flush != nullptr;) {
    Flush* next = peer::List<Flush>::next(*flush);
    evaluate(*flush);
    flush = next;
  }
}

// The quorum has it; who does not yet, lags.
void Segment::count_lag(Mutation& mutation) noexcept {
  for (std::uint32_t i = 0; i < kMembersMax; ++i) {
    const MemberMask bit = member_bit(i);
    Member& member = members_[i];
    if (!(mutation.outstanding & bit) || mutation.parts[i].session != member.session) continue;
    mutation.lagging |= bit;
    member.lag_bytes += mutation.zero ? 0 : std::uint64_t{mutation.block_count} * kBlockBytes;
    ++member.lag_ops;
    if (member.lag_bytes <= kLagBytesMax && member.lag_ops <= kLagOpsMax) continue;
    member_failed(i, Error::Timeout);
  }
}

void Segment::uncount_lag(Mutation& mutation, std::uint32_t index) noexcept {
  const MemberMask bit = member_bit(index);
  if (!(mutation.lagging & bit)) return;
  mutation.lagging &= static_cast<MemberMask>(~bit);
  Member& member = members_[index];
  if (mutation.parts[index].session != member.session)
    return;  // member_failed() has cleared the count
  member.lag_bytes -= mutation.zero ? 0 : std::uint64_t{mutation.block_count} * kBlockBytes;
  --member.lag_ops;
}

void Segment::retire(Mutation& mutation) noexcept {
  in_flight_.erase(mutation);
  filter_add(mutation.first_block, mutation.block_count, -1);
  mutation.hold.reset();
  BLOCKD_ASSERT(mutation.parent == nullptr && !mutation.lock.held());
  engine_.mutations.put(mutation);
  engine_.room();
  if (engine_.era_awaited) poke();
}

// Every member was lost before a quorum had it: whatever the survivors agree on, it is applied
// anew. An operation of it may still be out, with a member whose disk hangs: the record is left to
// that, and another one goes on.
void Segment::requeue(Mutation& mutation) noexcept {
  // Its client was told that the outcome is unknown: leave it so. Or it is what filled the stores.
  const bool ends = mutation.parent == nullptr || mutation.no_space;
  Mutation* other = &mutation;
  if (mutation.outstanding != 0) other = ends ? nullptr : engine_.mutations.get();
  if (other == nullptr && !ends) return;  // no record is left: once its operations are back
  in_flight_.erase(mutation);
  filter_add(mutation.first_block, mutation.block_count, -1);
  mutation.requeue = false;
  if (other == &mutation) return ends ? finish(mutation, Error::NoSpace) : again(mutation);
  mutation.abandoned = true;
  Parent* parent = std::exchange(mutation.parent, nullptr);
  if (other != nullptr) {
    other->resume(mutation);
    other->parent = parent;
    again(*other);
  } else if (parent != nullptr) {
    engine_.piece_done(*parent, Error::NoSpace);
  }
}

void Segment::again(Mutation& mutation) noexcept {
  mutation.stage = Mutation::Stage::admit;
  if (mutation.completed) {
    // Others may have come first by now: its edges are read anew. The front's bytes are still
    // there, for it has no answer.
    mutation.stage = Mutation::Stage::prepare;
    mutation.hold.reset();
  }
  waiting_.push_back(mutation);
  poke();
}

// Ends a mutation that is not in flight.
void Segment::finish(Mutation& mutation, Error error) noexcept {
  BLOCKD_ASSERT(mutation.outstanding == 0 && !mutation.link.linked);
  unlock(mutation.lock);
  mutation.hold.reset();
  mutation.source_hold.reset();
  Parent* parent = std::exchange(mutation.parent, nullptr);
  engine_.mutations.put(mutation);
  engine_.room();
  if (parent) engine_.piece_done(*parent, error);
}

// --- ranges --------------------------------------------------------------------------------------

bool Segment::locked(std::uint32_t first, std::uint32_t end, const RangeLock* own) const noexcept {
  for (const RangeLock* held = locks_.front(); held != nullptr;
       held = peer::List<RangeLock>::next(*held)) {
    if (held != own && held->first_block < end && first < held->end_block) return true;
  }
  return false;
}

// A copy waits for no read-modify-write: that one may be waiting for the copy's outcome.
bool Segment::being_copied(std::uint32_t chunk) const noexcept {
  const std::uint32_t first = chunk * kBlocksPerChunk;
  for (const RangeLock* held = locks_.front(); held != nullptr;
       held = peer::List<RangeLock>::next(*held)) {
    if (held->copy && held->first_block == first) return true;
  }
  return false;
}

void Segment::lock(RangeLock& lock, std::uint32_t first, std::uint32_t end) noexcept {
  lock.first_block = first;
  lock.end_block = end;
  locks_.push_back(lock);
}

void Segment::unlock(RangeLock& lock) noexcept {
  if (!lock.held()) return;
  locks_.erase(lock);
  if (!waiting_.empty() || !copies_.empty()) poke();
}

void Segment::filter_add(std::uint32_t first, std::uint32_t count, int by) noexcept {
  const std::uint32_t first_chunk = first / kBlocksPerChunk;
  const std::uint32_t last_chunk = (first + count - 1) / kBlocksPerChunk;
  if (last_chunk - first_chunk >= filter_.size()) {
    wide_ = static_cast<std::uint32_t>(static_cast<int>(wide_) + by);
    return;
  }
  for (std::uint32_t chunk = first_chunk; chunk <= last_chunk; ++chunk) {
    std::uint16_t& places = filter_[chunk % filter_.size()];
    places = static_cast<std::uint16_t>(places + by);
  }
}

// False: no mutation in flight overlaps. True: one may.
bool Segment::filter_hit(std::uint32_t first, std::uint32_t count) const noexcept {
  if (in_flight_.empty()) return false;
  if (wide_ > 0) return true;
  const std::uint32_t last_chunk = (first + count - 1) / kBlocksPerChunk;
  for (std::uint32_t chunk = first / kBlocksPerChunk; chunk <= last_chunk; ++chunk) {
    if (filter_[chunk % filter_.size()] > 0) return true;
  }
  return false;
}

// Everything that waits gets one try, in order; what still has to wait keeps its place.
void Segment::pump() noexcept {
  if (serving()) {
    for (std::size_t count = waiting_.size(); count > 0; --count) {
      Mutation& mutation = *waiting_.pop_front();
      const bool begun =
          mutation.stage == Mutation::Stage::prepare ? try_prepare(mutation) : try_admit(mutation);
      if (!begun) waiting_.push_back(mutation);
    }
  }
  for (std::size_t count = waiting_reads_.size(); count > 0 && !waiting_reads_.empty(); --count) {
    Read& read = *waiting_reads_.pop_front();
    if (!try_read(read)) waiting_reads_.push_back(read);
  }
  for (std::size_t count = held_reads_.size(); count > 0 && !held_reads_.empty(); --count) {
    read_answered(*held_reads_.pop_front());
  }
}

void Segment::fail_requests(Error error) noexcept {
  for (std::size_t count = waiting_.size(); count > 0; --count)
    finish(*waiting_.pop_front(), error);
  for (std::size_t count = waiting_reads_.size(); count > 0; --count)
    finish(*waiting_reads_.pop_front(), error);
  for (std::size_t count = held_reads_.size(); count > 0; --count)
    finish(*held_reads_.pop_front(), error);
  for (Mutation* m = in_flight_.front(); m != nullptr; m = peer::List<Mutation>::next(*m)) {
    if (Parent* parent = std::exchange(m->parent, nullptr)) engine_.piece_done(*parent, error);
  }
  for (Flush* flush = flushes_.front(); flush != nullptr; flush = peer::List<Flush>::next(*flush)) {
    if (Parent* parent = std::exchange(flush->parent, nullptr)) engine_.piece_done(*parent, error);
  }
}

}  // namespace blockd::engine
