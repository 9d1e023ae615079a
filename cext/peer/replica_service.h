// The replicas of one host: openings, fencing, leases; the one door for local and remote engines.
//
// Guarantees (docs/REPLICATION.md):
//  * F1  Once an opening with epoch E came, no lower epoch's mutation or heartbeat is taken; once
//  it
//        was answered that holds across a crash (the store's promise).
//  * F2  It is answered only when no lease granted to a lower epoch can be alive. A service that
//  has
//        just started forgot its grants: it waits one lease before it promises a higher epoch.
//  * F3  An opening ends the one before it: operations of the earlier are refused, even when they
//        come later through a link that was slow to die.
// Snapshots are read and listed without an opening: what they show no engine changes.
// Sessions: one a link, one for this host's engines. All on the loop's thread.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <unordered_map>
#include <utility>
#include <vector>

#include "blockd/types.h"
#include "io/loop.h"
#include "peer/completion_queue.h"
#include "peer/replica.h"
#include "peer/replica_client.h"
#include "peer/view_cache.h"

namespace blockd::peer {

struct Session {
  struct Slot {
    Replica* replica = nullptr;
    std::uint16_t generation = 0;
  };
  std::vector<Slot> slots;
  std::vector<std::uint32_t> free_slots;
  bool closed = false;
};

class ReplicaService {
 public:
  ReplicaService(io::Loop& loop, CompletionQueue& completions, std::uint64_t lease_us) noexcept
      : loop_(loop),
        completions_(completions),
        lease_us_(lease_us),
        started_us_(loop.now_us()),
        views_(loop) {}

  void add_store(store::Store& store);
  void remove_store(const Uuid& store_id);
  void close_session(Session& session) noexcept;
  void close_views() noexcept { views_.drop_all(); }

  // `op` completes through op.done, never from inside.
  void submit(Session& session, ReplicaOp& op) noexcept;

  // For Replica.
  void complete(ReplicaOp& op) noexcept { op.done(op); }
  void complete_later(ReplicaOp& op, Error error) noexcept { completions_.push(op, error); }
  void replica_idle(ReplicaOp& op) noexcept;
  [[nodiscard]] bool still_open(const ReplicaOp& op) const noexcept;
  // How long the newest lease on the volume lives from now; 0: no engine has one here.
  [[nodiscard]] std::uint64_t lease_left_us(const Uuid& volume) const noexcept;

 private:
  struct Grant {
    std::uint64_t epoch = 0;           // who holds it
    std::uint64_t until_us = 0;        // on this host's clock
    std::uint64_t older_until_us = 0;  // the last that was granted to an epoch before that one
    std::uint64_t fence = 0;           // lower epochs get nothing any more
  };

  void open(Session& session, ReplicaOp& op) noexcept;
  void open_segment(ReplicaOp& op);
  void promised(ReplicaOp& op, Error error) noexcept;
  void heartbeat(ReplicaOp& op) noexcept;
  void release(ReplicaOp& op) noexcept;
  void read_view(ReplicaOp& op);
  static void view_read_done(store::StoreOp& store_op) noexcept;
  void list_view(ReplicaOp& op);
  void submit_to_replica(Session& session, ReplicaOp& op) noexcept;
  [[nodiscard]] Error check_extent(Replica& replica, const ReplicaOp& op) noexcept;
  [[nodiscard]] Error check_mutation(Replica& replica, const ReplicaOp& op) noexcept;
  [[nodiscard]] std::uint64_t lease_wait_us(const ReplicaOp& op, std::uint64_t promised) noexcept;
  [[nodiscard]] Replica* lookup(const Session& session, std::uint32_t handle) const noexcept;
  [[nodiscard]] Grant& grant_of(const Uuid& volume);
  [[nodiscard]] Replica& replica_at(const Uuid& store_id, SegmentId id);
  static void detach_writer(Replica& replica) noexcept;
  static std::uint32_t attach_writer(Replica& replica, Session& session, std::uint64_t epoch);

  io::Loop& loop_;
  CompletionQueue& completions_;
  std::uint64_t lease_us_;
  std::uint64_t started_us_;
  ViewCache views_;
  std::map<Uuid, store::Store*> stores_;
  std::map<std::pair<Uuid, SegmentId>, std::unique_ptr<Replica>> replicas_;
  std::unordered_map<Uuid, Grant> grants_;
};

}  // namespace blockd::peer
