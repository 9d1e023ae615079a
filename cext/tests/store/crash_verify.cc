// What the store must hold, after a crash and at rest: all of it compared with the model.
#include <algorithm>
#include <array>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "format/root.h"
#include "tests/store/crash_run.h"

namespace blockd::store::testing {

void CrashRun::verify_after_crash(bool power_lost) {
  for (SegmentModel& segment : segments_) {
    if (ok()) verify_segment_after_crash(segment, power_lost);
  }
  const auto live = std::count_if(segments_.begin(), segments_.end(),
                                  [](const SegmentModel& s) { return s.life == Life::live; });
  if (ok() && rig_.store->segments().size() != static_cast<std::size_t>(live))
    fail("unknown segments have appeared");
  if (power_lost) flushed_stamp_ = done_stamp_;
}

void CrashRun::verify_segment_after_crash(SegmentModel& segment, bool power_lost) {
  const std::string name = "segment " + std::to_string(segment.id.index);
  const auto handle = rig_.store->find_segment(segment.id);
  if (!handle) {
    if (segment.life == Life::live) fail(name + " is lost");
    segment.life = Life::absent;
    segment.chunks.clear();
    return;
  }
  if (segment.life == Life::absent) return fail(name + " has come back");
  segment.life = Life::live;
  segment.handle = *handle;
  const SegmentInfo info = rig_.store->segment_info(*handle);
  if (info.id != segment.id) fail(name + " has another's id");
  auto one_of = [](const auto& values, auto value) {
    return std::find(values.begin(), values.end(), value) != values.end();
  };
  if (info.block_count != segment.block_count &&
      !one_of(segment.new_block_counts, info.block_count)) {
    fail(name + " has a size nobody gave it");
  }
  if (info.promised_epoch != segment.promised &&
      !one_of(segment.new_promises, info.promised_epoch)) {
    fail(name + " forgot the epoch it had promised: " + std::to_string(info.promised_epoch) +
         ", not " + std::to_string(segment.promised));
  }
  segment.block_count = info.block_count;
  segment.promised = info.promised_epoch;
  segment.new_block_counts.clear();
  segment.new_promises.clear();

  verify_stable_mark(segment, info.stable, power_lost);
  std::map<std::uint32_t, ModelState> seen;
  const ChunkModel::CrashFloor crash{power_lost, flushed_stamp_, done_stamp_};
  for (const std::uint32_t chunk : chunks_to_visit(segment)) {
    if (!ok()) return;
    seen[chunk] = observe(segment, chunk);
    const std::string problem = segment.chunks[chunk].recover(
        seen[chunk], observe_snapshots(segment, chunk), segment.stable_ever, crash);
    if (!problem.empty())
      fail((power_lost ? "after power loss, " : "after a kill, ") + where(segment, chunk) + " " +
           problem);
  }
  if (ok()) verify_listing(segment, seen);
  if (ok()) verify_snapshots(segment);
  segment.stable = info.stable;
  std::erase_if(segment.stable_marks,
                [&](const StableMark& mark) { return mark.version > info.stable; });
  if (!power_lost) return;
  segment.stable_floor = info.stable;
  segment.stable_marks.clear();
  segment.done_mutations.clear();
}

void CrashRun::verify_stable_mark(const SegmentModel& segment, Version found, bool power_lost) {
  const Version floor = stable_floor_at(segment, power_lost ? flushed_stamp_ : done_stamp_);
  if (found > segment.stable_ever || found < floor) {
    fail("segment " + std::to_string(segment.id.index) + " has the stable mark " + to_text(found) +
         ", not between " + to_text(floor) + " and " + to_text(segment.stable_ever));
  }
}

void CrashRun::verify_at_rest() {
  check_structures();
  for (SegmentModel& segment : segments_) {
    if (segment.life != Life::live) continue;
    std::map<std::uint32_t, ModelState> seen;
    for (const std::uint32_t chunk : chunks_to_visit(segment)) {
      if (!ok()) return;
      seen[chunk] = observe(segment, chunk);
      const std::string problem = segment.chunks[chunk].compare(seen[chunk], segment.stable_ever);
      if (!problem.empty()) fail("at rest, " + where(segment, chunk) + " " + problem);
    }
    if (ok()) verify_listing(segment, seen);
    if (ok()) verify_snapshots(segment);
  }
}

// Each shows every chunk as it was at the end of its era.
void CrashRun::verify_snapshots(SegmentModel& segment) {
  for (const Era era : snapshots_) {
    const SegmentHandle view = rig_.store->open_view(segment.handle, era);
    if (view == Store::kNoView) return fail("no view is to be had");
    std::set<std::uint32_t> chunks = chunks_to_visit(segment);
    std::vector<ChunkVersion> listed(chunks_max_ + 1);
    listed.resize(rig_.store->list_chunks(view, 0, Version{}, listed));
    for (const ChunkVersion& one : listed) chunks.insert(one.chunk);
    for (const std::uint32_t chunk : chunks) {
      if (!ok()) return;
      const ModelState shown = segment.chunks[chunk].shown(era, segment.stable_ever);
      const ModelState seen = observe(segment, view, chunk);
      ++stats_.shown_chunks;
      if (!ChunkModel::same_content(seen, shown))
        fail("snapshot " + std::to_string(era) + " shows another " + where(segment, chunk) +
             ": version " + to_text(seen.version) + ", not " + to_text(shown.version));
    }
    rig_.store->close_view(view);
  }
}

ChunkModel::Shown CrashRun::observe_snapshots(const SegmentModel& segment, std::uint32_t chunk) {
  ChunkModel::Shown shown;
  for (const Era era : snapshots_) {
    const SegmentHandle view = rig_.store->open_view(segment.handle, era);
    if (view == Store::kNoView) return fail("no view is to be had"), shown;
    shown[era] = observe(segment, view, chunk);
    rig_.store->close_view(view);
  }
  return shown;
}

// Exactly what the snapshots need is kept.
void CrashRun::verify_past_slots() {
  for (SegmentModel& segment : segments_) {
    if (segment.life != Life::live) continue;
    std::vector<ChunkState> states(rig_.store->info().capacity_bytes / kChunkBytes);
    states.resize(rig_.store->list_states(segment.handle, 0, Version{}, states));
    std::map<std::uint32_t, std::size_t> kept;
    for (const ChunkState& state : states) kept[state.chunk] += state.died != 0 ? 1 : 0;
    for (const std::uint32_t chunk : chunks_to_visit(segment)) kept.try_emplace(chunk, 0);
    for (const auto& [chunk, count] : kept) {
      const std::size_t needed = segment.chunks[chunk].past_slots(snapshots_, segment.stable_ever);
      stats_.past_slots += count;
      if (count == needed) continue;
      std::string text = where(segment, chunk) + " keeps " + std::to_string(count) +
                         " past slots, not " + std::to_string(needed) + ":";
      for (const ChunkState& state : states) {
        if (state.chunk == chunk)
          text += " " + to_text(state.version) + " " + std::to_string(state.born) + ".." +
                  std::to_string(state.died);
      }
      text += "; snapshots";
      for (const Era era : snapshots_) text += " " + std::to_string(era);
      return fail(text + "; the model: " + segment.chunks[chunk].past_text(segment.stable_ever));
    }
  }
}

// list_chunks and list_digests name exactly the chunks that have a version.
void CrashRun::verify_listing(SegmentModel& segment,
                              const std::map<std::uint32_t, ModelState>& seen) {
  const std::vector<ChunkVersion> listed = list_all(segment);
  std::vector<ChunkDigest> digests(chunks_max_ + 1);
  digests.resize(rig_.store->list_digests(segment.handle, 0, digests));
  std::size_t at = 0;
  format::Root root;
  for (const auto& [chunk, state] : seen) {
    if (rig_.store->chunk_version(segment.handle, chunk) == Version{}) continue;
    if (at >= listed.size() || at >= digests.size())
      return fail(where(segment, chunk) + " is not listed");
    const ChunkDigest& digest = digests[at];
    if (listed[at].chunk != chunk || digest.chunk != chunk)
      return fail(where(segment, chunk) + " is not listed in order");
    if (digest.valid_mask != state.mask() || digest.digest != state.digest()) {
      return fail(where(segment, chunk) + " has a digest that is not its content's");
    }
    root +=
        format::root_term(chunk, digest.version, digest.born, state.mask(), state.crcs().data());
    ++at;
  }
  if (at != listed.size() || at != digests.size())
    fail("segment " + std::to_string(segment.id.index) + " lists too much");
  if (root != rig_.store->segment_info(segment.handle).root)
    fail("segment " + std::to_string(segment.id.index) + " has another root than its chunks");
}

std::vector<ChunkVersion> CrashRun::list_all(const SegmentModel& segment) {
  std::vector<ChunkVersion> all;
  std::array<ChunkVersion, 7> some;  // small, so that listing goes on from where it stopped
  std::uint32_t from = 0;
  for (;;) {
    const std::size_t count = rig_.store->list_chunks(segment.handle, from, Version{}, some);
    for (std::size_t i = 0; i < count; ++i) {
      if (some[i].chunk < from || some[i].version == Version{})
        fail("list_chunks is out of order or lists a hole");
      all.push_back(some[i]);
      from = some[i].chunk + 1;
    }
    if (count < some.size() || !ok()) return all;
  }
}

std::set<std::uint32_t> CrashRun::chunks_to_visit(const SegmentModel& segment) {
  std::set<std::uint32_t> chunks;
  for (const auto& [chunk, model] : segment.chunks) {
    if (!model.untouched()) chunks.insert(chunk);
  }
  for (const ChunkVersion& listed : list_all(segment)) chunks.insert(listed.chunk);
  return chunks;
}

// The chunk as its version, its mask and its bytes tell it, all three in agreement.
ModelState CrashRun::observe(const SegmentModel& segment, SegmentHandle handle,
                             std::uint32_t chunk) {
  struct Waiting {
    bool done = false;
  } waiting;
  ModelState state;
  Flight& flight = *flights_.front();
  if (flight.busy) return fail("verification needs a quiet store"), state;
  StoreOp& op = flight.op = StoreOp{};
  op.segment = handle;
  op.first_block = chunk * kBlocksPerChunk;
  op.block_count = std::min(kBlocksPerChunk, segment.block_count - op.first_block);
  op.data = flight.memory.data();
  op.owner = &waiting;
  op.done = [](StoreOp& done) noexcept { static_cast<Waiting*>(done.owner)->done = true; };
  rig_.store->submit(op);
  if (!rig_.world.run_until([&] { return waiting.done; }, kPatienceUs))
    return fail("a read never finishes"), state;
  if (op.error != Error::Ok) {
    return fail(where(segment, chunk) + " cannot be read: " + error_name(op.error)), state;
  }
  for (std::uint32_t b = 0; b < op.block_count; ++b) {
    const auto tag = tag_of_block(op.data + std::size_t{b} * kBlockBytes);
    if (!tag) return fail(where(segment, chunk) + " holds bytes that nobody wrote"), state;
    state.tags[b] = *tag;
  }
  state.version = rig_.store->chunk_version(handle, chunk);
  if (rig_.store->chunk_valid_mask(handle, chunk) != state.mask()) {
    fail(where(segment, chunk) + " has a mask that does not match its bytes");
  }
  return state;
}

void CrashRun::check_structures() {
  for (const std::string& problem : rig_.store->check()) fail("check: " + problem);
}

}  // namespace blockd::store::testing
