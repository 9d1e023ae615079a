// Blocks that the source of a copy has lost, taken from whoever else has them (R5).
//
// A source that cannot give every block of a chunk as it was written still knows each block's CRC
// at the chunk's version. Another member may be at another version of the chunk and yet have that
// very block, for mutations of the chunk leave most of it alone: equal CRCs, equal content. So
// damage at several members, at different blocks, costs nothing.
#include <bit>

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
  copy.heal_tried = member_bit(copy.source);
  heal_next(copy);
  return true;
}

void Segment::heal_next(ChunkCopy& copy) noexcept {
  if (copy.read.damaged == 0) {
    copy.error = Error::Ok;
    return send_replaces(copy);
  }
  const auto from = static_cast<MemberMask>(healers() & ~copy.heal_tried);
  if (from == 0) {
    copy.error = Error::ChecksumMismatch;
    return finish(copy);
  }
  const auto block = static_cast<std::uint32_t>(std::countr_zero(copy.read.damaged));
  copy.asked = nearest(from);
  copy.started_us = engine_.loop.now_us();
  const Member& member = members_[copy.asked];
  ReplicaOp& op = copy.heal;
  op.kind = ReplicaOp::Kind::read;
  op.handle = member.handle;
  op.first_block = copy.chunk * kBlocksPerChunk + block;
  op.block_count = 1;
  op.stable = Version{};
  op.data = copy.buffer.data() + std::size_t{block} * kBlockBytes;
  op.crcs = &copy.heal_crc;
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
  const auto block = static_cast<std::uint32_t>(std::countr_zero(copy.read.damaged));
  if (op.error == Error::Ok && copy.heal_crc == copy.crcs[block]) {
    copy.read.damaged &= static_cast<std::uint16_t>(~(1u << block));
    copy.heal_tried = member_bit(copy.source);
  } else {
    copy.heal_tried |= member_bit(op.tag);
    const bool medium = op.error == Error::ChecksumMismatch || op.error == Error::DiskError;
    if (op.error != Error::Ok && !medium) self.member_error(op.tag, op.session, op.error);
  }
  if (self.engine_.fenced || self.engine_.closed) copy.error = Error::ShuttingDown;
  if (copy.source_session != self.members_[copy.source].session) copy.error = Error::LinkLost;
  if (copy.error == Error::ChecksumMismatch) return self.heal_next(copy);
  self.finish(copy);
}

}  // namespace blockd::engine
