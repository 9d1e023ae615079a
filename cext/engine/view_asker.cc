#include "engine/view_asker.h"

#include <algorithm>

#include "base/assert.h"
#include "base/crc32c.h"

namespace blockd::engine {

using peer::ReplicaOp;

namespace {

constexpr std::uint64_t kRetryUs =
    100'000;  // of members that are connected, but not able to answer

// The member may well answer later: it is away, or its store is not open (yet).
bool is_away(Error error) noexcept {
  switch (error) {
    case Error::LinkLost:
    case Error::Timeout:
    case Error::Busy:
    case Error::ShuttingDown:
    case Error::NotFound:
      return true;
    default:
      return false;
  }
}

}  // namespace

ViewAsker::ViewAsker(io::Loop& loop, peer::PeerHub& hub, Uuid volume, Era era)
    : loop_(loop), hub_(hub), volume_(volume), era_(era) {
  retry_task_.owner = retry_timer_.owner = this;
  retry_task_.run = [](io::Task& task) noexcept {
    static_cast<ViewAsker*>(task.owner)->retry_waiting();
  };
  retry_timer_.fire = [](io::Timer& timer) noexcept {
    static_cast<ViewAsker*>(timer.owner)->retry_waiting();
  };
}

ViewAsker::~ViewAsker() {
  BLOCKD_ASSERT(idle());
  BLOCKD_ASSERT(!retry_task_.queued);
  loop_.cancel(retry_timer_);
  for (auto& [host, watcher] : watchers_) hub_.channel(host).unwatch(*watcher);
}

void ViewAsker::set_members(std::uint32_t segment, const std::vector<MemberConfig>& members) {
  if (segment >= segments_.size()) segments_.resize(segment + 1);
  std::vector<MemberConfig> chosen;
  std::ranges::copy_if(members, std::back_inserter(chosen),
                       [](const MemberConfig& member) { return member.in_sync; });
  std::ranges::stable_sort(chosen, {}, &MemberConfig::distance);
  if (chosen.size() > kMembersMax) chosen.resize(kMembersMax);
  SegmentMembers& into = segments_[segment];
  ++into.generation;
  into.places.clear();
  for (const MemberConfig& member : chosen) {
    into.places.push_back({member.store, &watched_channel(member.host)});
  }
  if (!waiting_.empty()) loop_.defer(retry_task_);
}

peer::ReplicaChannel& ViewAsker::watched_channel(const Uuid& host) {
  peer::ReplicaChannel& channel = hub_.channel(host);
  std::unique_ptr<peer::ChannelWatcher>& watcher = watchers_[host];
  if (watcher) return channel;
  watcher = std::make_unique<peer::ChannelWatcher>();
  watcher->owner = this;
  watcher->changed = [](peer::ChannelWatcher& changed, bool connected) noexcept {
    auto& self = *static_cast<ViewAsker*>(changed.owner);
    if (connected && !self.waiting_.empty()) self.loop_.defer(self.retry_task_);
  };
  channel.watch(*watcher);
  return channel;
}

void ViewAsker::ask(ViewAsk& ask) noexcept {
  BLOCKD_ASSERT(ask.segment < segments_.size());
  ask.tried = 0;
  ask.away = 0;
  ask.generation = segments_[ask.segment].generation;
  ask.last_error = Error::Ok;
  ask.started_us = loop_.now_us();
  send(ask);
}

void ViewAsker::stop() noexcept {
  stopped_ = true;
  loop_.cancel(retry_timer_);
  while (ViewAsk* ask = waiting_.pop_front()) end(*ask, Error::ShuttingDown);
}

void ViewAsker::send(ViewAsk& ask) noexcept {
  if (stopped_) return end(ask, Error::ShuttingDown);
  const SegmentMembers& segment = segments_[ask.segment];
  if (ask.generation != segment.generation) {
    ask.generation = segment.generation;
    ask.tried = 0;
    ask.away = 0;
  }
  const std::uint32_t place = choose(ask);
  if (place != kMembersMax) return submit(ask, place);
  const auto all =
      static_cast<MemberMask>(member_bit(static_cast<std::uint32_t>(segment.places.size())) - 1);
  const bool late = loop_.now_us() >= ask.started_us + kIoTimeoutUs;
  if (ask.tried == all || late) {
    return end(ask, ask.last_error == Error::Ok ? Error::LinkLost : ask.last_error);
  }
  waiting_.push_back(ask);
  if (!retry_timer_.armed()) loop_.arm(retry_timer_, loop_.now_us() + kRetryUs);
}

std::uint32_t ViewAsker::choose(const ViewAsk& ask) const noexcept {
  const std::vector<Place>& places = segments_[ask.segment].places;
  for (std::uint32_t i = 0; i < places.size(); ++i) {
    const bool out = ((ask.tried | ask.away) & member_bit(i)) != 0;
    if (!out && places[i].channel->connected()) return i;
  }
  return kMembersMax;
}

void ViewAsker::submit(ViewAsk& ask, std::uint32_t place) noexcept {
  const Place& member = segments_[ask.segment].places[place];
  ReplicaOp& op = ask.op;
  op.segment = {volume_, ask.segment};
  op.store = member.store;
  op.era = era_;
  op.handle = 0;
  op.version = op.stable = Version{};
  op.done = op_done;
  op.owner = &ask;
  op.tag = place;
  ask.asker = this;
  ++under_way_;
  member.channel->submit(op);
}

void ViewAsker::op_done(ReplicaOp& op) noexcept {
  auto& ask = *static_cast<ViewAsk*>(op.owner);
  ViewAsker& self = *ask.asker;
  BLOCKD_ASSERT(self.under_way_ > 0);
  --self.under_way_;
  self.came_back(ask);
}

void ViewAsker::came_back(ViewAsk& ask) noexcept {
  const ReplicaOp& op = ask.op;
  Error error = op.error;
  if (error == Error::Ok && op.kind == ReplicaOp::Kind::read_view &&
      crc32c_verify(op.data, {op.crcs, op.block_count}) != op.block_count) {
    error = Error::ChecksumMismatch;
  }
  if (error == Error::Ok) return end(ask, Error::Ok);
  if (ask.generation == segments_[ask.segment].generation) {
    if (is_away(error)) {
      ask.away |= member_bit(op.tag);
    } else {
      ask.tried |= member_bit(op.tag);
    }
  }
  // Where some member's medium has failed, that is what to say, not who else was away.
  if (!is_away(error) || ask.last_error == Error::Ok || is_away(ask.last_error)) {
    ask.last_error = error;
  }
  send(ask);
}

void ViewAsker::retry_waiting() noexcept {
  peer::List<ViewAsk> again;
  while (ViewAsk* ask = waiting_.pop_front()) again.push_back(*ask);
  while (ViewAsk* ask = again.pop_front()) {
    ask->away = 0;
    send(*ask);
  }
}

void ViewAsker::end(ViewAsk& ask, Error error) noexcept {
  ask.answered(ask, error);
}

}  // namespace blockd::engine
