#include "sim/workload.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "blockd/errors.h"

namespace blockd::sim {

using engine::BlockRequest;

// One request at a time; its memory lives as long as the workload.
struct Workload::Client {
  Workload* workload = nullptr;
  std::uint32_t host = 0;
  std::uint64_t epoch = 0;
  bool busy = false;
  BlockRequest request;
  std::byte* memory = nullptr;
  std::size_t call = 0;
  std::uint64_t called = 0;
  ~Client() { std::free(memory); }
};

Workload::Workload(SimCluster& cluster, std::uint64_t span_bytes, std::uint64_t base_bytes)
    : cluster_(cluster),
      base_bytes_(base_bytes),
      sectors_(span_bytes / kSectorBytes),
      history_(sectors_) {}

void Workload::start(std::uint32_t host, std::uint32_t depth) {
  running_ = true;
  for (std::uint32_t i = 0; i < depth; ++i) {
    auto client = std::make_unique<Client>();
    client->workload = this;
    client->host = host;
    client->epoch = cluster_.process(host).epoch;
    client->memory = static_cast<std::byte*>(std::aligned_alloc(kBlockBytes, kMutationBytesMax));
    clients_.push_back(std::move(client));
    next_in(*clients_.back(), 0);
  }
}

Workload::~Workload() = default;

bool Workload::idle() const {
  return std::none_of(clients_.begin(), clients_.end(), [&](const auto& client) {
    return client->busy && cluster_.alive(client->host) &&
           cluster_.process(client->host).epoch == client->epoch;
  });
}

// In the process that serves it: when that stands still, so does the client.
void Workload::next_in(Client& client, std::uint64_t delay_us) {
  if (!cluster_.alive(client.host)) return;
  cluster_.world().after(delay_us, cluster_.process(client.host).loop.get(),
                         [this, &client] { next(client); });
}

void Workload::next(Client& client) {
  const bool gone = !cluster_.alive(client.host) ||
                    cluster_.process(client.host).epoch != client.epoch ||
                    cluster_.volume(client.host) == nullptr;
  if (!running_ || gone) return;
  fill(client);
  client.busy = true;
  cluster_.volume(client.host)->submit(client.request);
}

void Workload::fill(Client& client) {
  Random& random = cluster_.world().random();
  BlockRequest& request = client.request;
  request = BlockRequest{};
  request.owner = &client;
  request.done = [](BlockRequest& over) noexcept {
    Client& who = *static_cast<Client*>(over.owner);
    who.workload->done(who);
  };
  const std::uint64_t dice = random.below(100);
  const std::uint64_t span_bytes = sectors_ * kSectorBytes;
  if (dice < 8) {
    request.op = BlockRequest::Op::flush;
    client.called = history_.tick();
    return;
  }
  const bool read = dice < 45;
  const std::uint64_t unit = read || random.chance(2) ? kBlockBytes : kSectorBytes;
  const std::uint64_t units_max = std::min<std::uint64_t>(span_bytes, kMutationBytesMax) / unit;
  const std::uint64_t units = random.chance(16)
                                  ? random.between(1, units_max)
                                  : random.between(1, std::min<std::uint64_t>(units_max, 9));
  request.length_bytes = static_cast<std::uint32_t>(units * unit);
  request.offset_bytes = random.below(span_bytes / unit - units + 1) * unit;
  const std::uint64_t first = request.offset_bytes / kSectorBytes;
  const std::uint64_t count = request.length_bytes / kSectorBytes;
  request.offset_bytes += base_bytes_;
  request.data = client.memory;
  if (read) {
    request.op = BlockRequest::Op::read;
    client.called = history_.read_called();
    return;
  }
  request.fua = random.chance(6);
  const Era era = cluster_.volume(client.host)->config().era;
  if (dice < 90) {
    request.op = BlockRequest::Op::write;
    const std::uint64_t tag = random.chance(8) ? 0 : next_tag_++;  // 0: zeros, sent as data
    for (std::uint64_t i = 0; i < count; ++i) {
      const std::uint64_t words[2] = {tag, tag == 0 ? 0 : first + i};
      std::byte* sector = client.memory + i * kSectorBytes;
      std::memset(sector, static_cast<int>(tag & 0xff), kSectorBytes);
      std::memcpy(sector, words, sizeof words);
    }
    client.call = history_.write_called(first, count, tag, client.epoch, era);
  } else {
    request.op = random.chance(2) ? BlockRequest::Op::trim : BlockRequest::Op::write_zeroes;
    request.data = nullptr;
    client.call = history_.write_called(first, count, 0, client.epoch, era);
  }
}

std::vector<std::uint64_t> Workload::tags_of(const std::byte* data, std::uint64_t first,
                                             std::uint64_t count) {
  std::vector<std::uint64_t> tags;
  for (std::uint64_t i = 0; i < count; ++i) {
    std::uint64_t words[2];
    std::memcpy(words, data + i * kSectorBytes, sizeof words);
    const bool holds = words[0] == 0 ? words[1] == 0 : words[1] == first + i;
    if (!holds && wrong_.empty())
      wrong_ = "sector " + std::to_string(first + i) + " holds bytes nobody wrote there";
    tags.push_back(words[0]);
  }
  return tags;
}

void Workload::done(Client& client) {
  BlockRequest& request = client.request;
  client.busy = false;
  ++answered_;
  if (request.error != Error::Ok) {
    ++failed_;
    if (request.op == BlockRequest::Op::flush && request.error == Error::DiskError)
      history_.loss_told(history_.tick(), client.epoch);
  } else if (request.op == BlockRequest::Op::flush) {
    history_.flush_answered(client.called, client.epoch);
  } else if (request.op == BlockRequest::Op::read) {
    const std::uint64_t first = (request.offset_bytes - base_bytes_) / kSectorBytes;
    history_.read_answered(client.called, first,
                           tags_of(client.memory, first, request.length_bytes / kSectorBytes));
  } else {
    history_.write_answered(client.call);
    if (request.fua) history_.write_flushed(client.call);
  }
  // A flush says nothing: an engine that is still opening has nothing to flush.
  if (request.error == Error::Ok && request.op != BlockRequest::Op::flush)
    history_.served_under(client.epoch);
  // Not from inside done(): a front answers its client, who thinks first.
  if (request.error == Error::EpochFenced || request.error == Error::ShuttingDown) return;
  next_in(client, cluster_.world().random().below(think_us));
}

bool Workload::read_all(std::uint32_t host, std::vector<std::uint64_t>& tags,
                        std::uint64_t max_us) {
  tags.clear();
  auto* memory = static_cast<std::byte*>(std::aligned_alloc(kBlockBytes, kMutationBytesMax));
  bool fine = true;
  for (std::uint64_t at = 0; at < sectors_ * kSectorBytes && fine; at += kMutationBytesMax) {
    bool over = false;
    BlockRequest request;
    request.op = BlockRequest::Op::read;
    request.offset_bytes = base_bytes_ + at;
    request.length_bytes = static_cast<std::uint32_t>(
        std::min<std::uint64_t>(kMutationBytesMax, sectors_ * kSectorBytes - at));
    request.data = memory;
    request.owner = &over;
    request.done = [](BlockRequest& r) noexcept { *static_cast<bool*>(r.owner) = true; };
    const std::uint64_t called = history_.read_called();
    cluster_.volume(host)->submit(request);
    fine = cluster_.world().run_until([&] { return over; }, max_us) && request.error == Error::Ok;
    if (!fine) {  // the request may still be under way: its memory is left to it
      std::snprintf(unread_, sizeof unread_, "at %llu: %s", static_cast<unsigned long long>(at),
                    over ? error_name(request.error) : "no answer");
      return false;
    }
    const std::uint64_t first = at / kSectorBytes;
    const std::vector<std::uint64_t> some =
        tags_of(memory, first, request.length_bytes / kSectorBytes);
    history_.read_answered(called, first, some);
    history_.served_under(cluster_.process(host).epoch);
    tags.insert(tags.end(), some.begin(), some.end());
  }
  std::free(memory);
  return fine;
}

bool Workload::flush(std::uint32_t host, std::uint64_t max_us) {
  bool over = false;
  BlockRequest request;
  request.op = BlockRequest::Op::flush;
  request.owner = &over;
  request.done = [](BlockRequest& r) noexcept { *static_cast<bool*>(r.owner) = true; };
  const std::uint64_t called = history_.tick();
  cluster_.volume(host)->submit(request);
  if (!cluster_.world().run_until([&] { return over; }, max_us)) return false;
  if (request.error == Error::DiskError)
    history_.loss_told(history_.tick(), cluster_.process(host).epoch);
  if (request.error != Error::Ok) return false;
  history_.flush_answered(called, cluster_.process(host).epoch);
  return true;
}

}  // namespace blockd::sim
