#include "nbd/connection.h"

#include <utility>

#include "nbd/server_context.h"

namespace blockd::nbd {
namespace {

// How long a connection that is being ended waits for its client to take the last replies.
constexpr std::uint64_t kFarewellUs = 5'000'000;

}  // namespace

Connection::Connection(ServerContext& context, std::unique_ptr<io::Link> link)
    : context_(context),
      link_(std::move(link)),
      reader_(context.buffers.chunk),
      transmission_(context, reader_, wake_),
      handshake_(context),
      output_(context.buffers.chunk.get()) {
  wake_.owner = this;
  wake_.run = [](io::Task& task) noexcept { static_cast<Connection*>(task.owner)->woken(); };
  timer_.owner = this;
  timer_.fire = [](io::Timer& timer) noexcept {
    static_cast<Connection*>(timer.owner)->timed_out();
  };
  output_item_.owner = this;
  output_item_.done = [](io::SendItem& item) noexcept {
    auto& self = *static_cast<Connection*>(item.owner);
    self.output_busy_ = false;
    if (self.phase_ != Phase::handshake) self.output_.reset();
    self.context_.loop.defer(self.wake_);
  };
}

Connection::~Connection() {
  BLOCKD_ASSERT(!wake_.queued);
  BLOCKD_ASSERT(!timer_.armed());
}

void Connection::start() noexcept {
  context_.loop.arm(timer_, context_.loop.now_us() + context_.config.handshake_timeout_us);
  reader_.attach(*link_);
  ByteWriter out({output_.data(), output_.capacity_bytes()});
  handshake_.greet(out);
  send_output(out.size());
}

void Connection::send_output(std::size_t bytes) noexcept {
  BLOCKD_ASSERT(!output_busy_);
  output_busy_ = true;
  output_item_.iov[0] = {output_.data(), bytes};
  output_item_.iov_count = 1;
  link_->send(output_item_);
}

// ---- The link's calls
// ----------------------------------------------------------------------------

std::span<std::byte> Connection::receive_buffer() noexcept {
  std::span<std::byte> space;
  const bool handshake_wants = next_ == Handshake::Next::input && !output_busy_;
  if (phase_ == Phase::handshake && handshake_wants) space = reader_.receive_buffer();
  if (phase_ == Phase::transmission) space = transmission_.receive_buffer();
  paused_ = space.empty();
  return space;
}

void Connection::received(std::size_t bytes) noexcept {
  if (phase_ == Phase::handshake) {
    reader_.received(bytes);
    run_handshake();
  } else if (phase_ == Phase::transmission) {
    transmission_.received(bytes);
    look_at_transmission();
  }
}

void Connection::closed(Error) noexcept {
  BLOCKD_ASSERT(phase_ != Phase::gone);
  phase_ = Phase::gone;
  context_.loop.cancel(timer_);
  reader_.detach();
  transmission_.link_lost();
  context_.loop.defer(wake_);
}

// ---- Phases
// --------------------------------------------------------------------------------------

void Connection::run_handshake() noexcept {
  while (phase_ == Phase::handshake && !output_busy_) {
    if (next_ == Handshake::Next::close) {
      if (!handshake_.aborted_by_client()) ++context_.totals.handshakes_failed;
      close_link();
      return;
    }
    ByteWriter out({output_.data(), output_.capacity_bytes()});
    const Handshake::Step step = handshake_.advance(buffered(), out);
    reader_.consume(step.consumed_bytes);
    next_ = step.next;
    if (out.size() > 0) send_output(out.size());
    if (next_ == Handshake::Next::transmission)
      begin_transmission(*handshake_.negotiated().export_info);
    if (next_ == Handshake::Next::input) {
      (void)reader_.peek(Handshake::kOptionBytesMax);  // so much must fit, contiguous
      return;
    }
  }
}

std::span<const std::byte> Connection::buffered() noexcept {
  const std::size_t bytes = reader_.available();
  return bytes > 0 ? std::span(reader_.peek(bytes), bytes) : std::span<const std::byte>();
}

void Connection::begin_transmission(const ExportInfo& info) noexcept {
  context_.loop.cancel(timer_);
  phase_ = Phase::transmission;
  Export& target = context_.adopt(info);
  ++target.connections;
  transmission_.begin(target, *link_);
  transmission_.pump();  // a client may have sent its first requests along
  look_at_transmission();
}

void Connection::look_at_transmission() noexcept {
  if (transmission_.broken()) {
    ++context_.totals.protocol_errors;
    close_link();
  } else if (transmission_.answered()) {
    close_link();
  } else if (transmission_.stopped() && !timer_.armed()) {
    context_.loop.arm(timer_, context_.loop.now_us() + kFarewellUs);
  }
}

void Connection::drain() noexcept {
  if (phase_ == Phase::handshake) close_link();
  if (phase_ != Phase::transmission) return;
  transmission_.stop();
  look_at_transmission();
}

void Connection::woken() noexcept {
  if (phase_ == Phase::gone) {
    if (transmission_.idle()) context_.connection_ended(*this);  // destroys this
    return;
  }
  if (phase_ == Phase::handshake) {
    run_handshake();
  } else if (phase_ == Phase::transmission) {
    transmission_.pump();
    look_at_transmission();
  }
  if (paused_ && (phase_ == Phase::handshake || phase_ == Phase::transmission)) {
    paused_ = false;
    link_->resume();
  }
}

void Connection::timed_out() noexcept {
  if (phase_ == Phase::handshake) {
    ++context_.totals.handshakes_failed;
    close_link();
  } else if (phase_ == Phase::transmission) {
    if (transmission_.backend_busy()) {
      look_at_transmission();  // it is not the client we wait for
    } else {
      close_link();
    }
  }
}

void Connection::close_link() noexcept {
  if (phase_ == Phase::closing || phase_ == Phase::gone) return;
  phase_ = Phase::closing;
  context_.loop.cancel(timer_);
  link_->close();
}

}  // namespace blockd::nbd
