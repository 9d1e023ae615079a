// What a joiner has of a chunk and the segment's history has not, kept before a copy takes it away
// (docs/REPLICATION.md, B).
//
// The joiner is sent no mutation of a pending chunk, so what it has stays as it is until it is
// replaced: it is read without a lock, and may be kept twice when the engine or the joiner dies
// before the replacement. It is compared with what the source has at that moment, which is part of
// the history: what is equal to it is not lost. The chunk's copy begins once the content is durable
// in a branch; until then the chunk stays pending, and is tried again.
#include <bit>
#include <cstring>
#include <utility>

#include "base/assert.h"
#include "engine/bits.h"
#include "engine/segment.h"

namespace blockd::engine {

using peer::ReplicaOp;

// Versions decide (B1): equal ones are equal contents, and a mark that the joiner was told while it
// was ready covers history only. What is above the source's, where nothing moved, it cannot have.
void Segment::find_diverged(Member& member) {
  Join& join = *member.join;
  const auto newest = newest_versions(join.source_versions);
  for (std::uint32_t chunk = 0; chunk < join.versions.size(); ++chunk) {
    const Version held = join.versions[chunk];
    const Version source = join.source_versions[chunk];
    if (held == Version{} || held == source || !test(join.pending, chunk)) continue;
    // The source may have nothing because a trim's record is gone, so nothing is no version.
    const bool ahead = source != Version{} && held > source && !test(join.touched, chunk);
    const bool known = held <= member.reported_stable || history_.has(held, engine_.epoch, newest);
    if (ahead || !known) set(join.diverged, chunk);
  }
}

// False: wait for buffers.
bool Segment::try_preserve(ChunkCopy& copy) noexcept {
  const auto target = static_cast<std::uint32_t>(std::countr_zero(copy.targets));
  if (copy.target_sessions[target] != members_[target].session) {
    copy.error = Error::LinkLost;
    finish(copy);
    return true;
  }
  if (!copy.buffer) copy.buffer = engine_.buffers.chunk.get();
  if (!copy.heal_buffer) copy.heal_buffer = engine_.buffers.chunk.get();
  if (!copy.buffer || !copy.heal_buffer) {
    copy.buffer.reset();  // nobody waits for one buffer with another in hand
    copy.heal_buffer.reset();
    wake_at(engine_.loop.now_us() + kShortageRetryUs);
    return false;
  }
  active_copies_.push_back(copy);
  copy.stage = ChunkCopy::Stage::reading;
  copy.started_us = engine_.loop.now_us();
  copy.asked = target;
  copy.asked_session = members_[target].session;
  ReplicaOp& op = copy.heal;
  op.kind = ReplicaOp::Kind::read_chunk;
  op.handle = members_[target].handle;
  op.first_block = copy.chunk * kBlocksPerChunk;
  op.block_count = kBlocksPerChunk;
  op.era = 0;
  op.stable = Version{};
  op.data = copy.heal_buffer.data();
  op.crcs = copy.heal_crcs.data();
  op.done = held_read;
  op.owner = &copy;
  op.tag = target;
  op.session = copy.asked_session;
  engine_.submit(*members_[target].host, op);
  return true;
}

void Segment::held_read(ReplicaOp& op) noexcept {
  ChunkCopy& copy = *static_cast<ChunkCopy*>(op.owner);
  Segment& self = *copy.segment;
  self.engine_.op_back();
  if (copy.orphan) return self.release(copy);
  const bool in_part = op.error == Error::ChecksumMismatch && op.damaged != 0;
  copy.error = in_part ? Error::Ok : op.error;
  const bool ended = op.session != self.members_[op.tag].session ||
                     copy.source_session != self.members_[copy.source].session;
  if (copy.error == Error::Ok && ended) copy.error = Error::LinkLost;
  if (copy.error == Error::Ok) return self.read_current(copy);
  if (!medium_error(copy.error) && copy.error != Error::Busy) {
    self.member_error(op.tag, op.session, op.error);
    if (copy.orphan) return self.release(copy);
  }
  self.finish(copy);
}

// A source that cannot be read has nothing to compare with: then all of it is kept.
void Segment::source_read(ChunkCopy& copy) noexcept {
  const ReplicaOp& op = copy.read;
  const auto target = static_cast<std::uint32_t>(std::countr_zero(copy.targets));
  const bool ended = op.session != members_[op.tag].session ||
                     copy.target_sessions[target] != members_[target].session;
  copy.error = ended ? Error::LinkLost : medium_error(op.error) ? Error::Ok : op.error;
  if (copy.error != Error::Ok) {
    if (!ended && op.error != Error::Busy) member_error(op.tag, op.session, op.error);
    if (copy.orphan) return release(copy);
    return finish(copy);
  }
  copy.preserve_bytes = complete_held(copy) * kBlockBytes;
  if (copy.preserve_bytes == 0) return finish(copy);
  send_preserve(copy);
}

// Fills what the joiner's content leaves open: holes, and blocks that it has lost, for which the
// source's stand in. Returns in how many blocks the two differ.
std::uint32_t Segment::complete_held(ChunkCopy& copy) noexcept {
  // Where there is a base, empty content that covers it differs from nothing.
  const bool compared = copy.read.error == Error::Ok && copy.heal.covers == copy.read.covers;
  std::byte* held = copy.heal_buffer.data();
  std::byte* source = copy.buffer.data();
  if (copy.heal.valid_mask == 0) std::memset(held, 0, kChunkBytes);
  if (copy.read.error != Error::Ok || copy.read.valid_mask == 0)
    std::memset(source, 0, kChunkBytes);
  std::uint32_t differing = 0;
  for (std::uint32_t block = 0; block < kBlocksPerChunk; ++block) {
    const std::size_t at = std::size_t{block} * kBlockBytes;
    const bool lost = copy.heal.error != Error::Ok && ((copy.heal.damaged >> block) & 1) != 0;
    if (lost) {
      std::memcpy(held + at, source + at, kBlockBytes);
    } else if (!compared || std::memcmp(held + at, source + at, kBlockBytes) != 0) {
      ++differing;
    }
  }
  return differing;
}

void Segment::send_preserve(ChunkCopy& copy) noexcept {
  const auto target = static_cast<std::uint32_t>(std::countr_zero(copy.targets));
  copy.stage = ChunkCopy::Stage::preserving;
  end_pace(copy, 0);  // a branch without a quorum may wait for a resync itself
  Preserve& content = copy.preserve;
  content.host = members_[target].host_id;
  content.offset_bytes =
      std::uint64_t{index_} * kSegmentBytes + std::uint64_t{copy.chunk} * kChunkBytes;
  content.data = copy.heal_buffer.data();
  content.hold = copy.heal_buffer;
  content.error = Error::Ok;
  content.done = preserve_done;
  content.owner = &copy;
  ++engine_.ops_under_way;
  engine_.preserve(content);
}

void Segment::preserve_done(Preserve& content) noexcept {
  ChunkCopy& copy = *static_cast<ChunkCopy*>(content.owner);
  Segment& self = *copy.segment;
  self.engine_.op_back();
  content.hold.reset();
  if (copy.orphan) return self.release(copy);
  copy.error = content.error;
  self.finish(copy);
}

// How a copy of why `preserve` ended: the joiner's content is kept, or needs not be; or not yet.
// What the joiner's disk cannot read is tried some times: then nothing is left to keep.
void Segment::preserved(ChunkCopy& copy) noexcept {
  const auto index = static_cast<std::uint32_t>(std::countr_zero(copy.targets));
  Member& member = members_[index];
  const bool kept = copy.stage == ChunkCopy::Stage::preserving;
  if (kept && copy.error == Error::NotFound)
    engine_.notice(index_, member.host_id, "branch-wanted", copy.heal.version.epoch);
  if (member.state != Member::State::syncing || copy.target_sessions[index] != member.session)
    return;
  Join& join = *member.join;
  BLOCKD_ASSERT(join.copies > 0);
  --join.copies;
  --join.preserves;
  clear(join.copying, copy.chunk);
  const bool unread = medium_error(copy.error) && !kept;
  if (unread && ++join.held_tries[copy.chunk] == kPreserveTries) copy.error = Error::Ok;
  if (copy.error == Error::Ok) {
    if (copy.heal.error != Error::Ok)
      engine_.notice(index_, member.host_id, "diverged-unreadable", copy.chunk);
    clear(join.diverged, copy.chunk);
    if (kept) join.preserved_bytes += copy.preserve_bytes;
    return;
  }
  if (!kept && !unread) return;
  if (copy.error != Error::NotFound && copy.error != Error::Busy)
    engine_.notice(index_, member.host_id, "preserve-blocked", copy.chunk);
  if (!join.any_blocked) join.blocked_until_us = engine_.loop.now_us() + kRetryMaxUs / 5;
  join.any_blocked = true;
  join.branch_fails = join.branch_fails || kept;
  set(join.blocked, copy.chunk);
}

void Segment::tell_preserved() noexcept {
  for (Member& member : members_) tell_preserved(member);
}

// One notice for what a join has kept, also when it came to no end.
void Segment::tell_preserved(Member& member) noexcept {
  if (!member.join || member.join->preserved_bytes == 0) return;
  const std::uint64_t bytes = std::exchange(member.join->preserved_bytes, 0);
  engine_.notice(index_, member.host_id, "writes-preserved", bytes);
}

}  // namespace blockd::engine
