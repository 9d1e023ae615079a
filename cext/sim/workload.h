// Clients of a simulated volume: random requests of every kind and alignment, all noted in a
// History.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "sim/cluster.h"
#include "sim/history.h"

namespace blockd::sim {

class Workload {
 public:
  // On `span_bytes` from `base_bytes` of the volume on (small: many overlaps).
  Workload(SimCluster& cluster, std::uint64_t span_bytes, std::uint64_t base_bytes = 0);
  ~Workload();

  // Keeps `depth` requests under way at the host's volume until stop(); those of a dead process are
  // never answered.
  void start(std::uint32_t host, std::uint32_t depth);
  void stop() { running_ = false; }
  [[nodiscard]] bool idle() const;
  // Reads everything through the host's volume into the history. False: not within max_us.
  bool read_all(std::uint32_t host, std::vector<std::uint64_t>& tags,
                std::uint64_t max_us = 60'000'000);
  bool flush(std::uint32_t host, std::uint64_t max_us = 60'000'000);

  std::uint64_t think_us = 8'000;  // at most, between an answer and the next request

  // Which writes the bytes are of; wrong() says when they are nobody's.
  [[nodiscard]] std::vector<std::uint64_t> tags_of(const std::byte* data, std::uint64_t first,
                                                   std::uint64_t count);

  [[nodiscard]] History& history() { return history_; }
  [[nodiscard]] std::uint64_t answered() const { return answered_; }
  [[nodiscard]] std::uint64_t failed() const { return failed_; }
  [[nodiscard]] const std::string& wrong() const { return wrong_; }
  [[nodiscard]] const char* unread() const { return unread_; }  // why read_all() failed

 private:
  struct Client;
  void next_in(Client& client, std::uint64_t delay_us);
  void next(Client& client);
  void fill(Client& client);
  void done(Client& client);

  SimCluster& cluster_;
  std::uint64_t base_bytes_;
  std::uint64_t sectors_;
  History history_;
  std::vector<std::unique_ptr<Client>> clients_;
  bool running_ = true;
  std::uint64_t next_tag_ = 1;
  std::uint64_t answered_ = 0;
  std::uint64_t failed_ = 0;
  std::string wrong_;
  char unread_[64] = {};
};

}  // namespace blockd::sim
