// What the NBD server counts: plain values, written on the loop's thread, copied out by stats().
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace blockd::nbd {

// Bucket i counts requests that took [2^i, 2^(i+1)) microseconds; bucket 0 also those below 1 us,
// the last one everything above.
struct LatencyHistogram {
  static constexpr std::size_t kBuckets = 32;
  std::array<std::uint64_t, kBuckets> buckets{};

  void record(std::uint64_t duration_us) noexcept {
    const std::size_t bucket =
        duration_us == 0 ? 0 : std::size_t{static_cast<unsigned>(std::bit_width(duration_us))} - 1;
    ++buckets[bucket < kBuckets ? bucket : kBuckets - 1];
  }
};

enum class OpKind : std::uint8_t { read, write, flush, trim, write_zeroes };
inline constexpr std::size_t kOpKinds = 5;

struct OpStats {
  std::uint64_t requests = 0;   // answered, well or not
  std::uint64_t bytes = 0;      // of the requests answered without error
  std::uint64_t errors = 0;     // answered with an error, bad requests included
  LatencyHistogram latency_us;  // from the request's header to its reply being handed to the link
};

struct ExportStats {
  std::string name;
  std::uint64_t size_bytes = 0;
  std::uint32_t connections = 0;        // in transmission now
  std::array<OpStats, kOpKinds> ops{};  // by OpKind
};

struct NbdStats {
  std::uint32_t connections = 0;  // open now, handshakes included
  std::uint64_t connections_accepted = 0;
  std::uint64_t connections_refused = 0;  // over connections_max or without memory
  std::uint64_t handshakes_failed = 0;    // protocol broken, timed out, or no such export
  std::uint64_t protocol_errors = 0;      // connections closed for a broken request stream
  std::uint64_t evictions = 0;  // connections closed for sitting on memory others waited for
  std::uint64_t requests = 0;   // over all exports, removed ones included
  std::uint64_t bytes_read = 0;
  std::uint64_t bytes_written = 0;
  std::uint64_t errors = 0;
  std::vector<ExportStats> exports;  // by name
};

}  // namespace blockd::nbd
