// The root of a replica: 128 bits that stand for all of its current content, the same at every
// replica that holds the same. Stores keep it and hosts send it: docs/FORMATS.md, "Root".
//
// A sum over the chunks that hold data, so their order does not matter and a change costs two
// terms. A term binds the chunk's place, version and era with the CRC-32Cs of its blocks; holes
// count as zeros. Chunks without data count nothing, and neither do past contents: a store lets go
// of those on its own.
#pragma once

#include <cstdint>

#include "blockd/types.h"
#include "format/disk.h"

namespace blockd::format {

// What a chunk adds. `crcs`: one a block, looked at where the mask has its bit.
[[nodiscard]] Root root_term(std::uint32_t chunk, Version version, Era born,
                             std::uint16_t valid_mask, const std::uint32_t* crcs) noexcept;
[[nodiscard]] Root root_term(const SlotRecord& record) noexcept;

}  // namespace blockd::format
