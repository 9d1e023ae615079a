// The handshake alone, byte by byte: what each option is answered, and what ends the session.
#include "nbd/handshake.h"

#include <doctest/doctest.h>

#include <map>

#include "tests/nbd/wire_text.h"

using namespace blockd;
using namespace blockd::nbd;

namespace {

class Directory final : public ExportDirectory {
 public:
  const ExportInfo* find(std::string_view name) const noexcept override {
    const auto found = exports.find(name);
    return found == exports.end() ? nullptr : &found->second;
  }
  const ExportInfo* at(std::size_t index) const noexcept override {
    for (const auto& [name, info] : exports) {
      if (index-- == 0) return &info;
    }
    return nullptr;
  }
  bool shutting_down() const noexcept override { return stopping; }

  void add(const std::string& name, const std::string& description = "",
           std::uint64_t size_bytes = 1 << 20) {
    exports[name] =
        ExportInfo{name, description, size_bytes, kHasFlags | kSendFlush, kRequestBytesMax};
  }

  std::map<std::string, ExportInfo, std::less<>> exports;
  bool stopping = false;
};

// Drives a handshake with input that arrives `piece_bytes` at a time.
struct Talk {
  explicit Talk(const Directory& directory, std::size_t piece_bytes_ = ~std::size_t{0})
      : handshake(directory), piece_bytes(piece_bytes_) {
    ByteWriter writer({buffer.data(), buffer.size()});
    handshake.greet(writer);
    output.append(reinterpret_cast<const char*>(buffer.data()), writer.size());
  }

  void say(std::string text) {
    while (!text.empty() && !over()) {
      const std::size_t bytes = std::min(piece_bytes, text.size());
      pending += text.substr(0, bytes);
      text.erase(0, bytes);
      run();
    }
  }
  void run() {
    while (!over()) {
      ByteWriter writer({buffer.data(), buffer.size()});
      const Handshake::Step step = handshake.advance(as_bytes(pending), writer);
      pending.erase(0, step.consumed_bytes);
      output.append(reinterpret_cast<const char*>(buffer.data()), writer.size());
      next = step.next;
      if (next == Handshake::Next::input) return;
    }
  }
  [[nodiscard]] bool over() const {
    return next == Handshake::Next::close || next == Handshake::Next::transmission;
  }
  [[nodiscard]] bool closed() const { return next == Handshake::Next::close; }
  std::vector<OptionAnswer> answers() {
    if (output.starts_with(be(kInitMagic))) output.erase(0, kGreetingBytes);
    return take_option_answers(output);
  }

  Handshake handshake;
  std::size_t piece_bytes;
  std::array<std::byte, Handshake::kOutputBytesMax> buffer{};
  std::string pending;
  std::string output;
  Handshake::Next next = Handshake::Next::input;
};

}  // namespace

TEST_CASE("the greeting offers fixed newstyle without zeroes") {
  Directory directory;
  const Talk talk(directory);
  CHECK(talk.output == be(kInitMagic) + be(kOptionMagic) + be(std::uint16_t{3}));
}

TEST_CASE("unknown client flags end the session") {
  Directory directory;
  Talk talk(directory);
  talk.say(client_flags(4 | kClientFixedNewstyle));
  CHECK(talk.closed());
}

TEST_CASE("a wrong option magic ends the session as soon as it is seen") {
  Directory directory;
  Talk talk(directory);
  talk.say(client_flags() + be(kOptionMagic + 1));
  CHECK(talk.closed());
}

TEST_CASE("GO answers with the export's information, whatever the splits") {
  Directory directory;
  directory.add("vol", "a volume", 12345678);
  for (const std::size_t piece_bytes :
       {std::size_t{1}, std::size_t{3}, std::size_t{17}, ~std::size_t{0}}) {
    Talk talk(directory, piece_bytes);
    talk.say(client_flags() + option(Option::go, info_data("vol", {1, 2, 3, 77})));
    REQUIRE(talk.next == Handshake::Next::transmission);
    CHECK(talk.handshake.negotiated().export_info == directory.find("vol"));
    const auto answers = talk.answers();
    REQUIRE(answers.size() == 5);
    for (std::size_t i = 0; i < 4; ++i) CHECK(answers[i].is(OptionReply::info));
    CHECK(answers[0].data == be(std::uint16_t{0}) + be(std::uint64_t{12345678}) +
                                 be(std::uint16_t{kHasFlags | kSendFlush}));
    CHECK(answers[1].data == be(std::uint16_t{1}) + "vol");
    CHECK(answers[2].data == be(std::uint16_t{2}) + "a volume");
    CHECK(answers[3].data == be(std::uint16_t{3}) + be(1u) + be(4096u) + be(kRequestBytesMax));
    CHECK(answers[4].is(OptionReply::ack));
    CHECK(talk.output.empty());  // no padding after GO
  }
}

TEST_CASE("INFO tells the same and goes on haggling") {
  Directory directory;
  directory.add("vol");
  Talk talk(directory);
  talk.say(client_flags() + option(Option::info, info_data("vol")));
  CHECK(talk.next == Handshake::Next::input);
  const auto answers = talk.answers();
  REQUIRE(answers.size() == 2);
  CHECK(answers[0].data.size() == 12);
  CHECK(answers[1].is(OptionReply::ack));
}

TEST_CASE("an unknown name is refused by GO and closes after EXPORT_NAME") {
  Directory directory;
  directory.add("vol");
  for (const std::string name : {"", "vo", "volume"}) {
    Talk talk(directory);
    talk.say(client_flags() + option(Option::go, info_data(name)));
    CHECK(talk.next == Handshake::Next::input);
    REQUIRE(talk.answers().at(0).is(OptionReply::err_unknown));
    talk.say(option(Option::export_name, name));
    CHECK(talk.closed());
    CHECK(talk.output.empty());
  }
}

TEST_CASE("EXPORT_NAME pads with zeroes unless told not to") {
  Directory directory;
  directory.add("vol", "", 4096);
  for (const bool no_zeroes : {false, true}) {
    Talk talk(directory);
    talk.say(client_flags(kClientFixedNewstyle | (no_zeroes ? kClientNoZeroes : 0)) +
             option(Option::export_name, "vol"));
    REQUIRE(talk.next == Handshake::Next::transmission);
    talk.output.erase(0, kGreetingBytes);
    CHECK(talk.output == be(std::uint64_t{4096}) + be(std::uint16_t{kHasFlags | kSendFlush}) +
                             std::string(no_zeroes ? 0 : 124, '\0'));
  }
}

TEST_CASE("LIST names every export with its description") {
  Directory directory;
  for (int i = 0; i < 100; ++i) directory.add("export" + std::to_string(i), std::string(4000, 'd'));
  Talk talk(directory);
  talk.say(client_flags() + option(Option::list));
  const auto answers = talk.answers();
  REQUIRE(answers.size() == 101);
  CHECK(answers[0].is(OptionReply::server));
  CHECK(answers[0].data == be(7u) + "export0" + std::string(4000, 'd'));
  CHECK(answers[100].is(OptionReply::ack));
  talk.say(option(Option::list, "x"));
  CHECK(talk.answers().at(0).is(OptionReply::err_invalid));
}

TEST_CASE("options of other features are answered as unsupported, with their data skipped") {
  Directory directory;
  Talk talk(directory, 1000);
  talk.say(client_flags());
  for (const std::uint32_t number : {4u, 5u, 8u, 9u, 10u, 11u, 0u, 0xffffffffu}) {
    talk.say(option(number, std::string(number * 7 % 20000, 'x')));
    const auto answers = talk.answers();
    REQUIRE(answers.size() == 1);
    CHECK(answers[0].is(OptionReply::err_unsup));
    CHECK(answers[0].option == number);
  }
  CHECK(talk.next == Handshake::Next::input);
}

TEST_CASE("hostile lengths: skipped, refused, or the end") {
  Directory directory;
  directory.add("vol");
  Talk talk(directory, 4096);
  talk.say(client_flags() + option(Option::go, std::string(100'000, '\0')));
  CHECK(talk.answers().at(0).is(OptionReply::err_too_big));
  talk.say(option(Option::go, be(0xffffffffu) + "vol" + be(std::uint16_t{0})));
  CHECK(talk.answers().at(0).is(OptionReply::err_invalid));
  talk.say(option(Option::go, be(3u) + "vol" + be(std::uint16_t{2}) + be(std::uint16_t{1})));
  CHECK(talk.answers().at(0).is(OptionReply::err_invalid));
  talk.say(option(Option::info, ""));
  CHECK(talk.answers().at(0).is(OptionReply::err_invalid));
  talk.say(option(Option::go, info_data(std::string(4097, 'n'))));
  CHECK(talk.answers().at(0).is(OptionReply::err_invalid));
  talk.say(be(kOptionMagic) + be(1u) + be(0xffffffffu));  // EXPORT_NAME has no way to refuse
  CHECK(talk.closed());
}

TEST_CASE("ABORT is acknowledged, then the server hangs up; its data does not matter") {
  Directory directory;
  for (const std::size_t data_bytes : {0u, 10u, 100'000u}) {
    Talk talk(directory, 5000);
    talk.say(client_flags() + option(Option::abort, std::string(data_bytes, 'x')));
    CHECK(talk.closed());
    CHECK(talk.handshake.aborted_by_client());
    CHECK(talk.answers().at(0).is(OptionReply::ack));
  }
}

TEST_CASE("a server that stops says so to every option but ABORT") {
  Directory directory;
  directory.add("vol");
  directory.stopping = true;
  Talk talk(directory);
  talk.say(client_flags() + option(Option::go, info_data("vol")) + option(Option::list));
  const auto answers = talk.answers();
  REQUIRE(answers.size() == 2);
  CHECK(answers[0].is(OptionReply::err_shutdown));
  CHECK(answers[1].is(OptionReply::err_shutdown));
  talk.say(option(Option::export_name, "vol"));
  CHECK(talk.closed());
}
