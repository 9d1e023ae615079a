#include "sim/snapshots.h"

#include <algorithm>
#include <cstdlib>

namespace blockd::sim {

// One read; its memory stays where it is until it is answered.
struct Snapshots::Asked {
  peer::ReplicaOp op;
  bool over = false;
  std::byte* memory = static_cast<std::byte*>(std::aligned_alloc(kBlockBytes, kMutationBytesMax));
  Asked() = default;
  Asked(const Asked&) = delete;
  Asked& operator=(const Asked&) = delete;
  ~Asked() { std::free(memory); }
};

Snapshots::Snapshots(SimCluster& cluster, Workload& work, bool durable_only)
    : cluster_(cluster), work_(work), durable_only_(durable_only) {}
Snapshots::~Snapshots() = default;

void Snapshots::take(std::uint32_t holder) {
  Taken taken;
  taken.asked = work_.history().tick();
  taken.era = cluster_.take_snapshot(holder);
  taken_.push_back(taken);
}

void Snapshots::remove_any() {
  if (taken_.empty()) return;
  const std::size_t which = cluster_.world().random().below(taken_.size());
  cluster_.delete_snapshot(taken_[which].era);
  taken_.erase(taken_.begin() + static_cast<std::ptrdiff_t>(which));
}

Error Snapshots::read(std::uint32_t via, std::uint32_t at, Era era,
                      std::vector<std::uint64_t>& tags) {
  tags.clear();
  auto asked = std::make_unique<Asked>();
  const std::uint64_t span = work_.history().sectors() * kSectorBytes;
  for (std::uint64_t offset = 0; offset < span; offset += kMutationBytesMax) {
    const std::uint64_t bytes = std::min<std::uint64_t>(kMutationBytesMax, span - offset);
    peer::ReplicaOp& op = asked->op;
    op.kind = peer::ReplicaOp::Kind::read_view;
    op.segment = {cluster_.volume_id(), 0};
    op.store = cluster_.store_id(at);
    op.era = era;
    op.first_block = static_cast<std::uint32_t>(offset / kBlockBytes);
    op.block_count = static_cast<std::uint32_t>(bytes / kBlockBytes);
    op.data = asked->memory;
    op.owner = asked.get();
    op.done = [](peer::ReplicaOp& done) noexcept { static_cast<Asked*>(done.owner)->over = true; };
    asked->over = false;
    cluster_.process(via).hub->channel(cluster_.host_id(at)).submit(op);
    if (!cluster_.world().run_until([&] { return asked->over; }, 5'000'000)) {
      unanswered_.push_back(std::move(asked));
      return Error::Timeout;
    }
    if (op.error != Error::Ok) return op.error;
    const std::vector<std::uint64_t> some =
        work_.tags_of(asked->memory, offset / kSectorBytes, bytes / kSectorBytes);
    tags.insert(tags.end(), some.begin(), some.end());
  }
  return Error::Ok;
}

std::string Snapshots::judge(Taken& taken, std::uint32_t at,
                             const std::vector<std::uint64_t>& tags) {
  const std::string where =
      "snapshot " + std::to_string(taken.era) + " at host" + std::to_string(at) + ": ";
  if (!work_.wrong().empty()) return where + work_.wrong();
  if (taken.seen) {
    const auto differs = std::ranges::mismatch(*taken.seen, tags);
    if (differs.in1 != taken.seen->end()) {
      return where + "sector " + std::to_string(differs.in1 - taken.seen->begin()) + " shows " +
             std::to_string(*differs.in2) + ", where " + std::to_string(*differs.in1) +
             " was seen before";
    }
    return {};
  }
  taken.seen = tags;
  if (durable_only_) return {};
  const std::string wrong = work_.history().check_snapshot(taken.era, taken.asked, tags);
  return wrong.empty() ? wrong : where + wrong;
}

std::string Snapshots::look() {
  Random& random = cluster_.world().random();
  std::vector<std::uint32_t> members;
  std::vector<std::uint32_t> hosts;
  for (std::uint32_t i = 0; i < cluster_.host_count(); ++i) {
    if (!cluster_.alive(i)) continue;
    hosts.push_back(i);
    if (cluster_.in_sync(i)) members.push_back(i);
  }
  if (taken_.empty() || members.empty()) return {};
  Taken& taken = taken_[random.below(taken_.size())];
  if (!cluster_.snapshot_final(taken.era)) return {};
  const std::uint32_t at = members[random.below(members.size())];
  std::vector<std::uint64_t> tags;
  if (read(hosts[random.below(hosts.size())], at, taken.era, tags) != Error::Ok) return {};
  ++looks_;
  if (durable_only_) return {};  // not flushed: it may still be gone
  return judge(taken, at, tags);
}

std::string Snapshots::compare_all(bool may_rot) {
  for (Taken& taken : taken_) {
    if (durable_only_) taken.seen.reset();
    for (std::uint32_t at = 0; at < cluster_.options().replicas; ++at) {
      std::vector<std::uint64_t> tags;
      const Error error = read(at, at, taken.era, tags);
      if (may_rot && error == Error::ChecksumMismatch) continue;
      if (error != Error::Ok) {
        return "snapshot " + std::to_string(taken.era) + " cannot be read at host" +
               std::to_string(at) + ": error " + std::to_string(static_cast<int>(error));
      }
      std::string wrong = judge(taken, at, tags);
      if (!wrong.empty()) return wrong;
    }
  }
  return {};
}

}  // namespace blockd::sim
