// The branches of a simulated volume, and the check that nothing is thrown away in a conflict
// (docs/REPLICATION.md, B).
//
// A branch is what the engine's front makes of it: whole chunks, durable once they are answered
// for. The check watches every mutation of the fake stores and knows from them which version of a
// chunk was made on top of which. Content that is replaced, and that is not beneath what takes its
// place, has to be in a branch by then, block by block, as far as it differs.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "blockd/types.h"
#include "engine/volume.h"
#include "sim/fake_store.h"

namespace blockd::sim {

class Branches {
 public:
  using Chunks = std::map<std::uint64_t, std::vector<std::byte>>;  // by offset in the volume

  // As the metadata service and the host do: the branch of that host which is written to. With
  // `fresh` a new one.
  void make(const Uuid& host, bool fresh);
  void seal(const Uuid& host) { open_.erase(host); }
  // NotFound: there is none; AlreadyExists: it has other content of that chunk.
  [[nodiscard]] Error keep(const engine::Preserve& content);
  [[nodiscard]] const std::vector<Chunks>& of(const Uuid& host) { return kept_[host]; }
  [[nodiscard]] std::size_t count() const;

  // Before `m` is done to `segment` at the host's store.
  void watch(const Uuid& host, const FakeSegment& segment, const FakeMutation& m);
  // The store lets go of an empty record.
  void reaped(const Uuid& host, const SegmentId& segment, std::uint32_t chunk, Version version);
  // The chunk can be read nowhere, and that was told: nobody can keep it.
  void told_unreadable(std::uint32_t chunk) { unreadable_.push_back(chunk); }
  [[nodiscard]] const std::string& wrong() const { return wrong_; }

 private:
  struct Lineage {
    std::map<Version, Version> beneath;  // what a version was made on
    std::map<Uuid, Version> at;          // by host: the last one there, also when its record went
  };
  [[nodiscard]] bool in_history(const Lineage& lineage, Version version, Version newer) const;
  void check(const Uuid& host, const FakeSegment& segment, const FakeMutation& m);
  [[nodiscard]] bool kept(const Uuid& host, std::uint64_t offset, const std::byte* block) const;

  std::map<Uuid, std::vector<Chunks>> kept_;
  std::map<Uuid, std::size_t> open_;                                   // by host: which of them
  std::map<std::pair<std::uint32_t, std::uint32_t>, Lineage> chunks_;  // by segment and chunk
  std::vector<std::uint32_t> unreadable_;
  std::string wrong_;
};

}  // namespace blockd::sim
