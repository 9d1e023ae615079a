// Life, stores and peers of the host plane. Volumes and exports: host_volumes.cc.
#include "border/host_plane.h"

#include <algorithm>
#include <utility>

#include "base/assert.h"
#include "border/digest_scan.h"
#include "border/guard.h"
#include "border/text.h"

namespace blockd::border {

namespace {

peer::HubConfig watched_by(peer::HubWatcher& watcher, peer::HubConfig config) {
  config.watcher = &watcher;
  return config;
}

}  // namespace

HostPlane::HostPlane(io::Loop& loop, Buffers& buffers, io::Network& network, DiskOpener open_disk,
                     PlaneConfig config, PlaneSink& sink)
    : loop_(loop),
      buffers_(buffers),
      config_(config),
      sink_(sink),
      open_disk_(std::move(open_disk)),
      hub_(peer::PeerHub::create(loop, buffers, network, watched_by(*this, config.hub))),
      pace_(loop, config.rebuild_bytes_per_second),
      nbd_(std::make_unique<nbd::NbdServer>(loop, buffers, network)) {
  later_timer_.owner = this;
  later_timer_.fire = [](io::Timer& timer) noexcept {
    static_cast<HostPlane*>(timer.owner)->run_later();
  };
}

HostPlane::~HostPlane() {
  BLOCKD_ASSERT(volumes_.empty());
  BLOCKD_ASSERT(closed_ || stores_.empty());
  loop_.cancel(later_timer_);
}

void HostPlane::close(std::function<void()> done) {
  BLOCKD_ASSERT(!closing_);
  closing_ = true;
  when_closed_ = std::move(done);
  end_scans();
  nbd_->close([this] { later([this] { exports_closed(); }); });
  for (auto& [id, attached] : volumes_) close_volume(*attached, [](Error, Era) {});
}

void HostPlane::exports_closed() {
  exports_closed_ = true;
  std::vector<Uuid> volumes;
  for (const auto& [id, attached] : volumes_) volumes.push_back(id);
  for (const Uuid& id : volumes) exports_gone(id);
  advance_closing();
}

// Once the exports and the last volume have gone the peers go, then the stores.
void HostPlane::advance_closing() {
  if (!closing_ || !exports_closed_ || !volumes_.empty() || hub_closing_) return;
  hub_closing_ = true;
  hub_->close([this] { later([this] { close_stores(); }); });
}

void HostPlane::close_stores() {
  BLOCKD_ASSERT(volumes_.empty());
  for (auto& [id, open] : stores_) {
    if (!open.closing) close_store_now(open, [](Error) {});
  }
  if (!stores_.empty()) return;  // the last one to close comes back here
  nbd_.reset();
  hub_.reset();
  closed_ = true;
  std::exchange(when_closed_, nullptr)();
}

void HostPlane::open_store(Token token, const std::string& path,
                           const store::Openings& newest) noexcept {
  guard(token, [&] {
    for (const auto& [id, open] : stores_) {
      if (open.path == path)
        throw Fault(Error::StoreInUse, path + ": this store is open here already");
    }
    OpenStore open;
    open.path = path;
    open.disk = open_disk_(path);
    try {
      open.store =
          store::Store::open(*open.disk, loop_, buffers_,
                             {.cluster_id = config_.hub.cluster_id, .newest_openings = newest});
    } catch (const Fault& fault) {
      throw Fault(fault.code(), path + ": " + fault.what());
    }
    const Uuid id = open.store->info().store_id;
    const auto [place, fresh] = stores_.try_emplace(id, std::move(open));
    if (!fresh) {
      throw Fault(Error::AlreadyExists,
                  path + ": a store with the id " + text(id) + " is open at " + place->second.path);
    }
    for (const auto& [volume, set] : snapshots_) place->second.store->set_snapshots(set);
    hub_->add_store(*place->second.store);
    place->second.store->record_opening([this, token, id](Error error) {
      later([this, token, id, error] { store_opened(token, id, error); });
    });
  });
}

// Answers open_store(): only now do later openings have a higher incarnation.
void HostPlane::store_opened(Token token, const Uuid& id, Error error) noexcept {
  const auto found = stores_.find(id);
  if (found == stores_.end() || found->second.closing) return answer(token, Error::ShuttingDown);
  if (error != Error::Ok) {
    return answer(token, error,
                  found->second.path +
                      ": that the store was opened cannot be written: " + error_meaning(error));
  }
  auto reply = std::make_unique<Reply>();
  reply->stores.push_back(report(found->second));
  answer(token, std::move(reply));
}

void HostPlane::close_store(Token token, const Uuid& store) noexcept {
  guard(token, [&] {
    close_store_now(open_store_of(store), [this, token](Error error) { answer(token, error); });
  });
}

void HostPlane::flush_store(Token token, const Uuid& store) noexcept {
  struct Flush {
    HostPlane& plane;
    Token token;
    store::StoreOp op;
  };
  guard(token, [&] {
    store::Store& in = *open_store_of(store).store;
    std::unique_ptr<Flush> flush(new Flush{*this, token, {}});
    flush->op.op = store::StoreOp::Op::flush;
    flush->op.owner = flush.get();
    flush->op.done = [](store::StoreOp& op) noexcept {
      const std::unique_ptr<Flush> over(static_cast<Flush*>(op.owner));
      over->plane.answer(over->token, op.error);
    };
    in.submit(flush.release()->op);
  });
}

void HostPlane::close_store_now(OpenStore& open, std::function<void(Error)> done) {
  open.closing = true;
  const Uuid id = open.store->info().store_id;
  hub_->remove_store(id);
  if (open.scrubber) open.scrubber->stop();
  open.store->close([this, id, done = std::move(done)](Error error) {
    later([this, id, error, done] {
      stores_.erase(id);
      done(error);
      if (hub_closing_ && stores_.empty() && when_closed_) close_stores();
    });
  });
}

void HostPlane::store_infos(Token token) noexcept {
  guard(token, [&] {
    auto reply = std::make_unique<Reply>();
    for (const auto& [id, open] : stores_) {
      if (!open.closing) reply->stores.push_back(report(open));
    }
    answer(token, std::move(reply));
  });
}

void HostPlane::create_replica(Token token, const Uuid& store, const SegmentId& id,
                               std::uint32_t block_count) noexcept {
  guard(token, [&] {
    store::Store& into = *open_store_of(store).store;
    if (block_count == 0 || block_count > kSegmentBytes / kBlockBytes) {
      throw Fault(Error::InvalidArgument,
                  text(id) + ": a segment cannot have " + std::to_string(block_count) + " blocks");
    }
    for (const auto& [other, open] : stores_) {
      if (other != store && !open.closing && open.store->find_segment(id)) {
        throw Fault(Error::AlreadyExists, text(id) + " has its replica in store " + text(other));
      }
    }
    const auto done = [this, token](Error error) { answer(token, error); };
    const auto present = into.find_segment(id);
    if (!present) return into.create_segment(id, block_count, done);
    if (into.segment_info(*present).block_count >= block_count) return answer(token, Error::Ok);
    into.resize_segment(*present, block_count, done);
  });
}

void HostPlane::drop_replica(Token token, const SegmentId& id) noexcept {
  guard(token, [&] {
    const Replica replica = replica_of(id);
    replica.open->store->drop_segment(replica.segment,
                                      [this, token](Error error) { answer(token, error); });
  });
}

void HostPlane::list_replicas(Token token) noexcept {
  guard(token, [&] {
    auto reply = std::make_unique<Reply>();
    for (const auto& [id, open] : stores_) {
      if (open.closing) continue;
      for (const store::SegmentHandle segment : open.store->segments()) {
        const store::SegmentInfo info = open.store->segment_info(segment);
        reply->replicas.push_back({info, id, hub_->lease_left_us(info.id.volume)});
      }
    }
    answer(token, std::move(reply));
  });
}

void HostPlane::list_digests(Token token, const SegmentId& id, bool read) noexcept {
  guard(token, [&] {
    const Replica replica = replica_of(id);
    auto digests = list_all_digests(*replica.open->store, replica.segment);
    const auto reply_with = [this, token, id, store = replica.open->store.get()](
                                std::vector<store::ChunkDigest> listed) {
      if (store->metadata_lost())
        return answer(token, Error::StoreDamaged, text(id) + ": its store has lost metadata");
      auto reply = std::make_unique<Reply>();
      reply->digests = std::move(listed);
      answer(token, std::move(reply));
    };
    if (!read) return reply_with(std::move(digests));
    DigestScan::start(
        loop_, buffers_, *replica.open->store, replica.segment, std::move(digests),
        [this, token, id, reply_with](Error error, std::uint32_t block,
                                      std::vector<store::ChunkDigest> listed) {
          if (error == Error::Ok) return reply_with(std::move(listed));
          answer(token, error,
                 text(id) + ", block " + std::to_string(block) + ": " + error_meaning(error));
        });
  });
}

void HostPlane::locate(Token token, const SegmentId& id, std::uint32_t block) noexcept {
  guard(token, [&] {
    const Replica replica = replica_of(id);
    const store::Store& store = *replica.open->store;
    if (block >= store.segment_info(replica.segment).block_count) {
      throw Fault(Error::ExtentOutOfRange, text(id) + " has no block " + std::to_string(block));
    }
    auto reply = std::make_unique<Reply>();
    reply->store_id = store.info().store_id;
    reply->location = store.locate(replica.segment, block);
    answer(token, std::move(reply));
  });
}

void HostPlane::listen_peers(Token token, const std::string& endpoint) noexcept {
  guard(token, [&] {
    auto reply = std::make_unique<Reply>();
    reply->endpoint = hub_->listen(endpoint);
    answer(token, std::move(reply));
  });
}

void HostPlane::set_peer(Token token, const Uuid& host, const std::string& endpoint) noexcept {
  guard(token, [&] {
    hub_->set_peer(host, endpoint);
    answer(token, Error::Ok);
  });
}

void HostPlane::answer(Token token, Error error, std::string message) noexcept {
  sink_.answer({.token = token, .error = error, .message = std::move(message), .reply = nullptr});
}

void HostPlane::answer(Token token, std::unique_ptr<Reply> reply) noexcept {
  sink_.answer({.token = token, .error = Error::Ok, .message = {}, .reply = std::move(reply)});
}

void HostPlane::answer_era(Token token, Era era) noexcept {
  auto reply = std::make_unique<Reply>();
  reply->era = era;
  answer(token, std::move(reply));
}

// A timer, not a task: the lower rooms' own deferred tasks, which may still refer to what `action`
// destroys, have all run before it fires.
void HostPlane::later(std::function<void()> action) {
  later_.push_back(std::move(action));
  if (!later_timer_.armed()) loop_.arm(later_timer_, loop_.now_us());
}

void HostPlane::run_later() noexcept {
  for (const auto& action : std::exchange(later_, {})) action();
}

HostPlane::OpenStore& HostPlane::open_store_of(const Uuid& store) {
  const auto found = stores_.find(store);
  if (found == stores_.end() || found->second.closing) {
    throw Fault(Error::NotFound, "store " + text(store) + " is not open at this host");
  }
  return found->second;
}

HostPlane::Replica HostPlane::replica_of(const SegmentId& id) {
  for (auto& [store, open] : stores_) {
    if (open.closing) continue;
    if (const auto segment = open.store->find_segment(id)) return {&open, *segment};
  }
  throw Fault(Error::NotFound, "this host holds no replica of " + text(id));
}

StoreReport HostPlane::report(const OpenStore& open) {
  return {open.store->info(), open.path};
}

}  // namespace blockd::border
