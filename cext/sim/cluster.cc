#include "sim/cluster.h"

#include <algorithm>
#include <map>

#include "base/assert.h"

namespace blockd::sim {

namespace {

constexpr std::uint64_t kMetaDelayUsMax = 20'000;

Uuid numbered(std::uint8_t kind, std::uint32_t number) {
  Uuid id;
  id.bytes[0] = kind;
  id.bytes[15] = static_cast<std::uint8_t>(number + 1);
  return id;
}

std::string describe(const store::ChunkDigest& digest) {
  return "version " + std::to_string(digest.version.epoch) + "." +
         std::to_string(digest.version.seq) + " mask " + std::to_string(digest.valid_mask) +
         " digest " + std::to_string(digest.digest);
}

}  // namespace

// What the host daemon does between an engine and the metadata service.
class Agent final : public engine::VolumeEvents {
 public:
  Agent(SimCluster& cluster, std::uint32_t host, std::uint64_t epoch)
      : cluster_(cluster), host_(host), epoch_(epoch) {}

  void in_sync_change_wanted(const Uuid&, std::uint32_t segment, std::uint64_t generation,
                             const std::vector<Uuid>& in_sync, const char*) noexcept override {
    cluster_.change_in_sync(host_, epoch_, segment, generation, in_sync);
  }
  void state_changed(const Uuid&, engine::VolumeState, Error) noexcept override {}
  void notice(const Uuid&, std::uint32_t, const Uuid& about, const char* kind,
              std::uint64_t value) noexcept override {
    cluster_.noticed(host_, epoch_, about, kind, value);
    cluster_.audit_.told(kind);
  }
  void preserve(const Uuid&, engine::Preserve& content) noexcept override {
    cluster_.preserve(host_, epoch_, content);
  }

 private:
  SimCluster& cluster_;
  std::uint32_t host_;
  std::uint64_t epoch_;
};

// What it does with what the hub has to say.
class Refusals final : public peer::HubWatcher {
 public:
  explicit Refusals(SimCluster& cluster) : cluster_(cluster) {}
  void peer_refused(const Uuid&, Error reason) noexcept override {
    cluster_.notices_.emplace_back("peer-refused", static_cast<std::uint64_t>(reason));
  }

 private:
  SimCluster& cluster_;
};

// What the stores of the cluster do to their contents, for the check of conflicts.
class StoreWatcher final : public FakeWatcher {
 public:
  StoreWatcher(Branches& branches, Uuid host) : branches_(branches), host_(host) {}
  void mutates(const FakeSegment& segment, const FakeMutation& m) override {
    branches_.watch(host_, segment, m);
  }
  void reaps(const FakeSegment& segment, std::uint32_t chunk, Version version) override {
    branches_.reaped(host_, segment.info.id, chunk, version);
  }

 private:
  Branches& branches_;
  Uuid host_;
};

SimCluster::SimCluster(const ClusterOptions& options)
    : options_(options),
      world_(options.seed),
      fabric_(world_),
      cluster_id_(numbered(0xc1, 0)),
      volume_id_(numbered(0x70, 0)) {
  for (std::uint32_t i = 0; i < options_.hosts; ++i) {
    Host host;
    host.name = "host" + std::to_string(i);
    host.id = numbered(0x40, i);
    host.store_id = numbered(0x50, i);
    if (options_.make_medium) {
      host.medium = options_.make_medium(world_, host.store_id, cluster_id_);
    } else {
      auto fake = std::make_unique<FakeStoreMedium>(world_, host.store_id, cluster_id_);
      host.watcher = std::make_unique<StoreWatcher>(branches_, host.id);
      fake->medium().watcher = host.watcher.get();
      host.medium = std::move(fake);
    }
    hosts_.push_back(std::move(host));
  }
  for (std::uint32_t i = 0; i < options_.hosts; ++i) boot(i);
  const auto segments =
      static_cast<std::uint32_t>((options_.volume_bytes + kSegmentBytes - 1) / kSegmentBytes);
  std::uint32_t left = 0;
  for (std::uint32_t segment = 0; segment < segments; ++segment) {
    MetaSegment meta;
    meta.in_sync.assign(options_.hosts, false);
    const std::uint64_t bytes =
        std::min(kSegmentBytes, options_.volume_bytes - segment * kSegmentBytes);
    for (std::uint32_t i = 0; i < options_.replicas; ++i) {
      meta.in_sync[i] = true;
      ++left;
      hosts_[i].process->store->create_segment(
          {volume_id_, segment},
          static_cast<std::uint32_t>((bytes + kBlockBytes - 1) / kBlockBytes),
          [&left](Error error) {
            BLOCKD_ASSERT(error == Error::Ok);
            --left;
          });
    }
    meta_.push_back(meta);
  }
  BLOCKD_ASSERT(world_.run_until([&] { return left == 0; }, 10'000'000));
  world_.after_step = [this](std::uint64_t loop_id) { audit_.look(loop_id); };
}

SimCluster::~SimCluster() {
  world_.after_step = nullptr;
  for (std::uint32_t i = 0; i < host_count(); ++i) {
    if (alive(i)) kill(i, false);
  }
}

void SimCluster::boot(std::uint32_t index) {
  Host& host = hosts_[index];
  host.process = std::make_unique<Process>();
  Process& process = *host.process;
  process.loop = std::make_unique<io::SimLoop>(world_);
  process.loop->set_clock_offset_us(world_.random().below(1'000'000'000));
  const std::uint64_t error_ppm = options_.clock_error_ppm;
  process.loop->set_clock_drift_ppm(
      static_cast<std::int64_t>(world_.random().below(2 * error_ppm + 1)) -
      static_cast<std::int64_t>(error_ppm));
  process.buffers = std::make_unique<Buffers>(128, 160, 64);
  process.network = std::make_unique<io::SimNetwork>(fabric_, *process.loop, host.name);
  process.store = host.medium->open(*process.loop, *process.buffers);
  process.watcher = std::make_unique<Refusals>(*this);
  peer::HubConfig config{host.id, cluster_id_, options_.lease_us, options_.heartbeat_us,
                         options_.member_timeout_us};
  if (index < options_.wire_versions.size())
    config.wire_version_max = options_.wire_versions[index];
  config.watcher = process.watcher.get();
  process.hub = peer::PeerHub::create(*process.loop, *process.buffers, *process.network, config);
  process.pace = std::make_unique<engine::ResyncPace>(*process.loop, 0);
  (void)process.hub->listen("tcp:" + host.name + ":7000");
  process.hub->add_store(*process.store);
  for (const Host& other : hosts_) {
    if (&other != &host) process.hub->set_peer(other.id, "tcp:" + other.name + ":7000");
  }
  if (era_ > 1) tell_snapshots(index);
}

void SimCluster::kill(std::uint32_t index, bool power_loss) {
  Host& host = hosts_[index];
  BLOCKD_ASSERT(host.process);
  if (power_loss) audit_.power_lost(index);
  host.process->loop->kill();
  host.medium->killed(power_loss);
  graves_.push_back(std::move(host.process));
}

void SimCluster::restart(std::uint32_t index) {
  BLOCKD_ASSERT(!alive(index));
  boot(index);
}

void SimCluster::partition(std::uint32_t a, std::uint32_t b, bool parted) {
  fabric_.partition(hosts_[a].name, hosts_[b].name, parted);
}

void SimCluster::reset_links(std::uint32_t a, std::uint32_t b) {
  fabric_.reset_links(hosts_[a].name, hosts_[b].name);
}

void SimCluster::block(std::uint32_t from, std::uint32_t to, bool blocked) {
  fabric_.block(hosts_[from].name, hosts_[to].name, blocked);
}

void SimCluster::upgrade(std::uint32_t index) {
  if (index < options_.wire_versions.size())
    options_.wire_versions[index] = format::kWireVersionMax;
}

void SimCluster::pause(std::uint32_t index, std::uint64_t us) {
  if (alive(index)) hosts_[index].process->loop->pause(us);
}

void SimCluster::set_clock(std::uint32_t index, std::int64_t error_ppm) {
  if (alive(index)) hosts_[index].process->loop->set_clock_drift_ppm(error_ppm);
}

void SimCluster::set_delays(std::uint64_t us_min, std::uint64_t us_max) {
  fabric_.set_delays(us_min, us_max);
}

void SimCluster::heal() {
  fabric_.heal();
  const io::SimFabricOptions usual;
  fabric_.set_delays(usual.delay_us_min, usual.delay_us_max);
  meta_reachable = true;
  meta_delay_us_max = kMetaDelayUsMax;
  for (Host& host : hosts_) host.cut = false;
}

// --- the metadata service
// ----------------------------------------------------------------------------

engine::SegmentConfig SimCluster::segment_config(std::uint32_t segment,
                                                 std::uint32_t viewer) const {
  engine::SegmentConfig config;
  config.index = segment;
  config.generation = meta_[segment].generation;
  for (std::uint32_t i = 0; i < options_.replicas; ++i) {
    const std::uint32_t distance = i == viewer ? 0 : 1 + (i + host_count() - viewer) % host_count();
    config.members.push_back(
        {hosts_[i].id, hosts_[i].store_id, distance, meta_[segment].in_sync[i]});
  }
  return config;
}

engine::Volume& SimCluster::attach(std::uint32_t index) {
  Process& process = *hosts_[index].process;
  BLOCKD_ASSERT(!process.volume);
  engine::VolumeConfig config;
  config.id = volume_id_;
  config.name = "v";
  config.size_bytes = options_.volume_bytes;
  config.epoch = process.epoch = ++epoch_;
  config.era = process.opened_in = era_;
  config.min_in_sync = options_.min_in_sync;
  config.io_timeout_us = options_.io_timeout_us;
  for (std::uint32_t segment = 0; segment < meta_.size(); ++segment) {
    config.segments.push_back(segment_config(segment, index));
  }
  process.events = std::make_unique<Agent>(*this, index, epoch_);
  process.volume = engine::Volume::create(*process.loop, *process.buffers, *process.hub,
                                          *process.pace, *process.events, std::move(config));
  process.volume->start();
  return *process.volume;
}

bool SimCluster::detach(std::uint32_t index, std::uint64_t max_us) {
  Process& process = *hosts_[index].process;
  if (process.closing == Process::Closing::no) {
    process.closing = Process::Closing::under_way;
    process.volume->close([&process](Error) { process.closing = Process::Closing::done; });
  }
  const auto over = [&] { return !alive(index) || process.closing == Process::Closing::done; };
  if (!world_.run_until(over, max_us) || !alive(index)) return false;
  process.volume.reset();
  process.closing = Process::Closing::no;
  return true;
}

Error SimCluster::shrink(std::uint32_t index, std::uint64_t size_bytes) {
  Error told = Error::Ok;
  bool over = false;
  volume(index)->shrink(size_bytes, true, [&](Error error) {
    told = error;
    over = true;
  });
  BLOCKD_ASSERT(world_.run_until([&] { return over; }, 60'000'000));
  if (told == Error::Ok) options_.volume_bytes = size_bytes;
  return told;
}

bool SimCluster::grow(std::uint32_t index, std::uint64_t size_bytes) {
  BLOCKD_ASSERT(size_bytes <= kSegmentBytes && size_bytes > options_.volume_bytes);
  std::uint32_t left = options_.replicas;
  for (std::uint32_t i = 0; i < options_.replicas; ++i) {
    store::Store& store = *hosts_[i].process->store;
    const auto handle = store.find_segment({volume_id_, 0});
    BLOCKD_ASSERT(handle);
    store.resize_segment(*handle, static_cast<std::uint32_t>(size_bytes / kBlockBytes),
                         [&left](Error) { --left; });
  }
  bool grown = false;
  if (!world_.run_until([&] { return left == 0; }, 60'000'000)) return false;
  volume(index)->grow(size_bytes, {}, [&grown](Error error) { grown = error == Error::Ok; });
  options_.volume_bytes = size_bytes;
  return world_.run_until([&] { return grown; }, 60'000'000);
}

engine::Volume* SimCluster::volume_of(std::uint32_t host, std::uint64_t epoch) {
  Process* process = hosts_[host].process.get();
  return process && process->volume && process->epoch == epoch ? process->volume.get() : nullptr;
}

std::uint64_t SimCluster::meta_delay_us() {
  return world_.random().between(500, std::max<std::uint64_t>(500, meta_delay_us_max));
}

// What the metadata service tells an attachment is heard by its process, when that runs.
io::SimLoop* SimCluster::loop_of(std::uint32_t host, std::uint64_t epoch) {
  return volume_of(host, epoch) ? hosts_[host].process->loop.get() : nullptr;
}

void SimCluster::change_in_sync(std::uint32_t host, std::uint64_t epoch, std::uint32_t segment,
                                std::uint64_t generation, std::vector<Uuid> in_sync) {
  if (!reaches_metadata(host)) return;
  world_.after(meta_delay_us(), nullptr, [this, host, epoch, segment, generation, in_sync] {
    if (!meta_reachable) return;
    MetaSegment& meta = meta_[segment];
    if (epoch == epoch_ && generation == meta.generation) {
      check_rules(meta, in_sync);
      ++meta.generation;
      for (std::uint32_t i = 0; i < host_count(); ++i) {
        meta.in_sync[i] = std::find(in_sync.begin(), in_sync.end(), hosts_[i].id) != in_sync.end();
      }
    }
    if (!world_.random().chance(8)) answer(host, epoch, segment);  // or it is lost
  });
}

// What the service refuses for good (blockd/rules/in_sync.py) an engine must not ask for: it would
// wait for ever.
void SimCluster::check_rules(const MetaSegment& meta, const std::vector<Uuid>& in_sync) const {
  BLOCKD_ASSERT(!in_sync.empty());
  for (std::uint32_t i = 0; i < host_count(); ++i) {
    const bool stays = std::find(in_sync.begin(), in_sync.end(), hosts_[i].id) != in_sync.end();
    BLOCKD_ASSERT(!meta.in_sync[i] || stays || in_sync.size() >= options_.min_in_sync);
  }
}

// What it says is of now; what it finds is of when it gets there.
void SimCluster::answer(std::uint32_t host, std::uint64_t epoch, std::uint32_t segment) {
  io::SimLoop* loop = loop_of(host, epoch);
  if (loop == nullptr) return;
  const bool over = epoch != epoch_;
  const engine::SegmentConfig config = segment_config(segment, host);
  world_.after(meta_delay_us(), loop, [this, host, epoch, segment, over, config] {
    engine::Volume* volume = volume_of(host, epoch);
    if (volume == nullptr || !reaches_metadata(host)) return;
    if (over) return volume->in_sync_change_failed(segment, Error::EpochFenced);
    volume->in_sync_changed(config);
  });
}

// --- branches
// ----------------------------------------------------------------------------------------

void SimCluster::noticed(std::uint32_t host, std::uint64_t epoch, const Uuid& about,
                         const std::string& kind, std::uint64_t value) {
  notices_.emplace_back(kind, value);
  const bool unreadable = kind == "diverged-unreadable" || kind == "unacknowledged-write-dropped";
  if (unreadable) branches_.told_unreadable(static_cast<std::uint32_t>(value));
  if (kind != "branch-wanted" || !reaches_metadata(host)) return;
  world_.after(meta_delay_us(), nullptr, [this, epoch, about] {
    if (meta_reachable && epoch == epoch_) branches_.make(about, false);
  });
}

// As a volume would that is written to with FUA: now and then it has no quorum, and the content may
// be there all the same.
void SimCluster::preserve(std::uint32_t host, std::uint64_t epoch, engine::Preserve& content) {
  const std::uint64_t fate = branches_stall_us != 0 ? 1 : world_.random().below(16);
  std::uint64_t delay_us = world_.random().between(100, fate == 0 ? 2'000'000 : 5'000);
  if (branches_stall_us != 0) delay_us = branches_stall_us;
  const auto done = [this, fate, &content] {
    content.error = fate == 1 ? Error::QuorumLost : branches_.keep(content);
    if (fate == 2 && content.error == Error::Ok) content.error = Error::WriteUnresolved;
    if (content.error == Error::AlreadyExists) {
      branches_.make(content.host, true);
      content.error = Error::NotFound;
    }
    content.done(content);
  };
  world_.after(delay_us, loop_of(host, epoch), done);
}

// --- snapshots
// ---------------------------------------------------------------------------------------

Era SimCluster::take_snapshot(std::uint32_t holder) {
  const Era taken = era_++;
  snapshots_.insert(taken);
  const std::uint64_t epoch = process(holder).epoch;
  world_.after(meta_delay_us(), loop_of(holder, epoch), [this, holder, epoch, taken] {
    engine::Volume* volume = volume_of(holder, epoch);
    if (volume == nullptr) return;  // a later attachment begins in a later era
    volume->begin_era(taken + 1, [this, epoch, taken](Error error) {
      if (error == Error::Ok && epoch == epoch_) final_.insert(taken);
    });
  });
  return taken;
}

void SimCluster::delete_snapshot(Era era) {
  snapshots_.erase(era);
  for (std::uint32_t i = 0; i < host_count(); ++i) {
    if (alive(i)) tell_snapshots(i);
  }
}

void SimCluster::tell_snapshots(std::uint32_t index) {
  const store::SnapshotSet set{volume_id_, era_, {snapshots_.begin(), snapshots_.end()}, 0};
  Process* process = hosts_[index].process.get();
  world_.after(world_.random().between(500, 300'000), process->loop.get(),
               [process, set] { process->store->set_snapshots(set); });
}

bool SimCluster::snapshot_final(Era era) {
  for (const Host& host : hosts_) {
    const Process* process = host.process.get();
    const bool opened = process && process->volume && process->epoch == epoch_ &&
                        process->volume->state() == engine::VolumeState::serving;
    if (opened && process->opened_in > era) final_.insert(era);
  }
  return final_.contains(era);
}

// --- looking
// -----------------------------------------------------------------------------------------

std::uint32_t SimCluster::in_sync_count(std::uint32_t segment) const {
  return static_cast<std::uint32_t>(
      std::count(meta_[segment].in_sync.begin(), meta_[segment].in_sync.end(), true));
}

bool SimCluster::all_in_sync(std::uint32_t holder) const {
  for (std::uint32_t segment = 0; segment < meta_.size(); ++segment) {
    if (in_sync_count(segment) != options_.replicas) return false;
  }
  const Process* process = hosts_[holder].process.get();
  if (process == nullptr || !process->volume) return false;
  return std::ranges::all_of(process->volume->status(), [&](const engine::SegmentStatus& status) {
    return status.in_sync.size() == options_.replicas && status.behind.empty();
  });
}

std::string SimCluster::compare_replicas() {
  for (std::uint32_t segment = 0; segment < meta_.size(); ++segment) {
    std::map<std::uint32_t, store::ChunkDigest> first;
    for (std::uint32_t i = 0; i < options_.replicas; ++i) {
      store::Store& store = *hosts_[i].process->store;
      const auto handle = store.find_segment({volume_id_, segment});
      if (!handle) return hosts_[i].name + " has no replica of segment " + std::to_string(segment);
      std::vector<store::ChunkDigest> digests(kChunksPerSegment);
      digests.resize(store.list_digests(*handle, 0, digests));
      std::map<std::uint32_t, store::ChunkDigest> mine;
      for (const store::ChunkDigest& digest : digests) {
        if (digest.valid_mask != 0) mine[digest.chunk] = digest;
      }
      if (i == 0) {
        first = mine;
        continue;
      }
      for (const auto& [chunk, digest] : first) {
        const auto found = mine.find(chunk);
        const bool same = found != mine.end() && found->second.version == digest.version &&
                          found->second.digest == digest.digest;
        if (same) continue;
        return hosts_[i].name + " differs from host0 in chunk " + std::to_string(chunk) + ": " +
               (found == mine.end() ? "nothing" : sim::describe(found->second)) + " for " +
               sim::describe(digest);
      }
      if (mine.size() != first.size()) return hosts_[i].name + " holds chunks that host0 does not";
    }
  }
  return {};
}

std::string SimCluster::describe(std::uint32_t host) {
  engine::Volume* volume = this->volume(host);
  if (volume == nullptr) return "no volume";
  std::string text = "state " + std::to_string(static_cast<int>(volume->state()));
  for (const engine::SegmentStatus& status : volume->status()) {
    text += "; segment " + std::to_string(status.index) + " state " +
            std::to_string(static_cast<int>(status.state)) + " generation " +
            std::to_string(status.generation) + " in sync " +
            std::to_string(status.in_sync.size()) + " joining " +
            std::to_string(status.joining.size()) + " absent " +
            std::to_string(status.absent.size()) + " in flight " + std::to_string(status.in_flight);
  }
  return text;
}

std::uint64_t SimCluster::notices(const std::string& kind) const {
  return static_cast<std::uint64_t>(std::count_if(
      notices_.begin(), notices_.end(), [&](const auto& notice) { return notice.first == kind; }));
}

}  // namespace blockd::sim
