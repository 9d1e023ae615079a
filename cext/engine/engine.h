// What the segments of one volume share: the loop, the pools, the hosts, and the way up.
#pragma once

#include <cstdint>

#include "base/buffer.h"
#include "engine/limits.h"
#include "engine/member.h"
#include "engine/ops.h"
#include "engine/pool.h"
#include "engine/resync_pace.h"
#include "engine/volume.h"
#include "io/loop.h"
#include "peer/peer_hub.h"

namespace blockd::engine {

class Engine {
 public:
  Engine(io::Loop& loop_in, Buffers& buffers_in, peer::PeerHub& hub_in, ResyncPace& pace_in)
      : loop(loop_in), buffers(buffers_in), hub(hub_in), pace(pace_in) {}
  virtual ~Engine() = default;

  virtual void poke(Segment& segment) noexcept = 0;
  virtual void piece_done(Parent& parent, Error error) noexcept = 0;
  virtual void fence() noexcept = 0;
  // A member has met this era: the volume's is not before it, whatever the metadata said.
  virtual void learn_era(Era met) noexcept = 0;
  virtual MemberHost& host(const Uuid& id) = 0;
  virtual void want_in_sync(std::uint32_t segment, std::uint64_t generation,
                            std::vector<Uuid> in_sync, const char* reason) = 0;
  virtual void notice(std::uint32_t segment, const Uuid& host, const char* kind,
                      std::uint64_t value) = 0;
  virtual void preserve(Preserve& content) noexcept = 0;  // done() comes later, from the loop
  virtual void room() noexcept = 0;                       // something went back to a pool
  virtual void join_over() noexcept = 0;                  // another segment's may begin

  void submit(MemberHost& host, peer::ReplicaOp& op) noexcept {
    ++ops_under_way;
    host.channel->submit(op);
  }
  void op_back() noexcept {
    BLOCKD_ASSERT(ops_under_way > 0);
    --ops_under_way;
  }

  io::Loop& loop;
  Buffers& buffers;
  peer::PeerHub& hub;
  ResyncPace& pace;
  Uuid id;
  std::uint64_t epoch = 0;
  std::uint32_t min_in_sync = 1;
  std::uint64_t io_timeout_us = kIoTimeoutUs;  // a request that gets no quorum fails after it
  Era era = 1;                                 // of the next mutation
  std::uint64_t hold_until_us = 0;             // no mutation is sequenced before; 0: go on
  bool era_awaited = false;                    // somebody waits for the mutations of an earlier one
  bool fenced = false;
  bool closed = false;
  bool full = false;                // a member's store is nearly full
  std::uint64_t ops_under_way = 0;  // with channels: the volume must outlive them
  std::uint32_t joins = 0;
  VolumeStats stats;
  Pool<Mutation> mutations{kMutationsMax};
  Pool<Read> reads{kReadsMax};
  Pool<Flush> flushes{kFlushesMax};
  Pool<ChunkCopy> copies{kCopiesMax};
  Pool<Proof> proofs{kProofsMax};
};

}  // namespace blockd::engine
