// What is under way in an engine: the records of requests, mutations, reads, flushes and copies.
//
// A Parent is one request of a front; it is cut into pieces, each a Mutation or a Read of one
// segment (a flush: one Flush for each segment). A piece outlives its parent's answer until every
// member has given its operation back.
#pragma once

#include <array>
#include <cstdint>
#include <memory>

#include "base/buffer.h"
#include "engine/block_backend.h"
#include "engine/limits.h"
#include "engine/past.h"
#include "engine/resync_pace.h"
#include "engine/volume.h"
#include "peer/list.h"
#include "peer/replica_client.h"

namespace blockd::engine {

class Segment;

// A set of members of one segment, by place.
using MemberMask = std::uint8_t;
[[nodiscard]] constexpr MemberMask member_bit(std::uint32_t index) noexcept {
  return static_cast<MemberMask>(1u << index);
}

// The disk says no, or gives what was not written: another member may do better.
[[nodiscard]] constexpr bool medium_error(Error error) noexcept {
  return error == Error::ChecksumMismatch || error == Error::DiskError;
}

struct Parent {
  BlockRequest* request = nullptr;
  std::uint64_t cursor_bytes =
      0;  // where the next piece begins, in the volume; of a flush: which segment
  std::uint64_t end_bytes = 0;
  std::uint32_t pieces = 0;  // not finished, plus one while being cut
  Error error = Error::Ok;   // the first
  ResyncPace::Mark mark;
  peer::ListLink<Parent> link;  // waiting for room in a pool, or for its answer to be given
};

// Blocks that no new mutation may touch: a read-modify-write or a chunk copy is at them.
struct RangeLock {
  std::uint32_t first_block = 0;
  std::uint32_t end_block = 0;
  bool copy = false;
  peer::ListLink<RangeLock> link;
  [[nodiscard]] bool held() const noexcept { return link.linked; }
};

struct Mutation {
  enum class Stage : std::uint8_t {
    prepare,    // needs a buffer of its own (unaligned, or the front's memory cannot be held)
    reading,    // the edge blocks are being read, the blocks are locked
    admit,      // ready to be sequenced
    in_flight,  // has a sequence number, was sent
  };
  Segment* segment = nullptr;
  Parent* parent = nullptr;  // null once answered
  peer::ListLink<Mutation> link;
  Stage stage = Stage::admit;
  bool zero = false;
  bool fua = false;
  bool covers = false;
  bool quorum_acked = false;
  bool requeue = false;    // to be sequenced anew once no member has it
  bool abandoned = false;  // another record goes on, or nobody waits: operations are still out
  bool no_space = false;   // some member had no room for it
  bool completed = false;  // its edge blocks hold what was there before
  bool reread = false;     // a hung operation may write into its buffer: it needs another one
  std::uint32_t first_block = 0;
  std::uint32_t block_count = 0;
  std::uint64_t seq = 0;
  Era era = 0;
  std::uint64_t started_us = 0;
  std::uint64_t sent_us = 0;
  MemberMask acked = 0;        // hold it
  MemberMask outstanding = 0;  // have an operation of it
  MemberMask lagging = 0;      // counted in that member's lag
  std::byte* data = nullptr;
  BufferRef hold;
  RangeLock lock;
  // prepare: the front's bytes, and where they go in the blocks
  const std::byte* source = nullptr;  // null: zeros
  BufferRef source_hold;
  std::uint32_t skip_bytes = 0;
  std::uint32_t length_bytes = 0;
  std::uint32_t reads_left = 0;
  Error read_error = Error::Ok;
  std::array<std::uint32_t, kBlocksMax> crcs;
  std::array<peer::ReplicaOp, kMembersMax> parts;

  // Becomes what `other` was before it was sequenced.
  void resume(const Mutation& other) noexcept {
    segment = other.segment;
    zero = other.zero;
    fua = other.fua;
    covers = other.covers;
    completed = other.completed;
    quorum_acked = requeue = abandoned = no_space = reread = false;
    first_block = other.first_block;
    block_count = other.block_count;
    started_us = other.started_us;
    acked = outstanding = lagging = 0;
    data = other.data;
    hold = other.hold;
    source = other.source;
    source_hold = other.source_hold;
    skip_bytes = other.skip_bytes;
    length_bytes = other.length_bytes;
    reads_left = 0;
    read_error = Error::Ok;
    crcs = other.crcs;
  }
};

struct Read {
  Segment* segment = nullptr;
  Parent* parent = nullptr;
  Mutation* for_mutation = nullptr;  // an edge of a read-modify-write, instead of a parent
  peer::ListLink<Read> link;         // waiting, with a member, or held
  std::uint32_t first_block = 0;
  std::uint32_t block_count = 0;
  std::uint64_t started_us = 0;
  std::uint64_t sent_us = 0;
  std::uint64_t start_seq = 0;  // the segment's last sequence when it was sent
  MemberMask tried = 0;
  MemberMask damaged = 0;  // answered with a bad block
  bool abandoned = false;  // nobody waits for it: its operation is still out
  Error last_error = Error::Ok;
  std::byte* data = nullptr;
  peer::ReplicaOp part;
};

struct Flush {
  Segment* segment = nullptr;
  Parent* parent = nullptr;  // null: of the background, or answered
  peer::ListLink<Flush> link;
  bool background = false;
  bool answered = false;
  bool fails = false;  // what a client was told of before it is gone
  std::uint64_t covers_seq = 0;
  std::uint64_t started_us = 0;
  MemberMask sent = 0;
  MemberMask acked = 0;
  MemberMask outstanding = 0;
  std::array<peer::ReplicaOp, kMembersMax> parts;
};

// One chunk brought from one member to others, at the version it has there; or, to preserve it,
// what the target has of it brought into a branch, when the source has other content.
struct ChunkCopy {
  enum class Why : std::uint8_t { reconcile, resync, repair, preserve };
  enum class Stage : std::uint8_t { waiting, reading, replacing, preserving };
  Segment* segment = nullptr;
  peer::ListLink<ChunkCopy> link;
  Why why = Why::resync;
  Era born = 0;  // repair: of the past content that is to be copied; 0: the current one
  Stage stage = Stage::waiting;
  std::uint32_t chunk = 0;
  std::uint32_t source = 0;
  std::uint32_t source_session = 0;
  bool counted = false;  // in the source's chunk_reads
  bool paced = false;    // under way in the host's pace
  MemberMask targets = 0;
  MemberMask outstanding = 0;
  Error error = Error::Ok;
  std::uint64_t began_us = 0;
  std::uint64_t started_us = 0;  // its latest operations
  std::array<std::uint32_t, kMembersMax> target_sessions{};
  RangeLock lock;
  BufferRef buffer;
  std::array<std::uint32_t, kBlocksPerChunk> crcs;
  std::uint32_t asked = 0;  // reading: the member that has to answer
  std::uint32_t asked_session = 0;
  MemberMask heal_tried = 0;
  BufferRef heal_buffer;
  std::array<std::uint32_t, kBlocksPerChunk> heal_crcs;
  bool orphan = false;  // over: only the operations of members that are lost are still out
  peer::ReplicaOp read;
  peer::ReplicaOp
      heal;  // the chunk elsewhere, for blocks that the source has lost; or the target's
  Preserve preserve;
  std::uint32_t preserve_bytes = 0;  // of the blocks that differ
  std::array<peer::ReplicaOp, kMembersMax> replaces;
  std::unique_ptr<PastSync> past;  // of a copy that brings the chunk's past, too: one target
};

// One round of a proof: the members' roots, all taken at one point of the segment's history.
struct Proof {
  Segment* segment = nullptr;
  peer::ListLink<Proof> link;
  MemberMask holders = 0;  // asked as members that are ready
  MemberMask joins = 0;    // asked to become so, and not judged yet
  MemberMask outstanding = 0;
  MemberMask answered = 0;
  bool orphan = false;
  std::uint64_t sent_us = 0;
  std::array<peer::ReplicaOp, kMembersMax> parts;
};

}  // namespace blockd::engine
