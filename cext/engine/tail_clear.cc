#include "engine/tail_clear.h"

#include <algorithm>
#include <utility>

#include "base/assert.h"
#include "blockd/types.h"

namespace blockd::engine {

TailClear::TailClear(Submit submit) : submit_(std::move(submit)) {
  for (BlockRequest& request : requests_) {
    request.owner = this;
    request.done = [](BlockRequest& done) noexcept {
      auto& self = *static_cast<TailClear*>(done.owner);
      self.busy_[static_cast<std::size_t>(&done - self.requests_.data())] = false;
      --self.under_way_;
      if (done.error != Error::Ok && self.error_ == Error::Ok) self.error_ = done.error;
      self.pump();
    };
  }
}

void TailClear::start(std::uint64_t from_bytes, std::uint64_t to_bytes,
                      std::function<void(Error)> done) {
  BLOCKD_ASSERT(!done_ && under_way_ == 0 && from_bytes < to_bytes);
  next_bytes_ = from_bytes;
  end_bytes_ = to_bytes;
  flushed_ = false;
  error_ = Error::Ok;
  done_ = std::move(done);
  pump();
}

void TailClear::pump() noexcept {
  if (std::exchange(pumping_, true)) return;  // answered from inside submit(): the loop goes on
  for (std::size_t i = 0; i < kTrims && next_bytes_ < end_bytes_ && error_ == Error::Ok; ++i) {
    if (busy_[i]) continue;
    BlockRequest& trim = requests_[i];
    const std::uint64_t stop =
        std::min(end_bytes_, (next_bytes_ / kSegmentBytes + 1) * kSegmentBytes);
    trim.op = BlockRequest::Op::trim;
    trim.offset_bytes = std::exchange(next_bytes_, stop);
    trim.length_bytes = static_cast<std::uint32_t>(stop - trim.offset_bytes);
    busy_[i] = true;
    submit(trim);
  }
  if (under_way_ == 0 && next_bytes_ == end_bytes_ && error_ == Error::Ok && !flushed_) {
    flushed_ = true;
    requests_[0].op = BlockRequest::Op::flush;
    busy_[0] = true;
    submit(requests_[0]);
  }
  pumping_ = false;
  if (under_way_ > 0) return;
  if (error_ != Error::Ok || flushed_) std::exchange(done_, nullptr)(error_);
}

void TailClear::submit(BlockRequest& request) noexcept {
  ++under_way_;
  request.error = Error::Ok;
  request.covers = false;
  submit_(request);
}

}  // namespace blockd::engine
