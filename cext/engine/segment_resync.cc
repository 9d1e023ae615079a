// Resync: bring a member that missed something to hold everything, while clients go on (J1..J3).
//
// Every chunk of the joiner begins as pending: mutations of it are not sent there. Chunks whose
// version is the source's, and that missed nothing since, stop pending at once; the others are
// copied one by one under a lock of the chunk, and get new mutations from the moment the copy is
// queued to the joiner. The copy of a chunk also repairs a damaged block and reconciles while
// opening.
#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>

#include "base/assert.h"
#include "engine/bits.h"
#include "engine/segment.h"

namespace blockd::engine {

using peer::ReplicaOp;

// --- comparing -----------------------------------------------------------------------------------

void Segment::begin_join(std::uint32_t index) {
  Member& member = members_[index];
  BLOCKD_ASSERT(member.state == Member::State::opened && !member.join);
  if (members_in(Member::State::syncing) == 0) resync_began_us_ = 0;
  member.state = Member::State::syncing;
  count_join(member, true);
  member.join = std::make_unique<Join>();
  Join& join = *member.join;
  const std::uint32_t words = (kChunksPerSegment + 63) / 64;
  join.pending.assign(words, 0);
  for (std::uint32_t chunk = 0; chunk < kChunksPerSegment; ++chunk) set(join.pending, chunk);
  join.touched.assign(words, 0);
  join.copying.assign(words, 0);
  join.blocked.assign(words, 0);
  join.pending_count = kChunksPerSegment;
  // What is in flight now was not, or not surely, given to this member.
  for (Mutation* m = in_flight_.front(); m != nullptr; m = peer::List<Mutation>::next(*m))
    mark_missed(member, *m);
  engine_.notice(index_, member.host_id, "resync-started", kChunksPerSegment);
  join.bare.assign(words, 0);
  join.diverged.assign(words, 0);
  join.versions.assign(kChunksPerSegment, Version{});
  join.states = engine_.era > 1;
  if (join.states) join.past.assign(kChunksPerSegment, 0);
  join_list_joiner(index, 0);
}

void Segment::join_list_joiner(std::uint32_t index, std::uint32_t from_chunk,
                               Version above) noexcept {
  Member& member = members_[index];
  member.join->phase = Join::Phase::list_joiner;
  member.page.resize(format::kListEntriesMax * sizeof(format::ChunkEntry));
  ReplicaOp& op = member.control;
  op.kind = member.join->states ? ReplicaOp::Kind::states : ReplicaOp::Kind::list;
  op.handle = member.handle;
  op.first_block = from_chunk;
  op.version = above;
  op.stable = Version{};
  op.data = member.page.data();
  op.data_bytes = static_cast<std::uint32_t>(member.page.size());
  control(index, index, join_list_done);
}

void Segment::join_list_source(std::uint32_t index, std::uint32_t from_chunk,
                               Version above) noexcept {
  Member& member = members_[index];
  Join& join = *member.join;
  const bool begins = from_chunk == 0 && above == Version{};
  if (begins || join.source_session != members_[join.source].session) {
    from_chunk = 0;
    above = Version{};
    join.source = nearest(ready_);
    join.source_session = members_[join.source].session;
    join.source_versions.assign(kChunksPerSegment, Version{});
    if (join.states) join.source_past.assign(kChunksPerSegment, 0);
  }
  join.phase = Join::Phase::list_source;
  ReplicaOp& op = member.control;
  op.kind = join.states ? ReplicaOp::Kind::states : ReplicaOp::Kind::list;
  op.handle = members_[join.source].handle;
  op.first_block = from_chunk;
  op.version = above;
  op.stable = Version{};
  op.data = member.page.data();
  op.data_bytes = static_cast<std::uint32_t>(member.page.size());
  control(index, join.source, join_list_done);
}

void Segment::join_list_done(ReplicaOp& op) noexcept {
  Segment& self = *static_cast<Segment*>(op.owner);
  const std::uint32_t index = op.tag;
  Member& member = self.members_[index];
  if (!self.control_back(op)) return;
  BLOCKD_ASSERT(member.state == Member::State::syncing);
  Join& join = *member.join;
  const bool of_joiner = join.phase == Join::Phase::list_joiner;
  if (op.error != Error::Ok) {
    if (of_joiner) return self.member_error(index, op.session, op.error);
    self.member_error(join.source, join.source_session, op.error);
    if (member.state == Member::State::syncing && !self.engine_.fenced)
      self.join_list_source(index, 0);
    return;
  }
  std::vector<Version>& versions = of_joiner ? join.versions : join.source_versions;
  self.take_page(member, versions, of_joiner ? join.past : join.source_past);
  const bool more = op.block_count == format::kListEntriesMax;
  std::uint32_t next_chunk = 0;
  Version above;
  if (more) {
    format::ChunkEntry last;
    std::memcpy(static_cast<void*>(&last), op.data + std::size_t{op.block_count - 1} * sizeof last,
                sizeof last);
    next_chunk = join.states ? last.chunk : last.chunk + 1;
    if (join.states) above = {last.epoch, last.seq};
  }
  if (of_joiner && more) return self.join_list_joiner(index, next_chunk, above);
  if (of_joiner || more) return self.join_list_source(index, next_chunk, above);
  self.compare(index);
}

void Segment::take_page(Member& member, std::vector<Version>& versions,
                        std::vector<std::uint64_t>& past) noexcept {
  const ReplicaOp& op = member.control;
  for (std::uint32_t i = 0; i < op.block_count; ++i) {
    format::ChunkEntry entry;
    std::memcpy(static_cast<void*>(&entry), op.data + std::size_t{i} * sizeof entry, sizeof entry);
    if (entry.chunk >= versions.size()) continue;
    if (!member.join->states || entry.died == 0) {
      versions[entry.chunk] = {entry.epoch, entry.seq};
    } else {
      past[entry.chunk] = mixed(past[entry.chunk], entry);
    }
  }
}

// Equal versions are equal contents (I1), unless a mutation passed the joiner by meanwhile. What
// was not touched did not move while it was listed, so the pasts can be compared as well.
void Segment::compare(std::uint32_t index) noexcept {
  Member& member = members_[index];
  Join& join = *member.join;
  for (std::uint32_t chunk = 0; chunk < join.versions.size(); ++chunk) {
    const bool past = join.states && (join.past[chunk] != 0 || join.source_past[chunk] != 0);
    if (join.versions[chunk] == Version{} && !past) set(join.bare, chunk);
    if (join.versions[chunk] != join.source_versions[chunk] || test(join.touched, chunk)) continue;
    if (past && join.past[chunk] != join.source_past[chunk]) continue;
    clear(join.pending, chunk);
    --join.pending_count;
  }
  find_diverged(member);
  join.versions = {};
  join.source_versions = {};
  join.past = {};
  join.source_past = {};
  member.page = {};
  join.phase = Join::Phase::copy;
  resync_done_bytes_ = 0;
  resync_began_us_ = engine_.loop.now_us();
  resync_total_bytes_ = std::uint64_t{join.pending_count} * kChunkBytes;
  poke();
}

// --- mutations of a joiner
// -------------------------------------------------------------------------

bool Segment::accepts(Member& member, const Mutation& mutation) noexcept {
  const Join& join = *member.join;
  if (join.pending_count == 0) return true;
  const std::uint32_t last = (mutation.first_block + mutation.block_count - 1) / kBlocksPerChunk;
  for (std::uint32_t chunk = mutation.first_block / kBlocksPerChunk; chunk <= last; ++chunk) {
    if (test(join.pending, chunk)) return false;
  }
  return true;
}

// Not sent to the joiner: every chunk of it has to be copied, those that were clean already too.
void Segment::mark_missed(Member& member, const Mutation& mutation) noexcept {
  const std::uint32_t last = (mutation.first_block + mutation.block_count - 1) / kBlocksPerChunk;
  mark_missed(member, mutation.first_block / kBlocksPerChunk, last);
}

void Segment::mark_missed(Member& member, std::uint32_t first, std::uint32_t last) noexcept {
  Join& join = *member.join;
  for (std::uint32_t chunk = first; chunk <= last; ++chunk) {
    set(join.touched, chunk);
    if (test(join.pending, chunk)) continue;
    set(join.pending, chunk);
    ++join.pending_count;
  }
}

// --- copying
// ---------------------------------------------------------------------------------------

void Segment::advance_joins() noexcept {
  if (phase_ != Phase::formed) return;
  for (std::uint32_t i = 0; i < kMembersMax; ++i) {
    Member& member = members_[i];
    if (member.state == Member::State::syncing && member.join->phase == Join::Phase::copy)
      advance_copying(i);
  }
}

void Segment::advance_copying(std::uint32_t index) noexcept {
  Member& member = members_[index];
  Join& join = *member.join;
  while (join.copies < kCopiesPerSegment && join.pending_count > 0) {
    if (!copy_next(index)) break;
  }
  if (join.pending_count > 0 || join.copies > 0 || member.control_busy) return;
  join.phase = Join::Phase::flush;
  ReplicaOp& op = member.control;
  op.kind = ReplicaOp::Kind::flush;
  op.handle = member.handle;
  op.version = {engine_.epoch, last_seq_};
  op.stable = Version{};
  control(index, index, join_flush_done);
}

// Starts the copy of the next pending chunk. False: not now, or all of them are under way.
bool Segment::copy_next(std::uint32_t index) noexcept {
  Join& join = *members_[index].join;
  const std::uint64_t now = engine_.loop.now_us();
  const std::uint32_t chunk = join.next_pending(now);
  if (chunk == Join::kNone) {
    if (join.any_blocked) resync_blocked(index);
    return false;
  }
  const MemberMask sources = join_sources(index, chunk);
  if (sources == 0) return true;  // another one
  const auto why = test(join.diverged, chunk) ? ChunkCopy::Why::preserve : ChunkCopy::Why::resync;
  if (!engine_.pace.take(pace_waiter_)) return false;
  ChunkCopy* copy = start_copy(why, chunk, resync_source(sources), member_bit(index));
  if (copy == nullptr) {
    engine_.pace.done(0);
    wake_at(now + kShortageRetryUs);
    return false;
  }
  copy->paced = true;
  if (why == ChunkCopy::Why::preserve) ++join.preserves;
  count_join(members_[index], true);
  join.cursor = chunk + 1 < kChunksPerSegment ? chunk + 1 : 0;
  set(join.copying, chunk);
  ++join.copies;
  return true;
}

// None: nobody can read the chunk; it is tried again after a while, an administrator may act.
MemberMask Segment::join_sources(std::uint32_t index, std::uint32_t chunk) noexcept {
  Join& join = *members_[index].join;
  const auto bad = join.unreadable.find(chunk);
  if (bad == join.unreadable.end()) return ready_;
  const auto sources = static_cast<MemberMask>(ready_ & ~bad->second);
  if (sources != 0) return sources;
  join.unreadable.erase(bad);
  if (!join.any_blocked) {  // one tells for all
    engine_.notice(index_, members_[index].host_id, "resync-blocked", chunk);
    join.blocked_until_us = engine_.loop.now_us() + kRetryMaxUs / 5;
  }
  join.any_blocked = true;
  set(join.blocked, chunk);
  join.cursor = chunk + 1 < kChunksPerSegment ? chunk + 1 : 0;
  return 0;
}

// What is left of a resync cannot be read. Where the segment waits for just this member, it may be
// that what the source has lost was never acknowledged: an opening finds out (O4, O5).
void Segment::resync_blocked(std::uint32_t index) noexcept {
  const Join& join = *members_[index].join;
  wake_at(join.blocked_until_us);
  if (join.copies == 0) count_join(members_[index], false);  // others need not wait for it
  const bool counts = ((agreed_ | asked_) & member_bit(index)) != 0;
  if (counts && join.copies == 0 && !quorum(ready_)) reopen_wanted_ = true;
}

// The nearest one, and while its reads pile up the others as well.
std::uint32_t Segment::resync_source(MemberMask mask) const noexcept {
  std::uint32_t best = nearest(mask);
  const std::uint32_t distance = members_[best].distance;
  const auto cost = [&](const Member& member) {
    return member.host->chunk_reads + (member.distance > distance ? kFarSourceReads : 0);
  };
  for (std::uint32_t i = 0; i < kMembersMax; ++i) {
    if ((mask & member_bit(i)) && cost(members_[i]) < cost(members_[best])) best = i;
  }
  return best;
}

void Segment::join_flush_done(ReplicaOp& op) noexcept {
  Segment& self = *static_cast<Segment*>(op.owner);
  Member& member = self.members_[op.tag];
  if (!self.control_back(op)) return;
  if (op.error != Error::Ok) return self.member_error(op.tag, op.session, op.error);
  BLOCKD_ASSERT(member.state == Member::State::syncing && member.join->pending_count == 0);
  member.join->durable_seq = op.version.seq;
  member.join->phase = Join::Phase::prove;
  if (self.able_to_prove(member_bit(op.tag)) == 0) self.joined(op.tag);
}

void Segment::resynced(ChunkCopy& copy) noexcept {
  const auto index = static_cast<std::uint32_t>(std::countr_zero(copy.targets));
  Member& member = members_[index];
  if (member.state != Member::State::syncing || copy.target_sessions[index] != member.session)
    return;
  Join& join = *member.join;
  BLOCKD_ASSERT(join.copies > 0);
  --join.copies;
  clear(join.copying, copy.chunk);
  if (copy.stage != ChunkCopy::Stage::replacing && medium_error(copy.error)) {
    join.unreadable[copy.chunk] |= member_bit(copy.source);
  }
}

// --- one chunk
// -------------------------------------------------------------------------------------

ChunkCopy* Segment::start_copy(ChunkCopy::Why why, std::uint32_t chunk, std::uint32_t source,
                               MemberMask targets) noexcept {
  ChunkCopy* copy = engine_.copies.get();
  if (copy == nullptr) return nullptr;
  copy->segment = this;
  copy->why = why;
  copy->born = 0;
  copy->stage = ChunkCopy::Stage::waiting;
  copy->chunk = chunk;
  copy->source = source;
  copy->source_session = members_[source].session;
  copy->targets = targets;
  copy->outstanding = 0;
  copy->orphan = false;
  copy->error = Error::Ok;
  copy->began_us = copy->started_us = engine_.loop.now_us();
  copy->lock.copy = true;
  for (std::uint32_t i = 0; i < kMembersMax; ++i) copy->target_sessions[i] = members_[i].session;
  source_asked(*copy, true);
  ++copies_under_way_;
  copies_.push_back(*copy);
  poke();
  return copy;
}

// The source has the copy's read before it, from when it was chosen.
void Segment::source_asked(ChunkCopy& copy, bool asked) noexcept {
  if (std::exchange(copy.counted, asked) == asked) return;
  std::uint32_t& reads = members_[copy.source].host->chunk_reads;
  reads = asked ? reads + 1 : reads - 1;
}

// It takes no more of what resyncs may.
void Segment::end_pace(ChunkCopy& copy, std::uint64_t copy_us) noexcept {
  if (std::exchange(copy.paced, false)) engine_.pace.done(copy_us);
}

void Segment::pump_copies() noexcept {
  for (std::size_t count = copies_.size(); count > 0; --count) {
    ChunkCopy& copy = *copies_.pop_front();
    if (!try_copy(copy)) copies_.push_back(copy);
  }
}

// A member is lost. Its answer will be ignored, and may never come (a local disk that hangs):
// nobody waits for a copy that waits for nobody else.
void Segment::let_go_of_copies() noexcept {
  for (ChunkCopy* copy = active_copies_.front(); copy != nullptr;) {
    ChunkCopy* next = peer::List<ChunkCopy>::next(*copy);
    orphan_if_alone(*copy);
    copy = next;
  }
}

// The members, in the life that was asked, whose answers an active copy waits for.
MemberMask Segment::awaited(const ChunkCopy& copy) const noexcept {
  if (copy.stage == ChunkCopy::Stage::reading) {
    return copy.asked_session == members_[copy.asked].session ? member_bit(copy.asked)
                                                              : MemberMask{0};
  }
  MemberMask mask = 0;
  for (std::uint32_t i = 0; i < kMembersMax; ++i) {
    if (copy.target_sessions[i] == members_[i].session)
      mask |= static_cast<MemberMask>(copy.outstanding & member_bit(i));
  }
  return mask;
}

void Segment::orphan_if_alone(ChunkCopy& copy) noexcept {
  if (awaited(copy) != 0) return;
  const auto target = static_cast<std::uint32_t>(std::countr_zero(copy.targets));
  const bool wanted = copy.target_sessions[target] == members_[target].session;
  if (copy.stage == ChunkCopy::Stage::preserving && wanted) return;  // it waits for a branch
  copy.orphan = true;
  copy.error = Error::LinkLost;
  active_copies_.erase(copy);
  orphans_.push_back(copy);
  engine_.copies.allow(1);  // it takes nobody's place
  settle(copy);
}

// The member still has an operation of a copy, or a proof, that is over: it is not asked for more
// until that is back, or a disk that hangs would take more and more.
bool Segment::has_orphans(std::uint32_t index) const noexcept {
  for (const ChunkCopy* copy = orphans_.front(); copy != nullptr;
       copy = peer::List<ChunkCopy>::next(*copy)) {
    const bool reads = copy->stage == ChunkCopy::Stage::reading && copy->asked == index;
    if (reads || (copy->outstanding & member_bit(index)) != 0) return true;
  }
  for (const Proof* proof = lost_proofs_.front(); proof != nullptr;
       proof = peer::List<Proof>::next(*proof)) {
    if ((proof->outstanding & member_bit(index)) != 0) return true;
  }
  return false;
}

// Locks the chunk against new mutations; reads it once the source has every one there is. False:
// wait.
bool Segment::try_copy(ChunkCopy& copy) noexcept {
  if (copy.source_session != members_[copy.source].session) {
    copy.error = Error::LinkLost;
    finish(copy);
    return true;
  }
  if (copy.why == ChunkCopy::Why::preserve) return try_preserve(copy);
  const std::uint32_t first = copy.chunk * kBlocksPerChunk;
  if (!copy.lock.held()) {
    if (being_copied(copy.chunk)) return false;
    lock(copy.lock, first, first + kBlocksPerChunk);
  }
  const bool past = with_past(copy);
  if (phase_ == Phase::formed && !quiet(copy, past)) return false;
  if (!copy.buffer) copy.buffer = engine_.buffers.chunk.get();
  if (!copy.buffer) {
    wake_at(engine_.loop.now_us() + kShortageRetryUs);
    return false;
  }
  active_copies_.push_back(copy);
  if (past) {
    start_past(copy);
  } else {
    read_current(copy);
  }
  return true;
}

// The source has every mutation of the chunk there is; with_targets: so have the targets, of what
// they are given.
bool Segment::quiet(const ChunkCopy& copy, bool with_targets) const noexcept {
  const std::uint32_t first = copy.chunk * kBlocksPerChunk;
  if (!filter_hit(first, kBlocksPerChunk)) return true;
  for (const Mutation* m = in_flight_.front(); m != nullptr; m = peer::List<Mutation>::next(*m)) {
    const bool overlap =
        m->first_block < first + kBlocksPerChunk && first < m->first_block + m->block_count;
    if (!overlap) continue;
    if (!(m->acked & member_bit(copy.source))) return false;
    for (std::uint32_t i = 0; with_targets && i < kMembersMax; ++i) {
      const bool on_its_way = (m->outstanding & copy.targets & member_bit(i)) &&
                              m->parts[i].session == members_[i].session;
      if (on_its_way) return false;
    }
  }
  return true;
}

void Segment::read_current(ChunkCopy& copy) noexcept {
  copy.stage = ChunkCopy::Stage::reading;
  copy.started_us = engine_.loop.now_us();
  copy.asked = copy.source;
  copy.asked_session = copy.source_session;
  ReplicaOp& op = copy.read;
  op.kind = ReplicaOp::Kind::read_chunk;
  op.handle = members_[copy.source].handle;
  op.first_block = copy.chunk * kBlocksPerChunk;
  op.block_count = kBlocksPerChunk;
  op.era = copy.born;
  op.stable = Version{};
  op.data = copy.buffer.data();
  op.crcs = copy.crcs.data();
  op.done = copy_read_done;
  op.owner = &copy;
  op.tag = copy.source;
  op.session = copy.source_session;
  engine_.submit(*members_[copy.source].host, op);
}

void Segment::copy_read_done(ReplicaOp& op) noexcept {
  ChunkCopy& copy = *static_cast<ChunkCopy*>(op.owner);
  Segment& self = *copy.segment;
  self.engine_.op_back();
  self.source_asked(copy, false);
  if (copy.orphan) return self.release(copy);
  if (copy.why == ChunkCopy::Why::preserve) return self.source_read(copy);
  copy.error = op.error;
  if (op.error == Error::Ok && op.session != self.members_[op.tag].session)
    copy.error = Error::LinkLost;
  // The source lets go of its past on its own: it may show something else by now, or nothing.
  const bool other = copy.born != 0 && (op.era != copy.born || op.died == 0);
  if (copy.error == Error::Ok && other) copy.error = Error::NotInSync;
  if (copy.error == Error::Ok) return self.send_replaces(copy);
  if (self.start_heal(copy)) return;
  if (!medium_error(op.error) && op.error != Error::Ok && op.error != Error::Busy) {
    self.member_error(op.tag, op.session, op.error);
    if (copy.orphan) return self.release(copy);
  }
  self.finish(copy);
}

// The joiner's stream has the chunk: new mutations of it may follow.
void Segment::no_longer_pending(ChunkCopy& copy) noexcept {
  for (std::uint32_t i = 0; i < kMembersMax; ++i) {
    Member& member = members_[i];
    const bool here = (copy.targets & member_bit(i)) && copy.target_sessions[i] == member.session;
    if (!here || member.state != Member::State::syncing) continue;
    if (!test(member.join->pending, copy.chunk)) continue;
    clear(member.join->pending, copy.chunk);
    --member.join->pending_count;
  }
}

void Segment::send_replaces(ChunkCopy& copy) noexcept {
  copy.stage = ChunkCopy::Stage::replacing;
  if (!copy.past || copy.past->step != PastSync::Step::back) no_longer_pending(copy);
  for (std::uint32_t i = 0; i < kMembersMax; ++i) {
    const Member& member = members_[i];
    if (!(copy.targets & member_bit(i)) || copy.target_sessions[i] != member.session) continue;
    copy.outstanding |= member_bit(i);
    ReplicaOp& op = copy.replaces[i];
    op.kind = ReplicaOp::Kind::replace;
    op.fua = false;
    op.handle = member.handle;
    op.first_block = copy.chunk * kBlocksPerChunk;
    op.block_count = kBlocksPerChunk;
    op.valid_mask = copy.read.valid_mask;
    op.version = copy.read.version;
    op.era = copy.read.era;
    op.died = copy.born != 0 ? copy.read.died : 0;
    op.covers = copy.read.covers;
    op.stable = Version{};
    op.data = copy.buffer.data();
    op.crcs = copy.crcs.data();
    op.hold = copy.buffer;
    op.done = replace_done;
    op.owner = &copy;
    op.tag = i;
    op.session = member.session;
    engine_.submit(*member.host, op);
  }
  unlock(copy.lock);
  if (copy.outstanding != 0) return;
  copy.error = Error::LinkLost;  // nobody is left who wanted it
  finish(copy);
}

void Segment::replace_done(ReplicaOp& op) noexcept {
  ChunkCopy& copy = *static_cast<ChunkCopy*>(op.owner);
  Segment& self = *copy.segment;
  self.engine_.op_back();
  op.hold.reset();
  copy.outstanding &= static_cast<MemberMask>(~member_bit(op.tag));
  if (!copy.orphan && op.error != Error::Ok) {
    copy.error = op.error;
    self.member_error(op.tag, op.session, op.error);
  } else if (!copy.orphan) {
    self.count_copied(copy, copy.read.valid_mask);
  }
  if (copy.outstanding != 0) {
    if (!copy.orphan) self.orphan_if_alone(copy);
    return;
  }
  if (copy.orphan) return self.release(copy);
  const std::uint32_t target = static_cast<std::uint32_t>(std::countr_zero(copy.targets));
  const bool same_life = copy.target_sessions[target] == self.members_[target].session;
  if (same_life && self.check_past(copy)) return;
  self.finish(copy);
}

void Segment::count_copied(const ChunkCopy& copy, std::uint16_t valid_mask) noexcept {
  if (valid_mask == 0 || copy.why == ChunkCopy::Why::repair) return;
  std::uint64_t& bytes = copy.why == ChunkCopy::Why::reconcile ? engine_.stats.reconcile_bytes
                                                               : engine_.stats.resync_bytes;
  bytes += kChunkBytes;
}

void Segment::finish(ChunkCopy& copy) noexcept {
  BLOCKD_ASSERT(copy.outstanding == 0 && !copy.orphan);
  if (copy.link.linked) active_copies_.erase(copy);
  settle(copy);
  release(copy);
}

// Who wanted the copy hears how it ended.
void Segment::settle(ChunkCopy& copy) noexcept {
  BLOCKD_ASSERT(copies_under_way_ > 0);
  unlock(copy.lock);
  source_asked(copy, false);
  --copies_under_way_;
  switch (copy.why) {
    case ChunkCopy::Why::reconcile:
      reconciled(copy);
      break;
    case ChunkCopy::Why::resync:
      end_pace(copy, engine_.loop.now_us() - copy.began_us);
      if (copy.error == Error::Ok) resync_done_bytes_ += kChunkBytes;
      resynced(copy);
      break;
    case ChunkCopy::Why::repair:
      repaired(copy);
      break;
    case ChunkCopy::Why::preserve:
      end_pace(copy, 0);
      preserved(copy);
      break;
  }
  poke();
}

// No operation of it is out.
void Segment::release(ChunkCopy& copy) noexcept {
  copy.buffer.reset();
  copy.heal_buffer.reset();
  copy.past.reset();
  if (copy.orphan) {
    orphans_.erase(copy);
    engine_.copies.allow(-1);
  }
  engine_.copies.put(copy);
  poke();
}

// --- repair
// ----------------------------------------------------------------------------------------

// The read found a bad block at `damaged` and the same blocks good elsewhere.
void Segment::repair(const Read& read, MemberMask damaged) noexcept {
  const auto sources = static_cast<MemberMask>(ready_ & ~damaged);
  if (sources == 0 || phase_ != Phase::formed) return;
  const std::uint32_t last = (read.first_block + read.block_count - 1) / kBlocksPerChunk;
  for (std::uint32_t chunk = read.first_block / kBlocksPerChunk; chunk <= last; ++chunk) {
    for (std::uint32_t i = 0; i < kMembersMax; ++i) {
      if (damaged & ready_ & member_bit(i)) (void)start_repair({chunk, 0, i}, sources);
    }
  }
}

// True: this repair is under way now.
bool Segment::start_repair(const RepairKey& key, MemberMask sources) noexcept {
  if (std::ranges::find(repairing_, key) != repairing_.end()) return true;
  ChunkCopy* copy =
      start_copy(ChunkCopy::Why::repair, key.chunk, nearest(sources), member_bit(key.member));
  if (copy == nullptr) return false;
  copy->born = key.born;
  repairing_.push_back(key);
  return true;
}

void Segment::repair_chunk(std::uint32_t chunk, Era born, const Uuid& host_id,
                           std::function<void(Error)> done) {
  const auto member = std::ranges::find_if(
      members_, [&](const Member& one) { return one.present && one.host_id == host_id; });
  if (member == members_.end() || chunk >= kChunksPerSegment) return done(Error::NotFound);
  const auto index = static_cast<std::uint32_t>(member - members_.begin());
  if (phase_ != Phase::formed || !(ready_ & member_bit(index))) return done(Error::NotInSync);
  const auto sources = static_cast<MemberMask>(ready_ & ~member_bit(index));
  if (sources == 0) return done(Error::ChecksumMismatch);
  const RepairKey key{chunk, born, index};
  if (!start_repair(key, sources)) return done(Error::Busy);
  repair_waits_.push_back({key, 0, std::move(done)});
}

void Segment::repaired(ChunkCopy& copy) noexcept {
  const RepairKey key{copy.chunk, copy.born,
                      static_cast<std::uint32_t>(std::countr_zero(copy.targets))};
  std::erase(repairing_, key);
  const bool sent = copy.stage == ChunkCopy::Stage::replacing;
  const bool done = copy.error == Error::Ok && sent;
  if (!done && !sent && medium_error(copy.error) && repair_from_another(copy, key)) return;
  engine_.notice(index_, members_[key.member].host_id, done ? "block-repaired" : "repair-failed",
                 copy.chunk);
  end_repair_waits(key, done || copy.error != Error::Ok ? copy.error : Error::NotInSync);
}

// The source has a bad block in that chunk itself: when somebody waits for the repair, the next one
// is asked. False: nobody waits, or all have been asked.
bool Segment::repair_from_another(const ChunkCopy& copy, const RepairKey& key) noexcept {
  const auto wait = std::ranges::find(repair_waits_, key, &RepairWait::key);
  if (wait == repair_waits_.end()) return false;
  wait->tried |= member_bit(copy.source);
  const auto sources = static_cast<MemberMask>(ready_ & ~member_bit(key.member) & ~wait->tried);
  return sources != 0 && (ready_ & member_bit(key.member)) && start_repair(key, sources);
}

void Segment::end_repair_waits(const RepairKey& key, Error error) noexcept {
  for (std::size_t i = 0; i < repair_waits_.size();) {
    if (repair_waits_[i].key != key) {
      ++i;
      continue;
    }
    const auto done = std::move(repair_waits_[i].done);
    repair_waits_.erase(repair_waits_.begin() + static_cast<std::ptrdiff_t>(i));
    done(error);
  }
}

}  // namespace blockd::engine
