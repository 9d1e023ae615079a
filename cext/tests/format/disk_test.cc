// The store's structures keep the bytes that docs/FORMATS.md gives them: golden bytes.
#include "format/disk.h"

#include <doctest/doctest.h>

#include <cstring>
#include <string>
#include <vector>

#include "base/crc32c.h"
#include "format/root.h"

using namespace blockd;
using namespace blockd::format;

namespace {

template <class Struct>
std::string hex(const Struct& value, std::size_t from, std::size_t bytes) {
  std::string text;
  std::vector<unsigned char> raw(sizeof value);
  std::memcpy(raw.data(), &value, sizeof value);
  for (std::size_t i = from; i < from + bytes; ++i) {
    constexpr char kDigits[] = "0123456789abcdef";
    text += kDigits[raw[i] >> 4];
    text += kDigits[raw[i] & 15];
  }
  return text;
}

Uuid counting_uuid(std::uint8_t from) {
  Uuid id;
  for (std::uint8_t& byte : id.bytes) byte = from++;
  return id;
}

// Every single bit of a sealed block counts: the checksum fails when any one flips.
template <class Block>
void check_every_byte_counts(const Block& sealed) {
  REQUIRE(checksum_matches(sealed));
  std::vector<std::byte> raw(sizeof sealed);
  std::memcpy(raw.data(), &sealed, sizeof sealed);
  for (std::size_t i = 0; i < raw.size(); i += 7) {
    Block damaged;
    raw[i] ^= std::byte{1} << (i % 8);
    std::memcpy(static_cast<void*>(&damaged), raw.data(), raw.size());
    CHECK_FALSE(checksum_matches(damaged));
    raw[i] ^= std::byte{1} << (i % 8);
  }
}

}  // namespace

TEST_CASE("superblock, version 3") {
  Superblock s;
  s.store_id = counting_uuid(0x10);
  s.cluster_id = counting_uuid(0x30);
  s.device_bytes = 0x0102030405060708;
  s.journal_offset = 0x10000;
  s.journal_bytes = 0x100000;
  s.segment_pages_offset = 0x110000;
  s.slot_pages_offset = 0x154000;
  s.data_offset = 0x160000;
  s.segment_page_count = 34;
  s.slot_page_count = 5;
  s.slot_count = 106;
  s.incompatible_features = 0x1112131415161718;
  s.compatible_features = 0x2122232425262728;
  seal(s);
  CHECK(hex(s, 0, 12) == "424b4453544f524503000000");
  CHECK(hex(s, 16, 16) == "101112131415161718191a1b1c1d1e1f");
  CHECK(hex(s, 32, 16) == "303132333435363738393a3b3c3d3e3f");
  CHECK(hex(s, 48, 16) == "08070605040302010010000000000100");
  CHECK(hex(s, 64, 40) ==
        "00000100000000000000100000000000000011000000000000401500000000000000160000000000");
  CHECK(hex(s, 104, 32) ==
        "2200000005000000"
        "6a00000000000000"
        "1817161514131211"
        "2827262524232221");
  CHECK(all_zero({s.reserved, sizeof s.reserved}));
  check_every_byte_counts(s);
}

TEST_CASE("device findings in a superblock") {
  Superblock s;
  s.compatible_features = has_device_findings;
  s.findings.probed_unix_s = 0x0102030405060708;
  s.findings.direct_alignment_bytes = 512;
  s.findings.logical_block_bytes = 512;
  s.findings.physical_block_bytes = 4096;
  s.findings.atomic_write_bytes = 0x4000;
  s.findings.discard_granularity_bytes = 0x1000;
  s.findings.flags = DeviceFindings::cache_told | DeviceFindings::volatile_cache |
                     DeviceFindings::fua_told | DeviceFindings::discard_zeroes;
  s.findings.write_us = 0x11;
  s.findings.flush_us = 0x22;
  s.findings.dsync_write_us = 0x33;
  s.findings.write_mib_s = 0x44;
  s.findings.read_mib_s = 0x55;
  s.findings.write_iops = 0x66;
  s.findings.flushed_write_iops = 0x77;
  seal(s);
  CHECK(hex(s, 128, 8) == "0100000000000000");
  CHECK(hex(s, 136, 32) ==
        "0807060504030201"
        "0002000000020000"
        "0010000000400000"
        "001000005c000000");
  CHECK(hex(s, 168, 32) ==
        "1100000022000000"
        "3300000044000000"
        "5500000066000000"
        "7700000000000000");
  CHECK(all_zero({s.reserved, sizeof s.reserved}));
  check_every_byte_counts(s);
}

TEST_CASE("checkpoint record, version 1") {
  CheckpointRecord r;
  r.store_id = counting_uuid(0x10);
  r.generation = 7;
  r.tail_lsn = 0x1234;
  r.tail_offset = 0x9000;
  seal(r);
  CHECK(hex(r, 0, 4) == "424b4350");
  CHECK(hex(r, 8, 16) == "101112131415161718191a1b1c1d1e1f");
  CHECK(hex(r, 24, 24) == "070000000000000034120000000000000090000000000000");
  check_every_byte_counts(r);
}

TEST_CASE("slot record and its page, version 2") {
  SlotRecord slot;
  slot.state = SlotState::used;
  slot.segment = 3;
  slot.chunk = 0x01020304;
  slot.valid_mask = 0x8001;
  slot.version = {5, 6};
  slot.crcs[0] = 0xa0a1a2a3;
  slot.crcs[15] = 0xb0b1b2b3;
  slot.born = 0x0708;
  slot.died = 0x0709;
  slot.flags = covers;
  CHECK(hex(slot, 0, 36) ==
        "01000000"
        "03000000"
        "04030201"
        "0180"
        "0000"
        "0500000000000000"
        "0600000000000000"
        "a3a2a1a0");
  CHECK(hex(slot, 92, 16) ==
        "b3b2b1b0"
        "08070000"
        "09070000"
        "01000000");
  SlotPage page;
  page.store_id = counting_uuid(0x10);
  page.number = 2;
  page.generation = 9;
  page.records[1] = slot;
  seal(page);
  CHECK(hex(page, 0, 4) == "424b5047");
  CHECK(hex(page, 8, 32) ==
        "101112131415161718191a1b1c1d1e1f"
        "02000000"
        "02000000"
        "0900000000000000");
  CHECK(hex(page, 64 + 128, 8) == "0100000003000000");
  check_every_byte_counts(page);
}

TEST_CASE("segment record and its page, version 3") {
  SegmentRecord segment;
  segment.state = SegmentState::used;
  segment.index = 4;
  segment.volume = counting_uuid(0x50);
  segment.block_count = 262144;
  segment.flags = has_root;
  segment.promised_epoch = 11;
  segment.stable = {10, 99};
  segment.root = {0x0102030405060708, 0x1112131415161718};
  CHECK(hex(segment, 0, 72) ==
        "01000000"
        "04000000"
        "505152535455565758595a5b5c5d5e5f"
        "00000400"
        "01000000"
        "0b00000000000000"
        "0a00000000000000"
        "6300000000000000"
        "0807060504030201"
        "1817161514131211");
  SegmentPage page;
  page.kind = PageKind::segments;
  page.store_id = counting_uuid(0x10);
  page.records[0] = segment;
  seal(page);
  CHECK(hex(page, 24, 8) == "0100000000000000");
  CHECK(hex(page, 64, 8) == "0100000004000000");
  check_every_byte_counts(page);
}

TEST_CASE("journal batch header and entry, version 2") {
  BatchHeader batch;
  batch.store_id = counting_uuid(0x10);
  batch.lsn = 0x0102;
  batch.flushed_lsn = 0x0101;
  batch.entry_count = 1;
  batch.payload_blocks = 2;
  batch.entry_bytes = 48;
  batch.incarnation = 6;
  EntryHeader entry;
  entry.kind = EntryKind::replace;
  entry.first = 1;
  entry.count = 2;
  entry.segment = 3;
  entry.chunk = 4;
  entry.slot = 5;
  entry.version = {6, 7};
  entry.old_slot = 8;
  entry.mask = 0x0006;
  entry.flags = keeps_old | entry_covers;
  entry.damaged = 0x0102;
  entry.born = 9;
  entry.died = 10;
  std::memcpy(batch.entries, &entry, sizeof entry);
  seal(batch);
  CHECK(hex(batch, 0, 4) == "424b4a4c");
  CHECK(hex(batch, 8, 56) ==
        "101112131415161718191a1b1c1d1e1f"
        "0201000000000000"
        "0101000000000000"
        "0100"
        "0200"
        "30000000"
        "0600000000000000"
        "0000000000000000");
  CHECK(hex(batch, 64, 48) ==
        "05010203"
        "03000000"
        "04000000"
        "05000000"
        "0600000000000000"
        "0700000000000000"
        "08000000"
        "0600"
        "0201"
        "09000000"
        "0a000000");
  check_every_byte_counts(batch);
}

TEST_CASE("the numbers on the device are never renumbered") {
  CHECK(static_cast<int>(EntryKind::write) == 1);
  CHECK(static_cast<int>(EntryKind::map) == 2);
  CHECK(static_cast<int>(EntryKind::zero) == 3);
  CHECK(static_cast<int>(EntryKind::free) == 4);
  CHECK(static_cast<int>(EntryKind::replace) == 5);
  CHECK(static_cast<int>(EntryKind::segment) == 6);
  CHECK(static_cast<int>(EntryKind::copy) == 7);
  CHECK(static_cast<int>(EntryKind::past) == 8);
  CHECK(static_cast<int>(SlotState::free) == 0);
  CHECK(static_cast<int>(SlotState::used) == 1);
  CHECK(static_cast<int>(SegmentState::free) == 0);
  CHECK(static_cast<int>(SegmentState::used) == 1);
  CHECK(static_cast<int>(PageKind::segments) == 1);
  CHECK(static_cast<int>(PageKind::slots) == 2);
}

TEST_CASE("a checksum is the CRC-32C of the block with its own field zero") {
  CheckpointRecord record;
  record.generation = 3;
  seal(record);
  CheckpointRecord without = record;
  without.crc = 0;
  CHECK(record.crc == crc32c(&without, sizeof without));
}

// Worked out from docs/FORMATS.md by other means.
TEST_CASE("the root's terms, version 3") {
  std::uint32_t crcs[kBlocksPerChunk];
  for (std::uint32_t i = 0; i < kBlocksPerChunk; ++i) crcs[i] = 0x01020304 + i;
  CHECK(root_term(5, {7, 8}, 9, 0xffff, crcs) == Root{0x6de1234f7e3f2eac, 0x8f0827b59b7a702b});
  CHECK(root_term(5, {7, 8}, 9, 0x8001, crcs) == Root{0x95c69a5ed47e2b1d, 0x372e31cd0bfa6feb});
  CHECK(root_term(5, {7, 8}, 9, 0, crcs) == Root{});
  for (std::uint32_t i = 1; i < kBlocksPerChunk - 1; ++i) crcs[i] = 0x98f94189;  // zeros
  CHECK(root_term(5, {7, 8}, 9, 0xffff, crcs) == root_term(5, {7, 8}, 9, 0x8001, crcs));
}

TEST_CASE("a term counts whatever it stands for") {
  std::uint32_t crcs[kBlocksPerChunk] = {};
  const Root term = root_term(1, {2, 3}, 4, 0xffff, crcs);
  CHECK(root_term(2, {2, 3}, 4, 0xffff, crcs) != term);
  CHECK(root_term(1, {3, 3}, 4, 0xffff, crcs) != term);
  CHECK(root_term(1, {2, 4}, 4, 0xffff, crcs) != term);
  CHECK(root_term(1, {2, 3}, 5, 0xffff, crcs) != term);
  for (std::uint32_t i = 0; i < kBlocksPerChunk; ++i) {
    crcs[i] = 1;
    CHECK(root_term(1, {2, 3}, 4, 0xffff, crcs) != term);
    crcs[i] = 0;
    CHECK(root_term(1, {2, 3}, 4, static_cast<std::uint16_t>(~(1u << i)), crcs) != term);
  }
  Root sum = term;
  sum += root_term(2, {2, 3}, 4, 0xffff, crcs);
  sum -= term;
  CHECK(sum == root_term(2, {2, 3}, 4, 0xffff, crcs));
}

TEST_CASE("a past content and a free slot count nothing") {
  SlotRecord record;
  record.state = SlotState::used;
  record.valid_mask = 1;
  record.version = {1, 1};
  CHECK(root_term(record) == root_term(0, {1, 1}, 0, 1, record.crcs));
  record.died = 2;
  CHECK(root_term(record) == Root{});
  CHECK(root_term(SlotRecord{}) == Root{});
}
