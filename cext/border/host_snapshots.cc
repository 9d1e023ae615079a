// Eras, snapshots and bases on the host plane (docs/SNAPSHOTS.md).
#include <algorithm>
#include <utility>

#include "border/attach_checks.h"
#include "border/guard.h"
#include "border/host_plane.h"
#include "border/text.h"

namespace blockd::border {

void HostPlane::set_snapshots(Token token, store::SnapshotSet set) noexcept {
  guard(token, [&] {
    std::ranges::sort(set.eras);
    for (const auto& [id, open] : stores_) {
      if (!open.closing) open.store->set_snapshots(set);
    }
    snapshots_[set.volume] = std::move(set);
    answer(token, Error::Ok);
  });
}

void HostPlane::begin_era(Token token, const Uuid& volume, Era era) noexcept {
  guard(token, [&] {
    Attached& attached = engine_of(volume);
    if (attached.closing) throw Fault(Error::ShuttingDown, "the volume is being detached");
    attached.engine_tokens.insert(token);
    attached.volume->begin_era(
        era, [this, volume, token](Error error) { end_begin_era(volume, token, error); });
  });
}

// The answer names the engine's era: it is later than the one asked for when another snapshot has
// been taken since, or when the metadata had forgotten how far the volume was.
void HostPlane::end_begin_era(const Uuid& volume, Token token, Error error) noexcept {
  const auto found = volumes_.find(volume);
  if (error != Error::Ok || found == volumes_.end())
    return end_engine_command(volume, token, error);
  if (found->second->engine_tokens.erase(token) == 0) return;
  answer_era(token, found->second->volume->config().era);
}

void HostPlane::hold_mutations(Token token, const Uuid& volume, std::uint64_t for_us) noexcept {
  guard(token, [&] {
    Attached& attached = engine_of(volume);
    if (attached.closing) throw Fault(Error::ShuttingDown, "the volume is being detached");
    attached.volume->hold_mutations(for_us);
    answer(token, Error::Ok);
  });
}

void HostPlane::attach_snapshot(Token token, const SnapshotSpec& spec) noexcept {
  guard(token, [&] {
    check(spec);
    if (volumes_.contains(spec.id)) {
      throw Fault(Error::AlreadyExists, "snapshot " + text(spec.id) + " is attached here");
    }
    auto fresh = std::make_unique<Attached>();
    Attached& attached = *fresh;
    attached.id = spec.id;
    attached.snapshot_of = spec.snapshot.volume;
    attached.reader = engine::SnapshotReader::create(loop_, *hub_, spec.snapshot);
    if (spec.base) {
      attached.base =
          std::make_unique<BaseStack>(loop_, buffers_, *hub_, *attached.reader, false, *spec.base);
    }
    admit(std::move(fresh), token);
    if (!attached.base) return end_attach(attached, Error::Ok);
    open_base(attached);
  });
}

void HostPlane::flatten(Token token, const Uuid& volume, std::uint64_t bytes_per_second) noexcept {
  guard(token, [&] {
    Attached& attached = engine_of(volume);
    if (attached.closing) throw Fault(Error::ShuttingDown, "the volume is being detached");
    if (bytes_per_second == 0) throw Fault(Error::InvalidArgument, "a rate must be positive");
    if (!attached.base) return answer(token, Error::Ok);
    attached.base->top().flatten(bytes_per_second, [this, token, volume](Error error) {
      if (error == Error::Ok) return answer(token, Error::Ok);
      answer(token, error,
             "volume " + text(volume) +
                 " still shows its base, flatten it again: " + error_meaning(error));
    });
  });
}

void HostPlane::members_changed(Token token, const Uuid& volume,
                                const engine::SegmentConfig& segment) noexcept {
  guard(token, [&] {
    tell_readers(volume, segment);
    answer(token, Error::Ok);
  });
}

// Everybody here who reads a snapshot of that volume.
void HostPlane::tell_readers(const Uuid& volume, const engine::SegmentConfig& segment) {
  for (const auto& [id, attached] : volumes_) {
    if (!attached->volume && attached->snapshot_of == volume) {
      attached->reader->members_changed(segment);
    }
    if (attached->base) attached->base->members_changed(volume, segment);
  }
}

void HostPlane::changed_chunks(Token token, const SegmentId& id, std::optional<ChunkView> from,
                               ChunkView to) noexcept {
  guard(token, [&] {
    (void)replica_of(id);
    const auto [place, fresh] = scans_.try_emplace(token, this, token, id, ChangedChunks(from, to));
    ChunkScan& scan = place->second;
    scan.timer.owner = &scan;
    scan.timer.fire = [](io::Timer& timer) noexcept {
      auto& next = *static_cast<ChunkScan*>(timer.owner);
      next.plane->step_scan(next);
    };
    loop_.arm(scan.timer, loop_.now_us());
  });
}

// A page in each turn of the loop. The replica is looked up anew: it may be gone by now.
void HostPlane::step_scan(ChunkScan& scan) noexcept {
  const Token token = scan.token;
  bool over = true;
  guard(token, [&] {
    const Replica replica = replica_of(scan.id);
    const store::Store& store = *replica.open->store;
    over = !scan.chunks.step([&](std::uint32_t from, Version above, auto out) {
      return store.list_states(replica.segment, from, above, out);
    });
    if (!over) return loop_.arm(scan.timer, loop_.now_us());
    if (store.metadata_lost()) {
      throw Fault(Error::StoreDamaged, text(scan.id) + ": its store has lost metadata");
    }
    auto reply = std::make_unique<Reply>();
    reply->chunks = scan.chunks.take();
    answer(token, std::move(reply));
  });
  if (over) scans_.erase(token);
}

void HostPlane::end_scans() noexcept {
  for (auto& [token, scan] : scans_) {
    loop_.cancel(scan.timer);
    answer(token, Error::ShuttingDown);
  }
  scans_.clear();
}

}  // namespace blockd::border
