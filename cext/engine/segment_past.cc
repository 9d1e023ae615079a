// The past of a chunk, brought along with the chunk (docs/REPLICATION.md, I2).
//
// A copy first makes the target's past what the source's is, then replaces what is current. The
// chunk is locked, and both members have acknowledged every mutation of it, so nothing moves: what
// the listings say is exact. All steps go down one stream, and a store keeps the order of a chunk's
// mutations, also over a crash: whoever has the chunk at the copied version has its past. A target
// that was left half-way has past contents at or above its current version; those count for
// nothing, and the next opening or join takes them away. Where much is missing, most of it is
// brought before, without the lock.
#include <algorithm>
#include <bit>
#include <cstring>
#include <iterator>
#include <memory>

#include "base/assert.h"
#include "engine/past.h"
#include "engine/segment.h"

namespace blockd::engine {

using peer::ReplicaOp;
using store::ChunkState;

namespace {

constexpr std::uint32_t kPageEntries = 64;
constexpr std::size_t kMissingMax = 2;  // contents that clients may have to wait for

// {0,0} as an end: nothing is above it.
bool below(Version version, Version end) noexcept {
  return end == Version{} || version < end;
}

}  // namespace

ChunkState current_of(const std::vector<ChunkState>& states) noexcept {
  const auto found = std::ranges::find(states, Era{0}, &ChunkState::died);
  return found == states.end() ? ChunkState{} : *found;
}

void compare_past(PastSync& sync, const std::vector<ChunkState>& truth, Version end) {
  sync.wrong.clear();
  sync.missing.clear();
  const auto wanted = [&](const ChunkState& state) {
    return state.died != 0 && below(state.version, end);
  };
  for (const ChunkState& have : sync.target) {
    if (have.died == 0) continue;
    const auto twins = std::ranges::count_if(sync.target, [&](const ChunkState& other) {
      return other.died != 0 && other.version == have.version;
    });
    const bool right =
        twins == 1 && std::ranges::any_of(truth, [&](const ChunkState& state) {
          return wanted(state) && state.version == have.version && state.died == have.died;
        });
    const bool known = std::ranges::any_of(
        sync.wrong, [&](const ChunkState& state) { return state.version == have.version; });
    if (!right && !known) sync.wrong.push_back(have);
  }
  for (const ChunkState& state : truth) {
    if (!wanted(state)) continue;
    const bool kept = std::ranges::any_of(sync.target, [&](const ChunkState& have) {
      return have.died == state.died && have.version == state.version;
    });
    const bool forgotten =
        std::ranges::find(sync.wrong, state.version, &ChunkState::version) != sync.wrong.end();
    if (!kept || forgotten) sync.missing.push_back(state);
  }
}

// A volume of the first era has no past. A joiner that has nothing of the chunk, where the source
// has no past of it, needs none; unless the chunk was written since they were listed.
bool Segment::with_past(const ChunkCopy& copy) const noexcept {
  if (engine_.era == 1 || copy.why == ChunkCopy::Why::repair) return false;
  if (std::popcount(copy.targets) != 1) return false;  // planned in the first era
  if (copy.why == ChunkCopy::Why::reconcile) return true;
  const auto target = static_cast<std::uint32_t>(std::countr_zero(copy.targets));
  const Member& member = members_[target];
  return member.state != Member::State::syncing || !member.join->plain(copy.chunk);
}

void Segment::start_past(ChunkCopy& copy) {
  const auto target = static_cast<std::uint32_t>(std::countr_zero(copy.targets));
  if (copy.target_sessions[target] != members_[target].session) {
    copy.error = Error::LinkLost;
    return finish(copy);
  }
  if (!copy.past) copy.past = std::make_unique<PastSync>();
  PastSync& sync = *copy.past;
  sync.self = copy.targets == member_bit(copy.source);
  if (sync.self) sync.wrong_from = first_unagreed(copy.chunk);
  sync.page.resize(kPageEntries * sizeof(format::ChunkEntry));
  list_states(copy, PastSync::Step::list_target);
}

// Of a base member that has the chunk as the base has agreed on it: from which version on it cannot
// have become past.
Version Segment::first_unagreed(std::uint32_t chunk) const noexcept {
  const Version highest = highest_reported(chunk);
  return highest == Version{} ? Version{base_stable_.epoch, base_stable_.seq + 1} : highest;
}

// Sends the step's operation to the source, or to the target.
void Segment::send_past(ChunkCopy& copy, std::uint32_t to,
                        void (*done)(ReplicaOp&) noexcept) noexcept {
  const bool to_target = copy.targets == member_bit(to);
  ReplicaOp& op = copy.past->op;
  op.fua = op.may_create = false;
  op.handle = members_[to].handle;
  op.stable = Version{};
  op.done = done;
  op.owner = &copy;
  op.tag = to;
  op.session = members_[to].session;
  copy.stage = to_target ? ChunkCopy::Stage::replacing : ChunkCopy::Stage::reading;
  if (to_target) copy.outstanding |= member_bit(to);
  copy.asked = to;
  copy.asked_session = members_[to].session;
  copy.started_us = engine_.loop.now_us();
  engine_.submit(*members_[to].host, op);
}

// False: the copy is over. The operation has been taken back.
bool Segment::past_back(ChunkCopy& copy, ReplicaOp& op) noexcept {
  engine_.op_back();
  op.hold.reset();
  copy.outstanding = 0;
  if (copy.orphan) {
    release(copy);
    return false;
  }
  const std::uint32_t target = static_cast<std::uint32_t>(std::countr_zero(copy.targets));
  const bool of_source = op.tag != target;
  copy.error = op.error;
  const bool medium = op.error == Error::ChecksumMismatch || op.error == Error::DiskError;
  const bool source_stays = of_source && (medium || op.error == Error::Busy);
  if (op.error != Error::Ok && !source_stays) member_error(op.tag, op.session, op.error);
  if (copy.orphan) {
    release(copy);
    return false;
  }
  const bool ended = copy.source_session != members_[copy.source].session ||
                     copy.target_sessions[target] != members_[target].session;
  if (copy.error == Error::Ok && ended) copy.error = Error::LinkLost;
  if (copy.error == Error::Ok && (engine_.fenced || engine_.closed))
    copy.error = Error::ShuttingDown;
  if (copy.error == Error::Ok) return true;
  finish(copy);
  return false;
}

// --- listing -------------------------------------------------------------------------------------

void Segment::list_states(ChunkCopy& copy, PastSync::Step step) noexcept {
  PastSync& sync = *copy.past;
  sync.step = step;
  std::vector<ChunkState>& states = step == PastSync::Step::list_source ? sync.source : sync.target;
  states.clear();
  sync.op.version = Version{};
  list_states_page(copy);
}

void Segment::list_states_page(ChunkCopy& copy) noexcept {
  PastSync& sync = *copy.past;
  ReplicaOp& op = sync.op;
  op.kind = ReplicaOp::Kind::states;
  op.first_block = copy.chunk;
  op.data = sync.page.data();
  op.data_bytes = static_cast<std::uint32_t>(sync.page.size());
  op.crcs = nullptr;
  const bool of_source = sync.step == PastSync::Step::list_source;
  send_past(copy,
            of_source ? copy.source : static_cast<std::uint32_t>(std::countr_zero(copy.targets)),
            states_listed);
}

void Segment::states_listed(ReplicaOp& op) noexcept {
  ChunkCopy& copy = *static_cast<ChunkCopy*>(op.owner);
  Segment& self = *copy.segment;
  PastSync& sync = *copy.past;
  if (!self.past_back(copy, op)) return;
  std::vector<ChunkState>& states =
      sync.step == PastSync::Step::list_source ? sync.source : sync.target;
  bool more = op.block_count == kPageEntries;
  for (std::uint32_t i = 0; i < op.block_count; ++i) {
    format::ChunkEntry entry;
    std::memcpy(static_cast<void*>(&entry), op.data + std::size_t{i} * sizeof entry, sizeof entry);
    if (entry.chunk != copy.chunk) {
      more = false;
      break;
    }
    states.push_back({entry.chunk,
                      {entry.epoch, entry.seq},
                      entry.born,
                      entry.died,
                      entry.valid_mask,
                      (entry.flags & format::kEntryCovers) != 0});
  }
  if (more && op.version < states.back().version) {
    op.version = states.back().version;
    return self.list_states_page(copy);
  }
  if (sync.step == PastSync::Step::list_target && !sync.self)
    return self.list_states(copy, PastSync::Step::list_source);
  self.fix_past(copy);
}

// --- fixing --------------------------------------------------------------------------------------

void Segment::fix_past(ChunkCopy& copy) noexcept {
  PastSync& sync = *copy.past;
  if (sync.self) {
    std::ranges::copy_if(sync.target, std::back_inserter(sync.wrong), [&](const ChunkState& state) {
      return state.died != 0 && state.version >= sync.wrong_from;
    });
  } else {
    // What the source has past at or above its current version counts for nothing there, either.
    compare_past(sync, sync.source, current_of(sync.source).version);
  }
  if (goes_back(copy)) {
    sync.step = PastSync::Step::back;
    return read_current(copy);
  }
  if (sync.step == PastSync::Step::check) {
    // Mutations go on by now; what they make past is at the copied version or above.
    const Version copied = copy.read.version;
    std::erase_if(sync.wrong,
                  [&](const ChunkState& state) { return !below(state.version, copied); });
    sync.step = PastSync::Step::check_fix;
  } else if (copy.why == ChunkCopy::Why::resync && sync.missing.size() > kMissingMax &&
             sync.missing.size() <= sync.ahead_of / 2) {
    sync.step = PastSync::Step::ahead;
    sync.ahead_of = sync.missing.size();
    sync.wrong.clear();
    unlock(copy.lock);
  } else {
    sync.step = PastSync::Step::fix;
  }
  fix_next(copy);
}

// A joiner that is ahead of the source holds as past what may be current there. While its newer
// content may still be taken for the truth (the source cannot be read, or the engine dies here)
// that must stay; its past below is the source's anyway (I2). So its current content is replaced
// first, the chunk stays pending, and its past is put right by the next copy.
bool Segment::goes_back(const ChunkCopy& copy) const noexcept {
  const PastSync& sync = *copy.past;
  return copy.why == ChunkCopy::Why::resync && sync.step == PastSync::Step::list_source &&
         current_of(sync.target).version > current_of(sync.source).version;
}

// What is past does not change, and the target is given no mutation of a pending chunk: what was
// brought without the lock stays right. Under it all is compared once more.
void Segment::wait_again(ChunkCopy& copy) noexcept {
  active_copies_.erase(copy);
  copy.stage = ChunkCopy::Stage::waiting;
  copies_.push_back(copy);
  poke();
}

void Segment::fix_next(ChunkCopy& copy) noexcept {
  PastSync& sync = *copy.past;
  if (!sync.wrong.empty()) return forget_next(copy);
  if (!sync.missing.empty()) return fetch_next(copy);
  if (sync.step == PastSync::Step::ahead) return wait_again(copy);
  if (sync.step == PastSync::Step::check_fix || sync.self) return finish(copy);
  if (current_of(sync.target).version != current_of(sync.source).version) return read_current(copy);
  no_longer_pending(copy);
  finish(copy);
}

void Segment::forget_next(ChunkCopy& copy) noexcept {
  PastSync& sync = *copy.past;
  ReplicaOp& op = sync.op;
  op.kind = ReplicaOp::Kind::forget;
  op.first_block = copy.chunk * kBlocksPerChunk;
  op.block_count = kBlocksPerChunk;
  op.version = sync.wrong.back().version;
  op.era = op.died = 0;
  op.covers = false;
  op.valid_mask = 0;
  op.data = nullptr;
  op.crcs = nullptr;
  send_past(copy, static_cast<std::uint32_t>(std::countr_zero(copy.targets)), past_forgotten);
}

void Segment::past_forgotten(ReplicaOp& op) noexcept {
  ChunkCopy& copy = *static_cast<ChunkCopy*>(op.owner);
  Segment& self = *copy.segment;
  if (!self.past_back(copy, op)) return;
  copy.past->wrong.pop_back();
  self.fix_next(copy);
}

void Segment::fetch_next(ChunkCopy& copy) noexcept {
  PastSync& sync = *copy.past;
  ReplicaOp& op = sync.op;
  op.kind = ReplicaOp::Kind::read_chunk;
  op.first_block = copy.chunk * kBlocksPerChunk;
  op.block_count = kBlocksPerChunk;
  op.era = sync.missing.back().born;
  op.data = copy.buffer.data();
  op.crcs = copy.crcs.data();
  send_past(copy, copy.source, past_fetched);
}

// Another content, or none: what was to be brought has been given back since, with its snapshots.
void Segment::past_fetched(ReplicaOp& op) noexcept {
  ChunkCopy& copy = *static_cast<ChunkCopy*>(op.owner);
  Segment& self = *copy.segment;
  if (!self.past_back(copy, op)) return;
  const ChunkState wanted = copy.past->missing.back();
  if (op.version != wanted.version || op.died != wanted.died) {
    copy.past->missing.pop_back();
    return self.fix_next(copy);
  }
  self.bring_past(copy);
}

void Segment::bring_past(ChunkCopy& copy) noexcept {
  ReplicaOp& op = copy.past->op;  // as the source answered: version, era = born, died, valid_mask
  op.kind = ReplicaOp::Kind::replace;
  op.block_count = kBlocksPerChunk;
  op.hold = copy.buffer;
  count_copied(copy, op.valid_mask);
  if (copy.why == ChunkCopy::Why::resync) engine_.pace.charge();
  send_past(copy, static_cast<std::uint32_t>(std::countr_zero(copy.targets)), past_brought);
}

void Segment::past_brought(ReplicaOp& op) noexcept {
  ChunkCopy& copy = *static_cast<ChunkCopy*>(op.owner);
  Segment& self = *copy.segment;
  if (!self.past_back(copy, op)) return;
  copy.past->missing.pop_back();
  self.fix_next(copy);
}

// The target's store may have made what was current there past, for snapshots up to the era of the
// copied content; the source's past says what is right. True: that is being looked at.
bool Segment::check_past(ChunkCopy& copy) noexcept {
  if (!copy.past || copy.error != Error::Ok || copy.past->step != PastSync::Step::fix) return false;
  const ChunkState before = current_of(copy.past->target);
  if (before.version == Version{} || before.born >= copy.read.era) return false;
  list_states(copy, PastSync::Step::check);
  return true;
}

}  // namespace blockd::engine
