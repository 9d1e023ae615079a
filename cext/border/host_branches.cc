// Branches: where the engines of this host keep what a resync would take from a member
// (docs/REPLICATION.md, B). Each is a volume of its own, attached here.
//
// What is brought twice is written once; and what a branch has is not overwritten by anything else:
// then another branch is asked for. So it does not matter how often a resync begins anew, or which
// engine finishes it.
#include <algorithm>
#include <cstring>
#include <utility>

#include "border/guard.h"
#include "border/host_plane.h"

namespace blockd::border {

using engine::BlockRequest;

struct HostPlane::PreserveJob {
  HostPlane* plane = nullptr;
  Uuid volume;
  engine::Preserve* content = nullptr;
  Uuid branch;
  std::uint32_t length_bytes = 0;
  BufferRef buffer;  // what the branch has there
  BlockRequest request;
};

void HostPlane::set_branch(Token token, const Uuid& volume, const Uuid& host,
                           const Uuid& branch) noexcept {
  guard(token, [&] {
    (void)engine_of(volume);
    (void)engine_of(branch);
    branches_[{volume, host}] = {branch};
    answer(token, Error::Ok);
  });
}

void HostPlane::preserve(const Uuid& volume, engine::Preserve& content) noexcept {
  auto* job = new PreserveJob;
  job->plane = this;
  job->volume = volume;
  job->content = &content;
  const auto known = branches_.find({volume, content.host});
  if (known != branches_.end()) job->branch = known->second.volume;
  const engine::Volume* branch = branch_engine(job->branch);
  if (branch == nullptr) return end_preserve(*job, Error::NotFound);
  const std::uint64_t volume_end = volumes_.at(volume)->volume->size_bytes();
  const std::uint64_t end = branch->size_bytes();
  if (content.offset_bytes >= volume_end) return end_preserve(*job, Error::Ok);  // cut off
  if (end < std::min(volume_end, content.offset_bytes + kChunkBytes)) {
    branch_taken(volume, content.host);  // the volume has grown since
    return end_preserve(*job, Error::NotFound);
  }
  job->length_bytes =
      static_cast<std::uint32_t>(std::min<std::uint64_t>(kChunkBytes, end - content.offset_bytes));
  compare_kept(*job);
}

// Null: it is not attached here any more. It answers its requests before it goes.
engine::Volume* HostPlane::branch_engine(const Uuid& branch) noexcept {
  const auto found = volumes_.find(branch);
  return found == volumes_.end() || found->second->closing ? nullptr : found->second->volume.get();
}

void HostPlane::compare_kept(PreserveJob& job) noexcept {
  job.buffer = buffers_.chunk.get();
  if (!job.buffer) return end_preserve(job, Error::Busy);
  BlockRequest& request = job.request;
  request.op = BlockRequest::Op::read;
  request.offset_bytes = job.content->offset_bytes;
  request.length_bytes = (job.length_bytes + kBlockBytes - 1) / kBlockBytes * kBlockBytes;
  request.data = job.buffer.data();
  request.hold = job.buffer;
  request.owner = &job;
  request.done = [](BlockRequest& done) noexcept {
    auto& over = *static_cast<PreserveJob*>(done.owner);
    over.plane->later([&over] { over.plane->kept_read(over); });
  };
  branch_engine(job.branch)->submit(request);
}

void HostPlane::kept_read(PreserveJob& job) noexcept {
  if (job.request.error != Error::Ok) return end_preserve(job, job.request.error);
  engine::Volume* branch = branch_engine(job.branch);
  if (branch == nullptr) return end_preserve(job, Error::NotFound);
  const std::byte* kept = job.buffer.data();
  const bool empty = std::all_of(kept, kept + job.length_bytes,
                                 [](std::byte byte) { return byte == std::byte{0}; });
  const bool same = std::memcmp(kept, job.content->data, job.length_bytes) == 0;
  if (!empty && !same) {
    branch_taken(job.volume, job.content->host);
    return end_preserve(job, Error::NotFound);
  }
  if (!empty) return end_preserve(job, Error::Ok);
  BlockRequest& request = job.request;
  request = BlockRequest{};
  request.op = BlockRequest::Op::write;
  request.fua = request.covers = true;
  request.offset_bytes = job.content->offset_bytes;
  request.length_bytes = job.length_bytes;
  request.data = job.content->data;
  request.hold = job.content->hold;
  request.owner = &job;
  request.done = [](BlockRequest& done) noexcept {
    auto& over = *static_cast<PreserveJob*>(done.owner);
    if (done.error == Error::Ok) over.plane->branch_used(over);
    over.plane->end_preserve(over, done.error);
  };
  branch->submit(request);
}

// The engine is answered from the loop.
void HostPlane::end_preserve(PreserveJob& job, Error error) noexcept {
  job.content->error = error;
  later([&job] {
    engine::Preserve& content = *job.content;
    delete &job;
    content.done(content);
  });
}

void HostPlane::branch_used(const PreserveJob& job) noexcept {
  const auto known = branches_.find({job.volume, job.content->host});
  if (known == branches_.end() || std::exchange(known->second.told, true)) return;
  notice(job.volume, 0, job.content->host, "branch-used", 0);
}

// Its content stays as it is: the host asks for another one.
void HostPlane::branch_taken(const Uuid& volume, const Uuid& host) noexcept {
  branches_.erase({volume, host});
  notice(volume, 0, host, "branch-taken", 0);
}

}  // namespace blockd::border
