// The proof: members' roots, taken at one point of the segment's history, agree or do not
// (docs/REPLICATION.md, "The proof").
//
// A round asks every ready member, and those whose resync has nothing left to do, at one moment:
// each stream has the mutations in one order, so each answers for the same history, and no client
// waits. What comes of it is decided in run(): that a joiner agrees as soon as a holder has
// answered too, all else when nobody is awaited any more.
#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>

#include "base/assert.h"
#include "engine/segment.h"

namespace blockd::engine {

using peer::ReplicaOp;

// Hosts of an older version know no roots.
MemberMask Segment::able_to_prove(MemberMask mask) const noexcept {
  MemberMask able = 0;
  for (std::uint32_t i = 0; i < kMembersMax; ++i) {
    const bool knows = (mask & member_bit(i)) != 0 &&
                       members_[i].host->channel->version() >= format::kWireVersionRoot;
    if (knows) able |= member_bit(i);
  }
  return able;
}

// Those that no round has asked yet.
MemberMask Segment::joins_to_prove() const noexcept {
  MemberMask mask = 0;
  for (std::uint32_t i = 0; i < kMembersMax; ++i) {
    const Member& member = members_[i];
    const bool proves =
        member.state == Member::State::syncing && member.join->phase == Join::Phase::prove;
    if (proves && !member.join->asked) mask |= member_bit(i);
  }
  return mask;
}

// A holder that owes an answer is not asked again, nor waited for: joiners are compared with
// others.
void Segment::advance_proofs() noexcept {
  MemberMask slow = 0;
  for (std::size_t count = proofs_.size(); count > 0; --count) {
    Proof& proof = *proofs_.pop_front();
    judge_joins(proof);
    const MemberMask left = awaited(proof);
    slow |= left;
    if (left != 0) {
      proofs_.push_back(proof);
    } else {
      judge_holders(proof);
      retire(proof);
    }
  }
  if (phase_ != Phase::formed) return;
  const MemberMask able = able_to_prove(ready_);
  const MemberMask joins = joins_to_prove();
  if (able == 0) return joined_unproven(joins);
  const auto holders = static_cast<MemberMask>(able & ~slow);
  const std::uint64_t now = engine_.loop.now_us();
  const bool due = serve_started_ && proofs_.empty() && now >= proof_at_us_;
  if (due) proof_at_us_ = now + kProofUs;
  if (holders == 0 || (joins == 0 && (!due || std::popcount(holders) == 1))) return;
  if (begin_proof(holders, joins)) return;
  if (due) proof_at_us_ = now + kProofRetryUs;
  wake_at(now + kProofRetryUs);
}

// False: all records are out.
bool Segment::begin_proof(MemberMask holders, MemberMask joins) noexcept {
  Proof* proof = engine_.proofs.get();
  if (proof == nullptr) return false;
  proof->segment = this;
  proof->orphan = false;
  proof->holders = holders;
  proof->joins = joins;
  proof->outstanding = proof->answered = 0;
  proof->sent_us = engine_.loop.now_us();
  proofs_.push_back(*proof);
  for (std::uint32_t i = 0; i < kMembersMax; ++i) {
    if (joins & member_bit(i)) members_[i].join->asked = true;
    if ((holders | joins) & member_bit(i)) ask_root(*proof, i);
  }
  return true;
}

void Segment::ask_root(Proof& proof, std::uint32_t index) noexcept {
  const Member& member = members_[index];
  proof.outstanding |= member_bit(index);
  ReplicaOp& op = proof.parts[index];
  op.kind = ReplicaOp::Kind::root;
  op.handle = member.handle;
  op.stable = Version{};
  op.done = root_done;
  op.owner = &proof;
  op.tag = index;
  op.session = member.session;
  engine_.submit(*member.host, op);
}

void Segment::root_done(ReplicaOp& op) noexcept {
  Proof& proof = *static_cast<Proof*>(op.owner);
  Segment& self = *proof.segment;
  self.engine_.op_back();
  proof.outstanding &= static_cast<MemberMask>(~member_bit(op.tag));
  if (proof.orphan) return self.release(proof);
  if (op.error == Error::Ok) {
    proof.answered |= member_bit(op.tag);
  } else {
    self.member_error(op.tag, op.session, op.error);
  }
  self.poke();
}

// Of these members, those whose life is the one that was asked.
MemberMask Segment::same_life(const Proof& proof, MemberMask mask) const noexcept {
  MemberMask same = 0;
  for (std::uint32_t i = 0; i < kMembersMax; ++i) {
    const bool it = proof.parts[i].session == members_[i].session;
    if (it) same |= static_cast<MemberMask>(mask & member_bit(i));
  }
  return same;
}

MemberMask Segment::awaited(const Proof& proof) const noexcept {
  return same_life(proof, proof.outstanding);
}

// Joiners that it has not judged, for the holders are lost, are asked again.
void Segment::retire(Proof& proof) noexcept {
  const MemberMask left = same_life(proof, proof.joins);
  for (std::uint32_t i = 0; i < kMembersMax; ++i) {
    if (left & member_bit(i)) members_[i].join->asked = false;
  }
  if (proof.outstanding == 0) return engine_.proofs.put(proof);
  proof.orphan = true;  // operations of lives that are over are still out
  lost_proofs_.push_back(proof);
  engine_.proofs.allow(1);
}

void Segment::release(Proof& proof) noexcept {
  if (proof.outstanding != 0) return;
  lost_proofs_.erase(proof);
  engine_.proofs.allow(-1);
  engine_.proofs.put(proof);
  poke();  // the member may be opened
}

// Members that are in sync, compared. When most are alike the others are given up, and brought back
// by a resync that proves what it did; else nobody can tell who is right, and people are told.
void Segment::judge_holders(const Proof& proof) noexcept {
  const auto holders =
      static_cast<MemberMask>(same_life(proof, proof.answered & proof.holders) & ready_);
  if (holders == 0) return;
  const MemberMask alike = most_alike(proof, holders);
  const bool most = 2 * std::popcount(alike) > std::popcount(holders);
  if (alike == holders && holders == ready_ && std::popcount(holders) > 1)
    proven_us_ = proof.sent_us;
  if (std::popcount(alike) > 1) differing_ &= static_cast<MemberMask>(~alike);
  for (std::uint32_t i = 0; i < kMembersMax; ++i) {
    const MemberMask bit = member_bit(i);
    if (!(holders & ~alike & bit)) continue;
    if (!(differing_ & bit))
      engine_.notice(index_, members_[i].host_id, "replica-differs", most ? 1 : 0);
    differing_ |= bit;
    if (most) member_failed(i, Error::NotInSync);
  }
}

MemberMask Segment::alike_with(const Proof& proof, std::uint32_t index,
                               MemberMask holders) const noexcept {
  MemberMask alike = 0;
  for (std::uint32_t i = 0; i < kMembersMax; ++i) {
    if ((holders & member_bit(i)) && proof.parts[i].root == proof.parts[index].root)
      alike |= member_bit(i);
  }
  return alike;
}

// The members with the root that most of them have; the nearest's among as many.
MemberMask Segment::most_alike(const Proof& proof, MemberMask holders) const noexcept {
  MemberMask best = 0;
  for (std::uint32_t i = 0; i < kMembersMax; ++i) {
    if (!(holders & member_bit(i))) continue;
    const MemberMask alike = alike_with(proof, i, holders);
    const int more = std::popcount(alike) - std::popcount(best);
    if (more > 0 || (more == 0 && (alike & member_bit(nearest(holders))) != 0)) best = alike;
  }
  return best;
}

// --- what a proof says of a joiner ---------------------------------------------------------------

// It agrees as soon as a holder has answered likewise: one that hangs holds it up no longer. That
// it differs is said when all have answered: the first may be the one that is wrong.
void Segment::judge_joins(Proof& proof) noexcept {
  const auto holders =
      static_cast<MemberMask>(same_life(proof, proof.answered & proof.holders) & ready_);
  const MemberMask joins = same_life(proof, proof.answered & proof.joins);
  if (holders == 0 || joins == 0) return;
  const int most = std::popcount(most_alike(proof, holders));
  const bool more_to_come = (awaited(proof) & proof.holders) != 0;
  const bool all_ready = holders == ready_;
  for (std::uint32_t i = 0; i < kMembersMax; ++i) {
    if (!(joins & member_bit(i)) || members_[i].session != proof.parts[i].session) continue;
    const MemberMask alike = alike_with(proof, i, holders);
    const bool agrees = std::popcount(alike) == most;
    if (!agrees && more_to_come) continue;
    proof.joins &= static_cast<MemberMask>(~member_bit(i));
    members_[i].join->asked = false;
    if (!agrees) {
      mismatched(i);
      continue;
    }
    if (all_ready && alike == holders) proven_us_ = proof.sent_us;
    if (alike != holders) proof_at_us_ = 0;  // with one member more, most may be alike
    joined(i);
  }
}

void Segment::joined_unproven(MemberMask joins) noexcept {
  for (std::uint32_t i = 0; i < kMembersMax; ++i) {
    if (joins & member_bit(i)) joined(i);
  }
}

void Segment::joined(std::uint32_t index) noexcept {
  Member& member = members_[index];
  BLOCKD_ASSERT(member.state == Member::State::syncing && member.join->pending_count == 0);
  const std::uint64_t durable_seq = member.join->durable_seq;
  tell_preserved(member);
  member.join.reset();
  count_join(member, false);
  differing_ &= static_cast<MemberMask>(~member_bit(index));
  become_ready(index, durable_seq);
  engine_.notice(index_, member.host_id, "resync-finished", resync_done_bytes_);
  evaluate_all();
  advance_stable();
}

// Versions said that it has everything, and its checksums say that it has not.
void Segment::mismatched(std::uint32_t index) noexcept {
  Join& join = *members_[index].join;
  differing_ |= member_bit(index);
  join.phase = Join::Phase::digests_joiner;
  join.digests.assign(kChunksPerSegment, 0);
  join_list_digests(index, 0);
}

// Chunk by chunk, with checksums: what differs is copied, however equal its versions. Mutations go
// on meanwhile: what they touch may be copied for nothing.
void Segment::join_list_digests(std::uint32_t index, std::uint32_t from_chunk) noexcept {
  Member& member = members_[index];
  Join& join = *member.join;
  const bool of_joiner = join.phase == Join::Phase::digests_joiner;
  if (!of_joiner) {
    const MemberMask sources = able_to_prove(ready_);
    if (sources == 0) return member_failed(index, Error::NotInSync);
    if (from_chunk == 0 || join.source_session != members_[join.source].session) {
      from_chunk = 0;
      join.source = nearest(sources);
      join.source_session = members_[join.source].session;
      join.source_digests.assign(kChunksPerSegment, 0);
    }
  }
  member.page.resize(format::kListEntriesMax * sizeof(format::ChunkEntry));
  ReplicaOp& op = member.control;
  op.kind = ReplicaOp::Kind::digests;
  op.handle = members_[of_joiner ? index : join.source].handle;
  op.first_block = from_chunk;
  op.version = op.stable = Version{};
  op.data = member.page.data();
  op.data_bytes = static_cast<std::uint32_t>(member.page.size());
  control(index, of_joiner ? index : join.source, join_digests_done);
}

void Segment::join_digests_done(ReplicaOp& op) noexcept {
  Segment& self = *static_cast<Segment*>(op.owner);
  const std::uint32_t index = op.tag;
  Member& member = self.members_[index];
  if (!self.control_back(op)) return;
  BLOCKD_ASSERT(member.state == Member::State::syncing);
  Join& join = *member.join;
  const bool of_joiner = join.phase == Join::Phase::digests_joiner;
  if (op.error != Error::Ok) {
    if (of_joiner) return self.member_error(index, op.session, op.error);
    self.member_error(join.source, join.source_session, op.error);
    if (member.state == Member::State::syncing && !self.engine_.fenced)
      self.join_list_digests(index, 0);
    return;
  }
  std::uint32_t next_chunk = 0;
  for (std::uint32_t i = 0; i < op.block_count; ++i) {
    format::ChunkEntry entry;
    std::memcpy(static_cast<void*>(&entry), op.data + std::size_t{i} * sizeof entry, sizeof entry);
    if (entry.chunk >= kChunksPerSegment) continue;
    (of_joiner ? join.digests : join.source_digests)[entry.chunk] = mixed(entry.born, entry);
    next_chunk = entry.chunk + 1;
  }
  const bool more = op.block_count == format::kListEntriesMax;
  if (more) return self.join_list_digests(index, next_chunk);
  if (!of_joiner) return self.compare_digests(index);
  join.phase = Join::Phase::digests_source;
  self.join_list_digests(index, 0);
}

void Segment::compare_digests(std::uint32_t index) noexcept {
  Member& member = members_[index];
  Join& join = *member.join;
  std::uint32_t first = kChunksPerSegment;
  for (std::uint32_t chunk = 0; chunk < kChunksPerSegment; ++chunk) {
    if (join.digests[chunk] == join.source_digests[chunk]) continue;
    first = std::min(first, chunk);
    mark_missed(member, chunk, chunk);
  }
  engine_.notice(index_, member.host_id, "resync-mismatch", first);
  if (++join.mismatches >= kProofTries) return member_failed(index, Error::NotInSync);
  join.digests = {};
  join.source_digests = {};
  member.page = {};
  join.phase = Join::Phase::copy;
  resync_total_bytes_ += std::uint64_t{join.pending_count} * kChunkBytes;
  poke();
}

}  // namespace blockd::engine
