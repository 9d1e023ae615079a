// The host plane in the simulator: every command is answered once, and closing closes everything.
#include "border/host_plane.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "io/sim_disk.h"
#include "io/sim_network.h"
#include "io/sim_world.h"

using namespace blockd;
using namespace blockd::border;

namespace {

constexpr std::uint64_t kVolumeBytes = 8ull << 20;
constexpr std::uint64_t kStoreBytes = 64ull << 20;

Uuid uuid(unsigned char last) {
  Uuid id;
  id.bytes.fill(0x11);
  id.bytes[15] = last;
  return id;
}

const Uuid kCluster = uuid(200);
const Uuid kVolume = uuid(100);

// A disk that the plane opens and closes while its content stays.
class BorrowedDisk final : public io::Disk {
 public:
  explicit BorrowedDisk(io::SimDisk& disk) : disk_(disk) {}
  void submit(io::DiskRequest& request) noexcept override { disk_.submit(request); }
  [[nodiscard]] std::uint64_t capacity_bytes() const noexcept override {
    return disk_.capacity_bytes();
  }
  [[nodiscard]] Error read_now(std::uint64_t offset, std::span<std::byte> into) noexcept override {
    return disk_.read_now(offset, into);
  }
  [[nodiscard]] Error write_now(std::uint64_t offset,
                                std::span<const std::byte> from) noexcept override {
    return disk_.write_now(offset, from);
  }
  [[nodiscard]] Error flush_now() noexcept override { return disk_.flush_now(); }

 private:
  io::SimDisk& disk_;
};

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
          return std::make_unique<BorrowedDisk>(disk_);
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

std::vector<std::byte> pattern(std::size_t bytes, unsigned seed) {
  std::vector<std::byte> out(bytes);
  for (std::size_t i = 0; i < bytes; ++i)
    out[i] = static_cast<std::byte>((i * 131 + seed * 17) >> 3);
  return out;
}

}  // namespace

TEST_CASE("a volume on one host is attached, written, detached and attached again") {
  Cluster cluster(1);
  Host& host = *cluster.hosts[0];
  REQUIRE(cluster.attach(host) == Error::Ok);
  auto data = pattern(1'000'000, 1);
  std::vector<std::byte> into(data.size());
  CHECK(host.io(IoJob::Op::write, 4097, data.size(), data.data()) == Error::Ok);
  CHECK(host.io(IoJob::Op::flush, 0, 0) == Error::Ok);
  CHECK(host.run([](HostPlane& p, Token t) { p.detach(t, kVolume); }).error == Error::Ok);
  CHECK(host.io(IoJob::Op::read, 0, 10, into.data()) == Error::NotAttached);
  REQUIRE(cluster.attach(host) == Error::Ok);
  CHECK(host.io(IoJob::Op::read, 4097, into.size(), into.data()) == Error::Ok);
  CHECK(into == data);
}

TEST_CASE("a restart finds everything that was closed") {
  Cluster cluster(1);
  Host& host = *cluster.hosts[0];
  REQUIRE(cluster.attach(host) == Error::Ok);
  auto data = pattern(300'000, 2);
  std::vector<std::byte> into(data.size());
  CHECK(host.io(IoJob::Op::write, 0, data.size(), data.data()) == Error::Ok);
  host.stop();
  cluster.boot(host);
  REQUIRE(cluster.attach(host) == Error::Ok);
  CHECK(host.io(IoJob::Op::read, 0, into.size(), into.data()) == Error::Ok);
  CHECK(into == data);
}

TEST_CASE("three hosts lose one, go on, and have it back") {
  Cluster cluster(3);
  Host& holder = *cluster.hosts[0];
  Host& lost = *cluster.hosts[2];
  REQUIRE(cluster.attach(holder) == Error::Ok);
  auto data = pattern(2'000'000, 3);
  CHECK(holder.io(IoJob::Op::write, 100, data.size(), data.data()) == Error::Ok);
  lost.stop();
  auto more = pattern(1'000'000, 4);
  CHECK(holder.io(IoJob::Op::write, 5'000'000, more.size(), more.data()) == Error::Ok);
  CHECK(cluster.world.run_until([&] { return cluster.in_sync.size() == 2; }, 60'000'000));
  cluster.boot(lost);
  cluster.introduce(lost);
  CHECK(cluster.world.run_until([&] { return cluster.in_sync.size() == 3; }, 60'000'000));
  CHECK(holder.io(IoJob::Op::flush, 0, 0) == Error::Ok);

  std::vector<std::vector<store::ChunkDigest>> digests;
  for (auto& host : cluster.hosts) {
    const Completion& listed = host->run([](HostPlane& p, Token t) {
      p.list_digests(t, {kVolume, 0}, true);
    });
    REQUIRE(listed.error == Error::Ok);
    digests.push_back(listed.reply->digests);
  }
  for (const auto& listed : digests) {
    REQUIRE(listed.size() == digests[0].size());
    for (std::size_t i = 0; i < listed.size(); ++i) {
      CHECK(listed[i].version == digests[0][i].version);
      CHECK(listed[i].digest == digests[0][i].digest);
    }
  }
}

TEST_CASE("closing answers whatever is under way, once") {
  for (std::uint64_t seed = 1; seed <= 40; ++seed) {
    Cluster cluster(3, seed);
    Host& host = *cluster.hosts[0];
    REQUIRE(cluster.attach(host) == Error::Ok);
    auto data = pattern(4'000'000, 5);
    std::vector<Token> tokens;
    for (int i = 0; i < 6; ++i) {
      tokens.push_back(host.token());
      host.plane->submit_io(
          kVolume, Host::job(tokens.back(), IoJob::Op::write, 1000, data.size(), data.data()));
    }
    tokens.push_back(host.token());
    host.plane->list_digests(tokens.back(), {kVolume, 0}, true);
    if (seed % 2) {
      tokens.push_back(host.token());
      host.plane->detach(tokens.back(), kVolume);
    }
    cluster.world.run_for(seed * 300);
    host.stop();
    for (const Token token : tokens) CHECK(host.answered(token));
  }
}

TEST_CASE("closing while an attach waits for hosts that are gone") {
  Cluster cluster(3);
  cluster.hosts[1]->stop();
  cluster.hosts[2]->stop();
  Host& host = *cluster.hosts[0];
  const Token token = host.token();
  host.plane->attach(token, cluster.config(host));
  cluster.world.run_for(1'000'000);
  CHECK_FALSE(host.answered(token));
  host.stop();
  CHECK(host.answers.at(token).error == Error::ShuttingDown);
}

TEST_CASE("an attach that cannot succeed ends by itself and says what is missing") {
  Cluster cluster(3);
  cluster.hosts[1]->stop();
  cluster.hosts[2]->stop();
  Host& host = *cluster.hosts[0];
  const Completion& failed =
      host.run([&](HostPlane& p, Token t) { p.attach(t, cluster.config(host)); });
  CHECK(failed.error == Error::Timeout);
  CHECK(failed.message.find("1 of 1 segments do not serve") != std::string::npos);
  cluster.world.run_for(10'000'000);
  CHECK(host.io(IoJob::Op::flush, 0, 0) == Error::NotAttached);
}

TEST_CASE("closing while a volume is stalled ends in bounded time") {
  Cluster cluster(3);
  Host& host = *cluster.hosts[0];
  REQUIRE(cluster.attach(host) == Error::Ok);
  host.on_event = nullptr;  // the metadata service is gone as well
  cluster.hosts[1]->stop();
  cluster.hosts[2]->stop();
  auto data = pattern(100'000, 6);
  const Token token = host.token();
  host.plane->submit_io(kVolume, Host::job(token, IoJob::Op::write, 0, data.size(), data.data()));
  cluster.world.run_for(100'000);
  CHECK_FALSE(host.answered(token));
  const std::uint64_t before = cluster.world.now_us();
  host.stop();
  CHECK(cluster.world.now_us() - before < 20'000'000);
  CHECK(host.answers.at(token).error != Error::Ok);
}

TEST_CASE("an older epoch is fenced, and leaves nothing behind") {
  Cluster cluster(1);
  Host& host = *cluster.hosts[0];
  cluster.epoch = 6;
  REQUIRE(cluster.attach(host) == Error::Ok);
  CHECK(host.run([](HostPlane& p, Token t) { p.detach(t, kVolume); }).error == Error::Ok);
  cluster.epoch = 3;
  CHECK(cluster.attach(host) == Error::EpochFenced);
  cluster.world.run_for(10'000'000);
  cluster.epoch = 7;
  CHECK(cluster.attach(host) == Error::Ok);
}

TEST_CASE("a dropped replica is refused to an engine that still writes, and harms nobody") {
  Cluster cluster(3);
  Host& host = *cluster.hosts[0];
  REQUIRE(cluster.attach(host) == Error::Ok);
  auto data = pattern(500'000, 7);
  CHECK(host.io(IoJob::Op::write, 0, data.size(), data.data()) == Error::Ok);
  Host& other = *cluster.hosts[1];
  CHECK(other.run([](HostPlane& p, Token t) {
               p.drop_replica(t, {kVolume, 0});
             })
            .error == Error::Ok);
  CHECK(host.io(IoJob::Op::write, 0, data.size(), data.data()) == Error::Ok);
  std::vector<std::byte> into(data.size());
  CHECK(host.io(IoJob::Op::read, 0, into.size(), into.data()) == Error::Ok);
  CHECK(into == data);
}

TEST_CASE("commands that name what is not there are refused in one line") {
  Cluster cluster(1);
  Host& host = *cluster.hosts[0];
  const auto refused = [&](Error error, auto command) {
    const Completion& answer = host.run(command);
    CHECK(answer.error == error);
    CHECK_FALSE(answer.message.empty());
    CHECK(answer.message.find('\n') == std::string::npos);
  };
  refused(Error::NotFound, [](HostPlane& p, Token t) { p.open_store(t, "nowhere"); });
  refused(Error::StoreInUse, [&](HostPlane& p, Token t) { p.open_store(t, host.name); });
  refused(Error::NotFound, [](HostPlane& p, Token t) { p.close_store(t, uuid(99)); });
  refused(Error::NotFound, [](HostPlane& p, Token t) { p.drop_replica(t, {uuid(99), 0}); });
  refused(Error::NotFound, [](HostPlane& p, Token t) { p.list_digests(t, {uuid(99), 0}, false); });
  refused(Error::NotFound, [](HostPlane& p, Token t) { p.locate(t, {uuid(99), 0}, 0); });
  refused(Error::ExtentOutOfRange, [](HostPlane& p, Token t) {
    p.locate(t, {kVolume, 0}, kVolumeBytes);
  });
  refused(Error::InvalidArgument, [&](HostPlane& p, Token t) {
    p.create_replica(t, host.store_id, {kVolume, 1}, 0);
  });
  refused(Error::NotAttached, [](HostPlane& p, Token t) { p.detach(t, kVolume); });
  refused(Error::NotAttached,
          [](HostPlane& p, Token t) { p.nbd_export(t, kVolume, "x", "", false); });
  refused(Error::NotAttached, [](HostPlane& p, Token t) { p.volume_status(t, kVolume); });
  refused(Error::NotFound, [](HostPlane& p, Token t) { p.nbd_unexport(t, "x"); });
  refused(Error::NotFound, [](HostPlane& p, Token t) { p.nbd_close(t, "tcp:h1:1"); });
}
