// Fuzzes one NBD connection, handshake and transmission, through the harness that the tests use.
#include <cstddef>
#include <cstdint>

#include "tests/nbd/connection_harness.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  blockd::nbd::ConnectionHarness harness({data, size});
  harness.run();
  return 0;
}
