// The fault model of docs/FORMATS.md, "Faults": a test case for each structure, in it a subcase for
// each row of the table, named as there.
#include <doctest/doctest.h>

#include "format/disk.h"
#include "store/checker.h"
#include "tests/store/store_client.h"

using namespace blockd;
using namespace blockd::store;
using namespace blockd::store::testing;
using io::testing::Page;

namespace {

enum class Damage : std::uint8_t { torn, lost, misdirected, flipped, unreadable };
constexpr Damage kDamages[] = {Damage::torn, Damage::lost, Damage::misdirected, Damage::flipped,
                               Damage::unreadable};

// Two generations of a store: 20 chunks are written and all is brought home; then blocks of every
// chunk are written again. `before` is the device in between.
class Story {
 public:
  enum class End : std::uint8_t { killed, closed };

  explicit Story(std::uint64_t seed = 1) : rig(seed, 6 * kMiB) {
    rig.format();
    rig.open();
    client = std::make_unique<Client>(rig, 640);
    for (std::uint32_t chunk = 0; chunk < kChunks; ++chunk)
      REQUIRE(client->write(chunk * 16, 16, 1000 + chunk * 16) == Error::Ok);
    rig.world.run_for(600'000'000);  // all home
    before = image();
    layout = superblock();
  }

  // The second generation, flushed; the last batch says that all before it are.
  void go_on(End end) {
    for (std::uint32_t chunk = 0; chunk < kChunks; ++chunk)
      REQUIRE(client->write(chunk * 16 + 3, 1, 5000 + chunk) == Error::Ok);
    REQUIRE(client->flush() == Error::Ok);
    REQUIRE(client->write(600, 1, 6000) == Error::Ok);
    REQUIRE(client->flush() == Error::Ok);
    if (end == End::closed) {
      REQUIRE(rig.close());
    } else {
      rig.kill();
    }
  }

  // What the device holds at `offset` becomes what the fault would have left there.
  void hit(std::uint64_t offset, Damage fault, std::uint64_t elsewhere) {
    Page page;
    if (fault == Damage::flipped) return rig.disk.corrupt(offset + 41, 3);
    if (fault == Damage::unreadable) return rig.disk.fail_reads(offset, kBlockBytes);
    rig.disk.peek(fault == Damage::misdirected ? elsewhere : offset, page.span());
    const std::byte* old = before.data() + offset;
    if (fault == Damage::torn) std::memcpy(page.data(), old, 512);
    if (fault == Damage::lost) std::memcpy(page.data(), old, kBlockBytes);
    REQUIRE(rig.disk.write_now(offset, page.span()) == Error::Ok);
  }

  struct Outcome {
    Error opened = Error::Ok;
    std::uint32_t errors = 0;  // blocks that cannot be read
    std::uint32_t wrong = 0;   // blocks that read as something else
    [[nodiscard]] bool right() const { return opened == Error::Ok && errors == 0 && wrong == 0; }
  };
  Outcome look() {
    Outcome outcome;
    try {
      rig.open();
    } catch (const Fault& fault) {
      outcome.opened = fault.code();
      return outcome;
    }
    Client reader(rig, Client::Existing{});
    for (std::uint32_t block = 0; block < 640; ++block) {
      const CallRef call = reader.start_read(block, 1);
      if (reader.finish(*call) != Error::Ok) {
        ++outcome.errors;
      } else if (call->tags()[0] != expected(block)) {
        ++outcome.wrong;
      }
    }
    return outcome;
  }
  static Tag expected(std::uint32_t block) {
    if (block == 600) return 6000;
    if (block >= kChunks * 16) return kHole;
    return block % 16 == 3 ? Tag{5000 + block / 16} : Tag{1000 + block};
  }

  // Of the two copies at these offsets: the one with the higher generation.
  [[nodiscard]] std::uint64_t newer(std::uint64_t a, std::uint64_t b, std::size_t field) const {
    std::uint64_t generations[2];
    Page page;
    for (const auto& [at, into] : {std::pair{a, 0}, std::pair{b, 1}}) {
      rig.disk.peek(at, page.span());
      std::memcpy(&generations[into], page.data() + field, 8);
    }
    return generations[0] > generations[1] ? a : b;
  }
  [[nodiscard]] std::uint64_t newer_record() const {
    return newer(2 * kBlockBytes, 3 * kBlockBytes, 24);
  }
  [[nodiscard]] std::uint64_t newer_slot_page() const {
    const std::uint64_t a = layout.slot_pages_offset;
    return newer(a, a + std::uint64_t{layout.slot_page_count} * kBlockBytes, 32);
  }
  [[nodiscard]] std::uint64_t newer_segment_page() const {
    const std::uint64_t a = layout.segment_pages_offset;
    return newer(a, a + std::uint64_t{layout.segment_page_count} * kBlockBytes, 32);
  }
  // Where batch `lsn` begins in the journal.
  [[nodiscard]] std::uint64_t batch(std::uint64_t lsn) const {
    Page page;
    for (std::uint64_t at = layout.journal_offset;; at += kBlockBytes) {
      REQUIRE(at < layout.journal_offset + layout.journal_bytes);
      rig.disk.peek(at, page.span());
      format::BatchHeader header;
      std::memcpy(static_cast<void*>(&header), page.data(), kBlockBytes);
      if (header.magic == format::kBatchMagic && header.lsn == lsn) return at;
    }
  }
  [[nodiscard]] std::uint64_t newest_lsn() const {
    std::uint64_t newest = 0;
    Page page;
    for (std::uint64_t at = 0; at < layout.journal_bytes; at += kBlockBytes) {
      rig.disk.peek(layout.journal_offset + at, page.span());
      format::BatchHeader header;
      std::memcpy(static_cast<void*>(&header), page.data(), kBlockBytes);
      if (header.magic == format::kBatchMagic) newest = std::max(newest, header.lsn);
    }
    return newest;
  }
  [[nodiscard]] bool checker_sees_it() {
    return check_store(rig.disk, {.data = true}).problem_count > 0;
  }

  static constexpr std::uint32_t kChunks = 20;
  Rig rig;
  std::unique_ptr<Client> client;
  std::vector<std::byte> before;
  format::Superblock layout;

 private:
  [[nodiscard]] std::vector<std::byte> image() const {
    std::vector<std::byte> bytes(rig.disk.capacity_bytes());
    rig.disk.peek(0, bytes);
    return bytes;
  }
  [[nodiscard]] format::Superblock superblock() const {
    format::Superblock found;
    std::memcpy(static_cast<void*>(&found), before.data(), sizeof found);
    return found;
  }
};

void each(const std::function<void(Damage)>& test) {
  for (const Damage fault : kDamages) {
    CAPTURE(static_cast<int>(fault));
    test(fault);
  }
}

}  // namespace

TEST_CASE("superblock: any fault of one copy is made up for by the other") {
  for (const std::uint64_t copy : {0u, 1u}) {
    each([copy](Damage fault) {
      Story story;
      std::memset(story.before.data(), 0, 2 * kBlockBytes);  // erased before they are written
      story.go_on(Story::End::closed);
      story.hit(copy * kBlockBytes, fault, story.layout.slot_pages_offset);
      CHECK(story.checker_sees_it());
      CHECK(story.look().right());
    });
  }
}

TEST_CASE("superblock: an old one whose erasure was lost finds pages of another store") {
  Story story;
  format::Superblock old = story.layout;
  old.store_id = uuid(9);
  format::seal(old);
  Page page;
  std::memcpy(page.data(), &old, kBlockBytes);
  story.go_on(Story::End::closed);
  for (const std::uint64_t at : {std::uint64_t{0}, std::uint64_t{kBlockBytes}})
    REQUIRE(story.rig.disk.write_now(at, page.span()) == Error::Ok);
  CHECK(story.look().opened == Error::StoreDamaged);
}

TEST_CASE("checkpoint record: any fault of either copy leaves the other, and the same store") {
  for (const auto end : {Story::End::killed, Story::End::closed}) {
    for (const bool newer : {false, true}) {
      CAPTURE(newer);
      each([end, newer](Damage fault) {
        Story story;
        story.go_on(end);
        const std::uint64_t at =
            newer ? story.newer_record() : (5 * kBlockBytes - story.newer_record());
        story.hit(at, fault, story.layout.slot_pages_offset);
        CHECK(story.look().right());  // nothing has been written over in the journal yet
      });
    }
  }
}

TEST_CASE("checkpoint record: the older one is refused once its journal has been written over") {
  each([](Damage fault) {
    if (fault == Damage::lost || fault == Damage::torn)
      return;  // sound, and older: as the case above
    Story story;
    for (std::uint32_t i = 0; i < 7; ++i)  // almost half of the journal
      REQUIRE(story.client->write(320 + i * 16, 15, 9000) == Error::Ok);
    story.rig.world.run_for(600'000'000);  // the record that the older one precedes
    story.rig.mortal.hold_writes(2 * kBlockBytes, 2 * kBlockBytes);  // no other follows
    std::vector<CallRef> calls;
    for (std::uint32_t i = 0; i < 100; ++i)
      calls.push_back(story.client->start_write(320 + i % 8 * 16, 15, 9000));
    story.rig.world.run_for(60'000'000);  // until the journal is full
    REQUIRE(story.rig.mortal.holding() == 1);
    story.rig.kill();
    story.hit(story.newer_record(), fault, story.layout.slot_pages_offset);
    CHECK(story.look().opened == Error::StoreDamaged);
  });
}

TEST_CASE("segment page, slot page: a fault during a checkpoint is made good by the journal") {
  for (const bool slots : {false, true}) {
    CAPTURE(slots);
    each([slots](Damage fault) {
      Story story;
      REQUIRE(story.client->create(1, 16) == Error::Ok);  // touches the segment page too
      story.go_on(Story::End::killed);
      const std::uint64_t a =
          slots ? story.layout.slot_pages_offset : story.layout.segment_pages_offset;
      const std::uint64_t newer = slots ? story.newer_slot_page() : story.newer_segment_page();
      const std::uint32_t count =
          slots ? story.layout.slot_page_count : story.layout.segment_page_count;
      const std::uint64_t other = newer == a ? a + std::uint64_t{count} * kBlockBytes : a;
      story.hit(other, fault,
                slots ? story.layout.segment_pages_offset : story.layout.slot_pages_offset);
      CHECK(story.look().right());
    });
  }
}

TEST_CASE("segment page, slot page: at rest torn, misdirected, flipped, unreadable are refused") {
  for (const bool slots : {false, true}) {
    CAPTURE(slots);
    each([slots](Damage fault) {
      if (fault == Damage::lost) return;  // the next two cases
      Story story;
      story.go_on(Story::End::closed);
      story.hit(slots ? story.newer_slot_page() : story.newer_segment_page(), fault,
                slots ? story.layout.segment_pages_offset : story.layout.slot_pages_offset);
      CHECK(story.checker_sees_it());
      CHECK(story.look().opened == Error::StoreDamaged);
    });
  }
}

TEST_CASE("slot page, segment page: lost is refused, for what is there does not match the root") {
  for (const bool slots : {false, true}) {
    CAPTURE(slots);
    Story story;
    story.go_on(Story::End::closed);
    story.hit(slots ? story.newer_slot_page() : story.newer_segment_page(), Damage::lost, 0);
    const CheckReport report = check_store(story.rig.disk, {});
    REQUIRE(report.problem_count == 1);
    CHECK(report.problems[0].what.find("root") != std::string::npos);
    CHECK_FALSE(report.opens);
    CHECK(story.look().opened == Error::StoreDamaged);
  }
}

TEST_CASE("segment page: lost shows the table as it was before, where no content changed since") {
  Story story;
  story.go_on(Story::End::closed);
  story.rig.open();
  REQUIRE(story.rig.wait([&](Store::Done done) {
    story.rig.store->promise_epoch(0, 7, std::move(done));
  }) == Error::Ok);
  REQUIRE(story.rig.close());
  Page newer;
  const std::uint64_t at = story.newer_segment_page();
  const std::uint64_t a = story.layout.segment_pages_offset;
  const std::uint64_t other =
      at == a ? a + std::uint64_t{story.layout.segment_page_count} * kBlockBytes : a;
  format::SegmentPage older;
  story.rig.disk.peek(other, newer.span());
  std::memcpy(static_cast<void*>(&older), newer.data(), kBlockBytes);
  older.generation -= 1;  // of the same parity as the lost one
  format::seal(older);
  std::memcpy(newer.data(), &older, kBlockBytes);
  REQUIRE(story.rig.disk.write_now(at, newer.span()) == Error::Ok);
  const Story::Outcome outcome = story.look();
  CHECK(outcome.right());  // the data is not the segment page's
  CHECK(story.rig.store->segment_info(0).promised_epoch < 7);
}

TEST_CASE("slot page: lost is seen by the checker once the page has been written again") {
  Story story;
  story.go_on(Story::End::closed);
  const std::uint64_t at = story.newer_slot_page();
  const std::uint64_t a = story.layout.slot_pages_offset;
  const std::uint64_t other =
      at == a ? a + std::uint64_t{story.layout.slot_page_count} * kBlockBytes : a;
  Page page;
  story.rig.disk.peek(at, page.span());
  format::SlotPage sealed;
  std::memcpy(static_cast<void*>(&sealed), page.data(), kBlockBytes);
  ++sealed.generation;
  format::seal(sealed);
  std::memcpy(page.data(), &sealed, kBlockBytes);
  REQUIRE(story.rig.disk.write_now(other, page.span()) == Error::Ok);
  story.hit(at, Damage::lost, 0);
  const CheckReport report = check_store(story.rig.disk, {});
  REQUIRE(report.problem_count == 1);
  CHECK(report.problems[0].what.find("was lost") != std::string::npos);
  CHECK(story.look().right());
}

TEST_CASE("journal header, journal payload: any fault of a flushed batch is refused") {
  for (const std::uint64_t block : {0u, 1u}) {  // the header, its payload
    CAPTURE(block);
    each([block](Damage fault) {
      Story story;
      story.go_on(Story::End::killed);
      story.hit(story.batch(story.newest_lsn() - 5) + block * kBlockBytes, fault,
                story.layout.slot_pages_offset);
      CHECK(story.checker_sees_it());
      CHECK(story.look().opened == Error::StoreDamaged);
    });
  }
}

TEST_CASE("journal header, journal payload: the newest batch is taken for torn, flushed or not") {
  for (const std::uint64_t block : {0u, 1u}) {
    CAPTURE(block);
    each([block](Damage fault) {
      Story story;
      story.go_on(Story::End::killed);
      story.hit(story.batch(story.newest_lsn()) + block * kBlockBytes, fault,
                story.layout.slot_pages_offset);
      const Story::Outcome outcome = story.look();
      REQUIRE(outcome.opened == Error::Ok);
      CHECK(outcome.errors == 0);
      CHECK(outcome.wrong == 1);  // block 600: its flush is not known here
      CHECK(story.client->segment == 0);
    });
  }
}

// Only the first sector of its header got there; the store is opened without it, and of the batch
// that is written over it only the other sectors do, which are the same.
TEST_CASE("journal header: a torn batch does not come back when the next one is torn over it") {
  Story story;
  story.go_on(Story::End::killed);
  const std::uint64_t at = story.batch(story.newest_lsn());
  Page whole, torn;
  story.rig.disk.peek(at, whole.span());
  std::memcpy(torn.data(), whole.data(), kBlockBytes);
  std::memset(torn.data() + 512, 0xa5, 512);
  REQUIRE(story.rig.disk.write_now(at, torn.span()) == Error::Ok);
  story.rig.open();
  REQUIRE(Client(story.rig, Client::Existing{}).read_one(600) == kHole);
  story.rig.kill();  // before a checkpoint
  story.rig.disk.peek(at, torn.span());
  std::memcpy(torn.data() + 512, whole.data() + 512, kBlockBytes - 512);
  REQUIRE(story.rig.disk.write_now(at, torn.span()) == Error::Ok);
  const Story::Outcome again = story.look();
  CHECK(again.opened == Error::Ok);
  CHECK(again.wrong == 1);  // block 600
}

TEST_CASE("journal header: a whole batch that went astray within the journal is not believed") {
  Story story;
  story.go_on(Story::End::killed);
  const std::uint64_t from = story.batch(story.newest_lsn());
  for (const std::uint64_t block : {0u, 1u}) {
    Page page;
    story.rig.disk.peek(from + block * kBlockBytes, page.span());
    const std::uint64_t to =
        story.layout.journal_offset + story.layout.journal_bytes - (4 - block) * kBlockBytes;
    REQUIRE(story.rig.disk.write_now(to, page.span()) == Error::Ok);
  }
  CHECK(story.look().right());
}

TEST_CASE("block: any fault of one that is home costs that block, and is never a wrong byte") {
  each([](Damage fault) {
    Story story;
    const std::uint64_t at = story.rig.store->locate(0, 3).device_offset_bytes;
    const std::uint64_t other = story.rig.store->locate(0, 40).device_offset_bytes;
    story.go_on(Story::End::closed);
    story.hit(at, fault, other);
    CHECK(story.checker_sees_it());
    const Story::Outcome outcome = story.look();
    CHECK(outcome.opened == Error::Ok);
    CHECK(outcome.errors == 1);
    CHECK(outcome.wrong == 0);
  });
}

TEST_CASE("block: one whose newest content is in the journal does not matter") {
  each([](Damage fault) {
    Story story;
    const std::uint64_t at = story.rig.store->locate(0, 3).device_offset_bytes;
    story.go_on(Story::End::killed);
    story.hit(at, fault, story.layout.slot_pages_offset);
    CHECK(story.look().right());
  });
}

TEST_CASE("block: misdirected or lost content that is equal passes, and is right") {
  Story story;
  REQUIRE(story.client->write(40, 1, 7777) == Error::Ok);
  REQUIRE(story.client->write(41, 1, 7777) == Error::Ok);
  const std::uint64_t at = story.rig.store->locate(0, 40).device_offset_bytes;
  REQUIRE(story.rig.close());
  story.hit(at, Damage::misdirected, at + kBlockBytes);
  story.rig.open();
  Client reader(story.rig, Client::Existing{});
  CHECK(reader.read(40, 2) == std::vector<Tag>{7777, 7777});
}

TEST_CASE("block: a whole chunk that never reached its slot undoes what no flush had covered") {
  Story story;
  REQUIRE(story.client->write(400, 16, 8000) == Error::Ok);
  const std::uint64_t slot = story.rig.store->locate(0, 400).device_offset_bytes;
  story.rig.kill();
  story.hit(slot, Damage::lost, 0);
  story.rig.open();
  Client reader(story.rig, Client::Existing{});
  CHECK(reader.read(400, 16) == tags_from(kHole, 16));
  CHECK(reader.read(0, 3) == tags_from(1000, 3));
}
