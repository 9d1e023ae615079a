// The root that a store keeps: that of its chunks, whatever they went through, and of one moment.
#include <doctest/doctest.h>

#include "format/root.h"
#include "store/checker.h"
#include "tests/store/store_client.h"

using namespace blockd;
using namespace blockd::store;
using namespace blockd::store::testing;

namespace {

struct OpenStore {
  explicit OpenStore(std::uint64_t seed) : rig(seed) {
    rig.format();
    rig.open();
    client = std::make_unique<Client>(rig);
  }
  [[nodiscard]] format::Root root() const { return rig.store->segment_info(client->segment).root; }
  // What an operation in line says.
  [[nodiscard]] CallRef start_root() {
    auto call = std::make_unique<Call>();
    call->op.op = StoreOp::Op::root;
    call->op.segment = client->segment;
    call->op.owner = call.get();
    call->op.done = [](StoreOp& op) noexcept { static_cast<Call*>(op.owner)->done = true; };
    client->submit(*call);
    return call;
  }
  void reopen_after(void (*end)(Rig&)) {
    end(rig);
    rig.open();
    CHECK(rig.store->check().empty());
    client = std::make_unique<Client>(rig, Client::Existing{});
    client->seq = 1'000;
  }
  Rig rig;
  std::unique_ptr<Client> client;
};

}  // namespace

TEST_CASE("replicas that hold the same have one root, however they came to it") {
  OpenStore one(1), other(2);
  CHECK(one.root() == format::Root{});
  CHECK(one.client->write(0, 40, 100) == Error::Ok);
  CHECK(one.client->write(3, 2, 200) == Error::Ok);
  CHECK(one.client->write(100, 20, 300) == Error::Ok);
  CHECK(one.client->zero(96, 48) == Error::Ok);  // a tombstone, which is nothing
  // The other one gets the chunks by a resync, in another order, and one that was wrong before.
  CHECK(other.client->write(0, 16, 900) == Error::Ok);
  CHECK(other.root() != one.root());
  std::vector<Tag> first = tags_from(100, 16);
  first[3] = 200, first[4] = 201;
  CHECK(other.client->replace(2, 0x00ff, 132, {1, 1}) == Error::Ok);
  CHECK(other.client->replace(1, 0xffff, 116, {1, 1}) == Error::Ok);
  CHECK(other.root() != one.root());
  CHECK(other.client->finish(*other.client->start_write_of(0, first)) == Error::Ok);
  CHECK(other.client->last_version() == Version{1, 2});
  CHECK(one.client->version_of(0) == Version{1, 2});
  CHECK(other.root() == one.root());
}

TEST_CASE("blocks that hold zeros are holes to the root") {
  OpenStore one(3), other(4);
  CHECK(one.client->write(0, 2, 5) == Error::Ok);
  CHECK(one.client->zero(1, 1) == Error::Ok);
  CHECK(other.client->write(0, 1, 5) == Error::Ok);
  CHECK(other.client->finish(*other.client->start_write_of_zeros(1, 1)) == Error::Ok);
  CHECK(other.root() == one.root());
}

TEST_CASE("the root is there again after a restart, a crash and a loss of power") {
  OpenStore s(5);
  std::uint32_t tag = 1;
  for (const auto end : {+[](Rig& rig) { CHECK(rig.close()); }, +[](Rig& rig) { rig.kill(); },
                         +[](Rig& rig) { rig.power_off(io::SimDisk::Crash::lose_all); }}) {
    CHECK(s.client->write(tag % 7, 60, tag * 1000) == Error::Ok);
    CHECK(s.client->zero(16 * tag, 20) == Error::Ok);
    CHECK(s.client->flush() == Error::Ok);
    const format::Root before = s.root();
    s.reopen_after(end);
    CHECK(s.root() == before);
    ++tag;
  }
}

TEST_CASE("what became past is no longer in the root, and comes and goes without a trace in it") {
  OpenStore s(6);
  s.client->set_snapshots(1, {});
  s.client->era = 1;
  CHECK(s.client->write(0, 4, 10) == Error::Ok);
  s.client->era = 2;  // snapshot 1 shows what is there
  CHECK(s.client->write(1, 1, 50) == Error::Ok);
  CHECK(s.client->past_count() == 1);
  const format::Root root = s.root();
  CHECK(s.rig.store->check().empty());
  CHECK(s.client->forget(0, {1, 1}) == Error::Ok);
  CHECK(s.client->insert_past(0, 0x000f, 10, {1, 1}, 1, 2) == Error::Ok);
  CHECK(s.client->past_count() == 1);
  CHECK(s.root() == root);
}

TEST_CASE("a root in line is of the mutations before it and of no other") {
  OpenStore s(7);
  std::vector<CallRef> calls;
  std::vector<CallRef> roots;
  for (std::uint32_t i = 0; i < 40; ++i) {
    const bool whole = i % 3 == 0;  // chunks that are written whole go a way of their own
    calls.push_back(
        s.client->start_write(whole ? i % 9 * 16 : i * 3, whole ? 32 : 5, 1000 * i + 1));
    roots.push_back(s.start_root());
  }
  OpenStore same(8);
  for (std::uint32_t i = 0; i < 40; ++i) {
    REQUIRE(s.client->finish(*roots[i]) == Error::Ok);
    const bool whole = i % 3 == 0;
    REQUIRE(same.client->write(whole ? i % 9 * 16 : i * 3, whole ? 32 : 5, 1000 * i + 1) ==
            Error::Ok);
    CHECK(roots[i]->op.root == same.root());
  }
  for (const CallRef& call : calls) CHECK(s.client->finish(*call) == Error::Ok);
}

TEST_CASE("a root is refused where a mutation before it failed, or the segment is gone") {
  OpenStore s(9);
  bool broken = true;
  auto call = std::make_unique<Call>();
  call->op.op = StoreOp::Op::root;
  call->op.segment = s.client->segment;
  call->op.broken = &broken;
  call->op.owner = call.get();
  call->op.done = [](StoreOp& op) noexcept { static_cast<Call*>(op.owner)->done = true; };
  s.client->submit(*call);
  CHECK(s.client->finish(*call) == Error::NotInSync);
  REQUIRE(s.rig.wait([&](Store::Done done) {
    s.rig.store->drop_segment(s.client->segment, std::move(done));
  }) == Error::Ok);
  CHECK(s.client->finish(*s.start_root()) == Error::NotFound);
}

namespace {

// As version 2 left it: no roots anywhere.
void take_back_to_version_2(Rig& rig) {
  io::testing::Memory block(kBlockBytes);
  const std::span<std::byte> span{block.data(), kBlockBytes};
  format::Superblock superblock;
  for (const std::uint64_t at : {std::uint64_t{0}, std::uint64_t{kBlockBytes}}) {
    rig.disk.peek(at, span);
    std::memcpy(static_cast<void*>(&superblock), span.data(), kBlockBytes);
    superblock.version = 2;
    format::seal(superblock);
    std::memcpy(span.data(), &superblock, kBlockBytes);
    REQUIRE(rig.disk.write_now(at, span) == Error::Ok);
  }
  for (std::uint64_t i = 0; i < 2ull * superblock.segment_page_count; ++i) {
    const std::uint64_t at = superblock.segment_pages_offset + i * kBlockBytes;
    format::SegmentPage page;
    rig.disk.peek(at, span);
    std::memcpy(static_cast<void*>(&page), span.data(), kBlockBytes);
    for (format::SegmentRecord& record : page.records) {
      record.flags = 0;
      record.root = {};
    }
    format::seal(page);
    std::memcpy(span.data(), &page, kBlockBytes);
    REQUIRE(rig.disk.write_now(at, span) == Error::Ok);
  }
  REQUIRE(rig.disk.flush_now() == Error::Ok);
}

std::uint32_t version_of_copy(Rig& rig, std::uint64_t copy) {
  format::Superblock superblock;
  rig.disk.peek(copy * kBlockBytes, {reinterpret_cast<std::byte*>(&superblock), kBlockBytes});
  return superblock.version;
}

}  // namespace

TEST_CASE("a store of version 2 is opened, brought up, and keeps roots from then on") {
  OpenStore s(10);
  CHECK(s.client->write(0, 40, 100) == Error::Ok);
  const format::Root root = s.root();
  s.reopen_after([](Rig& rig) {
    CHECK(rig.close());
    take_back_to_version_2(rig);
    CHECK(check_store(rig.disk, {.data = true}).problem_count == 0);
  });
  CHECK(s.root() == root);
  CHECK(s.client->read(0, 40) == tags_from(100, 40));
  for (const std::uint64_t copy : {0u, 1u}) CHECK(version_of_copy(s.rig, copy) == 3);
  CHECK(s.client->write(3, 1, 500) == Error::Ok);
  const format::Root after = s.root();
  s.reopen_after([](Rig& rig) { rig.kill(); });
  CHECK(s.root() == after);
  CHECK(s.rig.close());
  CHECK(check_store(s.rig.disk, {.data = true}).problem_count == 0);
}

TEST_CASE("a crash while a store is brought up leaves one that is brought up again") {
  for (std::uint64_t writes = 0;; ++writes) {
    OpenStore s(11);
    CHECK(s.client->write(0, 40, 100) == Error::Ok);
    CHECK(s.rig.close());
    take_back_to_version_2(s.rig);
    s.rig.mortal.die_after(writes);
    bool opened = true;
    try {
      s.rig.open();
    } catch (const Fault&) {
      opened = false;
    }
    s.rig.power_off(io::SimDisk::Crash::lose_all);
    s.rig.open();
    s.client = std::make_unique<Client>(s.rig, Client::Existing{});
    CHECK(s.client->read(0, 40) == tags_from(100, 40));
    for (const std::uint64_t copy : {0u, 1u}) CHECK(version_of_copy(s.rig, copy) == 3);
    CHECK(s.rig.close());
    CHECK(check_store(s.rig.disk, {}).problem_count == 0);
    if (opened) break;
  }
}
