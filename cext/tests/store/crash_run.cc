#include "tests/store/crash_run.h"

#include <algorithm>
#include <utility>

namespace blockd::store::testing {
namespace {

constexpr std::uint64_t kOldEpoch = 1;  // of replaced chunks: below every engine's

// In every fifth store a longer journal: several checkpoints pass before one takes what was new
// when the first began.
std::uint64_t journal_for(std::uint64_t seed) {
  return seed % 5 == 0 ? 3 * kMiB : kMiB;
}

std::uint64_t capacity_for(std::uint64_t seed) {
  constexpr std::array<std::uint64_t, 3> kCapacities = {4 * kMiB, 6 * kMiB, 9 * kMiB};
  return kCapacities[seed % kCapacities.size()] + journal_for(seed) - kMiB;
}

}  // namespace

CrashRun::CrashRun(std::uint64_t seed, CrashStats& stats)
    : stats_(stats),
      random_(seed),
      rig_(seed, capacity_for(seed)),
      journal_bytes_(journal_for(seed)) {
  constexpr std::array<Weights, 6> kMixtures = {{
      //  small large chunk zero zchunk repl drop read flush stable promise segment snapshot
      {40, 10, 10, 8, 4, 5, 1, 20, 6, 4, 1, 1, 0},    // a little of everything
      {80, 0, 0, 4, 0, 1, 0, 10, 4, 1, 1, 0, 1},      // a journal's life
      {5, 10, 60, 2, 6, 2, 1, 10, 4, 2, 1, 1, 2},     // fresh slots
      {20, 20, 20, 0, 0, 10, 0, 5, 2, 0, 1, 0, 1},    // fills up and stays full
      {20, 5, 20, 20, 20, 10, 5, 5, 8, 12, 1, 2, 0},  // comes and goes
      {40, 10, 10, 8, 4, 5, 1, 10, 6, 4, 1, 1, 8}     // snapshots come and go
  }};
  weights_ = kMixtures[random_.below(kMixtures.size())];
  constexpr std::array<std::uint32_t, 4> kLimits = {1, 4, 12, kFlightsMax};
  // Every page of the slot table in memory, or hardly any.
  constexpr std::array<std::uint64_t, 4> kCaches = {0, kBlockBytes, 2 * kBlockBytes,
                                                    3 * kBlockBytes};
  rig_.metadata_cache_bytes = kCaches[random_.below(kCaches.size())];
  flights_limit_ = kLimits[random_.below(kLimits.size())];
  chunks_max_ = static_cast<std::uint32_t>(random_.between(4, 48));
  for (std::uint32_t i = 0; i < kSegments; ++i) segments_[i].id = segment_id(i);
  for (std::uint32_t i = 0; i < kFlightsMax; ++i) {
    flights_.push_back(std::make_unique<Flight>());
    flights_.back()->run = this;
  }
}

CrashRun::~CrashRun() {
  rig_.power_off(io::SimDisk::Crash::keep_all);  // before the memory of its operations goes
}

std::string CrashRun::run(std::uint32_t lives) {
  rig_.format(journal_bytes_);
  closed_ = true;
  for (std::uint32_t life = 0; life <= lives && ok(); ++life) {
    open_after_crash();
    if (life == lives) break;
    if (ok()) live();
    if (ok()) end();
    ++stats_.lives;
  }
  if (ok()) close();
  return failure_;
}

// A life: open, live, end.

void CrashRun::open_after_crash() {
  while (ok() && !try_to_open()) ++stats_.dead_recoveries;
  if (!ok()) return;
  check_structures();
  stats_.replayed_batches += rig_.store->stats().recovered_batches;
  if (closed_ && rig_.store->stats().recovered_batches != 0)
    fail("a closed store has batches to replay");
  if (ok()) verify_after_crash(std::exchange(power_lost_, false));
  if (ok() && random_.chance(2)) tell_snapshots();
  closed_ = false;
}

// False: the disk died (as arranged) while the store recovered; power and all come back.
bool CrashRun::try_to_open() {
  if (random_.chance(6)) rig_.mortal.die_after(random_.below(24));
  try {
    rig_.open();
    rig_.mortal.die_after(MortalDisk::kImmortal);
    return true;
  } catch (const Fault& fault) {
    if (!rig_.mortal.dead()) fail(std::string("open failed: ") + fault.what());
  }
  if (random_.chance(3)) {
    rig_.kill();
  } else {
    rig_.power_off(io::SimDisk::Crash::random);
    power_lost_ = true;
  }
  return false;
}

void CrashRun::live() {
  constexpr std::array<std::uint64_t, 4> kEvents = {20, 200, 800, 2000};
  const std::uint64_t events = random_.below(kEvents[random_.below(kEvents.size())]);
  for (std::uint64_t i = 0; i < events && ok(); ++i) {
    if (random_.chance(2)) {
      for (std::uint64_t burst = random_.between(1, 6); burst > 0 && ok(); --burst)
        start_something();
    }
    if (random_.chance(1000)) quiesce();
    if (random_.chance(500)) rig_.world.run_for(random_.between(1, 20'000'000));  // idle duties
    if (!rig_.world.step() && in_flight_ + changes_ > 0)
      fail("operations are in flight but nothing happens");
  }
}

void CrashRun::end() {
  const std::uint64_t draw = random_.below(100);
  if (draw < 50) {
    end_by_crash(Ending::power_loss);
  } else if (draw < 65) {
    end_by_crash(Ending::kill_then_power_loss);
  } else if (draw < 88) {
    end_by_crash(Ending::kill);
  } else {
    close();
  }
}

void CrashRun::end_by_crash(Ending ending) {
  stats_.checkpoints += rig_.store->stats().checkpoints;
  const std::uint64_t draw = random_.below(10);
  const auto mode = draw < 7   ? io::SimDisk::Crash::random
                    : draw < 9 ? io::SimDisk::Crash::lose_all
                               : io::SimDisk::Crash::keep_all;
  if (ending == Ending::kill) {
    rig_.kill();
  } else if (ending == Ending::power_loss) {
    rig_.power_off(mode);
  } else {
    rig_.kill_then_power_off(mode);
  }
  power_lost_ = ending != Ending::kill;
  ++(power_lost_ ? stats_.power_losses : stats_.kills);
  forget_flights();
}

// Closing makes everything durable: the power loss that follows takes nothing.
void CrashRun::close() {
  if (random_.chance(2)) quiesce();
  if (!ok()) return;
  stats_.checkpoints += rig_.store->stats().checkpoints;
  if (!rig_.close()) return fail("close() never finished");
  if (in_flight_ + changes_ > 0) return fail("close() finished before the operations in flight");
  rig_.disk.crash(io::SimDisk::Crash::lose_all);
  flushed_stamp_ = done_stamp_;
  for (SegmentModel& segment : segments_) segment.stable_floor = segment.stable;
  power_lost_ = closed_ = true;
  ++stats_.closes;
  forget_flights();
}

void CrashRun::quiesce() {
  if (!rig_.world.run_until([this] { return in_flight_ + changes_ == 0 || !ok(); }, kPatienceUs)) {
    return fail("operations never finish");
  }
  if (ok()) verify_at_rest();
  if (!ok()) return;
  tell_snapshots();
  rig_.world.run_for(20'000'000);  // what no snapshot shows is given back
  if (ok()) verify_past_slots();
  if (ok()) verify_at_rest();
}

void CrashRun::forget_flights() {
  for (const auto& flight : flights_) {
    flight->busy = false;
    flight->op.hold.reset();
    flight->reads.clear();
  }
  for (SegmentModel& segment : segments_) {
    segment.in_flight = 0;
    segment.unfinished.clear();
  }
  in_flight_ = changes_ = 0;
  if (!rig_.all_buffers_free()) fail("the dead store has kept buffers");
}

// Operations.

void CrashRun::start_something() {
  if (in_flight_ + changes_ >= flights_limit_) return;
  SegmentModel* const segment = pick_live_segment();
  if (!segment) {
    SegmentModel& any = segments_[random_.below(kSegments)];
    if (any.life == Life::absent) create_segment(any);
    return;
  }
  const Weights& w = weights_;
  std::uint64_t draw = random_.below(w.small_write + w.large_write + w.chunk_write + w.zero +
                                     w.zero_chunk + w.replace + w.drop_chunk + w.read + w.flush +
                                     w.stable + w.promise + w.segment + w.snapshot);
  const auto drawn = [&draw](std::uint32_t weight) {
    const bool hit = draw < weight;
    draw -= hit ? 0 : weight;
    return hit;
  };
  if (drawn(w.small_write)) return start_some_extent(*segment, 8, /*zero=*/false);
  if (drawn(w.large_write)) return start_some_extent(*segment, kBlocksMax, /*zero=*/false);
  if (drawn(w.chunk_write)) return start_whole_chunks(*segment, /*zero=*/false);
  if (drawn(w.zero)) return start_some_extent(*segment, 40, /*zero=*/true);
  if (drawn(w.zero_chunk)) return start_whole_chunks(*segment, /*zero=*/true);
  if (drawn(w.replace)) return start_replace(*segment, /*drop=*/false);
  if (drawn(w.drop_chunk)) return start_replace(*segment, /*drop=*/true);
  if (drawn(w.read)) return start_read(*segment);
  if (drawn(w.flush)) return start_flush();
  if (drawn(w.stable)) return set_stable(*segment);
  if (drawn(w.promise)) return promise_epoch(*segment);
  if (drawn(w.snapshot)) return change_snapshots();
  start_segment_change(segments_[random_.below(kSegments)]);
}

CrashRun::SegmentModel* CrashRun::pick_live_segment() {
  const std::uint64_t from = random_.below(kSegments);
  for (std::uint32_t i = 0; i < kSegments; ++i) {
    SegmentModel& segment = segments_[(from + i) % kSegments];
    if (segment.life == Life::live) return &segment;
  }
  return nullptr;
}

CrashRun::Flight* CrashRun::free_flight() noexcept {
  const auto found =
      std::find_if(flights_.begin(), flights_.end(), [](const auto& f) { return !f->busy; });
  return found == flights_.end() ? nullptr : found->get();
}

void CrashRun::start_some_extent(SegmentModel& segment, std::uint32_t blocks_max, bool zero) {
  const auto first = static_cast<std::uint32_t>(random_.below(segment.block_count));
  const std::uint32_t most = std::min(blocks_max, segment.block_count - first);
  const auto count = static_cast<std::uint32_t>(random_.between(1, most));
  zero ? start_zero(segment, first, count) : start_write(segment, first, count);
}

void CrashRun::start_whole_chunks(SegmentModel& segment, bool zero) {
  const std::uint32_t chunks = segment.block_count / kBlocksPerChunk;
  if (chunks == 0) return;
  const auto chunk = static_cast<std::uint32_t>(random_.below(chunks));
  const auto count = static_cast<std::uint32_t>(random_.between(1, std::min(4u, chunks - chunk)));
  const std::uint32_t first = chunk * kBlocksPerChunk;
  zero ? start_zero(segment, first, count * kBlocksPerChunk)
       : start_write(segment, first, count * kBlocksPerChunk);
}

void CrashRun::begin(Flight& flight, SegmentModel* segment, StoreOp::Op op) {
  flight.op = StoreOp{};
  flight.zeros = 0;
  flight.op.op = op;
  flight.op.owner = &flight;
  flight.op.done = [](StoreOp& done) noexcept {
    Flight& finished = *static_cast<Flight*>(done.owner);
    finished.run->finish(finished);
  };
  flight.busy = true;
  flight.id = next_op_id_++;
  flight.stamp_at_submit = done_stamp_;
  flight.segment = segment;
  ++in_flight_;
  ++stats_.operations;
  if (segment) {
    flight.op.segment = segment->handle;
    ++segment->in_flight;
  }
}

// Memory for `blocks` blocks: a pool's buffer or our own, aligned or not.
void CrashRun::place_data(Flight& flight, std::uint32_t blocks) {
  flight.op.data = flight.memory.data();
  if (random_.chance(2)) {
    flight.op.hold = rig_.buffers.pool_for(blocks * kBlockBytes).get();
    if (flight.op.hold) flight.op.data = flight.op.hold.data();
  }
  const bool room = !flight.op.hold || flight.op.hold.capacity_bytes() > blocks * kBlockBytes;
  if (room && random_.chance(3)) flight.op.data += random_.below(kBlockBytes);
  flight.op.crcs = flight.crcs.data();
}

void CrashRun::start_write(SegmentModel& segment, std::uint32_t first, std::uint32_t count) {
  Flight* const flight = free_flight();
  if (!flight) return;
  begin(*flight, &segment, StoreOp::Op::write);
  flight->op.first_block = first;
  flight->op.block_count = count;
  flight->op.version = next_version(segment);
  place_data(*flight, count);
  const Tag first_tag = take_tags(count);
  if (random_.chance(4)) flight->zeros = static_cast<PieceMask>(random_.next());
  for (std::uint32_t i = 0; i < count; ++i) {
    const bool zero = has_piece(flight->zeros, flight->op, (first + i) / kBlocksPerChunk);
    fill_block(flight->op.data + std::size_t{i} * kBlockBytes, zero ? kHole : first_tag + i);
  }
  for (std::uint32_t i = 0; i < count; ++i) {
    flight->crcs[i] = crc32c(flight->op.data + std::size_t{i} * kBlockBytes, kBlockBytes);
  }
  submit_mutation(*flight, Mutation::Kind::write, first_tag);
}

void CrashRun::start_zero(SegmentModel& segment, std::uint32_t first, std::uint32_t count) {
  Flight* const flight = free_flight();
  if (!flight) return;
  begin(*flight, &segment, StoreOp::Op::zero);
  flight->op.first_block = first;
  flight->op.block_count = count;
  flight->op.version = next_version(segment);
  submit_mutation(*flight, Mutation::Kind::zero, kHole);
}

// Blocks outside the mask come with rubbish, which must go nowhere.
void CrashRun::start_replace(SegmentModel& segment, bool drop) {
  Flight* const flight = free_flight();
  const std::uint32_t chunks = segment.block_count / kBlocksPerChunk;
  if (!flight || chunks == 0) return;
  begin(*flight, &segment, StoreOp::Op::replace);
  StoreOp& op = flight->op;
  op.first_block = static_cast<std::uint32_t>(random_.below(chunks)) * kBlocksPerChunk;
  op.block_count = kBlocksPerChunk;
  if (!drop) {
    op.version =
        random_.chance(2) ? next_version(segment) : Version{kOldEpoch, next_version_seq_++};
    op.valid_mask = static_cast<std::uint16_t>(random_.chance(4) ? 0xffff : random_.next());
    if (random_.chance(8)) op.valid_mask = 0;
  }
  place_data(*flight, kBlocksPerChunk);
  const Tag first_tag = take_tags(kBlocksPerChunk);
  random_.fill({op.data, 64});
  for (std::uint32_t i = 0; i < kBlocksPerChunk; ++i) {
    std::byte* const block = op.data + std::size_t{i} * kBlockBytes;
    const bool valid = op.valid_mask >> i & 1u;
    if (valid) fill_block(block, first_tag + i);
    flight->crcs[i] =
        valid ? crc32c(block, kBlockBytes) : static_cast<std::uint32_t>(random_.next());
  }
  submit_mutation(*flight, Mutation::Kind::replace, first_tag);
}

void CrashRun::submit_mutation(Flight& flight, Mutation::Kind kind, Tag first_tag) {
  flight.op.era = era_;
  const StoreOp& op = flight.op;
  flight.segment->unfinished.insert(op.version);
  const std::uint32_t end = op.first_block + op.block_count;
  for (std::uint32_t at = op.first_block; at < end;) {
    const std::uint32_t chunk = at / kBlocksPerChunk;
    const std::uint32_t chunk_end = std::min(end, (chunk + 1) * kBlocksPerChunk);
    const bool zero = has_piece(flight.zeros, op, chunk);
    flight.segment->chunks[chunk].submit({.kind = zero ? Mutation::Kind::zero : kind,
                                          .version = op.version,
                                          .era = op.era,
                                          .first = at % kBlocksPerChunk,
                                          .count = chunk_end - at,
                                          .first_tag = first_tag + (at - op.first_block),
                                          .mask = op.valid_mask,
                                          .op_id = flight.id});
    at = chunk_end;
  }
  rig_.store->submit(flight.op);
}

void CrashRun::start_read(SegmentModel& segment) {
  Flight* const flight = free_flight();
  if (!flight) return;
  begin(*flight, &segment, StoreOp::Op::read);
  StoreOp& op = flight->op;
  op.first_block = static_cast<std::uint32_t>(random_.below(segment.block_count));
  op.block_count = static_cast<std::uint32_t>(
      random_.between(1, std::min(kBlocksMax, segment.block_count - op.first_block)));
  op.data = flight->memory.data();
  if (!random_.chance(4)) op.crcs_out = flight->crcs.data();
  const std::uint32_t last = (op.first_block + op.block_count - 1) / kBlocksPerChunk;
  for (std::uint32_t chunk = op.first_block / kBlocksPerChunk; chunk <= last; ++chunk) {
    flight->reads.push_back({chunk, segment.chunks[chunk].begin_read()});
  }
  rig_.store->submit(op);
}

void CrashRun::start_flush() {
  Flight* const flight = free_flight();
  if (!flight) return;
  begin(*flight, nullptr, StoreOp::Op::flush);
  rig_.store->submit(flight->op);
}

void CrashRun::start_segment_change(SegmentModel& segment) {
  if (segment.life == Life::absent) return create_segment(segment);
  if (segment.life != Life::live) return;
  const bool quiet =
      segment.in_flight == 0 && segment.new_block_counts.empty() && segment.new_promises.empty();
  if (quiet && random_.chance(4)) return drop_segment(segment);
  grow_segment(segment);
}

void CrashRun::create_segment(SegmentModel& segment) {
  const SegmentId id = segment.id;
  segment = SegmentModel{};
  segment.id = id;
  segment.life = Life::creating;
  segment.block_count =
      static_cast<std::uint32_t>(random_.between(1, chunks_max_ * kBlocksPerChunk));
  ++changes_;
  rig_.store->create_segment(id, segment.block_count, [this, &segment](Error error) {
    --changes_;
    const auto handle = rig_.store->find_segment(segment.id);
    if (error != Error::Ok || !handle)
      return fail(std::string("create_segment: ") + error_name(error));
    segment.handle = *handle;
    segment.life = Life::live;
  });
}

void CrashRun::drop_segment(SegmentModel& segment) {
  segment.life = Life::dropping;
  ++changes_;
  rig_.store->drop_segment(segment.handle, [this, &segment](Error error) {
    --changes_;
    if (error != Error::Ok) return fail(std::string("drop_segment: ") + error_name(error));
    segment.life = Life::absent;
    segment.chunks.clear();
  });
}

void CrashRun::grow_segment(SegmentModel& segment) {
  if (!segment.new_block_counts.empty()) return;
  const std::uint32_t most = chunks_max_ * kBlocksPerChunk;
  const auto count = static_cast<std::uint32_t>(
      random_.between(segment.block_count, std::max(most, segment.block_count)));
  segment.new_block_counts.push_back(count);
  ++changes_;
  rig_.store->resize_segment(segment.handle, count, [this, &segment, count](Error error) {
    --changes_;
    if (error != Error::Ok) return fail(std::string("resize_segment: ") + error_name(error));
    segment.block_count = count;
    segment.new_block_counts.clear();
  });
}

void CrashRun::promise_epoch(SegmentModel& segment) {
  if (!segment.new_promises.empty()) return;
  const std::uint64_t epoch = std::max(segment.promised, kOldEpoch) + random_.between(0, 2);
  segment.new_promises.push_back(epoch);
  ++changes_;
  rig_.store->promise_epoch(segment.handle, epoch, [this, &segment, epoch](Error error) {
    --changes_;
    if (error != Error::Ok) return fail(std::string("promise_epoch: ") + error_name(error));
    segment.promised = epoch;
    segment.new_promises.clear();
  });
}

// To the highest version below every mutation in flight, as an engine does; or back, in vain.
void CrashRun::set_stable(SegmentModel& segment) {
  Version stable = {std::max(segment.promised, kOldEpoch + 1), next_version_seq_ - 1};
  for (const Version& version : segment.unfinished) {
    if (version.epoch > kOldEpoch)
      stable = std::min(stable, Version{version.epoch, version.seq - 1});
  }
  if (random_.chance(8)) stable.seq /= 2;
  if (stable > segment.stable) {
    segment.stable = stable;
    segment.stable_ever = std::max(segment.stable_ever, stable);
    segment.stable_marks.push_back({stable, next_op_id_});
  }
  rig_.store->set_stable(segment.handle, stable);
  if (rig_.store->segment_info(segment.handle).stable != segment.stable)
    fail("set_stable is not remembered at once");
}

// One is taken or deleted; the store hears of it now or later.
void CrashRun::change_snapshots() {
  constexpr std::size_t kMost = 5;
  if (snapshots_.size() < kMost && random_.chance(2)) {
    snapshots_.insert(era_++);
    ++stats_.snapshots;
  } else if (!snapshots_.empty()) {
    const auto any = static_cast<std::ptrdiff_t>(random_.below(snapshots_.size()));
    snapshots_.erase(std::next(snapshots_.begin(), any));
  }
  if (random_.chance(2)) tell_snapshots();
}

void CrashRun::tell_snapshots() {
  rig_.store->set_snapshots({.volume = segment_id(0).volume,
                             .known_below = era_,
                             .eras = {snapshots_.begin(), snapshots_.end()}});
  for (SegmentModel& segment : segments_) {
    for (auto& [chunk, model] : segment.chunks) model.forget_past(snapshots_);
  }
}

Version CrashRun::next_version(SegmentModel& segment) noexcept {
  return {std::max(segment.promised, kOldEpoch + 1), next_version_seq_++};
}

Tag CrashRun::take_tags(std::uint32_t count) noexcept {
  return std::exchange(next_tag_, next_tag_ + count);
}

// Their ends.

void CrashRun::finish(Flight& flight) {
  if (!flight.busy) return fail("an operation was completed twice");
  const bool mutates = flight.op.op != StoreOp::Op::read && flight.op.op != StoreOp::Op::flush;
  if (flight.op.error != Error::Ok &&
      !(flight.op.error == Error::NoSpace && may_lack_space(flight))) {
    return fail(std::string("an operation on a healthy disk failed: ") +
                error_name(flight.op.error));
  }
  if (mutates) finish_mutation(flight);
  if (flight.op.op == StoreOp::Op::read) finish_read(flight);
  if (flight.op.op == StoreOp::Op::flush) finish_flush(flight);
  if (flight.segment) --flight.segment->in_flight;
  if (mutates && flight.op.data && !flight.op.hold) {  // its memory is ours again
    std::memset(flight.op.data, 0xdd, std::size_t{flight.op.block_count} * kBlockBytes);
  }
  flight.op.hold.reset();
  flight.busy = false;
  --in_flight_;
}

// Space may lack for what takes a new slot: never for a hole, a dropped chunk or one that is there.
bool CrashRun::may_lack_space(const Flight& flight) const {
  const StoreOp& op = flight.op;
  if (era_ > 1 && op.version != Version{}) return true;  // a snapshot may hold what was there
  const bool stores =
      op.op == StoreOp::Op::write || (op.op == StoreOp::Op::replace && op.version != Version{});
  bool all_there = true;
  const std::uint32_t last = (op.first_block + op.block_count - 1) / kBlocksPerChunk;
  for (std::uint32_t chunk = op.first_block / kBlocksPerChunk; chunk <= last; ++chunk) {
    if (has_piece(flight.zeros, op, chunk)) continue;
    all_there =
        all_there && flight.segment->chunks.at(chunk).always_stored(flight.segment->stable_ever);
  }
  return stores && !all_there;
}

void CrashRun::finish_mutation(Flight& flight) {
  const StoreOp& op = flight.op;
  const bool done = op.error == Error::Ok;
  if (done) {
    ++done_stamp_;
    flight.segment->done_mutations.push_back({done_stamp_, flight.id});
  } else {
    ++stats_.no_space;
  }
  flight.segment->unfinished.erase(op.version);
  const std::uint32_t last = (op.first_block + op.block_count - 1) / kBlocksPerChunk;
  for (std::uint32_t chunk = op.first_block / kBlocksPerChunk; chunk <= last; ++chunk) {
    ChunkModel& model = flight.segment->chunks[chunk];
    done ? model.done(flight.id, done_stamp_) : model.cancel(flight.id);
  }
}

void CrashRun::finish_read(Flight& flight) {
  const StoreOp& op = flight.op;
  for (const ChunkRead& read : flight.reads) {
    ChunkModel& model = flight.segment->chunks[read.chunk];
    for (std::uint32_t b = 0; b < kBlocksPerChunk; ++b) {
      const std::uint32_t block = read.chunk * kBlocksPerChunk + b;
      if (block < op.first_block || block >= op.first_block + op.block_count) continue;
      const std::uint32_t i = block - op.first_block;
      const std::byte* const data = op.data + std::size_t{i} * kBlockBytes;
      const auto tag = tag_of_block(data);
      if (!tag)
        return fail("a read returned bytes that nobody wrote, " +
                    where(*flight.segment, read.chunk));
      if (!model.may_read(read.floor_op_id, b, *tag)) {
        return fail("a read returned tag " + std::to_string(*tag) + " for block " +
                    std::to_string(b) + " of " + where(*flight.segment, read.chunk));
      }
      if (op.crcs_out && op.crcs_out[i] != crc32c(data, kBlockBytes)) {
        return fail("a read returned a wrong CRC, " + where(*flight.segment, read.chunk));
      }
    }
    model.end_read();
  }
  flight.reads.clear();
}

void CrashRun::finish_flush(const Flight& flight) {
  flushed_stamp_ = std::max(flushed_stamp_, flight.stamp_at_submit);
  for (SegmentModel& segment : segments_) {
    for (auto& [chunk, model] : segment.chunks) model.settle(flushed_stamp_, segment.stable_ever);
    segment.stable_floor = stable_floor_at(segment, flushed_stamp_);
    std::erase_if(segment.done_mutations,
                  [&](const DoneMutation& m) { return m.stamp <= flushed_stamp_; });
    std::erase_if(segment.stable_marks,
                  [&](const StableMark& m) { return m.version <= segment.stable_floor; });
  }
}

// A stable mark travels with the first mutation of its segment that is submitted after it was set.
Version CrashRun::stable_floor_at(const SegmentModel& segment, std::uint64_t stamp) {
  std::uint64_t newest_op = 0;
  for (const DoneMutation& done : segment.done_mutations) {
    if (done.stamp <= stamp) newest_op = std::max(newest_op, done.op_id);
  }
  Version floor = segment.stable_floor;
  for (const StableMark& mark : segment.stable_marks) {
    if (mark.set_before_op <= newest_op) floor = std::max(floor, mark.version);
  }
  return floor;
}

void CrashRun::fail(const std::string& what) {
  if (failure_.empty()) failure_ = what;
}

std::string CrashRun::where(const SegmentModel& segment, std::uint32_t chunk) {
  return "segment " + std::to_string(segment.id.index) + " chunk " + std::to_string(chunk);
}

}  // namespace blockd::store::testing
