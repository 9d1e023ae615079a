#include "sim/fake_store.h"

#include <algorithm>
#include <cstring>
#include <optional>
#include <utility>

#include "format/root.h"

namespace blockd::sim {

using store::SegmentHandle;
using store::StoreOp;

bool shown_by_any(const store::SnapshotSet* set, Era born, Era died) {
  if (born >= died) return false;
  if (set == nullptr || died > set->known_below) return true;
  return std::ranges::any_of(set->eras, [&](Era era) { return born <= era && era < died; });
}

const FakeChunk* FakeSegment::shown(std::uint32_t chunk, Era era) const {
  const auto current = chunks.find(chunk);
  if (current != chunks.end() && current->second.born <= era) return &current->second;
  const auto held = past.find(chunk);
  if (held == past.end()) return nullptr;
  for (const FakePast& one : held->second) {
    if (one.content.born <= era && era < one.died) return &one.content;
  }
  return nullptr;
}

void FakeSegment::keep(std::uint32_t chunk, FakePast content) {
  forget(chunk, content.content.version);
  std::vector<FakePast>& all = past[chunk];
  const auto at = std::ranges::find_if(
      all, [&](const FakePast& one) { return one.content.version > content.content.version; });
  all.insert(at, std::move(content));
}

void FakeSegment::forget(std::uint32_t chunk, Version version) {
  const auto held = past.find(chunk);
  if (held == past.end()) return;
  std::erase_if(held->second, [&](const FakePast& one) { return one.content.version == version; });
  if (held->second.empty()) past.erase(held);
}

namespace {

// While the chunk changes, as in the store itself.
class RootChange {
 public:
  RootChange(FakeSegment& segment, std::uint32_t index) : segment_(segment), index_(index) {
    segment_.info.root -= term();
  }
  ~RootChange() { segment_.info.root += term(); }
  RootChange(const RootChange&) = delete;
  RootChange& operator=(const RootChange&) = delete;

 private:
  [[nodiscard]] format::Root term() const {
    const auto found = segment_.chunks.find(index_);
    if (found == segment_.chunks.end()) return {};
    const FakeChunk& chunk = found->second;
    return format::root_term(index_, chunk.version, chunk.born, chunk.valid_mask,
                             chunk.crcs.data());
  }
  FakeSegment& segment_;
  std::uint32_t index_;
};

void replace(FakeSegment& segment, const FakeMutation& m) {
  const std::uint32_t index = m.first_block / kBlocksPerChunk;
  const RootChange changes(segment, index);
  if (m.version == Version{}) {
    segment.chunks.erase(index);
    return;
  }
  FakeChunk chunk;
  chunk.version = m.version;
  chunk.born = m.era;
  chunk.covers = m.covers && m.valid_mask == 0;
  chunk.valid_mask = m.valid_mask;
  if (m.valid_mask != 0) {
    std::copy(m.data.begin(), m.data.end(), chunk.data.begin());
    std::copy(m.crcs.begin(), m.crcs.end(), chunk.crcs.begin());
  }
  if (m.died == 0) {
    segment.chunks[index] = std::move(chunk);
  } else if (shown_by_any(m.snapshots.get(), m.era, m.died)) {
    segment.keep(index, {std::move(chunk), m.died});
  }
}

// The chunk as a mutation of `m` may change it: what a snapshot shows stays, as past.
FakeChunk& writable(FakeSegment& segment, std::uint32_t index, const FakeMutation& m) {
  FakeChunk& chunk = segment.chunks[index];
  if (chunk.version == m.version) return chunk;
  const bool content = chunk.valid_mask != 0 || chunk.covers;
  if (content && shown_by_any(m.snapshots.get(), chunk.born, m.era))
    segment.keep(index, {chunk, m.era});
  chunk.version = m.version;
  chunk.born = m.era;
  return chunk;
}

bool is_mutation(StoreOp::Op op) noexcept {
  return op != StoreOp::Op::read && op != StoreOp::Op::flush && op != StoreOp::Op::root;
}

}  // namespace

void FakeMedium::apply(std::map<SegmentHandle, FakeSegment>& to, const FakeMutation& m) {
  const auto found = to.find(m.segment);
  if (found == to.end()) return;
  FakeSegment& segment = found->second;
  if (m.op == StoreOp::Op::replace) return replace(segment, m);
  if (m.op == StoreOp::Op::forget)
    return segment.forget(m.first_block / kBlocksPerChunk, m.version);
  std::optional<RootChange> changes;
  for (std::uint32_t i = 0; i < m.block_count; ++i) {
    const std::uint32_t block = m.first_block + i;
    const std::uint32_t inside = block % kBlocksPerChunk;
    if (i == 0 || inside == 0) changes.emplace(segment, block / kBlocksPerChunk);
    FakeChunk& chunk = writable(segment, block / kBlocksPerChunk, m);
    const auto bit = static_cast<std::uint16_t>(1u << inside);
    if (m.op == StoreOp::Op::zero) {
      chunk.valid_mask = static_cast<std::uint16_t>(chunk.valid_mask & ~bit);
    } else {
      chunk.valid_mask |= bit;
      chunk.crcs[inside] = m.crcs[i];
      std::memcpy(chunk.data.data() + std::size_t{inside} * kBlockBytes,
                  m.data.data() + std::size_t{i} * kBlockBytes, kBlockBytes);
    }
    chunk.covers = m.covers && chunk.valid_mask == 0;
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
  medium_.live.erase(segment);  // its views find nothing from now on
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
  for (const auto& [chunk, content] : found.chunks)
    info.newest_era = std::max(info.newest_era, content.born);
  for (const auto& [chunk, past] : found.past) {
    info.past_count += static_cast<std::uint32_t>(past.size());
    for (const FakePast& one : past) info.newest_era = std::max(info.newest_era, one.died);
  }
  return info;
}

// In memory only: a crash may forget it. Reaps tombstones.
void FakeStore::set_stable(SegmentHandle segment, Version stable) noexcept {
  FakeSegment& found = medium_.live.at(segment);
  if (stable <= found.info.stable) return;
  found.info.stable = stable;
  if (loop_.world().random().chance(2)) medium_.base.at(segment).info.stable = stable;
  reap(found);
}

// Empty records go below the stable mark, unless they cover a base.
void FakeStore::reap(FakeSegment& segment) const {
  const auto known = snapshots_.find(segment.info.id.volume);
  const Era uncovered_below = known == snapshots_.end() ? 0 : known->second->uncovered_below;
  for (auto it = segment.chunks.begin(); it != segment.chunks.end();) {
    const FakeChunk& chunk = it->second;
    const bool empty = chunk.valid_mask == 0 && chunk.version <= segment.info.stable;
    const bool reaped = empty && (!chunk.covers || chunk.born < uncovered_below);
    if (reaped && medium_.watcher) medium_.watcher->reaps(segment, it->first, chunk.version);
    it = reaped ? segment.chunks.erase(it) : std::next(it);
  }
}

// --- snapshots -----------------------------------------------------------------------------------

std::shared_ptr<const store::SnapshotSet> FakeStore::snapshots_of(SegmentHandle segment) const {
  const auto found = medium_.live.find(segment);
  if (found == medium_.live.end()) return nullptr;
  const auto known = snapshots_.find(found->second.info.id.volume);
  return known == snapshots_.end() ? nullptr : known->second;
}

bool FakeStore::viewed(SegmentHandle segment, Era born, Era died) const {
  return std::ranges::any_of(views_, [&](const auto& view) {
    return view.second.segment == segment && born <= view.second.era && view.second.era < died;
  });
}

// What no snapshot shows any more goes, at once and durably.
void FakeStore::set_snapshots(store::SnapshotSet set) {
  const Uuid volume = set.volume;
  const auto known = std::make_shared<const store::SnapshotSet>(std::move(set));
  snapshots_[volume] = known;
  for (auto* image : {&medium_.base, &medium_.live}) {
    for (auto& [handle, segment] : *image) {
      if (segment.info.id.volume != volume) continue;
      for (auto& [chunk, past] : segment.past) {
        std::erase_if(past, [&, of = handle](const FakePast& one) {
          return !shown_by_any(known.get(), one.content.born, one.died) &&
                 !viewed(of, one.content.born, one.died);
        });
      }
      std::erase_if(segment.past, [](const auto& held) { return held.second.empty(); });
      reap(segment);
    }
  }
}

SegmentHandle FakeStore::open_view(SegmentHandle segment, Era era) {
  if (!medium_.live.contains(segment)) return kNoView;
  views_[next_view_] = {segment, era};
  return next_view_++;
}

void FakeStore::close_view(SegmentHandle view) noexcept {
  views_.erase(view);
}

const FakeChunk* FakeStore::Shown::chunk(std::uint32_t index) const {
  if (segment == nullptr) return nullptr;
  if (era != 0) return segment->shown(index, era);
  const auto found = segment->chunks.find(index);
  return found == segment->chunks.end() ? nullptr : &found->second;
}

FakeStore::Shown FakeStore::shown(SegmentHandle handle) const {
  const auto view = views_.find(handle);
  const SegmentHandle segment = view == views_.end() ? handle : view->second.segment;
  const auto found = medium_.live.find(segment);
  if (found == medium_.live.end()) return {};
  return {&found->second, view == views_.end() ? 0 : view->second.era};
}

std::size_t FakeStore::list_states(SegmentHandle segment, std::uint32_t from_chunk, Version above,
                                   std::span<store::ChunkState> out) const {
  std::size_t count = 0;
  const FakeSegment& found = medium_.live.at(segment);
  const auto put = [&](std::uint32_t index, const FakeChunk& chunk, Era died) {
    const bool wanted = index > from_chunk || chunk.version > above;
    if (!wanted || count == out.size()) return;
    out[count++] = {index, chunk.version, chunk.born, died, chunk.valid_mask, chunk.covers};
  };
  auto current = found.chunks.lower_bound(from_chunk);
  auto past = found.past.lower_bound(from_chunk);
  while (count < out.size() && (current != found.chunks.end() || past != found.past.end())) {
    const std::uint32_t index = std::min(current == found.chunks.end() ? ~0u : current->first,
                                         past == found.past.end() ? ~0u : past->first);
    const FakeChunk* now = nullptr;
    if (current != found.chunks.end() && current->first == index) now = &(current++)->second;
    if (past != found.past.end() && past->first == index) {
      for (const FakePast& one : (past++)->second) {
        if (now && now->version <= one.content.version) put(index, *std::exchange(now, nullptr), 0);
        put(index, one.content, one.died);
      }
    }
    if (now) put(index, *now, 0);
  }
  return count;
}

bool FakeMedium::rot(SegmentId id, std::uint32_t block, Random& random) {
  const std::uint32_t chunk = block / kBlocksPerChunk, inside = block % kBlocksPerChunk;
  const std::size_t byte = std::size_t{inside} * kBlockBytes + random.below(kBlockBytes);
  const auto bit = static_cast<std::byte>(1u << random.below(8));
  bool any = false;
  for (auto* image : {&base, &live}) {
    for (auto& [handle, segment] : *image) {
      const auto found = segment.chunks.find(chunk);
      if (segment.info.id != id || found == segment.chunks.end()) continue;
      if (!(found->second.valid_mask >> inside & 1)) continue;
      found->second.data[byte] ^= bit;
      any = true;
    }
  }
  return any;
}

void FakeMedium::lose(SegmentId id, std::uint32_t chunk) {
  for (auto* image : {&base, &live}) {
    for (auto& [handle, segment] : *image) {
      if (segment.info.id != id) continue;
      const RootChange changes(segment, chunk);
      segment.chunks.erase(chunk);
    }
  }
}

void FakeMedium::falsify(SegmentId id, std::uint32_t chunk) {
  for (auto* image : {&base, &live}) {
    for (auto& [handle, segment] : *image) {
      if (segment.info.id != id) continue;
      const RootChange changes(segment, chunk);
      FakeChunk& content = segment.chunks.at(chunk);
      content.data[0] ^= std::byte{1};
      content.valid_mask |= 1;
      content.crcs[0] = crc32c(content.data.data(), kBlockBytes);
    }
  }
}

// --- operations ----------------------------------------------------------------------------------

Error FakeStore::read(StoreOp& op) noexcept {
  const Shown from = shown(op.segment);
  if (from.segment == nullptr) return Error::NotFound;
  Error error = Error::Ok;
  for (std::uint32_t i = 0; i < op.block_count; ++i) {
    const std::uint32_t block = op.first_block + i;
    const std::uint32_t inside = block % kBlocksPerChunk;
    std::byte* to = op.data + std::size_t{i} * kBlockBytes;
    const FakeChunk* chunk = from.chunk(block / kBlocksPerChunk);
    const bool valid = chunk != nullptr && ((chunk->valid_mask >> inside) & 1);
    if (valid) {
      std::memcpy(to, chunk->data.data() + std::size_t{inside} * kBlockBytes, kBlockBytes);
      if (crc32c(to, kBlockBytes) != chunk->crcs[inside]) error = Error::ChecksumMismatch;
    } else {
      std::memset(to, 0, kBlockBytes);
    }
    if (op.crcs_out) op.crcs_out[i] = valid ? chunk->crcs[inside] : crc32c_zero_block();
  }
  return error;
}

// Mutations and flushes complete in the order they came.
void FakeStore::complete_in_order(StoreOp& op) {
  const std::uint64_t now = loop_.world().now_us();
  last_completion_us_ = std::max(last_completion_us_, now + delay_us());
  loop_.world().after(last_completion_us_ - now, &loop_, [this, &op] {
    if (is_mutation(op.op) && op.error == Error::Ok) ++medium_.done_count;
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
  if (stuck) return held_.push_back(&op);
  if (op.op == StoreOp::Op::read) {
    loop_.world().after(delay_us(), &loop_, [this, &op] {
      op.error = read(op);
      if (fail_reads != Error::Ok) {
        std::memset(op.data, 0xee, std::size_t{op.block_count} * kBlockBytes);
        op.error = fail_reads;
      }
      op.done(op);
    });
    return;
  }
  if (op.op == StoreOp::Op::root) {
    const auto found = medium_.live.find(op.segment);
    if (op.broken && *op.broken) op.error = Error::NotInSync;
    if (found == medium_.live.end()) op.error = Error::NotFound;
    if (op.error == Error::Ok) op.root = found->second.info.root;
  } else if (op.op != StoreOp::Op::flush) {
    if (fail_mutations != Error::Ok && fail_count > 0) {
      op.error = fail_mutations;
      --fail_count;
    }
    if (op.broken && *op.broken) op.error = Error::NotInSync;
    if (op.broken && op.error != Error::Ok) *op.broken = true;
    if (op.error == Error::Ok) {
      FakeMutation m{
          op.op,  op.segment, op.first_block, op.block_count,           op.version, op.valid_mask,
          op.era, op.died,    op.covers,      snapshots_of(op.segment), {},         {}};
      const bool payload =
          op.op == StoreOp::Op::write || (op.op == StoreOp::Op::replace && op.valid_mask != 0);
      if (payload) {
        m.data.assign(op.data, op.data + std::size_t{op.block_count} * kBlockBytes);
        m.crcs.assign(op.crcs, op.crcs + op.block_count);
      }
      const auto segment = medium_.live.find(m.segment);
      if (medium_.watcher && segment != medium_.live.end())
        medium_.watcher->mutates(segment->second, m);
      FakeMedium::apply(medium_.live, m);
      medium_.log.push_back(std::move(m));
    }
  }
  complete_in_order(op);
}

void FakeStore::release() {
  stuck = false;
  for (StoreOp* op : std::exchange(held_, {})) submit(*op);
}

std::vector<std::uint32_t> FakeStore::chunks_from(const Shown& from, std::uint32_t first) {
  std::vector<std::uint32_t> all;
  if (from.segment == nullptr) return all;
  const auto& chunks = from.segment->chunks;
  for (auto it = chunks.lower_bound(first); it != chunks.end(); ++it) all.push_back(it->first);
  if (from.era == 0) return all;
  const auto& past = from.segment->past;
  for (auto it = past.lower_bound(first); it != past.end(); ++it) all.push_back(it->first);
  std::ranges::sort(all);
  all.erase(std::ranges::unique(all).begin(), all.end());
  return all;
}

std::size_t FakeStore::list_chunks(SegmentHandle segment, std::uint32_t from_chunk, Version above,
                                   std::span<store::ChunkVersion> out) const noexcept {
  std::size_t count = 0;
  const Shown from = shown(segment);
  for (const std::uint32_t index : chunks_from(from, from_chunk)) {
    const FakeChunk* chunk = from.chunk(index);
    if (count == out.size()) break;
    if (chunk == nullptr || chunk->version <= above) continue;
    out[count++] = {index, chunk->version, chunk->born, chunk->valid_mask};
  }
  return count;
}

Version FakeStore::chunk_version(SegmentHandle segment, std::uint32_t chunk) const noexcept {
  const FakeChunk* found = shown(segment).chunk(chunk);
  return found ? found->version : Version{};
}

std::uint16_t FakeStore::chunk_valid_mask(SegmentHandle segment,
                                          std::uint32_t chunk) const noexcept {
  const FakeChunk* found = shown(segment).chunk(chunk);
  return found ? found->valid_mask : std::uint16_t{0};
}

std::size_t FakeStore::list_digests(SegmentHandle segment, std::uint32_t from_chunk,
                                    std::span<store::ChunkDigest> out) const noexcept {
  std::size_t count = 0;
  const Shown from = shown(segment);
  for (const std::uint32_t index : chunks_from(from, from_chunk)) {
    const FakeChunk* chunk = from.chunk(index);
    if (chunk == nullptr) continue;
    if (count == out.size()) break;
    std::array<std::uint32_t, kBlocksPerChunk> crcs;
    for (std::uint32_t i = 0; i < kBlocksPerChunk; ++i) {
      crcs[i] = ((chunk->valid_mask >> i) & 1) ? chunk->crcs[i] : crc32c_zero_block();
    }
    out[count++] = {index, chunk->version, chunk->valid_mask, crc32c(crcs.data(), sizeof crcs),
                    chunk->born};
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
