// The channel to another host: one outgoing link, kept up, shared by all of this host's volumes.
//
// Life of the link: connecting -> greeting -> up -> (lost) -> backing off -> connecting. Requests
// are matched to answers by a slot number; at most kSlots are under way, later ones wait in order.
// No answer for timeout_us while one is due: the link is given up.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "io/link.h"
#include "io/loop.h"
#include "peer/completion_queue.h"
#include "peer/frame_reader.h"
#include "peer/peer_hub.h"
#include "peer/replica_client.h"

namespace blockd::peer {

struct ChannelConfig {
  Uuid cluster_id;
  Uuid own_host;
  Uuid peer_host;
  std::uint64_t timeout_us = 0;
  std::uint16_t wire_version_max = format::kWireVersionMax;
  HubWatcher* watcher = nullptr;
};

class RemoteChannel final : public ReplicaChannel, private io::LinkHandler, private FrameSink {
 public:
  RemoteChannel(io::Loop& loop, io::Network& network, CompletionQueue& completions,
                ChannelConfig config);
  ~RemoteChannel() override;

  void set_endpoint(const io::Endpoint& endpoint) noexcept;
  void close(std::function<void()> done);

  [[nodiscard]] bool connected() const noexcept override { return state_ == State::up; }
  [[nodiscard]] bool unreachable() const noexcept override { return unreachable_; }
  [[nodiscard]] std::uint16_t version() const noexcept override { return version_; }
  void submit(ReplicaOp& op) noexcept override;
  void fail() noexcept override;

 private:
  enum class State : std::uint8_t { idle, connecting, greeting, up, closing, backing_off };
  static constexpr std::uint32_t kSlots = 8192;
  static constexpr std::uint64_t kBackoffMinUs = 20'000;
  static constexpr std::uint64_t kBackoffMaxUs = 1'000'000;

  void connect() noexcept;
  void give_up() noexcept;
  void transmit(ReplicaOp& op) noexcept;
  static void verify(ReplicaOp& op) noexcept;
  void transmit_waiting() noexcept;
  [[nodiscard]] Error refusal(const format::Hello& hello) const noexcept;
  void tick() noexcept;
  void lose_link(Error reason) noexcept;
  static void item_sent(io::SendItem& item) noexcept;
  static void finish(ReplicaOp& op) noexcept;

  void connected() noexcept override;
  std::span<std::byte> receive_buffer() noexcept override;
  void received(std::size_t bytes) noexcept override;
  void closed(Error reason) noexcept override;
  Verdict on_hello(const format::Hello& hello) noexcept override;
  Verdict on_header(const format::FrameHeader& header, PayloadTarget& target) noexcept override;
  Verdict on_frame(const format::FrameHeader& header) noexcept override;

  io::Loop& loop_;
  io::Network& network_;
  CompletionQueue& completions_;
  ChannelConfig config_;
  io::Endpoint endpoint_;
  std::unique_ptr<io::Link> link_;
  State state_ = State::idle;
  bool unreachable_ = false;
  std::uint16_t version_ = 0;  // of the link that is up
  Error refused_ = Error::Ok;  // why, in the last greeting
  bool closing_for_good_ = false;
  std::function<void()> closed_;
  io::Timer timer_;
  std::uint64_t deadline_base_us_ = 0;  // last sign of life, or when one became due
  std::uint64_t backoff_us_ = kBackoffMinUs;
  FrameReader reader_;
  format::Hello hello_;
  io::SendItem hello_item_;
  std::vector<ReplicaOp*> slots_;
  std::vector<std::uint32_t> free_slots_;
  std::uint32_t due_count_ = 0;  // requests without an answer yet
  std::uint16_t round_ = 0;      // in the upper half of request ids: an old answer is recognised
  List<ReplicaOp> waiting_;
};

}  // namespace blockd::peer
