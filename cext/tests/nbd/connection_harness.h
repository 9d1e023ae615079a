// Runs one server and one client from a script of arbitrary bytes: for the fuzzer, and for the test
// suite, which feeds it random and mutated scripts.
//
//   script[0]   bits: 0 scarce memory, 1 slow backend, 2 failing backend, 3 requests are built from
//   the
//               rest (else the rest is sent as it is), 4 the client shakes hands first, 5 the
//               client ends it, else the server
//   script[1]   seeds the order of events and the sizes of receives
//   the rest    raw bytes, or 8 bytes a request: command, flags, cookie, offset x 2, length x 2,
//   payload
//
// Checked throughout by the asserts of everything involved; at the end all memory must be back, and
// when requests were built, each must have had exactly one reply unless the link ended first.
#pragma once

#include <map>
#include <span>
#include <string>

#include "nbd/nbd_server.h"
#include "tests/nbd/fake_link.h"
#include "tests/nbd/memory_backend.h"
#include "tests/nbd/wire_text.h"

namespace blockd::nbd {

class ConnectionHarness {
 public:
  explicit ConnectionHarness(std::span<const std::uint8_t> script)
      : bits_(script.empty() ? 0 : script[0]),
        random_(script.size() > 1 ? script[1] : 0),
        loop_(random_.next()),
        buffers_(bit(0) ? 2 : 8, bit(0) ? 5 : 16, bit(0) ? 6 : 24),
        backend_(loop_, kVolumeBytes,
                 {.seed = random_.next(),
                  .delay_us_max = bit(1) ? 500u : 0u,
                  .error_one_in = bit(2) ? 5u : 0u,
                  .refuse_one_in = bit(2) ? 7u : 0u,
                  .linger_one_in = bit(0) ? 0u : 4u}),
        server_(loop_, buffers_, network_,
                {.connections_max = 2,
                 .requests_max = bit(0) ? 3u : 16u,
                 .inflight_bytes_max = 1 << 20}) {
    BLOCKD_ASSERT(server_.add_export("v", "a volume", backend_) == Error::Ok);
    BLOCKD_ASSERT(server_.add_export("r", "", backend_, {.read_only = true}) == Error::Ok);
    (void)server_.listen("fake");
    far_ = network_.arrive();
    BLOCKD_ASSERT(far_ != nullptr);
    const auto rest = script.subspan(std::min<std::size_t>(2, script.size()));
    if (bit(4) || bit(3)) far_->inbound = client_flags() + option(Option::go, info_data("v"));
    if (bit(3)) {
      build(rest);
    } else {
      far_->inbound.append(reinterpret_cast<const char*>(rest.data()), rest.size());
    }
  }

  void run() {
    play();
    if (bit(3)) check_replies();
    finish();
    BLOCKD_ASSERT(server_.stats().connections == 0);
    backend_.let_go();
    BLOCKD_ASSERT(buffers_.small.free_count() == buffers_.small.count());
    BLOCKD_ASSERT(buffers_.chunk.free_count() == buffers_.chunk.count());
    BLOCKD_ASSERT(buffers_.large.free_count() == buffers_.large.count());
  }

  [[nodiscard]] std::uint64_t requests_answered() const { return server_.stats().requests; }

 private:
  static constexpr std::uint64_t kVolumeBytes =
      600 * 1024 + 512;  // ends within a block, spans three pieces

  [[nodiscard]] bool bit(unsigned index) const noexcept { return (bits_ >> index & 1) != 0; }

  void build(std::span<const std::uint8_t> script) {
    for (std::uint64_t index = 0; script.size() >= 8 && index < 64;
         ++index, script = script.subspan(8)) {
      const auto type = static_cast<Command>(script[0] % 9);
      const auto flags = static_cast<std::uint16_t>(script[1] % 8 == 0 ? script[1] : script[1] % 2);
      const std::uint64_t cookie = index << 8 | script[2];
      const std::uint64_t offset = std::uint64_t{script[3]} << (script[4] % 13) | script[4] / 13;
      const std::uint32_t length = std::uint32_t{script[5]} << (script[6] % 13);
      if (type == Command::disconnect && script[2] != 0) continue;  // now and then is enough
      std::string text = request(type, cookie, offset, length, flags);
      if (type == Command::write) text.append(length, static_cast<char>(script[7]));
      far_->inbound += text;
      if (type == Command::disconnect) return;
      asked_[cookie] = type == Command::read ? length : 0;
    }
  }

  // Lets things happen in a random order until nothing can happen any more.
  void play() {
    for (bool moved = true; moved && !far_->over;) {
      for (int act = 0; act < 8 && !far_->over; ++act) one_act();
      loop_.advance(100);
      settle();
      moved = far_->receive(1 + random_.below(100'000)) || far_->take_one_send() ||
              backend_.in_flight() > 0;
      settle();
    }
  }

  void one_act() {
    switch (random_.below(4)) {
      case 0:
        (void)far_->receive(1 + random_.below(random_.chance(2) ? 40 : 100'000));
        break;
      case 1:
        (void)far_->take_one_send();
        break;
      case 2:
        loop_.advance(random_.below(300));
        break;
      case 3:
        break;
    }
    if (random_.chance(2)) settle();
  }

  void settle() {
    loop_.run_tasks();
    if (far_->closing && !far_->first) far_->end(Error::Ok);
  }

  void check_replies() {
    std::string text = far_->outbound;
    BLOCKD_ASSERT(text.starts_with(be(kInitMagic) + be(kOptionMagic)));
    text.erase(0, kGreetingBytes);
    const auto answers = take_option_answers(text);
    BLOCKD_ASSERT(answers.size() == 2 && answers[1].is(OptionReply::ack));
    std::size_t at = 0;
    while (at < text.size()) {
      BLOCKD_ASSERT(text.size() - at >= kSimpleReplyBytes);
      BLOCKD_ASSERT(from_be<std::uint32_t>(text, at) == kSimpleReplyMagic);
      const auto found = asked_.find(from_be<std::uint64_t>(text, at + 8));
      BLOCKD_ASSERT(found != asked_.end());
      const bool good = from_be<std::uint32_t>(text, at + 4) == 0;
      at += kSimpleReplyBytes + (good ? found->second : 0);
      asked_.erase(found);
    }
    BLOCKD_ASSERT(at == text.size());
    BLOCKD_ASSERT(asked_.empty());
  }

  void finish() {
    if (bit(5)) far_->end(Error::LinkLost);
    bool closed = false;
    server_.close([&closed] { closed = true; });
    for (int turn = 0; turn < 100 && !closed; ++turn) {
      loop_.run_tasks();
      while (random_.chance(2) && far_->take_one_send()) {
      }
      loop_.advance(200'000);
      if (far_->closing) far_->end(Error::Ok);
      loop_.run_tasks();
    }
    BLOCKD_ASSERT(closed);
  }

  std::uint8_t bits_;
  Random random_;
  FakeLoop loop_;
  FakeNetwork network_;
  Buffers buffers_;
  MemoryBackend backend_;
  NbdServer server_;
  std::shared_ptr<FakeLink::Far> far_;
  std::map<std::uint64_t, std::uint32_t> asked_;
};

}  // namespace blockd::nbd
