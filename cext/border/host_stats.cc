// What the host plane has counted, put into words.
#include "border/guard.h"
#include "border/host_plane.h"

namespace blockd::border {
namespace {

using Op = IoJob::Op;

// A volume's requests come through NBD and from Python; one histogram counts both.
Histogram histogram(const char* name, const nbd::LatencyHistogram& own) {
  return {name, {own.buckets.begin(), own.buckets.end()}};
}

void add(Histogram& into, const nbd::LatencyHistogram& from) {
  for (std::size_t i = 0; i < from.buckets.size(); ++i) into.buckets[i] += from.buckets[i];
}

CounterReport nbd_counters(const nbd::NbdStats& nbd) {
  CounterReport report;
  report.subject = CounterReport::Subject::nbd;
  report.counters = {
      {"connections", nbd.connections},
      {"connections_accepted", nbd.connections_accepted},
      {"connections_refused", nbd.connections_refused},
      {"handshakes_failed", nbd.handshakes_failed},
      {"protocol_errors", nbd.protocol_errors},
      {"requests", nbd.requests},
      {"bytes_read", nbd.bytes_read},
      {"bytes_written", nbd.bytes_written},
      {"errors", nbd.errors},
      {"exports", nbd.exports.size()},
  };
  return report;
}

}  // namespace

void HostPlane::stats(Token token, CounterReport reactor) noexcept {
  guard(token, [&] {
    auto reply = std::make_unique<Reply>();
    for (const auto& [id, open] : stores_) {
      if (!open.closing) reply->counters.push_back(store_counters(id, open));
    }
    const nbd::NbdStats nbd = nbd_->stats();
    for (const auto& [id, attached] : volumes_) {
      if (!attached->volume) continue;  // a snapshot: its replicas' stores count its reads
      reply->counters.push_back(volume_counters(id, *attached, nbd));
    }
    reply->counters.push_back(nbd_counters(nbd));
    reactor.counters.insert(reactor.counters.end(),
                            {{"buffers_small_free", buffers_.small.free_count()},
                             {"buffers_small", buffers_.small.count()},
                             {"buffers_chunk_free", buffers_.chunk.free_count()},
                             {"buffers_chunk", buffers_.chunk.count()},
                             {"buffers_large_free", buffers_.large.free_count()},
                             {"buffers_large", buffers_.large.count()}});
    reply->counters.push_back(std::move(reactor));
    answer(token, std::move(reply));
  });
}

CounterReport HostPlane::store_counters(const Uuid& id, const OpenStore& open) const {
  const store::StoreStats& stats = open.store->stats();
  const store::StoreInfo info = open.store->info();
  CounterReport report;
  report.subject = CounterReport::Subject::store;
  report.id = id;
  report.counters = {
      {"capacity_bytes", info.capacity_bytes},
      {"allocated_bytes", info.allocated_bytes},
      {"past_bytes", info.past_bytes},
      {"journal_bytes", info.journal_bytes},
      {"journal_used_bytes", info.journal_used_bytes},
      {"segments", info.segment_count},
      {"reads", stats.reads},
      {"read_bytes", stats.read_bytes},
      {"writes", stats.writes},
      {"write_bytes", stats.write_bytes},
      {"device_writes", stats.device_writes},
      {"device_write_bytes", stats.device_write_bytes},
      {"device_reads", stats.device_reads},
      {"device_read_bytes", stats.device_read_bytes},
      {"device_flushes", stats.device_flushes},
      {"journal_batches", stats.journal_batches},
      {"checkpoints", stats.checkpoints},
      {"checksum_errors", stats.checksum_errors},
      {"read_errors", stats.read_errors},
      {"recovered_batches", stats.recovered_batches},
  };
  return report;
}

CounterReport HostPlane::volume_counters(const Uuid& id, const Attached& attached,
                                         const nbd::NbdStats& nbd) const {
  const engine::VolumeStats& stats = attached.volume->stats();
  CounterReport report;
  report.subject = CounterReport::Subject::volume;
  report.id = id;
  report.counters = {
      {"reads", stats.reads},
      {"read_bytes", stats.read_bytes},
      {"writes", stats.writes},
      {"write_bytes", stats.write_bytes},
      {"flushes", stats.flushes},
      {"trims", stats.trims},
      {"errors", stats.errors},
      {"remote_reads", stats.remote_reads},
      {"resync_bytes", stats.resync_bytes},
      {"reconcile_bytes", stats.reconcile_bytes},
      {"open_duration_us", stats.open_duration_us},
      {"base_chunks", attached.base ? attached.base->top().chunks_of_base() : 0},
  };
  Histogram read = histogram("read_latency_us", attached.io->latency_us(Op::read));
  Histogram write = histogram("write_latency_us", attached.io->latency_us(Op::write));
  Histogram flush = histogram("flush_latency_us", attached.io->latency_us(Op::flush));
  for (const nbd::ExportStats& exported : nbd.exports) {
    const auto found = exports_.find(exported.name);
    if (found == exports_.end() || found->second != id) continue;
    add(read, exported.ops[static_cast<std::size_t>(nbd::OpKind::read)].latency_us);
    add(write, exported.ops[static_cast<std::size_t>(nbd::OpKind::write)].latency_us);
    add(flush, exported.ops[static_cast<std::size_t>(nbd::OpKind::flush)].latency_us);
  }
  report.histograms = {std::move(read), std::move(write), std::move(flush)};
  return report;
}

}  // namespace blockd::border
