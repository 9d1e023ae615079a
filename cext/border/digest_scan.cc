#include "border/digest_scan.h"

#include <algorithm>
#include <bit>
#include <span>
#include <utility>

#include "base/crc32c.h"

namespace blockd::border {

std::vector<store::ChunkDigest> list_all_digests(const store::Store& store,
                                                 store::SegmentHandle segment) {
  std::vector<store::ChunkDigest> digests(store.segment_info(segment).chunk_count);
  std::size_t count = 0;
  std::uint32_t from = 0;
  for (;;) {
    if (count == digests.size()) digests.resize(count + 256);
    const std::size_t got = store.list_digests(segment, from, std::span(digests).subspan(count));
    if (got == 0) break;
    count += got;
    from = digests[count - 1].chunk + 1;
  }
  digests.resize(count);
  return digests;
}

void DigestScan::start(io::Loop& loop, Buffers& buffers, store::Store& store,
                       store::SegmentHandle segment, std::vector<store::ChunkDigest> digests,
                       Done done) {
  auto* scan = new DigestScan(loop, buffers, store, segment, std::move(digests), std::move(done));
  loop.defer(scan->task_);
}

DigestScan::DigestScan(io::Loop& loop, Buffers& buffers, store::Store& store,
                       store::SegmentHandle segment, std::vector<store::ChunkDigest> digests,
                       Done done)
    : loop_(loop),
      buffers_(buffers),
      store_(store),
      segment_(segment),
      digests_(std::move(digests)),
      done_(std::move(done)) {
  for (Read& read : reads_) read.scan = this;
  waiter_.owner = this;
  waiter_.ready = [](PoolWaiter& waiter) noexcept {
    auto& scan = *static_cast<DigestScan*>(waiter.owner);
    scan.waiting_ = false;
    scan.loop_.defer(scan.task_);
  };
  task_.owner = this;
  task_.run = [](io::Task& task) noexcept { static_cast<DigestScan*>(task.owner)->pump(); };
}

void DigestScan::pump() noexcept {
  for (Read& read : reads_) {
    while (next_ < digests_.size() && digests_[next_].valid_mask == 0) ++next_;
    if (error_ != Error::Ok || waiting_ || next_ == digests_.size()) break;
    if (!read.busy && !start_read(read)) break;
  }
  if (reading_ > 0 || waiting_) return;
  if (error_ == Error::Ok && next_ < digests_.size()) return loop_.defer(task_);
  const Done done = std::move(done_);
  const Error error = error_;
  const std::uint32_t block = bad_block_;
  std::vector<store::ChunkDigest> digests = std::move(digests_);
  delete this;
  done(error, block, std::move(digests));
}

// Reads the next chunk as far as the segment goes. False: no buffer now.
bool DigestScan::start_read(Read& read) noexcept {
  const std::uint32_t first = digests_[next_].chunk * kBlocksPerChunk;
  const std::uint32_t end = store_.segment_info(segment_).block_count;
  const std::uint32_t count = std::min(kBlocksPerChunk, end - first);
  BufferRef buffer = buffers_.chunk.get();
  if (!buffer) {
    waiting_ = true;
    buffers_.chunk.wait(waiter_);
    return false;
  }
  read.index = next_++;
  read.busy = true;
  ++reading_;
  read.op = {};
  read.op.op = store::StoreOp::Op::read;
  read.op.segment = segment_;
  read.op.first_block = first;
  read.op.block_count = count;
  read.op.data = buffer.data();
  read.op.hold = std::move(buffer);
  read.op.crcs_out = read.crcs.data();
  read.op.owner = &read;
  read.op.done = [](store::StoreOp& op) noexcept {
    auto& finished = *static_cast<Read*>(op.owner);
    finished.scan->complete(finished);
  };
  read.crcs.fill(crc32c_zero_block());
  store_.submit(read.op);
  return true;
}

void DigestScan::complete(Read& read) noexcept {
  if (read.op.error != Error::Ok) {
    fail(read.op.error, read.op.first_block);
  } else {
    check(read);
  }
  read.op.hold.reset();
  read.busy = false;
  --reading_;
  loop_.defer(task_);
}

// What was read against what was listed; the version tells whether somebody wrote in between.
void DigestScan::check(const Read& read) noexcept {
  const std::size_t bad =
      crc32c_verify(read.op.data, std::span(read.crcs).first(read.op.block_count));
  if (bad != read.op.block_count) {
    return fail(Error::ChecksumMismatch, read.op.first_block + static_cast<std::uint32_t>(bad));
  }
  store::ChunkDigest& listed = digests_[read.index];
  const std::uint32_t digest = crc32c(read.crcs.data(), sizeof read.crcs);
  if (digest == listed.digest) return;
  if (store_.chunk_version(segment_, listed.chunk) == listed.version) {
    return fail(Error::ChecksumMismatch, read.op.first_block);
  }
  store::ChunkDigest now;
  if (store_.list_digests(segment_, listed.chunk, std::span(&now, 1)) == 1 &&
      now.chunk == listed.chunk) {
    listed = now;
  }
}

void DigestScan::fail(Error error, std::uint32_t block) noexcept {
  if (error_ != Error::Ok) return;
  error_ = error;
  bad_block_ = block;
}

}  // namespace blockd::border
