// What a store must hold: the model that its tests compare it with.
//
// A chunk is its mutations in the order they were submitted (guarantee S3). Whatever a crash leaves
// must equal the state after some prefix of them, named by the chunk's version, and that prefix
// must include everything that was durable. Blocks are filled from tags, one tag for each block
// ever written, so that any block tells which write it came from; tag 0 is a hole.
//
// Versions are unique within a chunk, so a version names one prefix; only "never written" {0,0} may
// stand for several, and for a tombstone that the stable mark has passed (S5). Zeroing where
// nothing is stored changes nothing: no tombstone remembers it.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "base/assert.h"
#include "base/crc32c.h"
#include "blockd/types.h"

namespace blockd::store::testing {

using Tag = std::uint64_t;
inline constexpr Tag kHole = 0;
inline constexpr std::size_t kBlockWords = kBlockBytes / sizeof(Tag);

inline Tag block_word(Tag tag, std::size_t word) noexcept {
  return tag == kHole ? 0 : tag + word * 0x9e3779b97f4a7c15ull;
}

inline void fill_block(std::byte* block, Tag tag) noexcept {
  std::array<Tag, kBlockWords> words;
  for (std::size_t i = 0; i < kBlockWords; ++i) words[i] = block_word(tag, i);
  std::memcpy(block, words.data(), kBlockBytes);  // `block` may lie at any alignment
}

// The tag the whole block was filled from, or none: its bytes are nobody's.
inline std::optional<Tag> tag_of_block(const std::byte* block) noexcept {
  std::array<Tag, kBlockWords> words;
  std::memcpy(words.data(), block, kBlockBytes);
  Tag differences = 0;
  for (std::size_t i = 0; i < kBlockWords; ++i) differences |= words[i] ^ block_word(words[0], i);
  return differences == 0 ? std::optional(words[0]) : std::nullopt;
}

inline std::uint32_t tag_crc(Tag tag) noexcept {
  if (tag == kHole) return crc32c_zero_block();
  std::array<std::byte, kBlockBytes> block;
  fill_block(block.data(), tag);
  return crc32c(block.data(), block.size());
}

inline std::string to_text(Version version) {
  return "{" + std::to_string(version.epoch) + "," + std::to_string(version.seq) + "}";
}

struct ModelState {
  Version version;
  Era era = 0;                // of the last mutation
  bool may_be_absent = true;  // perhaps nothing is stored at all, whatever the version says
  std::array<Tag, kBlocksPerChunk> tags{};

  [[nodiscard]] std::uint16_t mask() const noexcept {
    std::uint16_t mask = 0;
    for (std::uint32_t i = 0; i < kBlocksPerChunk; ++i) {
      if (tags[i] != kHole) mask = static_cast<std::uint16_t>(mask | 1u << i);
    }
    return mask;
  }
  [[nodiscard]] bool empty() const noexcept { return mask() == 0; }
  [[nodiscard]] std::array<std::uint32_t, kBlocksPerChunk> crcs() const noexcept {
    std::array<std::uint32_t, kBlocksPerChunk> crcs;
    for (std::uint32_t i = 0; i < kBlocksPerChunk; ++i) crcs[i] = tag_crc(tags[i]);
    return crcs;
  }
  // CRC-32C over the block CRCs, as ChunkDigest has it.
  [[nodiscard]] std::uint32_t digest() const noexcept {
    return crc32c(crcs().data(), sizeof crcs());
  }
  // A tombstone at or below the stable mark may have been forgotten (S5).
  [[nodiscard]] bool may_be_forgotten(Version stable) const noexcept {
    return empty() && (may_be_absent || version <= stable);
  }
};

// One operation's effect on one chunk.
struct Mutation {
  enum class Kind : std::uint8_t { write, zero, replace };
  Kind kind = Kind::write;
  Version version;
  Era era = 0;
  std::uint32_t first = 0;  // block in the chunk
  std::uint32_t count = 0;
  Tag first_tag = kHole;   // block i of the operation has tag first_tag + i
  std::uint16_t mask = 0;  // replace: which blocks hold data
  std::uint64_t op_id = 0;
  std::uint64_t done_stamp = 0;  // when done() came, counted from 1; 0: not yet

  [[nodiscard]] bool covers(std::uint32_t block) const noexcept {
    return kind == Kind::replace || (block >= first && block < first + count);
  }
  [[nodiscard]] Tag tag_at(std::uint32_t block) const noexcept {
    if (kind == Kind::zero) return kHole;
    if (kind == Kind::replace && !(mask >> block & 1u)) return kHole;
    return first_tag + (block - first);
  }
  void apply(ModelState& state, Version stable) const noexcept {
    const bool was_absent = state.may_be_forgotten(stable);
    state.may_be_absent = version == Version{} || (kind == Kind::zero && was_absent);
    state.version = version;
    state.era = era;
    for (std::uint32_t b = 0; b < kBlocksPerChunk; ++b) {
      if (covers(b)) state.tags[b] = tag_at(b);
    }
  }
};

class ChunkModel {
 public:
  void submit(const Mutation& mutation) { history_.push_back(mutation); }

  // One that is durable here already may still have had another chunk to wait for.
  void done(std::uint64_t op_id, std::uint64_t stamp) {
    const auto found = find(op_id);
    if (found != history_.end()) found->done_stamp = stamp;
  }

  // The operation failed with NoSpace: it has had no effect.
  void cancel(std::uint64_t op_id) {
    const auto found = find(op_id);
    BLOCKD_ASSERT(found != history_.end());
    history_.erase(found);
  }

  [[nodiscard]] ModelState newest(Version stable) const noexcept {
    return state_after(history_.size(), stable);
  }
  [[nodiscard]] bool untouched() const noexcept {
    return history_.empty() && base_.version == Version{} && base_.empty();
  }

  // Whether the chunk has had a slot through everything remembered: writing to it needs no space.
  [[nodiscard]] bool always_stored(Version stable) const noexcept {
    for (std::size_t length = 0; length < history_.size(); ++length) {
      if (state_after(length, stable).may_be_forgotten(stable)) return false;
    }
    return true;
  }

  // Reads. A read sees at least what was done when it was submitted: its floor.
  [[nodiscard]] std::uint64_t begin_read() noexcept {
    ++readers_;
    const std::size_t floor = done_count(~std::uint64_t{0});
    return floor == 0 ? 0 : history_[floor - 1].op_id;
  }
  [[nodiscard]] bool may_read(std::uint64_t floor_op_id, std::uint32_t block,
                              Tag seen) const noexcept {
    Tag current = base_.tags[block];
    bool allowed = floor_op_id == 0 && seen == current;
    bool past_floor = floor_op_id == 0;
    for (const Mutation& mutation : history_) {
      if (mutation.covers(block)) current = mutation.tag_at(block);
      past_floor = past_floor || mutation.op_id == floor_op_id;
      allowed = allowed || (past_floor && seen == current);
    }
    return allowed;
  }
  void end_read() noexcept {
    BLOCKD_ASSERT(readers_ > 0);
    --readers_;
  }

  // What the snapshot shows, everything in the history having happened.
  [[nodiscard]] ModelState shown(Era snapshot, Version stable) const {
    for (const Past& past : all_past(stable)) {
      if (past.state.era <= snapshot && snapshot < past.died) return past.state;
    }
    const ModelState now = newest(stable);
    return now.era <= snapshot ? now : ModelState{};
  }
  static bool same_content(const ModelState& seen, const ModelState& state) noexcept {
    return seen.tags == state.tags && (state.empty() || seen.version == state.version);
  }
  // How many slots the snapshots need beside the current one.
  [[nodiscard]] std::size_t past_slots(const std::set<Era>& snapshots, Version stable) const {
    const std::vector<Past> all = all_past(stable);
    return static_cast<std::size_t>(std::count_if(all.begin(), all.end(), [&](const Past& past) {
      const auto first = snapshots.lower_bound(past.state.era);
      return !past.state.empty() && first != snapshots.end() && *first < past.died;
    }));
  }
  [[nodiscard]] std::string past_text(Version stable) const {
    std::string text;
    for (const Past& past : all_past(stable))
      text += to_text(past.state.version) + " " + std::to_string(past.state.era) + ".." +
              std::to_string(past.died) + (past.state.empty() ? " empty " : " ");
    return text;
  }
  void forget_past(const std::set<Era>& snapshots) {
    std::erase_if(past_, [&](const Past& past) {
      const auto first = snapshots.lower_bound(past.state.era);
      return first == snapshots.end() || *first >= past.died;
    });
  }

  // Everything done up to `flushed_stamp` is durable: no crash takes it back.
  void settle(std::uint64_t flushed_stamp, Version stable) {
    if (readers_ > 0) return;  // their floors are in the history
    const std::size_t durable = done_count(flushed_stamp);
    remember_past(durable, stable);
    base_ = state_after(durable, stable);
    history_.erase(history_.begin(), history_.begin() + static_cast<std::ptrdiff_t>(durable));
  }

  struct CrashFloor {
    bool power_lost = false;
    std::uint64_t flushed_stamp = 0;
    std::uint64_t now_stamp = 0;  // given to what the crash left though it had not been done
  };
  using Shown = std::map<Era, ModelState>;  // by snapshot
  // Finds the prefix that the crash left; from here on it is the history. What snapshots show tells
  // apart prefixes that leave the chunk absent. One line when there is none.
  [[nodiscard]] std::string recover(const ModelState& seen, const Shown& shown_now, Version stable,
                                    CrashFloor crash) {
    readers_ = 0;
    const std::size_t floor =
        done_count(crash.power_lost ? crash.flushed_stamp : ~std::uint64_t{0});
    for (std::size_t length = history_.size() + 1; length-- > floor;) {
      if (!is_state(seen, state_after(length, stable), stable)) continue;
      if (!shows(shown_now, length, stable)) continue;
      keep(length, seen.version, stable, crash);
      return {};
    }
    return explain(seen, floor, stable);
  }

  // Nothing is in flight: the state is the newest one. One line when it is not.
  [[nodiscard]] std::string compare(const ModelState& seen, Version stable) const {
    return is_state(seen, newest(stable), stable) ? std::string()
                                                  : explain(seen, history_.size(), stable);
  }

 private:
  static bool is_state(const ModelState& seen, const ModelState& state, Version stable) noexcept {
    if (seen.tags != state.tags) return false;
    return seen.version == state.version ||
           (seen.version == Version{} && state.may_be_forgotten(stable));
  }

  [[nodiscard]] bool shows(const Shown& shown_now, std::size_t length, Version stable) const {
    ChunkModel left = *this;
    left.history_.resize(length);
    return std::all_of(shown_now.begin(), shown_now.end(), [&](const auto& one) {
      return same_content(one.second, left.shown(one.first, stable));
    });
  }

  [[nodiscard]] ModelState state_after(std::size_t length, Version stable) const noexcept {
    ModelState state = base_;
    for (std::size_t i = 0; i < length; ++i) history_[i].apply(state, stable);
    return state;
  }

  // The mutations through the last one that was done by `stamp`.
  [[nodiscard]] std::size_t done_count(std::uint64_t stamp) const noexcept {
    std::size_t count = history_.size();
    while (count > 0 &&
           (history_[count - 1].done_stamp == 0 || history_[count - 1].done_stamp > stamp))
      --count;
    return count;
  }

  std::vector<Mutation>::iterator find(std::uint64_t op_id) noexcept {
    return std::find_if(history_.begin(), history_.end(),
                        [op_id](const Mutation& m) { return m.op_id == op_id; });
  }

  void keep(std::size_t length, Version version, Version stable, const CrashFloor& crash) {
    history_.resize(length);
    if (crash.power_lost) {  // what is readable after power loss is on the medium
      remember_past(length, stable);
      base_ = state_after(length, stable);
      base_.version = version;
      base_.may_be_absent = version == Version{};
      history_.clear();
      return;
    }
    for (Mutation& mutation : history_) {
      if (mutation.done_stamp == 0) mutation.done_stamp = crash.now_stamp;
    }
  }

  [[nodiscard]] std::string explain(const ModelState& seen, std::size_t floor,
                                    Version stable) const {
    std::string text =
        "found version " + to_text(seen.version) + ", stable mark " + to_text(stable);
    for (std::size_t length = 0; length <= history_.size(); ++length) {
      const ModelState state = state_after(length, stable);
      if (state.version == seen.version) {
        for (std::uint32_t b = 0; b < kBlocksPerChunk; ++b) {
          if (state.tags[b] == seen.tags[b]) continue;
          text += "; block " + std::to_string(b) + " has tag " + std::to_string(seen.tags[b]) +
                  ", not " + std::to_string(state.tags[b]);
        }
      }
      if (length == floor) text += "; at least " + to_text(state.version) + " was durable";
      if (length > floor) text += ", " + to_text(state.version) + " may follow";
    }
    return text;
  }

  struct Past {
    Era died = 0;
    ModelState state;
  };

  // What the first `length` mutations have replaced, after base_.
  void remember_past(std::size_t length, Version stable) {
    ModelState state = base_;
    for (std::size_t i = 0; i < length; ++i) {
      if (history_[i].era > state.era) past_.push_back({history_[i].era, state});
      history_[i].apply(state, stable);
    }
  }
  [[nodiscard]] std::vector<Past> all_past(Version stable) const {
    ChunkModel copy = *this;
    copy.remember_past(history_.size(), stable);
    return copy.past_;
  }

  ModelState base_;
  std::vector<Past> past_;         // what base_ came after, oldest first
  std::vector<Mutation> history_;  // in order of submission
  std::uint32_t readers_ = 0;
};

}  // namespace blockd::store::testing
