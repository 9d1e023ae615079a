#include "border/base_stack.h"

#include <utility>

namespace blockd::border {

BaseStack::BaseStack(io::Loop& loop, Buffers& buffers, peer::PeerHub& hub,
                     engine::BlockBackend& upper, bool upper_changes, const BaseSpec& spec)
    : volume_(spec.snapshot.volume),
      reader_(engine::SnapshotReader::create(loop, hub, spec.snapshot)) {
  if (spec.base) {
    below_ = std::make_unique<BaseStack>(loop, buffers, hub, *reader_, false, *spec.base);
  }
  engine::BaseRules rules = spec.rules;
  rules.read_only = !upper_changes;
  layered_ = engine::Layered::create(loop, buffers, upper, base_backend(), rules);
}

engine::BlockBackend& BaseStack::base_backend() noexcept {
  if (below_) return below_->top();
  return *reader_;
}

void BaseStack::list_base(engine::Layered::Take take, std::function<void(Error)> done) {
  if (below_) return below_->top().list(std::move(take), std::move(done));
  reader_->list(std::move(take), std::move(done));
}

void BaseStack::open(engine::Layered::Lister list_upper, std::function<void(Error)> done) {
  list_upper_ = std::move(list_upper);
  if (!below_) return open_layer(std::move(done));
  below_->open(
      [this](auto take, auto listed) { reader_->list(std::move(take), std::move(listed)); },
      [this, done = std::move(done)](Error error) {
        if (error == Error::Ok) return open_layer(done);
        if (closed_) return done(error);
        // So that its requests fail, too.
        layered_->open(
            list_upper_, [error](auto, auto listed) { listed(error); }, done);
      });
}

void BaseStack::open_layer(std::function<void(Error)> done) {
  layered_->open(
      list_upper_,
      [this](auto take, auto listed) { list_base(std::move(take), std::move(listed)); },
      std::move(done));
}

void BaseStack::members_changed(const Uuid& volume, const engine::SegmentConfig& segment) {
  if (volume == volume_) reader_->members_changed(segment);
  if (below_) below_->members_changed(volume, segment);
}

// All at once: what the upper ones wait for, the lower ones end.
void BaseStack::close(std::function<void()> done) {
  closed_ = std::move(done);
  parts_open_ = below_ ? 3 : 2;
  layered_->close([this] { part_closed(); });
  if (below_) below_->close([this] { part_closed(); });
  reader_->close([this] { part_closed(); });
}

void BaseStack::part_closed() {
  if (--parts_open_ == 0) closed_();
}

}  // namespace blockd::border
