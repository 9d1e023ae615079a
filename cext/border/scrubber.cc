#include "border/scrubber.h"

#include <algorithm>
#include <bit>
#include <optional>
#include <span>
#include <utility>

#include "base/assert.h"

namespace blockd::border {
namespace {

constexpr std::uint64_t kYieldFactor = 4;       // how much slower beside other operations
constexpr std::uint64_t kRetryUs = 20'000;      // no buffer, or the store is busy
constexpr std::uint32_t kTombstonesMax = 1024;  // passed over in one turn of the loop

}  // namespace

Scrubber::Scrubber(io::Loop& loop, Buffers& buffers, store::Store& store)
    : loop_(loop), buffers_(buffers), store_(store) {
  report_.store = store.info().store_id;
  timer_.owner = this;
  timer_.fire = [](io::Timer& timer) noexcept { static_cast<Scrubber*>(timer.owner)->step(); };
  op_.owner = this;
}

Scrubber::~Scrubber() {
  BLOCKD_ASSERT(!reading_);
  loop_.cancel(timer_);
}

void Scrubber::start(std::uint64_t rate_bytes, ScrubCursor cursor,
                     std::uint64_t chunks_done) noexcept {
  BLOCKD_ASSERT(rate_bytes > 0);
  const Uuid store = report_.store;
  report_ = {};
  report_.store = store;
  report_.running = true;
  report_.rate_bytes = rate_bytes;
  report_.cursor = cursor;
  report_.chunks_done = chunks_done;
  report_.chunks_total = std::max(chunks_done, count_chunks());
  ++pass_;
  probes_ = false;
  others_seen_ = others_served();
  free_at_us_ = loop_.now_us();
  wake_at(free_at_us_);
}

void Scrubber::stop() noexcept {
  report_.running = false;
  ++pass_;
  loop_.cancel(timer_);
}

// Reads on from where the last read has ended.
void Scrubber::step() noexcept {
  if (!report_.running || reading_) return;
  if (probes_ && store_.find_segment(report_.cursor.segment) != segment_) probes_ = false;
  if (probes_) return read(report_.cursor.chunk * kBlocksPerChunk + probing_, 1);
  if (!find_chunk()) return;
  const std::uint32_t first = report_.cursor.chunk * kBlocksPerChunk;
  block_count_ = std::min(kBlocksPerChunk, store_.segment_info(segment_).block_count - first);
  read(first, block_count_);
}

// Moves the cursor to the next chunk that holds blocks. False: the pass is over, or goes on later.
bool Scrubber::find_chunk() noexcept {
  for (std::uint32_t passed = 0; passed < kTombstonesMax; ++passed) {
    const auto segment = store_.find_segment(report_.cursor.segment);
    store::ChunkVersion next;
    if (!segment ||
        store_.list_chunks(*segment, report_.cursor.chunk, Version{}, std::span(&next, 1)) == 0) {
      if (next_segment()) continue;
      report_.running = false;
      report_.finished = true;
      report_.chunks_total = report_.chunks_done;
      return false;
    }
    segment_ = *segment;
    report_.cursor.chunk = next.chunk;
    if (store_.chunk_valid_mask(segment_, next.chunk) != 0) return true;
    chunk_over();
  }
  wake_at(loop_.now_us());
  return false;
}

// False: the cursor is behind the last segment.
bool Scrubber::next_segment() noexcept {
  std::optional<SegmentId> next;
  for (const store::SegmentHandle handle : store_.segments()) {
    const SegmentId id = store_.segment_info(handle).id;
    if (report_.cursor.segment < id && (!next || id < *next)) next = id;
  }
  if (next) report_.cursor = {*next, 0};
  return next.has_value();
}

void Scrubber::read(std::uint32_t first_block, std::uint32_t block_count) noexcept {
  BufferRef buffer = buffers_.chunk.get();
  if (!buffer) return wake_at(loop_.now_us() + kRetryUs);
  reading_ = true;
  read_for_ = pass_;
  op_.op = store::StoreOp::Op::read;
  op_.segment = segment_;
  op_.first_block = first_block;
  op_.block_count = block_count;
  op_.data = buffer.data();
  op_.hold = std::move(buffer);
  op_.crcs_out = crcs_.data();
  op_.done = [](store::StoreOp& op) noexcept { static_cast<Scrubber*>(op.owner)->complete(); };
  store_.submit(op_);
}

void Scrubber::complete() noexcept {
  reading_ = false;
  op_.hold.reset();
  ++own_reads_;
  if (read_for_ != pass_) return wake_at(std::max(free_at_us_, loop_.now_us()));
  switch (op_.error) {
    case Error::Ok:
    case Error::ChecksumMismatch:
    case Error::DiskError:
      return probes_ ? block_read(op_.error) : chunk_read(op_.error);
    case Error::ShuttingDown:
      return stop();
    case Error::Busy:
    case Error::JournalFull:
      return wake_at(loop_.now_us() + kRetryUs);
    default:  // the segment was dropped: find_chunk() goes on behind it
      probes_ = false;
      return wake_at(loop_.now_us());
  }
}

void Scrubber::chunk_read(Error error) noexcept {
  const std::uint16_t mask = store_.chunk_valid_mask(segment_, report_.cursor.chunk);
  const std::uint64_t bytes = std::uint64_t(std::popcount(mask)) * kBlockBytes;
  report_.read_bytes += bytes;
  if (error == Error::Ok) {
    chunk_over();
  } else {
    probes_ = true;
    probing_ = 0;
  }
  pace(bytes);
}

void Scrubber::block_read(Error error) noexcept {
  if (error != Error::Ok) {
    if (report_.findings.size() < ScrubReport::kFindingsMax) {
      report_.findings.push_back({report_.cursor.segment, op_.first_block, error});
    } else {
      ++report_.findings_dropped;
    }
  }
  if (++probing_ == block_count_) {
    probes_ = false;
    chunk_over();
  }
  pace(kBlockBytes);
}

void Scrubber::chunk_over() noexcept {
  ++report_.cursor.chunk;
  ++report_.chunks_done;
  report_.chunks_total = std::max(report_.chunks_total, report_.chunks_done);
}

void Scrubber::pace(std::uint64_t bytes) noexcept {
  const std::uint64_t now = loop_.now_us();
  const std::uint64_t others = others_served();
  const bool yields = std::exchange(others_seen_, others) != others;
  const std::uint64_t cost_us = bytes * 1'000'000 / report_.rate_bytes;
  free_at_us_ = std::max(free_at_us_, now) + (yields ? kYieldFactor : 1) * cost_us;
  wake_at(free_at_us_);
}

void Scrubber::wake_at(std::uint64_t at_us) noexcept {
  if (!report_.running) return;
  loop_.cancel(timer_);
  loop_.arm(timer_, at_us);
}

std::uint64_t Scrubber::count_chunks() const {
  std::uint64_t count = 0;
  for (const store::SegmentHandle handle : store_.segments()) {
    count += store_.segment_info(handle).chunk_count;
  }
  return count;
}

std::uint64_t Scrubber::others_served() const noexcept {
  return store_.stats().reads + store_.stats().writes - own_reads_;
}

}  // namespace blockd::border
