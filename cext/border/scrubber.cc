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
  forget_place();
  others_seen_ = others_served();
  free_at_us_ = loop_.now_us();
  wake_at(free_at_us_);
}

void Scrubber::stop() noexcept {
  report_.running = false;
  ++pass_;
  forget_place();
  loop_.cancel(timer_);
}

// Reads on from where the last read has ended.
void Scrubber::step() noexcept {
  if (!report_.running || reading_) return;
  const bool moved = store_.find_segment(report_.cursor.segment) != segment_;
  if (moved && (probes_ || content_ < content_count_)) forget_place();
  if (probes_) return read(report_.cursor.chunk * kBlocksPerChunk + probing_, 1);
  if (!find_content()) return;
  if (!open_content()) return wake_at(loop_.now_us() + kRetryUs);
  const std::uint32_t first = report_.cursor.chunk * kBlocksPerChunk;
  block_count_ = std::min(kBlocksPerChunk, store_.segment_info(segment_).block_count - first);
  read(first, block_count_);
}

// Begins the cursor's chunk anew.
void Scrubber::forget_place() noexcept {
  if (!reading_) close_view();
  probes_ = false;
  content_ = content_count_ = 0;
  above_ = {};
}

// Moves to the next content with blocks. False: the pass is over, or goes on later.
bool Scrubber::find_content() noexcept {
  for (std::uint32_t passed = 0; passed < kTombstonesMax; ++passed) {
    if (content_ == content_count_) {
      const auto segment = store_.find_segment(report_.cursor.segment);
      if (!segment || !load_contents(*segment)) {
        if (next_segment()) continue;
        report_.running = false;
        report_.finished = true;
        report_.chunks_total = report_.chunks_done;
        return false;
      }
    }
    if (report_.cursor.chunk != contents_[content_].chunk) above_ = {};
    report_.cursor.chunk = contents_[content_].chunk;
    if (contents_[content_].valid_mask != 0) return true;
    content_over();
  }
  wake_at(loop_.now_us());
  return false;
}

bool Scrubber::load_contents(store::SegmentHandle segment) noexcept {
  segment_ = segment;
  content_ = 0;
  content_count_ = store_.list_states(segment, report_.cursor.chunk, above_, contents_);
  return content_count_ > 0;
}

// A past content is what a snapshot of the era that it was born in shows. False: no view is to be
// had now.
bool Scrubber::open_content() noexcept {
  if (contents_[content_].died == 0) return true;
  view_ = store_.open_view(segment_, contents_[content_].born);
  return view_ != store::Store::kNoView;
}

void Scrubber::close_view() noexcept {
  if (view_ != store::Store::kNoView) store_.close_view(view_);
  view_ = store::Store::kNoView;
}

// False: the cursor is behind the last segment.
bool Scrubber::next_segment() noexcept {
  std::optional<SegmentId> next;
  for (const store::SegmentHandle handle : store_.segments()) {
    const SegmentId id = store_.segment_info(handle).id;
    if (report_.cursor.segment < id && (!next || id < *next)) next = id;
  }
  if (next) report_.cursor = {*next, 0};
  above_ = {};
  return next.has_value();
}

void Scrubber::read(std::uint32_t first_block, std::uint32_t block_count) noexcept {
  BufferRef buffer = buffers_.chunk.get();
  if (!buffer) return wake_at(loop_.now_us() + kRetryUs);
  reading_ = true;
  read_for_ = pass_;
  op_.op = store::StoreOp::Op::read;
  op_.segment = view_ != store::Store::kNoView ? view_ : segment_;
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
  if (read_for_ != pass_) {
    close_view();
    return wake_at(std::max(free_at_us_, loop_.now_us()));
  }
  switch (op_.error) {
    case Error::Ok:
    case Error::ChecksumMismatch:
    case Error::DiskError:
      return probes_ ? block_read(op_.error) : chunk_read(op_.error);
    case Error::ShuttingDown:
      close_view();
      return stop();
    case Error::Busy:
    case Error::JournalFull:
      if (!probes_) close_view();
      return wake_at(loop_.now_us() + kRetryUs);
    default:  // the segment was dropped: find_content() goes on behind it
      forget_place();
      return wake_at(loop_.now_us());
  }
}

void Scrubber::chunk_read(Error error) noexcept {
  const std::uint16_t mask = contents_[content_].valid_mask;
  const std::uint64_t bytes = std::uint64_t(std::popcount(mask)) * kBlockBytes;
  report_.read_bytes += bytes;
  if (error == Error::Ok) {
    content_over();
  } else {
    probes_ = true;
    probing_ = 0;
  }
  pace(bytes);
}

void Scrubber::block_read(Error error) noexcept {
  if (error != Error::Ok) {
    if (report_.findings.size() < ScrubReport::kFindingsMax) {
      const store::ChunkState& content = contents_[content_];
      const Era born = content.died != 0 ? content.born : 0;
      report_.findings.push_back({report_.cursor.segment, op_.first_block, born, error});
    } else {
      ++report_.findings_dropped;
    }
  }
  if (++probing_ == block_count_) {
    probes_ = false;
    content_over();
  }
  pace(kBlockBytes);
}

// The cursor goes on to the chunk of the next one: a pass that is stopped here has read the others.
void Scrubber::content_over() noexcept {
  close_view();
  above_ = contents_[content_++].version;
  const std::uint32_t chunk = report_.cursor.chunk;
  const bool more = content_ < content_count_ || load_contents(segment_);
  report_.cursor.chunk = more ? contents_[content_].chunk : chunk + 1;
  if (report_.cursor.chunk != chunk) above_ = {};
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
    const store::SegmentInfo info = store_.segment_info(handle);
    count += info.chunk_count + info.past_count;
  }
  return count;
}

std::uint64_t Scrubber::others_served() const noexcept {
  return store_.stats().reads + store_.stats().writes - own_reads_;
}

}  // namespace blockd::border
