// Looks at every structure of a store that is not open and says what is wrong with it, and where.
//
// Reads only; the journal is replayed in memory. A repair rewrites a copy whose content is certain:
// it never guesses which of two states was the newer one and never drops anything. What it may do:
//  * a superblock copy, from the other one (both are written once, with the same content);
//  * a checkpoint record or metadata page copy in which exactly one bit has flipped: the one
//    whose return makes checksum and identity right again;
//  * a checkpoint record copy, from the other one, when the journal replays well from that;
//  * none of those that an interrupted checkpoint explains: opening the store rewrites them.
// docs/FORMATS.md, "Faults", says what each fault does to each structure.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "io/disk.h"
#include "store/store.h"

namespace blockd::store {

struct CheckOptions {
  bool data = false;    // read every stored block and compare its CRC
  bool repair = false;  // rewrite the copies named above
};

// -1 (and the nil volume) where it does not apply.
struct Place {
  std::int64_t device_offset = -1;
  std::int64_t copy = -1;
  std::int64_t page = -1;  // within its kind
  std::int64_t slot = -1;
  std::int64_t lsn = -1;
  Uuid volume;
  std::int64_t segment = -1;  // index in the volume
  std::int64_t chunk = -1;    // in the segment
  std::int64_t block = -1;    // in the segment
};

struct Finding {
  std::string structure;
  Place place;
  std::string what;
  std::string advice;
};

struct CheckReport {
  Uuid store_id;
  Uuid cluster_id;
  bool opens = false;             // a daemon would open it
  std::vector<Finding> problems;  // the first kProblemsMax
  std::uint64_t problem_count = 0;
  std::vector<Finding> repaired;  // no longer among the problems
  std::vector<Finding> notes;     // nothing wrong: what a crash leaves, what could not be looked at
  std::uint64_t metadata_pages = 0, journal_batches = 0, segments = 0, chunks = 0;
  std::uint64_t past_chunks = 0;  // of the chunks, the contents that only snapshots show
  std::uint64_t blocks_verified = 0;
};

inline constexpr std::size_t kProblemsMax = 1000;

// Throws Fault: StoreNotFormatted, StoreTooNew, DiskError (a repair's write failed).
[[nodiscard]] CheckReport check_store(io::Disk& disk, const CheckOptions& options);
[[nodiscard]] std::string to_json(const CheckReport& report);

}  // namespace blockd::store
