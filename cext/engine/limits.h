// Every size and time of the engine, in one place.
#pragma once

#include <cstdint>

#include "blockd/types.h"

namespace blockd::engine {

inline constexpr std::uint32_t kMembersMax = 6;  // of one segment, a joining one included
inline constexpr std::uint32_t kBlocksMax = kMutationBytesMax / kBlockBytes;

// For each volume. Pools grow to these in slabs as they are first needed and never shrink.
inline constexpr std::uint32_t kMutationsMax = 4096;
inline constexpr std::uint32_t kReadsMax = 2048;
inline constexpr std::uint32_t kFlushesMax = 4096;
inline constexpr std::uint32_t kParentsMax = 8192;
inline constexpr std::uint32_t kCopiesMax = 64;

// A member that is behind the quorum by more than this is given up.
inline constexpr std::uint64_t kLagBytesMax = 16u << 20;
inline constexpr std::uint32_t kLagOpsMax = kMutationsMax / 2;

inline constexpr std::uint32_t kOpenPageEntries =
    128;  // of a list while opening: all segments do at once
inline constexpr std::uint32_t kCopiesPerSegment = 4;  // of a resync: yields to clients
inline constexpr std::uint32_t kPreserveTries = 5;     // a second apart, of what a disk cannot read
inline constexpr std::uint32_t kReconcileCopies = 8;
inline constexpr std::uint32_t kJoinsPerVolume = 8;                 // segments resynced at a time
inline constexpr std::uint64_t kResyncBytesPerSecond = 400u << 20;  // for each volume

inline constexpr std::uint64_t kIoTimeoutUs =
    30'000'000;  // then QuorumLost, unless a volume says else
inline constexpr std::uint64_t kOpenGraceUs = 300'000;  // for the members that have not answered
inline constexpr std::uint64_t kBackgroundFlushUs = 1'000'000;
inline constexpr std::uint64_t kAskAgainUs = 1'000'000;
inline constexpr std::uint64_t kRetryMinUs = 50'000;  // of opening a member
inline constexpr std::uint64_t kRetryMaxUs = 5'000'000;
inline constexpr std::uint64_t kShortageRetryUs = 1'000;     // no buffer: look again
inline constexpr std::uint64_t kCloseTimeoutUs = 5'000'000;  // then requests still waiting fail
// An operation that a member has for so many member timeouts has hung.
inline constexpr std::uint64_t kOpTimeouts = 5;
// Of a grant the engine uses this much: the clocks' rates may differ by less than the rest.
inline constexpr std::uint64_t kLeaseUsePercent = 80;

}  // namespace blockd::engine
