// The sizes of everything a store allocates when it is opened; nothing grows afterwards.
#pragma once

#include <cstdint>

#include "blockd/types.h"

namespace blockd::store {

inline constexpr std::uint64_t kJournalBytesMin = 1ull << 20;
inline constexpr std::uint64_t kJournalBytesDefaultMin = 8ull << 20;
inline constexpr std::uint64_t kJournalBytesDefaultMax = 128ull << 20;
inline constexpr std::uint64_t kJournalShare =
    64;  // default journal: capacity / 64, within the bounds

// Segments that a store can hold: four times what its capacity could fill, for thin volumes.
inline constexpr std::uint32_t kSegmentCountMin = 1024;
inline constexpr std::uint32_t kSegmentOvercommit = 4;

inline constexpr std::uint32_t kBatchPayloadBlocksMax =
    64;  // 256 KiB and a header: one device write
inline constexpr std::uint64_t kBatchBytesMax =
    (1 + std::uint64_t{kBatchPayloadBlocksMax}) * kBlockBytes;
inline constexpr std::uint32_t kBatchesInFlightMax =
    4;  // enough to keep a queue of depth 32 moving

inline constexpr std::uint64_t kMetadataCacheBytes = 48ull << 20;  // slot pages in memory

inline constexpr std::uint32_t kReadRunsMax = 1024;     // device reads in flight
inline constexpr std::uint32_t kDirectWritesMax = 256;  // device writes of whole chunks in flight
inline constexpr std::uint32_t kHomeWritesMax = 64;     // checkpoint writes in flight
inline constexpr std::uint32_t kCopiesMax = 64;  // of chunks, under way or waiting to be used
inline constexpr std::uint32_t kPinnedSlotsMax =
    kReadRunsMax * (kMutationBytesMax / kChunkBytes + 1) + kHomeWritesMax + kCopiesMax;
inline constexpr std::uint32_t kPagesPerRound = 256;  // metadata pages staged and written at a time

// Of the journal so much is kept free for what is written while a checkpoint runs, in one that is
// long enough.
inline constexpr std::uint64_t kCheckpointRoomBytes = 16ull << 20;

inline constexpr std::uint64_t kIdleCheckpointUs =
    5'000'000;  // a quiet journal goes home after this long

// Of the pool of single blocks so much is registered with the device; the pool hands out the same
// few buffers again and again.
inline constexpr std::size_t kRegisteredBytesMax = 16u << 20;

// Past contents that no snapshot shows any more: so many slots are given back in so long.
inline constexpr std::uint32_t kForgetSlots = 256;
inline constexpr std::uint64_t kForgetUs = 10'000;

// Mapped but unflushed data that recovery may have to read back and verify; beyond it we flush.
inline constexpr std::uint64_t kUnflushedMapBytesMax = 256ull << 20;

}  // namespace blockd::store
