// One member of a segment as its engine sees it, and the lease its host grants.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <map>
#include <memory>
#include <vector>

#include "blockd/types.h"
#include "engine/ops.h"
#include "peer/replica_client.h"

namespace blockd::engine {

// The host of some members of the volume: one heartbeat, one lease for all of them.
struct MemberHost {
  Uuid id;
  peer::ReplicaChannel* channel = nullptr;
  std::uint64_t lease_until_us = 0;  // on the engine's clock, margin taken off
  std::uint64_t beat_sent_us = 0;
  bool beat_under_way = false;
  bool full = false;
  std::uint32_t chunk_reads = 0;  // that copies wait for, there
  peer::ReplicaOp beat;
  peer::ChannelWatcher watcher;
};

// The resync of one member: which chunks it does not have as the source has them.
struct Join {
  enum class Phase : std::uint8_t {
    list_joiner,
    list_source,
    copy,
    flush,
    prove,           // nothing is left to do: the roots must agree
    digests_joiner,  // they did not
    digests_source
  };
  Phase phase = Phase::list_joiner;
  std::vector<std::uint64_t> pending;  // a bit a chunk: mutations of it are not sent
  std::vector<std::uint64_t> touched;  // a bit a chunk: a mutation of it was not sent
  std::vector<Version> versions;       // the joiner's, until compared
  std::vector<Version> source_versions;
  // Beyond the first era the past is listed, too: a digest of each chunk's, 0 where there is none.
  bool states = false;
  std::vector<std::uint64_t> past;
  std::vector<std::uint64_t> source_past;
  std::vector<std::uint64_t> bare;  // a bit a chunk: the joiner has nothing, the source no past
  // When the roots differ: what each chunk is, checksums included, 0 where there is no data.
  std::vector<std::uint64_t> digests;
  std::vector<std::uint64_t> source_digests;
  std::uint32_t mismatches = 0;                    // so often
  bool asked = false;                              // prove: for its root
  std::uint64_t durable_seq = 0;                   // flush: what it covered
  std::map<std::uint32_t, MemberMask> unreadable;  // sources that failed for a chunk
  std::vector<std::uint64_t> diverged;  // a bit a chunk: what the joiner has is to be preserved
  std::map<std::uint32_t, std::uint32_t> held_tries;  // of a chunk that the joiner cannot read
  std::uint64_t preserved_bytes = 0;
  std::uint32_t pending_count = 0;
  std::uint32_t cursor = 0;
  std::uint32_t copies = 0;     // under way
  std::uint32_t preserves = 0;  // of those, into a branch
  std::uint32_t source = 0;     // of the list
  std::uint32_t source_session = 0;
  std::vector<std::uint64_t> copying;  // a bit a chunk: a copy of it is under way
  std::vector<std::uint64_t> blocked;  // a bit a chunk: nobody could read it
  bool any_blocked = false;
  bool branch_fails = false;  // nothing is read for it meanwhile
  std::uint64_t blocked_until_us = 0;

  static constexpr std::uint32_t kNone = ~std::uint32_t{0};
  // From the cursor on, round: pending, not under way, not blocked, and to be preserved only while
  // few are. kNone: there is none.
  [[nodiscard]] std::uint32_t next_pending(std::uint64_t now_us) noexcept {
    if (any_blocked && now_us >= blocked_until_us) {
      std::fill(blocked.begin(), blocked.end(), 0);
      any_blocked = branch_fails = false;
    }
    const auto words = static_cast<std::uint32_t>(pending.size());
    for (std::uint32_t looked = 0; looked <= words; ++looked) {  // the cursor's word twice
      const std::uint32_t word = (cursor / 64 + looked) % words;
      std::uint64_t bits = pending[word] & ~copying[word] & ~blocked[word];
      if (branch_fails || preserves >= kPreservesPerJoin) bits &= ~diverged[word];
      if (looked == 0) bits &= ~std::uint64_t{0} << (cursor % 64);
      if (bits != 0) return word * 64 + static_cast<std::uint32_t>(std::countr_zero(bits));
    }
    return kNone;
  }

  // There is no past to bring with the chunk.
  [[nodiscard]] bool plain(std::uint32_t chunk) const noexcept {
    const auto bit = [&](const std::vector<std::uint64_t>& bits) {
      return ((bits[chunk / 64] >> (chunk % 64)) & 1) != 0;
    };
    return bit(bare) && !bit(touched);
  }
};

// A digest of contents of a chunk that are listed, one after another; never 0.
[[nodiscard]] inline std::uint64_t mixed(std::uint64_t digest,
                                         const format::ChunkEntry& entry) noexcept {
  for (const std::uint64_t word : {entry.epoch, entry.seq, std::uint64_t{entry.died}}) {
    digest = (digest ^ word) * 0x9e3779b97f4a7c15ull;
    digest ^= digest >> 29;
  }
  return digest | 1;
}

struct Member {
  enum class State : std::uint8_t {
    absent,   // nothing is sent to it
    opening,  // asked to open
    opened,   // has answered; the segment is not formed yet
    base,     // its reports form the segment
    syncing,  // resync under way
    ready     // holds every mutation of the segment, gets every new one
  };
  bool present = false;  // configured
  Uuid host_id;
  Uuid store;
  std::uint32_t distance = 0;
  MemberHost* host = nullptr;
  State state = State::absent;
  std::uint32_t session = 0;  // of its life here: what an earlier one sent counts no more
  std::uint32_t handle = 0;
  Version reported_stable;
  Version stable_sent;
  std::uint64_t durable_seq = 0;  // every mutation up to it is flushed there
  std::uint64_t lag_bytes = 0;    // acknowledged by the quorum, not by it
  std::uint32_t lag_ops = 0;
  std::uint64_t retry_at_us = 0;
  std::uint64_t backoff_us = 0;
  bool lease_wait = false;   // alive, but an earlier engine's lease is not over
  bool missing = false;      // agreed in sync, and its host says that it has no replica
  bool gave_answer = false;  // has failed to open since the segment began to gather
  std::unique_ptr<Join> join;
  peer::ReplicaOp control;  // opening, listing, flushing: one at a time
  bool control_busy = false;
  std::uint64_t control_sent_us = 0;
  bool joining = false;         // counted in the volume's joins
  std::vector<std::byte> page;  // of a list
  peer::ReplicaOp stable_op;
  bool stable_busy = false;
};

}  // namespace blockd::engine
