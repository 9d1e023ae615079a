// What a store keeps on its device, as one JSON document, for people who look into it.
//
// Reads only, like the checker; see inspection.h. Damage is shown, not judged.
#pragma once

#include <string>

#include "io/disk.h"
#include "store/store.h"

namespace blockd::store {

struct DumpOptions {
  bool superblock = false;  // both copies
  bool checkpoint = false;  // both copies of the record
  bool segments = false;    // the segment table, after replay
  bool journal = false;     // the batches that opening would replay
  bool chunks = false;      // the slot records of `segment`, after replay
  SegmentId segment = {};
};

// Throws Fault: StoreNotFormatted, StoreDamaged, StoreTooNew, NotFound (no such segment).
[[nodiscard]] std::string dump_store(io::Disk& disk, const DumpOptions& options);

}  // namespace blockd::store
