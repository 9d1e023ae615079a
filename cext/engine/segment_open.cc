// Opening: fence the members, hear what each holds above the stable mark, bring them to one state
// (O1..O4).
//
// gather -> list -> reconcile -> flush -> formed. A base member that is lost on the way begins it
// anew.
#include <algorithm>
#include <cstring>

#include "base/assert.h"
#include "engine/segment.h"

namespace blockd::engine {

using peer::ReplicaOp;

// Enough must answer to meet every write there was; the others are given a moment.
void Segment::advance_gather() noexcept {
  if (copies_under_way_ != 0) return;
  const MemberMask answered = members_in(Member::State::opened);
  if (!meets_every_quorum(answered)) {
    grace_until_us_ = 0;
    return;
  }
  bool wait = false;
  bool wait_for_lease = false;
  for (std::uint32_t i = 0; i < kMembersMax; ++i) {
    if (!((agreed_ | asked_) & ~answered & member_bit(i))) continue;
    wait = wait || may_still_answer(members_[i]);
    wait_for_lease =
        wait_for_lease || (members_[i].lease_wait && members_[i].host->channel->connected());
  }
  const std::uint64_t now = engine_.loop.now_us();
  if (grace_until_us_ == 0) grace_until_us_ = now + kOpenGraceUs;
  if (wait_for_lease || (wait && now < grace_until_us_))
    return wake_at(std::max(grace_until_us_, now + 1000));
  start_listing();
}

bool Segment::may_still_answer(const Member& member) const noexcept {
  if (member.state == Member::State::opening) return true;
  if (member.gave_answer) return member.lease_wait;
  return !member.host->channel->unreachable();
}

void Segment::start_listing() noexcept {
  phase_ = Phase::list;
  reports_.clear();
  unreadable_.clear();
  base_stable_ = Version{};
  base_pending_ = members_in(Member::State::opened);
  for (std::uint32_t i = 0; i < kMembersMax; ++i) {
    if (!(base_pending_ & member_bit(i))) continue;
    members_[i].state = Member::State::base;
    base_stable_ = std::max(base_stable_, members_[i].reported_stable);
  }
  for (std::uint32_t i = 0; i < kMembersMax; ++i) {
    if (!(base_pending_ & member_bit(i))) continue;
    members_[i].control.first_block = 0;
    list_page(i);
  }
}

void Segment::list_page(std::uint32_t index) noexcept {
  Member& member = members_[index];
  member.page.resize(kOpenPageEntries * sizeof(format::ChunkEntry));
  ReplicaOp& op = member.control;
  op.kind = ReplicaOp::Kind::list;
  op.handle = member.handle;
  op.version = base_stable_;
  op.stable = Version{};
  op.data = member.page.data();
  op.data_bytes = static_cast<std::uint32_t>(member.page.size());
  control(index, index, list_done);
}

void Segment::list_done(ReplicaOp& op) noexcept {
  Segment& self = *static_cast<Segment*>(op.owner);
  const std::uint32_t index = op.tag;
  if (!self.control_back(op)) return;
  if (op.error != Error::Ok) return self.member_error(index, op.session, op.error);
  BLOCKD_ASSERT(self.phase_ == Phase::list && (self.base_pending_ & member_bit(index)));
  format::ChunkEntry entry;
  for (std::uint32_t i = 0; i < op.block_count; ++i) {
    std::memcpy(static_cast<void*>(&entry), op.data + std::size_t{i} * sizeof entry, sizeof entry);
    if (entry.chunk >= kChunksPerSegment) continue;
    Report& report = self.reports_[entry.chunk];
    const Version version{entry.epoch, entry.seq};
    if (version > self.base_stable_) report.versions[index] = version;
    if ((entry.flags & format::kEntryPast) != 0) report.past |= member_bit(index);
  }
  if (op.block_count == kOpenPageEntries) {
    op.first_block = entry.chunk + 1;
    return self.list_page(index);
  }
  self.members_[index].page = {};
  self.base_pending_ &= static_cast<MemberMask>(~member_bit(index));
  if (self.base_pending_ == 0) self.start_reconcile();
}

Version Segment::highest_reported(std::uint32_t chunk) const noexcept {
  const MemberMask base = members_in(Member::State::base);
  const auto found = reports_.find(chunk);
  Version highest;
  for (std::uint32_t i = 0; i < kMembersMax && found != reports_.end(); ++i) {
    if (base & ~found->second.disowned & member_bit(i))
      highest = std::max(highest, found->second.versions[i]);
  }
  return highest;
}

// Of each reported chunk the highest version is the truth (O2); who has another gets it copied.
void Segment::start_reconcile() {
  phase_ = Phase::reconcile;
  plan_.clear();
  for (const auto& [chunk, report] : reports_) plan_chunk(chunk, report);
  poke();
}

// Equal versions are equal pasts (I2), unless a past content is in doubt somewhere: then all are
// looked at. Beyond the first era each target is brought to the truth by itself.
void Segment::plan_chunk(std::uint32_t chunk, const Report& report) {
  const MemberMask base = members_in(Member::State::base);
  const Version highest = highest_reported(chunk);
  const bool in_doubt = engine_.era > 1 && (report.past & base) != 0;
  MemberMask targets = 0;
  for (std::uint32_t i = 0; i < kMembersMax; ++i) {
    const bool differs =
        report.versions[i] != highest || in_doubt || (report.disowned & member_bit(i)) != 0;
    if (differs && (base & member_bit(i))) targets |= member_bit(i);
  }
  if (targets == 0) return;
  if (engine_.era == 1) return plan_.push_back({chunk, targets});
  for (std::uint32_t i = 0; i < kMembersMax; ++i) {
    if (targets & member_bit(i)) plan_.push_back({chunk, member_bit(i)});
  }
}

// Who has the truth of the chunk, and could read it so far.
MemberMask Segment::sources_of(const PlanItem& item) const noexcept {
  MemberMask sources = newest_at(item.chunk);
  // Below the mark all agree already: each has only to let go of what was never agreed.
  const auto agreeing = static_cast<MemberMask>(item.targets & ~reports_.at(item.chunk).disowned);
  if (highest_reported(item.chunk) == Version{} && agreeing != 0) sources = agreeing;
  const auto bad = unreadable_.find(item.chunk);
  return bad == unreadable_.end() ? sources : static_cast<MemberMask>(sources & ~bad->second);
}

// The base members that have the truth of the chunk.
MemberMask Segment::newest_at(std::uint32_t chunk) const noexcept {
  const Report& report = reports_.at(chunk);
  const auto base = static_cast<MemberMask>(members_in(Member::State::base) & ~report.disowned);
  const Version highest = highest_reported(chunk);
  MemberMask newest = 0;
  for (std::uint32_t i = 0; i < kMembersMax; ++i) {
    if ((base & member_bit(i)) && report.versions[i] == highest) newest |= member_bit(i);
  }
  return newest;
}

// The newest content of the chunk cannot be read anywhere. When too few can have it for a quorum
// ever to have had it, no client was told of it or shown it: what is next is the truth (O5). False:
// it may have been acknowledged.
bool Segment::disown_newest(std::uint32_t chunk) {
  Report& report = reports_.at(chunk);
  const MemberMask base = members_in(Member::State::base);
  const Version highest = highest_reported(chunk);
  if (highest == Version{}) return false;
  const MemberMask have = newest_at(chunk);
  const auto may_have = static_cast<MemberMask>(have | report.disowned | ~base);
  if ((base & ~(report.disowned | have)) == 0) return false;  // somebody has to have the truth
  if (counted(may_have, agreed_) && (asked_ == 0 || counted(may_have, asked_))) return false;
  report.disowned |= have;
  std::erase_if(plan_, [&](const PlanItem& item) { return item.chunk == chunk; });
  plan_chunk(chunk, report);
  engine_.notice(index_, members_[nearest(have)].host_id, "unacknowledged-write-dropped", chunk);
  return true;
}

// Damaged wherever it is newest. Tried again: an administrator may act, or a member come that has
// it and was not there when the others answered.
void Segment::opening_blocked(std::uint32_t chunk) noexcept {
  unreadable_[chunk] = 0;
  engine_.notice(index_, members_[nearest(newest_at(chunk))].host_id, "reconcile-blocked", chunk);
  blocked_until_us_ = engine_.loop.now_us() + kRetryMaxUs / 5;
  wake_at(blocked_until_us_);
  for (std::uint32_t i = 0; i < kMembersMax; ++i) {
    const Member& member = members_[i];
    const bool outside =
        ((agreed_ | asked_) & member_bit(i)) && member.state != Member::State::base;
    if (outside && member.host->channel->connected()) return restart_opening();
  }
}

void Segment::advance_reconcile() noexcept {
  if (engine_.loop.now_us() < blocked_until_us_) return wake_at(blocked_until_us_);
  while (!plan_.empty() && copies_under_way_ < kReconcileCopies) {
    const PlanItem item = plan_.back();
    const MemberMask sources = sources_of(item);
    if (sources == 0) {
      if (copies_under_way_ != 0) return;  // one of them may bring it
      if (disown_newest(item.chunk)) continue;
      return opening_blocked(item.chunk);
    }
    if (!start_copy(ChunkCopy::Why::reconcile, item.chunk, nearest(sources), item.targets)) {
      return wake_at(engine_.loop.now_us() + kShortageRetryUs);
    }
    plan_.pop_back();
  }
  if (plan_.empty() && copies_under_way_ == 0) start_base_flush();
}

void Segment::reconciled(ChunkCopy& copy) noexcept {
  if (phase_ != Phase::reconcile) return;
  if (copy.error == Error::Ok) {  // they have the truth, and could give it
    Report& report = reports_.at(copy.chunk);
    const Version highest = highest_reported(copy.chunk);
    for (std::uint32_t i = 0; i < kMembersMax; ++i) {
      if (copy.targets & member_bit(i)) report.versions[i] = highest;
    }
    report.disowned &= static_cast<MemberMask>(~copy.targets);
    return;
  }
  plan_.push_back({copy.chunk, copy.targets});
  const bool medium = copy.error == Error::ChecksumMismatch || copy.error == Error::DiskError;
  if (medium && copy.stage == ChunkCopy::Stage::reading)
    unreadable_[copy.chunk] |= member_bit(copy.source);
}

// What serving will rest on must survive a power loss. Nothing reported: it all did already.
void Segment::start_base_flush() noexcept {
  if (reports_.empty()) return form();
  phase_ = Phase::flush;
  base_pending_ = members_in(Member::State::base);
  for (std::uint32_t i = 0; i < kMembersMax; ++i) {
    if (!(base_pending_ & member_bit(i))) continue;
    ReplicaOp& op = members_[i].control;
    op.kind = ReplicaOp::Kind::flush;
    op.handle = members_[i].handle;
    op.stable = Version{};
    control(i, i, base_flush_done);
  }
}

void Segment::base_flush_done(ReplicaOp& op) noexcept {
  Segment& self = *static_cast<Segment*>(op.owner);
  if (!self.control_back(op)) return;
  if (op.error != Error::Ok) return self.member_error(op.tag, op.session, op.error);
  BLOCKD_ASSERT(self.phase_ == Phase::flush);
  self.base_pending_ &= static_cast<MemberMask>(~member_bit(op.tag));
  if (self.base_pending_ == 0) self.form();
}

// An engine that goes on over an opening (O4) knows what it acknowledged. A replica keeps a prefix
// of what it took, so when no base member shows the last of it, what was acknowledged and not
// flushed went with the power of too many: the clients are told by a flush that fails.
void Segment::look_for_loss(Version highest) noexcept {
  if (max_acked_seq_ <= lost_seq_ || highest >= Version{engine_.epoch, max_acked_seq_}) return;
  lost_seq_ = max_acked_seq_;
  loss_untold_ = true;
  for (Flush* flush = flushes_.front(); flush != nullptr; flush = peer::List<Flush>::next(*flush)) {
    if (flush->parent == nullptr) continue;
    flush->fails = true;
    loss_untold_ = false;
  }
  const std::uint32_t one = nearest(members_in(Member::State::base));
  engine_.notice(index_, members_[one].host_id, "acknowledged-writes-lost", max_acked_seq_);
}

void Segment::form() noexcept {
  phase_ = Phase::formed;
  Version highest = std::max(stable_, base_stable_);
  for (const auto& [chunk, report] : reports_) highest = std::max(highest, highest_reported(chunk));
  look_for_loss(highest);
  last_seq_ = history_.formed(highest, engine_.epoch, last_seq_);
  reports_.clear();
  stable_ = std::max(stable_, base_stable_);
  for (std::uint32_t i = 0; i < kMembersMax; ++i) {
    if (members_[i].state == Member::State::base) become_ready(i, last_seq_);
  }
  for (std::uint32_t i = 0; i < kMembersMax; ++i) {  // came while the base was at work
    if (members_[i].state == Member::State::opened) begin_join(i);
  }
  proof_at_us_ = 0;  // is it one state?
  evaluate_all();
  poke();
}

// A base member is gone: what it reported may no longer be had. All open anew.
void Segment::restart_opening() noexcept {
  phase_ = Phase::gather;
  grace_until_us_ = 0;
  for (std::uint32_t i = 0; i < kMembersMax; ++i) {
    Member& member = members_[i];
    if (member.state != Member::State::base) continue;
    ++member.session;
    member.state = Member::State::absent;
    member.retry_at_us = 0;
    member.gave_answer = false;
  }
  let_go_of_copies();
  poke();
}

}  // namespace blockd::engine
