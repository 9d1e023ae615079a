// A caller of a store for tests of single behaviours: starts operations, or does them one by one.
#pragma once

#include <algorithm>
#include <array>
#include <cstring>
#include <memory>
#include <vector>

#include "tests/io/pattern.h"
#include "tests/store/store_model.h"
#include "tests/store/store_rig.h"

namespace blockd::store::testing {

// One operation with its memory; stays where it is until it is done.
struct Call {
  StoreOp op;
  bool done = false;
  io::testing::Memory memory{kMutationBytesMax + kBlockBytes};
  std::array<std::uint32_t, kMutationBytesMax / kBlockBytes + 1> crcs{};

  [[nodiscard]] Error error() const noexcept { return done ? op.error : Error::WriteUnresolved; }
  // Of a read: the tags of its blocks; ~0 for a block that nobody wrote.
  [[nodiscard]] std::vector<Tag> tags() const {
    std::vector<Tag> tags;
    for (std::uint32_t i = 0; i < op.block_count; ++i) {
      tags.push_back(tag_of_block(memory.data() + std::size_t{i} * kBlockBytes).value_or(~Tag{0}));
    }
    return tags;
  }
};
using CallRef = std::unique_ptr<Call>;

// The tags of a write of `count` blocks that starts with `first_tag`.
inline std::vector<Tag> tags_from(Tag first_tag, std::size_t count) {
  std::vector<Tag> tags(count);
  for (std::size_t i = 0; i < count; ++i) tags[i] = first_tag == kHole ? kHole : first_tag + i;
  return tags;
}

class Client {
 public:
  explicit Client(Rig& rig, std::uint32_t block_count = 64 * kBlocksPerChunk) : rig_(rig) {
    BLOCKD_ASSERT(create(0, block_count) == Error::Ok);
    use(0);
  }
  // Over a store that has segment 0 already (after open).
  struct Existing {};
  Client(Rig& rig, Existing) : rig_(rig) { use(0); }

  [[nodiscard]] Error create(std::uint32_t index, std::uint32_t block_count) {
    return rig_.wait([&](Store::Done done) {
      rig_.store->create_segment(segment_id(index), block_count, std::move(done));
    });
  }
  void use(std::uint32_t index) {
    const auto found = rig_.store->find_segment(segment_id(index));
    BLOCKD_ASSERT(found.has_value());
    segment = *found;
  }

  // Starting. Blocks first + i get tag first_tag + i.
  [[nodiscard]] CallRef start_write(std::uint32_t first, std::uint32_t count, Tag first_tag,
                                    std::uint32_t misalignment = 0) {
    CallRef call = make(StoreOp::Op::write, first, count);
    call->op.data += misalignment;
    call->op.version = next_version();
    fill(*call, tags_from(first_tag, count));
    return submit(std::move(call));
  }
  // A write of these very tags, a hole's being zeros; and before it is submitted.
  [[nodiscard]] CallRef prepare_write_of(std::uint32_t first, const std::vector<Tag>& tags,
                                         std::uint32_t misalignment = 0) {
    CallRef call = make(StoreOp::Op::write, first, static_cast<std::uint32_t>(tags.size()));
    call->op.data += misalignment;
    call->op.version = next_version();
    fill(*call, tags);
    return call;
  }
  [[nodiscard]] CallRef start_write_of(std::uint32_t first, const std::vector<Tag>& tags,
                                       std::uint32_t misalignment = 0) {
    return submit(prepare_write_of(first, tags, misalignment));
  }
  [[nodiscard]] CallRef start_write_of_zeros(std::uint32_t first, std::uint32_t count) {
    return start_write_of(first, tags_from(kHole, count));
  }
  [[nodiscard]] CallRef start_zero(std::uint32_t first, std::uint32_t count) {
    CallRef call = make(StoreOp::Op::zero, first, count);
    call->op.version = next_version();
    return submit(std::move(call));
  }
  [[nodiscard]] CallRef start_replace(std::uint32_t chunk, std::uint16_t mask, Tag first_tag,
                                      Version version) {
    CallRef call = make(StoreOp::Op::replace, chunk * kBlocksPerChunk, kBlocksPerChunk);
    call->op.version = version;
    call->op.valid_mask = mask;
    fill(*call, tags_from(first_tag, kBlocksPerChunk));
    return submit(std::move(call));
  }
  [[nodiscard]] CallRef start_read(std::uint32_t first, std::uint32_t count) {
    CallRef call = make(StoreOp::Op::read, first, count);
    std::memset(call->memory.data(), 0xee, std::size_t{count} * kBlockBytes);
    call->op.crcs_out = call->crcs.data();
    return submit(std::move(call));
  }
  [[nodiscard]] CallRef start_flush() { return submit(make(StoreOp::Op::flush, 0, 0)); }

  void submit(Call& call) {
    rig_.store->submit(call.op);
    BLOCKD_ASSERT(!call.done);  // never from inside the call
  }

  // One by one. WriteUnresolved: it never finished.
  [[nodiscard]] Error finish(const Call& call) {
    (void)rig_.world.run_until([&] { return call.done; }, kPatienceUs);
    return call.error();
  }
  [[nodiscard]] Error write(std::uint32_t first, std::uint32_t count, Tag first_tag,
                            std::uint32_t misalignment = 0) {
    return finish(*start_write(first, count, first_tag, misalignment));
  }
  [[nodiscard]] Error zero(std::uint32_t first, std::uint32_t count) {
    return finish(*start_zero(first, count));
  }
  [[nodiscard]] Error replace(std::uint32_t chunk, std::uint16_t mask, Tag first_tag,
                              Version version) {
    return finish(*start_replace(chunk, mask, first_tag, version));
  }
  [[nodiscard]] Error flush() { return finish(*start_flush()); }
  [[nodiscard]] Error try_read(std::uint32_t first, std::uint32_t count) {
    return finish(*start_read(first, count));
  }
  // The tags read; empty when the read failed or its CRCs are not those of its bytes.
  [[nodiscard]] std::vector<Tag> read(std::uint32_t first, std::uint32_t count) {
    const CallRef call = start_read(first, count);
    if (finish(*call) != Error::Ok) return {};
    const std::size_t wrong = crc32c_verify(call->memory.data(), {call->crcs.data(), count});
    return wrong == count ? call->tags() : std::vector<Tag>{};
  }
  [[nodiscard]] Tag read_one(std::uint32_t block) {
    const std::vector<Tag> tags = read(block, 1);
    return tags.empty() ? ~Tag{0} : tags[0];
  }

  [[nodiscard]] Version next_version() noexcept { return {epoch, ++seq}; }
  [[nodiscard]] Version last_version() const noexcept { return {epoch, seq}; }
  [[nodiscard]] Version version_of(std::uint32_t chunk) const noexcept {
    return rig_.store->chunk_version(segment, chunk);
  }

  // Of one chunk's past.
  [[nodiscard]] Error insert_past(std::uint32_t chunk, std::uint16_t mask, Tag first_tag,
                                  Version version, Era born, Era died) {
    CallRef call = make(StoreOp::Op::replace, chunk * kBlocksPerChunk, kBlocksPerChunk);
    fill(*call, tags_from(first_tag, kBlocksPerChunk));
    call->op.version = version;
    call->op.valid_mask = mask;
    call->op.era = born;
    call->op.died = died;
    submit(*call);
    return finish(*call);
  }
  [[nodiscard]] Error forget(std::uint32_t chunk, Version version) {
    CallRef call = make(StoreOp::Op::forget, chunk * kBlocksPerChunk, 0);
    call->op.version = version;
    submit(*call);
    return finish(*call);
  }
  // What the snapshot shows of these blocks; empty when it cannot be read.
  [[nodiscard]] std::vector<Tag> read_at(Era snapshot, std::uint32_t first, std::uint32_t count) {
    const SegmentHandle view = rig_.store->open_view(segment, snapshot);
    if (view == Store::kNoView) return {};
    const SegmentHandle mine = std::exchange(segment, view);
    const std::vector<Tag> tags = read(first, count);
    segment = mine;
    rig_.store->close_view(view);
    return tags;
  }
  void set_snapshots(Era known_below, std::vector<Era> eras, Era uncovered_below = 0) {
    rig_.store->set_snapshots(
        {segment_id(0).volume, known_below, std::move(eras), uncovered_below});
  }
  [[nodiscard]] std::uint32_t past_count() const {
    return rig_.store->segment_info(segment).past_count;
  }

  SegmentHandle segment = 0;
  Era era = 0;          // of the mutations that are made
  bool covers = false;  // likewise
  std::uint64_t epoch = 1;
  std::uint64_t seq = 0;

 private:
  CallRef make(StoreOp::Op kind, std::uint32_t first, std::uint32_t count) {
    auto call = std::make_unique<Call>();
    call->op.op = kind;
    call->op.segment = segment;
    call->op.first_block = first;
    call->op.block_count = count;
    call->op.era = era;
    call->op.covers = covers;
    call->op.data = call->memory.data();
    call->op.crcs = call->crcs.data();
    call->op.owner = call.get();
    call->op.done = [](StoreOp& op) noexcept { static_cast<Call*>(op.owner)->done = true; };
    return call;
  }
  static void fill(Call& call, const std::vector<Tag>& tags) {
    for (std::size_t i = 0; i < tags.size(); ++i) {
      fill_block(call.op.data + i * kBlockBytes, tags[i]);
      call.crcs[i] = tag_crc(tags[i]);
    }
  }
  CallRef submit(CallRef call) {
    submit(*call);
    return call;
  }

  Rig& rig_;
};

}  // namespace blockd::store::testing
