// A store: one device or file that holds chunks of segments, durable, checksummed, thin.
//
// All calls on one loop's thread. Operations complete through done(), never from inside the call.
// Guarantees (docs/FORMATS.md, docs/REPLICATION.md):
//  * S1  A block is wholly old or wholly new after any crash.
//  * S2  When write() is done the mutation is on the device; when a flush() submitted after that is
//        done it survives power loss. Recovery is bounded by the journal's size.
//  * S3  Mutations of one chunk take effect in the order they were submitted, also across a crash:
//  a
//        chunk at version v holds exactly the mutations of that chunk up to v that this store was
//        given.
//  * S4  No read returns a block that fails its CRC-32C: ChecksumMismatch instead.
//  * S5  A chunk that was trimmed or zeroed keeps its version (a tombstone) until the segment's
//  stable
//        mark has passed it.
//  * S6  What a snapshot shows of a chunk stays as it is until the snapshot is known to be gone
//        (docs/SNAPSHOTS.md).
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/buffer.h"
#include "base/result.h"
#include "blockd/types.h"
#include "format/disk.h"
#include "io/disk.h"
#include "io/loop.h"

namespace blockd::store {

struct FormatOptions {
  Uuid store_id;
  Uuid cluster_id;
  std::uint64_t journal_bytes = 0;    // 0: chosen from the capacity
  bool force = false;                 // overwrite a store that is there already
  bool power_loss_protected = false;  // the device needs no flush: its owner vouches for that
  // Openings count from above it: higher than any of a store that this one takes the place of.
  std::uint64_t incarnation = 0;
  format::DeviceFindings findings = {};  // kept in the superblock; probed_unix_s 0: there are none
};

// By store: the highest incarnation of an opening that is known of.
using Openings = std::map<Uuid, std::uint64_t>;

struct OpenOptions {
  Uuid cluster_id;                         // a store of another cluster is refused (StoreForeign)
  std::uint64_t metadata_cache_bytes = 0;  // for pages of the slot table; 0: 48 MiB
  // A store that has segments, and does not know of its newest opening, is an older copy of itself
  // (OlderCopy). Of one without any nothing can be old: this opening is beyond the newest, too.
  Openings newest_openings = {};
};

struct StoreInfo {
  Uuid store_id;
  Uuid cluster_id;
  std::uint64_t capacity_bytes = 0;   // for chunks
  std::uint64_t allocated_bytes = 0;  // chunks in use
  std::uint64_t past_bytes = 0;       // of those, the ones that only snapshots hold
  std::uint64_t journal_bytes = 0;
  std::uint64_t journal_used_bytes = 0;
  std::uint32_t segment_count = 0;
  format::DeviceFindings findings;  // of when it was formatted
  bool power_loss_protected = false;
  // Of this opening: grows with each that was recorded, and with each that wrote.
  std::uint64_t incarnation = 0;
  Error failed = Error::Ok;  // else the device failed a write or flush: no mutations until reopened
};

struct StoreStats {  // counters since open
  std::uint64_t reads = 0, read_bytes = 0;
  std::uint64_t writes = 0, write_bytes = 0;  // client mutations
  std::uint64_t device_writes = 0,
                device_write_bytes = 0;  // what they cost, journal and metadata included
  std::uint64_t device_reads = 0, device_read_bytes = 0;
  std::uint64_t device_flushes = 0;
  std::uint64_t journal_batches = 0, checkpoints = 0;
  std::uint64_t checksum_errors = 0;
  std::uint64_t read_errors = 0;  // device reads that failed
  std::uint64_t recovered_batches = 0;
};

using SegmentHandle =
    std::uint32_t;  // a place in the segment table, valid until dropped; or a view

struct SegmentInfo {
  SegmentId id;
  std::uint32_t block_count = 0;
  std::uint64_t promised_epoch = 0;  // lower epochs are fenced
  Version stable;                    // everything at or below is durable on all in-sync members
  std::uint32_t chunk_count = 0;     // chunks stored now
  std::uint32_t past_count = 0;      // slots that only snapshots hold, beside them
  format::Root root;                 // of all that is current, as list_chunks() would say now
  // No content here was born, or died, in a later one. 0: there is none. It falls only when the
  // store is opened anew and what it came from is gone.
  Era newest_era = 0;
};

struct ChunkVersion {
  std::uint32_t chunk = 0;  // index in the segment
  Version version;
  Era born = 0;
  std::uint16_t valid_mask = 0;
};

// One content of a chunk, the current one or a past one.
struct ChunkState {
  std::uint32_t chunk = 0;
  Version version;
  Era born = 0;  // of its last mutation
  Era died = 0;  // of the mutation that took its place; 0: it is the current one
  std::uint16_t valid_mask = 0;
  bool covers = false;
};

// Which snapshots of a volume there are, as its metadata says. Eras from `known_below` on count as
// snapshots until it says otherwise.
struct SnapshotSet {
  Uuid volume;
  Era known_below = 0;
  std::vector<Era> eras;    // of the snapshots below known_below, ascending
  Era uncovered_below = 0;  // covering chunks born before this cover nothing any more
};

struct StoreOp {
  enum class Op : std::uint8_t {
    read,   // `data` <- blocks, crcs_out <- their CRCs, also where blocks are damaged; holes: zeros
    write,  // blocks <- `data` with `crcs`; where all of a chunk's part is zeros, as `zero` does
    zero,   // blocks become holes (trim and write-zeroes alike: both read back as zeros)
    replace,  // resync: the whole of one chunk becomes `data` where valid_mask has a bit, a hole
              // elsewhere, at exactly `version`, whatever was there. first_block is the chunk's
              // first, block_count kBlocksPerChunk; data and crcs have kBlocksPerChunk places.
              // version {0,0}: drop the chunk. With `died`: the content becomes one of the chunk's
              // past; the current one and other past ones are left alone.
    forget,   // the past content of first_block's chunk that has `version` is given back
    root,     // `root` <- the segment's, of all mutations submitted before and no other
    flush     // everything done before is durable; handle is ignored
  };
  Op op = Op::read;
  Error error = Error::Ok;
  SegmentHandle segment = 0;
  std::uint32_t first_block = 0;  // in the segment
  std::uint32_t block_count =
      0;            // read, write: at most kMutationBytesMax / kBlockBytes; may span chunks
  Version version;  // mutations only; applied to every chunk touched
  std::uint16_t valid_mask = 0;  // replace
  Era era = 0;                   // mutations: the volume's; replace: in which `data` was born
  Era died = 0;                  // replace: see there
  // write, zero, replace: a chunk left without any data keeps its (empty) record beyond the stable
  // mark, also one that had none: it hides what the volume's base has there.
  bool covers = false;
  format::Root root;
  // Mutations, root, may be null: set once one has failed; others that share it and had not begun
  // by then are refused (NotInSync). Without it a chunk's next mutation could hide that one is
  // missing.
  bool* broken = nullptr;
  // write, replace: payload, any alignment (aligned ones go to the device uncopied when large);
  // read: destination, aligned to 4096.
  std::byte* data = nullptr;
  BufferRef hold;                       // keeps `data` alive until done()
  const std::uint32_t* crcs = nullptr;  // write, replace: one a block, valid until done()
  std::uint32_t* crcs_out = nullptr;  // read: one a block (holes: crc32c_zero_block()); may be null
  void (*done)(StoreOp&) noexcept = nullptr;
  void* owner = nullptr;
  StoreOp* next = nullptr;  // the store's own until done()
  void* scratch = nullptr;  // likewise
  std::uint32_t scratch_count = 0;
};

// One chunk as verification sees it.
struct ChunkDigest {
  std::uint32_t chunk = 0;
  Version version;
  std::uint16_t valid_mask = 0;
  std::uint32_t digest = 0;  // CRC-32C over the 16 block CRCs, holes counted as zero blocks
  Era born = 0;
};

struct BlockLocation {
  bool allocated = false;
  std::uint64_t device_offset_bytes = 0;  // of the block's home
  bool in_journal = false;                // newest content not yet written home
  Version chunk_version;
  std::uint32_t crc32c = 0;
};

class Store {
 public:
  // Both throw Fault with one clear line: StoreTooSmall, StoreInUse, AlreadyExists (format without
  // force), StoreNotFormatted, StoreForeign, StoreDamaged, StoreTooNew, DiskError. open() too:
  // OlderCopy, and by then it has written nothing, so that the copy stays as old as it is.
  static void format(io::Disk& disk, const FormatOptions& options);
  static std::unique_ptr<Store> open(io::Disk& disk, io::Loop& loop, Buffers& buffers,
                                     const OpenOptions& options);

  virtual ~Store() = default;  // no operation in flight

  // Metadata mutations: durable (flushed) before done(Error).
  using Done = std::function<void(Error)>;
  // Every later opening has a higher incarnation: an older copy of the device is told by a lower
  // or an equal one.
  virtual void record_opening(Done done) = 0;
  virtual void create_segment(SegmentId id, std::uint32_t block_count,
                              Done done) = 0;  // AlreadyExists, NoSpace
  // Gone when done; its space comes back by and by, also after a restart. Operations on it that
  // have not started by then end with NotFound.
  virtual void drop_segment(SegmentHandle segment, Done done) = 0;
  virtual void resize_segment(SegmentHandle segment, std::uint32_t block_count,
                              Done done) = 0;  // never smaller
  // Refuses (EpochFenced) an epoch lower than the promised one; equal is done at once.
  virtual void promise_epoch(SegmentHandle segment, std::uint64_t epoch, Done done) = 0;

  [[nodiscard]] virtual std::optional<SegmentHandle> find_segment(SegmentId id) const noexcept = 0;
  [[nodiscard]] virtual std::vector<SegmentHandle> segments() const = 0;
  [[nodiscard]] virtual SegmentInfo segment_info(SegmentHandle segment) const noexcept = 0;
  // Remembered at once, persisted with the next journal batch or checkpoint; never moves back.
  virtual void set_stable(SegmentHandle segment, Version stable) noexcept = 0;

  virtual void submit(StoreOp& op) noexcept = 0;

  // What of the past is kept; nothing is given back before it has been said. In memory only.
  virtual void set_snapshots(SnapshotSet set) = 0;
  // A handle for the segment as snapshot `era` shows it: for reads, list_chunks, chunk_version,
  // chunk_valid_mask, list_digests. What it shows is kept while it is open, also when the snapshot
  // goes. The segment's dropping closes it: then NotFound. kNoView: too many.
  static constexpr SegmentHandle kNoView = ~SegmentHandle{0};
  [[nodiscard]] virtual SegmentHandle open_view(SegmentHandle segment, Era era) = 0;
  virtual void close_view(SegmentHandle view) noexcept = 0;  // REQUIRES: no read of it in flight
  // Every content, current and past, of chunks >= from_chunk; of from_chunk itself only those with
  // a version above `above`. Ascending by chunk, then version. Returns how many were written to
  // `out`.
  [[nodiscard]] virtual std::size_t list_states(SegmentHandle segment, std::uint32_t from_chunk,
                                                Version above, std::span<ChunkState> out) const = 0;

  // Chunks of the segment with index >= from_chunk and version > above, ascending, as of the
  // mutations taken up so far: all that are done, perhaps some that are not (in memory; includes
  // tombstones). Returns how many were written to `out`.
  [[nodiscard]] virtual std::size_t list_chunks(SegmentHandle segment, std::uint32_t from_chunk,
                                                Version above,
                                                std::span<ChunkVersion> out) const noexcept = 0;
  [[nodiscard]] virtual Version chunk_version(SegmentHandle segment,
                                              std::uint32_t chunk) const noexcept = 0;
  // Blocks of the chunk that hold data.
  [[nodiscard]] virtual std::uint16_t chunk_valid_mask(SegmentHandle segment,
                                                       std::uint32_t chunk) const noexcept = 0;
  [[nodiscard]] virtual std::size_t list_digests(SegmentHandle segment, std::uint32_t from_chunk,
                                                 std::span<ChunkDigest> out) const noexcept = 0;
  [[nodiscard]] virtual BlockLocation locate(SegmentHandle segment,
                                             std::uint32_t block) const noexcept = 0;

  // A page of metadata that was sound at open() can no longer be read: mutations are refused, and
  // what the calls above said may have left chunks out.
  [[nodiscard]] virtual bool metadata_lost() const noexcept = 0;
  [[nodiscard]] virtual StoreInfo info() const noexcept = 0;
  [[nodiscard]] virtual const StoreStats& stats() const noexcept = 0;
  // Walks every structure: each slot owned once or free, masks and counts agree, journal accounting
  // adds up. Returns one line a problem; empty when sound. Call it when nothing is in flight.
  [[nodiscard]] virtual std::vector<std::string> check() const = 0;
  // Stops taking operations, waits for those in flight, checkpoints, flushes; then done.
  virtual void close(Done done) = 0;
};

}  // namespace blockd::store
