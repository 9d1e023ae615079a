// What a copy of a chunk has to do about the chunk's past (segment_past.cc).
#pragma once

#include <cstddef>
#include <vector>

#include "blockd/types.h"
#include "peer/replica_client.h"
#include "store/store.h"

namespace blockd::engine {

struct PastSync {
  enum class Step : std::uint8_t {
    list_target,
    list_source,
    ahead,  // much is missing: it is brought while clients go on; then all of it again
    fix,    // forgetting and bringing, one content at a time; then the current one follows
    back,   // the target is ahead, with what was never agreed: it goes back first, all of it again
    check,  // the current one was replaced: what has the target made of the old one?
    check_fix
  };
  Step step = Step::list_target;
  std::size_t ahead_of = ~std::size_t{0};  // how much was missing when it last went ahead
  bool self = false;   // the target is the source: only what nobody agreed on goes
  Version wrong_from;  // self: what is past at this version or above
  std::vector<store::ChunkState> target;
  std::vector<store::ChunkState> source;
  std::vector<store::ChunkState> wrong;    // still to be forgotten at the target
  std::vector<store::ChunkState> missing;  // still to be brought there
  std::vector<std::byte> page;
  peer::ReplicaOp op;  // one at a time
};

// The current content of a listed chunk; version {0,0}: there is none.
[[nodiscard]] store::ChunkState current_of(const std::vector<store::ChunkState>& states) noexcept;
// What the target has to forget and to get so that it has the past of `truth` below `end` ({0,0}:
// all of it). Forgetting a version forgets every content that has it.
void compare_past(PastSync& sync, const std::vector<store::ChunkState>& truth, Version end);

}  // namespace blockd::engine
