// Two ends of a conversation for link tests: Echo sends back what it hears, Talker checks it.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <vector>

#include "io/link.h"

namespace blockd::io::testing {

// The byte at place `at` of what a Talker says.
inline std::byte spoken(std::uint64_t at) noexcept {
  return static_cast<std::byte>((at * 2654435761u) >> 13);
}

struct Talker : LinkHandler {
  std::unique_ptr<Link> link;
  std::size_t buffer_bytes = 10'000;
  std::vector<std::byte> buffer = std::vector<std::byte>(10'000);
  struct Said {
    SendItem item;
    std::vector<std::byte> bytes;
    Talker* talker;
  };
  std::deque<Said> said;
  std::uint64_t said_bytes = 0, said_count = 0, done_count = 0, heard_bytes = 0;
  bool heard_well = true, is_connected = false, is_closed = false, paused = false;
  Error reason = Error::Busy;  // of closed(); a value that links never give before

  void say(std::size_t bytes) {
    Said& one = said.emplace_back();
    one.talker = this;
    for (std::size_t i = 0; i < bytes; ++i) one.bytes.push_back(spoken(said_bytes + i));
    said_bytes += bytes;
    ++said_count;
    const std::size_t half = bytes / 2;
    one.item.iov[0] = {one.bytes.data(), half};
    one.item.iov[1] = {one.bytes.data() + half, bytes - half};
    one.item.iov_count = 2;
    one.item.owner = &one;
    one.item.done = [](SendItem& item) noexcept {
      auto& it = *static_cast<Said*>(item.owner);
      ++it.talker->done_count;
      it.bytes.clear();
      it.bytes.shrink_to_fit();  // a link that still reads it is caught by ASan
    };
    link->send(one.item);
  }

  void connected() noexcept override { is_connected = true; }
  std::span<std::byte> receive_buffer() noexcept override {
    if (paused) return {};
    return {buffer.data(), buffer_bytes};
  }
  void received(std::size_t bytes) noexcept override {
    for (std::size_t i = 0; i < bytes; ++i)
      heard_well = heard_well && buffer[i] == spoken(heard_bytes + i);
    heard_bytes += bytes;
  }
  void closed(Error why) noexcept override {
    is_closed = true;
    reason = why;
  }
};

struct Echo : AcceptHandler {
  struct Guest : LinkHandler {
    std::unique_ptr<Link> link;
    Echo* echo = nullptr;
    static constexpr std::size_t kSlots = 8;
    struct Slot {
      SendItem item;
      std::vector<std::byte> bytes = std::vector<std::byte>(5000);
      bool busy = false;
      Guest* guest = nullptr;
    };
    std::array<Slot, kSlots> slots;
    Slot* lent = nullptr;

    Guest() {
      for (Slot& slot : slots) {
        slot.guest = this;
        slot.item.owner = &slot;
        slot.item.done = [](SendItem& item) noexcept {
          auto& mine = *static_cast<Slot*>(item.owner);
          mine.busy = false;
          mine.guest->link->resume();
        };
      }
    }
    std::span<std::byte> receive_buffer() noexcept override {
      for (Slot& slot : slots) {
        if (slot.busy) continue;
        lent = &slot;
        return slot.bytes;
      }
      return {};  // all being sent: pause, done() resumes
    }
    void received(std::size_t bytes) noexcept override {
      lent->busy = true;
      lent->item.iov[0] = {lent->bytes.data(), bytes};
      lent->item.iov_count = 1;
      link->send(lent->item);
    }
    void closed(Error) noexcept override { ++echo->closed_count; }
  };

  std::deque<Guest> guests;
  int closed_count = 0;
  bool refuse = false;

  LinkHandler* accepted(std::unique_ptr<Link> link) noexcept override {
    if (refuse) return nullptr;
    Guest& guest = guests.emplace_back();
    guest.link = std::move(link);
    guest.echo = this;
    return &guest;
  }
};

}  // namespace blockd::io::testing
