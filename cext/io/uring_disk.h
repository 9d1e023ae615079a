// A block device or file on io_uring, opened O_DIRECT and held exclusively.
//
// At most kQueueDepth requests are with the kernel, the others wait in order of submission; nothing
// allocates after opening. Short transfers are resumed. The descriptor is a fixed file, and
// requests of one piece inside registered memory use fixed buffers. All on the loop's thread, but
// for opening, which may come before run().
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>

#include "io/disk.h"
#include "io/uring_loop.h"

namespace blockd::io {

struct UringDiskOptions {
  bool allow_buffered =
      false;  // for file systems without O_DIRECT: durable all the same after a flush
};

struct UringDiskStats {
  std::uint64_t reads = 0, read_bytes = 0;
  std::uint64_t writes = 0, write_bytes = 0;
  std::uint64_t flushes = 0, discards = 0;
  std::uint64_t fixed = 0;    // of reads and writes: how many used a registered buffer
  std::uint64_t resumed = 0;  // transfers that came back short
  std::uint64_t errors = 0;
};

class UringDisk final : public Disk {
 public:
  // Throws Fault: NotFound, StoreInUse (open elsewhere, or mounted), Unsupported (no O_DIRECT),
  // InvalidArgument (not a file or device, no permission).
  UringDisk(UringLoop& loop, const std::string& path, UringDiskOptions options = {});
  ~UringDisk() override;
  UringDisk(const UringDisk&) = delete;
  UringDisk& operator=(const UringDisk&) = delete;

  // Makes a file of `bytes`, all of it allocated. Throws Fault: AlreadyExists, NoSpace, ...
  static void create_file(const std::string& path, std::uint64_t bytes);

  void submit(DiskRequest& request) noexcept override;
  [[nodiscard]] std::uint64_t capacity_bytes() const noexcept override { return capacity_bytes_; }
  [[nodiscard]] Error read_now(std::uint64_t offset_bytes,
                               std::span<std::byte> into) noexcept override;
  [[nodiscard]] Error write_now(std::uint64_t offset_bytes,
                                std::span<const std::byte> from) noexcept override;
  [[nodiscard]] Error flush_now() noexcept override;
  void register_memory(std::span<std::byte> memory) noexcept override {
    loop_.register_memory(memory);
  }
  void unregister_memory(std::span<std::byte> memory) noexcept override {
    loop_.unregister_memory(memory);
  }

  [[nodiscard]] const UringDiskStats& stats() const noexcept { return stats_; }
  [[nodiscard]] bool is_direct() const noexcept { return direct_; }

 private:
  static constexpr std::size_t kQueueDepth = 256;
  struct Slot : UringOp {
    DiskRequest* request = nullptr;
    std::uint64_t done_bytes = 0;
    std::uint64_t total_bytes = 0;
    Slot* next = nullptr;
  };

  void open(const std::string& path, UringDiskOptions options);
  void measure(const std::string& path);
  void start(Slot& slot) noexcept;
  void prepare(io_uring_sqe& sqe, const Slot& slot) noexcept;
  void prepare_transfer(io_uring_sqe& sqe, const Slot& slot) noexcept;
  void completed(Slot& slot, std::int32_t result) noexcept;
  void finish(Slot& slot, Error error) noexcept;
  void count(const Slot& slot) noexcept;

  UringLoop& loop_;
  int fd_ = -1;
  std::optional<std::uint32_t> file_index_;
  bool direct_ = true;
  bool is_device_ = false;
  std::uint64_t capacity_bytes_ = 0;
  std::array<Slot, kQueueDepth> slots_;
  Slot* free_slots_ = nullptr;
  std::size_t in_flight_ = 0;
  DiskRequest* waiting_head_ = nullptr;
  DiskRequest* waiting_tail_ = nullptr;
  UringDiskStats stats_;
};

}  // namespace blockd::io
