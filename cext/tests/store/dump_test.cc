// The dump: what it names, and that damage is shown and does not end it.
#include "store/dump.h"

#include <doctest/doctest.h>

#include "tests/store/store_client.h"

using namespace blockd;
using namespace blockd::store;
using namespace blockd::store::testing;

namespace {

void make_store(Rig& rig) {
  rig.format();
  rig.open();
  Client client(rig, 640);
  REQUIRE(client.write(0, 16, 100) == Error::Ok);  // a map
  REQUIRE(client.write(3, 2, 200) == Error::Ok);   // a write
  REQUIRE(client.zero(5, 1) == Error::Ok);         // a zero
  REQUIRE(client.flush() == Error::Ok);
  rig.kill();
}

bool has(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

}  // namespace

TEST_CASE("the journal is shown batch by batch, with what each entry does") {
  Rig rig(1);
  make_store(rig);
  const std::string json = dump_store(rig.disk, {.journal = true});
  CHECK(has(json, R"("lsn":1,)"));
  CHECK(has(json, R"("kind":"segment","segment_handle":0)"));
  CHECK(has(json, R"("kind":"map")"));
  CHECK(has(json, R"("first":3,"count":2)"));
  CHECK(has(json, R"("kind":"zero")"));
  CHECK(has(json, R"("mask":"0x0020")"));
  CHECK_FALSE(has(json, "superblock"));
}

TEST_CASE("a chunk shows its slot, its holes and what of it is in the journal") {
  Rig rig(2);
  make_store(rig);
  const std::string json = dump_store(rig.disk, {.chunks = true, .segment = segment_id(0)});
  CHECK(has(json, R"("chunk":0,)"));
  CHECK(has(json, R"("valid_mask":"0xffdf","born":0,"in_journal_mask":"0x0018")"));
  CHECK_THROWS_AS((void)dump_store(rig.disk, {.chunks = true, .segment = segment_id(9)}), Fault);
}

TEST_CASE("a damaged and an unreadable copy are shown as such") {
  Rig rig(3);
  make_store(rig);
  rig.disk.corrupt(100, 1);
  rig.disk.fail_reads(2 * kBlockBytes, kBlockBytes);
  const std::string json = dump_store(rig.disk, {.superblock = true, .checkpoint = true});
  CHECK(has(json, R"("copy":0,"device_offset_bytes":0,"state":"damaged"})"));
  CHECK(has(json, R"("copy":0,"device_offset_bytes":8192,"state":"unreadable"})"));
  CHECK(has(json, R"("copy":1,"device_offset_bytes":12288,"state":"sound","generation":1)"));
}
