// Which versions are in the history that a segment has, as far as its engine knows.
//
// A mutation that only members had which an opening did not hear is in no history, and later ones
// have higher versions: those of a new epoch; or of the same one, when its engine has opened again
// and goes on. Then it goes on in another part of the epoch (the high bits of the seq). So of each
// part the history has a beginning, up to some version, and nothing behind it (REPLICATION.md, B1).
#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <span>
#include <utility>
#include <vector>

#include "blockd/types.h"

namespace blockd::engine {

inline constexpr std::uint32_t kPartShift = 40;  // of a seq: 2^40 mutations a part

using EpochPart = std::pair<std::uint64_t, std::uint64_t>;

[[nodiscard]] constexpr EpochPart part_of(Version version) noexcept {
  return {version.epoch, version.seq >> kPartShift};
}

// By part, the highest seq that a member shows.
using NewestVersions = std::map<EpochPart, std::uint64_t>;

[[nodiscard]] inline NewestVersions newest_versions(std::span<const Version> versions) {
  NewestVersions newest;
  for (const Version& version : versions) {
    if (version == Version{}) continue;
    std::uint64_t& seq = newest[part_of(version)];
    seq = std::max(seq, version.seq);
  }
  return newest;
}

class History {
 public:
  // The segment has formed under `epoch`: `highest` is the last version that the base has;
  // last_seq: what this engine had given out by then. Returns after which seq it goes on.
  [[nodiscard]] std::uint64_t formed(Version highest, std::uint64_t epoch, std::uint64_t last_seq) {
    const bool older = highest.epoch < epoch;
    if (older) end_ = highest;
    const std::uint64_t kept_seq = older ? 0 : highest.seq;
    if (kept_seq >= last_seq) return last_seq;
    lost_.push_back({kept_seq, last_seq});
    return ((last_seq >> kPartShift) + 1) << kPartShift;
  }

  // `newest`: of a member that has all of the history. False also where it is not known: of parts
  // that ended before the opening before this engine's, what no chunk there shows any more.
  [[nodiscard]] bool has(Version version, std::uint64_t epoch, const NewestVersions& newest) const {
    if (version.epoch == epoch) {
      return std::ranges::none_of(lost_, [&](const Lost& lost) {
        return lost.after_seq < version.seq && version.seq <= lost.up_to_seq;
      });
    }
    if (part_of(version) == part_of(end_)) return version <= end_;
    const auto shown = newest.find(part_of(version));
    return shown != newest.end() && version.seq <= shown->second;
  }

 private:
  struct Lost {
    std::uint64_t after_seq = 0;
    std::uint64_t up_to_seq = 0;
  };
  Version end_;             // of the epochs before this engine's
  std::vector<Lost> lost_;  // of its own: sequenced, and gone with the members that had it
};

}  // namespace blockd::engine
