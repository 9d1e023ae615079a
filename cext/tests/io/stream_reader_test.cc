// Whatever the pieces it arrives in, a stream is parsed into the same messages, with every way of
// taking a payload, also when the pool runs dry.
#include "io/stream_reader.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cstring>
#include <deque>
#include <memory>
#include <vector>

#include "base/crc32c.h"
#include "base/random.h"

using namespace blockd;
using namespace blockd::io;

namespace {

enum class Way : std::uint32_t { slice, read_into, skip, peek };

struct Header {
  std::uint32_t payload_bytes;
  Way way;
  std::uint32_t crc;
  std::uint32_t number;
  std::byte filler[12];
};
static_assert(sizeof(Header) == 28);

std::vector<std::byte> make_stream(Random& random, std::uint32_t messages,
                                   std::size_t payload_max) {
  std::vector<std::byte> stream;
  for (std::uint32_t i = 0; i < messages; ++i) {
    Header header{};
    header.way = static_cast<Way>(random.below(4));
    header.payload_bytes = static_cast<std::uint32_t>(
        random.chance(4) ? 0 : random.between(1, random.chance(3) ? payload_max : 300));
    if (header.way == Way::peek || header.way == Way::slice) {
      header.payload_bytes = std::min(header.payload_bytes, 4096u - 28u);
    }
    header.number = i;
    std::vector<std::byte> payload(header.payload_bytes);
    random.fill(payload);
    header.crc = crc32c(payload.data(), payload.size());
    const auto* raw = reinterpret_cast<const std::byte*>(&header);
    stream.insert(stream.end(), raw, raw + sizeof header);
    stream.insert(stream.end(), payload.begin(), payload.end());
  }
  return stream;
}

// Records resumes; the test plays the kernel.
struct FakeLink : Link {
  int resumes = 0;
  void send(SendItem&) noexcept override {}
  void resume() noexcept override { ++resumes; }
  void close() noexcept override {}
  [[nodiscard]] std::size_t queued_bytes() const noexcept override { return 0; }
  [[nodiscard]] std::string peer_name() const override { return "fake"; }
};

struct Parser {
  explicit Parser(BufferPool& pool) : reader(pool) {}
  StreamReader reader;
  std::vector<std::byte> target;
  Header header{};
  bool in_payload = false;
  std::uint32_t next_number = 0;
  std::deque<std::pair<StreamReader::Slice, Header>>
      kept;  // checked late: nobody may overwrite them

  void finish(const std::byte* payload) {
    REQUIRE(header.number == next_number++);
    if (payload) REQUIRE(crc32c(payload, header.payload_bytes) == header.crc);
    in_payload = false;
  }
  void drop_kept() {
    const auto& [slice, about] = kept.front();
    REQUIRE(crc32c(slice.data, about.payload_bytes) == about.crc);
    kept.pop_front();
  }

  void parse() {
    for (;;) {
      if (reader.busy()) return;
      if (in_payload && !take_payload()) return;
      const std::byte* raw = reader.peek(sizeof header);
      if (!raw) return;
      std::memcpy(&header, raw, sizeof header);
      reader.consume(sizeof header);
      in_payload = true;
      started = false;
    }
  }

  bool started = false;
  bool take_payload() {
    if (header.payload_bytes == 0) return finish(nullptr), true;
    if (started) return finish(header.way == Way::read_into ? target.data() : nullptr), true;
    switch (header.way) {
      case Way::skip:
        started = true;
        if (!reader.skip(header.payload_bytes)) return false;
        return finish(nullptr), true;
      case Way::read_into:
        started = true;
        target.assign(header.payload_bytes, std::byte{0});
        if (!reader.read_into(target)) return false;
        return finish(target.data()), true;
      case Way::peek: {
        const std::byte* payload = reader.peek(header.payload_bytes);
        if (!payload) return false;
        finish(payload);
        reader.consume(header.payload_bytes);
        return true;
      }
      case Way::slice:
        break;
    }
    if (!reader.peek(header.payload_bytes)) return false;
    kept.emplace_back(reader.slice(header.payload_bytes), header);
    finish(kept.back().first.data);
    return true;
  }
};

}  // namespace

TEST_CASE("any split of the stream gives the same messages") {
  for (std::uint64_t seed = 0; seed < 120; ++seed) {
    Random random(seed);
    const std::uint32_t buffer_bytes = random.chance(2) ? 4096 : 69'632;
    BufferPool pool(buffer_bytes, static_cast<std::uint32_t>(random.between(2, 12)));
    Parser parser(pool);
    FakeLink link;
    parser.reader.attach(link);
    const std::uint32_t messages = 200;
    const auto stream = make_stream(random, messages, 100'000);
    const std::uint64_t piece_max = random.chance(2) ? 64 : 200'000;
    std::size_t at = 0;
    while (at < stream.size()) {
      const auto into = parser.reader.receive_buffer();
      if (into.empty()) {  // the pool is dry: slices hold it all
        REQUIRE(!parser.kept.empty());
        const int before = link.resumes;
        while (link.resumes == before) parser.drop_kept();
        continue;
      }
      const std::size_t bytes =
          std::min({into.size(), stream.size() - at, random.between(1, piece_max)});
      std::memcpy(into.data(), stream.data() + at, bytes);
      at += bytes;
      parser.reader.received(bytes);
      parser.parse();
      if (!parser.kept.empty() && random.chance(3)) parser.drop_kept();
    }
    if (parser.in_payload) CHECK(parser.take_payload());  // of an empty or just filled last payload
    CHECK(parser.next_number == messages);
    while (!parser.kept.empty()) parser.drop_kept();
    parser.reader.detach();
    CHECK(pool.free_count() == pool.count());
  }
}

TEST_CASE("a large payload is received straight into its place") {
  BufferPool pool(69'632, 2);
  StreamReader reader(pool);
  std::vector<std::byte> payload(262'144);
  auto into = reader.receive_buffer();
  reader.received(100);
  REQUIRE(reader.peek(28));
  reader.consume(28);
  CHECK_FALSE(reader.read_into(payload));
  into = reader.receive_buffer();
  CHECK(into.data() == payload.data() + 72);
  CHECK(into.size() == payload.size() - 72);
  reader.received(into.size());
  CHECK_FALSE(reader.busy());
  // The next header is awaited with a short receive, so that little of its payload needs copying.
  CHECK(reader.receive_buffer().size() == 4096);
  reader.received(28);
  CHECK(reader.receive_buffer().size() > 4096);
  reader.detach();
}

TEST_CASE("a parser that stops pauses the link instead of overrunning the buffer") {
  BufferPool pool(4096, 2);
  StreamReader reader(pool);
  const auto into = reader.receive_buffer();
  reader.received(into.size());
  REQUIRE(reader.peek(100));
  CHECK(reader.receive_buffer().empty());
  reader.consume(4000);
  REQUIRE(reader.peek(96));
  CHECK(reader.receive_buffer().empty());
  CHECK_FALSE(reader.peek(97));
  CHECK_FALSE(reader.receive_buffer().empty());
  reader.detach();
}

TEST_CASE("a reader that ends while woken leaves the buffer to the next one") {
  BufferPool pool(4096, 1);
  BufferRef only = pool.get();
  StreamReader a(pool), b(pool);
  FakeLink link_a, link_b;
  a.attach(link_a);
  b.attach(link_b);
  CHECK(a.receive_buffer().empty());
  CHECK(b.receive_buffer().empty());
  only.reset();
  CHECK(link_a.resumes == 1);
  CHECK(link_b.resumes == 0);
  a.detach();
  CHECK(link_b.resumes == 1);
  CHECK_FALSE(b.receive_buffer().empty());
  b.detach();
}
