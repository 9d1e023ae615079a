// Where the regions of a store lie, computed once at format from the capacity.
#pragma once

#include "format/disk.h"
#include "store/store.h"

namespace blockd::store {

// Throws Fault(StoreTooSmall) when not even one segment's metadata and 16 chunks fit.
[[nodiscard]] format::Superblock plan_layout(std::uint64_t device_bytes,
                                             const FormatOptions& options);

// Writes an empty store: metadata pages, journal, checkpoint record, and the superblocks last.
void write_empty_store(io::Disk& disk, const format::Superblock& superblock,
                       std::uint64_t incarnation);

// The checked superblock of an existing store; throws the Faults of store.h.
[[nodiscard]] format::Superblock read_superblock(io::Disk& disk);
void check_compatible(const format::Superblock& superblock, const Uuid& cluster_id,
                      std::uint64_t device_bytes);
// To the newest version, durably; from then on older releases refuse it. REQUIRES: it was opened.
void bring_up(io::Disk& disk, format::Superblock superblock);

[[nodiscard]] std::string uuid_text(const Uuid& id);

}  // namespace blockd::store
