#include "store/pieces.h"

#include "base/crc32c.h"
#include "format/disk.h"

namespace blockd::store {

PieceMask zero_pieces(const StoreOp& op) noexcept {
  static const std::uint32_t zero_crc = crc32c_zero_block();
  PieceMask zeros = 0, bit = 1;
  for_each_piece(
      op, [&](std::uint32_t, std::uint32_t, std::uint32_t count, std::uint32_t at) noexcept {
        const std::uint32_t* crcs = op.crcs + at;
        const bool likely =
            std::all_of(crcs, crcs + count, [](std::uint32_t crc) { return crc == zero_crc; });
        const std::byte* data = op.data + std::size_t{at} * kBlockBytes;
        if (likely && format::all_zero({data, std::size_t{count} * kBlockBytes})) zeros |= bit;
        bit <<= 1;
      });
  return zeros;
}

}  // namespace blockd::store
