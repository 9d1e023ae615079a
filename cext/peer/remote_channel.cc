#include "peer/remote_channel.h"

#include <algorithm>
#include <utility>

#include "base/assert.h"
#include "base/crc32c.h"
#include "peer/wire_codec.h"

namespace blockd::peer {

RemoteChannel::RemoteChannel(io::Loop& loop, io::Network& network, CompletionQueue& completions,
                             ChannelConfig config)
    : loop_(loop),
      network_(network),
      completions_(completions),
      config_(config),
      reader_(*this),
      slots_(kSlots, nullptr) {
  free_slots_.reserve(kSlots);
  for (std::uint32_t slot = kSlots; slot > 0; --slot) free_slots_.push_back(slot - 1);
  timer_.owner = this;
  timer_.fire = [](io::Timer& timer) noexcept { static_cast<RemoteChannel*>(timer.owner)->tick(); };
}

RemoteChannel::~RemoteChannel() {
  loop_.cancel(timer_);
}

void RemoteChannel::set_endpoint(const io::Endpoint& endpoint) noexcept {
  if (endpoint == endpoint_ || closing_for_good_) return;
  endpoint_ = endpoint;
  unreachable_ = false;
  backoff_us_ = kBackoffMinUs;
  if (link_) {
    give_up();
  } else {
    connect();
  }
}

void RemoteChannel::connect() noexcept {
  BLOCKD_ASSERT(!link_);
  if (endpoint_.empty() || closing_for_good_) return;
  state_ = State::connecting;
  reader_.reset();
  deadline_base_us_ = loop_.now_us();
  loop_.arm(timer_, loop_.now_us() + config_.timeout_us / 4);
  link_ = network_.connect(endpoint_, *this);
}

void RemoteChannel::connected() noexcept {
  if (state_ != State::connecting) return;
  state_ = State::greeting;
  hello_ = format::Hello{};
  hello_.cluster_id = config_.cluster_id;
  hello_.host_id = config_.own_host;
  hello_.version_max = config_.wire_version_max;
  seal(hello_);
  hello_item_ = io::SendItem{};
  hello_item_.iov[0] = {&hello_, sizeof hello_};
  hello_item_.iov_count = 1;
  hello_item_.done = [](io::SendItem&) noexcept {};
  link_->send(hello_item_);
}

FrameSink::Verdict RemoteChannel::on_hello(const format::Hello& hello) noexcept {
  if (state_ != State::greeting) return Verdict::refuse;
  const Error before = std::exchange(refused_, refusal(hello));
  if (refused_ != Error::Ok) {
    if (config_.watcher && refused_ != before)
      config_.watcher->peer_refused(config_.peer_host, refused_);
    return Verdict::refuse;
  }
  version_ = agreed_version(hello, config_.wire_version_max);
  state_ = State::up;
  unreachable_ = false;
  backoff_us_ = kBackoffMinUs;
  ++round_;
  notify(true);
  return Verdict::go_on;
}

Error RemoteChannel::refusal(const format::Hello& hello) const noexcept {
  if (hello.error != 0) return static_cast<Error>(hello.error);
  if (hello.cluster_id != config_.cluster_id) return Error::StoreForeign;
  if (hello.host_id != config_.peer_host) return Error::NotFound;
  return agreed_version(hello, config_.wire_version_max) == 0 ? Error::Unsupported : Error::Ok;
}

// --- requests ------------------------------------------------------------------------------------

void RemoteChannel::submit(ReplicaOp& op) noexcept {
  op.error = Error::Ok;
  if (state_ != State::up) return completions_.push(op, Error::LinkLost);
  if (free_slots_.empty() || !waiting_.empty()) {
    waiting_.push_back(op);
  } else {
    transmit(op);
  }
}

void RemoteChannel::transmit(ReplicaOp& op) noexcept {
  const std::uint32_t slot = free_slots_.back();
  free_slots_.pop_back();
  BLOCKD_ASSERT(slots_[slot] == nullptr);
  slots_[slot] = &op;
  op.request_id = (std::uint32_t{round_} << 16) | slot;
  op.sent = op.answered = false;
  op.damaged = 0;
  encode_request(op);
  op.item.owner = &op;
  op.item.done = item_sent;
  if (due_count_++ == 0) deadline_base_us_ = loop_.now_us();
  link_->send(op.item);
}

void RemoteChannel::transmit_waiting() noexcept {
  while (state_ == State::up && !waiting_.empty() && !free_slots_.empty())
    transmit(*waiting_.pop_front());
}

void RemoteChannel::item_sent(io::SendItem& item) noexcept {
  ReplicaOp& op = *static_cast<ReplicaOp*>(item.owner);
  op.sent = true;
  if (op.answered) finish(op);
}

void RemoteChannel::finish(ReplicaOp& op) noexcept {
  BLOCKD_ASSERT(op.sent && op.answered);
  op.done(op);
}

// --- answers -------------------------------------------------------------------------------------

FrameSink::Verdict RemoteChannel::on_header(const format::FrameHeader& header,
                                            PayloadTarget& target) noexcept {
  const std::uint32_t slot = header.request_id & 0xffff;
  if (slot >= kSlots || header.request_id >> 16 != round_) return Verdict::refuse;
  ReplicaOp* op = slots_[slot];
  PayloadShape shape;
  if (op == nullptr || !decode_reply(header, *op, shape)) return Verdict::refuse;
  // The CRCs of a read land where the request kept none: frame.tail is free for them.
  target.runs[0] = {reinterpret_cast<std::byte*>(op->frame.tail.data()), shape.head_bytes};
  target.runs[1] = {op->data, shape.data_bytes};
  return Verdict::go_on;
}

FrameSink::Verdict RemoteChannel::on_frame(const format::FrameHeader& header) noexcept {
  const std::uint32_t slot = header.request_id & 0xffff;
  ReplicaOp& op = *slots_[slot];
  slots_[slot] = nullptr;
  free_slots_.push_back(slot);
  BLOCKD_ASSERT(due_count_ > 0);
  --due_count_;
  const bool data =
      header.payload_bytes > 0 && (is_read(op.kind) || op.kind == ReplicaOp::Kind::read_chunk);
  if (data) {
    verify(op);
  }
  op.answered = true;
  transmit_waiting();
  if (op.sent) finish(op);
  return Verdict::go_on;
}

// The member may have said so by sending blocks that do not match their CRCs (read_chunk).
void RemoteChannel::verify(ReplicaOp& op) noexcept {
  const std::span<const std::uint32_t> crcs(op.frame.tail.data(), op.block_count);
  if (op.crcs) std::copy(crcs.begin(), crcs.end(), op.crcs);
  if (crc32c_verify(op.data, crcs) == crcs.size()) return;
  op.error = Error::ChecksumMismatch;
  if (op.kind != ReplicaOp::Kind::read_chunk) return;
  for (std::uint32_t i = 0; i < kBlocksPerChunk; ++i) {
    if (crc32c(op.data + std::size_t{i} * kBlockBytes, kBlockBytes) != crcs[i])
      op.damaged |= static_cast<std::uint16_t>(1u << i);
  }
}

std::span<std::byte> RemoteChannel::receive_buffer() noexcept {
  if (state_ == State::closing) return {};
  return reader_.receive_buffer();
}

void RemoteChannel::received(std::size_t bytes) noexcept {
  if (state_ == State::closing) return;
  deadline_base_us_ = loop_.now_us();
  if (!reader_.received(bytes)) give_up();
}

// --- the link's end ------------------------------------------------------------------------------

void RemoteChannel::tick() noexcept {
  if (state_ == State::backing_off || state_ == State::idle) return connect();
  const bool due = state_ != State::up || due_count_ > 0;
  if (due && loop_.now_us() > deadline_base_us_ + config_.timeout_us) {
    give_up();
  } else {
    loop_.arm(timer_, loop_.now_us() + config_.timeout_us / 4);
  }
}

void RemoteChannel::fail() noexcept {
  give_up();
}

void RemoteChannel::give_up() noexcept {
  if (!link_ || state_ == State::closing) return;
  const bool was_up = state_ == State::up;
  state_ = State::closing;
  unreachable_ = unreachable_ || !was_up;
  link_->close();
  if (was_up) notify(false);
}

void RemoteChannel::closed(Error) noexcept {
  const bool was_up = state_ == State::up;
  if (state_ == State::connecting || state_ == State::greeting) unreachable_ = true;
  state_ = State::backing_off;
  link_.reset();
  reader_.reset();
  if (was_up) notify(false);
  lose_link(Error::LinkLost);
  if (closing_for_good_) {
    state_ = State::idle;
    loop_.cancel(timer_);
    if (auto done = std::exchange(closed_, nullptr)) done();
    return;
  }
  loop_.arm(timer_, loop_.now_us() + backoff_us_ + loop_.random_u64() % backoff_us_);
  backoff_us_ = std::min(backoff_us_ * 2, kBackoffMaxUs);
}

void RemoteChannel::lose_link(Error reason) noexcept {
  due_count_ = 0;
  for (std::uint32_t slot = 0; slot < kSlots; ++slot) {
    ReplicaOp* op = std::exchange(slots_[slot], nullptr);
    if (op == nullptr) continue;
    free_slots_.push_back(slot);
    BLOCKD_ASSERT(op->sent);
    op->answered = true;
    op->error = reason;
    finish(*op);
  }
  while (ReplicaOp* op = waiting_.pop_front()) {
    op->error = reason;
    op->done(*op);
  }
}

void RemoteChannel::close(std::function<void()> done) {
  closing_for_good_ = true;
  if (!link_) {
    loop_.cancel(timer_);
    state_ = State::idle;
    return done();
  }
  closed_ = std::move(done);
  give_up();
}

}  // namespace blockd::peer
