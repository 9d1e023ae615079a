// A mutation cut at the borders of chunks, and which of its pieces are nothing but zeros.
#pragma once

#include <algorithm>
#include <cstdint>

#include "store/store.h"

namespace blockd::store {

// Calls use(chunk, first block in the chunk, count, first block of the op) for each chunk touched.
template <class Use>
void for_each_piece(const StoreOp& op, Use use) {
  for (std::uint32_t at = 0; at < op.block_count;) {
    const std::uint32_t block = op.first_block + at;
    const std::uint32_t first = block % kBlocksPerChunk;
    const std::uint32_t count = std::min(kBlocksPerChunk - first, op.block_count - at);
    use(block / kBlocksPerChunk, first, count, at);
    at += count;
  }
}

// Bit i: all that the op writes to the i-th chunk it touches is zeros.
using PieceMask = std::uint32_t;
inline bool has_piece(PieceMask mask, const StoreOp& op, std::uint32_t chunk) noexcept {
  return mask >> (chunk - op.first_block / kBlocksPerChunk) & 1;
}

// Of a write. Costs a comparison of checksums for each piece that holds data; the bytes are looked
// at only where the checksums are those of zeros.
[[nodiscard]] PieceMask zero_pieces(const StoreOp& op) noexcept;

}  // namespace blockd::store
