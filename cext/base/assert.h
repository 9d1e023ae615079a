// Assertions stay on in release builds: they are for what only our own bug can break.
#pragma once

namespace blockd {

[[noreturn]] void assert_failed(const char* what, const char* file, int line) noexcept;

}  // namespace blockd

#define BLOCKD_ASSERT(condition)                               \
  do {                                                         \
    if (!(condition)) [[unlikely]] {                           \
      ::blockd::assert_failed(#condition, __FILE__, __LINE__); \
    }                                                          \
  } while (false)
