// The bytes of docs/FORMATS_WIRE.md: golden frames, and what a reader refuses.
#include <doctest/doctest.h>

#include <cstring>
#include <string>
#include <vector>

#include "base/crc32c.h"
#include "base/random.h"
#include "peer/frame_reader.h"
#include "peer/wire_codec.h"

namespace blockd::peer {
namespace {

std::string hex(const void* data, std::size_t bytes) {
  static const char* digits = "0123456789abcdef";
  std::string text;
  for (std::size_t i = 0; i < bytes; ++i) {
    const auto byte = static_cast<const unsigned char*>(data)[i];
    text += digits[byte >> 4];
    text += digits[byte & 15];
  }
  return text;
}

std::string with_crc(const std::string& rest) {
  std::vector<unsigned char> bytes;
  for (std::size_t i = 0; i < rest.size(); i += 2) {
    bytes.push_back(static_cast<unsigned char>(std::stoi(rest.substr(i, 2), nullptr, 16)));
  }
  const std::uint32_t crc = crc32c(bytes.data(), bytes.size());
  return hex(&crc, 4) + rest;
}

TEST_CASE("golden bytes of the hello") {
  format::Hello hello;
  hello.cluster_id.bytes.fill(0xc1);
  hello.host_id.bytes.fill(0x40);
  hello.version_max = 3;
  seal(hello);
  CHECK(hex(&hello, sizeof hello) == with_crc("02000000"
                                              "424b445045455231"
                                              "c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1c1"
                                              "40404040404040404040404040404040"
                                              "0000"
                                              "0300"
                                              "000000000000000000000000"));
}

TEST_CASE("two peers speak the highest version that both can") {
  format::Hello theirs;
  const auto agreed = [&](std::uint32_t lowest, std::uint16_t highest, std::uint16_t own_max) {
    theirs.version = lowest;
    theirs.version_max = highest;
    return agreed_version(theirs, own_max);
  };
  CHECK(agreed(2, 0, 3) == 2);  // a host that knew no other
  CHECK(agreed(2, 2, 3) == 2);
  CHECK(agreed(2, 3, 3) == 3);
  CHECK(agreed(2, 7, 3) == 3);
  CHECK(agreed(3, 7, 3) == 3);
  CHECK(agreed(2, 7, 2) == 2);
  CHECK(agreed(4, 7, 3) == 0);
  CHECK(agreed(1, 1, 3) == 0);
  CHECK(agreed(1, 0, 3) == 0);
  CHECK(agreed(3, 3, 2) == 0);
  CHECK(agreed(0xffffffff, 0, 3) == 0);
}

TEST_CASE("golden bytes of a write") {
  std::vector<std::byte> data(kBlockBytes, std::byte{0xab});
  std::uint32_t crc = crc32c(data.data(), data.size());
  ReplicaOp op;
  op.kind = ReplicaOp::Kind::write;
  op.fua = true;
  op.request_id = 0x00010002;
  op.handle = 0x00030004;
  op.version = {5, 6};
  op.first_block = 7;
  op.block_count = 1;
  op.stable = {5, 4};
  op.era = 9;
  op.covers = true;
  op.data = data.data();
  op.crcs = &crc;
  encode_request(op);
  CHECK(hex(&op.frame.header, sizeof op.frame.header) == with_crc("05050000"
                                                                  "02000100"
                                                                  "04000300"
                                                                  "04100000"
                                                                  "00000000"
                                                                  "0500000000000000"
                                                                  "0600000000000000"
                                                                  "07000000"
                                                                  "01000000"
                                                                  "0500000000000000"
                                                                  "0400000000000000"
                                                                  "09000000"
                                                                  "00000000"));
  CHECK(op.item.iov_count == 2);
  CHECK(op.item.iov[0].iov_len == 76);
  CHECK(op.item.iov[1].iov_len == kBlockBytes);
  CHECK(op.frame.tail[0] == crc);
}

TEST_CASE("every request survives the way there") {
  Random random(3);
  std::vector<std::byte> data(kMutationBytesMax);
  std::array<std::uint32_t, format::kWireBlocksMax> crcs{};
  for (int i = 0; i < 2000; ++i) {
    ReplicaOp op;
    op.kind = static_cast<ReplicaOp::Kind>(random.below(15));
    op.fua = random.chance(2);
    op.may_create = random.chance(2);
    op.request_id = static_cast<std::uint32_t>(random.next());
    op.handle = static_cast<std::uint32_t>(random.next());
    op.version = {random.next(), random.next()};
    op.stable = {random.next(), random.next()};
    op.first_block = static_cast<std::uint32_t>(random.next());
    op.block_count = static_cast<std::uint32_t>(random.between(1, format::kWireBlocksMax));
    op.valid_mask = static_cast<std::uint16_t>(random.next());
    op.era = static_cast<std::uint32_t>(random.next());
    op.died = static_cast<std::uint32_t>(random.next());
    op.covers = random.chance(2);
    op.store.bytes[3] = static_cast<std::uint8_t>(random.next());
    op.segment = {{}, static_cast<std::uint32_t>(random.next())};
    op.data = data.data();
    op.data_bytes = sizeof(format::ChunkEntry) * 100;
    op.crcs = crcs.data();
    encode_request(op);
    ReplicaOp there;
    REQUIRE(decode_request(op.frame.header, there));
    there.frame.tail = op.frame.tail;
    decode_body(there);
    CHECK(there.kind == op.kind);
    CHECK(there.fua == op.fua);
    CHECK(there.version == op.version);
    CHECK(there.stable == op.stable);
    CHECK(there.first_block == op.first_block);
    CHECK(there.covers == (op.covers && is_mutation(op.kind)));
    const bool view =
        op.kind == ReplicaOp::Kind::read_view || op.kind == ReplicaOp::Kind::list_view;
    if (is_listing(op.kind)) CHECK(there.block_count == 100);
    if (is_read(op.kind)) CHECK(there.block_count == op.block_count);
    if (op.kind == ReplicaOp::Kind::open || view) CHECK(there.segment == op.segment);
    if (op.kind == ReplicaOp::Kind::open || view) CHECK(there.store == op.store);
    if (is_mutation(op.kind) || view) CHECK(there.era == op.era);
    if (op.kind == ReplicaOp::Kind::replace) CHECK(there.died == op.died);
    if (op.kind == ReplicaOp::Kind::replace) CHECK(there.valid_mask == op.valid_mask);
  }
}

TEST_CASE("golden bytes of the answer to an opening; one that failed says no more than why") {
  ReplicaOp op;
  op.kind = ReplicaOp::Kind::open;
  op.request_id = 1;
  op.handle = 2;
  op.block_count = 3;
  op.stable = {5, 4};
  op.era = 7;
  encode_reply(op);
  CHECK(hex(&op.frame.header, sizeof op.frame.header) == with_crc("81000000"
                                                                  "01000000"
                                                                  "02000000"
                                                                  "00000000"
                                                                  "00000000"
                                                                  "0000000000000000"
                                                                  "0000000000000000"
                                                                  "00000000"
                                                                  "03000000"
                                                                  "0500000000000000"
                                                                  "0400000000000000"
                                                                  "07000000"
                                                                  "00000000"));
  ReplicaOp asked;
  asked.kind = ReplicaOp::Kind::open;
  PayloadShape shape;
  REQUIRE(decode_reply(op.frame.header, asked, shape));
  CHECK(asked.era == 7);
  CHECK(asked.stable == op.stable);
  op.error = Error::LeaseHeld;
  encode_reply(op);
  CHECK(op.frame.header.era == 0);
}

TEST_CASE("golden bytes of a past chunk's answer and of a listing's entry") {
  ReplicaOp op;
  op.kind = ReplicaOp::Kind::read_chunk;
  op.request_id = 1;
  op.version = {5, 6};
  op.era = 7;
  op.died = 8;
  op.covers = true;
  encode_reply(op);
  CHECK(hex(&op.frame.header, sizeof op.frame.header) == with_crc("84040000"
                                                                  "01000000"
                                                                  "00000000"
                                                                  "00000000"
                                                                  "00000000"
                                                                  "0500000000000000"
                                                                  "0600000000000000"
                                                                  "00000000"
                                                                  "00000000"
                                                                  "0000000000000000"
                                                                  "0000000000000000"
                                                                  "07000000"
                                                                  "08000000"));
  ReplicaOp asked;
  asked.kind = ReplicaOp::Kind::read_chunk;
  PayloadShape shape;
  REQUIRE(decode_reply(op.frame.header, asked, shape));
  CHECK(asked.version == op.version);
  CHECK(asked.era == 7);
  CHECK(asked.died == 8);
  CHECK(asked.covers);
  const format::ChunkEntry entry{1, 2, 3, 4, 5, 6, format::kEntryCovers};
  CHECK(hex(&entry, sizeof entry) ==
        "01000000"
        "02000000"
        "0300000000000000"
        "0400000000000000"
        "05000000"
        "0600"
        "0100");
}

TEST_CASE("golden bytes of a root and of its answer") {
  ReplicaOp op;
  op.kind = ReplicaOp::Kind::root;
  op.request_id = 1;
  op.handle = 2;
  encode_request(op);
  CHECK(hex(&op.frame.header, sizeof op.frame.header) == with_crc("10000000"
                                                                  "01000000"
                                                                  "02000000" +
                                                                  std::string(56 * 2, '0')));
  CHECK(op.item.iov_count == 1);
  op.root = {0x0102030405060708, 0x1112131415161718};
  encode_reply(op);
  CHECK(hex(&op.frame.header, sizeof op.frame.header) == with_crc("90000000"
                                                                  "01000000" +
                                                                  std::string(12 * 2, '0') +
                                                                  "0807060504030201"
                                                                  "1817161514131211" +
                                                                  std::string(32 * 2, '0')));
  ReplicaOp asked;
  asked.kind = ReplicaOp::Kind::root;
  PayloadShape shape;
  REQUIRE(decode_reply(op.frame.header, asked, shape));
  CHECK(asked.root == op.root);
  CHECK(shape.total() == 0);
  op.error = Error::NotInSync;
  encode_reply(op);
  REQUIRE(decode_reply(op.frame.header, asked, shape));
  CHECK(asked.error == Error::NotInSync);
  CHECK(asked.root == format::Root{});
}

TEST_CASE("requests of unknown type, flags or size are refused") {
  ReplicaOp op;
  op.kind = ReplicaOp::Kind::read;
  op.block_count = 4;
  encode_request(op);
  const auto refused = [&](auto change) {
    format::FrameHeader header = op.frame.header;
    change(header);
    ReplicaOp there;
    return !decode_request(header, there);
  };
  CHECK_FALSE(refused([](format::FrameHeader&) {}));
  CHECK(refused([](format::FrameHeader& h) { h.type = 0; }));
  CHECK(refused([](format::FrameHeader& h) { h.type = 18; }));
  CHECK(refused([](format::FrameHeader& h) { h.type |= format::kFrameReply; }));
  CHECK(refused([](format::FrameHeader& h) { h.flags = 0x80; }));
  CHECK(refused([](format::FrameHeader& h) { h.block_count = 0; }));
  CHECK(refused([](format::FrameHeader& h) { h.block_count = 65; }));
  CHECK(refused([](format::FrameHeader& h) { h.payload_bytes = 1; }));
  CHECK(refused([](format::FrameHeader& h) {
    h.type = static_cast<std::uint8_t>(format::FrameType::list);
    h.block_count = 1u << 30;
  }));
}

// Collects frames; their payload goes to two runs split at `split`.
class Collector final : public FrameSink {
 public:
  Verdict on_hello(const format::Hello&) noexcept override { return Verdict::go_on; }
  Verdict on_header(const format::FrameHeader& header, PayloadTarget& target) noexcept override {
    if (pauses > 0) {
      --pauses;
      return Verdict::pause;
    }
    payload.resize(header.payload_bytes);
    const std::size_t split = std::min<std::size_t>(header.block_count * 4u, payload.size());
    target.runs[0] = std::span(payload).first(split);
    target.runs[1] = std::span(payload).subspan(split);
    return Verdict::go_on;
  }
  Verdict on_frame(const format::FrameHeader& header) noexcept override {
    ids.push_back(header.request_id);
    sums.push_back(crc32c(payload.data(), payload.size()));
    return Verdict::go_on;
  }
  std::vector<std::byte> payload;
  std::vector<std::uint32_t> ids;
  std::vector<std::uint32_t> sums;
  int pauses = 0;
};

std::vector<std::byte> a_stream(Random& random, std::uint32_t frames,
                                std::vector<std::uint32_t>& sums) {
  std::vector<std::byte> stream;
  const auto put = [&](const void* from, std::size_t bytes) {
    const auto* begin = static_cast<const std::byte*>(from);
    stream.insert(stream.end(), begin, begin + bytes);
  };
  format::Hello hello;
  seal(hello);
  put(&hello, sizeof hello);
  for (std::uint32_t i = 0; i < frames; ++i) {
    format::FrameHeader header;
    header.request_id = i;
    header.block_count = static_cast<std::uint32_t>(random.below(20));
    header.payload_bytes =
        static_cast<std::uint32_t>(random.chance(3) ? random.below(200'000) : random.below(300));
    seal(header);
    put(&header, sizeof header);
    std::vector<std::byte> payload(header.payload_bytes);
    random.fill(payload);
    sums.push_back(crc32c(payload.data(), payload.size()));
    put(payload.data(), payload.size());
  }
  return stream;
}

TEST_CASE("frames are found however the stream is split and paused") {
  for (std::uint64_t seed = 1; seed <= 60; ++seed) {
    Random random(seed);
    std::vector<std::uint32_t> sums;
    const std::vector<std::byte> stream = a_stream(random, 40, sums);
    Collector sink;
    FrameReader reader(sink);
    std::size_t at = 0;
    while (at < stream.size()) {
      if (random.chance(20)) sink.pauses = 1;
      const std::span<std::byte> into = reader.receive_buffer();
      if (into.empty()) {
        REQUIRE(reader.paused());
        REQUIRE(reader.retry());
        continue;
      }
      const std::size_t most = std::min(
          {into.size(), stream.size() - at, static_cast<std::size_t>(random.between(1, 100'000))});
      std::memcpy(into.data(), stream.data() + at, most);
      at += most;
      REQUIRE(reader.received(most));
    }
    while (reader.paused()) REQUIRE(reader.retry());
    CHECK(sink.sums == sums);
  }
}

TEST_CASE("one flipped bit in a header ends the link") {
  Random random(9);
  for (int i = 0; i < 500; ++i) {
    std::vector<std::uint32_t> sums;
    std::vector<std::byte> stream = a_stream(random, 1, sums);
    const std::size_t bit = random.below(136 * 8);
    stream[bit / 8] ^= static_cast<std::byte>(1u << (bit % 8));
    Collector sink;
    FrameReader reader(sink);
    const std::span<std::byte> into = reader.receive_buffer();
    std::memcpy(into.data(), stream.data(), 136);
    CHECK_FALSE(reader.received(136));
  }
}

}  // namespace
}  // namespace blockd::peer
