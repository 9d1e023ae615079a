// Eras, snapshots and bases on the host plane: every command is answered once, whatever becomes of
// the hosts that hold the snapshot.
#include <doctest/doctest.h>

#include "tests/border/host_rig.h"

using namespace blockd;
using namespace blockd::border;

namespace {

const Uuid kSnapshot = uuid(120);
const Uuid kElsewhere = uuid(130);  // a host that cannot be reached
const Uuid kOther = uuid(101);      // a volume there

BaseSpec base_elsewhere() {
  BaseSpec spec;
  spec.snapshot.volume = kOther;
  spec.snapshot.era = 3;
  spec.snapshot.size_bytes = kVolumeBytes;
  engine::SegmentConfig segment;
  segment.members = {{kElsewhere, uuid(180), 2, true}};
  spec.snapshot.segments = {segment};
  return spec;
}

SnapshotSpec snapshot_elsewhere(bool over_base) {
  SnapshotSpec spec;
  spec.id = kSnapshot;
  spec.name = "monday";
  spec.snapshot = base_elsewhere().snapshot;
  if (over_base) spec.base = std::make_shared<BaseSpec>(base_elsewhere());
  return spec;
}

Error read(Host& host, const Uuid& id, std::vector<std::byte>& into) {
  return host
      .run([&](HostPlane& p, Token t) {
        p.submit_io(id, Host::job(t, IoJob::Op::read, 0, into.size(), into.data()));
      })
      .error;
}

}  // namespace

TEST_CASE("eras and holds go to the engine; snapshots to the stores") {
  Cluster cluster(1);
  Host& host = *cluster.hosts[0];
  store::SnapshotSet set;
  set.volume = kVolume;
  set.known_below = 4;
  set.eras = {3, 1};
  CHECK(host.run([&](HostPlane& p, Token t) { p.set_snapshots(t, set); }).error == Error::Ok);
  CHECK(host.run([](HostPlane& p, Token t) { p.begin_era(t, kVolume, 2); }).error ==
        Error::NotAttached);
  REQUIRE(cluster.attach(host) == Error::Ok);
  CHECK(host.run([](HostPlane& p, Token t) { p.hold_mutations(t, kVolume, 1000); }).error ==
        Error::Ok);
  CHECK(host.run([](HostPlane& p, Token t) { p.hold_mutations(t, kVolume, 0); }).error ==
        Error::Ok);
  auto data = pattern(100'000, 1);
  CHECK(host.io(IoJob::Op::write, 0, data.size(), data.data()) == Error::Ok);
  CHECK(host.run([](HostPlane& p, Token t) { p.begin_era(t, kVolume, 2); }).error == Error::Ok);
  CHECK(host.run([](HostPlane& p, Token t) { p.flatten(t, kVolume, 1 << 20); }).error == Error::Ok);
  CHECK(host.run([](HostPlane& p, Token t) { p.flatten(t, kVolume, 0); }).error ==
        Error::InvalidArgument);
}

TEST_CASE("changed chunks are those of the local replica") {
  Cluster cluster(1);
  Host& host = *cluster.hosts[0];
  const auto ask = [&](const SegmentId& id) -> const Completion& {
    return host.run(
        [&](HostPlane& p, Token t) { p.changed_chunks(t, id, std::nullopt, ChunkView{}); });
  };
  CHECK(ask({uuid(99), 0}).error == Error::NotFound);
  const Completion& empty = ask({kVolume, 0});
  CHECK(empty.error == Error::Ok);
  CHECK(empty.reply->chunks.empty());
  const Token late = host.token();
  host.plane->changed_chunks(late, {kVolume, 0}, std::nullopt, ChunkView{});
  host.stop();
  CHECK(host.answers.at(late).error == Error::ShuttingDown);
}

TEST_CASE("a snapshot is read-only, known by its own id, and no volume") {
  Cluster cluster(1);
  Host& host = *cluster.hosts[0];
  const auto attach = [&] {
    return host.run([](HostPlane& p, Token t) { p.attach_snapshot(t, snapshot_elsewhere(false)); })
        .error;
  };
  CHECK(attach() == Error::Ok);
  CHECK(attach() == Error::AlreadyExists);
  CHECK(host.run([](HostPlane& p, Token t) { p.nbd_export(t, kSnapshot, "monday", "", false); })
            .error == Error::Ok);
  auto data = pattern(4096, 1);
  CHECK(host.run([&](HostPlane& p, Token t) {
              p.submit_io(kSnapshot, Host::job(t, IoJob::Op::write, 0, data.size(), data.data()));
            })
            .error == Error::ReadOnly);
  const auto refused = [&](auto command) {
    CHECK(host.run(command).error == Error::InvalidArgument);
  };
  refused([](HostPlane& p, Token t) { p.begin_era(t, kSnapshot, 2); });
  refused([](HostPlane& p, Token t) { p.volume_status(t, kSnapshot); });
  refused([](HostPlane& p, Token t) { p.flatten(t, kSnapshot, 1); });
  refused([](HostPlane& p, Token t) { p.grow(t, kSnapshot, 2 * kVolumeBytes, {}); });
  refused([](HostPlane& p, Token t) { p.in_sync_changed(t, kSnapshot, {}); });
  CHECK(host.run([](HostPlane& p, Token t) { p.stats(t, {}); }).error == Error::Ok);
  CHECK(host.run([](HostPlane& p, Token t) {
              p.members_changed(t, kOther, base_elsewhere().snapshot.segments[0]);
            })
            .error == Error::Ok);
  CHECK(host.run([](HostPlane& p, Token t) { p.detach(t, kSnapshot); }).error == Error::Ok);
  CHECK(host.run([](HostPlane& p, Token t) { p.detach(t, kSnapshot); }).error ==
        Error::NotAttached);
  CHECK(attach() == Error::Ok);
}

TEST_CASE("a snapshot whose hosts are away: its reads wait, and end when it is detached") {
  Cluster cluster(1);
  Host& host = *cluster.hosts[0];
  CHECK(host.run([](HostPlane& p, Token t) { p.attach_snapshot(t, snapshot_elsewhere(false)); })
            .error == Error::Ok);
  std::vector<std::byte> into(1'000'000);
  const Token token = host.token();
  host.plane->submit_io(kSnapshot, Host::job(token, IoJob::Op::read, 0, into.size(), into.data()));
  cluster.world.run_for(2'000'000);
  CHECK_FALSE(host.answered(token));
  CHECK(host.run([](HostPlane& p, Token t) { p.detach(t, kSnapshot); }).error == Error::Ok);
  CHECK(host.answered(token));
  CHECK(host.answers.at(token).error != Error::Ok);
}

TEST_CASE("an attach whose base cannot be listed ends by itself, and the volume is gone again") {
  Cluster cluster(1);
  Host& host = *cluster.hosts[0];
  for (const bool snapshot : {false, true}) {
    const Completion& failed = host.run([&](HostPlane& p, Token t) {
      if (snapshot) return p.attach_snapshot(t, snapshot_elsewhere(true));
      p.attach(t, cluster.config(host), std::make_shared<BaseSpec>(base_elsewhere()));
    });
    CHECK(failed.error == Error::Timeout);
    CHECK(failed.message.find("cannot be listed") != std::string::npos);
    cluster.world.run_for(10'000'000);
    std::vector<std::byte> into(4096);
    CHECK(read(host, snapshot ? kSnapshot : kVolume, into) == Error::NotAttached);
  }
  REQUIRE(cluster.attach(host) == Error::Ok);
}

TEST_CASE("closing, or detaching, while bases are being opened answers everything once") {
  for (std::uint64_t seed = 1; seed <= 30; ++seed) {
    Cluster cluster(1, seed);
    Host& host = *cluster.hosts[0];
    auto chain = base_elsewhere();
    if (seed % 3 == 0) chain.base = std::make_shared<BaseSpec>(base_elsewhere());
    std::vector<Token> tokens(5);
    for (Token& token : tokens) token = host.token();
    host.plane->attach(tokens[0], cluster.config(host), std::make_shared<BaseSpec>(chain));
    host.plane->attach_snapshot(tokens[1], snapshot_elsewhere(seed % 2));
    std::vector<std::byte> into(300'000);
    for (int i = 0; i < 2; ++i) {
      host.plane->submit_io(i ? kVolume : kSnapshot,
                            Host::job(tokens[2 + i], IoJob::Op::read, 0, into.size(), into.data()));
    }
    host.plane->flatten(tokens[4], kVolume, 1 << 20);
    cluster.world.run_for(seed * seed * 1'000);
    if (seed % 4 == 0) {
      tokens.push_back(host.token());
      host.plane->detach(tokens.back(), kVolume);
      tokens.push_back(host.token());
      host.plane->detach(tokens.back(), kSnapshot);
      cluster.world.run_for(seed * 100);
    }
    host.stop();
    for (const Token token : tokens) CHECK(host.answered(token));
  }
}

TEST_CASE("a base that makes no sense is refused") {
  Cluster cluster(1);
  Host& host = *cluster.hosts[0];
  const auto refused = [&](auto spoil) {
    auto spec = base_elsewhere();
    spec.base = std::make_shared<BaseSpec>(base_elsewhere());
    spoil(spec);
    const Completion& answer = host.run([&](HostPlane& p, Token t) {
      p.attach(t, cluster.config(host), std::make_shared<BaseSpec>(spec));
    });
    CHECK(answer.error == Error::InvalidArgument);
    CHECK_FALSE(answer.message.empty());
  };
  refused([](BaseSpec& spec) { spec.snapshot.era = 0; });
  refused([](BaseSpec& spec) { spec.snapshot.size_bytes = 0; });
  refused([](BaseSpec& spec) { spec.snapshot.segments.clear(); });
  refused([](BaseSpec& spec) { spec.snapshot.segments[0].members[0].in_sync = false; });
  refused([](BaseSpec& spec) { spec.rules = {.self = true, .era = 3, .since = 3}; });
  refused([](BaseSpec& spec) {
    auto below = base_elsewhere();
    below.snapshot.era = 0;
    spec.base = std::make_shared<BaseSpec>(below);
  });
}
