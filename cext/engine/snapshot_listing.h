// One listing of what a view holds, over all segments of a volume; owns itself until it has called
// back.
//
// A few segments at a time, each page by page.
#pragma once

#include <array>
#include <functional>
#include <vector>

#include "engine/snapshot_reader.h"
#include "engine/view_asker.h"

namespace blockd::engine {

class SnapshotListing {
 public:
  using Chunk = SnapshotReader::Chunk;
  using Take = SnapshotReader::Take;
  using Done = std::function<void(Error)>;

  // `done` may come from inside for an error found at once. `asker` outlives it.
  static void start(ViewAsker& asker, Take take, Done done);
  SnapshotListing(const SnapshotListing&) = delete;
  SnapshotListing& operator=(const SnapshotListing&) = delete;

 private:
  static constexpr std::size_t kLanes = 8;  // segments at a time
  struct Lane {
    SnapshotListing* listing = nullptr;
    ViewAsk ask;
    std::vector<std::byte> page;
  };

  SnapshotListing(ViewAsker& asker, Take take, Done done);
  ~SnapshotListing() = default;
  void begin_segment(Lane& lane) noexcept;
  void ask_page(Lane& lane, std::uint32_t first_chunk) noexcept;
  void answered(Lane& lane, Error error) noexcept;
  // Gives the page on; the chunk to go on with, or kChunksPerSegment when it was the last.
  [[nodiscard]] std::uint32_t take_page(const Lane& lane);
  void lane_over() noexcept;

  ViewAsker& asker_;
  Take take_;
  Done done_;
  std::vector<Chunk> chunks_;  // of the page at hand
  std::uint32_t next_segment_ = 0;
  std::size_t lanes_running_ = 0;
  Error error_ = Error::Ok;
  std::array<Lane, kLanes> lanes_;
};

}  // namespace blockd::engine
