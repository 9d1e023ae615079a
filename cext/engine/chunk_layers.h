// Which chunks of a volume over a base are its own, which show the base, and which are being moved
// from one to the other. Three bits a chunk; no I/O, no clock.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/snapshot_reader.h"

namespace blockd::engine {

struct BaseRules {
  bool self = false;  // rolled back: the base is a snapshot of the volume itself
  Era era = 0;        // of the base
  Era since = 1;      // content born before it, and (self) after `era`, does not count
  // An upper layer that does not change (a snapshot that has a base): what is its own goes by the
  // listing alone, and mutations are refused.
  bool read_only = false;

  // Whether content of the volume that was born then counts.
  [[nodiscard]] bool counts(Era born) const noexcept {
    return born >= since || (self && born <= era);
  }
};

class ChunkLayers {
 public:
  using Chunk = SnapshotReader::Chunk;

  // All chunks are the volume's own holes until something is learnt, as are those that come later.
  // REQUIRES of a smaller count: what goes is the volume's own.
  void resize(std::uint64_t chunk_count);
  // First all of the base, then the volume. Where the base has data is remembered behind the end,
  // too: a volume that has shrunk, and grows again, goes on covering it.
  void learn_base(std::span<const Chunk> chunks, std::uint64_t base_chunk_count);
  void learn_volume(std::span<const Chunk> chunks, const BaseRules& rules);

  [[nodiscard]] std::uint64_t chunk_count() const noexcept { return chunk_count_; }
  [[nodiscard]] std::uint64_t base_count() const noexcept { return base_count_; }
  [[nodiscard]] bool own(std::uint64_t chunk) const noexcept { return test(own_, chunk); }
  // The base has data there: what is written above it covers it.
  [[nodiscard]] bool over_data(std::uint64_t chunk) const noexcept { return test(data_, chunk); }
  [[nodiscard]] bool busy(std::uint64_t chunk) const noexcept { return test(busy_, chunk); }
  void set_busy(std::uint64_t chunk, bool busy) noexcept { set(busy_, chunk, busy); }
  void make_own(std::uint64_t chunk) noexcept;
  // The first chunk from there on that shows the base and is not busy; chunk_count(): none.
  [[nodiscard]] std::uint64_t next_of_base(std::uint64_t from) const noexcept;

 private:
  using Bits = std::vector<std::uint64_t>;
  static bool test(const Bits& bits, std::uint64_t chunk) noexcept {
    return (bits[chunk / 64] >> (chunk % 64) & 1) != 0;
  }
  static void set(Bits& bits, std::uint64_t chunk, bool value) noexcept {
    const std::uint64_t bit = std::uint64_t{1} << (chunk % 64);
    bits[chunk / 64] = value ? bits[chunk / 64] | bit : bits[chunk / 64] & ~bit;
  }

  std::uint64_t chunk_count_ = 0;
  std::uint64_t base_count_ = 0;  // that show the base
  Bits own_, data_, busy_;        // data_ may be longer
};

}  // namespace blockd::engine
