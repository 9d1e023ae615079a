#include "peer/replica.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/crc32c.h"
#include "peer/replica_service.h"

namespace blockd::peer {

namespace {

Replica& replica_of(store::StoreOp& store_op) noexcept {
  return *static_cast<ReplicaOp*>(store_op.owner)->replica;
}

store::StoreOp::Op store_op_of(ReplicaOp::Kind kind) noexcept {
  using Op = store::StoreOp::Op;
  switch (kind) {
    case ReplicaOp::Kind::replace:
      return Op::replace;
    case ReplicaOp::Kind::forget:
      return Op::forget;
    case ReplicaOp::Kind::write:
      return Op::write;
    default:
      return Op::zero;
  }
}

// A version's predecessor in every listing: what is above it begins with the version itself.
Version just_below(Version version) noexcept {
  if (version.seq > 0) return {version.epoch, version.seq - 1};
  return version.epoch > 0 ? Version{version.epoch - 1, ~std::uint64_t{0}} : Version{};
}

std::uint16_t entry_flags(const store::ChunkState& state) noexcept {
  return state.covers ? format::kEntryCovers : std::uint16_t{0};
}

void put_entry(ReplicaOp& op, const format::ChunkEntry& entry) noexcept {
  std::memcpy(op.data + std::size_t{op.block_count++} * sizeof entry, &entry, sizeof entry);
}

std::uint32_t entries_wanted(const ReplicaOp& op) noexcept {
  return op.data_bytes / static_cast<std::uint32_t>(sizeof(format::ChunkEntry));
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
  fill(op, store_op_of(op.kind));
  op.store_op.version = op.version;
  op.store_op.era = op.era;
  op.store_op.died = op.died;
  op.store_op.covers = op.covers;
  op.store_op.valid_mask = op.valid_mask;
  op.store_op.data = op.data;
  op.store_op.crcs = op.crcs;
  op.store_op.hold = op.hold;
  op.store_op.broken = &failed;
  op.store_op.done = mutation_done;
  const bool whole = op.kind == ReplicaOp::Kind::replace || op.kind == ReplicaOp::Kind::forget;
  if (whole) op.store_op.block_count = kBlocksPerChunk;
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

// In the store's own order, so that it need not wait for the mutations before, nor they for it.
void Replica::submit_root(ReplicaOp& op) noexcept {
  fill(op, store::StoreOp::Op::root);
  op.store_op.broken = &failed;
  op.store_op.done = root_done;
  ++reads_;
  store_->submit(op.store_op);
}

void Replica::root_done(store::StoreOp& store_op) noexcept {
  ReplicaOp& op = *static_cast<ReplicaOp*>(store_op.owner);
  --op.replica->reads_;
  op.error = store_op.error;
  op.root = store_op.root;
  if (!op.service->still_open(op)) op.error = Error::NotAttached;
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
  const bool of_view = op.kind == ReplicaOp::Kind::read_chunk && op.view != store::Store::kNoView;
  if (of_view) op.store_op.segment = op.view;
  op.store_op.data = op.data;
  op.store_op.hold = op.hold;
  op.store_op.crcs_out = op.crcs;
  op.store_op.done = read_done;
  ++reads_;
  store_->submit(op.store_op);
}

bool Replica::submit_read_chunk(ReplicaOp& op) noexcept {
  op.view = store::Store::kNoView;
  if (op.era != 0) {
    op.view = store_->open_view(segment_, op.era);
    op.error = op.view == store::Store::kNoView ? Error::Busy : Error::Ok;
    if (op.error != Error::Ok) return false;
  }
  const store::SegmentHandle shown = op.view == store::Store::kNoView ? segment_ : op.view;
  find_content(op, shown);
  if (op.valid_mask == 0) {
    close_view(op);
    return false;
  }
  // The segment's last chunk may be cut: what lies beyond reads as zeros.
  const std::uint32_t inside = block_count_ - op.first_block;
  op.block_count = inside < kBlocksPerChunk ? inside : kBlocksPerChunk;
  for (std::uint32_t i = op.block_count; i < kBlocksPerChunk; ++i) {
    std::memset(op.data + std::size_t{i} * kBlockBytes, 0, kBlockBytes);
    op.crcs[i] = crc32c_zero_block();
  }
  // Of a block that the store does not come to, nothing may look like an answer.
  std::fill_n(op.crcs, op.block_count, ~crc32c_zero_block());
  submit_read(op);
  return true;
}

// Version and what else there is to say of the content that the segment, or the view, shows of the
// operation's chunk. No content: version {0,0}.
void Replica::find_content(ReplicaOp& op, store::SegmentHandle shown) const noexcept {
  const std::uint32_t chunk = op.first_block / kBlocksPerChunk;
  const bool of_view = shown != segment_;
  op.version = store_->chunk_version(shown, chunk);
  op.valid_mask = store_->chunk_valid_mask(shown, chunk);
  op.era = op.died = 0;
  op.covers = false;
  std::array<store::ChunkState, 4> states;
  const std::size_t count =
      store_->list_states(segment_, chunk, just_below(op.version), std::span(states));
  for (std::size_t i = 0; i < count; ++i) {
    const store::ChunkState& state = states[i];
    const bool it = state.chunk == chunk && state.version == op.version;
    if (!it || (!of_view && state.died != 0)) continue;
    op.era = state.born;
    op.died = state.died;
    op.covers = state.covers;
    break;
  }
}

void Replica::close_view(ReplicaOp& op) noexcept {
  const store::SegmentHandle view = std::exchange(op.view, store::Store::kNoView);
  if (view != store::Store::kNoView && store_ != nullptr) store_->close_view(view);
}

void Replica::read_done(store::StoreOp& store_op) noexcept {
  ReplicaOp& op = *static_cast<ReplicaOp*>(store_op.owner);
  Replica& replica = *op.replica;
  --replica.reads_;
  store_op.hold.reset();
  op.error = store_op.error;
  if (op.kind == ReplicaOp::Kind::read_chunk) replica.chunk_was_read(op, store_op.segment);
  // Another engine may have taken over while the device was busy: what was read may be its doing.
  if (!op.service->still_open(op)) {
    op.error = Error::NotAttached;
    op.damaged = 0;
  }
  op.service->complete(op);
}

void Replica::chunk_was_read(ReplicaOp& op, store::SegmentHandle shown) noexcept {
  const std::uint32_t chunk = op.first_block / kBlocksPerChunk;
  const bool medium = op.error == Error::ChecksumMismatch || op.error == Error::DiskError;
  if (store_ != nullptr && (op.error == Error::Ok || medium)) {
    const bool changed = store_->chunk_version(shown, chunk) != op.version ||
                         store_->chunk_valid_mask(shown, chunk) != op.valid_mask;
    if (changed) op.error = Error::Busy;
    if (!changed && medium && !store_->metadata_lost()) find_damage(op);
  }
  close_view(op);
}

// The metadata is sound, so the CRCs are: they say which blocks did not come as they were written.
void Replica::find_damage(ReplicaOp& op) noexcept {
  for (std::uint32_t i = 0; i < kBlocksPerChunk; ++i) {
    std::byte* block = op.data + std::size_t{i} * kBlockBytes;
    if (crc32c(block, kBlockBytes) == op.crcs[i]) continue;
    std::memset(block, 0, kBlockBytes);
    if (op.crcs[i] != crc32c_zero_block()) op.damaged |= static_cast<std::uint16_t>(1u << i);
  }
  op.error = op.damaged != 0 ? Error::ChecksumMismatch : Error::Ok;
}

void Replica::list(ReplicaOp& op) const noexcept {
  if (store_->segment_info(segment_).past_count > 0) return list_with_past(op);
  list_chunks(*store_, segment_, op);
}

void Replica::list_chunks(const store::Store& store, store::SegmentHandle shown,
                          ReplicaOp& op) noexcept {
  std::array<store::ChunkVersion, 128> page;
  const std::uint32_t room = entries_wanted(op);
  std::uint32_t from = op.first_block;
  op.block_count = 0;
  while (op.block_count < room) {
    const std::size_t want = std::min<std::size_t>(page.size(), room - op.block_count);
    const std::size_t got = store.list_chunks(shown, from, op.version, std::span(page).first(want));
    for (std::size_t i = 0; i < got; ++i) {
      const store::ChunkVersion& chunk = page[i];
      put_entry(op, {chunk.chunk, chunk.born, chunk.version.epoch, chunk.version.seq, 0,
                     chunk.valid_mask, 0});
    }
    if (got < want) break;
    from = page[got - 1].chunk + 1;
  }
}

// What is past and above the mark says that the chunk was in motion, also when what is current does
// not (REPLICATION.md, O2).
void Replica::list_with_past(ReplicaOp& op) const noexcept {
  std::array<store::ChunkState, 128> page;
  const std::uint32_t room = entries_wanted(op);
  std::uint32_t from = op.first_block;
  Version after;
  format::ChunkEntry entry;
  bool wanted = false;
  const auto end_chunk = [&] {
    if (wanted) put_entry(op, entry);
    wanted = false;
  };
  op.block_count = 0;
  for (;;) {
    const std::size_t got = store_->list_states(segment_, from, after, page);
    for (std::size_t i = 0; i < got; ++i) {
      const store::ChunkState& state = page[i];
      if (entry.chunk != state.chunk) {
        end_chunk();
        if (op.block_count == room) return;
        entry = {};
        entry.chunk = state.chunk;
      }
      wanted = wanted || state.version > op.version;
      if (state.died != 0) {
        if (state.version > op.version) entry.flags = format::kEntryPast;
        continue;
      }
      const std::uint16_t flags = entry.flags;
      entry = {state.chunk,      state.born, state.version.epoch, state.version.seq, 0,
               state.valid_mask, flags};
    }
    if (got < page.size()) break;
    from = page[got - 1].chunk;
    after = page[got - 1].version;
  }
  end_chunk();
}

void Replica::list_digests(ReplicaOp& op) const noexcept {
  std::array<store::ChunkDigest, 128> page;
  const std::uint32_t room = entries_wanted(op);
  std::uint32_t from = op.first_block;
  op.block_count = 0;
  while (op.block_count < room) {
    const std::size_t want = std::min<std::size_t>(page.size(), room - op.block_count);
    const std::size_t got = store_->list_digests(segment_, from, std::span(page).first(want));
    for (std::size_t i = 0; i < got; ++i) {
      const store::ChunkDigest& chunk = page[i];
      if (chunk.valid_mask == 0) continue;
      put_entry(op, {chunk.chunk, chunk.born, chunk.version.epoch, chunk.version.seq, chunk.digest,
                     chunk.valid_mask, 0});
    }
    if (got < want) break;
    from = page[got - 1].chunk + 1;
  }
}

void Replica::list_states(ReplicaOp& op) const noexcept {
  std::array<store::ChunkState, 128> page;
  const std::uint32_t room = entries_wanted(op);
  std::uint32_t from = op.first_block;
  Version after = op.version;
  op.block_count = 0;
  while (op.block_count < room) {
    const std::size_t want = std::min<std::size_t>(page.size(), room - op.block_count);
    const std::size_t got = store_->list_states(segment_, from, after, std::span(page).first(want));
    for (std::size_t i = 0; i < got; ++i) {
      const store::ChunkState& state = page[i];
      put_entry(op, {state.chunk, state.born, state.version.epoch, state.version.seq, state.died,
                     state.valid_mask, entry_flags(state)});
    }
    if (got < want) break;
    from = page[got - 1].chunk;
    after = page[got - 1].version;
  }
}

}  // namespace blockd::peer
