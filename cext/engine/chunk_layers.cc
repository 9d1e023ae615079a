#include "engine/chunk_layers.h"

#include <algorithm>
#include <bit>

#include "base/assert.h"

namespace blockd::engine {

void ChunkLayers::resize(std::uint64_t chunk_count) {
  for (std::uint64_t chunk = chunk_count; chunk < chunk_count_; ++chunk)
    BLOCKD_ASSERT(own(chunk) && !busy(chunk));
  const std::uint64_t words = (chunk_count + 63) / 64;
  own_.resize(words);
  busy_.resize(words);
  data_.resize(std::max<std::size_t>(data_.size(), words));
  for (std::uint64_t chunk = chunk_count_; chunk < chunk_count; ++chunk) set(own_, chunk, true);
  chunk_count_ = chunk_count;
}

void ChunkLayers::learn_base(std::span<const Chunk> chunks, std::uint64_t base_chunk_count) {
  for (const Chunk& chunk : chunks) {
    if (chunk.valid_mask == 0 || chunk.chunk >= base_chunk_count) continue;
    if (chunk.chunk / 64 >= data_.size()) data_.resize(chunk.chunk / 64 + 1);
    set(data_, chunk.chunk, true);
    if (chunk.chunk >= chunk_count_) continue;
    if (own(chunk.chunk)) ++base_count_;
    set(own_, chunk.chunk, false);
  }
}

void ChunkLayers::learn_volume(std::span<const Chunk> chunks, const BaseRules& rules) {
  for (const Chunk& chunk : chunks) {
    if (chunk.chunk >= chunk_count_) continue;
    if (rules.counts(chunk.born)) {
      make_own(chunk.chunk);
    } else if (chunk.valid_mask != 0 && own(chunk.chunk)) {
      set(own_, chunk.chunk,
          false);  // what it holds must not show, also where the base has nothing
      ++base_count_;
    }
  }
}

void ChunkLayers::make_own(std::uint64_t chunk) noexcept {
  set(busy_, chunk, false);
  if (own(chunk)) return;
  set(own_, chunk, true);
  BLOCKD_ASSERT(base_count_ > 0);
  --base_count_;
}

std::uint64_t ChunkLayers::next_of_base(std::uint64_t from) const noexcept {
  if (from >= chunk_count_) return chunk_count_;
  std::uint64_t word = from / 64;
  std::uint64_t left = ~(own_[word] | busy_[word]) & (~std::uint64_t{0} << (from % 64));
  while (left == 0) {
    if (++word == own_.size()) return chunk_count_;
    left = ~(own_[word] | busy_[word]);
  }
  const std::uint64_t chunk = word * 64 + static_cast<std::uint64_t>(std::countr_zero(left));
  return chunk < chunk_count_ ? chunk : chunk_count_;
}

}  // namespace blockd::engine
