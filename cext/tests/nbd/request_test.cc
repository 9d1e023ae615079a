// Request headers: the codec, the rules of what a client may ask, and which errors a reply may
// carry.
#include "nbd/request.h"

#include <doctest/doctest.h>

#include "nbd/request_pool.h"
#include "tests/nbd/wire_text.h"

using namespace blockd;
using namespace blockd::nbd;

namespace {

constexpr std::uint64_t kSize = 1 << 20;

ExportInfo info(bool read_only = false) {
  ExportInfo result;
  result.size_bytes = kSize;
  result.transmission_flags = read_only ? kHasFlags | kReadOnly : kHasFlags;
  return result;
}

Verdict judged(Command type, std::uint64_t offset_bytes, std::uint32_t length_bytes,
               std::uint16_t flags = 0, bool read_only = false) {
  return judge({flags, static_cast<std::uint16_t>(type), 0, offset_bytes, length_bytes},
               info(read_only));
}

}  // namespace

TEST_CASE("a request header is read field by field") {
  const std::string text =
      request(Command::write, 0x0123456789abcdef, 0x1122334455667788, 0x99aabbcc, 1);
  REQUIRE(text.size() == kRequestHeaderBytes);
  RequestHeader header;
  REQUIRE(decode_request(as_bytes(text).first<kRequestHeaderBytes>(), header));
  CHECK(header.flags == 1);
  CHECK(header.type == 1);
  CHECK(header.cookie == 0x0123456789abcdef);
  CHECK(header.offset_bytes == 0x1122334455667788);
  CHECK(header.length_bytes == 0x99aabbcc);
  const std::string wrong = be(kSimpleReplyMagic) + text.substr(4);
  CHECK(!decode_request(as_bytes(wrong).first<kRequestHeaderBytes>(), header));
}

TEST_CASE("a reply header is laid out as the specification has it") {
  std::array<std::byte, kSimpleReplyBytes> bytes{};
  encode_reply(bytes, 0xfeedface01020304, Errno::no_space);
  const std::string text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  CHECK(text == be(0x67446698u) + be(28u) + be(std::uint64_t{0xfeedface01020304}));
}

TEST_CASE("what is out of range gets EINVAL, or ENOSPC when it would write") {
  for (const std::uint64_t offset :
       {kSize - 511, kSize + 1, ~std::uint64_t{0}, ~std::uint64_t{0} - 511}) {
    CHECK(judged(Command::read, offset, 512).error == Errno::invalid);
    CHECK(judged(Command::trim, offset, 512).error == Errno::invalid);
    CHECK(judged(Command::write, offset, 512).error == Errno::no_space);
    CHECK(judged(Command::write_zeroes, offset, 512).error == Errno::no_space);
  }
  CHECK(judged(Command::read, kSize - 1, 1).error == Errno::ok);
  CHECK(judged(Command::read, 0, kSize).error == Errno::ok);
  CHECK(judged(Command::read, kSize, 0).error == Errno::ok);
}

TEST_CASE("a read-only export refuses what modifies, before anything else") {
  CHECK(judged(Command::write, 0, 512, 0, true).error == Errno::perm);
  CHECK(judged(Command::trim, kSize, 512, 0, true).error == Errno::perm);
  CHECK(judged(Command::write_zeroes, 0, 512, 0x80, true).error == Errno::perm);
  CHECK(judged(Command::read, 0, 512, 0, true).error == Errno::ok);
  CHECK(judged(Command::flush, 0, 0, 0, true).error == Errno::ok);
}

TEST_CASE("FUA goes with everything, NO_HOLE with write zeroes, other flags with nothing") {
  for (const Command type : {Command::read, Command::write, Command::trim, Command::write_zeroes}) {
    CHECK(judged(type, 0, 512, kCommandFua).error == Errno::ok);
    for (std::uint16_t bit = 1; bit < 16; ++bit) {
      const bool allowed = type == Command::write_zeroes && bit == 1;
      CHECK(judged(type, 0, 512, static_cast<std::uint16_t>(1u << bit)).error ==
            (allowed ? Errno::ok : Errno::invalid));
    }
  }
  CHECK(judged(Command::write, 0, 512, kCommandFua).fua);
  CHECK(!judged(Command::write, 0, 512).fua);
}

TEST_CASE("a flush has no extent; unknown commands are invalid; too much payload is invalid") {
  CHECK(judged(Command::flush, 0, 0).error == Errno::ok);
  CHECK(judged(Command::flush, 0, 512).error == Errno::invalid);
  CHECK(judged(Command::flush, 512, 0).error == Errno::invalid);
  for (const std::uint16_t type : {5, 7, 8, 0xffff}) {
    const Verdict verdict = judge({0, type, 0, 0, 512}, info());
    CHECK(verdict.error == Errno::invalid);
    CHECK(verdict.payload_bytes == 0);
    CHECK(!verdict.counted);
  }
  ExportInfo large = info();
  large.size_bytes = 1ull << 40;
  CHECK(judge({0, 0, 0, 0, kRequestBytesMax}, large).error == Errno::ok);
  CHECK(judge({0, 0, 0, 0, kRequestBytesMax + 1}, large).error == Errno::invalid);
  CHECK(judge({0, 1, 0, 0, kRequestBytesMax + 1}, large).error == Errno::invalid);
  CHECK(judge({0, 4, 0, 0, 0xffffffff}, large).error == Errno::ok);
  CHECK(judge({0, 6, 0, 0, 0xffffffff}, large).error == Errno::ok);
}

TEST_CASE("a refused write's payload is still on the wire") {
  CHECK(judged(Command::write, 0, 512, 0, true).payload_bytes == 512);
  CHECK(judged(Command::write, kSize, 0xffffffff).payload_bytes == 0xffffffff);
  CHECK(judged(Command::read, 0, 512).payload_bytes == 0);
}

TEST_CASE("disconnect is obeyed whatever else the header says") {
  CHECK(judged(Command::disconnect, 1, 2, 0xffff).disconnect);
}

TEST_CASE("every error of the table becomes one that a reply may carry") {
  const auto allowed = [](Errno code) {
    switch (code) {
      case Errno::perm:
      case Errno::io:
      case Errno::no_memory:
      case Errno::invalid:
      case Errno::no_space:
      case Errno::shutdown:
        return true;
      default:
        return false;
    }
  };
#define BLOCKD_ERROR(number, name, kind, nbd, grpc, exit, meaning) \
  CHECK((number == 0 ? reply_errno(Error::name) == Errno::ok : allowed(reply_errno(Error::name))));
#include "blockd/errors.def"
#undef BLOCKD_ERROR
  CHECK(reply_errno(Error::NoSpace) == Errno::no_space);
  CHECK(reply_errno(Error::EpochFenced) == Errno::shutdown);
  CHECK(reply_errno(Error::NotFound) == Errno::io);
}

TEST_CASE("extents are cut at multiples of the mutation size") {
  CHECK(piece_count(0, 0) == 0);
  CHECK(piece_count(5, 1) == 1);
  CHECK(piece_count(0, kMutationBytesMax) == 1);
  CHECK(piece_count(1, kMutationBytesMax) == 2);
  CHECK(piece_count(kMutationBytesMax - 1, 2) == 2);
  CHECK(piece_count(0, kRequestBytesMax) == 128);
  CHECK(piece_count(511, kRequestBytesMax) == 129);
}
