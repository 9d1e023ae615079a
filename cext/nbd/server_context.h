// What the connections of one server share: its parts, its bounds, its exports and its counters.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>

#include "nbd/connection.h"
#include "nbd/export.h"
#include "nbd/memory_budget.h"
#include "nbd/nbd_server.h"

namespace blockd::nbd {

struct ServerContext final : ExportDirectory, io::AcceptHandler {
  ServerContext(io::Loop& loop_, Buffers& buffers_, io::Network& network_, NbdConfig config_);
  ~ServerContext() override;
  ServerContext(const ServerContext&) = delete;
  ServerContext& operator=(const ServerContext&) = delete;

  // ExportDirectory: exports being removed are no longer there.
  [[nodiscard]] const ExportInfo* find(std::string_view name) const noexcept override;
  [[nodiscard]] const ExportInfo* at(std::size_t index) const noexcept override;
  [[nodiscard]] bool shutting_down() const noexcept override { return closing; }

  io::LinkHandler* accepted(std::unique_ptr<io::Link> link) noexcept override;

  // The export behind what a handshake negotiated.
  [[nodiscard]] Export& adopt(const ExportInfo& info) noexcept;
  void drain(Export& target, std::function<void(Error)> removed);
  void end_handshakes() noexcept;
  // From the connection's own task, as its last act: destroys it.
  void connection_ended(Connection& connection) noexcept;

  // As MemoryBudget::take(); who has to wait is watched.
  [[nodiscard]] bool take_memory(BudgetWaiter& waiter, std::uint64_t bytes) noexcept;
  // Somebody waits for memory: should clients that sit on some make no move for stall_timeout_us,
  // they are cut off, the idlest first. Nobody is while nobody waits.
  void watch_memory() noexcept;
  void count(Export& target, const Request& answered, std::uint64_t duration_us) noexcept;

  // Something may have come to its end: say so from the loop.
  void settle_later() noexcept { loop.defer(settle_task); }

  io::Loop& loop;
  Buffers& buffers;
  io::Network& network;
  const NbdConfig config;
  MemoryBudget budget;
  const std::uint32_t request_bytes_max;
  NbdStats totals;  // without the exports
  std::map<std::string, std::unique_ptr<Export>, std::less<>> exports;
  Connection* connections = nullptr;  // newest first
  bool closing = false;
  std::function<void()> closed;
  std::vector<std::function<void(Error)>> not_found;  // answers owed by remove_export()
  io::Task settle_task;
  io::Timer stall_timer;

 private:
  void relieve_memory() noexcept;
  void settle();
};

}  // namespace blockd::nbd
