// Shrinking on the host plane: what clients meet, and that every command is answered once.
#include <doctest/doctest.h>

#include <optional>

#include "tests/border/host_rig.h"

using namespace blockd;
using namespace blockd::border;

namespace {

constexpr std::uint64_t kSmall = (3u << 20) + 512;

Error shrink(Host& host, std::uint64_t size_bytes) {
  return host.run([&](HostPlane& p, Token t) { p.shrink(t, kVolume, size_bytes); }).error;
}

Error grow(Host& host, std::uint64_t size_bytes) {
  return host.run([&](HostPlane& p, Token t) { p.grow(t, kVolume, size_bytes, {}); }).error;
}

}  // namespace

TEST_CASE("a volume shrinks under its clients, and shows zeros when it has grown again") {
  Cluster cluster(3);
  Host& host = *cluster.hosts[0];
  REQUIRE(cluster.attach(host) == Error::Ok);
  auto data = pattern(kVolumeBytes, 1);
  std::vector<std::byte> into(kVolumeBytes);
  REQUIRE(host.io(IoJob::Op::write, 0, data.size(), data.data()) == Error::Ok);
  REQUIRE(shrink(host, kSmall) == Error::Ok);
  CHECK(shrink(host, kSmall) == Error::Ok);  // as it is
  CHECK(host.io(IoJob::Op::read, 0, kSmall, into.data()) == Error::Ok);
  CHECK(std::equal(into.begin(), into.begin() + kSmall, data.begin()));
  CHECK(host.io(IoJob::Op::read, kSmall - 1, 2, into.data()) == Error::ExtentOutOfRange);
  CHECK(host.io(IoJob::Op::write, kSmall, 1, data.data()) == Error::ExtentOutOfRange);
  CHECK(host.run([](HostPlane& p, Token t) { p.detach(t, kVolume); }).error == Error::Ok);
  REQUIRE(cluster.attach(host) == Error::Ok);  // the size on record is still the old one
  CHECK(host.io(IoJob::Op::read, 0, kVolumeBytes, into.data()) == Error::Ok);
  std::fill(data.begin() + kSmall, data.end(), std::byte{0});
  CHECK(into == data);
  REQUIRE(shrink(host, kSmall) == Error::Ok);
  REQUIRE(grow(host, kVolumeBytes) == Error::Ok);
  CHECK(host.io(IoJob::Op::read, 0, kVolumeBytes, into.data()) == Error::Ok);
  CHECK(into == data);
}

TEST_CASE("a size that is none, or larger, is refused, as is a volume that is not here") {
  Cluster cluster(1);
  Host& host = *cluster.hosts[0];
  CHECK(shrink(host, kSmall) == Error::NotAttached);
  REQUIRE(cluster.attach(host) == Error::Ok);
  for (const std::uint64_t size : {std::uint64_t{0}, kVolumeBytes + 512, kSmall + 1})
    CHECK(shrink(host, size) == Error::InvalidArgument);
}

TEST_CASE("a volume resizes once at a time") {
  Cluster cluster(3);
  Host& host = *cluster.hosts[0];
  REQUIRE(cluster.attach(host) == Error::Ok);
  const Token first = host.token(), second = host.token(), third = host.token();
  host.plane->shrink(first, kVolume, kSmall);
  host.plane->shrink(second, kVolume, 512);
  host.plane->grow(third, kVolume, kVolumeBytes, {});
  CHECK(host.wait(first).error == Error::Ok);
  CHECK(host.wait(second).error == Error::Busy);
  CHECK(host.wait(third).error == Error::Busy);
}

TEST_CASE("a shrink that the end of the host meets at any moment is answered once") {
  for (std::uint64_t seed = 1; seed <= 40; ++seed) {
    CAPTURE(seed);
    Cluster cluster(3, seed);
    Host& host = *cluster.hosts[0];
    REQUIRE(cluster.attach(host) == Error::Ok);
    auto data = pattern(kVolumeBytes, 5);
    std::vector<Token> tokens{host.token(), host.token()};
    host.plane->submit_io(kVolume,
                          Host::job(tokens[0], IoJob::Op::write, 0, data.size(), data.data()));
    host.plane->shrink(tokens[1], kVolume, kSmall);
    if (seed % 2) {
      tokens.push_back(host.token());
      cluster.world.run_for(seed * 40);
      host.plane->detach(tokens.back(), kVolume);
    }
    cluster.world.run_for(seed * 100);
    host.stop();
    for (const Token token : tokens) CHECK(host.answered(token));
  }
}
