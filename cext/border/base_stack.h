// The snapshots beneath a volume, or beneath a snapshot: each one's reader, and the layer that
// joins it to what is above it.
//
// A base may have a base itself (the snapshot of a clone), and so on downwards. All on one loop's
// thread.
#pragma once

#include <functional>
#include <memory>

#include "base/buffer.h"
#include "engine/layered.h"
#include "engine/snapshot_reader.h"
#include "io/loop.h"
#include "peer/peer_hub.h"

namespace blockd::border {

// What shows through where the layer above has nothing of its own.
struct BaseSpec {
  engine::SnapshotConfig snapshot;       // the base
  engine::BaseRules rules;               // what of the layer above is its own
  std::shared_ptr<const BaseSpec> base;  // beneath the snapshot; null: nothing
};

// A snapshot that can be read under an id of its own.
struct SnapshotSpec {
  Uuid id;
  std::string name;
  engine::SnapshotConfig snapshot;
  std::shared_ptr<const BaseSpec> base;
};

class BaseStack {
 public:
  // `upper` outlives it. `upper_changes`: it is a volume; what it shows is a snapshot otherwise.
  BaseStack(io::Loop& loop, Buffers& buffers, peer::PeerHub& hub, engine::BlockBackend& upper,
            bool upper_changes, const BaseSpec& spec);

  [[nodiscard]] engine::Layered& top() noexcept { return *layered_; }
  // From the lowest base upwards. The error is the first one's.
  void open(engine::Layered::Lister list_upper, std::function<void(Error)> done);
  // Of whichever of them is a snapshot of that volume.
  void members_changed(const Uuid& volume, const engine::SegmentConfig& segment);
  // Requests that wait are failed, the others answered. It may be destroyed after `done`, which
  // comes from the loop, once `upper` has answered as well.
  void close(std::function<void()> done);

 private:
  [[nodiscard]] engine::BlockBackend& base_backend() noexcept;
  void list_base(engine::Layered::Take take, std::function<void(Error)> done);
  void open_layer(std::function<void(Error)> done);
  void part_closed();

  Uuid volume_;  // that the base is a snapshot of
  std::unique_ptr<engine::SnapshotReader> reader_;
  std::unique_ptr<BaseStack> below_;  // null: the base has none itself
  std::unique_ptr<engine::Layered> layered_;
  engine::Layered::Lister list_upper_;
  unsigned parts_open_ = 0;
  std::function<void()> closed_;
};

}  // namespace blockd::border
