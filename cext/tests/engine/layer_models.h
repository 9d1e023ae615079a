// The layers of a layered volume in memory, for its tests: an upper one that keeps of each chunk
// what a store would (born, mask, whether there is a record at all), and a base that only reads.
// Both end requests late and out of order, and fail now and then; of a mutation that fails any part
// may have happened.
#pragma once

#include <algorithm>
#include <cstring>
#include <functional>
#include <map>
#include <set>
#include <span>
#include <vector>

#include "base/assert.h"
#include "base/random.h"
#include "blockd/types.h"
#include "engine/block_backend.h"
#include "engine/snapshot_reader.h"
#include "io/sim_world.h"

namespace blockd::engine {

inline constexpr std::size_t kSectorBytes = 512;

// What the write with number `id` puts into a sector; 0: zeros.
inline void fill_sector(std::byte* to, std::uint64_t id, std::uint64_t sector) {
  std::uint64_t words[kSectorBytes / 8] = {};
  for (std::size_t i = 0; id != 0 && i < std::size(words); ++i) {
    words[i] = (id * 0x9e3779b97f4a7c15ull + sector * 64 + i) | 1;
  }
  std::memcpy(to, words, sizeof words);
}

class ModelLayer : public BlockBackend {
 public:
  using Op = BlockRequest::Op;
  using Chunk = SnapshotReader::Chunk;

  ModelLayer(io::SimLoop& loop, std::uint64_t size_bytes) : loop_(loop) { grow(size_bytes); }

  [[nodiscard]] std::uint64_t size_bytes() const noexcept override { return size_bytes_; }
  void grow(std::uint64_t size_bytes) {
    size_bytes_ = size_bytes;
    bytes.resize(
        std::max(bytes.size(), (size_bytes + kChunkBytes - 1) / kChunkBytes * kChunkBytes));
  }
  // What it holds behind the end stays there, as a replica's does.
  void shrink(std::uint64_t size_bytes) { size_bytes_ = size_bytes; }
  // When all requests that it has now are answered.
  void drain(std::function<void(Error)> done) { look_drained(last_id_, std::move(done)); }
  [[nodiscard]] std::size_t in_flight() const noexcept { return in_flight_; }
  [[nodiscard]] bool chance(std::uint64_t one_in) { return loop_.world().random().chance(one_in); }

  void submit(BlockRequest& request) noexcept override {
    if (chance(refuse_one_in)) {
      request.error = Error::QuorumLost;
      return request.done(request);
    }
    ++in_flight_;
    under_way_.insert(++last_id_);
    loop_.world().after(loop_.world().random().between(1, 300), &loop_,
                        [this, &request, id = last_id_] {
                          --in_flight_;
                          under_way_.erase(id);
                          request.error = serve(request, chance(error_one_in));
                          request.done(request);
                        });
  }
  void list(SnapshotReader::Take take, std::function<void(Error)> done) {
    loop_.world().after(100, &loop_, [this, take, done] {
      const std::vector<Chunk> chunks = listing();
      const std::size_t half = chunks.size() / 2;  // two pages, the later chunks first
      take(std::span(chunks).subspan(half));
      if (chance(list_error_one_in)) return done(Error::LinkLost);
      take(std::span(chunks).first(half));
      done(Error::Ok);
    });
  }
  [[nodiscard]] std::uint16_t mask(std::uint64_t chunk) const {
    std::uint16_t valid = 0;
    for (std::uint32_t i = 0; i < kBlocksPerChunk; ++i) {
      const std::byte* block = bytes.data() + chunk * kChunkBytes + i * kBlockBytes;
      if (std::any_of(block, block + kBlockBytes, [](std::byte b) { return b != std::byte{0}; })) {
        valid = static_cast<std::uint16_t>(valid | 1u << i);
      }
    }
    return valid;
  }
  [[nodiscard]] virtual std::vector<Chunk> listing() const {
    std::vector<Chunk> chunks;
    for (std::uint64_t chunk = 0; chunk * kChunkBytes < bytes.size(); ++chunk) {
      if (mask(chunk) != 0) chunks.push_back({chunk, {1, chunk + 1}, 1, mask(chunk)});
    }
    return chunks;
  }

  std::vector<std::byte> bytes;
  std::uint64_t refuse_one_in = 0;  // inside submit()
  std::uint64_t error_one_in = 0;
  std::uint64_t list_error_one_in = 0;
  std::uint64_t reads = 0;

 protected:
  virtual Error serve(BlockRequest& request, bool fail) {
    BLOCKD_ASSERT(request.op == Op::read);
    return read(request, fail);
  }
  Error read(BlockRequest& request, bool fail) {
    const std::uint64_t end = request.offset_bytes + request.length_bytes;
    BLOCKD_ASSERT(request.offset_bytes % kBlockBytes == 0 && request.length_bytes > 0);
    BLOCKD_ASSERT(request.length_bytes % kBlockBytes == 0);
    BLOCKD_ASSERT(request.length_bytes <= kMutationBytesMax);
    BLOCKD_ASSERT(end <= (size_bytes_ + kBlockBytes - 1) / kBlockBytes * kBlockBytes);
    ++reads;
    if (fail) return Error::ChecksumMismatch;
    std::memcpy(request.data, bytes.data() + request.offset_bytes, request.length_bytes);
    return Error::Ok;
  }

  void look_drained(std::uint64_t up_to, std::function<void(Error)> done) {
    if (under_way_.empty() || *under_way_.begin() > up_to) return done(Error::Ok);
    loop_.world().after(20, &loop_,
                        [this, up_to, done = std::move(done)] { look_drained(up_to, done); });
  }

  io::SimLoop& loop_;
  std::uint64_t size_bytes_ = 0;
  std::size_t in_flight_ = 0;
  std::uint64_t last_id_ = 0;
  std::set<std::uint64_t> under_way_;
};

class ModelVolume final : public ModelLayer {
 public:
  using ModelLayer::ModelLayer;

  struct Record {
    Era born = 0;
    bool covers = false;
  };

  [[nodiscard]] std::vector<Chunk> listing() const override {
    std::vector<Chunk> chunks;
    for (const auto& [chunk, record] : records) {
      chunks.push_back({chunk, {1, 1}, record.born, mask(chunk)});
    }
    return chunks;
  }
  // As the stable mark's passing does.
  void drop_tombstones() {
    std::erase_if(
        records, [&](const auto& entry) { return !entry.second.covers && mask(entry.first) == 0; });
  }
  // The bytes of one sector of a mutation.
  void apply(const BlockRequest& request, std::uint64_t at) {
    std::byte* to = bytes.data() + at;
    if (request.op == Op::write) {
      std::memcpy(to, request.data + (at - request.offset_bytes), kSectorBytes);
    } else {
      std::memset(to, 0, kSectorBytes);
    }
  }
  void touch(std::uint64_t chunk, bool covers) {
    records[chunk] = {era, covers};
    if (!covers && mask(chunk) == 0 && chance(2)) records.erase(chunk);
  }

  Era era = 1;
  std::map<std::uint64_t, Record> records;
  std::function<bool(std::uint64_t chunk)> must_cover = [](std::uint64_t) { return false; };
  std::uint64_t flushes = 0, mutations = 0, covered = 0;

 private:
  // A request may be more than one mutation, as an engine cuts it (Volume's cut_mutation).
  static std::uint64_t piece_end(const BlockRequest& request, std::uint64_t at, std::uint64_t end) {
    const std::uint64_t first = at / kBlockBytes * kBlockBytes;
    if (request.op == Op::write) return std::min(end, first + kMutationBytesMax);
    if (at != first || end - at < kBlockBytes) return std::min(end, first + kBlockBytes);
    return end / kBlockBytes * kBlockBytes;
  }

  Error serve(BlockRequest& request, bool fail) override {
    if (request.op == Op::flush) return ++flushes, fail ? Error::QuorumLost : Error::Ok;
    if (request.op == Op::read) return read(request, fail);
    const std::uint64_t end = request.offset_bytes + request.length_bytes;
    BLOCKD_ASSERT(request.length_bytes > 0 && end <= size_bytes_);
    BLOCKD_ASSERT(request.op != Op::write || request.length_bytes <= kMutationBytesMax);
    ++mutations;
    covered += request.covers ? 1 : 0;
    for (std::uint64_t at = request.offset_bytes; at < end;) {
      const std::uint64_t stop = piece_end(request, at, end);
      for (; at < stop;) {  // of one mutation a chunk has all or nothing
        const std::uint64_t chunk = at / kChunkBytes;
        const std::uint64_t chunk_stop = std::min(stop, (chunk + 1) * kChunkBytes);
        BLOCKD_ASSERT(request.covers || !must_cover(chunk));
        if (fail && chance(2)) {
          at = chunk_stop;
          continue;
        }
        for (; at < chunk_stop; at += kSectorBytes) apply(request, at);
        touch(chunk, request.covers);
      }
    }
    return fail ? Error::WriteUnresolved : Error::Ok;
  }
};

}  // namespace blockd::engine
