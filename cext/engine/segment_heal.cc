// Blocks that the source of a copy has lost, taken from members that have the chunk at the same
// version (R5).
//
// A source that cannot give every block of a chunk as it was written says which. Where versions are
// equal contents are (I1), so another member's block is the same one: damage at several members, at
// different blocks, costs nothing. Equal CRCs say nothing of the kind: content that ends in its own
// CRC-32C, as file systems seal their blocks, has the same one in all its versions.
#include <bit>
#include <cstring>

#include "base/assert.h"
#include "engine/segment.h"

namespace blockd::engine {

using peer::ReplicaOp;

// Opened by this engine, in whatever state.
MemberMask Segment::healers() const noexcept {
  return static_cast<MemberMask>(members_in(Member::State::ready) |
                                 members_in(Member::State::base) |
                                 members_in(Member::State::syncing));
}

// False: the source told of no single blocks.
bool Segment::start_heal(ChunkCopy& copy) noexcept {
  const bool told = copy.read.error == Error::ChecksumMismatch && copy.read.damaged != 0;
  const bool here = copy.read.session == members_[copy.source].session;
  if (!told || !here || copy.born != 0) return false;
  copy.heal_buffer = engine_.buffers.chunk.get();
  if (!copy.heal_buffer) return false;  // whoever wants the copy tries again
  copy.heal_tried = member_bit(copy.source);
  heal_next(copy);
  return true;
}

void Segment::heal_next(ChunkCopy& copy) noexcept {
  if (copy.read.damaged == 0) {
    copy.heal_buffer.reset();
    copy.error = Error::Ok;
    return send_replaces(copy);
  }
  const auto from = static_cast<MemberMask>(healers() & ~copy.heal_tried);
  if (from == 0) {
    copy.error = Error::ChecksumMismatch;
    return finish(copy);
  }
  copy.asked = nearest(from);
  copy.started_us = engine_.loop.now_us();
  const Member& member = members_[copy.asked];
  ReplicaOp& op = copy.heal;
  op.kind = ReplicaOp::Kind::read_chunk;
  op.handle = member.handle;
  op.first_block = copy.chunk * kBlocksPerChunk;
  op.block_count = kBlocksPerChunk;
  op.era = 0;
  op.stable = Version{};
  op.data = copy.heal_buffer.data();
  op.crcs = copy.heal_crcs.data();
  op.done = heal_done;
  op.owner = &copy;
  op.tag = copy.asked;
  op.session = copy.asked_session = member.session;
  engine_.submit(*member.host, op);
}

void Segment::heal_done(ReplicaOp& op) noexcept {
  ChunkCopy& copy = *static_cast<ChunkCopy*>(op.owner);
  Segment& self = *copy.segment;
  self.engine_.op_back();
  if (copy.orphan) return self.release(copy);
  copy.heal_tried |= member_bit(op.tag);
  const bool told = op.error == Error::ChecksumMismatch && op.damaged != 0;
  if (op.error == Error::Ok || told) {
    take_healed(copy);
  } else if (op.error != Error::ChecksumMismatch && op.error != Error::DiskError &&
             op.error != Error::Busy) {
    self.member_error(op.tag, op.session, op.error);
    if (copy.orphan) return self.release(copy);
  }
  if (self.engine_.fenced || self.engine_.closed) copy.error = Error::ShuttingDown;
  if (copy.source_session != self.members_[copy.source].session) copy.error = Error::LinkLost;
  if (copy.error == Error::ChecksumMismatch) return self.heal_next(copy);
  self.finish(copy);
}

void Segment::take_healed(ChunkCopy& copy) noexcept {
  const ReplicaOp& op = copy.heal;
  if (op.version != copy.read.version || op.valid_mask != copy.read.valid_mask) return;
  for (std::uint16_t left = copy.read.damaged & static_cast<std::uint16_t>(~op.damaged); left != 0;
       left &= static_cast<std::uint16_t>(left - 1)) {
    const auto block = static_cast<std::uint32_t>(std::countr_zero(left));
    if (copy.heal_crcs[block] != copy.crcs[block]) continue;
    std::memcpy(copy.buffer.data() + std::size_t{block} * kBlockBytes,
                copy.heal_buffer.data() + std::size_t{block} * kBlockBytes, kBlockBytes);
    copy.read.damaged &= static_cast<std::uint16_t>(~(1u << block));
  }
}

}  // namespace blockd::engine
