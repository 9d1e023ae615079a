// What is under way in a layered volume: requests that no single layer could serve alone.
#pragma once

#include <array>
#include <cstdint>

#include "engine/block_backend.h"
#include "engine/chunk_copier.h"
#include "engine/limits.h"
#include "peer/list.h"

namespace blockd::engine {

inline constexpr std::uint32_t kReadChunksMax = kMutationBytesMax / kChunkBytes + 1;

// A read whose chunks come from more than one place: a part for each run of chunks.
struct LayeredRead {
  void* target = nullptr;
  BlockRequest* request = nullptr;
  std::uint32_t pieces = 0;  // not finished, plus one while being cut
  Error error = Error::Ok;   // the first
  std::uint32_t part_count = 0;
  std::array<BlockRequest, kReadChunksMax> parts;
  peer::ListLink<LayeredRead> link;
};

// A mutation that touches chunks which show the base, or (trims) that covers some chunks and not
// others. It goes run by run; a run's chunks that show the base are busy while it is on its way.
struct LayeredMutation {
  void* target = nullptr;
  BlockRequest* request = nullptr;
  std::uint64_t run_bytes = 0;  // where the run begins
  std::uint64_t run_end_bytes = 0;
  std::uint32_t copies_left = 0;
  Error error = Error::Ok;
  std::array<ChunkCopyUp, 2> copies;  // of the run's first and last chunk
  BlockRequest part;
  std::uint8_t turn = 0;  // of the two counts, the one it is in (shrink)
  peer::ListLink<LayeredMutation> link;
};

}  // namespace blockd::engine
