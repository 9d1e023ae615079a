// The fuzzer's harness without the fuzzer: thousands of random and mutated scripts, the same each
// time.
#include <doctest/doctest.h>

#include <algorithm>
#include <vector>

#include "tests/nbd/connection_harness.h"

using namespace blockd;
using namespace blockd::nbd;

namespace {

using Script = std::vector<std::uint8_t>;

Script script_of(std::uint8_t bits, const std::string& rest) {
  Script script(2 + rest.size());
  script[0] = bits;
  std::copy(rest.begin(), rest.end(), script.begin() + 2);
  return script;
}

// Conversations that make sense, to be spoilt.
std::vector<Script> sensible() {
  const std::string shake = client_flags();
  const std::string go = option(Option::go, info_data("v", {0, 1, 2, 3}));
  const std::string talk =
      request(Command::write, 1, 511, 5000) + std::string(5000, 'x') +
      request(Command::read, 2, 0, 300'000) + request(Command::flush, 3, 0, 0) +
      request(Command::write, 4, 0, 270'000, kCommandFua) + std::string(270'000, 'y') +
      request(Command::trim, 5, 4096, 8192) + request(Command::write_zeroes, 6, 1, 100'000) +
      request(Command::write, 7, kRequestBytesMax, 100) + std::string(100, 'z') +
      request(Command::disconnect, 0, 0, 0);
  return {script_of(0, shake + option(Option::list) + option(Option::info, info_data("r")) +
                           option(8) + go + talk),
          script_of(0, client_flags(0) + option(Option::export_name, "v") + talk),
          script_of(0, shake + option(5, "tls") + option(Option::go, info_data("nobody")) +
                           option(Option::abort)),
          script_of(16, talk),
          script_of(17, talk + talk),
          script_of(0, shake + option(Option::go, info_data("r")) + talk)};
}

void spoil(Script& script, Random& random) {
  for (std::uint64_t edits = random.below(4); edits > 0 && script.size() > 2; --edits) {
    const std::size_t at = 2 + random.below(std::min<std::size_t>(
                                   script.size() - 2, random.chance(2) ? 200 : 1 << 20));
    switch (random.below(4)) {
      case 0:
        script[at] = static_cast<std::uint8_t>(random.next());
        break;
      case 1:
        script[at] ^= static_cast<std::uint8_t>(1u << random.below(8));
        break;
      case 2:
        script.resize(at);
        break;
      case 3:
        script.erase(script.begin() + static_cast<std::ptrdiff_t>(at));
        break;
    }
  }
}

}  // namespace

TEST_CASE("built requests are each answered once, in any order of events and under any scarcity") {
  Random random(2024);
  std::uint64_t answered = 0;
  for (int run = 0; run < 3000; ++run) {
    CAPTURE(run);
    Script script(2 + 8 * random.below(40));
    random.fill(std::as_writable_bytes(std::span(script)));
    script[0] |= 8;
    ConnectionHarness harness(script);
    harness.run();
    answered += harness.requests_answered();
  }
  CHECK(answered > 20'000);
}

TEST_CASE("no bytes that a client can send do harm") {
  Random random(7);
  const std::vector<Script> starts = sensible();
  for (int run = 0; run < 3000; ++run) {
    CAPTURE(run);
    Script script = starts[random.below(starts.size())];
    script[0] = static_cast<std::uint8_t>((script[0] & 0x18) | (random.next() & ~0x18u));
    script[1] = static_cast<std::uint8_t>(random.next());
    spoil(script, random);
    ConnectionHarness harness(script);
    harness.run();
  }
}
