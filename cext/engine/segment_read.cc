// Reads, and the read-modify-write of the blocks that a mutation touches in part.
//
// A read is sent to a ready member that has acknowledged every overlapping mutation in flight, and
// only when a quorum has each of them; its answer is held while a mutation that began meanwhile and
// overlaps is not settled, for the data may show it (R1, R2).
#include <algorithm>
#include <array>
#include <cstring>

#include "base/assert.h"
#include "base/crc32c.h"
#include "engine/segment.h"

namespace blockd::engine {

using peer::ReplicaOp;

namespace {

bool overlaps(const Mutation& mutation, std::uint32_t first, std::uint32_t count) noexcept {
  return mutation.first_block < first + count &&
         first < mutation.first_block + mutation.block_count;
}

}  // namespace

// --- reads ---------------------------------------------------------------------------------------

void Segment::submit(Read& read) noexcept {
  read.segment = this;
  read.started_us = engine_.loop.now_us();
  read.tried = read.damaged = 0;
  read.abandoned = false;
  read.last_error = Error::Ok;
  if (!try_read(read)) waiting_reads_.push_back(read);
}

bool Segment::try_read(Read& read) noexcept {
  if (!serving()) return false;
  bool must_wait = false;
  const MemberMask from = readable(read, must_wait);
  if (from == 0) {
    const bool all_tried = (ready_ & agreed_ & ~read.tried) == 0;
    if (must_wait || !all_tried || read.last_error == Error::Ok) return false;
    if (medium_error(read.last_error) && read.block_count > 1) return split(read);
    finish(read, read.last_error);
    return true;
  }
  const std::uint32_t index = nearest(from);
  Member& member = members_[index];
  read.start_seq = last_seq_;
  read.sent_us = engine_.loop.now_us();
  sent_reads_.push_back(read);
  ReplicaOp& op = read.part;
  op.kind = ReplicaOp::Kind::read;
  op.handle = member.handle;
  op.first_block = read.first_block;
  op.block_count = read.block_count;
  op.stable = member.stable_sent = stable_;
  op.data = read.data;
  op.crcs = nullptr;
  op.hold = read.for_mutation ? read.for_mutation->hold : read.parent->request->hold;
  op.done = read_part_done;
  op.owner = &read;
  op.tag = index;
  op.session = member.session;
  if (member.distance != 0) ++engine_.stats.remote_reads;
  engine_.submit(*member.host, op);
  return true;
}

// No member could give all of its blocks; each block may be had from another (R5). False: no room.
bool Segment::split(Read& read) noexcept {
  std::array<Read*, kBlocksMax> more{};
  const std::uint32_t count = read.block_count - 1;
  for (std::uint32_t i = 0; i < count; ++i) {
    more[i] = engine_.reads.get();
    if (more[i] != nullptr) continue;
    while (i > 0) engine_.reads.put(*more[--i]);
    wake_at(engine_.loop.now_us() + kShortageRetryUs);
    return false;
  }
  BLOCKD_ASSERT(read.parent != nullptr);
  read.parent->pieces += count;
  for (std::uint32_t i = 0; i < count; ++i) {
    Read& piece = *more[i];
    piece.parent = read.parent;
    piece.for_mutation = nullptr;
    piece.first_block = read.first_block + 1 + i;
    piece.block_count = 1;
    piece.data = read.data + std::size_t{1 + i} * kBlockBytes;
  }
  read.block_count = 1;
  submit(read);
  for (std::uint32_t i = 0; i < count; ++i) submit(*more[i]);
  return true;
}

// The members that can serve the read now. must_wait: a mutation it would see is not settled.
MemberMask Segment::readable(const Read& read, bool& must_wait) const noexcept {
  auto from = static_cast<MemberMask>(ready_ & agreed_ & ~read.tried);
  if (!filter_hit(read.first_block, read.block_count)) return from;
  for (const Mutation* m = in_flight_.front(); m != nullptr; m = peer::List<Mutation>::next(*m)) {
    if (!overlaps(*m, read.first_block, read.block_count)) continue;
    if (!m->quorum_acked) {
      must_wait = true;
      return 0;
    }
    if ((from & ~m->acked) != 0) must_wait = true;  // more will be able to, later
    from &= m->acked;
  }
  return from;
}

void Segment::read_part_done(ReplicaOp& op) noexcept {
  Read& read = *static_cast<Read*>(op.owner);
  Segment& self = *read.segment;
  self.engine_.op_back();
  op.hold.reset();
  if (read.abandoned) {
    self.engine_.reads.put(read);
    return self.engine_.room();
  }
  self.sent_reads_.erase(read);
  if (self.engine_.fenced) return self.finish(read, Error::EpochFenced);
  if (op.error == Error::Ok && op.session == self.members_[op.tag].session)
    return self.read_answered(read);
  if (medium_error(op.error)) {
    read.tried |= member_bit(op.tag);
    read.damaged |=
        op.session == self.members_[op.tag].session ? member_bit(op.tag) : MemberMask{0};
    read.last_error = op.error;
  } else if (op.error != Error::Ok) {
    self.member_error(op.tag, op.session, op.error);
    if (self.engine_.fenced) return self.finish(read, Error::EpochFenced);
  }
  if (!self.try_read(read)) self.waiting_reads_.push_back(read);
}

void Segment::read_answered(Read& read) noexcept {
  if (saw_unsettled(read)) {
    held_reads_.push_back(read);
    return;
  }
  if (!serving()) {  // what was read may be another engine's by now: read again when that is sure
    waiting_reads_.push_back(read);
    return;
  }
  if (read.damaged != 0) repair(read, read.damaged);
  finish(read, Error::Ok);
}

// The member is lost, and its answer may never come (a local disk that hangs). It may write into
// the read's memory at any time, so nothing else is read there: a mutation takes another buffer for
// its edges; a client is told that there is no answer, once its time is over.
void Segment::let_go_of_reads() noexcept {
  const std::uint64_t now = engine_.loop.now_us();
  for (Read* read = sent_reads_.front(); read != nullptr;) {
    Read* next = peer::List<Read>::next(*read);
    const bool over = read->part.session != members_[read->part.tag].session && read->part.hold;
    const bool late = now > read->started_us + engine_.io_timeout_us;
    if (over && (late || read->for_mutation != nullptr)) abandon(*read);
    read = next;
  }
}

void Segment::abandon(Read& read) noexcept {
  sent_reads_.erase(read);
  read.abandoned = true;
  if (Parent* parent = std::exchange(read.parent, nullptr))
    engine_.piece_done(*parent, Error::QuorumLost);
  Mutation* mutation = std::exchange(read.for_mutation, nullptr);
  if (mutation == nullptr) return;
  mutation->reread = true;
  edge_read(*mutation, Error::Ok);
}

bool Segment::saw_unsettled(const Read& read) const noexcept {
  if (read.start_seq == last_seq_ || !filter_hit(read.first_block, read.block_count)) return false;
  for (const Mutation* m = in_flight_.front(); m != nullptr; m = peer::List<Mutation>::next(*m)) {
    if (!m->quorum_acked && overlaps(*m, read.first_block, read.block_count)) return true;
  }
  return false;
}

void Segment::finish(Read& read, Error error) noexcept {
  BLOCKD_ASSERT(!read.link.linked);
  Parent* parent = std::exchange(read.parent, nullptr);
  Mutation* mutation = std::exchange(read.for_mutation, nullptr);
  engine_.reads.put(read);
  engine_.room();
  if (mutation) {
    edge_read(*mutation, error);
  } else {
    engine_.piece_done(*parent, error);
  }
}

// --- read-modify-write ---------------------------------------------------------------------------

// Gives the mutation blocks of its own: the front's bytes, completed at the edges. False: not now.
bool Segment::try_prepare(Mutation& mutation) noexcept {
  if (!serving()) return false;
  const std::uint32_t end_block = mutation.first_block + mutation.block_count;
  const std::uint32_t bytes = mutation.block_count * kBlockBytes;
  const std::uint32_t end_bytes = mutation.skip_bytes + mutation.length_bytes;
  const bool head = mutation.skip_bytes != 0;
  const bool tail = end_bytes != bytes && !(head && mutation.block_count == 1);
  if ((head || tail) && locked(mutation.first_block, end_block, nullptr)) return false;
  BufferRef buffer = engine_.buffers.pool_for(bytes).get();
  Read* reads[2] = {head ? engine_.reads.get() : nullptr, tail ? engine_.reads.get() : nullptr};
  if (!buffer || (head && !reads[0]) || (tail && !reads[1])) {
    for (Read* read : reads) {
      if (read) engine_.reads.put(*read);
    }
    wake_at(engine_.loop.now_us() + kShortageRetryUs);
    return false;
  }
  mutation.hold = std::move(buffer);
  mutation.data = mutation.hold.data();
  mutation.reads_left = (head ? 1u : 0u) + (tail ? 1u : 0u);
  if (mutation.reads_left == 0) {
    fill_prepared(mutation);
    return try_admit(mutation);
  }
  mutation.stage = Mutation::Stage::reading;
  mutation.completed = true;
  lock(mutation.lock, mutation.first_block, end_block);
  if (head) start_edge_read(mutation, *reads[0], 0);
  if (tail) start_edge_read(mutation, *reads[1], mutation.block_count - 1);
  return true;
}

void Segment::start_edge_read(Mutation& mutation, Read& read, std::uint32_t block) noexcept {
  read.parent = nullptr;
  read.for_mutation = &mutation;
  read.first_block = mutation.first_block + block;
  read.block_count = 1;
  read.data = mutation.data + std::size_t{block} * kBlockBytes;
  submit(read);
}

void Segment::edge_read(Mutation& mutation, Error error) noexcept {
  BLOCKD_ASSERT(mutation.stage == Mutation::Stage::reading && mutation.reads_left > 0);
  if (error != Error::Ok) mutation.read_error = error;
  if (--mutation.reads_left > 0) return;
  if (mutation.read_error != Error::Ok) return finish(mutation, mutation.read_error);
  if (std::exchange(mutation.reread, false)) {
    unlock(mutation.lock);
    return again(mutation);
  }
  fill_prepared(mutation);
  if (engine_.fenced) return finish(mutation, Error::EpochFenced);
  if (!try_admit(mutation)) waiting_.push_back(mutation);
}

void Segment::fill_prepared(Mutation& mutation) noexcept {
  std::byte* to = mutation.data + mutation.skip_bytes;
  if (mutation.source) {
    std::memcpy(to, mutation.source, mutation.length_bytes);
  } else {
    std::memset(to, 0, mutation.length_bytes);
  }
  mutation.source_hold.reset();
  crc32c_blocks(mutation.data, std::span(mutation.crcs).first(mutation.block_count));
  mutation.stage = Mutation::Stage::admit;
}

}  // namespace blockd::engine
