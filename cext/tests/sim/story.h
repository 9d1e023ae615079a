// What the single stories of a cluster share: a cluster that serves, and one request at a time.
#pragma once

#include <doctest/doctest.h>

#include <cstdlib>
#include <cstring>

#include "sim/cluster.h"

namespace blockd::sim {

using engine::BlockRequest;
using engine::VolumeState;

inline constexpr std::uint64_t kPatienceUs = 40'000'000;

// One request with memory of its own; waits for the answer.
struct Io {
  SimCluster& cluster;
  std::uint32_t host;
  std::byte* memory = static_cast<std::byte*>(std::aligned_alloc(kBlockBytes, kMutationBytesMax));
  BlockRequest request{};
  bool over = false;

  Io(SimCluster& in, std::uint32_t at) : cluster(in), host(at) {}
  ~Io() { std::free(memory); }
  Io(const Io&) = delete;
  Io& operator=(const Io&) = delete;

  void begin(BlockRequest::Op op, std::uint64_t offset, std::uint32_t length, bool fua = false) {
    request = BlockRequest{};
    request.op = op;
    request.offset_bytes = offset;
    request.length_bytes = length;
    request.fua = fua;
    request.data = memory;
    request.owner = this;
    request.done = [](BlockRequest& r) noexcept { static_cast<Io*>(r.owner)->over = true; };
    over = false;
    cluster.volume(host)->submit(request);
  }
  Error wait(std::uint64_t max_us = kPatienceUs) {
    return cluster.world().run_until([&] { return over; }, max_us) ? request.error : Error::Timeout;
  }
  Error write(std::uint64_t offset, std::uint32_t length, int byte, bool fua = false) {
    std::memset(memory, byte, length);
    begin(BlockRequest::Op::write, offset, length, fua);
    return wait();
  }
  Error read(std::uint64_t offset, std::uint32_t length) {
    std::memset(memory, 0xee, length);
    begin(BlockRequest::Op::read, offset, length);
    return wait();
  }
  Error trim(std::uint64_t offset, std::uint32_t length) {
    begin(BlockRequest::Op::trim, offset, length);
    return wait();
  }
  Error flush() {
    begin(BlockRequest::Op::flush, 0, 0);
    return wait();
  }
  [[nodiscard]] bool all(int byte, std::size_t from, std::size_t length) const {
    for (std::size_t i = from; i < from + length; ++i) {
      if (memory[i] != static_cast<std::byte>(byte)) return false;
    }
    return true;
  }
};

inline bool until_state(SimCluster& cluster, std::uint32_t host, VolumeState state,
                        std::uint64_t max_us = kPatienceUs) {
  return cluster.world().run_until([&] { return cluster.volume(host)->state() == state; }, max_us);
}

inline bool until_in_sync(SimCluster& cluster, std::uint32_t count,
                          std::uint64_t max_us = kPatienceUs) {
  return cluster.world().run_until([&] { return cluster.in_sync_count(0) == count; }, max_us);
}

inline FakeStoreMedium& fake(SimCluster& cluster, std::uint32_t host) {
  return static_cast<FakeStoreMedium&>(cluster.medium(host));
}

// A block of a replica of segment 0 fails its checksum from now on.
inline void damage(SimCluster& cluster, std::uint32_t host, std::uint32_t block) {
  REQUIRE(cluster.medium(host).rot({cluster.volume_id(), 0}, block));
}

struct Fixture {
  explicit Fixture(ClusterOptions options = {}, std::uint32_t at = 0)
      : cluster(options), io(cluster, at) {
    cluster.attach(at);
    REQUIRE(until_state(cluster, at, VolumeState::serving));
  }
  ~Fixture() { CHECK(cluster.audit().wrong() == ""); }
  Fixture(const Fixture&) = delete;
  Fixture& operator=(const Fixture&) = delete;
  SimCluster cluster;
  Io io;
};

}  // namespace blockd::sim
