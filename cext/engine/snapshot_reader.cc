#include "engine/snapshot_reader.h"

#include <algorithm>
#include <array>
#include <utility>

#include "base/assert.h"
#include "engine/pool.h"
#include "engine/snapshot_listing.h"
#include "engine/view_asker.h"

namespace blockd::engine {
namespace {

using peer::ReplicaOp;
using Op = BlockRequest::Op;

// One request of a front; a piece of it for each segment it touches.
struct ViewRead {
  BlockRequest* request = nullptr;
  std::uint32_t pieces = 0;
  Error error = Error::Ok;
  peer::ListLink<ViewRead> link;  // done: to be answered from the loop
};

class SnapshotReaderImpl;

struct ViewPiece {
  SnapshotReaderImpl* reader = nullptr;
  ViewAsk ask;
  ViewRead* read = nullptr;
  std::array<std::uint32_t, kBlocksMax> crcs;
};

class SnapshotReaderImpl final : public SnapshotReader {
 public:
  SnapshotReaderImpl(io::Loop& loop, peer::PeerHub& hub, const SnapshotConfig& config);
  ~SnapshotReaderImpl() override { BLOCKD_ASSERT(idle() && !answer_task_.queued); }

  [[nodiscard]] std::uint64_t size_bytes() const noexcept override { return size_bytes_; }
  void submit(BlockRequest& request) noexcept override;
  void list(Take take, std::function<void(Error)> done) override;
  void members_changed(const SegmentConfig& segment) override;
  void close(std::function<void()> done) override;

 private:
  [[nodiscard]] Error check(const BlockRequest& request) const noexcept;
  void admit(BlockRequest& request) noexcept;
  void ask(ViewRead& read, std::uint64_t offset, std::uint32_t bytes) noexcept;
  void answered(ViewPiece& piece, Error error) noexcept;
  void piece_over(ViewRead& read, Error error) noexcept;
  void answer_all() noexcept;
  void admit_waiting() noexcept;
  [[nodiscard]] bool idle() const noexcept {
    return reads_.used() == 0 && listings_ == 0 && waiting_head_ == nullptr;
  }

  io::Loop& loop_;
  std::uint64_t size_bytes_;
  ViewAsker asker_;
  std::vector<std::uint64_t> generations_;  // of each segment's members
  Pool<ViewRead> reads_{kReadsMax};
  Pool<ViewPiece> pieces_{2 * kReadsMax};  // a read crosses one segment's end at most
  peer::List<ViewRead> over_;
  BlockRequest* waiting_head_ = nullptr;  // no ViewRead was left
  BlockRequest* waiting_tail_ = nullptr;
  std::uint32_t listings_ = 0;
  bool closing_ = false;
  std::function<void()> closed_;
  io::Task answer_task_;
};

SnapshotReaderImpl::SnapshotReaderImpl(io::Loop& loop, peer::PeerHub& hub,
                                       const SnapshotConfig& config)
    : loop_(loop), size_bytes_(config.size_bytes), asker_(loop, hub, config.volume, config.era) {
  for (const SegmentConfig& segment : config.segments) {
    BLOCKD_ASSERT(segment.index == asker_.segment_count());
    asker_.set_members(segment.index, segment.members);
    generations_.push_back(segment.generation);
  }
  BLOCKD_ASSERT(asker_.segment_count() == (size_bytes_ + kSegmentBytes - 1) / kSegmentBytes);
  answer_task_.owner = this;
  answer_task_.run = [](io::Task& task) noexcept {
    static_cast<SnapshotReaderImpl*>(task.owner)->answer_all();
  };
}

// --- reads ---------------------------------------------------------------------------------------

Error SnapshotReaderImpl::check(const BlockRequest& request) const noexcept {
  if (closing_) return Error::ShuttingDown;
  if (request.op == Op::flush) return Error::Ok;
  if (request.op != Op::read) return Error::ReadOnly;
  if (request.length_bytes > kMutationBytesMax) return Error::RequestTooLarge;
  if (request.data == nullptr || request.length_bytes == 0) return Error::InvalidArgument;
  if (request.offset_bytes % kBlockBytes != 0 || request.length_bytes % kBlockBytes != 0) {
    return Error::InvalidArgument;
  }
  const std::uint64_t limit = (size_bytes_ + kBlockBytes - 1) / kBlockBytes * kBlockBytes;
  const bool inside =
      request.offset_bytes <= limit && request.length_bytes <= limit - request.offset_bytes;
  return inside ? Error::Ok : Error::ExtentOutOfRange;
}

void SnapshotReaderImpl::submit(BlockRequest& request) noexcept {
  request.error = check(request);
  if (request.error != Error::Ok) return request.done(request);
  request.next = nullptr;
  if (waiting_head_ == nullptr && reads_.used() < kReadsMax) return admit(request);
  (waiting_head_ ? waiting_tail_->next : waiting_head_) = &request;
  waiting_tail_ = &request;
}

void SnapshotReaderImpl::admit(BlockRequest& request) noexcept {
  ViewRead& read = *reads_.get();
  read.request = &request;
  read.error = Error::Ok;
  read.pieces = 1;
  std::uint64_t offset = request.offset_bytes;
  const std::uint64_t end = request.op == Op::flush ? offset : offset + request.length_bytes;
  while (offset < end) {
    const std::uint64_t stop = std::min(end, (offset / kSegmentBytes + 1) * kSegmentBytes);
    ++read.pieces;
    ask(read, offset, static_cast<std::uint32_t>(stop - offset));
    offset = stop;
  }
  piece_over(read, Error::Ok);
}

void SnapshotReaderImpl::ask(ViewRead& read, std::uint64_t offset, std::uint32_t bytes) noexcept {
  ViewPiece& piece = *pieces_.get();
  piece.reader = this;
  piece.read = &read;
  piece.ask.segment = static_cast<std::uint32_t>(offset / kSegmentBytes);
  piece.ask.owner = &piece;
  piece.ask.answered = [](ViewAsk& ask, Error error) noexcept {
    auto& over = *static_cast<ViewPiece*>(ask.owner);
    over.reader->answered(over, error);
  };
  ReplicaOp& op = piece.ask.op;
  op.kind = ReplicaOp::Kind::read_view;
  op.first_block = static_cast<std::uint32_t>(offset % kSegmentBytes / kBlockBytes);
  op.block_count = bytes / kBlockBytes;
  op.data = read.request->data + (offset - read.request->offset_bytes);
  op.data_bytes = bytes;
  op.crcs = piece.crcs.data();
  asker_.ask(piece.ask);
}

void SnapshotReaderImpl::answered(ViewPiece& piece, Error error) noexcept {
  ViewRead& read = *piece.read;
  pieces_.put(piece);
  piece_over(read, error);
}

void SnapshotReaderImpl::piece_over(ViewRead& read, Error error) noexcept {
  if (error != Error::Ok && read.error == Error::Ok) read.error = error;
  BLOCKD_ASSERT(read.pieces > 0);
  if (--read.pieces > 0) return;
  over_.push_back(read);
  loop_.defer(answer_task_);
}

void SnapshotReaderImpl::answer_all() noexcept {
  while (ViewRead* read = over_.pop_front()) {
    BlockRequest& request = *read->request;
    request.error = read->error;
    reads_.put(*read);
    request.done(request);
  }
  admit_waiting();
  if (closing_ && idle() && closed_) std::exchange(closed_, nullptr)();
}

void SnapshotReaderImpl::admit_waiting() noexcept {
  while (waiting_head_ && reads_.used() < kReadsMax) {
    BlockRequest& request = *waiting_head_;
    waiting_head_ = request.next;
    admit(request);
  }
}

// --- listings, life ------------------------------------------------------------------------------

void SnapshotReaderImpl::list(Take take, std::function<void(Error)> done) {
  ++listings_;
  SnapshotListing::start(asker_, std::move(take), [this, done = std::move(done)](Error error) {
    --listings_;
    if (closing_) loop_.defer(answer_task_);
    done(error);
  });
}

void SnapshotReaderImpl::members_changed(const SegmentConfig& segment) {
  if (segment.index >= generations_.size()) return;
  std::uint64_t& known = generations_[segment.index];
  if (segment.generation < known) return;
  known = segment.generation;
  asker_.set_members(segment.index, segment.members);
}

void SnapshotReaderImpl::close(std::function<void()> done) {
  BLOCKD_ASSERT(!closing_);
  closing_ = true;
  closed_ = std::move(done);
  asker_.stop();
  loop_.defer(answer_task_);
}

}  // namespace

std::unique_ptr<SnapshotReader> SnapshotReader::create(io::Loop& loop, peer::PeerHub& hub,
                                                       SnapshotConfig config) {
  return std::make_unique<SnapshotReaderImpl>(loop, hub, config);
}

}  // namespace blockd::engine
