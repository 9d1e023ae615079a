// Stories that catch what no other test did when the mutants of mutants.toml were planted: each is
// about one promise of docs/REPLICATION.md.
#include <doctest/doctest.h>

#include <cstring>
#include <string>

#include "tests/sim/story.h"

namespace blockd::sim {
namespace {

// What host `at` shows of the first block; -1: not one byte, or no answer.
int shown(SimCluster& cluster, std::uint32_t at) {
  Io io(cluster, at);
  if (io.read(0, kBlockBytes) != Error::Ok) return -1;
  const int byte = static_cast<int>(io.memory[0]);
  return io.all(byte, 0, kBlockBytes) ? byte : -1;
}

ClusterOptions one_is_enough(std::uint32_t replicas) {
  ClusterOptions options;
  options.replicas = replicas;
  options.min_in_sync = 1;
  return options;
}

// Q2. The metadata service has agreed to a set, and the engine does not know: the one member that
// it had before must not be enough, whatever it hears of older things.
TEST_CASE("a set that was asked for binds until the generation moves") {
  enum class Heard { nothing, failure, old_answer };
  for (const Heard heard : {Heard::nothing, Heard::failure, Heard::old_answer}) {
    CAPTURE(static_cast<int>(heard));
    Fixture f(one_is_enough(2));
    f.cluster.kill(1, false);
    REQUIRE(f.io.write(0, kBlockBytes, 1) == Error::Ok);
    REQUIRE(until_in_sync(f.cluster, 1));
    f.cluster.world().run_for(100'000);
    f.cluster.restart(1);
    REQUIRE(until_in_sync(f.cluster, 2));
    f.cluster.meta_reachable = false;  // the answer is lost
    f.cluster.partition(0, 1, true);
    std::memset(f.io.memory, 2, kBlockBytes);
    if (heard == Heard::nothing) f.io.begin(BlockRequest::Op::write, 0, kBlockBytes);
    f.cluster.world().run_for(2'000'000);  // host 1 is given up
    engine::Volume& volume = *f.cluster.volume(0);
    if (heard == Heard::failure) volume.in_sync_change_failed(0, Error::Timeout);
    if (heard == Heard::old_answer) volume.in_sync_changed(volume.config().segments[0]);
    if (heard != Heard::nothing) f.io.begin(BlockRequest::Op::write, 0, kBlockBytes);
    CHECK(f.io.wait(5'000'000) == Error::Timeout);
    f.cluster.kill(0, false);
    f.cluster.heal();
    f.cluster.attach(1);
    REQUIRE(until_state(f.cluster, 1, VolumeState::serving));
    CHECK(shown(f.cluster, 1) == 1);
  }
}

// Q3. Host 1 lacks the second write, and then it and host 0 are all that is left.
TEST_CASE("a set is asked for only when it has what clients were told") {
  Fixture f(one_is_enough(3));
  REQUIRE(f.io.write(0, kBlockBytes, 1) == Error::Ok);
  f.cluster.world().run_for(2'000'000);
  f.cluster.partition(0, 1, true);
  REQUIRE(f.io.write(0, kBlockBytes, 2) == Error::Ok);
  f.cluster.kill(2, false);
  f.cluster.world().run_for(200'000);  // host 1 has not been given up yet
  f.cluster.kill(0, false);
  f.cluster.heal();
  f.cluster.attach(1);
  CHECK_FALSE(until_state(f.cluster, 1, VolumeState::serving, 5'000'000));
  f.cluster.restart(2);
  REQUIRE(until_state(f.cluster, 1, VolumeState::serving));
  CHECK(shown(f.cluster, 1) == 2);
}

// Q3. Host 1 has the second write, but not on its disk.
TEST_CASE("a set is asked for only when it has flushed what clients were told") {
  Fixture f(one_is_enough(3));
  REQUIRE(f.io.write(0, kBlockBytes, 1) == Error::Ok);
  REQUIRE(f.io.flush() == Error::Ok);
  f.cluster.world().run_for(2'500'000);
  REQUIRE(f.io.write(0, kBlockBytes, 2) == Error::Ok);
  f.cluster.world().run_for(5'000);
  fake(f.cluster, 1).store().stuck = true;
  REQUIRE(f.io.flush() == Error::Ok);
  f.cluster.kill(2, false);
  f.cluster.world().run_for(200'000);
  f.cluster.kill(0, false);
  fake(f.cluster, 1).medium().log.clear();  // the power takes all that was not flushed
  f.cluster.kill(1, true);
  f.cluster.restart(1);
  f.cluster.attach(1);
  CHECK_FALSE(until_state(f.cluster, 1, VolumeState::serving, 5'000'000));
  f.cluster.restart(2);
  REQUIRE(until_state(f.cluster, 1, VolumeState::serving));
  CHECK(shown(f.cluster, 1) == 2);
}

// L. The engine's clock runs slow, its members' run fast, by not quite a fifth between them.
struct Drifting : Fixture {
  Drifting() {
    cluster.world().run_for(1'000'000);  // the hosts are past their own start
    cluster.process(0).loop->set_clock_drift_ppm(-90'000);
    for (const std::uint32_t host : {1u, 2u})
      cluster.process(host).loop->set_clock_drift_ppm(90'000);
    REQUIRE(io.write(0, kBlockBytes, 1) == Error::Ok);
    cluster.world().run_for(1'000'000);
  }
  void cut_off(bool parted) {
    for (const std::uint32_t host : {1u, 2u}) cluster.partition(0, host, parted);
  }
  // Another engine writes as soon as it may. Does the old one give out what was there before?
  bool stale_after_takeover() {
    cluster.attach(1);
    Io other(cluster, 1);
    REQUIRE(until_state(cluster, 1, VolumeState::serving));
    REQUIRE(other.write(0, kBlockBytes, 2) == Error::Ok);
    io.begin(BlockRequest::Op::read, 0, kBlockBytes);
    return io.wait(100'000) != Error::Timeout;
  }
};

TEST_CASE("leases end in time where clocks run at different rates") {
  for (std::uint64_t phase_us = 0; phase_us < 80'000; phase_us += 10'000) {
    CAPTURE(phase_us);
    Drifting f;
    f.cluster.world().run_for(phase_us);
    f.cut_off(true);
    CHECK_FALSE(f.stale_after_takeover());
  }
}

TEST_CASE("leases end in time where their answers are long on their way") {
  for (std::uint64_t late_us = 50'000; late_us <= 300'000; late_us += 50'000) {
    CAPTURE(late_us);
    Drifting f;
    for (const std::string host : {"host1", "host2"}) f.cluster.fabric().block(host, "host0", true);
    f.cluster.world().run_for(late_us);
    f.cluster.heal();
    f.cluster.world().run_for(1'000);
    f.cut_off(true);
    CHECK_FALSE(f.stale_after_takeover());
  }
}

}  // namespace
}  // namespace blockd::sim
