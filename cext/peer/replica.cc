#include "peer/replica.h"

#include <cstring>

#include "base/crc32c.h"
#include "peer/replica_service.h"

namespace blockd::peer {

namespace {

Replica& replica_of(store::StoreOp& store_op) noexcept {
  return *static_cast<ReplicaOp*>(store_op.owner)->replica;
}

}  // namespace

bool Replica::refresh() noexcept {
  segment_known_ = false;
  if (store_ == nullptr) return false;
  const auto found = store_->find_segment(id_);
  if (!found) return false;
  segment_ = *found;
  block_count_ = store_->segment_info(segment_).block_count;
  segment_known_ = true;
  return true;
}

void Replica::fill(ReplicaOp& op, store::StoreOp::Op what) noexcept {
  store::StoreOp& store_op = op.store_op;
  store_op = store::StoreOp{};
  store_op.op = what;
  store_op.segment = segment_;
  store_op.first_block = op.first_block;
  store_op.block_count = op.block_count;
  store_op.owner = &op;
}

void Replica::submit_mutation(ReplicaOp& op) noexcept {
  using Op = store::StoreOp::Op;
  const bool replace = op.kind == ReplicaOp::Kind::replace;
  fill(op, replace ? Op::replace : op.kind == ReplicaOp::Kind::write ? Op::write : Op::zero);
  op.store_op.version = op.version;
  op.store_op.valid_mask = op.valid_mask;
  op.store_op.data = op.data;
  op.store_op.crcs = op.crcs;
  op.store_op.hold = op.hold;
  op.store_op.broken = &failed;
  op.store_op.done = mutation_done;
  if (replace) op.store_op.block_count = kBlocksPerChunk;
  op.arrival = ++arrivals_;
  outstanding_.push_back(op);
  store_->submit(op.store_op);
}

void Replica::mutation_done(store::StoreOp& store_op) noexcept {
  ReplicaOp& op = *static_cast<ReplicaOp*>(store_op.owner);
  Replica& replica = *op.replica;
  store_op.hold.reset();
  op.error = store_op.error;
  if (op.error != Error::Ok) replica.failed = true;
  const bool flush_too = op.fua && op.error == Error::Ok;
  replica.mutation_left(op);
  if (flush_too) {
    replica.start_flush(op);
  } else {
    op.service->complete(op);
  }
}

// An older mutation is done: flushes and openings that waited for it alone may go on.
void Replica::mutation_left(ReplicaOp& op) noexcept {
  outstanding_.erase(op);
  const std::uint64_t oldest =
      outstanding_.empty() ? ~std::uint64_t{0} : outstanding_.front()->arrival;
  while (!flushes_.empty() && flushes_.front()->arrival < oldest)
    start_flush(*flushes_.pop_front());
  while (!waiting_open_.empty() && waiting_open_.front()->arrival < oldest) {
    ReplicaOp& opening = *waiting_open_.pop_front();
    opening.service->replica_idle(opening);
  }
}

void Replica::submit_flush(ReplicaOp& op) noexcept {
  op.arrival = arrivals_;
  if (outstanding_.empty() || outstanding_.front()->arrival > op.arrival) {
    start_flush(op);
  } else {
    flushes_.push_back(op);
  }
}

void Replica::start_flush(ReplicaOp& op) noexcept {
  op.store_op = store::StoreOp{};
  op.store_op.op = store::StoreOp::Op::flush;
  op.store_op.owner = &op;
  op.store_op.done = flush_done;
  if (store_ == nullptr) {
    op.service->complete_later(op, Error::NotFound);
    return;
  }
  ++flushing_;
  store_->submit(op.store_op);
}

void Replica::flush_done(store::StoreOp& store_op) noexcept {
  ReplicaOp& op = *static_cast<ReplicaOp*>(store_op.owner);
  Replica& replica = replica_of(store_op);
  --replica.flushing_;
  op.error = store_op.error;
  // A failed mutation before it means that "every mutation before" is not so.
  if (op.error == Error::Ok && replica.failed) op.error = Error::NotInSync;
  if (op.error != Error::Ok) replica.failed = true;
  op.service->complete(op);
}

void Replica::await_idle(ReplicaOp& op) noexcept {
  op.arrival = arrivals_;
  if (outstanding_.empty()) {
    op.service->replica_idle(op);
  } else {
    waiting_open_.push_back(op);
  }
}

void Replica::submit_read(ReplicaOp& op) noexcept {
  fill(op, store::StoreOp::Op::read);
  op.store_op.data = op.data;
  op.store_op.hold = op.hold;
  op.store_op.crcs_out = op.crcs;
  op.store_op.done = read_done;
  ++reads_;
  store_->submit(op.store_op);
}

bool Replica::submit_read_chunk(ReplicaOp& op) noexcept {
  const std::uint32_t chunk = op.first_block / kBlocksPerChunk;
  op.version = store_->chunk_version(segment_, chunk);
  op.valid_mask = store_->chunk_valid_mask(segment_, chunk);
  if (op.valid_mask == 0) return false;
  // The segment's last chunk may be cut: what lies beyond reads as zeros.
  const std::uint32_t inside = block_count_ - op.first_block;
  op.block_count = inside < kBlocksPerChunk ? inside : kBlocksPerChunk;
  for (std::uint32_t i = op.block_count; i < kBlocksPerChunk; ++i) {
    std::memset(op.data + std::size_t{i} * kBlockBytes, 0, kBlockBytes);
    op.crcs[i] = crc32c_zero_block();
  }
  submit_read(op);
  return true;
}

void Replica::read_done(store::StoreOp& store_op) noexcept {
  ReplicaOp& op = *static_cast<ReplicaOp*>(store_op.owner);
  Replica& replica = *op.replica;
  --replica.reads_;
  store_op.hold.reset();
  op.error = store_op.error;
  // Another engine may have taken over while the device was busy: what was read may be its doing.
  if (!op.service->still_open(op)) op.error = Error::NotAttached;
  if (op.kind == ReplicaOp::Kind::read_chunk && op.error == Error::Ok) {
    const std::uint32_t chunk = op.first_block / kBlocksPerChunk;
    const bool changed = replica.store_->chunk_version(replica.segment_, chunk) != op.version ||
                         replica.store_->chunk_valid_mask(replica.segment_, chunk) != op.valid_mask;
    if (changed) op.error = Error::Busy;
  }
  op.service->complete(op);
}

void Replica::list(ReplicaOp& op) const noexcept {
  std::array<store::ChunkVersion, 128> page;
  const std::uint32_t room = op.data_bytes / sizeof(format::ChunkEntry);
  std::uint32_t from = op.first_block;
  std::uint32_t count = 0;
  while (count < room) {
    const std::size_t want = std::min<std::size_t>(page.size(), room - count);
    const std::size_t got =
        store_->list_chunks(segment_, from, op.version, std::span(page).first(want));
    for (std::size_t i = 0; i < got; ++i) {
      format::ChunkEntry entry;
      entry.chunk = page[i].chunk;
      entry.epoch = page[i].version.epoch;
      entry.seq = page[i].version.seq;
      std::memcpy(op.data + std::size_t{count++} * sizeof entry, &entry, sizeof entry);
    }
    if (got < want) break;
    from = page[got - 1].chunk + 1;
  }
  op.block_count = count;
}

}  // namespace blockd::peer
