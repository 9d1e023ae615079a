#include "sim/fake_store.h"

#include <algorithm>
#include <cstring>

namespace blockd::sim {

using store::SegmentHandle;
using store::StoreOp;

void FakeMedium::apply(std::map<SegmentHandle, FakeSegment>& to, const FakeMutation& m) {
  const auto found = to.find(m.segment);
  if (found == to.end()) return;
  FakeSegment& segment = found->second;
  if (m.op == StoreOp::Op::replace) {
    const std::uint32_t index = m.first_block / kBlocksPerChunk;
    if (m.version == Version{}) {
      segment.chunks.erase(index);
      return;
    }
    FakeChunk& chunk = segment.chunks[index];
    chunk.version = m.version;
    chunk.valid_mask = m.valid_mask;
    if (m.valid_mask != 0) {
      std::copy(m.data.begin(), m.data.end(), chunk.data.begin());
      std::copy(m.crcs.begin(), m.crcs.end(), chunk.crcs.begin());
    }
    return;
  }
  for (std::uint32_t i = 0; i < m.block_count; ++i) {
    const std::uint32_t block = m.first_block + i;
    const std::uint32_t inside = block % kBlocksPerChunk;
    FakeChunk& chunk = segment.chunks[block / kBlocksPerChunk];
    chunk.version = m.version;
    const auto bit = static_cast<std::uint16_t>(1u << inside);
    if (m.op == StoreOp::Op::zero) {
      chunk.valid_mask = static_cast<std::uint16_t>(chunk.valid_mask & ~bit);
      continue;
    }
    chunk.valid_mask |= bit;
    chunk.crcs[inside] = m.crcs[i];
    std::memcpy(chunk.data.data() + std::size_t{inside} * kBlockBytes,
                m.data.data() + std::size_t{i} * kBlockBytes, kBlockBytes);
  }
}

void FakeMedium::fold(std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) apply(base, log[i]);
  log.erase(log.begin(), log.begin() + static_cast<std::ptrdiff_t>(count));
  done_count -= std::min(done_count, count);
}

void FakeMedium::crash(Random& random, bool power_loss) {
  const std::size_t at_least = power_loss ? 0 : done_count;
  const std::size_t kept = random.between(at_least, log.size());
  log.resize(kept);
  if (power_loss) {
    fold(kept);  // found after the crash: it is on the medium
    log.clear();
  }
  done_count = log.size();
  live = base;
  for (const FakeMutation& m : log) apply(live, m);
}

void FakeStore::later(Done done, Error error) {
  loop_.world().after(delay_us(), &loop_, [done = std::move(done), error] { done(error); });
}

void FakeStore::create_segment(SegmentId id, std::uint32_t block_count, Done done) {
  loop_.world().after(delay_us(), &loop_, [this, id, block_count, done = std::move(done)] {
    if (find_segment(id)) return done(Error::AlreadyExists);
    FakeSegment segment;
    segment.info.id = id;
    segment.info.block_count = block_count;
    const SegmentHandle handle = medium_.next_handle++;
    medium_.base[handle] = segment;
    medium_.live[handle] = segment;
    done(Error::Ok);
  });
}

void FakeStore::drop_segment(SegmentHandle segment, Done done) {
  medium_.base.erase(segment);
  medium_.live.erase(segment);
  later(std::move(done), Error::Ok);
}

void FakeStore::resize_segment(SegmentHandle segment, std::uint32_t block_count, Done done) {
  medium_.base.at(segment).info.block_count = block_count;
  medium_.live.at(segment).info.block_count = block_count;
  later(std::move(done), Error::Ok);
}

void FakeStore::promise_epoch(SegmentHandle segment, std::uint64_t epoch, Done done) {
  loop_.world().after(delay_us(), &loop_, [this, segment, epoch, done = std::move(done)] {
    const auto found = medium_.live.find(segment);
    if (found == medium_.live.end()) return done(Error::NotFound);
    if (epoch < found->second.info.promised_epoch) return done(Error::EpochFenced);
    found->second.info.promised_epoch = epoch;
    medium_.base.at(segment).info.promised_epoch = epoch;
    done(Error::Ok);
  });
}

std::optional<SegmentHandle> FakeStore::find_segment(SegmentId id) const noexcept {
  for (const auto& [handle, segment] : medium_.live) {
    if (segment.info.id == id) return handle;
  }
  return std::nullopt;
}

std::vector<SegmentHandle> FakeStore::segments() const {
  std::vector<SegmentHandle> all;
  for (const auto& [handle, segment] : medium_.live) all.push_back(handle);
  return all;
}

store::SegmentInfo FakeStore::segment_info(SegmentHandle segment) const noexcept {
  const FakeSegment& found = medium_.live.at(segment);
  store::SegmentInfo info = found.info;
  info.chunk_count = static_cast<std::uint32_t>(found.chunks.size());
  return info;
}

// In memory only: a crash may forget it. Reaps tombstones.
void FakeStore::set_stable(SegmentHandle segment, Version stable) noexcept {
  FakeSegment& found = medium_.live.at(segment);
  if (stable <= found.info.stable) return;
  found.info.stable = stable;
  if (loop_.world().random().chance(2)) medium_.base.at(segment).info.stable = stable;
  for (auto it = found.chunks.begin(); it != found.chunks.end();) {
    const bool reap = it->second.valid_mask == 0 && it->second.version <= stable;
    it = reap ? found.chunks.erase(it) : std::next(it);
  }
}

Error FakeStore::read(StoreOp& op) noexcept {
  const auto found = medium_.live.find(op.segment);
  if (found == medium_.live.end()) return Error::NotFound;
  for (std::uint32_t i = 0; i < op.block_count; ++i) {
    const std::uint32_t block = op.first_block + i;
    const std::uint32_t inside = block % kBlocksPerChunk;
    std::byte* to = op.data + std::size_t{i} * kBlockBytes;
    const auto chunk = found->second.chunks.find(block / kBlocksPerChunk);
    const bool valid =
        chunk != found->second.chunks.end() && ((chunk->second.valid_mask >> inside) & 1);
    if (valid) {
      std::memcpy(to, chunk->second.data.data() + std::size_t{inside} * kBlockBytes, kBlockBytes);
      if (crc32c(to, kBlockBytes) != chunk->second.crcs[inside]) return Error::ChecksumMismatch;
    } else {
      std::memset(to, 0, kBlockBytes);
    }
    if (op.crcs_out) op.crcs_out[i] = valid ? chunk->second.crcs[inside] : crc32c_zero_block();
  }
  return Error::Ok;
}

// Mutations and flushes complete in the order they came.
void FakeStore::complete_in_order(StoreOp& op) {
  const std::uint64_t now = loop_.world().now_us();
  last_completion_us_ = std::max(last_completion_us_, now + delay_us());
  loop_.world().after(last_completion_us_ - now, &loop_, [this, &op] {
    if (op.op != StoreOp::Op::flush && op.error == Error::Ok) ++medium_.done_count;
    if (op.op == StoreOp::Op::flush) {
      // Everything done when it was submitted; here, what is done now is no more than a device may
      // do.
      medium_.fold(medium_.done_count);
    }
    op.done(op);
  });
}

void FakeStore::submit(StoreOp& op) noexcept {
  op.error = Error::Ok;
  if (stuck) return;
  if (op.op == StoreOp::Op::read) {
    loop_.world().after(delay_us(), &loop_, [this, &op] {
      op.error = fail_reads != Error::Ok ? fail_reads : read(op);
      op.done(op);
    });
    return;
  }
  if (op.op != StoreOp::Op::flush) {
    if (fail_mutations != Error::Ok && fail_count > 0) {
      op.error = fail_mutations;
      --fail_count;
    }
    if (op.broken && *op.broken) op.error = Error::NotInSync;
    if (op.broken && op.error != Error::Ok) *op.broken = true;
    if (op.error == Error::Ok) {
      FakeMutation m{op.op, op.segment, op.first_block, op.block_count, op.version, op.valid_mask,
                     {},    {}};
      const bool payload =
          op.op == StoreOp::Op::write || (op.op == StoreOp::Op::replace && op.valid_mask != 0);
      if (payload) {
        m.data.assign(op.data, op.data + std::size_t{op.block_count} * kBlockBytes);
        m.crcs.assign(op.crcs, op.crcs + op.block_count);
      }
      FakeMedium::apply(medium_.live, m);
      medium_.log.push_back(std::move(m));
    }
  }
  complete_in_order(op);
}

std::size_t FakeStore::list_chunks(SegmentHandle segment, std::uint32_t from_chunk, Version above,
                                   std::span<store::ChunkVersion> out) const noexcept {
  std::size_t count = 0;
  const FakeSegment& found = medium_.live.at(segment);
  for (auto it = found.chunks.lower_bound(from_chunk);
       it != found.chunks.end() && count < out.size(); ++it) {
    if (it->second.version > above) out[count++] = {it->first, it->second.version};
  }
  return count;
}

Version FakeStore::chunk_version(SegmentHandle segment, std::uint32_t chunk) const noexcept {
  const FakeSegment& found = medium_.live.at(segment);
  const auto it = found.chunks.find(chunk);
  return it == found.chunks.end() ? Version{} : it->second.version;
}

std::uint16_t FakeStore::chunk_valid_mask(SegmentHandle segment,
                                          std::uint32_t chunk) const noexcept {
  const FakeSegment& found = medium_.live.at(segment);
  const auto it = found.chunks.find(chunk);
  return it == found.chunks.end() ? std::uint16_t{0} : it->second.valid_mask;
}

std::size_t FakeStore::list_digests(SegmentHandle segment, std::uint32_t from_chunk,
                                    std::span<store::ChunkDigest> out) const noexcept {
  std::size_t count = 0;
  const FakeSegment& found = medium_.live.at(segment);
  for (auto it = found.chunks.lower_bound(from_chunk);
       it != found.chunks.end() && count < out.size(); ++it) {
    std::array<std::uint32_t, kBlocksPerChunk> crcs;
    for (std::uint32_t i = 0; i < kBlocksPerChunk; ++i) {
      crcs[i] = ((it->second.valid_mask >> i) & 1) ? it->second.crcs[i] : crc32c_zero_block();
    }
    out[count++] = {it->first, it->second.version, it->second.valid_mask,
                    crc32c(crcs.data(), sizeof crcs)};
  }
  return count;
}

store::BlockLocation FakeStore::locate(SegmentHandle, std::uint32_t) const noexcept {
  return {};
}

store::StoreInfo FakeStore::info() const noexcept {
  store::StoreInfo info;
  info.store_id = medium_.store_id;
  info.cluster_id = medium_.cluster_id;
  info.capacity_bytes = 1ull << 40;
  return info;
}

}  // namespace blockd::sim
