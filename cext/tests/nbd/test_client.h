// An NBD client for tests: says what it is told, and sorts replies by cookie.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "io/link.h"
#include "tests/nbd/wire_text.h"

namespace blockd::nbd {

class TestClient final : public io::LinkHandler {
 public:
  struct Reply {
    Errno error = Errno::ok;
    std::string data;
  };

  TestClient(io::Network& network, const io::Endpoint& to) : link_(network.connect(to, *this)) {}

  void say(std::string text) {
    if (over) return;
    auto item = std::make_unique<Item>();
    item->text = std::move(text);
    item->send.iov[0] = {item->text.data(), item->text.size()};
    item->send.iov_count = 1;
    item->send.owner = item.get();
    item->send.done = [](io::SendItem& send) noexcept {
      static_cast<Item*>(send.owner)->sent = true;
    };
    while (!items_.empty() && items_.front()->sent) items_.pop_front();
    items_.push_back(std::move(item));
    link_->send(items_.back()->send);
  }
  // The handshake that every well-bred client makes.
  void go(const std::string& name) {
    say(client_flags() + option(Option::go, info_data(name, {3})));
  }

  void ask(Command type, std::uint64_t cookie, std::uint64_t offset_bytes,
           std::uint32_t length_bytes, std::uint16_t flags = 0, std::string payload = {}) {
    asked[cookie] = type == Command::read ? length_bytes : 0;
    say(request(type, cookie, offset_bytes, length_bytes, flags) + payload);
  }

  void close() { link_->close(); }
  // Stops (or goes on) taking what the server sends.
  void pause(bool paused) {
    paused_ = paused;
    if (!paused && !over) link_->resume();
  }

  [[nodiscard]] bool in_transmission() const { return in_transmission_; }
  std::vector<OptionAnswer> answers;  // to options so far
  std::map<std::uint64_t, std::uint32_t>
      asked;  // cookie -> bytes of data that a good reply carries
  std::map<std::uint64_t, Reply> replies;
  bool over = false;
  bool nonsense = false;  // the server sent what the protocol does not allow
  std::string input;      // not yet understood

 private:
  struct Item {
    std::string text;
    io::SendItem send;
    bool sent = false;
  };

  std::span<std::byte> receive_buffer() noexcept override {
    return paused_ ? std::span<std::byte>() : std::span<std::byte>(buffer_);
  }
  void received(std::size_t bytes) noexcept override {
    input.append(reinterpret_cast<const char*>(buffer_.data()), bytes);
    if (!greeted_ && input.size() >= kGreetingBytes) {
      nonsense = nonsense || !input.starts_with(be(kInitMagic) + be(kOptionMagic));
      input.erase(0, kGreetingBytes);
      greeted_ = true;
    }
    if (greeted_ && !in_transmission_) take_answers();
    if (in_transmission_) take_replies();
  }
  void closed(Error) noexcept override { over = true; }

  void take_answers() {
    for (OptionAnswer& answer : take_option_answers(input)) {
      in_transmission_ =
          in_transmission_ ||
          (answer.option == static_cast<std::uint32_t>(Option::go) && answer.is(OptionReply::ack));
      answers.push_back(std::move(answer));
    }
  }
  void take_replies() {
    std::size_t at = 0;
    while (!nonsense && input.size() - at >= kSimpleReplyBytes) {
      const auto error = static_cast<Errno>(from_be<std::uint32_t>(input, at + 4));
      const auto cookie = from_be<std::uint64_t>(input, at + 8);
      const auto found = asked.find(cookie);
      nonsense = from_be<std::uint32_t>(input, at) != kSimpleReplyMagic || found == asked.end();
      if (nonsense) return;
      const std::size_t data_bytes = error == Errno::ok ? found->second : 0;
      if (input.size() - at < kSimpleReplyBytes + data_bytes) break;
      replies[cookie] = {error, input.substr(at + kSimpleReplyBytes, data_bytes)};
      asked.erase(found);
      at += kSimpleReplyBytes + data_bytes;
    }
    input.erase(0, at);
  }

  bool greeted_ = false;
  bool in_transmission_ = false;
  bool paused_ = false;
  std::vector<std::byte> buffer_ = std::vector<std::byte>(64 * 1024);
  std::deque<std::unique_ptr<Item>> items_;
  std::unique_ptr<io::Link> link_;
};

}  // namespace blockd::nbd
