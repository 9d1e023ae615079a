// Branches on the host plane: what is kept in one stays, whatever comes after it.
#include <doctest/doctest.h>

#include <algorithm>
#include <array>

#include "tests/border/host_rig.h"

using namespace blockd;
using namespace blockd::border;

namespace {

const Uuid kBranch = uuid(201);
const Uuid kOther = uuid(202);

// Three hosts; the write of the first one's engine reaches its own store alone, and the second one
// has the volume then. Branches are volumes on the second host.
struct Fenced : Cluster {
  Fenced() : Cluster(3), first(*hosts[0]), second(*hosts[1]) {
    old = pattern(kChunkBytes, 1);
    lost = pattern(kChunkBytes, 2);
    REQUIRE(attach(first) == Error::Ok);
    REQUIRE(first.io(IoJob::Op::write, 0, old.size(), old.data()) == Error::Ok);
    REQUIRE(first.io(IoJob::Op::flush, 0, 0) == Error::Ok);
    cut(true);
    first.plane->submit_io(kVolume,
                           Host::job(first.token(), IoJob::Op::write, 0, lost.size(), lost.data()));
    world.run_for(50'000);
    REQUIRE(attach(second) == Error::Ok);
    second.on_event = [this, change = second.on_event](const Event& event) {
      change(event);
      if (event.kind == Event::Kind::notice) noticed.push_back(event);
    };
  }
  ~Fenced() { second.on_event = nullptr; }
  void cut(bool parted) {
    for (const unsigned other : {1u, 2u}) fabric.partition(first.name, hosts[other]->name, parted);
  }
  void make(const Uuid& branch) {
    engine::VolumeConfig volume;
    volume.id = branch;
    volume.name = "branch";
    volume.size_bytes = kVolumeBytes;
    volume.epoch = 1;
    engine::SegmentConfig segment;
    segment.generation = 1;
    segment.members.push_back({second.id, second.store_id, 0, true});
    volume.segments.push_back(segment);
    REQUIRE(second
                .run([&](HostPlane& p, Token t) {
                  p.create_replica(t, second.store_id, {branch, 0}, kVolumeBytes / kBlockBytes);
                })
                .error == Error::Ok);
    REQUIRE(second.run([&](HostPlane& p, Token t) { p.attach(t, volume); }).error == Error::Ok);
  }
  Error give(const Uuid& branch) {
    return second.run([&](HostPlane& p, Token t) { p.set_branch(t, kVolume, first.id, branch); })
        .error;
  }
  bool heard(const char* kind) {
    return std::ranges::any_of(noticed, [&](const Event& event) { return event.text == kind; });
  }
  bool comes(const char* kind) {
    return world.run_until([&] { return heard(kind); }, 20'000'000);
  }
  std::vector<std::byte> shown(const Uuid& volume) {
    std::vector<std::byte> into(kChunkBytes);
    const Token token = second.token();
    second.plane->submit_io(volume, Host::job(token, IoJob::Op::read, 0, into.size(), into.data()));
    CHECK(second.wait(token).error == Error::Ok);
    return into;
  }

  Host& first;
  Host& second;
  std::vector<std::byte> old, lost;
  std::vector<Event> noticed;
};

}  // namespace

TEST_CASE("what a resync would take goes to the branch that it was given") {
  Fenced f;
  f.cut(false);
  REQUIRE(f.comes("branch-wanted"));
  f.make(kBranch);
  REQUIRE(f.give(kBranch) == Error::Ok);
  REQUIRE(f.comes("resync-finished"));
  CHECK(f.heard("branch-used"));
  CHECK(f.heard("writes-preserved"));
  CHECK(f.shown(kBranch) == f.lost);
  CHECK(f.shown(kVolume) == f.old);
}

TEST_CASE("a branch keeps what it has, and another one is asked for") {
  Fenced f;
  f.make(kBranch);
  auto other = pattern(kChunkBytes, 3);
  const Token token = f.second.token();
  f.second.plane->submit_io(kBranch,
                            Host::job(token, IoJob::Op::write, 0, other.size(), other.data()));
  REQUIRE(f.second.wait(token).error == Error::Ok);
  REQUIRE(f.give(kBranch) == Error::Ok);
  f.cut(false);
  REQUIRE(f.comes("branch-taken"));
  REQUIRE(f.comes("branch-wanted"));
  CHECK_FALSE(f.heard("resync-finished"));
  f.make(kOther);
  REQUIRE(f.give(kOther) == Error::Ok);
  REQUIRE(f.comes("resync-finished"));
  CHECK(f.shown(kBranch) == other);
  CHECK(f.shown(kOther) == f.lost);
}

TEST_CASE("what the branch has already is not written again") {
  Fenced f;
  f.make(kBranch);
  const Token token = f.second.token();
  f.second.plane->submit_io(kBranch,
                            Host::job(token, IoJob::Op::write, 0, f.lost.size(), f.lost.data()));
  REQUIRE(f.second.wait(token).error == Error::Ok);
  REQUIRE(f.give(kBranch) == Error::Ok);
  f.cut(false);
  REQUIRE(f.comes("resync-finished"));
  CHECK_FALSE(f.heard("branch-wanted"));
  CHECK(f.shown(kBranch) == f.lost);
}

TEST_CASE("a branch that is detached is no branch any more, and its volume can go at any moment") {
  Fenced f;
  f.make(kBranch);
  REQUIRE(f.give(kBranch) == Error::Ok);
  REQUIRE(f.second.run([](HostPlane& p, Token t) { p.detach(t, kBranch); }).error == Error::Ok);
  CHECK(f.give(kBranch) == Error::NotAttached);
  f.cut(false);
  REQUIRE(f.comes("branch-wanted"));
  CHECK(f.second.run([](HostPlane& p, Token t) { p.detach(t, kVolume); }).error == Error::Ok);
  CHECK_FALSE(f.heard("resync-finished"));
}
