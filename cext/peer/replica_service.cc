#include "peer/replica_service.h"

#include <algorithm>
#include <utility>

#include "base/assert.h"

namespace blockd::peer {

void ReplicaService::add_store(store::Store& store) {
  const Uuid id = store.info().store_id;
  BLOCKD_ASSERT(!stores_.contains(id));
  stores_[id] = &store;
}

void ReplicaService::remove_store(const Uuid& store_id) {
  if (const auto store = stores_.find(store_id); store != stores_.end()) {
    views_.drop_store(*store->second);
    stores_.erase(store);
  }
  for (auto& [key, replica] : replicas_) {
    if (key.first != store_id) continue;
    detach_writer(*replica);
    replica->detach_store();
  }
}

void ReplicaService::close_session(Session& session) noexcept {
  session.closed = true;
  for (Session::Slot& slot : session.slots) {
    if (slot.replica) detach_writer(*slot.replica);
  }
}

void ReplicaService::submit(Session& session, ReplicaOp& op) noexcept {
  op.service = this;
  op.opened_by = &session;
  op.error = Error::Ok;
  op.damaged = 0;
  switch (op.kind) {
    case ReplicaOp::Kind::open:
      return open(session, op);
    case ReplicaOp::Kind::heartbeat:
      return heartbeat(op);
    case ReplicaOp::Kind::release:
      return release(op);
    case ReplicaOp::Kind::read_view:
      return read_view(op);
    case ReplicaOp::Kind::list_view:
      return list_view(op);
    default:
      return submit_to_replica(session, op);
  }
}

// --- opening
// ---------------------------------------------------------------------------------------

void ReplicaService::open(Session&, ReplicaOp& op) noexcept {
  const auto store = stores_.find(op.store);
  if (store == stores_.end()) return completions_.push(op, Error::NotFound);
  Grant& grant = grant_of(op.segment.volume);
  if (op.version.epoch < grant.fence) return completions_.push(op, Error::EpochFenced);
  grant.fence = op.version.epoch;  // F1: from here on, also while the answer has to wait

  Replica& replica = replica_at(op.store, op.segment);
  op.replica = &replica;
  if (replica.refresh()) {
    const std::uint64_t promised = replica.store().segment_info(replica.segment()).promised_epoch;
    if (op.version.epoch < promised) return completions_.push(op, Error::EpochFenced);
    detach_writer(replica);
    op.wait_us = lease_wait_us(op, promised);
    if (op.wait_us > 0) return completions_.push(op, Error::LeaseHeld);
    return replica.await_idle(op);
  }
  if (!op.may_create) return completions_.push(op, Error::NotFound);
  replica.store().create_segment(op.segment, op.block_count, [this, &op](Error error) {
    if (error != Error::Ok && error != Error::AlreadyExists) return completions_.push(op, error);
    if (!op.replica->refresh()) return completions_.push(op, Error::NotFound);
    op.replica->await_idle(op);
  });
}

// F2: zero when no lower epoch's lease can be alive.
std::uint64_t ReplicaService::lease_wait_us(const ReplicaOp& op, std::uint64_t promised) noexcept {
  const std::uint64_t now = loop_.now_us();
  const Grant& grant = grant_of(op.segment.volume);
  const std::uint64_t newest = grant.epoch < op.version.epoch ? grant.until_us : 0;
  const std::uint64_t alive_until = std::max(newest, grant.older_until_us);
  if (alive_until > now) return alive_until - now;
  const bool forgot = promised != 0 && promised < op.version.epoch && now < started_us_ + lease_us_;
  return forgot ? started_us_ + lease_us_ - now : 0;
}

void ReplicaService::replica_idle(ReplicaOp& op) noexcept {
  Replica& replica = *op.replica;
  if (!replica.attached()) return completions_.push(op, Error::NotFound);
  replica.store().promise_epoch(replica.segment(), op.version.epoch,
                                [this, &op](Error error) { promised(op, error); });
}

void ReplicaService::promised(ReplicaOp& op, Error error) noexcept {
  Replica& replica = *op.replica;
  if (error == Error::Ok && op.version.epoch < grant_of(op.segment.volume).fence)
    error = Error::EpochFenced;
  if (error == Error::Ok && (op.opened_by->closed || !replica.refresh())) error = Error::NotFound;
  if (error == Error::Ok) {
    const store::SegmentInfo info = replica.store().segment_info(replica.segment());
    detach_writer(replica);
    op.handle = attach_writer(replica, *op.opened_by, op.version.epoch);
    op.stable = info.stable;
    op.block_count = info.block_count;
    op.era = info.newest_era;
  }
  completions_.push(op, error);
}

void ReplicaService::detach_writer(Replica& replica) noexcept {
  if (replica.writer == nullptr) return;
  Session::Slot& slot = replica.writer->slots[replica.writer_slot];
  BLOCKD_ASSERT(slot.replica == &replica);
  slot.replica = nullptr;
  ++slot.generation;
  replica.writer->free_slots.push_back(replica.writer_slot);
  replica.writer = nullptr;
}

std::uint32_t ReplicaService::attach_writer(Replica& replica, Session& session,
                                            std::uint64_t epoch) {
  std::uint32_t index;
  if (session.free_slots.empty()) {
    index = static_cast<std::uint32_t>(session.slots.size());
    BLOCKD_ASSERT(index <= 0xffff);
    session.slots.emplace_back();
    session.free_slots.reserve(session.slots.size());
  } else {
    index = session.free_slots.back();
    session.free_slots.pop_back();
  }
  session.slots[index].replica = &replica;
  replica.writer = &session;
  replica.writer_slot = index;
  replica.writer_epoch = epoch;
  replica.last_seq = 0;
  replica.last_era = 0;
  replica.failed = false;
  return (std::uint32_t{session.slots[index].generation} << 16) | index;
}

Replica& ReplicaService::replica_at(const Uuid& store_id, SegmentId id) {
  store::Store& store = *stores_.at(store_id);
  std::unique_ptr<Replica>& replica = replicas_[{store_id, id}];
  if (!replica) replica = std::make_unique<Replica>(store, store_id, id);
  if (!replica->attached() && replica->idle()) *replica = Replica(store, store_id, id);
  return *replica;
}

// --- leases
// ----------------------------------------------------------------------------------------

// After a restart the fences are as high as the epochs promised on disk.
ReplicaService::Grant& ReplicaService::grant_of(const Uuid& volume) {
  const auto [it, fresh] = grants_.try_emplace(volume);
  if (fresh) {
    for (const auto& [id, store] : stores_) {
      for (const store::SegmentHandle segment : store->segments()) {
        const store::SegmentInfo info = store->segment_info(segment);
        if (info.id.volume == volume)
          it->second.fence = std::max(it->second.fence, info.promised_epoch);
      }
    }
  }
  return it->second;
}

namespace {

// Of an answer that was looked up in the store's metadata.
Error sound(const store::Store& store) noexcept {
  return store.metadata_lost() ? Error::DiskError : Error::Ok;
}

// What is left must take everything that engines may have under way when they hear of it.
bool nearly_full(const store::Store& store) noexcept {
  const store::StoreInfo info = store.info();
  const std::uint64_t reserve =
      std::clamp<std::uint64_t>(info.capacity_bytes / 32, 2u << 20, 256u << 20);
  return info.allocated_bytes + reserve > info.capacity_bytes;
}

}  // namespace

void ReplicaService::heartbeat(ReplicaOp& op) noexcept {
  Grant& grant = grant_of(op.segment.volume);
  if (op.version.epoch < grant.fence) return completions_.push(op, Error::EpochFenced);
  // A newer engine's lease says nothing about the end of an older one's.
  const std::uint64_t until = loop_.now_us() + lease_us_;
  if (op.version.epoch > grant.epoch) {
    grant.older_until_us = std::max(grant.older_until_us, grant.until_us);
    grant.epoch = op.version.epoch;
  }
  (op.version.epoch == grant.epoch ? grant.until_us : grant.older_until_us) = until;
  op.lease_us = lease_us_;
  op.full = std::any_of(stores_.begin(), stores_.end(),
                        [](const auto& held) { return nearly_full(*held.second); });
  completions_.push(op, Error::Ok);
}

void ReplicaService::release(ReplicaOp& op) noexcept {
  Grant& grant = grant_of(op.segment.volume);
  if (grant.epoch == op.version.epoch) grant.until_us = 0;
  completions_.push(op, Error::Ok);
}

std::uint64_t ReplicaService::lease_left_us(const Uuid& volume) const noexcept {
  const auto found = grants_.find(volume);
  if (found == grants_.end()) return 0;
  const std::uint64_t until = std::max(found->second.until_us, found->second.older_until_us);
  return until - std::min(until, loop_.now_us());
}

// --- snapshots
// ---------------------------------------------------------------------------------------

// The segment is looked up each time: it may have been dropped, and made anew under its old handle.
void ReplicaService::read_view(ReplicaOp& op) {
  const auto store = stores_.find(op.store);
  if (store == stores_.end()) return completions_.push(op, Error::NotFound);
  store::Store& held = *store->second;
  const auto segment = held.find_segment(op.segment);
  if (!segment) return completions_.push(op, Error::NotFound);
  const std::uint64_t end = std::uint64_t{op.first_block} + op.block_count;
  if (op.block_count == 0) return completions_.push(op, Error::InvalidArgument);
  if (op.block_count > format::kWireBlocksMax) return completions_.push(op, Error::RequestTooLarge);
  if (end > held.segment_info(*segment).block_count)
    return completions_.push(op, Error::ExtentOutOfRange);
  op.cached_view = nullptr;
  if (op.era != 0) {
    op.cached_view = views_.acquire(held, op.segment, *segment, op.era);
    if (op.cached_view == nullptr) return completions_.push(op, Error::Busy);
  }
  store::StoreOp& store_op = op.store_op;
  store_op = store::StoreOp{};
  store_op.op = store::StoreOp::Op::read;
  store_op.segment = op.cached_view ? op.cached_view->handle : *segment;
  store_op.first_block = op.first_block;
  store_op.block_count = op.block_count;
  store_op.data = op.data;
  store_op.hold = op.hold;
  store_op.crcs_out = op.crcs;
  store_op.owner = &op;
  store_op.done = view_read_done;
  held.submit(store_op);
}

void ReplicaService::view_read_done(store::StoreOp& store_op) noexcept {
  ReplicaOp& op = *static_cast<ReplicaOp*>(store_op.owner);
  ReplicaService& self = *op.service;
  store_op.hold.reset();
  op.error = store_op.error;
  CachedView* view = std::exchange(op.cached_view, nullptr);
  // Its segment was dropped, perhaps before this read came: the asker tries again with a new view.
  const bool stale = view != nullptr && op.error == Error::NotFound;
  if (stale) self.views_.drop(*view);
  if (view) self.views_.release(*view);
  const auto store = self.stores_.find(op.store);
  if (stale && store != self.stores_.end() && store->second->find_segment(op.segment))
    op.error = Error::Busy;
  self.complete(op);
}

void ReplicaService::list_view(ReplicaOp& op) {
  const auto store = stores_.find(op.store);
  if (store == stores_.end()) return completions_.push(op, Error::NotFound);
  store::Store& held = *store->second;
  const auto segment = held.find_segment(op.segment);
  if (!segment) return completions_.push(op, Error::NotFound);
  op.version = Version{};
  if (op.era == 0) {
    Replica::list_chunks(held, *segment, op);
    return completions_.push(op, sound(held));
  }
  const store::SegmentHandle view = held.open_view(*segment, op.era);
  if (view == store::Store::kNoView) return completions_.push(op, Error::Busy);
  Replica::list_chunks(held, view, op);
  held.close_view(view);
  completions_.push(op, sound(held));
}

// --- operations on an opened replica
// -----------------------------------------------------------------

Replica* ReplicaService::lookup(const Session& session, std::uint32_t handle) const noexcept {
  const std::uint32_t index = handle & 0xffff;
  if (index >= session.slots.size()) return nullptr;
  const Session::Slot& slot = session.slots[index];
  return slot.generation == handle >> 16 ? slot.replica : nullptr;
}

bool ReplicaService::still_open(const ReplicaOp& op) const noexcept {
  return lookup(*op.opened_by, op.handle) == op.replica;
}

void ReplicaService::submit_to_replica(Session& session, ReplicaOp& op) noexcept {
  Replica* replica = lookup(session, op.handle);
  if (replica == nullptr) return completions_.push(op, Error::NotAttached);
  const auto segment = replica->store().find_segment(replica->id());
  if (!segment || *segment != replica->segment()) {  // dropped behind the engine's back
    detach_writer(*replica);
    return completions_.push(op, Error::NotFound);
  }
  op.replica = replica;
  if (op.stable > Version{}) replica->store().set_stable(replica->segment(), op.stable);
  if (const Error error = check_extent(*replica, op); error != Error::Ok) {
    if (is_mutation(op.kind)) replica->failed = true;
    return completions_.push(op, error);
  }
  switch (op.kind) {
    case ReplicaOp::Kind::list:
      replica->list(op);
      return completions_.push(op, sound(replica->store()));
    case ReplicaOp::Kind::states:
      replica->list_states(op);
      return completions_.push(op, sound(replica->store()));
    case ReplicaOp::Kind::digests:
      replica->list_digests(op);
      return completions_.push(op, sound(replica->store()));
    case ReplicaOp::Kind::root:
      return replica->submit_root(op);
    case ReplicaOp::Kind::read:
      return replica->submit_read(op);
    case ReplicaOp::Kind::read_chunk:
      if (replica->submit_read_chunk(op)) return;
      return completions_.push(op, op.error != Error::Ok ? op.error : sound(replica->store()));
    case ReplicaOp::Kind::flush:
      return replica->submit_flush(op);
    case ReplicaOp::Kind::stable:
      return completions_.push(op, Error::Ok);
    default:
      BLOCKD_ASSERT(is_mutation(op.kind));
      break;
  }
  if (const Error error = check_mutation(*replica, op); error != Error::Ok) {
    replica->failed = true;
    return completions_.push(op, error);
  }
  replica->submit_mutation(op);
}

Error ReplicaService::check_extent(Replica& replica, const ReplicaOp& op) noexcept {
  const bool whole_chunk = op.kind == ReplicaOp::Kind::read_chunk ||
                           op.kind == ReplicaOp::Kind::replace ||
                           op.kind == ReplicaOp::Kind::forget;
  const bool extent = op.kind == ReplicaOp::Kind::read || op.kind == ReplicaOp::Kind::write ||
                      op.kind == ReplicaOp::Kind::zero;
  const std::uint64_t end = std::uint64_t{op.first_block} + (whole_chunk ? 1 : op.block_count);
  if (!whole_chunk && !extent) return Error::Ok;
  if (end > replica.block_count() && (!replica.refresh() || end > replica.block_count())) {
    return Error::ExtentOutOfRange;
  }
  if (whole_chunk)
    return op.first_block % kBlocksPerChunk == 0 ? Error::Ok : Error::InvalidArgument;
  if (op.block_count == 0) return Error::InvalidArgument;
  const bool payload = op.kind != ReplicaOp::Kind::zero;
  return payload && op.block_count > format::kWireBlocksMax ? Error::RequestTooLarge : Error::Ok;
}

Error ReplicaService::check_mutation(Replica& replica, const ReplicaOp& op) noexcept {
  if (replica.failed) return Error::NotInSync;
  if (op.kind == ReplicaOp::Kind::replace || op.kind == ReplicaOp::Kind::forget) {
    const bool past = op.kind == ReplicaOp::Kind::forget || op.died != 0;
    const bool nothing = past && op.version == Version{};
    const bool dead = op.died != 0 && op.died <= op.era;  // no snapshot can show it
    return nothing || dead ? Error::ProtocolError : Error::Ok;
  }
  if (op.version.epoch != replica.writer_epoch || op.version.seq <= replica.last_seq ||
      op.era < replica.last_era) {
    return Error::ProtocolError;
  }
  replica.last_seq = op.version.seq;
  replica.last_era = op.era;
  return Error::Ok;
}

}  // namespace blockd::peer
