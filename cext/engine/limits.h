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
inline constexpr std::uint32_t kCopiesMax = 96;
inline constexpr std::uint32_t kProofsMax = 16;

// A member that is behind the quorum by more than this is given up.
inline constexpr std::uint64_t kLagBytesMax = 16u << 20;
inline constexpr std::uint32_t kLagOpsMax = kMutationsMax / 2;

inline constexpr std::uint32_t kOpenPageEntries =
    128;  // of a list while opening: all segments do at once
inline constexpr std::uint32_t kCopiesPerSegment = 32;  // of a resync
inline constexpr std::uint32_t kPreservesPerJoin = 4;   // at a time: a branch may stall
inline constexpr std::uint32_t kPreserveTries = 5;  // a second apart, of what a disk cannot read
inline constexpr std::uint32_t kReconcileCopies = 8;
inline constexpr std::uint32_t kJoinsPerVolume = 8;  // segments resynced at a time
// A resync reads at a member that is further away than the nearest when that one has so many more
// of its reads.
inline constexpr std::uint32_t kFarSourceReads = 8;

// The pace of resyncs (resync_pace.h), for each host.
inline constexpr std::uint32_t kResyncCopiesMax = 64;
inline constexpr std::uint32_t kPacedCopies = 4;  // to begin with, while clients work
inline constexpr std::uint64_t kClientsIdleUs = 1'000'000;
inline constexpr std::uint64_t kPaceBurstUs = 10'000;  // of a rate's limit
// A period of so many parts begins with one in which no copy does: as long as some requests take.
inline constexpr std::uint64_t kPacePeriods = 10;
inline constexpr std::uint64_t kPaceQuietRequests = 2;
inline constexpr std::uint64_t kPaceQuietMinUs = 20'000;
inline constexpr std::uint64_t kPaceQuietMaxUs = 500'000;
inline constexpr std::uint32_t kPaceSamplesMin = 16;
inline constexpr float kPaceNearlyAll = 0.9F;      // of the requests that ran beside no copy
inline constexpr std::uint64_t kPaceBearable = 2;  // times as long as those take
inline constexpr double kPaceSlowMax = 0.1;        // so many may take longer

inline constexpr std::uint64_t kProofUs = 30'000'000;    // from one proof of a segment to the next
inline constexpr std::uint64_t kProofRetryUs = 100'000;  // all records are out
inline constexpr std::uint32_t kProofTries = 3;          // of a joiner, before it is given up

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
