// Asks the replicas of a volume for what a snapshot shows, until one of them answers.
//
// Each ask is one read_view or list_view of one segment. It goes to the nearest member that is
// connected; to the next one when that one's medium fails; and waits, up to kIoTimeoutUs, while
// the members left are away. All on one loop's thread; asks belong to whoever made them.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <vector>

#include "engine/ops.h"
#include "engine/volume.h"
#include "io/loop.h"
#include "peer/list.h"
#include "peer/peer_hub.h"
#include "peer/replica_client.h"

namespace blockd::engine {

class ViewAsker;

struct ViewAsk {
  peer::ReplicaOp op;         // kind, first_block, block_count, data, data_bytes, crcs: the owner's
  std::uint32_t segment = 0;  // its place in the config
  // Never from inside ask(), but for an error found at once.
  void (*answered)(ViewAsk&, Error) noexcept = nullptr;
  void* owner = nullptr;

  // The asker's own.
  ViewAsker* asker = nullptr;
  MemberMask tried = 0;          // cannot give it
  MemberMask away = 0;           // could not just now
  std::uint32_t generation = 0;  // of the members that these speak of
  Error last_error = Error::Ok;
  std::uint64_t started_us = 0;
  peer::ListLink<ViewAsk> link;
};

class ViewAsker {
 public:
  ViewAsker(io::Loop& loop, peer::PeerHub& hub, Uuid volume, Era era);
  ~ViewAsker();  // REQUIRES: idle()
  ViewAsker(const ViewAsker&) = delete;
  ViewAsker& operator=(const ViewAsker&) = delete;

  // Who is in sync there; a segment that is named again gets other members.
  void set_members(std::uint32_t segment, const std::vector<MemberConfig>& members);
  [[nodiscard]] std::size_t segment_count() const noexcept { return segments_.size(); }
  void ask(ViewAsk& ask) noexcept;
  // Asks that wait for members, and all later ones, end with ShuttingDown.
  void stop() noexcept;
  [[nodiscard]] bool idle() const noexcept { return under_way_ == 0 && waiting_.empty(); }

 private:
  struct Place {
    Uuid store;
    peer::ReplicaChannel* channel = nullptr;
  };
  struct SegmentMembers {
    std::uint32_t generation = 0;
    std::vector<Place> places;  // nearest first, at most kMembersMax
  };

  peer::ReplicaChannel& watched_channel(const Uuid& host);
  void send(ViewAsk& ask) noexcept;
  // kMembersMax: there is none now.
  [[nodiscard]] std::uint32_t choose(const ViewAsk& ask) const noexcept;
  void submit(ViewAsk& ask, std::uint32_t place) noexcept;
  static void op_done(peer::ReplicaOp& op) noexcept;
  void came_back(ViewAsk& ask) noexcept;
  void retry_waiting() noexcept;
  void end(ViewAsk& ask, Error error) noexcept;

  io::Loop& loop_;
  peer::PeerHub& hub_;
  Uuid volume_;
  Era era_;
  std::vector<SegmentMembers> segments_;
  std::map<Uuid, std::unique_ptr<peer::ChannelWatcher>> watchers_;
  peer::List<ViewAsk> waiting_;
  std::uint32_t under_way_ = 0;
  bool stopped_ = false;
  io::Task retry_task_;
  io::Timer retry_timer_;
};

}  // namespace blockd::engine
