// A host with two stores, one of which has a device that dies: the other one goes on.
#include <doctest/doctest.h>

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "border/host_plane.h"
#include "io/sim_disk.h"
#include "io/sim_network.h"
#include "io/sim_world.h"
#include "tests/io/borrowed_disk.h"

using namespace blockd;
using namespace blockd::border;

namespace {

constexpr std::uint64_t kVolumeBytes = 8ull << 20;

Uuid uuid(unsigned char last) {
  Uuid id;
  id.bytes.fill(0x33);
  id.bytes[15] = last;
  return id;
}

const Uuid kHost = uuid(1), kCluster = uuid(2);
const std::array<Uuid, 2> kStores = {uuid(10), uuid(11)};
const std::array<Uuid, 2> kVolumes = {uuid(20), uuid(21)};

// Volume i has its only replica in store i.
struct Rig final : PlaneSink {
  Rig() : world(3), fabric(world), loop(world), network(fabric, loop, "h") {
    PlaneConfig config;
    config.hub.host_id = kHost;
    config.hub.cluster_id = kCluster;
    for (std::size_t i = 0; i < 2; ++i) {
      store::FormatOptions options;
      options.store_id = kStores[i];
      options.cluster_id = kCluster;
      store::Store::format(disks[i], options);
      disks[i].attach(loop);
    }
    plane = std::make_unique<HostPlane>(
        loop, buffers, network,
        [this](const std::string& path) {
          return std::make_unique<io::testing::BorrowedDisk>(disks[path == "b"]);
        },
        config, *this);
    for (std::size_t i = 0; i < 2; ++i) set_up(i);
  }
  ~Rig() {
    bool closed = false;
    plane->close([&] { closed = true; });
    REQUIRE(world.run_until([&] { return closed; }, 60'000'000));
    plane.reset();
  }

  void set_up(std::size_t i) {
    const std::string path = i == 0 ? "a" : "b";
    REQUIRE(run([&](Token t) { plane->open_store(t, path); }).error == Error::Ok);
    REQUIRE(run([&](Token t) {
              plane->create_replica(t, kStores[i], {kVolumes[i], 0}, kVolumeBytes / kBlockBytes);
            }).error == Error::Ok);
    engine::VolumeConfig volume;
    volume.id = kVolumes[i];
    volume.name = path;
    volume.size_bytes = kVolumeBytes;
    volume.epoch = 1;
    engine::SegmentConfig segment;
    segment.generation = 1;
    segment.members.push_back({kHost, kStores[i], 0, true});
    volume.segments.push_back(segment);
    REQUIRE(run([&](Token t) { plane->attach(t, volume); }).error == Error::Ok);
  }
  template <class Command>
  const Completion& run(Command command) {
    const Token token = ++last_token;
    command(token);
    REQUIRE(world.run_until([&] { return answers.contains(token); }, 120'000'000));
    return answers.at(token);
  }
  Error io(IoJob::Op op, std::size_t i) {
    return run([&](Token t) {
             auto job = std::make_unique<IoJob>();
             job->token = t;
             job->op = op;
             job->offset_bytes = 4096;
             job->length_bytes = op == IoJob::Op::flush ? 0 : memory.size();
             job->memory = memory.data();
             plane->submit_io(kVolumes[i], std::move(job));
           })
        .error;
  }
  std::map<Uuid, Error> failed() {
    std::map<Uuid, Error> found;
    for (const StoreReport& report : run([&](Token t) { plane->store_infos(t); }).reply->stores)
      found[report.info.store_id] = report.info.failed;
    return found;
  }
  void answer(Completion completion) noexcept override {
    const Token token = completion.token;
    answers.emplace(token, std::move(completion));
  }
  void happened(Event) noexcept override {}

  io::SimWorld world;
  io::SimFabric fabric;
  io::SimLoop loop;
  Buffers buffers{256, 64, 64};
  io::SimNetwork network;
  std::array<io::SimDisk, 2> disks{io::SimDisk(world, 64ull << 20),
                                   io::SimDisk(world, 64ull << 20)};
  std::vector<std::byte> memory = std::vector<std::byte>(8192, std::byte{7});
  std::unique_ptr<HostPlane> plane;
  std::map<Token, Completion> answers;
  Token last_token = 0;
};

TEST_CASE("a store whose device fails writes says so, and harms no other") {
  Rig rig;
  REQUIRE(rig.io(IoJob::Op::write, 0) == Error::Ok);
  REQUIRE(rig.io(IoJob::Op::write, 1) == Error::Ok);
  CHECK(rig.failed() == std::map<Uuid, Error>{{kStores[0], Error::Ok}, {kStores[1], Error::Ok}});
  rig.disks[0].fail_writes(0, 64ull << 20);
  CHECK(rig.io(IoJob::Op::write, 0) != Error::Ok);
  CHECK(rig.failed() ==
        std::map<Uuid, Error>{{kStores[0], Error::DiskError}, {kStores[1], Error::Ok}});
  for (int i = 0; i < 20; ++i) REQUIRE(rig.io(IoJob::Op::write, 1) == Error::Ok);
  CHECK(rig.io(IoJob::Op::flush, 1) == Error::Ok);
  CHECK(rig.io(IoJob::Op::read, 1) == Error::Ok);

  rig.disks[0].clear_faults();  // not trusted again before it was opened anew
  CHECK(rig.failed()[kStores[0]] == Error::DiskError);
}

}  // namespace
