#include "sim/branches.h"

#include <algorithm>
#include <cstring>

namespace blockd::sim {

namespace {

const std::vector<std::byte>& zeros() {
  static const std::vector<std::byte> chunk(kChunkBytes);
  return chunk;
}

std::string text(Version version) {
  return std::to_string(version.epoch) + "." + std::to_string(version.seq);
}

// The block as a read shows it.
const std::byte* shown(std::uint16_t valid_mask, const std::byte* data, std::uint32_t block) {
  const bool valid = ((valid_mask >> block) & 1) != 0;
  return (valid ? data : zeros().data()) + std::size_t{block} * kBlockBytes;
}

}  // namespace

void Branches::make(const Uuid& host, bool fresh) {
  if (!fresh && open_.contains(host)) return;
  std::vector<Chunks>& all = kept_[host];
  open_[host] = all.size();
  all.emplace_back();
}

Error Branches::keep(const engine::Preserve& content) {
  const auto open = open_.find(content.host);
  if (open == open_.end()) return Error::NotFound;
  std::vector<std::byte>& chunk = kept_[content.host][open->second][content.offset_bytes];
  if (chunk.empty()) chunk = zeros();
  const bool same = std::memcmp(chunk.data(), content.data, kChunkBytes) == 0;
  if (!same && chunk != zeros()) return Error::AlreadyExists;
  std::memcpy(chunk.data(), content.data, kChunkBytes);
  return Error::Ok;
}

std::size_t Branches::count() const {
  std::size_t count = 0;
  for (const auto& [host, all] : kept_) {
    count += static_cast<std::size_t>(
        std::ranges::count_if(all, [](const Chunks& chunks) { return !chunks.empty(); }));
  }
  return count;
}

void Branches::watch(const Uuid& host, const FakeSegment& segment, const FakeMutation& m) {
  using Op = store::StoreOp::Op;
  if (m.op == Op::forget || m.died != 0) return;
  if (m.op == Op::replace) check(host, segment, m);
  const std::uint32_t last = (m.first_block + m.block_count - 1) / kBlocksPerChunk;
  for (std::uint32_t index = m.first_block / kBlocksPerChunk; index <= last; ++index) {
    Lineage& lineage = chunks_[{segment.info.id.index, index}];
    const auto current = segment.chunks.find(index);
    Version& at = lineage.at[host];
    if (current != segment.chunks.end()) at = current->second.version;
    if (m.op != Op::replace && m.version != at) {
      Version& beneath = lineage.beneath[m.version];
      beneath = std::max(beneath, at);
    }
    if (m.version != Version{}) at = m.version;
  }
}

void Branches::reaped(const Uuid& host, const SegmentId& segment, std::uint32_t chunk,
                      Version version) {
  chunks_[{segment.index, chunk}].at[host] = version;
}

bool Branches::in_history(const Lineage& lineage, Version version, Version newer) const {
  while (newer > version) {
    const auto found = lineage.beneath.find(newer);
    if (found == lineage.beneath.end()) return false;
    newer = found->second;
  }
  return newer == version;
}

void Branches::check(const Uuid& host, const FakeSegment& segment, const FakeMutation& m) {
  const std::uint32_t index = m.first_block / kBlocksPerChunk;
  const auto found = segment.chunks.find(index);
  if (found == segment.chunks.end() || found->second.version == m.version) return;
  const FakeChunk& old = found->second;
  const Lineage& lineage = chunks_[{segment.info.id.index, index}];
  bool known = in_history(lineage, old.version, m.version);
  for (const auto& [other, version] : lineage.at) {  // nothing takes its place: others know why
    known = known ||
            (m.version == Version{} && other != host && in_history(lineage, old.version, version));
  }
  if (known || std::ranges::count(unreadable_, index) != 0) return;
  const std::uint64_t offset =
      std::uint64_t{segment.info.id.index} * kSegmentBytes + std::uint64_t{index} * kChunkBytes;
  for (std::uint32_t block = 0; block < kBlocksPerChunk; ++block) {
    const std::byte* before = shown(old.valid_mask, old.data.data(), block);
    const std::byte* after = shown(m.valid_mask, m.data.data(), block);
    const bool valid = ((old.valid_mask >> block) & 1) != 0;
    const bool rotten = valid && crc32c(before, kBlockBytes) != old.crcs[block];
    if (rotten || std::memcmp(before, after, kBlockBytes) == 0) continue;
    if (kept(host, offset + std::uint64_t{block} * kBlockBytes, before)) continue;
    wrong_ = "block " + std::to_string(block) + " of chunk " + std::to_string(index) +
             ", version " + text(old.version) + ", gives way to version " + text(m.version) +
             ", which was not made on it, and no branch has it";
    return;
  }
}

bool Branches::kept(const Uuid& host, std::uint64_t offset, const std::byte* block) const {
  const auto all = kept_.find(host);
  if (all == kept_.end()) return false;
  return std::ranges::any_of(all->second, [&](const Chunks& chunks) {
    const auto chunk = chunks.find(offset / kChunkBytes * kChunkBytes);
    return chunk != chunks.end() &&
           std::memcmp(chunk->second.data() + offset % kChunkBytes, block, kBlockBytes) == 0;
  });
}

}  // namespace blockd::sim
