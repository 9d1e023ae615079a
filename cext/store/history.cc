#include "store/history.h"

#include <new>
#include <utility>

#include "base/assert.h"

namespace blockd::store {

void History::add(SegmentHandle segment, std::uint32_t chunk, std::uint32_t slot) {
  if (!next_) {
    next_.reset(static_cast<std::uint32_t*>(std::calloc(slot_count_, sizeof(std::uint32_t))));
    if (!next_) throw std::bad_alloc();
  }
  if (!segments_[segment]) {
    segments_[segment] = std::make_unique<Chunks>();
    segments_[segment]->first.resize(kChunksPerSegment);
  }
  Chunks& chunks = *segments_[segment];
  next_[slot] = std::exchange(chunks.first[chunk], slot + 1);
  ++chunks.count;
  ++total_;
}

void History::remove(SegmentHandle segment, std::uint32_t chunk, std::uint32_t slot) noexcept {
  Chunks& chunks = *segments_[segment];
  std::uint32_t* link = &chunks.first[chunk];
  while (*link != slot + 1) {
    BLOCKD_ASSERT(*link != 0);
    link = &next_[*link - 1];
  }
  *link = std::exchange(next_[slot], 0);
  --total_;
  if (--chunks.count == 0) segments_[segment].reset();
}

}  // namespace blockd::store
