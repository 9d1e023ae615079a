// Hosts of one store each in the simulator, with one volume on all of them; for tests of the host
// plane.
#pragma once

#include <doctest/doctest.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "border/host_plane.h"
#include "io/sim_disk.h"
#include "io/sim_network.h"
#include "io/sim_world.h"
#include "tests/io/borrowed_disk.h"

namespace blockd::border {

inline constexpr std::uint64_t kVolumeBytes = 8ull << 20;
inline constexpr std::uint64_t kStoreBytes = 64ull << 20;

inline Uuid uuid(unsigned char last) {
  Uuid id;
  id.bytes.fill(0x11);
  id.bytes[15] = last;
  return id;
}

inline const Uuid kCluster = uuid(200);
inline const Uuid kVolume = uuid(100);

class Host final : public PlaneSink {
 public:
  Host(io::SimWorld& world, io::SimFabric& fabric, unsigned char number)
      : id(uuid(number)),
        store_id(uuid(static_cast<unsigned char>(number + 50))),
        name("h" + std::to_string(number)),
        world_(world),
        fabric_(fabric),
        disk_(world, kStoreBytes) {
    store::FormatOptions options;
    options.store_id = store_id;
    options.cluster_id = kCluster;
    store::Store::format(disk_, options);
  }
  ~Host() override { REQUIRE(plane == nullptr); }

  void start() {
    loop_ = std::make_unique<io::SimLoop>(world_);
    disk_.attach(*loop_);
    buffers_ = std::make_unique<Buffers>(256, 64, 64);
    network_ = std::make_unique<io::SimNetwork>(fabric_, *loop_, name);
    PlaneConfig config;
    config.hub.host_id = id;
    config.hub.cluster_id = kCluster;
    config.attach_timeout_us = 10'000'000;
    plane = std::make_unique<HostPlane>(
        *loop_, *buffers_, *network_,
        [this](const std::string& path) -> std::unique_ptr<io::Disk> {
          if (path != name) throw Fault(Error::NotFound, path + ": no such disk");
          return std::make_unique<io::testing::BorrowedDisk>(disk_);
        },
        config, *this);
  }

  void stop() {
    bool closed = false;
    plane->close([&] { closed = true; });
    REQUIRE(world_.run_until([&] { return closed; }, 60'000'000));
    plane.reset();
    network_.reset();
    loop_.reset();
  }

  Token token() { return ++last_token_; }
  bool answered(Token wanted) const { return answers.contains(wanted); }
  const Completion& wait(Token wanted) {
    REQUIRE(world_.run_until([&] { return answered(wanted); }, 60'000'000));
    return answers.at(wanted);
  }
  template <class Command>
  const Completion& run(Command command) {
    const Token fresh = token();
    command(*plane, fresh);
    return wait(fresh);
  }
  Error io(IoJob::Op op, std::uint64_t offset, std::uint64_t length, std::byte* memory = nullptr) {
    return run([&](HostPlane& p, Token fresh) {
             p.submit_io(kVolume, job(fresh, op, offset, length, memory));
           })
        .error;
  }
  static std::unique_ptr<IoJob> job(Token token, IoJob::Op op, std::uint64_t offset,
                                    std::uint64_t length, std::byte* memory) {
    auto fresh = std::make_unique<IoJob>();
    fresh->token = token;
    fresh->op = op;
    fresh->offset_bytes = offset;
    fresh->length_bytes = length;
    fresh->memory = memory;
    return fresh;
  }

  Uuid id, store_id;
  std::string name;
  std::unique_ptr<HostPlane> plane;
  std::map<Token, Completion> answers;
  std::vector<Event> events;
  std::function<void(const Event&)> on_event;

 private:
  void answer(Completion completion) noexcept override {
    const Token token = completion.token;
    REQUIRE(answers.emplace(token, std::move(completion)).second);
  }
  void happened(Event event) noexcept override {
    events.push_back(event);
    if (on_event) on_event(events.back());
  }

  io::SimWorld& world_;
  io::SimFabric& fabric_;
  io::SimDisk disk_;
  std::unique_ptr<io::SimLoop> loop_;
  std::unique_ptr<Buffers> buffers_;
  std::unique_ptr<io::SimNetwork> network_;
  Token last_token_ = 0;
};

struct Cluster {
  explicit Cluster(unsigned count, std::uint64_t seed = 5) : world(seed), fabric(world) {
    for (unsigned i = 0; i < count; ++i) {
      hosts.push_back(std::make_unique<Host>(world, fabric, static_cast<unsigned char>(i + 1)));
      in_sync.push_back(hosts.back()->id);
      boot(*hosts.back());
    }
    for (auto& host : hosts) introduce(*host);
  }
  ~Cluster() {
    for (auto& host : hosts) {
      if (host->plane) host->stop();
    }
  }

  void boot(Host& host) {
    host.start();
    REQUIRE(host.run([&](HostPlane& p, Token t) { p.open_store(t, host.name); }).error ==
            Error::Ok);
    REQUIRE(host.run([&](HostPlane& p, Token t) {
                  p.create_replica(t, host.store_id, {kVolume, 0}, kVolumeBytes / kBlockBytes);
                })
                .error == Error::Ok);
    REQUIRE(
        host.run([&](HostPlane& p, Token t) { p.listen_peers(t, "tcp:" + host.name + ":7000"); })
            .error == Error::Ok);
  }
  void introduce(Host& host) {
    for (auto& peer : hosts) {
      if (peer.get() == &host) continue;
      host.run(
          [&](HostPlane& p, Token t) { p.set_peer(t, peer->id, "tcp:" + peer->name + ":7000"); });
    }
  }
  engine::SegmentConfig segment(const Host& at) const {
    engine::SegmentConfig config;
    config.generation = generation;
    for (const auto& host : hosts) {
      const bool member = std::ranges::find(in_sync, host->id) != in_sync.end();
      config.members.push_back({host->id, host->store_id, host.get() == &at ? 0u : 2u, member});
    }
    return config;
  }
  engine::VolumeConfig config(const Host& at) {
    engine::VolumeConfig volume;
    volume.id = kVolume;
    volume.name = "demo";
    volume.size_bytes = kVolumeBytes;
    volume.epoch = ++epoch;
    volume.segments.push_back(segment(at));
    return volume;
  }
  Error attach(Host& at) {
    at.on_event = [this, &at](const Event& event) {
      if (event.kind != Event::Kind::in_sync_change_wanted) return;
      if (event.generation == generation) {
        in_sync = event.in_sync;
        ++generation;
      }
      world.after(500, nullptr, [this, &at] {
        if (at.plane) at.plane->in_sync_changed(at.token(), kVolume, segment(at));
      });
    };
    return at.run([&](HostPlane& p, Token t) { p.attach(t, config(at)); }).error;
  }

  io::SimWorld world;
  io::SimFabric fabric;
  std::vector<std::unique_ptr<Host>> hosts;
  std::vector<Uuid> in_sync;
  std::uint64_t generation = 1;
  std::uint64_t epoch = 0;
};

inline std::vector<std::byte> pattern(std::size_t bytes, unsigned seed) {
  std::vector<std::byte> out(bytes);
  for (std::size_t i = 0; i < bytes; ++i)
    out[i] = static_cast<std::byte>((i * 131 + seed * 17) >> 3);
  return out;
}

}  // namespace blockd::border
