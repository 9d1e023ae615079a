// One replica as its host serves it: what orders mutations, flushes and openings of one segment.
//
// Guarantees (docs/REPLICATION.md):
//  * Mutations go to the store in the order they came, and only from the engine that opened last.
//  * A flush covers every mutation that came before it: it is handed to the store once they are
//  done.
//  * An opening is answered once the mutations of earlier openings are done and their refusal is
//  sure.
//  * After a mutation failed no later one is taken until the replica is opened anew: a chunk's
//  version
//    never stands for a history with a hole (I1).
#pragma once

#include <cstdint>

#include "peer/replica_client.h"
#include "store/store.h"

namespace blockd::peer {

class Replica {
 public:
  Replica(store::Store& store, Uuid store_id, SegmentId id) noexcept
      : store_(&store), store_id_(store_id), id_(id) {}

  // REQUIRES: the caller has checked that the operation's session is this replica's writer.
  void submit_mutation(ReplicaOp& op) noexcept;
  void submit_flush(ReplicaOp& op) noexcept;
  void submit_read(ReplicaOp& op) noexcept;
  // False: there is nothing to read, op.error says whether that is the answer: the caller gives it.
  // What was found of the content is set.
  [[nodiscard]] bool submit_read_chunk(ReplicaOp& op) noexcept;
  void submit_root(ReplicaOp& op) noexcept;
  // Calls service.replica_idle(op) once every mutation taken so far is done.
  void await_idle(ReplicaOp& op) noexcept;
  void list(ReplicaOp& op) const noexcept;
  void list_states(ReplicaOp& op) const noexcept;
  void list_digests(ReplicaOp& op) const noexcept;
  // The chunks that the segment, or a view, shows.
  static void list_chunks(const store::Store& store, store::SegmentHandle shown,
                          ReplicaOp& op) noexcept;

  [[nodiscard]] bool attached() const noexcept { return store_ != nullptr && segment_known_; }
  [[nodiscard]] bool idle() const noexcept {
    return outstanding_.empty() && flushes_.empty() && waiting_open_.empty() && reads_ == 0 &&
           flushing_ == 0;
  }
  // Looks the segment up again; false: the store does not hold it (any more).
  bool refresh() noexcept;
  void detach_store() noexcept { store_ = nullptr; }

  [[nodiscard]] store::Store& store() noexcept { return *store_; }
  [[nodiscard]] const Uuid& store_id() const noexcept { return store_id_; }
  [[nodiscard]] const SegmentId& id() const noexcept { return id_; }
  [[nodiscard]] store::SegmentHandle segment() const noexcept { return segment_; }
  [[nodiscard]] std::uint32_t block_count() const noexcept { return block_count_; }

  // The one opening that may mutate: a place in a session's table.
  Session* writer = nullptr;
  std::uint32_t writer_slot = 0;
  std::uint64_t writer_epoch = 0;
  std::uint64_t last_seq = 0;  // of that opening
  Era last_era = 0;
  bool failed = false;  // a mutation of that opening has failed

 private:
  static void mutation_done(store::StoreOp& store_op) noexcept;
  static void flush_done(store::StoreOp& store_op) noexcept;
  static void read_done(store::StoreOp& store_op) noexcept;
  static void root_done(store::StoreOp& store_op) noexcept;
  void fill(ReplicaOp& op, store::StoreOp::Op what) noexcept;
  void start_flush(ReplicaOp& op) noexcept;
  void mutation_left(ReplicaOp& op) noexcept;
  void close_view(ReplicaOp& op) noexcept;
  void chunk_was_read(ReplicaOp& op, store::SegmentHandle shown) noexcept;
  static void find_damage(ReplicaOp& op) noexcept;
  void list_with_past(ReplicaOp& op) const noexcept;
  void find_content(ReplicaOp& op, store::SegmentHandle shown) const noexcept;

  store::Store* store_;
  Uuid store_id_;
  SegmentId id_;
  store::SegmentHandle segment_ = 0;
  std::uint32_t block_count_ = 0;
  bool segment_known_ = false;
  std::uint64_t arrivals_ = 0;
  std::uint32_t reads_ = 0;
  std::uint32_t flushing_ = 0;
  List<ReplicaOp> outstanding_;   // mutations the store has, oldest first
  List<ReplicaOp> flushes_;       // waiting for mutations before them
  List<ReplicaOp> waiting_open_;  // openings, likewise
};

}  // namespace blockd::peer
