#include "engine/snapshot_listing.h"

#include <cstring>
#include <utility>

#include "format/wire.h"

namespace blockd::engine {

using peer::ReplicaOp;

void SnapshotListing::start(ViewAsker& asker, Take take, Done done) {
  auto* listing = new SnapshotListing(asker, std::move(take), std::move(done));
  listing->lanes_running_ = kLanes;
  for (Lane& lane : listing->lanes_) listing->begin_segment(lane);  // the last one may end it
}

SnapshotListing::SnapshotListing(ViewAsker& asker, Take take, Done done)
    : asker_(asker), take_(std::move(take)), done_(std::move(done)) {
  chunks_.reserve(format::kListEntriesMax);
  for (Lane& lane : lanes_) {
    lane.listing = this;
    lane.ask.owner = &lane;
    lane.ask.answered = [](ViewAsk& ask, Error error) noexcept {
      auto& over = *static_cast<Lane*>(ask.owner);
      over.listing->answered(over, error);
    };
  }
}

void SnapshotListing::begin_segment(Lane& lane) noexcept {
  if (error_ != Error::Ok || next_segment_ == asker_.segment_count()) return lane_over();
  lane.page.resize(format::kListEntriesMax * sizeof(format::ChunkEntry));
  lane.ask.segment = next_segment_++;
  ask_page(lane, 0);
}

void SnapshotListing::ask_page(Lane& lane, std::uint32_t first_chunk) noexcept {
  ReplicaOp& op = lane.ask.op;
  op.kind = ReplicaOp::Kind::list_view;
  op.first_block = first_chunk;
  op.block_count = 0;
  op.data = lane.page.data();
  op.data_bytes = static_cast<std::uint32_t>(lane.page.size());
  op.crcs = nullptr;
  asker_.ask(lane.ask);
}

void SnapshotListing::answered(Lane& lane, Error error) noexcept {
  if (error != Error::Ok) {
    if (error_ == Error::Ok) error_ = error;
    return lane_over();
  }
  const std::uint32_t next = take_page(lane);
  if (error_ != Error::Ok) return lane_over();
  if (next < kChunksPerSegment) return ask_page(lane, next);
  begin_segment(lane);
}

std::uint32_t SnapshotListing::take_page(const Lane& lane) {
  const ReplicaOp& op = lane.ask.op;
  chunks_.clear();
  const std::uint64_t first = std::uint64_t{lane.ask.segment} * kChunksPerSegment;
  std::uint32_t next = op.first_block;
  for (std::uint32_t i = 0; i < op.block_count; ++i) {
    format::ChunkEntry entry;
    std::memcpy(static_cast<void*>(&entry), op.data + std::size_t{i} * sizeof entry, sizeof entry);
    if (entry.chunk < next || entry.chunk >= kChunksPerSegment) {
      error_ = Error::ProtocolError;  // or it would be asked for ever
      return kChunksPerSegment;
    }
    next = entry.chunk + 1;
    chunks_.push_back(
        {first + entry.chunk, {entry.epoch, entry.seq}, entry.born, entry.valid_mask});
  }
  take_(chunks_);
  const bool full = op.block_count == op.data_bytes / sizeof(format::ChunkEntry);
  return full ? next : kChunksPerSegment;
}

void SnapshotListing::lane_over() noexcept {
  if (--lanes_running_ > 0) return;
  const Done done = std::move(done_);
  const Error error = error_;
  delete this;
  done(error);
}

}  // namespace blockd::engine
