// Flushes, and the stable mark that follows from them.
#include <algorithm>
#include <utility>

#include "base/assert.h"
#include "engine/segment.h"

namespace blockd::engine {

using peer::ReplicaOp;

void Segment::submit(Flush& flush) noexcept {
  flush.segment = this;
  flush.answered = false;
  flush.fails = flush.parent != nullptr && std::exchange(loss_untold_, false);
  flush.covers_seq = last_seq_;
  flush.started_us = engine_.loop.now_us();
  flush.sent = flush.acked = flush.outstanding = 0;
  flushes_.push_back(flush);
  pump_flushes();
}

// To every ready member that has not been asked, also to one that became ready meanwhile.
void Segment::pump_flushes() noexcept {
  for (Flush* flush = flushes_.front(); flush != nullptr; flush = peer::List<Flush>::next(*flush)) {
    if (flush->answered) continue;
    for (std::uint32_t i = 0; i < kMembersMax; ++i) {
      if (ready_ & ~flush->sent & ~flush->outstanding & member_bit(i)) send_flush_part(*flush, i);
    }
  }
}

void Segment::send_flush_part(Flush& flush, std::uint32_t index) noexcept {
  Member& member = members_[index];
  ReplicaOp& op = flush.parts[index];
  op.kind = ReplicaOp::Kind::flush;
  op.handle = member.handle;
  op.version = {engine_.epoch, last_seq_};  // what it covers: everything sent so far
  op.stable = member.stable_sent = stable_;
  op.done = flush_part_done;
  op.owner = &flush;
  op.tag = index;
  op.session = member.session;
  flush.sent |= member_bit(index);
  flush.outstanding |= member_bit(index);
  engine_.submit(*member.host, op);
}

void Segment::flush_part_done(ReplicaOp& op) noexcept {
  Flush& flush = *static_cast<Flush*>(op.owner);
  Segment& self = *flush.segment;
  Member& member = self.members_[op.tag];
  const MemberMask bit = member_bit(op.tag);
  self.engine_.op_back();
  flush.outstanding &= static_cast<MemberMask>(~bit);
  if (op.error == Error::Ok && op.session == member.session) {
    flush.acked |= bit;
    member.durable_seq = std::max(member.durable_seq, op.version.seq);
    self.advance_stable();
  } else {
    flush.sent &= static_cast<MemberMask>(~bit);  // asked again if it comes back in time
    if (op.error != Error::Ok) self.member_error(op.tag, op.session, op.error);
    self.poke();
  }
  self.evaluate(flush);
}

// By a member in the life that was asked. An answer that may never come (a disk that hangs) must
// not hold up the flushes of the others.
bool Segment::awaited(const Flush& flush) const noexcept {
  for (std::uint32_t i = 0; i < kMembersMax; ++i) {
    if ((flush.outstanding & member_bit(i)) && flush.parts[i].session == members_[i].session)
      return true;
  }
  return false;
}

void Segment::evaluate(Flush& flush) noexcept {
  Parent* answer = nullptr;
  const bool fails = flush.fails;
  if (!flush.answered && answerable(flush.acked)) {
    flush.answered = true;
    flushed_seq_ = std::max(flushed_seq_, flush.covers_seq);
    answer = std::exchange(flush.parent, nullptr);
  }
  if (flush.answered && flush.background && !awaited(flush)) {
    flush.background = background_under_way_ = false;
  }
  if (flush.answered && flush.outstanding == 0) {
    flushes_.erase(flush);
    engine_.flushes.put(flush);
    engine_.room();
    if (asked_ == 0 && ready_ != agreed_) poke();
  }
  if (answer) engine_.piece_done(*answer, fails ? Error::DiskError : Error::Ok);
}

// So that the stable mark follows also when no client flushes.
void Segment::background_flush() noexcept {
  if (background_under_way_ || ready_ == 0 || phase_ != Phase::formed) return;
  Flush* flush = engine_.flushes.get();
  if (flush == nullptr) return;
  background_under_way_ = true;
  flush->background = true;
  flush->parent = nullptr;
  submit(*flush);
}

// Stable: flushed on every member that counts as in sync, or is about to. A ready one waits to be
// asked for, which it is only when it has what the mark covers: the mark must not run ahead of it.
void Segment::advance_stable() noexcept {
  if (!serve_started_) return;
  std::uint64_t seq = last_seq_;
  for (std::uint32_t i = 0; i < kMembersMax; ++i) {
    if ((agreed_ | asked_ | ready_) & member_bit(i)) seq = std::min(seq, members_[i].durable_seq);
  }
  stable_ = std::max(stable_, Version{engine_.epoch, seq});
}

// Tells members the stable mark when nothing else is sent that could carry it.
void Segment::announce_stable() noexcept {
  for (std::uint32_t i = 0; i < kMembersMax; ++i) {
    Member& member = members_[i];
    if (!(ready_ & member_bit(i)) || member.stable_busy || member.stable_sent >= stable_) continue;
    ReplicaOp& op = member.stable_op;
    op.kind = ReplicaOp::Kind::stable;
    op.handle = member.handle;
    op.stable = member.stable_sent = stable_;
    op.done = stable_done;
    op.owner = this;
    op.tag = i;
    op.session = member.session;
    member.stable_busy = true;
    engine_.submit(*member.host, op);
  }
}

void Segment::stable_done(ReplicaOp& op) noexcept {
  Segment& self = *static_cast<Segment*>(op.owner);
  self.engine_.op_back();
  self.members_[op.tag].stable_busy = false;
  if (op.error != Error::Ok) self.member_error(op.tag, op.session, op.error);
}

}  // namespace blockd::engine
