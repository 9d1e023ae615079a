// The volume of volume.h: cuts requests into pieces for its segments, keeps leases, reports
// upwards.
#include "engine/volume.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <deque>

#include "base/assert.h"
#include "base/crc32c.h"
#include "engine/engine.h"
#include "engine/segment.h"
#include "engine/tail_clear.h"

namespace blockd::engine {

namespace {

using peer::ReplicaOp;

class VolumeImpl final : public Volume, private Engine {
 public:
  VolumeImpl(io::Loop& loop_in, Buffers& buffers_in, peer::PeerHub& hub_in, ResyncPace& pace_in,
             VolumeEvents& events, VolumeConfig config);
  ~VolumeImpl() override;

  void start() noexcept override;
  void in_sync_changed(const SegmentConfig& segment) noexcept override;
  void in_sync_change_failed(std::uint32_t segment, Error error) noexcept override;
  void grow(std::uint64_t size_bytes, std::vector<SegmentConfig> new_segments,
            std::function<void(Error)> done) override;
  void drain(std::function<void(Error)> done) override;
  void shrink(std::uint64_t size_bytes, bool clear, std::function<void(Error)> done) override;
  void repair_chunk(std::uint32_t segment, std::uint32_t chunk, Era born, const Uuid& host_id,
                    std::function<void(Error)> done) override;
  void begin_era(Era next_era, std::function<void(Error)> done) override;
  void hold_mutations(std::uint64_t for_us) noexcept override;
  void close(std::function<void(Error)> done) override;
  [[nodiscard]] VolumeState state() const noexcept override { return state_; }
  [[nodiscard]] const VolumeConfig& config() const noexcept override { return config_; }
  [[nodiscard]] const VolumeStats& stats() const noexcept override { return Engine::stats; }
  [[nodiscard]] std::vector<SegmentStatus> status() const override;
  [[nodiscard]] std::uint64_t size_bytes() const noexcept override { return limit_bytes_; }
  void submit(BlockRequest& request) noexcept override;

 private:
  enum class Closing : std::uint8_t { no, draining, flushing, releasing, leaving };

  // Engine
  void poke(Segment& segment) noexcept override;
  void piece_done(Parent& parent, Error error) noexcept override;
  void fence() noexcept override;
  MemberHost& host(const Uuid& host_id) override;
  void learn_era(Era met) noexcept override {
    Engine::era = config_.era = std::max(Engine::era, met);
  }
  void want_in_sync(std::uint32_t segment, std::uint64_t generation, std::vector<Uuid> in_sync,
                    const char* reason) override;
  void notice(std::uint32_t segment, const Uuid& host_id, const char* kind,
              std::uint64_t value) override;
  void preserve(Preserve& content) noexcept override { events_.preserve(Engine::id, content); }
  void join_over() noexcept override;
  void room() noexcept override;

  [[nodiscard]] Error check(const BlockRequest& request) const noexcept;
  void admit(BlockRequest& request) noexcept;
  [[nodiscard]] BlockRequest* next_unadmitted() noexcept;
  [[nodiscard]] bool cut_flush(Parent& parent) noexcept;
  [[nodiscard]] bool cut(Parent& parent) noexcept;
  void advance(Parent& parent) noexcept;
  [[nodiscard]] bool cut_read(Parent& parent, Segment& segment, std::uint64_t inside,
                              std::uint64_t end) noexcept;
  [[nodiscard]] bool cut_mutation(Parent& parent, Segment& segment, std::uint64_t inside,
                                  std::uint64_t end) noexcept;
  void finish(Parent& parent) noexcept;
  void count(const BlockRequest& request, Error error, const ResyncPace::Mark& mark) noexcept;
  void run() noexcept;
  void answer_ended() noexcept;
  void tick() noexcept;
  void beat(MemberHost& member_host) noexcept;
  static void beat_done(ReplicaOp& op) noexcept;
  void update_full() noexcept;
  void add_segment(const SegmentConfig& segment);
  [[nodiscard]] std::size_t segments_in_use() const noexcept;
  void update_state() noexcept;
  void emit(std::function<void()> event);
  void emit_all() noexcept;
  void advance_closing() noexcept;
  void close_flushed() noexcept;
  [[nodiscard]] bool await_earlier(std::function<void(Error)> done);
  void settle_drain() noexcept;
  void limited(Error error, bool clear) noexcept;
  void end_shrink(Error error) noexcept;
  [[nodiscard]] Error ended() const noexcept;
  void settle_eras() noexcept;
  void fail_eras(Error error) noexcept;
  void go_on() noexcept;
  void release_leases() noexcept;
  void release(MemberHost& member_host) noexcept;
  static void release_done(ReplicaOp& op) noexcept;
  void schedule() noexcept { Engine::loop.defer(run_task_); }

  VolumeEvents& events_;
  VolumeConfig config_;
  std::vector<std::unique_ptr<Segment>> segments_;
  std::vector<std::unique_ptr<MemberHost>> hosts_;
  Pool<Parent> parents_{kParentsMax};
  peer::List<Parent> starved_;               // cut in part: a pool was empty
  peer::List<Parent> ended_;                 // to be answered from the loop
  BlockRequest* unadmitted_head_ = nullptr;  // no Parent was left
  BlockRequest* unadmitted_tail_ = nullptr;
  std::vector<Segment*> poked_;
  std::vector<Segment*> running_;
  std::deque<std::function<void()>> event_queue_;
  io::Task run_task_;
  io::Task event_task_;
  io::Timer timer_;
  VolumeState state_ = VolumeState::opening;
  std::uint64_t started_us_ = 0;
  bool started_ = false;
  bool ever_served_ = false;
  bool room_made_ = false;
  bool recheck_ = false;
  Closing closing_ = Closing::no;
  std::uint64_t closing_since_us_ = 0;
  std::function<void(Error)> closed_;
  Error close_error_ = Error::Ok;
  BlockRequest close_flush_;
  bool close_flush_done_ = false;
  struct EraWait {
    Era era = 0;
    std::function<void(Error)> done;
  };
  std::vector<EraWait> era_waits_;
  io::Timer hold_timer_;
  std::uint64_t grow_to_bytes_ = 0;
  std::function<void(Error)> grown_;
  std::uint64_t limit_bytes_;             // where requests end: before the size while it shrinks
  std::array<std::uint32_t, 2> turns_{};  // requests that are not answered, by turn
  std::uint8_t turn_ = 0;                 // of those that come now
  std::function<void(Error)> drained_;    // waits for those of the other turn
  std::function<void(Error)> shrunk_;
  TailClear tail_;
};

std::size_t segments_of(std::uint64_t volume_bytes) noexcept {
  return static_cast<std::size_t>((volume_bytes + kSegmentBytes - 1) / kSegmentBytes);
}

VolumeImpl::VolumeImpl(io::Loop& loop_in, Buffers& buffers_in, peer::PeerHub& hub_in,
                       ResyncPace& pace_in, VolumeEvents& events, VolumeConfig config)
    : Engine(loop_in, buffers_in, hub_in, pace_in),
      events_(events),
      config_(std::move(config)),
      limit_bytes_(config_.size_bytes),
      tail_([this](BlockRequest& request) { submit(request); }) {
  Engine::id = config_.id;
  Engine::epoch = config_.epoch;
  Engine::min_in_sync = std::max(1u, config_.min_in_sync);
  if (config_.io_timeout_us != 0) Engine::io_timeout_us = config_.io_timeout_us;
  Engine::era = config_.era = std::max(1u, config_.era);
  run_task_.owner = event_task_.owner = timer_.owner = hold_timer_.owner = this;
  run_task_.run = [](io::Task& task) noexcept { static_cast<VolumeImpl*>(task.owner)->run(); };
  event_task_.run = [](io::Task& task) noexcept {
    static_cast<VolumeImpl*>(task.owner)->emit_all();
  };
  timer_.fire = [](io::Timer& timer) noexcept { static_cast<VolumeImpl*>(timer.owner)->tick(); };
  hold_timer_.fire = [](io::Timer& timer) noexcept {
    static_cast<VolumeImpl*>(timer.owner)->go_on();
  };
  for (const SegmentConfig& segment : config_.segments) add_segment(segment);
}

VolumeImpl::~VolumeImpl() {
  Engine::loop.cancel(timer_);
  Engine::loop.cancel(hold_timer_);
  for (auto& member_host : hosts_) member_host->channel->unwatch(member_host->watcher);
}

void VolumeImpl::add_segment(const SegmentConfig& segment) {
  BLOCKD_ASSERT(segment.index == segments_.size());
  Engine& self = *this;
  segments_.push_back(std::make_unique<Segment>(self, segment));
  poked_.reserve(segments_.size());
  running_.reserve(segments_.size());
}

void VolumeImpl::start() noexcept {
  BLOCKD_ASSERT(!started_);
  started_ = true;
  started_us_ = Engine::loop.now_us();
  for (auto& segment : segments_) poke(*segment);
  tick();
}

// --- requests ------------------------------------------------------------------------------------

Error VolumeImpl::check(const BlockRequest& request) const noexcept {
  if (const Error error = ended(); error != Error::Ok) return error;
  if (request.op == BlockRequest::Op::flush) return Error::Ok;
  if (request.op == BlockRequest::Op::write && Engine::full) return Error::NoSpace;
  const bool read = request.op == BlockRequest::Op::read;
  const bool payload = read || request.op == BlockRequest::Op::write;
  if (payload && request.length_bytes > kMutationBytesMax) return Error::RequestTooLarge;
  if (payload && request.data == nullptr) return Error::InvalidArgument;
  if (request.length_bytes == 0) return Error::InvalidArgument;
  if (read &&
      (request.offset_bytes % kBlockBytes != 0 || request.length_bytes % kBlockBytes != 0)) {
    return Error::InvalidArgument;
  }
  const std::uint64_t end = tail_.owns(request) ? config_.size_bytes : limit_bytes_;
  const std::uint64_t limit = read ? (end + kBlockBytes - 1) / kBlockBytes * kBlockBytes : end;
  const bool inside =
      request.offset_bytes <= limit && request.length_bytes <= limit - request.offset_bytes;
  return inside ? Error::Ok : Error::ExtentOutOfRange;
}

void VolumeImpl::submit(BlockRequest& request) noexcept {
  request.error = check(request);
  if (request.error != Error::Ok) {
    ++Engine::stats.errors;
    return request.done(request);
  }
  request.next = nullptr;
  request.turn = turn_;
  ++turns_[turn_];
  if (unadmitted_head_ == nullptr && parents_.used() < kParentsMax) return admit(request);
  (unadmitted_head_ ? unadmitted_tail_->next : unadmitted_head_) = &request;
  unadmitted_tail_ = &request;
}

BlockRequest* VolumeImpl::next_unadmitted() noexcept {
  BlockRequest* request = unadmitted_head_;
  if (request) unadmitted_head_ = request->next;
  return request;
}

void VolumeImpl::admit(BlockRequest& request) noexcept {
  Parent* parent = parents_.get();
  BLOCKD_ASSERT(parent != nullptr);
  parent->request = &request;
  parent->error = Error::Ok;
  parent->cursor_bytes = request.offset_bytes;
  parent->end_bytes = request.offset_bytes + request.length_bytes;
  parent->pieces = 1;
  parent->mark = pace.client_began();
  if (request.op == BlockRequest::Op::flush) {
    parent->cursor_bytes = 0;
    parent->end_bytes = segments_.size();
  }
  advance(*parent);
}

// Cuts pieces until the request is cut whole, or a pool is empty (room() comes back to it).
void VolumeImpl::advance(Parent& parent) noexcept {
  while (parent.cursor_bytes < parent.end_bytes && parent.error == Error::Ok) {
    if (!cut(parent)) {
      starved_.push_back(parent);
      return;
    }
  }
  if (--parent.pieces == 0) finish(parent);
}

bool VolumeImpl::cut(Parent& parent) noexcept {
  if (parent.request->op == BlockRequest::Op::flush) return cut_flush(parent);
  const std::uint64_t index = parent.cursor_bytes / kSegmentBytes;
  const std::uint64_t begin = index * kSegmentBytes;
  Segment& segment = *segments_[index];
  const std::uint64_t inside = parent.cursor_bytes - begin;
  const std::uint64_t end = std::min(parent.end_bytes - begin, kSegmentBytes);
  if (parent.request->op == BlockRequest::Op::read) return cut_read(parent, segment, inside, end);
  return cut_mutation(parent, segment, inside, end);
}

// A flush counts segments, not bytes; those without an acknowledged mutation since their last are
// skipped.
bool VolumeImpl::cut_flush(Parent& parent) noexcept {
  Segment& segment = *segments_[parent.cursor_bytes];
  if (segment.dirty()) {
    Flush* flush = Engine::flushes.get();
    if (flush == nullptr) return false;
    ++parent.pieces;
    flush->parent = &parent;
    flush->background = false;
    segment.submit(*flush);
  }
  ++parent.cursor_bytes;
  return true;
}

bool VolumeImpl::cut_read(Parent& parent, Segment& segment, std::uint64_t inside,
                          std::uint64_t end) noexcept {
  Read* read = Engine::reads.get();
  if (read == nullptr) return false;
  const BlockRequest& request = *parent.request;
  read->parent = &parent;
  read->for_mutation = nullptr;
  read->first_block = static_cast<std::uint32_t>(inside / kBlockBytes);
  read->block_count = static_cast<std::uint32_t>((end - inside) / kBlockBytes);
  read->data = request.data + (parent.cursor_bytes - request.offset_bytes);
  parent.cursor_bytes += end - inside;
  ++parent.pieces;
  segment.submit(*read);
  return true;
}

// A write: at most kBlocksMax blocks, rounded outwards. Zeros: a run of whole blocks, or the part
// of one.
bool VolumeImpl::cut_mutation(Parent& parent, Segment& segment, std::uint64_t inside,
                              std::uint64_t end) noexcept {
  Mutation* mutation = Engine::mutations.get();
  if (mutation == nullptr) return false;
  const BlockRequest& request = *parent.request;
  const bool write = request.op == BlockRequest::Op::write;
  const std::uint64_t first_byte = inside / kBlockBytes * kBlockBytes;
  std::uint64_t stop = end;
  if (write) {
    stop = std::min(end, first_byte + kMutationBytesMax);
  } else if (inside % kBlockBytes != 0 || end - inside < kBlockBytes) {
    stop = std::min(end, first_byte + kBlockBytes);
  } else {
    stop = end / kBlockBytes * kBlockBytes;
  }
  const std::uint64_t round_up = (stop + kBlockBytes - 1) / kBlockBytes * kBlockBytes;
  const bool aligned = inside % kBlockBytes == 0 && stop % kBlockBytes == 0;
  mutation->parent = &parent;
  mutation->first_block = static_cast<std::uint32_t>(first_byte / kBlockBytes);
  mutation->block_count = static_cast<std::uint32_t>((round_up - first_byte) / kBlockBytes);
  mutation->fua = request.fua;
  mutation->covers = request.covers;
  mutation->zero = !write && aligned;
  mutation->data = nullptr;
  mutation->lock.copy = false;
  std::byte* payload =
      write ? request.data + (parent.cursor_bytes - request.offset_bytes) : nullptr;
  if (mutation->zero) {
    mutation->stage = Mutation::Stage::admit;
  } else if (aligned && request.hold) {
    mutation->stage = Mutation::Stage::admit;
    mutation->data = payload;
    mutation->hold = request.hold;
    crc32c_blocks(payload, std::span(mutation->crcs).first(mutation->block_count));
  } else {
    mutation->stage = Mutation::Stage::prepare;
    mutation->source = payload;
    mutation->source_hold = request.hold;
    mutation->skip_bytes = static_cast<std::uint32_t>(inside - first_byte);
    mutation->length_bytes = static_cast<std::uint32_t>(stop - inside);
  }
  parent.cursor_bytes += stop - inside;
  ++parent.pieces;
  segment.submit(*mutation);
  return true;
}

void VolumeImpl::piece_done(Parent& parent, Error error) noexcept {
  if (error != Error::Ok && parent.error == Error::Ok) parent.error = error;
  BLOCKD_ASSERT(parent.pieces > 0);
  if (--parent.pieces == 0) finish(parent);
}

void VolumeImpl::finish(Parent& parent) noexcept {
  BLOCKD_ASSERT(!parent.link.linked);
  BlockRequest& request = *parent.request;
  request.error = parent.error;
  count(request, parent.error, parent.mark);
  // A flush with nothing to do, or a refusal, is decided inside submit(): answered from the loop.
  ended_.push_back(parent);
  schedule();
}

void VolumeImpl::count(const BlockRequest& request, Error error,
                       const ResyncPace::Mark& mark) noexcept {
  VolumeStats& s = Engine::stats;
  if (error != Error::Ok) {
    ++s.errors;
    return;
  }
  switch (request.op) {
    case BlockRequest::Op::read:
      ++s.reads;
      s.read_bytes += request.length_bytes;
      pace.client_answered(mark, ResyncPace::Kind::read);
      break;
    case BlockRequest::Op::write:
      ++s.writes;
      s.write_bytes += request.length_bytes;
      pace.client_answered(mark, ResyncPace::Kind::write);
      break;
    case BlockRequest::Op::flush:
      ++s.flushes;
      break;
    default:
      ++s.trims;
  }
}

void VolumeImpl::room() noexcept {
  if (room_made_ || (starved_.empty() && unadmitted_head_ == nullptr)) return;
  room_made_ = true;
  schedule();
}

void VolumeImpl::join_over() noexcept {
  for (auto& segment : segments_) {
    if (segment->awaits_join) poke(*segment);
  }
}

// --- the end of each iteration
// -----------------------------------------------------------------------

void VolumeImpl::poke(Segment& segment) noexcept {
  if (segment.poked) return;
  segment.poked = true;
  poked_.push_back(&segment);
  schedule();
}

void VolumeImpl::run() noexcept {
  running_.swap(poked_);
  for (Segment* segment : running_) {
    segment->poked = false;
    segment->run();
  }
  if (recheck_ || state_ != VolumeState::serving) update_state();  // a stall is noticed by tick()
  running_.clear();
  recheck_ = false;
  if (Engine::era_awaited) settle_eras();
  answer_ended();
  settle_drain();
  room_made_ = false;
  for (std::size_t waiting = starved_.size(); waiting > 0 && !starved_.empty(); --waiting) {
    advance(*starved_.pop_front());
  }
  while (unadmitted_head_ && parents_.used() < kParentsMax) admit(*next_unadmitted());
  if (closing_ != Closing::no) advance_closing();
}

void VolumeImpl::answer_ended() noexcept {
  for (std::size_t count_now = ended_.size(); count_now > 0; --count_now) {
    Parent& parent = *ended_.pop_front();
    BlockRequest& request = *parent.request;
    parents_.put(parent);
    --turns_[request.turn];
    request.done(request);
  }
}

void VolumeImpl::tick() noexcept {
  for (auto& member_host : hosts_) beat(*member_host);
  for (auto& segment : segments_) segment->tick();
  update_state();
  if (Engine::era_awaited) settle_eras();
  if (closing_ != Closing::no) advance_closing();
  if (closing_ != Closing::leaving || closed_)
    Engine::loop.arm(timer_, Engine::loop.now_us() + hub.config().heartbeat_us);
}

void VolumeImpl::update_state() noexcept {
  VolumeState worst = VolumeState::serving;
  for (std::size_t i = 0; i < segments_in_use(); ++i) {
    const VolumeState one = segments_[i]->state();
    if (one == VolumeState::fenced) worst = one;
    if (one == VolumeState::opening && worst != VolumeState::fenced) worst = one;
    if (one == VolumeState::stalled && worst == VolumeState::serving) worst = one;
  }
  if (worst == VolumeState::serving && grown_ && config_.size_bytes < grow_to_bytes_) {
    config_.size_bytes = limit_bytes_ = grow_to_bytes_;
    emit([done = std::exchange(grown_, nullptr)] { done(Error::Ok); });
  }
  if (closing_ != Closing::no)
    worst = closing_ == Closing::leaving ? VolumeState::closed : VolumeState::closing;
  if (worst == VolumeState::serving && !ever_served_) {
    ever_served_ = true;
    Engine::stats.open_duration_us = Engine::loop.now_us() - started_us_;
  }
  if (worst == state_) return;
  state_ = worst;
  const Error error = worst == VolumeState::fenced ? Error::EpochFenced : Error::Ok;
  emit([this, worst, error] { events_.state_changed(Engine::id, worst, error); });
}

std::vector<SegmentStatus> VolumeImpl::status() const {
  std::vector<SegmentStatus> all;
  const std::size_t count = segments_in_use();
  all.reserve(count);
  for (std::size_t i = 0; i < count; ++i) all.push_back(segments_[i]->status());
  return all;
}

// --- leases
// ----------------------------------------------------------------------------------------

MemberHost& VolumeImpl::host(const Uuid& host_id) {
  for (auto& known : hosts_) {
    if (known->id == host_id) return *known;
  }
  hosts_.push_back(std::make_unique<MemberHost>());
  MemberHost& member_host = *hosts_.back();
  member_host.id = host_id;
  member_host.channel = &hub.channel(host_id);
  member_host.beat.owner = this;
  member_host.beat.tag = static_cast<std::uint32_t>(hosts_.size() - 1);
  member_host.watcher.owner = this;
  member_host.watcher.changed = [](peer::ChannelWatcher& watcher, bool up) noexcept {
    auto& self = *static_cast<VolumeImpl*>(watcher.owner);
    for (auto& candidate : self.hosts_) {
      if (&candidate->watcher != &watcher) continue;
      candidate->lease_until_us = 0;
      for (auto& segment : self.segments_)
        up ? segment->host_back(*candidate) : segment->host_lost(*candidate);
      if (up) self.beat(*candidate);
    }
  };
  member_host.channel->watch(member_host.watcher);
  return member_host;
}

void VolumeImpl::beat(MemberHost& member_host) noexcept {
  if (member_host.beat_under_way || !started_ || Engine::fenced || closing_ >= Closing::releasing)
    return;
  if (!member_host.channel->connected()) return;
  ReplicaOp& op = member_host.beat;
  op.kind = ReplicaOp::Kind::heartbeat;
  op.segment = {Engine::id, 0};
  op.version = {Engine::epoch, 0};
  op.done = beat_done;
  member_host.beat_under_way = true;
  member_host.beat_sent_us = Engine::loop.now_us();
  Engine::submit(member_host, op);
}

void VolumeImpl::beat_done(ReplicaOp& op) noexcept {
  auto& self = *static_cast<VolumeImpl*>(op.owner);
  MemberHost& member_host = *self.hosts_[op.tag];
  self.op_back();
  member_host.beat_under_way = false;
  if (self.closing_ != Closing::no) self.schedule();
  if (self.closing_ == Closing::releasing && !self.fenced) return self.release(member_host);
  if (op.error == Error::EpochFenced) return self.fence();
  if (op.error != Error::Ok) return;
  // From when it was sent: the member counts from later, on its own clock.
  const std::uint64_t until = member_host.beat_sent_us + op.lease_us * kLeaseUsePercent / 100;
  member_host.lease_until_us = std::max(member_host.lease_until_us, until);
  if (member_host.full != op.full)
    self.notice(0, member_host.id, op.full ? "store-full" : "store-has-space", 0);
  member_host.full = op.full;
  self.update_full();
  for (auto& segment : self.segments_) segment->lease_renewed();
  self.recheck_ = true;
  self.schedule();
}

// While any member's store is nearly full, writes are refused before they have a version; reads and
// trims go on. A store that refused a mutation would have to leave the in-sync set instead.
void VolumeImpl::update_full() noexcept {
  Engine::full = std::any_of(hosts_.begin(), hosts_.end(), [](const auto& member_host) {
    return member_host->full && member_host->channel->connected();
  });
}

// A newer attachment exists. Terminal.
void VolumeImpl::fence() noexcept {
  if (Engine::fenced) return;
  Engine::fenced = true;
  for (auto& segment : segments_) {
    segment->fail_requests(Error::EpochFenced);
    segment->tell_preserved();
    segment->leave_pace();
  }
  while (Parent* parent = starved_.pop_front()) {
    parent->error = Error::EpochFenced;
    if (--parent->pieces == 0) finish(*parent);
  }
  fail_eras(Error::EpochFenced);
  recheck_ = true;
  schedule();
}

// --- upwards
// ---------------------------------------------------------------------------------------

void VolumeImpl::emit(std::function<void()> event) {
  event_queue_.push_back(std::move(event));
  Engine::loop.defer(event_task_);
}

void VolumeImpl::emit_all() noexcept {
  for (std::size_t count_now = event_queue_.size(); count_now > 0; --count_now) {
    const std::function<void()> event = std::move(event_queue_.front());
    event_queue_.pop_front();
    event();
  }
  if (!event_queue_.empty()) Engine::loop.defer(event_task_);
}

void VolumeImpl::want_in_sync(std::uint32_t segment, std::uint64_t generation,
                              std::vector<Uuid> in_sync, const char* reason) {
  emit([this, segment, generation, in_sync = std::move(in_sync), reason] {
    events_.in_sync_change_wanted(Engine::id, segment, generation, in_sync, reason);
  });
}

void VolumeImpl::notice(std::uint32_t segment, const Uuid& host_id, const char* kind,
                        std::uint64_t value) {
  emit([this, segment, host_id, kind, value] {
    events_.notice(Engine::id, segment, host_id, kind, value);
  });
}

void VolumeImpl::in_sync_changed(const SegmentConfig& segment) noexcept {
  if (segment.index >= segments_.size()) return;
  segments_[segment.index]->configure(segment);
  config_.segments[segment.index] = segments_[segment.index]->config();
}

void VolumeImpl::in_sync_change_failed(std::uint32_t segment, Error) noexcept {
  if (segment < segments_.size()) segments_[segment]->ask_failed();
}

void VolumeImpl::grow(std::uint64_t size_bytes, std::vector<SegmentConfig> new_segments,
                      std::function<void(Error)> done) {
  const bool busy = grown_ || shrunk_ || closing_ != Closing::no;
  const std::size_t count = std::max(segments_.size(), segments_of(size_bytes));
  const bool complete = segments_.size() + new_segments.size() == count;
  if (busy || size_bytes < config_.size_bytes || !complete) {
    const Error error = busy ? Error::Busy : Error::InvalidArgument;
    return emit([done = std::move(done), error] { done(error); });
  }
  for (SegmentConfig& segment : new_segments) {
    add_segment(segment);
    config_.segments.push_back(std::move(segment));
    if (started_) poke(*segments_.back());
  }
  if (size_bytes == config_.size_bytes) return emit([done = std::move(done)] { done(Error::Ok); });
  grow_to_bytes_ = size_bytes;
  grown_ = std::move(done);
  recheck_ = true;
  schedule();
}

// --- shrinking
// ---------------------------------------------------------------------------------------

// Why nothing new can begin; Ok: it can.
Error VolumeImpl::ended() const noexcept {
  if (Engine::fenced) return Error::EpochFenced;
  return closing_ == Closing::no ? Error::Ok : Error::ShuttingDown;
}

// Of a volume that grows: the segments that it waits for, too.
std::size_t VolumeImpl::segments_in_use() const noexcept {
  return segments_of(grown_ ? grow_to_bytes_ : config_.size_bytes);
}

void VolumeImpl::drain(std::function<void(Error)> done) {
  auto told = [this, done = std::move(done)](Error error) { emit([done, error] { done(error); }); };
  if (ended() != Error::Ok) return told(ended());
  if (!await_earlier(told)) told(Error::Busy);
}

// Until every request that is under way now has been answered, or nothing is served any more.
bool VolumeImpl::await_earlier(std::function<void(Error)> done) {
  if (drained_) return false;
  BLOCKD_ASSERT(turns_[turn_ ^ 1] == 0);
  turn_ ^= 1;
  drained_ = std::move(done);
  schedule();
  return true;
}

void VolumeImpl::settle_drain() noexcept {
  if (!drained_) return;
  const Error error = ended();
  if (error == Error::Ok && turns_[turn_ ^ 1] != 0) return;
  std::exchange(drained_, nullptr)(error);
}

void VolumeImpl::shrink(std::uint64_t size_bytes, bool clear, std::function<void(Error)> done) {
  const bool busy = grown_ || shrunk_ || drained_;
  const bool valid = size_bytes > 0 && size_bytes < config_.size_bytes && size_bytes % 512 == 0;
  Error error = valid ? Error::Ok : Error::InvalidArgument;
  if (busy) error = Error::Busy;
  if (ended() != Error::Ok) error = ended();
  if (error != Error::Ok) return emit([done = std::move(done), error] { done(error); });
  shrunk_ = std::move(done);
  limit_bytes_ = size_bytes;
  (void)await_earlier([this, clear](Error drained) { limited(drained, clear); });
}

// Nothing is under way behind the new end, and nothing will be.
void VolumeImpl::limited(Error error, bool clear) noexcept {
  if (error != Error::Ok || !clear) return end_shrink(error);
  tail_.start(limit_bytes_, config_.size_bytes, [this](Error cleared) { end_shrink(cleared); });
}

void VolumeImpl::end_shrink(Error error) noexcept {
  if (error == Error::Ok) {
    config_.size_bytes = limit_bytes_;
  } else {
    limit_bytes_ = config_.size_bytes;
  }
  recheck_ = true;
  schedule();
  emit([done = std::exchange(shrunk_, nullptr), error] { done(error); });
}

void VolumeImpl::repair_chunk(std::uint32_t segment, std::uint32_t chunk, Era born,
                              const Uuid& host_id, std::function<void(Error)> done) {
  auto told = [this, done = std::move(done)](Error error) { emit([done, error] { done(error); }); };
  if (segment >= segments_.size()) return told(Error::NotFound);
  if (state_ == VolumeState::fenced) return told(Error::EpochFenced);
  segments_[segment]->repair_chunk(chunk, born, host_id, std::move(told));
}

// --- eras
// ---------------------------------------------------------------------------------------

void VolumeImpl::begin_era(Era next_era, std::function<void(Error)> done) {
  if (const Error error = ended(); error != Error::Ok) {
    return emit([done = std::move(done), error] { done(error); });
  }
  Engine::era = config_.era = std::max(Engine::era, next_era);
  era_waits_.push_back({next_era, std::move(done)});
  Engine::era_awaited = true;
  schedule();
}

void VolumeImpl::settle_eras() noexcept {
  std::erase_if(era_waits_, [this](EraWait& wait) {
    const bool settled = std::ranges::all_of(
        segments_, [&](const auto& segment) { return segment->settled_before(wait.era); });
    if (settled) emit([done = std::move(wait.done)] { done(Error::Ok); });
    return settled;
  });
  Engine::era_awaited = !era_waits_.empty();
}

void VolumeImpl::fail_eras(Error error) noexcept {
  for (EraWait& wait : std::exchange(era_waits_, {}))
    emit([done = std::move(wait.done), error] { done(error); });
  Engine::era_awaited = false;
}

void VolumeImpl::hold_mutations(std::uint64_t for_us) noexcept {
  if (for_us == 0) return go_on();
  Engine::hold_until_us = Engine::loop.now_us() + for_us;
  Engine::loop.arm(hold_timer_, Engine::hold_until_us);
}

void VolumeImpl::go_on() noexcept {
  Engine::loop.cancel(hold_timer_);
  Engine::hold_until_us = 0;
  for (auto& segment : segments_) {
    if (segment->waiting()) poke(*segment);
  }
}

// --- closing
// ---------------------------------------------------------------------------------------

void VolumeImpl::close(std::function<void(Error)> done) {
  BLOCKD_ASSERT(closing_ == Closing::no);
  closing_ = Closing::draining;
  closing_since_us_ = Engine::loop.now_us();
  go_on();
  closed_ = std::move(done);
  schedule();
}

// Drain the clients' requests, flush, make everything stable, give the leases back, take leave.
void VolumeImpl::advance_closing() noexcept {
  const std::uint64_t now = Engine::loop.now_us();
  const bool late = now > closing_since_us_ + kCloseTimeoutUs;
  if (closing_ == Closing::draining) {
    while (BlockRequest* request = next_unadmitted()) {
      request->error = Error::ShuttingDown;
      --turns_[request->turn];
      request->done(*request);
    }
    if (late) {
      close_error_ = Error::QuorumLost;
      for (auto& segment : segments_) segment->fail_requests(Error::ShuttingDown);
    }
    if (parents_.used() != 0) return;
    closing_ = Closing::flushing;
    Parent& parent = *parents_.get();
    close_flush_.op = BlockRequest::Op::flush;
    close_flush_.owner = this;
    close_flush_.turn = turn_;
    ++turns_[turn_];
    close_flush_.done = [](BlockRequest& request) noexcept {
      auto& self = *static_cast<VolumeImpl*>(request.owner);
      self.close_flush_done_ = true;
      if (request.error != Error::Ok && self.close_error_ == Error::Ok)
        self.close_error_ = request.error;
      self.schedule();
    };
    parent.request = &close_flush_;
    parent.error = Error::Ok;
    parent.pieces = 1;
    if (late || Engine::fenced) {
      parent.pieces = 0;
      finish(parent);
    } else {
      parent.cursor_bytes = 0;
      parent.end_bytes = segments_.size();
      advance(parent);
    }
  }
  if (closing_ == Closing::flushing) {
    if (late && !close_flush_done_) {
      close_error_ = Error::QuorumLost;
      for (auto& segment : segments_) segment->fail_requests(Error::ShuttingDown);
    }
    if (close_flush_done_) close_flushed();
  }
  if (closing_ == Closing::releasing && (Engine::ops_under_way == 0 || late)) {
    closing_ = Closing::leaving;
    if (late) {
      for (auto& member_host : hosts_) member_host->channel->fail();
    }
  }
  if (closing_ == Closing::leaving && Engine::ops_under_way == 0 && closed_) {
    Engine::loop.cancel(timer_);
    update_state();
    emit([this, done = std::exchange(closed_, nullptr)] { done(close_error_); });
  }
}

void VolumeImpl::close_flushed() noexcept {
  settle_eras();
  fail_eras(Error::ShuttingDown);
  closing_ = Closing::releasing;
  for (auto& segment : segments_) {
    segment->announce_stable();
    segment->tell_preserved();
  }
  Engine::closed = true;  // nothing new is begun: resyncs stop where they are
  for (auto& segment : segments_) segment->leave_pace();
  if (!Engine::fenced) release_leases();
}

void VolumeImpl::release_leases() noexcept {
  for (auto& member_host : hosts_) {
    member_host->lease_until_us = 0;
    if (!member_host->beat_under_way) release(*member_host);
  }
}

void VolumeImpl::release(MemberHost& member_host) noexcept {
  if (!member_host.channel->connected()) return;
  ReplicaOp& op = member_host.beat;
  op.kind = ReplicaOp::Kind::release;
  op.segment = {Engine::id, 0};
  op.version = {Engine::epoch, 0};
  op.done = release_done;
  member_host.beat_under_way = true;
  Engine::submit(member_host, op);
}

void VolumeImpl::release_done(ReplicaOp& op) noexcept {
  auto& self = *static_cast<VolumeImpl*>(op.owner);
  self.op_back();
  self.hosts_[op.tag]->beat_under_way = false;
  self.schedule();
}

}  // namespace

std::unique_ptr<Volume> Volume::create(io::Loop& loop, Buffers& buffers, peer::PeerHub& hub,
                                       ResyncPace& pace, VolumeEvents& events,
                                       VolumeConfig config) {
  return std::make_unique<VolumeImpl>(loop, buffers, hub, pace, events, std::move(config));
}

}  // namespace blockd::engine
