#include "engine/layered.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "base/assert.h"
#include "engine/layered_ops.h"
#include "engine/limits.h"
#include "engine/pool.h"
#include "engine/tail_clear.h"

namespace blockd::engine {
namespace {

using Op = BlockRequest::Op;

[[nodiscard]] std::uint64_t chunks_of(std::uint64_t bytes) noexcept {
  return (bytes + kChunkBytes - 1) / kChunkBytes;
}

[[nodiscard]] std::uint64_t whole_blocks(std::uint64_t bytes) noexcept {
  return (bytes + kBlockBytes - 1) / kBlockBytes * kBlockBytes;
}

// A flatten that came late (the loop was busy) may catch up by so much.
constexpr std::uint64_t kFlattenBurstUs = 10'000;

class LayeredImpl final : public Layered {
 public:
  LayeredImpl(io::Loop& loop, Buffers& buffers, BlockBackend& upper, BlockBackend& base,
              BaseRules rules);
  ~LayeredImpl() override;

  [[nodiscard]] std::uint64_t size_bytes() const noexcept override { return limit_bytes_; }
  void submit(BlockRequest& request) noexcept override;
  void open(const Lister& list_upper, const Lister& list_base,
            std::function<void(Error)> done) override;
  void list(Take take, std::function<void(Error)> done) override;
  void resized() noexcept override;
  void shrink(std::uint64_t size_bytes, const Drain& drain_upper,
              std::function<void(Error)> done) override;
  void flatten(std::uint64_t bytes_per_second, std::function<void(Error)> done) override;
  [[nodiscard]] std::uint64_t chunks_of_base() const noexcept override {
    return layers_.base_count();
  }
  void close(std::function<void()> done) override;

 private:
  enum class State : std::uint8_t { fresh, opening, open, failed };

  // Opening and life.
  void opened(Error error) noexcept;
  void settle_later() noexcept { loop_.defer(settle_task_); }
  void settle() noexcept;
  void serve_queue() noexcept;
  void end_if_closed() noexcept;

  // Requests.
  [[nodiscard]] Error check(const BlockRequest& request) const noexcept;
  [[nodiscard]] bool dispatch(BlockRequest& request) noexcept;  // false: no room now
  static void answer(BlockRequest& request, Error error) noexcept;

  // Reads.
  enum class Source : std::uint8_t { upper, base, zeros };
  [[nodiscard]] Source source_of(std::uint64_t chunk) const noexcept;
  [[nodiscard]] bool read(BlockRequest& request) noexcept;
  void read_part(LayeredRead& read, Source source, std::uint64_t from, std::uint64_t to) noexcept;
  void piece_read(LayeredRead& read, Error error) noexcept;

  // Mutations.
  [[nodiscard]] bool mutate(BlockRequest& request) noexcept;
  [[nodiscard]] std::uint64_t run_end(const BlockRequest& request,
                                      std::uint64_t from) const noexcept;
  void begin_run(LayeredMutation& mutation) noexcept;
  [[nodiscard]] bool overwrites(const LayeredMutation& mutation,
                                std::uint64_t chunk) const noexcept;
  [[nodiscard]] bool lock_run(const LayeredMutation& mutation) noexcept;
  void copy_up(LayeredMutation& mutation, std::uint64_t chunk) noexcept;
  void copied_up(LayeredMutation& mutation, const ChunkCopyUp& copy, Error error) noexcept;
  void send_run(LayeredMutation& mutation) noexcept;
  void run_over(LayeredMutation& mutation, Error error) noexcept;
  void finish(LayeredMutation& mutation) noexcept;
  void prepare(ChunkCopyUp& copy, std::uint64_t chunk) const noexcept;
  [[nodiscard]] std::uint64_t chunk_end(std::uint64_t chunk) const noexcept {
    return std::min((chunk + 1) * kChunkBytes, size_bytes_);
  }

  // Shrinking.
  void advance_shrink() noexcept;
  void end_shrink(Error error) noexcept;

  // Flattening.
  void pump_flatten() noexcept;
  [[nodiscard]] bool flatten_next(ChunkCopyUp& copy) noexcept;
  void flatten_copied(const ChunkCopyUp& copy, Error error) noexcept;
  void flush_flattened() noexcept;
  void end_flatten(Error error) noexcept;

  io::Loop& loop_;
  BlockBackend& upper_;
  BlockBackend& base_;
  BaseRules rules_;
  std::uint64_t size_bytes_;
  std::uint64_t limit_bytes_;  // where requests end: before the size while it shrinks
  ChunkLayers layers_;
  State state_ = State::fresh;
  Error open_error_ = Error::Ok;
  Lister list_upper_, list_base_;
  std::function<void(Error)> opened_;
  std::uint32_t listings_ = 0;
  BlockRequest* queue_head_ = nullptr;  // not open yet, or no place in a pool
  BlockRequest* queue_tail_ = nullptr;
  Pool<LayeredRead> reads_{kReadsMax};
  Pool<LayeredMutation> mutations_{kMutationsMax};
  peer::List<LayeredRead> ended_reads_;  // to be answered from the loop
  peer::List<LayeredMutation> waiting_;  // for chunks that are busy
  ChunkCopier copier_;
  struct Flatten {
    std::vector<std::function<void(Error)>> done;  // empty: none is under way
    std::uint64_t bytes_per_second = 0;
    std::uint64_t next_us = 0;
    std::uint64_t cursor = 0;
    std::uint32_t copying = 0;
    Error error = Error::Ok;
    bool flushing = false;
    BlockRequest flush;
    std::array<ChunkCopyUp, kCopiesPerSegment> copies;
  } flatten_;
  struct Shrink {
    enum class Step : std::uint8_t { own, upper, clearing };
    std::function<void(Error)> done;  // empty: none is under way
    Drain drain_upper;
    Step step = Step::own;
  } shrink_;
  std::array<std::uint32_t, 2> turns_{};  // mutations that are not over, by turn
  std::uint8_t turn_ = 0;                 // of those that come now
  TailClear tail_;
  io::Timer flatten_timer_;
  io::Task settle_task_;
  bool closing_ = false;
  std::function<void()> closed_;
};

LayeredImpl::LayeredImpl(io::Loop& loop, Buffers& buffers, BlockBackend& upper, BlockBackend& base,
                         BaseRules rules)
    : loop_(loop),
      upper_(upper),
      base_(base),
      rules_(rules),
      size_bytes_(upper.size_bytes()),
      limit_bytes_(size_bytes_),
      copier_(loop, buffers, upper, base),
      tail_([this](BlockRequest& request) { submit(request); }) {
  layers_.resize(chunks_of(size_bytes_));
  settle_task_.owner = flatten_timer_.owner = this;
  settle_task_.run = [](io::Task& task) noexcept {
    static_cast<LayeredImpl*>(task.owner)->settle();
  };
  flatten_timer_.fire = [](io::Timer& timer) noexcept {
    static_cast<LayeredImpl*>(timer.owner)->pump_flatten();
  };
  for (ChunkCopyUp& copy : flatten_.copies) {
    copy.owner = nullptr;  // free
    copy.done = [](ChunkCopyUp& over, Error error) noexcept {
      auto& self = *static_cast<LayeredImpl*>(std::exchange(over.owner, nullptr));
      self.flatten_copied(over, error);
    };
  }
}

LayeredImpl::~LayeredImpl() {
  BLOCKD_ASSERT(queue_head_ == nullptr && reads_.used() == 0 && mutations_.used() == 0);
  BLOCKD_ASSERT(flatten_.done.empty() && flatten_.copying == 0 && listings_ == 0);
  BLOCKD_ASSERT(!settle_task_.queued && !shrink_.done);
  loop_.cancel(flatten_timer_);
}

// --- opening and life ----------------------------------------------------------------------------

void LayeredImpl::open(const Lister& list_upper, const Lister& list_base,
                       std::function<void(Error)> done) {
  BLOCKD_ASSERT(state_ == State::fresh);
  state_ = State::opening;
  list_upper_ = list_upper;
  list_base_ = list_base;
  opened_ = std::move(done);
  ++listings_;
  list_base_([this](auto page) { layers_.learn_base(page, chunks_of(base_.size_bytes())); },
             [this](Error error) {
               if (error != Error::Ok || closing_) return opened(error);
               list_upper_([this](auto page) { layers_.learn_volume(page, rules_); },
                           [this](Error upper_error) { opened(upper_error); });
             });
}

void LayeredImpl::opened(Error error) noexcept {
  if (error == Error::Ok && closing_) error = Error::ShuttingDown;
  --listings_;
  state_ = error == Error::Ok ? State::open : State::failed;
  open_error_ = error;
  settle_later();
  std::exchange(opened_, nullptr)(error);
}

void LayeredImpl::list(Take take, std::function<void(Error)> done) {
  BLOCKD_ASSERT(state_ == State::open && rules_.read_only);
  ++listings_;
  const auto give = [this, take = std::move(take)](std::span<const Chunk> page, bool of_upper) {
    for (const Chunk& chunk : page) {
      const bool shows = chunk.chunk < layers_.chunk_count() &&
                         layers_.own(chunk.chunk) == of_upper &&
                         (!of_upper || rules_.counts(chunk.born));
      if (shows && chunk.valid_mask != 0) take(std::span(&chunk, 1));
    }
  };
  const auto over = [this, done = std::move(done)](Error error) {
    --listings_;
    settle_later();
    done(error);
  };
  list_base_([give](auto page) { give(page, false); },
             [this, give, over](Error error) {
               if (error == Error::Ok && closing_) error = Error::ShuttingDown;
               if (error != Error::Ok) return over(error);
               list_upper_([give](auto page) { give(page, true); }, over);
             });
}

void LayeredImpl::resized() noexcept {
  BLOCKD_ASSERT(!shrink_.done);
  size_bytes_ = limit_bytes_ = upper_.size_bytes();
  layers_.resize(chunks_of(size_bytes_));
}

void LayeredImpl::close(std::function<void()> done) {
  BLOCKD_ASSERT(!closing_);
  closing_ = true;
  closed_ = std::move(done);
  loop_.cancel(flatten_timer_);
  while (LayeredMutation* mutation = waiting_.pop_front()) {
    mutation->error = Error::ShuttingDown;
    finish(*mutation);
  }
  copier_.stop();
  settle_later();
}

// Whatever waited for something that has changed meanwhile.
void LayeredImpl::settle() noexcept {
  while (LayeredRead* read = ended_reads_.pop_front()) {
    BlockRequest& request = *read->request;
    const Error error = read->error;
    reads_.put(*read);
    answer(request, error);
  }
  peer::List<LayeredMutation> again;
  while (LayeredMutation* mutation = waiting_.pop_front()) again.push_back(*mutation);
  while (LayeredMutation* mutation = again.pop_front()) begin_run(*mutation);
  serve_queue();
  advance_shrink();
  pump_flatten();
  end_if_closed();
}

void LayeredImpl::serve_queue() noexcept {
  if (!closing_ && state_ != State::open && state_ != State::failed) return;
  while (queue_head_) {
    BlockRequest& request = *queue_head_;
    queue_head_ = request.next;
    if (dispatch(request)) continue;
    request.next = queue_head_;
    if (queue_head_ == nullptr) queue_tail_ = &request;
    queue_head_ = &request;
    return;
  }
}

void LayeredImpl::end_if_closed() noexcept {
  const bool idle = queue_head_ == nullptr && reads_.used() == 0 && mutations_.used() == 0 &&
                    flatten_.done.empty() && !shrink_.done && listings_ == 0;
  if (closing_ && idle && closed_ && !settle_task_.queued) std::exchange(closed_, nullptr)();
}

// --- requests ------------------------------------------------------------------------------------

Error LayeredImpl::check(const BlockRequest& request) const noexcept {
  if (closing_) return Error::ShuttingDown;
  if (open_error_ != Error::Ok) return open_error_;
  if (request.op == Op::flush) return Error::Ok;
  const bool reads = request.op == Op::read;
  if (!reads && rules_.read_only) return Error::ReadOnly;
  if (request.length_bytes == 0) return Error::InvalidArgument;
  if (reads || request.op == Op::write) {
    if (request.length_bytes > kMutationBytesMax) return Error::RequestTooLarge;
    if (request.data == nullptr) return Error::InvalidArgument;
  }
  if (reads &&
      (request.offset_bytes % kBlockBytes != 0 || request.length_bytes % kBlockBytes != 0)) {
    return Error::InvalidArgument;
  }
  const std::uint64_t end = tail_.owns(request) ? size_bytes_ : limit_bytes_;
  const std::uint64_t limit = reads ? whole_blocks(end) : end;
  const bool inside =
      request.offset_bytes <= limit && request.length_bytes <= limit - request.offset_bytes;
  return inside ? Error::Ok : Error::ExtentOutOfRange;
}

void LayeredImpl::answer(BlockRequest& request, Error error) noexcept {
  request.error = error;
  request.done(request);
}

void LayeredImpl::submit(BlockRequest& request) noexcept {
  if (const Error error = check(request); error != Error::Ok) return answer(request, error);
  if (state_ == State::open && queue_head_ == nullptr && dispatch(request)) return;
  request.next = nullptr;
  (queue_head_ ? queue_tail_->next : queue_head_) = &request;
  queue_tail_ = &request;
}

bool LayeredImpl::dispatch(BlockRequest& request) noexcept {
  if (const Error error = check(request); error != Error::Ok) {
    answer(request, error);
    return true;
  }
  if (request.op == Op::read) return read(request);
  if (request.op != Op::flush) return mutate(request);
  upper_.submit(request);
  return true;
}

// --- reads ---------------------------------------------------------------------------------------

LayeredImpl::Source LayeredImpl::source_of(std::uint64_t chunk) const noexcept {
  if (layers_.own(chunk)) return Source::upper;
  return layers_.over_data(chunk) ? Source::base : Source::zeros;
}

bool LayeredImpl::read(BlockRequest& request) noexcept {
  const std::uint64_t begin = request.offset_bytes;
  const std::uint64_t end = begin + request.length_bytes;
  const auto run_end = [&](std::uint64_t from) {
    const Source source = source_of(from / kChunkBytes);
    std::uint64_t to = (from / kChunkBytes + 1) * kChunkBytes;
    while (to < end && source_of(to / kChunkBytes) == source) to += kChunkBytes;
    return std::min(to, end);
  };
  if (run_end(begin) == end) {
    const Source source = source_of(begin / kChunkBytes);
    if (source == Source::upper) return upper_.submit(request), true;
    if (source == Source::base && end <= base_.size_bytes()) return base_.submit(request), true;
  }
  LayeredRead* read = reads_.get();
  if (read == nullptr) return false;
  read->target = this;
  read->request = &request;
  read->error = Error::Ok;
  read->pieces = 1;
  read->part_count = 0;
  for (std::uint64_t from = begin; from < end;) {
    const std::uint64_t to = run_end(from);
    read_part(*read, source_of(from / kChunkBytes), from, to);
    from = to;
  }
  piece_read(*read, Error::Ok);
  return true;
}

void LayeredImpl::read_part(LayeredRead& read, Source source, std::uint64_t from,
                            std::uint64_t to) noexcept {
  std::byte* data = read.request->data + (from - read.request->offset_bytes);
  if (source == Source::zeros) return void(std::memset(data, 0, to - from));
  BLOCKD_ASSERT(read.part_count < read.parts.size());
  BlockRequest& part = read.parts[read.part_count++];
  part.op = Op::read;
  part.offset_bytes = from;
  part.data = data;
  part.hold = read.request->hold;
  part.owner = &read;
  ++read.pieces;
  if (source == Source::upper) {
    part.length_bytes = static_cast<std::uint32_t>(to - from);
    part.done = [](BlockRequest& done) noexcept {
      auto& over = *static_cast<LayeredRead*>(done.owner);
      done.hold.reset();
      static_cast<LayeredImpl*>(over.target)->piece_read(over, done.error);
    };
    return upper_.submit(part);
  }
  // The chunk has data, so the base begins before its end.
  const std::uint64_t stop = std::clamp(whole_blocks(base_.size_bytes()), from, to);
  clear_beyond(data, from, to - from, stop);
  if (stop == from) return piece_read(read, Error::Ok);
  part.length_bytes = static_cast<std::uint32_t>(stop - from);
  part.done = [](BlockRequest& done) noexcept {
    auto& over = *static_cast<LayeredRead*>(done.owner);
    auto& self = *static_cast<LayeredImpl*>(over.target);
    clear_beyond(done.data, done.offset_bytes, done.length_bytes, self.base_.size_bytes());
    done.hold.reset();
    self.piece_read(over, done.error);
  };
  base_.submit(part);
}

void LayeredImpl::piece_read(LayeredRead& read, Error error) noexcept {
  if (error != Error::Ok && read.error == Error::Ok) read.error = error;
  BLOCKD_ASSERT(read.pieces > 0);
  if (--read.pieces > 0) return;
  ended_reads_.push_back(read);
  settle_later();
}

// --- mutations -----------------------------------------------------------------------------------

bool LayeredImpl::mutate(BlockRequest& request) noexcept {
  const std::uint64_t end = request.offset_bytes + request.length_bytes;
  const std::uint64_t first = request.offset_bytes / kChunkBytes;
  const std::uint64_t last = (end - 1) / kChunkBytes;
  bool own = true, some = false, all = true;
  for (std::uint64_t chunk = first; chunk <= last; ++chunk) {
    own = own && layers_.own(chunk);
    some = some || layers_.over_data(chunk);
    all = all && layers_.over_data(chunk);
  }
  if (own && (request.op == Op::write || some == all)) {
    request.covers = some;
    upper_.submit(request);
    return true;
  }
  LayeredMutation* mutation = mutations_.get();
  if (mutation == nullptr) return false;
  mutation->target = this;
  mutation->request = &request;
  mutation->error = Error::Ok;
  mutation->turn = turn_;
  ++turns_[turn_];
  mutation->run_bytes = request.offset_bytes;
  begin_run(*mutation);
  return true;
}

// A write goes as a whole. Of trims a run covers the base everywhere or nowhere: or each chunk of
// it would be kept a record of.
std::uint64_t LayeredImpl::run_end(const BlockRequest& request, std::uint64_t from) const noexcept {
  const std::uint64_t end = request.offset_bytes + request.length_bytes;
  if (request.op == Op::write) return end;
  const bool covers = layers_.over_data(from / kChunkBytes);
  std::uint64_t to = (from / kChunkBytes + 1) * kChunkBytes;
  while (to < end && layers_.over_data(to / kChunkBytes) == covers) to += kChunkBytes;
  return std::min(to, end);
}

void LayeredImpl::begin_run(LayeredMutation& mutation) noexcept {
  mutation.run_end_bytes = run_end(*mutation.request, mutation.run_bytes);
  if (closing_) {
    mutation.error = Error::ShuttingDown;
    return finish(mutation);
  }
  if (!lock_run(mutation)) return waiting_.push_back(mutation);
  const std::uint64_t first = mutation.run_bytes / kChunkBytes;
  const std::uint64_t last = (mutation.run_end_bytes - 1) / kChunkBytes;
  const bool head = !layers_.own(first) && !overwrites(mutation, first);
  const bool tail = last != first && !layers_.own(last) && !overwrites(mutation, last);
  mutation.copies_left = 1;
  if (head) copy_up(mutation, first);
  if (tail) copy_up(mutation, last);
  if (--mutation.copies_left == 0) send_run(mutation);
}

// Whether the run replaces the chunk by one mutation of the upper layer. It may not where the end
// of the volume cuts a block: that block is completed and written apart from the others.
bool LayeredImpl::overwrites(const LayeredMutation& mutation, std::uint64_t chunk) const noexcept {
  const std::uint64_t end = chunk_end(chunk);
  return mutation.run_bytes <= chunk * kChunkBytes && mutation.run_end_bytes >= end &&
         end % kBlockBytes == 0;
}

// Makes the run's chunks that show the base busy. False: some are, for somebody else.
bool LayeredImpl::lock_run(const LayeredMutation& mutation) noexcept {
  const std::uint64_t first = mutation.run_bytes / kChunkBytes;
  const std::uint64_t end = chunks_of(mutation.run_end_bytes);
  for (std::uint64_t chunk = first; chunk < end; ++chunk) {
    if (layers_.busy(chunk)) return false;
  }
  for (std::uint64_t chunk = first; chunk < end; ++chunk) {
    if (!layers_.own(chunk)) layers_.set_busy(chunk, true);
  }
  return true;
}

void LayeredImpl::prepare(ChunkCopyUp& copy, std::uint64_t chunk) const noexcept {
  copy.offset_bytes = chunk * kChunkBytes;
  copy.length_bytes = static_cast<std::uint32_t>(chunk_end(chunk) - copy.offset_bytes);
  copy.has_data = layers_.over_data(chunk);
}

void LayeredImpl::copy_up(LayeredMutation& mutation, std::uint64_t chunk) noexcept {
  ChunkCopyUp& copy = mutation.copies[mutation.copies_left++ - 1];
  prepare(copy, chunk);
  copy.owner = &mutation;
  copy.done = [](ChunkCopyUp& over, Error error) noexcept {
    auto& copied = *static_cast<LayeredMutation*>(over.owner);
    static_cast<LayeredImpl*>(copied.target)->copied_up(copied, over, error);
  };
  copier_.start(copy);
}

void LayeredImpl::copied_up(LayeredMutation& mutation, const ChunkCopyUp& copy,
                            Error error) noexcept {
  if (error == Error::Ok) {
    layers_.make_own(copy.offset_bytes / kChunkBytes);
  } else if (mutation.error == Error::Ok) {
    mutation.error = error;
  }
  if (--mutation.copies_left == 0) send_run(mutation);
}

void LayeredImpl::send_run(LayeredMutation& mutation) noexcept {
  if (mutation.error != Error::Ok) return run_over(mutation, mutation.error);
  const BlockRequest& whole = *mutation.request;
  BlockRequest& part = mutation.part;
  part.op = whole.op;
  part.fua = whole.fua;
  part.covers = false;
  for (std::uint64_t at = mutation.run_bytes / kChunkBytes; at < chunks_of(mutation.run_end_bytes);
       ++at) {
    part.covers = part.covers || layers_.over_data(at);
  }
  part.offset_bytes = mutation.run_bytes;
  part.length_bytes = static_cast<std::uint32_t>(mutation.run_end_bytes - mutation.run_bytes);
  part.data = whole.op == Op::write ? whole.data : nullptr;
  part.hold = whole.hold;
  part.owner = &mutation;
  part.done = [](BlockRequest& done) noexcept {
    auto& over = *static_cast<LayeredMutation*>(done.owner);
    done.hold.reset();
    static_cast<LayeredImpl*>(over.target)->run_over(over, done.error);
  };
  upper_.submit(part);
}

// What still shows the base of the run was overwritten as a whole, or has to stay as it is.
void LayeredImpl::run_over(LayeredMutation& mutation, Error error) noexcept {
  if (mutation.error == Error::Ok) mutation.error = error;
  const std::uint64_t end = chunks_of(mutation.run_end_bytes);
  for (std::uint64_t chunk = mutation.run_bytes / kChunkBytes; chunk < end; ++chunk) {
    if (layers_.own(chunk)) continue;
    if (mutation.error == Error::Ok) {
      layers_.make_own(chunk);
    } else {
      layers_.set_busy(chunk, false);
    }
  }
  settle_later();  // others may have waited for these chunks
  mutation.run_bytes = mutation.run_end_bytes;
  const std::uint64_t whole_end = mutation.request->offset_bytes + mutation.request->length_bytes;
  if (mutation.error != Error::Ok || mutation.run_bytes == whole_end) return finish(mutation);
  begin_run(mutation);
}

void LayeredImpl::finish(LayeredMutation& mutation) noexcept {
  BLOCKD_ASSERT(!mutation.link.linked);
  BlockRequest& request = *mutation.request;
  const Error error = mutation.error;
  --turns_[mutation.turn];
  mutations_.put(mutation);
  settle_later();
  answer(request, error);
}

// --- shrinking -----------------------------------------------------------------------------------

void LayeredImpl::shrink(std::uint64_t size_bytes, const Drain& drain_upper,
                         std::function<void(Error)> done) {
  BLOCKD_ASSERT(state_ == State::open && !rules_.read_only);
  if (shrink_.done) return done(Error::Busy);
  if (closing_) return done(Error::ShuttingDown);
  if (size_bytes == 0 || size_bytes >= size_bytes_ || size_bytes % 512 != 0)
    return done(Error::InvalidArgument);
  BLOCKD_ASSERT(turns_[turn_ ^ 1] == 0);
  turn_ ^= 1;
  limit_bytes_ = size_bytes;
  shrink_ = {std::move(done), drain_upper, Shrink::Step::own};
  settle_later();
}

// First its own mutations end, then what was handed on to the upper layer: no other request is
// under way behind the new end when that is cleared.
void LayeredImpl::advance_shrink() noexcept {
  if (!shrink_.done || shrink_.step != Shrink::Step::own) return;
  if (closing_) return end_shrink(Error::ShuttingDown);
  if (turns_[turn_ ^ 1] != 0) return;
  shrink_.step = Shrink::Step::upper;
  shrink_.drain_upper([this](Error error) {
    if (error == Error::Ok && closing_) error = Error::ShuttingDown;
    if (error != Error::Ok) return end_shrink(error);
    shrink_.step = Shrink::Step::clearing;
    tail_.start(limit_bytes_, size_bytes_, [this](Error cleared) { end_shrink(cleared); });
  });
}

void LayeredImpl::end_shrink(Error error) noexcept {
  if (error == Error::Ok) {
    size_bytes_ = limit_bytes_;
    layers_.resize(chunks_of(size_bytes_));
  } else {
    limit_bytes_ = size_bytes_;
  }
  settle_later();
  std::exchange(shrink_.done, nullptr)(error);
}

// --- flattening ----------------------------------------------------------------------------------

void LayeredImpl::flatten(std::uint64_t bytes_per_second, std::function<void(Error)> done) {
  BLOCKD_ASSERT(!rules_.read_only && bytes_per_second > 0);
  if (flatten_.done.empty()) {
    flatten_.cursor = 0;
    flatten_.next_us = loop_.now_us();
    flatten_.error = Error::Ok;
  }
  flatten_.bytes_per_second = bytes_per_second;
  flatten_.done.push_back(std::move(done));
  settle_later();
}

// Starts copies as far as rate and places allow; ends it all when there is nothing left.
void LayeredImpl::pump_flatten() noexcept {
  if (flatten_.done.empty() || flatten_.flushing) return;
  if (closing_ && flatten_.error == Error::Ok) flatten_.error = Error::ShuttingDown;
  if (state_ == State::failed && flatten_.error == Error::Ok) flatten_.error = open_error_;
  if (flatten_.error != Error::Ok) {
    if (flatten_.copying == 0) end_flatten(flatten_.error);
    return;
  }
  if (state_ != State::open) return;
  if (layers_.base_count() == 0 && flatten_.copying == 0) return flush_flattened();
  for (ChunkCopyUp& copy : flatten_.copies) {
    if (flatten_.error != Error::Ok || (copy.owner == nullptr && !flatten_next(copy))) return;
  }
}

// False: not now. settle() or the timer comes back to it.
bool LayeredImpl::flatten_next(ChunkCopyUp& copy) noexcept {
  if (loop_.now_us() < flatten_.next_us) {
    loop_.arm(flatten_timer_, flatten_.next_us);
    return false;
  }
  std::uint64_t chunk = layers_.next_of_base(flatten_.cursor);
  if (chunk == layers_.chunk_count()) chunk = layers_.next_of_base(0);
  if (chunk == layers_.chunk_count()) return false;  // all that are left are busy
  flatten_.cursor = chunk + 1;
  prepare(copy, chunk);
  const std::uint64_t cost_bytes = copy.has_data ? kChunkBytes : kBlockBytes;
  flatten_.next_us = std::max(flatten_.next_us + kFlattenBurstUs, loop_.now_us()) -
                     kFlattenBurstUs + cost_bytes * 1'000'000 / flatten_.bytes_per_second;
  layers_.set_busy(chunk, true);
  ++flatten_.copying;
  copy.owner = this;
  copier_.start(copy);
  return true;
}

void LayeredImpl::flatten_copied(const ChunkCopyUp& copy, Error error) noexcept {
  --flatten_.copying;
  const std::uint64_t chunk = copy.offset_bytes / kChunkBytes;
  if (error == Error::Ok) {
    layers_.make_own(chunk);
  } else {
    layers_.set_busy(chunk, false);
    if (flatten_.error == Error::Ok) flatten_.error = error;
  }
  settle_later();
}

void LayeredImpl::flush_flattened() noexcept {
  flatten_.flushing = true;
  flatten_.flush.op = Op::flush;
  flatten_.flush.owner = this;
  flatten_.flush.done = [](BlockRequest& done) noexcept {
    auto& self = *static_cast<LayeredImpl*>(done.owner);
    self.flatten_.flushing = false;
    self.flatten_.error = done.error;
    self.end_flatten(done.error);
  };
  upper_.submit(flatten_.flush);
}

void LayeredImpl::end_flatten(Error error) noexcept {
  loop_.cancel(flatten_timer_);
  settle_later();
  for (const auto& done : std::exchange(flatten_.done, {})) done(error);
}

}  // namespace

std::unique_ptr<Layered> Layered::create(io::Loop& loop, Buffers& buffers, BlockBackend& upper,
                                         BlockBackend& base, BaseRules rules) {
  return std::make_unique<LayeredImpl>(loop, buffers, upper, base, rules);
}

}  // namespace blockd::engine
