// Hosts that answer views of volumes from memory, behind the channels of a hub; for tests of
// what reads snapshots.
#pragma once

#include <algorithm>
#include <cstring>
#include <map>
#include <memory>
#include <set>
#include <vector>

#include "base/crc32c.h"
#include "format/wire.h"
#include "io/sim_world.h"
#include "peer/peer_hub.h"

namespace blockd::engine {

inline Uuid test_id(unsigned char number) {
  Uuid id;
  id.bytes.fill(0x22);
  id.bytes[15] = number;
  return id;
}

// What a view shows; the same at every host.
struct FakeView {
  std::vector<std::byte> bytes;                                     // whole blocks
  std::map<std::uint64_t, std::vector<format::ChunkEntry>> chunks;  // by segment
};

using FakeViews = std::map<Uuid, FakeView>;  // by volume

class FakeChannel final : public peer::ReplicaChannel {
 public:
  FakeChannel(io::SimLoop& loop, const FakeViews& views) : loop_(loop), views_(views) {}

  [[nodiscard]] bool connected() const noexcept override { return up_; }
  [[nodiscard]] bool unreachable() const noexcept override { return !up_; }
  [[nodiscard]] std::uint16_t version() const noexcept override { return format::kWireVersionMax; }
  void fail() noexcept override { set_up(false); }

  void set_up(bool up) {
    if (up == up_) return;
    up_ = up;
    ++life_;
    notify(up);
  }

  void submit(peer::ReplicaOp& op) noexcept override {
    ++asked;
    last_store = op.store;
    const std::uint64_t life = life_;
    loop_.world().after(loop_.world().random().between(50, 400), &loop_, [this, &op, life] {
      op.error = life != life_ || !up_ ? Error::LinkLost : answer(op);
      op.done(op);
    });
  }

  Error fails = Error::Ok;            // every answer
  std::set<std::uint64_t> rotten;     // blocks of the volume that fail their checksum
  std::set<std::uint64_t> falsified;  // those that come with other bytes than their checksum's
  std::uint32_t asked = 0;
  Uuid last_store;

 private:
  Error answer(peer::ReplicaOp& op) {
    if (fails != Error::Ok) return fails;
    if (!views_.contains(op.segment.volume)) return Error::NotFound;
    return op.kind == peer::ReplicaOp::Kind::read_view ? read(op) : list(op);
  }

  Error read(peer::ReplicaOp& op) {
    const FakeView& view = views_.at(op.segment.volume);
    const std::uint64_t first = op.segment.index * (kSegmentBytes / kBlockBytes) + op.first_block;
    for (std::uint64_t i = 0; i < op.block_count; ++i) {
      if (rotten.contains(first + i)) return Error::ChecksumMismatch;
      std::byte* to = op.data + i * kBlockBytes;
      const std::uint64_t at = (first + i) * kBlockBytes;
      if (at < view.bytes.size()) {
        std::memcpy(to, view.bytes.data() + at, kBlockBytes);
      } else {
        std::memset(to, 0, kBlockBytes);
      }
      op.crcs[i] = crc32c(to, kBlockBytes);
      if (falsified.contains(first + i)) to[17] ^= std::byte{4};
    }
    return Error::Ok;
  }

  Error list(peer::ReplicaOp& op) {
    const FakeView& view = views_.at(op.segment.volume);
    const auto found = view.chunks.find(op.segment.index);
    const std::uint32_t room = op.data_bytes / sizeof(format::ChunkEntry);
    op.block_count = 0;
    if (found == view.chunks.end()) return Error::Ok;
    for (const format::ChunkEntry& entry : found->second) {
      if (entry.chunk < op.first_block || op.block_count == room) continue;
      std::memcpy(op.data + op.block_count++ * sizeof entry, &entry, sizeof entry);
    }
    return Error::Ok;
  }

  io::SimLoop& loop_;
  const FakeViews& views_;
  bool up_ = true;
  std::uint64_t life_ = 0;
};

class FakeHub final : public peer::PeerHub {
 public:
  FakeHub(io::SimLoop& loop, const FakeViews& views) : loop_(loop), views_(views) {}

  FakeChannel& fake(const Uuid& host) {
    std::unique_ptr<FakeChannel>& channel = channels_[host];
    if (!channel) channel = std::make_unique<FakeChannel>(loop_, views_);
    return *channel;
  }
  peer::ReplicaChannel& channel(const Uuid& host) override { return fake(host); }

  io::Endpoint listen(const io::Endpoint& at) override { return at; }
  void set_peer(const Uuid&, const io::Endpoint&) override {}
  void add_store(store::Store&) override {}
  void remove_store(const Uuid&) override {}
  [[nodiscard]] bool connected(const Uuid& host) const noexcept override {
    return channels_.at(host)->connected();
  }
  [[nodiscard]] std::uint64_t lease_left_us(const Uuid&) const noexcept override { return 0; }
  [[nodiscard]] const peer::HubConfig& config() const noexcept override { return config_; }
  void close(std::function<void()> done) override { done(); }

 private:
  io::SimLoop& loop_;
  const FakeViews& views_;
  peer::HubConfig config_;
  std::map<Uuid, std::unique_ptr<FakeChannel>> channels_;
};

}  // namespace blockd::engine
