// The host plane in the simulator: every command is answered once, and closing closes everything.
#include "border/host_plane.h"

#include <doctest/doctest.h>

#include <memory>
#include <string>
#include <vector>

#include "tests/border/host_rig.h"

using namespace blockd;
using namespace blockd::border;

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

TEST_CASE("a volume whose replicas in sync are gone is refused at once, with who lacks them") {
  Cluster cluster(3);
  Host& host = *cluster.hosts[0];
  REQUIRE(cluster.attach(host) == Error::Ok);
  CHECK(host.run([](HostPlane& p, Token t) { p.detach(t, kVolume); }).error == Error::Ok);
  for (const unsigned at : {1u, 2u}) {
    CHECK(cluster.hosts[at]
              ->run([](HostPlane& p, Token t) {
                p.drop_replica(t, {kVolume, 0});
              })
              .error == Error::Ok);
  }
  const std::uint64_t before = cluster.world.now_us();
  const Completion& refused =
      host.run([&](HostPlane& p, Token t) { p.attach(t, cluster.config(host)); });
  CHECK(refused.error == Error::NotInSync);
  CHECK(refused.message.find("its store has no replica") != std::string::npos);
  CHECK(cluster.world.now_us() - before < 5'000'000);
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

TEST_CASE("an older copy of a store is refused, and its replicas are not there") {
  Cluster cluster(1);
  Host& host = *cluster.hosts[0];
  const auto reopen = [&](std::uint64_t newest) -> const Completion& {
    host.stop();
    host.start();
    return host.run([&](HostPlane& p, Token t) {
      p.open_store(t, host.name, {{host.store_id, newest}});
    });
  };
  const Completion& opened = reopen(0);
  REQUIRE(opened.error == Error::Ok);
  const std::uint64_t newest = opened.reply->stores[0].info.incarnation;
  for (int i = 0; i < 3; ++i) {
    const Completion& refused = reopen(newest + 2);
    CHECK(refused.error == Error::OlderCopy);
    CHECK(refused.message.find(host.name + ": store ") == 0);
    CHECK(host.run([](HostPlane& p, Token t) { p.list_replicas(t); }).reply->replicas.empty());
  }
  const Completion& again = reopen(newest);
  REQUIRE(again.error == Error::Ok);
  CHECK(again.reply->stores[0].info.incarnation > newest);
  CHECK(host.run([](HostPlane& p, Token t) { p.list_replicas(t); }).reply->replicas.size() == 1);
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
