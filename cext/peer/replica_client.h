// How an engine speaks to one host's replicas, its own host's or another's: operations on a
// channel.
//
// A channel delivers operations in the order of submit() and completes each exactly once through
// done(), never from inside submit(). When its link breaks, the watchers are told first, then every
// operation under way completes with LinkLost. A mutation that failed may or may not have happened.
//
// An operation, its data and its CRCs belong to the channel until done(). Nothing here allocates.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "base/buffer.h"
#include "blockd/errors.h"
#include "blockd/types.h"
#include "format/wire.h"
#include "io/link.h"
#include "peer/list.h"
#include "store/store.h"

namespace blockd::peer {

class Replica;
struct CachedView;
class ReplicaService;
struct Session;

struct ReplicaOp {
  enum class Kind : std::uint8_t {
    open,  // segment, store, version.epoch, block_count, may_create
           //   -> handle, stable, block_count, era = the newest that the replica has met;
           //   LeaseHeld: wait_us
    list,  // handle, first_block = first chunk, version = above, data[data_bytes] of ChunkEntry
           //   -> block_count entries: chunks whose current or any past content is above
    read,  // handle, first_block, block_count, data -> data, crcs (may be null)
    read_chunk,  // handle, first_block = the chunk's first, era (0: current), data, crcs
                 // -> the same, version, valid_mask, era = born, died, covers
    write,       // handle, version, era, covers, first_block, block_count, data, crcs, fua
    zero,        // handle, version, era, covers, first_block, block_count, fua
    replace,     // handle, version, era = born, died (0: the current content), covers,
                 // first_block = the chunk's first, valid_mask, data, crcs
    flush,       // handle: every mutation submitted before is durable
    stable,      // handle, stable
    heartbeat,   // segment.volume, version.epoch -> lease_us, full
    release,     // segment.volume, version.epoch: the lease is given back
    forget,      // handle, version, first_block = the chunk's first: that past content goes
    states,      // handle, first_block = first chunk, version = above (of that chunk's versions),
                 // data[data_bytes] of ChunkEntry -> block_count entries, current and past
    read_view,   // segment, store, era, first_block, block_count, data -> data, crcs; of a
                 // snapshot, without an opening; era 0: of the current state
    list_view,   // segment, store, era, first_block = first chunk, data[data_bytes] of ChunkEntry
                 // -> block_count entries; likewise. NotFound: no replica there
    root,        // handle -> root: of every mutation submitted before, and of no other
    digests,     // handle, first_block = first chunk, data[data_bytes] of ChunkEntry
                 // -> block_count entries: current contents that hold data, died = their digests
  };
  Kind kind = Kind::read;
  bool fua = false;
  bool may_create = false;
  bool covers = false;  // as in store::StoreOp
  Error error = Error::Ok;
  std::uint32_t handle = 0;
  std::uint32_t first_block = 0;
  std::uint32_t block_count = 0;
  std::uint16_t valid_mask = 0;
  std::uint16_t damaged =
      0;  // read_chunk answered with ChecksumMismatch: these blocks do not match
          // their CRCs; everything else of the answer is there. 0: nothing is
  Era era = 0;
  Era died = 0;
  Version version;
  format::Root root;
  Version stable;  // rides on every request with a handle
  SegmentId segment;
  Uuid store;
  std::byte* data = nullptr;
  std::uint32_t data_bytes = 0;  // list: capacity
  std::uint32_t* crcs = nullptr;
  BufferRef hold;
  std::uint64_t wait_us = 0;   // open refused with LeaseHeld: how long at most
  std::uint64_t lease_us = 0;  // heartbeat: what was granted, from its receipt
  bool full = false;           // heartbeat: a store there is nearly full, writes should stop
  void (*done)(ReplicaOp&) noexcept = nullptr;
  void* owner = nullptr;
  std::uint32_t tag = 0;      // the owner's: which member
  std::uint32_t session = 0;  // the owner's: which life of that member

  // The channel's own.
  ListLink<ReplicaOp> link;
  store::StoreOp store_op;
  ReplicaService* service = nullptr;
  Replica* replica = nullptr;
  Session* opened_by = nullptr;
  store::SegmentHandle view = store::Store::kNoView;  // read_chunk of an era: closed with it
  CachedView* cached_view = nullptr;                  // read_view
  std::uint64_t arrival = 0;
  io::SendItem item;
  std::uint32_t request_id = 0;
  bool sent = false;
  bool answered = false;
  struct Frame {
    format::FrameHeader header;
    std::array<std::uint32_t, format::kWireBlocksMax> tail;  // CRCs, or a small body
  } frame;
};

[[nodiscard]] constexpr bool is_mutation(ReplicaOp::Kind kind) noexcept {
  return kind == ReplicaOp::Kind::write || kind == ReplicaOp::Kind::zero ||
         kind == ReplicaOp::Kind::replace || kind == ReplicaOp::Kind::forget;
}
[[nodiscard]] constexpr bool is_read(ReplicaOp::Kind kind) noexcept {
  return kind == ReplicaOp::Kind::read || kind == ReplicaOp::Kind::read_view;
}
[[nodiscard]] constexpr bool is_listing(ReplicaOp::Kind kind) noexcept {
  return kind == ReplicaOp::Kind::list || kind == ReplicaOp::Kind::states ||
         kind == ReplicaOp::Kind::list_view || kind == ReplicaOp::Kind::digests;
}

// Told when a channel comes up or goes down. Owned by the watcher, which unwatches itself.
struct ChannelWatcher {
  void (*changed)(ChannelWatcher&, bool connected) noexcept = nullptr;
  void* owner = nullptr;
  ListLink<ChannelWatcher> link;
};

class ReplicaChannel {
 public:
  virtual ~ReplicaChannel() = default;
  [[nodiscard]] virtual bool connected() const noexcept = 0;
  // A try to connect has failed since the last success: nobody need wait for it.
  [[nodiscard]] virtual bool unreachable() const noexcept = 0;
  // Of the peer protocol; while connected. What a request needs, that a lower one does not have,
  // must not be sent.
  [[nodiscard]] virtual std::uint16_t version() const noexcept = 0;
  virtual void submit(ReplicaOp& op) noexcept = 0;
  // Give the link up (the host lags or hangs); it connects anew. Nothing to do for the local host.
  virtual void fail() noexcept = 0;

  void watch(ChannelWatcher& watcher) noexcept { watchers_.push_back(watcher); }
  void unwatch(ChannelWatcher& watcher) noexcept {
    if (watcher.link.linked) watchers_.erase(watcher);
  }

 protected:
  void notify(bool up) noexcept {
    for (ChannelWatcher* watcher = watchers_.front(); watcher != nullptr;) {
      ChannelWatcher* next = List<ChannelWatcher>::next(*watcher);
      watcher->changed(*watcher, up);
      watcher = next;
    }
  }

 private:
  List<ChannelWatcher> watchers_;
};

}  // namespace blockd::peer
