// Attached volumes and their exports, on the host plane.
#include <algorithm>
#include <string_view>
#include <utility>

#include "base/assert.h"
#include "border/attach_checks.h"
#include "border/guard.h"
#include "border/host_plane.h"
#include "border/text.h"

namespace blockd::border {
namespace {

// How long a front may take to answer its last requests before the engine is closed under it.
constexpr std::uint64_t kDrainUs = 5'000'000;

}  // namespace

const char* state_name(engine::VolumeState state) noexcept {
  switch (state) {
    case engine::VolumeState::opening:
      return "opening";
    case engine::VolumeState::serving:
      return "serving";
    case engine::VolumeState::stalled:
      return "stalled";
    case engine::VolumeState::fenced:
      return "fenced";
    case engine::VolumeState::closing:
      return "closing";
    case engine::VolumeState::closed:
      return "closed";
  }
  return "unknown";
}

engine::BlockBackend& HostPlane::Attached::backend() noexcept {
  if (base) return base->top();
  if (volume) return *volume;
  return *reader;
}

void HostPlane::attach(Token token, const engine::VolumeConfig& config,
                       const std::shared_ptr<const BaseSpec>& base) noexcept {
  guard(token, [&] {
    check(config);
    if (base) check(*base);
    if (const auto found = volumes_.find(config.id); found != volumes_.end()) {
      if (!found->second->volume) {
        throw Fault(Error::AlreadyExists, text(config.id) + " is a snapshot that is attached here");
      }
      throw Fault(Error::AlreadyExists, "volume " + text(config.id) + " is attached here, epoch " +
                                            std::to_string(found->second->volume->config().epoch));
    }
    auto fresh = std::make_unique<Attached>();
    Attached& attached = *fresh;
    attached.id = config.id;
    attached.volume = engine::Volume::create(loop_, buffers_, *hub_, pace_, *this, config);
    if (base) {
      attached.segments = config.segments;
      attached.base =
          std::make_unique<BaseStack>(loop_, buffers_, *hub_, *attached.volume, true, *base);
    }
    admit(std::move(fresh), token);
    attached.volume->start();
  });
}

// Known from now on; attach() is answered when it serves.
void HostPlane::admit(std::unique_ptr<Attached> fresh, Token token) {
  Attached& attached = *fresh;
  const auto [place, is_new] = volumes_.try_emplace(attached.id, std::move(fresh));
  BLOCKD_ASSERT(is_new);
  attached.plane = this;
  attached.io = std::make_unique<VolumeIo>(loop_, buffers_, attached.backend(), *this);
  attached.attach_token = token;
  attached.deadline.owner = &attached;
  attached.deadline.fire = [](io::Timer& timer) noexcept {
    auto& late = *static_cast<Attached*>(timer.owner);
    late.plane->end_attach(late,
                           late.attach_error == Error::Ok ? Error::Timeout : late.attach_error);
  };
  loop_.arm(attached.deadline, loop_.now_us() + config_.attach_timeout_us);
}

// Answers the attach() that still waits, if one does. A failure takes the volume away again.
void HostPlane::end_attach(Attached& attached, Error error, std::string message) noexcept {
  const Token token = std::exchange(attached.attach_token, 0);
  if (token == 0) return;
  loop_.cancel(attached.deadline);
  if (error == Error::Ok && attached.volume)
    return answer_era(token, attached.volume->config().era);
  if (error == Error::Ok) return answer(token, Error::Ok);
  if (message.empty()) {
    message = std::string(attached.volume ? "volume " : "snapshot ") + text(attached.id) +
              " cannot be attached: " + error_meaning(error) + obstacle(attached);
  }
  answer(token, error, std::move(message));
  close_volume(attached, [](Error, Era) {});
}

// Once the engine serves, its members in sync agree about every chunk (docs/REPLICATION.md, O3),
// and nothing changes until the layer lets a request through.
void HostPlane::open_base(Attached& attached) {
  if (std::exchange(attached.base_opening, true)) return;
  if (attached.volume) {
    engine::SnapshotConfig own;
    own.volume = attached.id;
    own.segments = attached.segments;  // perhaps fewer than it has by now: it may be growing
    own.size_bytes = std::min(attached.volume->size_bytes(), own.segments.size() * kSegmentBytes);
    own.segments.resize((own.size_bytes - 1) / kSegmentBytes + 1);
    for (const engine::SegmentStatus& status : attached.volume->status()) {
      if (status.index >= own.segments.size()) continue;
      for (engine::MemberConfig& member : own.segments[status.index].members) {
        member.in_sync = std::ranges::count(status.in_sync, member.host) > 0;
      }
    }
    attached.reader = engine::SnapshotReader::create(loop_, *hub_, std::move(own));
  }
  engine::SnapshotReader& reader = *attached.reader;
  attached.base->open(
      [&reader](auto take, auto listed) { reader.list(std::move(take), std::move(listed)); },
      [this, id = attached.id](Error error) {
        later([this, id, error] { base_opened(id, error); });
      });
}

void HostPlane::base_opened(const Uuid& volume, Error error) {
  const auto found = volumes_.find(volume);
  if (found != volumes_.end()) end_attach(*found->second, error);
}

// What an opening volume waits for, for the line that says so.
std::string HostPlane::obstacle(const Attached& attached) {
  if (attached.base_opening) return "; the chunks of its base, or its own, cannot be listed";
  const std::vector<engine::SegmentStatus> segments = attached.volume->status();
  const auto waiting = [](const engine::SegmentStatus& segment) {
    return segment.state != engine::VolumeState::serving;
  };
  const auto count = std::ranges::count_if(segments, waiting);
  if (count == 0) return {};
  auto first = std::ranges::find_if(segments, waiting);
  const auto lost = [](const engine::SegmentStatus& segment) { return segment.lost; };
  if (std::ranges::any_of(segments, lost)) first = std::ranges::find_if(segments, lost);
  std::string line = "; " + std::to_string(count) + " of " + std::to_string(segments.size()) +
                     " segments do not serve, among them " + std::to_string(first->index);
  for (const Uuid& host : first->absent) line += ", host " + text(host) + " is missing there";
  for (const Uuid& host : first->missing) {
    line += ", host " + text(host) + " counts as in sync there and its store has no replica";
  }
  return line;
}

// Waiting would not help an opening volume whose replicas are lost.
void HostPlane::end_if_lost(const Uuid& volume) noexcept {
  const auto found = volumes_.find(volume);
  if (found == volumes_.end() || found->second->attach_token == 0) return;
  const std::vector<engine::SegmentStatus> segments = found->second->volume->status();
  const auto lost = [](const engine::SegmentStatus& segment) { return segment.lost; };
  if (std::ranges::any_of(segments, lost)) end_attach(*found->second, Error::NotInSync);
}

void HostPlane::detach(Token token, const Uuid& volume) noexcept {
  guard(token, [&] {
    close_volume(attached_of(volume), [this, token](Error error, Era era) {
      if (error != Error::Ok) return answer(token, error);
      answer_era(token, era);
    });
  });
}

// Exports, then jobs, then the engine, each drained; `done` after the volume is gone.
void HostPlane::close_volume(Attached& attached, std::function<void(Error, Era)> done) {
  attached.when_closed.push_back(std::move(done));
  if (std::exchange(attached.closing, true)) return;
  end_attach(attached, Error::ShuttingDown, "the volume was detached before it served");
  attached.deadline.fire = [](io::Timer& timer) noexcept {
    auto& late = *static_cast<Attached*>(timer.owner);
    late.plane->close_layers(late);
    late.plane->close_engine(late);
  };
  loop_.arm(attached.deadline, loop_.now_us() + kDrainUs);
  unexport(attached);
}

void HostPlane::unexport(Attached& attached) {
  if (closing_) return;  // the NBD server is closing: exports_closed() follows
  const Uuid id = attached.id;
  const auto names = attached.exports;
  if (names.empty() && attached.removals == 0) return later([this, id] { exports_gone(id); });
  for (const std::string& name : names) remove_export(attached, name, [](Error) {});
}

// A closing volume goes on once its last export has drained, whoever asked for that.
void HostPlane::remove_export(Attached& attached, const std::string& name,
                              std::function<void(Error)> done) {
  exports_.erase(name);
  std::erase(attached.exports, name);
  ++attached.removals;
  const Uuid id = attached.id;
  nbd_->remove_export(name, [this, id, done = std::move(done)](Error error) {
    done(error);
    const auto found = volumes_.find(id);
    if (found == volumes_.end()) return;
    BLOCKD_ASSERT(found->second->removals > 0);
    if (--found->second->removals == 0 && found->second->closing) {
      later([this, id] { exports_gone(id); });
    }
  });
}

void HostPlane::exports_gone(const Uuid& volume) {
  const auto found = volumes_.find(volume);
  if (found == volumes_.end()) return;
  found->second->unexported = true;
  close_layers(*found->second);
  drop_if_closed(volume);
}

// The layers answer what they have; then the engine goes, or when that takes too long: it fails
// what they wait for.
void HostPlane::close_layers(Attached& attached) {
  if (std::exchange(attached.layers_closing, true)) return;
  attached.io->stop(Error::NotAttached);
  const auto closed = [this, id = attached.id] {
    later([this, id] {
      Attached& left = *volumes_.at(id);
      if (--left.layers_open > 0) return;
      close_engine(left);
      drop_if_closed(id);
    });
  };
  attached.layers_open = (attached.base ? 1u : 0u) + (attached.reader ? 1u : 0u);
  if (attached.layers_open == 0) return close_engine(attached);
  loop_.arm(attached.deadline, loop_.now_us() + kDrainUs);
  if (attached.base) attached.base->close(closed);
  if (attached.reader) attached.reader->close(closed);
}

void HostPlane::close_engine(Attached& attached) {
  if (std::exchange(attached.engine_closing, true)) return;
  loop_.cancel(attached.deadline);
  if (!attached.volume) {
    attached.engine_closed = true;
    return;
  }
  const Uuid id = attached.id;
  attached.volume->close([this, id](Error error) {
    later([this, id, error] {
      Attached& closed = *volumes_.at(id);
      closed.engine_closed = true;
      closed.close_error = error;
      drop_if_closed(id);
    });
  });
}

void HostPlane::drop_if_closed(const Uuid& volume) {
  const auto found = volumes_.find(volume);
  if (found == volumes_.end()) return;
  const Attached& attached = *found->second;
  if (!attached.unexported || !attached.engine_closed || attached.layers_open > 0) return;
  BLOCKD_ASSERT(found->second->io->idle());
  end_grow(volume, Error::ShuttingDown);
  for (const Token token : std::exchange(found->second->engine_tokens, {})) {
    answer(token, Error::ShuttingDown);
  }
  const auto answers = std::move(found->second->when_closed);
  const Error error = found->second->close_error;
  const Era era = found->second->volume ? found->second->volume->config().era : 0;
  std::erase_if(exports_, [&](const auto& exported) { return exported.second == volume; });
  volumes_.erase(found);  // gone before its peers may close: it watches their links
  for (const auto& done : answers) done(error, era);
  advance_closing();
}

void HostPlane::in_sync_changed(Token token, const Uuid& volume,
                                const engine::SegmentConfig& segment) noexcept {
  guard(token, [&] {
    Attached& attached = engine_of(volume);
    attached.volume->in_sync_changed(segment);
    if (segment.index < attached.segments.size() &&
        segment.generation >= attached.segments[segment.index].generation) {
      attached.segments[segment.index] = segment;
    }
    tell_readers(volume, segment);
    answer(token, Error::Ok);
  });
}

void HostPlane::in_sync_change_failed(Token token, const Uuid& volume, std::uint32_t segment,
                                      Error error) noexcept {
  guard(token, [&] {
    if (error == Error::Ok) throw Fault(Error::InvalidArgument, "a failed change needs its error");
    engine_of(volume).volume->in_sync_change_failed(segment, error);
    answer(token, Error::Ok);
  });
}

void HostPlane::grow(Token token, const Uuid& volume, std::uint64_t size_bytes,
                     const std::vector<engine::SegmentConfig>& new_segments) noexcept {
  guard(token, [&] {
    Attached& attached = engine_of(volume);
    engine::Volume& engine = *attached.volume;
    if (size_bytes < engine.size_bytes() || size_bytes % 512 != 0) {
      refuse(volume, "cannot grow from " + std::to_string(engine.size_bytes()) + " to " +
                         std::to_string(size_bytes) + " bytes");
    }
    if (attached.grow_token != 0) throw Fault(Error::Busy, "the volume is growing already");
    if (attached.shrink_token != 0) throw Fault(Error::Busy, "the volume is shrinking");
    attached.grow_token = token;
    engine.grow(size_bytes, new_segments, [this, volume, new_segments](Error error) {
      const auto found = volumes_.find(volume);
      if (error == Error::Ok && found != volumes_.end() && found->second->base) {
        std::ranges::copy(new_segments, std::back_inserter(found->second->segments));
      }
      end_grow(volume, error);
    });
  });
}

// Answers the grow() that still waits, if one does: the engine's answer, or its end.
void HostPlane::end_grow(const Uuid& volume, Error error) noexcept {
  const auto found = volumes_.find(volume);
  if (found == volumes_.end()) return;
  const Token token = std::exchange(found->second->grow_token, 0);
  if (token == 0) return;
  if (error == Error::Ok && found->second->base) found->second->base->top().resized();
  if (error == Error::Ok) take_up_size(*found->second);
  answer(token, error);
}

// What clients are told that connect from now on, and what all may reach.
void HostPlane::take_up_size(const Attached& attached) noexcept {
  if (closing_) return;
  for (const std::string& name : attached.exports) (void)nbd_->resize(name);
}

// The topmost layer clears the tail, since only it knows what has to cover the base; then the
// engine follows.
void HostPlane::shrink(Token token, const Uuid& volume, std::uint64_t size_bytes) noexcept {
  guard(token, [&] {
    Attached& attached = engine_of(volume);
    engine::Volume& engine = *attached.volume;
    if (size_bytes == 0 || size_bytes > engine.size_bytes() || size_bytes % 512 != 0) {
      refuse(volume, "cannot shrink from " + std::to_string(engine.size_bytes()) + " to " +
                         std::to_string(size_bytes) + " bytes");
    }
    if (attached.closing) throw Fault(Error::ShuttingDown, "the volume is being detached");
    if (attached.attach_token != 0) throw Fault(Error::Busy, "the volume is being attached");
    if (attached.grow_token != 0) throw Fault(Error::Busy, "the volume is growing");
    if (attached.shrink_token != 0) throw Fault(Error::Busy, "the volume is shrinking already");
    if (size_bytes == engine.size_bytes()) return answer(token, Error::Ok);
    attached.shrink_token = token;
    if (!attached.base) return shrink_engine(volume, size_bytes, true);
    attached.base->top().shrink(
        size_bytes, [&engine](auto drained) { engine.drain(std::move(drained)); },
        [this, volume, size_bytes](Error error) {
          if (error != Error::Ok) return end_shrink(volume, error);
          shrink_engine(volume, size_bytes, false);
        });
    take_up_size(attached);
  });
}

void HostPlane::shrink_engine(const Uuid& volume, std::uint64_t size_bytes, bool clear) {
  const auto found = volumes_.find(volume);
  if (found == volumes_.end()) return;
  found->second->volume->shrink(size_bytes, clear,
                                [this, volume](Error error) { end_shrink(volume, error); });
  take_up_size(*found->second);
}

// Answers the shrink() that still waits. After an error all is as large as it was.
void HostPlane::end_shrink(const Uuid& volume, Error error) noexcept {
  const auto found = volumes_.find(volume);
  if (found == volumes_.end()) return;
  Attached& attached = *found->second;
  const Token token = std::exchange(attached.shrink_token, 0);
  if (error != Error::Ok && attached.base && !attached.closing) attached.base->top().resized();
  take_up_size(attached);
  answer(token, error);
}

void HostPlane::volume_status(Token token, const Uuid& volume) noexcept {
  guard(token, [&] {
    auto reply = std::make_unique<Reply>();
    reply->segments = engine_of(volume).volume->status();
    answer(token, std::move(reply));
  });
}

void HostPlane::nbd_listen(Token token, const std::string& endpoint) noexcept {
  guard(token, [&] {
    auto reply = std::make_unique<Reply>();
    reply->endpoint = nbd_->listen(endpoint);
    answer(token, std::move(reply));
  });
}

void HostPlane::nbd_close(Token token, const std::string& endpoint) noexcept {
  guard(token, [&] {
    const Error error = nbd_->close_endpoint(endpoint);
    answer(token, error, error == Error::NotFound ? "no NBD endpoint " + endpoint : "");
  });
}

void HostPlane::nbd_export(Token token, const Uuid& volume, const std::string& name,
                           const std::string& description, bool read_only) noexcept {
  guard(token, [&] {
    Attached& attached = attached_of(volume);
    if (attached.closing) throw Fault(Error::ShuttingDown, "the volume is being detached");
    const Error error = nbd_->add_export(name, description, attached.backend(),
                                         {.read_only = read_only || !attached.volume});
    if (error == Error::Ok) {
      attached.exports.push_back(name);
      exports_.emplace(name, volume);
    }
    answer(
        token, error,
        error == Error::AlreadyExists ? "an export named \"" + name + "\" is there already" : "");
  });
}

void HostPlane::nbd_unexport(Token token, const std::string& name) noexcept {
  guard(token, [&] {
    const auto found = exports_.find(name);
    if (found == exports_.end()) throw Fault(Error::NotFound, "no export named \"" + name + "\"");
    Attached& attached = *volumes_.at(found->second);
    remove_export(attached, name, [this, token](Error error) { answer(token, error); });
  });
}

void HostPlane::submit_io(const Uuid& volume, std::unique_ptr<IoJob> job) noexcept {
  const auto found = volumes_.find(volume);
  if (closing_ || found == volumes_.end()) {
    job->error = closing_ ? Error::ShuttingDown : Error::NotAttached;
    return finished(std::move(job));
  }
  found->second->io->submit(std::move(job));
}

void HostPlane::finished(std::unique_ptr<IoJob> job) noexcept {
  answer(job->token, job->error);
}

HostPlane::Attached& HostPlane::attached_of(const Uuid& volume) {
  const auto found = volumes_.find(volume);
  if (found == volumes_.end()) {
    throw Fault(Error::NotAttached, "volume " + text(volume) + " is not attached at this host");
  }
  return *found->second;
}

HostPlane::Attached& HostPlane::engine_of(const Uuid& volume) {
  Attached& attached = attached_of(volume);
  if (!attached.volume) {
    throw Fault(Error::InvalidArgument, text(volume) + " is a snapshot: it has no engine");
  }
  return attached;
}

// Answers a command that the engine still has: its answer, or its end.
void HostPlane::end_engine_command(const Uuid& volume, Token token, Error error) noexcept {
  const auto found = volumes_.find(volume);
  if (found == volumes_.end() || found->second->engine_tokens.erase(token) == 0) return;
  answer(token, error);
}

void HostPlane::in_sync_change_wanted(const Uuid& volume, std::uint32_t segment,
                                      std::uint64_t generation, const std::vector<Uuid>& in_sync,
                                      const char* reason) noexcept {
  Event event;
  event.kind = Event::Kind::in_sync_change_wanted;
  event.volume = volume;
  event.segment = segment;
  event.generation = generation;
  event.in_sync = in_sync;
  event.text = reason;
  sink_.happened(std::move(event));
}

void HostPlane::state_changed(const Uuid& volume, engine::VolumeState state, Error error) noexcept {
  Event event;
  event.kind = Event::Kind::state_changed;
  event.volume = volume;
  event.state = state;
  event.error = error;
  sink_.happened(std::move(event));

  const auto found = volumes_.find(volume);
  if (found == volumes_.end() || found->second->attach_token == 0) return;
  Attached& attached = *found->second;
  if (error != Error::Ok) attached.attach_error = error;
  if (state == engine::VolumeState::serving) {
    return attached.base ? open_base(attached) : end_attach(attached, Error::Ok);
  }
  if (state != engine::VolumeState::fenced) return;
  const Error why = error == Error::Ok ? Error::EpochFenced : error;
  later([this, volume, why] {
    if (const auto fenced = volumes_.find(volume); fenced != volumes_.end()) {
      end_attach(*fenced->second, why);
    }
  });
}

void HostPlane::notice(const Uuid& volume, std::uint32_t segment, const Uuid& host,
                       const char* kind, std::uint64_t value) noexcept {
  if (std::string_view(kind) == "replica-missing") later([this, volume] { end_if_lost(volume); });
  Event event;
  event.kind = Event::Kind::notice;
  event.volume = volume;
  event.segment = segment;
  event.host = host;
  event.text = kind;
  event.value = value;
  sink_.happened(std::move(event));
}

void HostPlane::peer_refused(const Uuid& host, Error reason) noexcept {
  notice(Uuid{}, 0, host, "peer-refused", static_cast<std::uint64_t>(reason));
}

}  // namespace blockd::border
