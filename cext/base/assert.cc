#include "base/assert.h"

#include <cstdio>
#include <cstdlib>

namespace blockd {

void assert_failed(const char* what, const char* file, int line) noexcept {
  std::fprintf(stderr, "blockd: assertion failed: %s at %s:%d\n", what, file, line);
  std::abort();
}

}  // namespace blockd
