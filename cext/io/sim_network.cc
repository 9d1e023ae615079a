#include "io/sim_network.h"

#include <algorithm>
#include <cstring>
#include <deque>
#include <utility>

#include "base/assert.h"

namespace blockd::io {

// One end of a connection, as its process's kernel has it; the other end is at index 1 - i.
struct SimEnd {
  struct Piece {
    std::uint64_t due_us = 0;
    std::vector<std::byte> bytes;
    bool end_of_stream = false;
  };

  std::string host;
  SimLoop* loop = nullptr;  // null until accepted, and again once the process is dead
  LinkHandler* handler = nullptr;
  bool open = false;          // bytes may flow
  bool closing = false;       // closed() is on its way
  bool over = false;          // closed() was called, or the process is dead
  bool stream_ended = false;  // the other end will hear no more from here
  std::deque<SendItem*> queue;
  std::size_t front_sent_bytes = 0;  // of the first queued item
  std::size_t queued_bytes = 0;
  bool transmit_scheduled = false;
  std::deque<Piece> wire;  // from this end to the other
  std::size_t wire_bytes = 0;
  std::deque<std::byte> unread;  // arrived here
  std::span<std::byte> lent;
  bool pump_scheduled = false;
};

struct SimConnection {
  std::uint64_t id = 0;
  Endpoint to;
  SimEnd ends[2];  // 0 connected, 1 accepted
};

class SimLink final : public Link {
 public:
  SimLink(SimFabric& fabric, std::shared_ptr<SimConnection> connection, int end)
      : fabric_(fabric), connection_(std::move(connection)), end_(end) {}
  ~SimLink() override {
    // Only before any use or after closed(): nobody may be left to call.
    if (mine().over) return;
    BLOCKD_ASSERT(mine().queue.empty());
    BLOCKD_ASSERT(!mine().open);
    fabric_.end_stream(connection_, end_);
    mine().over = true;
  }
  SimLink(const SimLink&) = delete;
  SimLink& operator=(const SimLink&) = delete;

  void send(SendItem& item) noexcept override {
    if (mine().over) return;
    item.next = nullptr;
    mine().queue.push_back(&item);
    for (std::uint32_t i = 0; i < item.iov_count; ++i) mine().queued_bytes += item.iov[i].iov_len;
    if (!mine().closing) fabric_.schedule_transmit(connection_, end_);
  }
  void resume() noexcept override {
    if (mine().open && !mine().closing) fabric_.schedule_pump(connection_, end_);
  }
  void close() noexcept override {
    if (!mine().closing && !mine().over) fabric_.schedule_finish(connection_, end_, Error::Ok);
  }
  [[nodiscard]] std::size_t queued_bytes() const noexcept override { return mine().queued_bytes; }
  [[nodiscard]] std::string peer_name() const override {
    return connection_->ends[1 - end_].host + "#" + std::to_string(connection_->id);
  }

 private:
  [[nodiscard]] SimEnd& mine() const noexcept { return connection_->ends[end_]; }

  SimFabric& fabric_;
  std::shared_ptr<SimConnection> connection_;
  int end_;
};

class SimListener final : public Listener {
 public:
  SimListener(SimFabric& fabric, SimNetwork& network, Endpoint at)
      : life_(fabric.life_), network_(&network), at_(std::move(at)) {}
  ~SimListener() override {
    const auto fabric = life_.lock();
    if (!fabric) return;
    const auto found = (*fabric)->listeners_.find(at_);
    if (found != (*fabric)->listeners_.end() && found->second.network == network_) {
      (*fabric)->listeners_.erase(found);
    }
  }
  SimListener(const SimListener&) = delete;
  SimListener& operator=(const SimListener&) = delete;
  [[nodiscard]] Endpoint endpoint() const override { return at_; }

 private:
  std::weak_ptr<SimFabric*> life_;
  SimNetwork* network_;
  Endpoint at_;
};

SimFabric::SimFabric(SimWorld& world, SimFabricOptions options)
    : world_(world), options_(options), life_(std::make_shared<SimFabric*>(this)) {}

SimFabric::~SimFabric() = default;

void SimFabric::block(const std::string& from, const std::string& to, bool blocked) {
  if (blocked) {
    blocked_.emplace(from, to);
    return;
  }
  if (blocked_.erase({from, to}) == 0) return;
  for (const auto& [id, connection] : connections_) {
    for (int end : {0, 1}) schedule_arrival(connection, end);
  }
}

void SimFabric::partition(const std::string& a, const std::string& b, bool parted) {
  block(a, b, parted);
  block(b, a, parted);
}

void SimFabric::heal() {
  for (const auto& [from, to] : std::set(blocked_)) block(from, to, false);
}

void SimFabric::reset_links(const std::string& a, const std::string& b) {
  for (const auto& [id, connection] : connections_) {
    const std::string& one = connection->ends[0].host;
    const std::string& other = connection->ends[1].host;
    if ((one != a || other != b) && (one != b || other != a)) continue;
    for (int end : {0, 1}) {
      connection->ends[end].wire.clear();
      connection->ends[end].wire_bytes = 0;
      schedule_finish(connection, end, Error::LinkLost);
    }
  }
}

void SimFabric::set_delays(std::uint64_t us_min, std::uint64_t us_max) noexcept {
  options_.delay_us_min = us_min;
  options_.delay_us_max = us_max;
}

bool SimFabric::blocked(const std::string& from, const std::string& to) const {
  return blocked_.contains({from, to});
}

std::uint64_t SimFabric::delay_us() {
  return world_.random().between(options_.delay_us_min, options_.delay_us_max);
}

void SimFabric::later(std::uint64_t wait_us, SimLoop* loop,
                      std::function<void(SimFabric&)> action) {
  world_.after(wait_us, loop, [life = std::weak_ptr(life_), action = std::move(action)] {
    if (const auto fabric = life.lock()) action(**fabric);
  });
}

std::shared_ptr<SimConnection> SimFabric::open(SimNetwork& from, const Endpoint& to,
                                               LinkHandler& handler) {
  auto connection = std::make_shared<SimConnection>();
  connection->id = next_id_++;
  connection->to = to;
  connection->ends[0].host = from.host();
  connection->ends[0].loop = &from.loop();
  connection->ends[0].handler = &handler;
  connections_[connection->id] = connection;
  later(delay_us(), nullptr, [connection](SimFabric& fabric) { fabric.syn(connection); });
  return connection;
}

// The request to connect reaches the other host, or does not.
void SimFabric::syn(const std::shared_ptr<SimConnection>& connection) {
  SimEnd& near = connection->ends[0];
  if (near.closing || near.over) return;
  const auto found = listeners_.find(connection->to);
  if (found == listeners_.end()) return schedule_finish(connection, 0, Error::LinkLost);
  const std::string& host = found->second.network->host();
  if (blocked(near.host, host) || blocked(host, near.host)) {
    later(options_.connect_timeout_us, near.loop, [connection](SimFabric& fabric) {
      if (!connection->ends[0].closing) fabric.finish(connection, 0, Error::Timeout);
    });
    return;
  }
  accept(connection, found->second);
}

void SimFabric::accept(const std::shared_ptr<SimConnection>& connection, const Bound& bound) {
  SimEnd& far = connection->ends[1];
  far.host = bound.network->host();
  far.loop = &bound.network->loop();
  LinkHandler* handler = bound.handler->accepted(std::make_unique<SimLink>(*this, connection, 1));
  if (handler && !far.over) {
    far.handler = handler;
    far.open = true;
    schedule_pump(connection, 1);
    schedule_transmit(connection, 1);
  } else if (!far.over) {
    end_stream(connection, 1);
    far.over = true;
  }
  later(delay_us(), connection->ends[0].loop,
        [connection](SimFabric& fabric) { fabric.established(connection); });
}

void SimFabric::established(const std::shared_ptr<SimConnection>& connection) {
  SimEnd& near = connection->ends[0];
  if (near.closing || near.over) return;
  near.open = true;
  near.handler->connected();
  schedule_pump(connection, 0);
  schedule_transmit(connection, 0);
  schedule_arrival(connection, 1);
}

namespace {

// Copies up to `limit` bytes of the item from its byte `skip` on. True: that was the rest of it.
bool cut(const SendItem& item, std::size_t skip, std::size_t limit, std::vector<std::byte>& into) {
  bool whole = true;
  for (std::uint32_t i = 0; i < item.iov_count; ++i) {
    const std::size_t passed = std::min(skip, item.iov[i].iov_len);
    skip -= passed;
    const auto* base = static_cast<const std::byte*>(item.iov[i].iov_base) + passed;
    const std::size_t left = item.iov[i].iov_len - passed;
    const std::size_t taken = std::min(left, limit - into.size());
    into.insert(into.end(), base, base + taken);
    whole = whole && taken == left;
  }
  return whole;
}

}  // namespace

// The kernel takes bytes from the queue while the window has room.
void SimFabric::transmit(const std::shared_ptr<SimConnection>& connection, int end) {
  SimEnd& from = connection->ends[end];
  const SimEnd& to = connection->ends[1 - end];
  from.transmit_scheduled = false;
  if (!from.open || from.closing || from.over) return;
  std::vector<SendItem*> sent;
  while (!from.queue.empty()) {
    const std::size_t used = from.wire_bytes + to.unread.size();
    if (used >= options_.window_bytes) break;
    SendItem& item = *from.queue.front();
    const std::size_t room = std::min(options_.window_bytes - used, options_.piece_bytes_max);
    const std::size_t limit = world_.random().chance(2) ? room : world_.random().between(1, room);
    SimEnd::Piece piece;
    const bool whole = cut(item, from.front_sent_bytes, limit, piece.bytes);
    from.wire_bytes += piece.bytes.size();
    from.queued_bytes -= piece.bytes.size();
    from.front_sent_bytes += piece.bytes.size();
    piece.due_us = world_.now_us() + delay_us();
    if (!from.wire.empty()) piece.due_us = std::max(piece.due_us, from.wire.back().due_us);
    from.wire.push_back(std::move(piece));
    schedule_arrival(connection, end);
    if (whole) {
      from.queue.pop_front();
      from.front_sent_bytes = 0;
      sent.push_back(&item);
    }
  }
  for (SendItem* item : sent) {
    item->done(*item);
    if (from.over) return;  // the process died inside
  }
}

// The first piece that `end` has sent is due at the other end.
void SimFabric::arrive(const std::shared_ptr<SimConnection>& connection, int end) {
  SimEnd& from = connection->ends[end];
  SimEnd& to = connection->ends[1 - end];
  if (from.wire.empty() || from.wire.front().due_us > world_.now_us()) return;
  if (blocked(from.host, to.host)) return;
  if (!to.over && !to.open && !to.closing) return;  // not connected yet: connecting asks again
  SimEnd::Piece piece = std::move(from.wire.front());
  from.wire.pop_front();
  from.wire_bytes -= piece.bytes.size();
  if (to.over || to.closing) {
    const bool refused = to.over && !piece.end_of_stream && !blocked(to.host, from.host);
    if (refused) schedule_finish(connection, end, Error::LinkLost);
  } else if (piece.end_of_stream) {
    to.stream_ended = true;
    schedule_pump(connection, 1 - end);
  } else {
    to.unread.insert(to.unread.end(), piece.bytes.begin(), piece.bytes.end());
    schedule_pump(connection, 1 - end);
  }
  schedule_arrival(connection, end);
  forget_if_over(connection);
}

// Asks for a buffer, or fills the one that was lent.
void SimFabric::pump(const std::shared_ptr<SimConnection>& connection, int end) {
  SimEnd& to = connection->ends[end];
  to.pump_scheduled = false;
  if (!to.open || to.closing || to.over) return;
  if (to.lent.empty()) to.lent = to.handler->receive_buffer();
  if (to.lent.empty()) return;  // paused until resume()
  if (to.unread.empty()) {
    if (to.stream_ended) finish(connection, end, Error::LinkLost);
    return;
  }
  const std::size_t bytes = std::min(to.lent.size(), to.unread.size());
  std::copy_n(to.unread.begin(), bytes, to.lent.begin());
  to.unread.erase(to.unread.begin(), to.unread.begin() + static_cast<std::ptrdiff_t>(bytes));
  to.lent = {};
  to.handler->received(bytes);
  if (to.over) return;
  schedule_pump(connection, end);
  schedule_transmit(connection, 1 - end);  // the window has opened
}

void SimFabric::finish(const std::shared_ptr<SimConnection>& connection, int end, Error reason) {
  SimEnd& mine = connection->ends[end];
  if (mine.over) return;
  mine.closing = true;
  mine.lent = {};
  while (!mine.queue.empty()) {
    SendItem& item = *mine.queue.front();
    mine.queue.pop_front();
    item.done(item);
    if (mine.over) return;
  }
  mine.queued_bytes = 0;
  end_stream(connection, end);
  mine.open = false;
  mine.over = true;
  LinkHandler* handler = std::exchange(mine.handler, nullptr);
  handler->closed(reason);
  forget_if_over(connection);
}

// The other end will see the end of the stream, after whatever was sent before it.
void SimFabric::end_stream(const std::shared_ptr<SimConnection>& connection, int end) {
  SimEnd& from = connection->ends[end];
  if (!from.unread.empty()) {  // closed with bytes unread: a reset, which overtakes what was sent
    from.wire.clear();
    from.wire_bytes = 0;
    from.unread.clear();
  }
  SimEnd::Piece piece;
  piece.due_us = world_.now_us() + delay_us();
  if (!from.wire.empty()) piece.due_us = std::max(piece.due_us, from.wire.back().due_us);
  piece.end_of_stream = true;
  from.wire.push_back(std::move(piece));
  schedule_arrival(connection, end);
}

void SimFabric::schedule_transmit(const std::shared_ptr<SimConnection>& connection, int end) {
  SimEnd& from = connection->ends[end];
  if (from.transmit_scheduled || !from.open || from.over || from.queue.empty()) return;
  from.transmit_scheduled = true;
  later(world_.random().below(5), from.loop,
        [connection, end](SimFabric& fabric) { fabric.transmit(connection, end); });
}

void SimFabric::schedule_arrival(const std::shared_ptr<SimConnection>& connection, int end) {
  const SimEnd& from = connection->ends[end];
  if (from.wire.empty()) return;
  const std::uint64_t now = world_.now_us();
  const std::uint64_t wait = from.wire.front().due_us > now ? from.wire.front().due_us - now : 0;
  later(wait, nullptr, [connection, end](SimFabric& fabric) { fabric.arrive(connection, end); });
}

void SimFabric::schedule_pump(const std::shared_ptr<SimConnection>& connection, int end) {
  SimEnd& to = connection->ends[end];
  if (to.pump_scheduled || to.over || !to.loop) return;
  to.pump_scheduled = true;
  later(0, to.loop, [connection, end](SimFabric& fabric) { fabric.pump(connection, end); });
}

void SimFabric::schedule_finish(const std::shared_ptr<SimConnection>& connection, int end,
                                Error reason) {
  SimEnd& mine = connection->ends[end];
  if (mine.closing || mine.over || !mine.loop || !mine.handler) return;
  mine.closing = true;
  later(world_.random().below(10), mine.loop,
        [connection, end, reason](SimFabric& fabric) { fabric.finish(connection, end, reason); });
}

// The process behind `network` is dead: its kernel closes what it had open.
void SimFabric::kill(SimNetwork& network) {
  std::erase_if(listeners_, [&](const auto& entry) { return entry.second.network == &network; });
  for (const auto& [id, connection] : std::map(connections_)) {
    for (int end : {0, 1}) {
      SimEnd& mine = connection->ends[end];
      if (mine.loop != &network.loop() || mine.over) continue;
      while (!mine.wire.empty() && world_.random().chance(3)) {  // any prefix survives
        mine.wire_bytes -= mine.wire.back().bytes.size();
        mine.wire.pop_back();
      }
      mine.unread.clear();
      mine.queue.clear();
      mine.queued_bytes = 0;
      end_stream(connection, end);
      mine.handler = nullptr;
      mine.loop = nullptr;
      mine.lent = {};
      mine.open = false;
      mine.over = true;
      forget_if_over(connection);
    }
  }
}

void SimFabric::forget_if_over(const std::shared_ptr<SimConnection>& connection) {
  const bool never_accepted = connection->ends[0].over && !connection->ends[1].loop;
  if (never_accepted || (connection->ends[0].over && connection->ends[1].over)) {
    connections_.erase(connection->id);
  }
}

SimNetwork::SimNetwork(SimFabric& fabric, SimLoop& loop, std::string host)
    : fabric_(fabric),
      loop_(loop),
      host_(std::move(host)),
      life_(std::make_shared<SimNetwork*>(this)) {
  loop.on_kill([life = std::weak_ptr(life_), fabric_life = std::weak_ptr(fabric.life_)] {
    const auto network = life.lock();
    const auto alive_fabric = fabric_life.lock();
    if (network && alive_fabric) (*alive_fabric)->kill(**network);
  });
}

SimNetwork::~SimNetwork() {
  fabric_.kill(*this);
}

std::unique_ptr<Listener> SimNetwork::listen(const Endpoint& at, AcceptHandler& handler) {
  Endpoint bound = at;
  if (bound.size() > 2 && bound.ends_with(":0")) {
    bound = bound.substr(0, bound.size() - 1) + std::to_string(fabric_.next_port_++);
  }
  if (!fabric_.listeners_.try_emplace(bound, SimFabric::Bound{this, &handler}).second) {
    throw Fault(Error::AddressInUse, "cannot listen on " + bound + ": another process does");
  }
  return std::make_unique<SimListener>(fabric_, *this, bound);
}

std::unique_ptr<Link> SimNetwork::connect(const Endpoint& to, LinkHandler& handler) {
  return std::make_unique<SimLink>(fabric_, fabric_.open(*this, to, handler), 0);
}

}  // namespace blockd::io
