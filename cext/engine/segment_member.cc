// Members: who counts, who is asked to, what becomes of one that fails.
#include <algorithm>
#include <bit>
#include <utility>

#include "base/assert.h"
#include "engine/segment.h"

namespace blockd::engine {

using peer::ReplicaOp;

// --- quorums (Q1..Q3)
// ------------------------------------------------------------------------------

std::uint32_t Segment::write_quorum(std::uint32_t members) const noexcept {
  const std::uint32_t all_but_one = members >= 3 ? members - 1 : members;
  return std::max(all_but_one, engine_.min_in_sync);
}

bool Segment::counted(MemberMask mask, MemberMask config) const noexcept {
  const auto members = static_cast<std::uint32_t>(std::popcount(config));
  const auto have =
      static_cast<std::uint32_t>(std::popcount(static_cast<MemberMask>(mask & config)));
  return members > 0 && have >= write_quorum(members);
}

// Under the agreed set and, while a change is asked for, under that one too: either may be the
// truth.
bool Segment::quorum(MemberMask mask) const noexcept {
  const auto have = static_cast<MemberMask>(mask & ready_);
  return counted(have, agreed_) && (asked_ == 0 || counted(have, asked_));
}

// May a client be told what these members have? While a member that holds everything waits to be
// asked for, the larger set's quorum is needed as well: else, under a load that never pauses, there
// is always something that only the smaller one has, and Q3 forbids to ask.
bool Segment::answerable(MemberMask mask) const noexcept {
  const bool grows = asked_ == 0 && (ready_ & ~agreed_) != 0;
  return quorum(mask) && (!grows || counted(static_cast<MemberMask>(mask & ready_), ready_));
}

// `mask` shares a member with every write quorum there may have been.
bool Segment::meets_every_quorum(MemberMask mask) const noexcept {
  const auto meets = [&](MemberMask config) {
    const auto members = static_cast<std::uint32_t>(std::popcount(config));
    const auto have =
        static_cast<std::uint32_t>(std::popcount(static_cast<MemberMask>(mask & config)));
    const std::uint32_t quorum_size = std::min(write_quorum(members), members);
    return members > 0 && have + quorum_size > members;
  };
  return meets(agreed_) && (asked_ == 0 || meets(asked_));
}

MemberMask Segment::leased(std::uint64_t now_us) const noexcept {
  MemberMask mask = 0;
  for (std::uint32_t i = 0; i < kMembersMax; ++i) {
    if ((ready_ & member_bit(i)) && members_[i].host->lease_until_us > now_us)
      mask |= member_bit(i);
  }
  return mask;
}

bool Segment::serving() const noexcept {
  return serve_started_ && !engine_.fenced && quorum(leased(engine_.loop.now_us()));
}

VolumeState Segment::state() const noexcept {
  if (engine_.fenced) return VolumeState::fenced;
  if (!ever_served_) return VolumeState::opening;
  return serving() ? VolumeState::serving : VolumeState::stalled;
}

MemberMask Segment::members_in(Member::State state) const noexcept {
  MemberMask mask = 0;
  for (std::uint32_t i = 0; i < kMembersMax; ++i) {
    if (members_[i].present && members_[i].state == state) mask |= member_bit(i);
  }
  return mask;
}

std::uint32_t Segment::nearest(MemberMask mask) const noexcept {
  BLOCKD_ASSERT(mask != 0);
  std::uint32_t best = kMembersMax;
  for (std::uint32_t i = 0; i < kMembersMax; ++i) {
    if ((mask & member_bit(i)) &&
        (best == kMembersMax || members_[i].distance < members_[best].distance))
      best = i;
  }
  return best;
}

std::vector<Uuid> Segment::hosts_of(MemberMask mask) const {
  std::vector<Uuid> hosts;
  for (std::uint32_t i = 0; i < kMembersMax; ++i) {
    if (mask & member_bit(i)) hosts.push_back(members_[i].host_id);
  }
  return hosts;
}

// --- configuration -------------------------------------------------------------------------------

// Takes over the member list: known members keep their place and their state.
void Segment::place_members(const SegmentConfig& config) {
  agreed_ = 0;
  MemberMask named = 0;
  for (const MemberConfig& wanted : config.members) {
    std::uint32_t place = kMembersMax;
    for (std::uint32_t i = 0; i < kMembersMax; ++i) {
      const Member& member = members_[i];
      if (member.present && member.host_id == wanted.host && member.store == wanted.store)
        place = i;
    }
    for (std::uint32_t i = 0; i < kMembersMax && place == kMembersMax; ++i) {
      const Member& member = members_[i];
      const bool busy = member.control_busy || member.stable_busy || has_orphans(i);
      if (!member.present && !busy) place = i;
    }
    if (place == kMembersMax) continue;  // more than kMembersMax: the rest has to wait
    Member& member = members_[place];
    member.present = true;
    member.host_id = wanted.host;
    member.store = wanted.store;
    member.distance = wanted.distance;
    member.host = &engine_.host(wanted.host);
    member.missing = member.missing && wanted.in_sync;
    named |= member_bit(place);
    if (wanted.in_sync) agreed_ |= member_bit(place);
  }
  for (std::uint32_t i = 0; i < kMembersMax; ++i) {
    if (!members_[i].present || (named & member_bit(i))) continue;
    if (members_[i].state != Member::State::absent) member_failed(i, Error::NotFound);
    members_[i].present = false;
    differing_ &= static_cast<MemberMask>(~member_bit(i));
  }
}

void Segment::configure(const SegmentConfig& config) noexcept {
  if (config.generation <= generation_ || engine_.closed) return;
  const MemberMask before = agreed_;
  generation_ = config.generation;
  place_members(config);
  asked_ = 0;  // a compare-and-set on the older generation can no longer succeed
  for (std::uint32_t i = 0; i < kMembersMax; ++i) {
    if ((agreed_ & ~before & member_bit(i)) != 0) {
      engine_.notice(index_, members_[i].host_id, "member-in-sync", generation_);
    }
  }
  maybe_serve();
  evaluate_all();
  advance_stable();
  poke();
}

SegmentConfig Segment::config() const {
  SegmentConfig config;
  config.index = index_;
  config.generation = generation_;
  for (std::uint32_t i = 0; i < kMembersMax; ++i) {
    const Member& member = members_[i];
    if (!member.present) continue;
    config.members.push_back(
        {member.host_id, member.store, member.distance, (agreed_ & member_bit(i)) != 0});
  }
  return config;
}

// --- asking for another in-sync set
// ----------------------------------------------------------------

// Wanted: exactly the members that hold everything. Asked for once; until the generation moves the
// answer may be yes, so nothing else is asked and both sets bind (Q2).
void Segment::maybe_ask() noexcept {
  if (phase_ != Phase::formed || asked_ != 0 || ready_ == agreed_ || ready_ == 0) return;
  if (static_cast<std::uint32_t>(std::popcount(ready_)) < engine_.min_in_sync) return;
  if (!may_ask_for(ready_)) return;
  asked_ = ready_;
  const bool smaller = (agreed_ & ~ready_) != 0;
  emit_ask(smaller ? "a member does not answer" : "a member holds everything again");
  evaluate_all();
}

// Q3: what a client was told must be held, and be durable, by a write quorum of the new set before
// that set can become the truth; what the stable mark covers, by each of it.
bool Segment::may_ask_for(MemberMask wanted) noexcept {
  for (const Mutation* m = in_flight_.front(); m != nullptr; m = peer::List<Mutation>::next(*m)) {
    if (m->quorum_acked && !counted(m->acked & ready_, wanted)) return false;
  }
  MemberMask durable = 0;
  MemberMask marked = 0;
  for (std::uint32_t i = 0; i < kMembersMax; ++i) {
    if (members_[i].durable_seq >= flushed_seq_) durable |= member_bit(i);
    if (Version{engine_.epoch, members_[i].durable_seq} >= stable_) marked |= member_bit(i);
  }
  if (counted(durable & ready_, wanted) && (wanted & ~marked) == 0) return true;
  background_flush();
  return false;
}

void Segment::emit_ask(const char* reason) noexcept {
  asked_at_us_ = engine_.loop.now_us();
  engine_.want_in_sync(index_, generation_, hosts_of(asked_), reason);
}

void Segment::ask_failed() noexcept {
  asked_at_us_ = engine_.loop.now_us();
}

// Serving begins when every agreed member is in the common state: then no absent one can hold an
// older engine's mutation that could come back later (O3).
void Segment::maybe_serve() noexcept {
  if (serve_started_ || phase_ != Phase::formed || agreed_ == 0 || (agreed_ & ~ready_) != 0) return;
  serve_started_ = ever_served_ = true;
  advance_stable();
  poke();
}

// --- failure -------------------------------------------------------------------------------------

void Segment::member_error(std::uint32_t index, std::uint32_t session, Error error) noexcept {
  if (error == Error::EpochFenced) return engine_.fence();
  if (session == members_[index].session) member_failed(index, error);
}

void Segment::member_failed(std::uint32_t index, Error error) noexcept {
  Member& member = members_[index];
  if (member.state == Member::State::absent) return;
  const Member::State before = member.state;
  ++member.session;
  member.state = Member::State::absent;
  ready_ &= static_cast<MemberMask>(~member_bit(index));
  member.lag_bytes = member.lag_ops = 0;
  reevaluate_ = reevaluate_ || before == Member::State::ready;
  let_go_of_copies();
  count_join(member, false);
  tell_preserved(member);
  member.join.reset();
  member.backoff_us = std::clamp(member.backoff_us * 2, kRetryMinUs, kRetryMaxUs);
  member.retry_at_us = engine_.loop.now_us() + member.backoff_us;
  member.gave_answer = true;
  wake_at(member.retry_at_us);
  if (before == Member::State::ready) {
    engine_.notice(index_, member.host_id, "member-lost", static_cast<std::uint64_t>(error));
  }
  if (error == Error::Timeout) member.host->channel->fail();
  if (before == Member::State::base && phase_ != Phase::formed) restart_opening();
  if (phase_ == Phase::formed && ready_ == 0) reopen();
  poke();
}

void Segment::host_lost(const MemberHost& host) noexcept {
  for (std::uint32_t i = 0; i < kMembersMax; ++i) {
    if (members_[i].present && members_[i].host == &host) member_failed(i, Error::LinkLost);
  }
  poke();
}

void Segment::host_back(const MemberHost& host) noexcept {
  for (std::uint32_t i = 0; i < kMembersMax; ++i) {
    Member& member = members_[i];
    if (member.present && member.host == &host && member.state == Member::State::absent)
      member.retry_at_us = 0;
  }
  poke();
}

void Segment::lease_renewed() noexcept {
  if (!waiting_.empty() || !waiting_reads_.empty()) poke();
}

// No member is left that is known to hold everything: begin again, as a new engine would, under the
// same epoch. What no quorum had is sequenced anew afterwards (O4).
void Segment::reopen() noexcept {
  phase_ = Phase::gather;
  serve_started_ = false;
  grace_until_us_ = 0;
  for (std::uint32_t i = 0; i < kMembersMax; ++i) {
    Member& member = members_[i];
    member.gave_answer = false;
    if (member.state == Member::State::absent) continue;
    member_failed(i, Error::NotAttached);
    member.retry_at_us = 0;
  }
  while (Read* read = held_reads_.pop_front()) waiting_reads_.push_back(*read);
  for (Mutation* mutation = in_flight_.front(); mutation != nullptr;) {
    Mutation* next = peer::List<Mutation>::next(*mutation);
    if (!mutation->quorum_acked) {
      mutation->requeue = true;
      requeue(*mutation);
    }
    mutation = next;
  }
}

// Holds everything, durably up to durable_seq, and gets every new mutation.
void Segment::become_ready(std::uint32_t index, std::uint64_t durable_seq) noexcept {
  Member& member = members_[index];
  const MemberMask bit = member_bit(index);
  member.state = Member::State::ready;
  member.durable_seq = durable_seq;
  member.backoff_us = 0;
  ready_ |= bit;
  for (Mutation* m = in_flight_.front(); m != nullptr; m = peer::List<Mutation>::next(*m)) {
    const bool on_its_way = (m->outstanding & bit) && m->parts[index].session == member.session;
    if (!on_its_way) m->acked |= bit;  // it came with a chunk that was copied
  }
}

// --- opening a member
// ------------------------------------------------------------------------------

void Segment::open_members() noexcept {
  awaits_join = false;
  const std::uint64_t now = engine_.loop.now_us();
  for (std::uint32_t i = 0; i < kMembersMax; ++i) {
    Member& member = members_[i];
    if (!member.present || member.state != Member::State::absent || member.control_busy) continue;
    if (!member.host->channel->connected() || has_orphans(i)) continue;
    const bool wanted = phase_ == Phase::formed
                            ? engine_.joins < kJoinsPerVolume
                            : phase_ == Phase::gather && ((agreed_ | asked_) & member_bit(i));
    awaits_join = awaits_join || (!wanted && phase_ == Phase::formed);
    if (!wanted) continue;
    if (now < member.retry_at_us) {
      wake_at(member.retry_at_us);
      continue;
    }
    start_open(i);
  }
}

// The volume has only so many resyncs at a time, from the opening of the member on.
void Segment::count_join(Member& member, bool joining) noexcept {
  if (member.joining == joining) return;
  member.joining = joining;
  engine_.joins = joining ? engine_.joins + 1 : engine_.joins - 1;
  if (!joining) engine_.join_over();
}

void Segment::start_open(std::uint32_t index) noexcept {
  Member& member = members_[index];
  member.state = Member::State::opening;
  member.lease_wait = false;
  if (phase_ == Phase::formed) count_join(member, true);
  ReplicaOp& op = member.control;
  op.kind = ReplicaOp::Kind::open;
  op.segment = {engine_.id, index_};
  op.store = member.store;
  op.version = {engine_.epoch, 0};
  op.first_block = 0;
  op.block_count = kBlocksPerSegment;                             // of one that has to be made
  op.may_create = ((agreed_ | asked_) & member_bit(index)) == 0;  // asked for: may be agreed
  op.stable = Version{};
  control(index, index, open_done);
}

// Submits the control operation of member `owner` to the host of member `at`.
void Segment::control(std::uint32_t owner, std::uint32_t at,
                      void (*done)(ReplicaOp&) noexcept) noexcept {
  Member& member = members_[owner];
  BLOCKD_ASSERT(!member.control_busy);
  member.control_busy = true;
  member.control_sent_us = engine_.loop.now_us();
  ReplicaOp& op = member.control;
  op.fua = false;
  op.hold = BufferRef{};
  op.crcs = nullptr;
  op.done = done;
  op.owner = this;
  op.tag = owner;
  op.session = member.session;
  engine_.submit(*members_[at].host, op);
}

// False: the member's life that sent it is over.
bool Segment::control_back(ReplicaOp& op) noexcept {
  Member& member = members_[op.tag];
  engine_.op_back();
  member.control_busy = false;
  poke();
  return op.session == member.session && !engine_.closed && !engine_.fenced;
}

void Segment::open_done(ReplicaOp& op) noexcept {
  Segment& self = *static_cast<Segment*>(op.owner);
  Member& member = self.members_[op.tag];
  if (!self.control_back(op)) {
    if (op.error == Error::EpochFenced) self.engine_.fence();
    return;
  }
  if (op.error == Error::EpochFenced) return self.engine_.fence();
  if (op.error == Error::LeaseHeld) {
    const std::uint64_t wait_us = std::clamp<std::uint64_t>(op.wait_us, 1'000, 200'000);
    const std::uint64_t backoff_us = member.backoff_us;
    const bool gave_answer = member.gave_answer;
    self.member_failed(op.tag, op.error);
    member.backoff_us = backoff_us;
    member.gave_answer = gave_answer;
    member.lease_wait = true;
    member.retry_at_us = self.engine_.loop.now_us() + wait_us;
    return self.wake_at(member.retry_at_us);
  }
  if (op.error == Error::NotFound && !op.may_create) self.replica_missing(member);
  if (op.error != Error::Ok) return self.member_failed(op.tag, op.error);
  self.engine_.learn_era(op.era);
  member.handle = op.handle;
  member.reported_stable = op.stable;
  member.stable_sent = op.stable;
  self.opened(member);
}

// It counts as in sync, and is not there: lost, and never to be taken for an empty one. Once it is
// agreed to be out of the set it is made anew, and resynced.
void Segment::replica_missing(Member& member) noexcept {
  if (std::exchange(member.missing, true)) return;
  engine_.notice(index_, member.host_id, "replica-missing", generation_);
}

// Whoever is left when the missing ones are taken away meets not every write quorum there may have
// been: to open with them could bring back what clients were told is gone.
bool Segment::lost() const noexcept {
  if (phase_ != Phase::gather) return false;
  MemberMask left = agreed_ | asked_;
  for (std::uint32_t i = 0; i < kMembersMax; ++i) {
    if (members_[i].missing) left &= static_cast<MemberMask>(~member_bit(i));
  }
  return left != (agreed_ | asked_) && !meets_every_quorum(left);
}

void Segment::opened(Member& member) noexcept {
  const auto index = static_cast<std::uint32_t>(&member - members_.data());
  member.state = Member::State::opened;
  member.missing = false;
  if (phase_ == Phase::formed) begin_join(index);
}

// --- time ----------------------------------------------------------------------------------------

void Segment::tick() noexcept {
  if (engine_.fenced || engine_.closed) return;
  const std::uint64_t now = engine_.loop.now_us();
  check_hung_operations();
  check_hung_controls();
  if (asked_ != 0 && now >= asked_at_us_ + kAskAgainUs) emit_ask("asked again");
  if (phase_ == Phase::formed && now >= background_at_us_) {
    background_at_us_ = now + kBackgroundFlushUs;
    if (last_seq_ > stable_.seq || stable_.epoch != engine_.epoch) background_flush();
    announce_stable();
  }
  const bool calm = phase_ == Phase::formed && serve_started_ && ready_ == agreed_ &&
                    waiting_.empty() && waiting_reads_.empty() && copies_.empty() &&
                    now < proof_at_us_;
  if (!calm) poke();
}

// Who has an operation for too long is lost. All are found before the first is given up: that may
// begin an opening, or end what was looked at.
void Segment::check_hung_operations() noexcept {
  const MemberMask hung = hung_members();
  for (std::uint32_t i = 0; i < kMembersMax; ++i) {
    if (hung & member_bit(i)) member_failed(i, Error::Timeout);
  }
  let_go_of_reads();
  time_out_requests();
}

MemberMask Segment::hung_members() const noexcept {
  const std::uint64_t now = engine_.loop.now_us();
  const std::uint64_t hung_us = kOpTimeouts * engine_.hub.config().member_timeout_us;
  MemberMask hung = 0;
  const auto look = [&](MemberMask outstanding, const auto& parts) {
    for (std::uint32_t i = 0; i < kMembersMax; ++i) {
      const bool here = (outstanding & member_bit(i)) && parts[i].session == members_[i].session;
      if (here) hung |= member_bit(i);
    }
  };
  for (const Mutation* m = in_flight_.front(); m != nullptr; m = peer::List<Mutation>::next(*m)) {
    if (now > m->sent_us + hung_us) look(m->outstanding, m->parts);
  }
  for (const Flush* f = flushes_.front(); f != nullptr; f = peer::List<Flush>::next(*f)) {
    if (now > f->started_us + hung_us) look(f->outstanding, f->parts);
  }
  for (const ChunkCopy* copy = active_copies_.front(); copy != nullptr;
       copy = peer::List<ChunkCopy>::next(*copy)) {
    if (now > copy->started_us + hung_us) hung |= awaited(*copy);
  }
  for (const Proof* proof = proofs_.front(); proof != nullptr;
       proof = peer::List<Proof>::next(*proof)) {
    if (now > proof->sent_us + hung_us) hung |= awaited(*proof);
  }
  for (const Read* read = sent_reads_.front(); read != nullptr && now > read->sent_us + hung_us;
       read = peer::List<Read>::next(*read)) {
    if (read->part.session == members_[read->part.tag].session) hung |= member_bit(read->part.tag);
  }
  return hung;
}

// Whatever the segment is about: also while it is opened again.
void Segment::time_out_requests() noexcept {
  const std::uint64_t now = engine_.loop.now_us();
  const auto late = [&](std::uint64_t started_us) {
    return now > started_us + engine_.io_timeout_us;
  };
  for (Mutation* m = in_flight_.front(); m != nullptr; m = peer::List<Mutation>::next(*m)) {
    if (m->quorum_acked || !late(m->started_us)) continue;
    if (Parent* parent = std::exchange(m->parent, nullptr))
      engine_.piece_done(*parent, Error::WriteUnresolved);
  }
  for (Flush* flush = flushes_.front(); flush != nullptr; flush = peer::List<Flush>::next(*flush)) {
    if (!late(flush->started_us)) continue;
    if (Parent* parent = std::exchange(flush->parent, nullptr))
      engine_.piece_done(*parent, Error::QuorumLost);
  }
  const auto time_out = [&](auto& list) {
    for (std::size_t count = list.size(); count > 0 && !list.empty(); --count) {
      auto& one = *list.pop_front();
      if (late(one.started_us)) {
        finish(one, Error::QuorumLost);
      } else {
        list.push_back(one);
      }
    }
  };
  time_out(waiting_);
  time_out(waiting_reads_);
  time_out(held_reads_);
}

// An opening or a resync that a member does not get on with: others need not wait for it. Its link
// is left alone; the member is opened again once the operation is back.
void Segment::check_hung_controls() noexcept {
  const std::uint64_t now = engine_.loop.now_us();
  const std::uint64_t hung_us = kOpTimeouts * engine_.hub.config().member_timeout_us;
  for (std::uint32_t i = 0; i < kMembersMax; ++i) {
    const Member& member = members_[i];
    const bool here = member.control_busy && member.control.session == member.session;
    if (here && now > member.control_sent_us + hung_us) member_failed(i, Error::DiskError);
  }
}

SegmentStatus Segment::status() const {
  SegmentStatus status;
  status.index = index_;
  status.generation = generation_;
  status.state = state();
  status.in_sync = hosts_of(agreed_);
  const auto joining =
      static_cast<MemberMask>(members_in(Member::State::syncing) | (ready_ & ~agreed_));
  MemberMask present = 0;
  for (std::uint32_t i = 0; i < kMembersMax; ++i)
    present |= members_[i].present ? member_bit(i) : MemberMask{0};
  status.joining = hosts_of(joining);
  status.absent = hosts_of(static_cast<MemberMask>(present & ~agreed_ & ~joining));
  status.behind = hosts_of(static_cast<MemberMask>(agreed_ & ~ready_));
  for (std::uint32_t i = 0; i < kMembersMax; ++i) {
    if (members_[i].missing && (agreed_ & member_bit(i)))
      status.missing.push_back(members_[i].host_id);
  }
  status.lost = lost();
  status.differing = hosts_of(differing_);
  if (proven_us_ != 0) status.proven_ago_us = engine_.loop.now_us() - proven_us_;
  status.resync_bytes_done = resync_done_bytes_;
  status.resync_bytes_total = resync_total_bytes_;
  if (joining != 0 && resync_began_us_ != 0)
    status.resync_us = engine_.loop.now_us() - resync_began_us_;
  status.in_flight = in_flight_.size() + waiting_.size() + waiting_reads_.size();
  return status;
}

}  // namespace blockd::engine
