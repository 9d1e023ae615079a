#include "border/core.h"

#include <sys/stat.h>
#include <unistd.h>

#include <exception>
#include <utility>

#include "base/assert.h"
#include "border/outbox.h"
#include "border/reactor.h"
#include "io/uring_disk.h"
#include "store/inspection.h"

namespace blockd::border {
namespace {

// Runs `work`; what it throws becomes a code and a line.
template <class Work>
Error caught(std::string& message, Work work) noexcept {
  try {
    work();
    return Error::Ok;
  } catch (const Fault& fault) {
    message = fault.what();
    return fault.code();
  } catch (const std::bad_alloc&) {
    message = "out of memory";
    return Error::Busy;
  } catch (const std::exception& error) {
    message = error.what();
    return Error::Unsupported;
  }
}

// True: a new file was made. A file that is there is replaced only by force, and only when nobody
// has it open as a store.
bool make_file(io::UringLoop& loop, const std::string& path, std::uint64_t bytes, bool force) {
  struct stat found {};
  if (::stat(path.c_str(), &found) == 0) {
    if (!force) throw Fault(Error::AlreadyExists, path + ": the file exists already");
    if (!S_ISREG(found.st_mode)) {
      throw Fault(Error::InvalidArgument, path + ": not a file, so it cannot be given a size");
    }
    const io::UringDisk unused_elsewhere(loop, path);
    if (static_cast<std::uint64_t>(found.st_size) == bytes) return false;
    ::unlink(path.c_str());
  }
  io::UringDisk::create_file(path, bytes);
  return true;
}

IoJob job(Token token, IoJob::Op op, std::uint64_t offset, std::uint64_t length) {
  IoJob fresh;
  fresh.token = token;
  fresh.op = op;
  fresh.offset_bytes = offset;
  fresh.length_bytes = length;
  return fresh;
}

// The store's file as a disk, for a call that blocks; errors name the path.
template <class Use>
Error with_disk(const std::string& path, std::string& message, Use use) noexcept {
  return caught(message, [&] {
    io::UringLoop loop;  // never runs: only the blocking forms are used
    io::UringDisk disk(loop, path);
    try {
      use(disk);
    } catch (const Fault& fault) {
      throw Fault(fault.code(), path + ": " + fault.what());
    }
  });
}

}  // namespace

Error format_store(const std::string& path, const store::FormatOptions& options,
                   std::uint64_t size_bytes, std::string& message) noexcept {
  bool made = false;
  const Error error = caught(message, [&] {
    io::UringLoop loop;  // never runs: formatting uses the blocking forms
    if (size_bytes != 0) made = make_file(loop, path, size_bytes, options.force);
    io::UringDisk disk(loop, path);
    try {
      store::Store::format(disk, options);
    } catch (const Fault& fault) {
      throw Fault(fault.code(), path + ": " + fault.what());
    }
  });
  if (error != Error::Ok && made) ::unlink(path.c_str());
  return error;
}

Error check_store(const std::string& path, const store::CheckOptions& options, std::string& json,
                  std::string& message) noexcept {
  return with_disk(path, message, [&](io::Disk& disk) {
    json = store::to_json(store::check_store(disk, options));
  });
}

Error dump_store(const std::string& path, const store::DumpOptions& options, std::string& json,
                 std::string& message) noexcept {
  return with_disk(path, message, [&](io::Disk& disk) { json = store::dump_store(disk, options); });
}

Error look_at_store(const std::string& path, const Uuid& cluster_id, Reply& reply,
                    std::string& message) noexcept {
  return with_disk(path, message, [&](io::Disk& disk) {
    io::UringLoop loop;  // never runs
    Buffers buffers(8, 1, 1);
    store::ReadOnlyDisk read_only(disk);
    const auto found = store::Store::open(read_only, loop, buffers, {.cluster_id = cluster_id});
    reply.stores.push_back({found->info(), path});
    for (const store::SegmentHandle segment : found->segments())
      reply.replicas.push_back({found->segment_info(segment), found->info().store_id});
  });
}

Core::Core(const CoreConfig& config) noexcept
    : config_(config), outbox_(std::make_unique<Outbox>()) {}

Core::~Core() {
  if (!reactor_) return;
  if (reactor_->running()) reactor_->close(0);
  reactor_->join();
}

Error Core::start(std::string& message) noexcept {
  BLOCKD_ASSERT(!reactor_);
  return caught(message, [&] {
    if (outbox_->event_fd() < 0) throw Fault(Error::Busy, "no file descriptor left for an eventfd");
    auto fresh = std::make_unique<Reactor>(config_, *outbox_);
    fresh->start();
    reactor_ = std::move(fresh);
  });
}

void Core::close(Token token) noexcept {
  reactor_->close(token);
}
void Core::join() noexcept {
  reactor_->join();
}
int Core::event_fd() const noexcept {
  return outbox_->event_fd();
}

void Core::reap(std::vector<Completion>& completions, std::vector<Event>& events) noexcept {
  outbox_->take(completions, events);
}

void Core::open_store(Token token, const std::string& path,
                      const store::Openings& newest) noexcept {
  reactor_->give(token, [=](HostPlane& plane) { plane.open_store(token, path, newest); });
}

void Core::close_store(Token token, const Uuid& store) noexcept {
  reactor_->give(token, [=](HostPlane& plane) { plane.close_store(token, store); });
}

void Core::flush_store(Token token, const Uuid& store) noexcept {
  reactor_->give(token, [=](HostPlane& plane) { plane.flush_store(token, store); });
}

void Core::store_infos(Token token) noexcept {
  reactor_->give(token, [=](HostPlane& plane) { plane.store_infos(token); });
}

void Core::create_replica(Token token, const Uuid& store, const SegmentId& segment,
                          std::uint32_t block_count) noexcept {
  reactor_->give(
      token, [=](HostPlane& plane) { plane.create_replica(token, store, segment, block_count); });
}

void Core::drop_replica(Token token, const SegmentId& segment) noexcept {
  reactor_->give(token, [=](HostPlane& plane) { plane.drop_replica(token, segment); });
}

void Core::list_replicas(Token token) noexcept {
  reactor_->give(token, [=](HostPlane& plane) { plane.list_replicas(token); });
}

void Core::list_digests(Token token, const SegmentId& segment, bool read) noexcept {
  reactor_->give(token, [=](HostPlane& plane) { plane.list_digests(token, segment, read); });
}

void Core::locate(Token token, const SegmentId& segment, std::uint32_t block) noexcept {
  reactor_->give(token, [=](HostPlane& plane) { plane.locate(token, segment, block); });
}

void Core::set_snapshots(Token token, const store::SnapshotSet& set) noexcept {
  reactor_->give(token, [=](HostPlane& plane) { plane.set_snapshots(token, set); });
}

void Core::changed_chunks(Token token, const SegmentId& segment,
                          const std::optional<ChunkView>& from, const ChunkView& to) noexcept {
  reactor_->give(token, [=](HostPlane& plane) { plane.changed_chunks(token, segment, from, to); });
}

void Core::start_scrub(Token token, const Uuid& store, std::uint64_t rate_bytes,
                       const ScrubCursor& cursor, std::uint64_t chunks_done) noexcept {
  reactor_->give(token, [=](HostPlane& plane) {
    plane.start_scrub(token, store, rate_bytes, cursor, chunks_done);
  });
}

void Core::stop_scrub(Token token, const Uuid& store) noexcept {
  reactor_->give(token, [=](HostPlane& plane) { plane.stop_scrub(token, store); });
}

void Core::scrub_reports(Token token) noexcept {
  reactor_->give(token, [=](HostPlane& plane) { plane.scrub_reports(token); });
}

void Core::repair_chunk(Token token, const SegmentId& segment, std::uint32_t chunk, Era born,
                        const Uuid& host) noexcept {
  reactor_->give(token,
                 [=](HostPlane& plane) { plane.repair_chunk(token, segment, chunk, born, host); });
}

void Core::listen_peers(Token token, const std::string& endpoint) noexcept {
  reactor_->give(token, [=](HostPlane& plane) { plane.listen_peers(token, endpoint); });
}

void Core::set_peer(Token token, const Uuid& host, const std::string& endpoint) noexcept {
  reactor_->give(token, [=](HostPlane& plane) { plane.set_peer(token, host, endpoint); });
}

void Core::attach(Token token, const engine::VolumeConfig& config,
                  const std::shared_ptr<const BaseSpec>& base) noexcept {
  reactor_->give(token, [=](HostPlane& plane) { plane.attach(token, config, base); });
}

void Core::attach_snapshot(Token token, const SnapshotSpec& spec) noexcept {
  reactor_->give(token, [=](HostPlane& plane) { plane.attach_snapshot(token, spec); });
}

void Core::detach(Token token, const Uuid& volume) noexcept {
  reactor_->give(token, [=](HostPlane& plane) { plane.detach(token, volume); });
}

void Core::in_sync_changed(Token token, const Uuid& volume,
                           const engine::SegmentConfig& segment) noexcept {
  reactor_->give(token, [=](HostPlane& plane) { plane.in_sync_changed(token, volume, segment); });
}

void Core::in_sync_change_failed(Token token, const Uuid& volume, std::uint32_t segment,
                                 Error error) noexcept {
  reactor_->give(
      token, [=](HostPlane& plane) { plane.in_sync_change_failed(token, volume, segment, error); });
}

void Core::grow(Token token, const Uuid& volume, std::uint64_t size_bytes,
                const std::vector<engine::SegmentConfig>& new_segments) noexcept {
  reactor_->give(token,
                 [=](HostPlane& plane) { plane.grow(token, volume, size_bytes, new_segments); });
}

void Core::shrink(Token token, const Uuid& volume, std::uint64_t size_bytes) noexcept {
  reactor_->give(token, [=](HostPlane& plane) { plane.shrink(token, volume, size_bytes); });
}

void Core::volume_status(Token token, const Uuid& volume) noexcept {
  reactor_->give(token, [=](HostPlane& plane) { plane.volume_status(token, volume); });
}

void Core::begin_era(Token token, const Uuid& volume, Era era) noexcept {
  reactor_->give(token, [=](HostPlane& plane) { plane.begin_era(token, volume, era); });
}

void Core::hold_mutations(Token token, const Uuid& volume, std::uint64_t for_us) noexcept {
  reactor_->give(token, [=](HostPlane& plane) { plane.hold_mutations(token, volume, for_us); });
}

void Core::flatten(Token token, const Uuid& volume, std::uint64_t bytes_per_second) noexcept {
  reactor_->give(token, [=](HostPlane& plane) { plane.flatten(token, volume, bytes_per_second); });
}

void Core::members_changed(Token token, const Uuid& volume,
                           const engine::SegmentConfig& segment) noexcept {
  reactor_->give(token, [=](HostPlane& plane) { plane.members_changed(token, volume, segment); });
}

void Core::set_branch(Token token, const Uuid& volume, const Uuid& host,
                      const Uuid& branch) noexcept {
  reactor_->give(token, [=](HostPlane& plane) { plane.set_branch(token, volume, host, branch); });
}

void Core::nbd_listen(Token token, const std::string& endpoint) noexcept {
  reactor_->give(token, [=](HostPlane& plane) { plane.nbd_listen(token, endpoint); });
}

void Core::nbd_close(Token token, const std::string& endpoint) noexcept {
  reactor_->give(token, [=](HostPlane& plane) { plane.nbd_close(token, endpoint); });
}

void Core::nbd_export(Token token, const Uuid& volume, const std::string& name,
                      const std::string& description, bool read_only) noexcept {
  reactor_->give(token, [=](HostPlane& plane) {
    plane.nbd_export(token, volume, name, description, read_only);
  });
}

void Core::nbd_unexport(Token token, const std::string& name) noexcept {
  reactor_->give(token, [=](HostPlane& plane) { plane.nbd_unexport(token, name); });
}

void Core::read(Token token, const Uuid& volume, std::uint64_t offset, void* into,
                std::uint64_t length) noexcept {
  IoJob fresh = job(token, IoJob::Op::read, offset, length);
  fresh.memory = static_cast<std::byte*>(into);
  give_io(volume, fresh);
}

void Core::write(Token token, const Uuid& volume, std::uint64_t offset, const void* from,
                 std::uint64_t length, bool fua) noexcept {
  IoJob fresh = job(token, IoJob::Op::write, offset, length);
  // A job has one pointer for both directions; a write's is only read from.
  fresh.memory = static_cast<std::byte*>(const_cast<void*>(from));
  fresh.fua = fua;
  give_io(volume, fresh);
}

void Core::flush(Token token, const Uuid& volume) noexcept {
  give_io(volume, job(token, IoJob::Op::flush, 0, 0));
}

void Core::trim(Token token, const Uuid& volume, std::uint64_t offset, std::uint64_t length,
                bool fua) noexcept {
  IoJob fresh = job(token, IoJob::Op::trim, offset, length);
  fresh.fua = fua;
  give_io(volume, fresh);
}

void Core::write_zeroes(Token token, const Uuid& volume, std::uint64_t offset, std::uint64_t length,
                        bool fua) noexcept {
  IoJob fresh = job(token, IoJob::Op::write_zeroes, offset, length);
  fresh.fua = fua;
  give_io(volume, fresh);
}

void Core::give_io(const Uuid& volume, const IoJob& fresh) noexcept {
  reactor_->give(fresh.token, [=](HostPlane& plane) {
    plane.submit_io(volume, std::make_unique<IoJob>(fresh));
  });
}

void Core::stats(Token token) noexcept {
  const Reactor& reactor = *reactor_;
  reactor_->give(token,
                 [token, &reactor](HostPlane& plane) { plane.stats(token, reactor.counters()); });
}

}  // namespace blockd::border
