#include "border/attach_checks.h"

#include <algorithm>

#include "base/result.h"
#include "border/text.h"

namespace blockd::border {
namespace {

void check_segments(const Uuid& id, std::uint64_t size_bytes,
                    const std::vector<engine::SegmentConfig>& segments) {
  if (size_bytes == 0 || size_bytes % 512 != 0) {
    refuse(id, "its size is not a positive multiple of 512");
  }
  const std::uint64_t wanted = (size_bytes - 1) / kSegmentBytes + 1;
  if (segments.size() != wanted) {
    refuse(id, "its size needs " + std::to_string(wanted) + " segments, it has " +
                   std::to_string(segments.size()));
  }
  for (std::size_t i = 0; i < segments.size(); ++i) {
    const engine::SegmentConfig& segment = segments[i];
    const std::string name = "segment " + std::to_string(i);
    if (segment.index != i) refuse(id, name + " is missing or out of order");
    const auto in_sync = std::ranges::count_if(
        segment.members, [](const engine::MemberConfig& member) { return member.in_sync; });
    if (in_sync == 0) refuse(id, name + " has no member in sync");
  }
}

void check(const engine::SnapshotConfig& snapshot) {
  if (snapshot.era == 0) refuse(snapshot.volume, "a snapshot's era begins at 1");
  check_segments(snapshot.volume, snapshot.size_bytes, snapshot.segments);
}

}  // namespace

void refuse(const Uuid& id, const std::string& why) {
  throw Fault(Error::InvalidArgument, "volume " + text(id) + ": " + why);
}

void check(const engine::VolumeConfig& config) {
  if (config.epoch == 0) refuse(config.id, "an attachment's epoch begins at 1");
  if (config.era == 0) refuse(config.id, "a volume's era begins at 1");
  check_segments(config.id, config.size_bytes, config.segments);
}

void check(const BaseSpec& spec) {
  for (const BaseSpec* level = &spec; level != nullptr; level = level->base.get()) {
    check(level->snapshot);
    if (level->rules.self && level->rules.since <= level->rules.era) {
      refuse(level->snapshot.volume,
             "content since a rollback is of a later era than its snapshot");
    }
  }
}

void check(const SnapshotSpec& spec) {
  check(spec.snapshot);
  if (spec.base) check(*spec.base);
}

}  // namespace blockd::border
