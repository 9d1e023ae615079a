// Result<T>: a value or an Error, never both; must be looked at.
#pragma once

#include <utility>

#include "base/assert.h"
#include "blockd/errors.h"

namespace blockd {

template <class T>
class [[nodiscard]] Result {
 public:
  Result(T value) noexcept : value_(std::move(value)), error_(Error::Ok) {}  // NOLINT implicit
  Result(Error error) noexcept : error_(error) { BLOCKD_ASSERT(error != Error::Ok); }  // NOLINT

  [[nodiscard]] bool ok() const noexcept { return error_ == Error::Ok; }
  [[nodiscard]] Error error() const noexcept { return error_; }
  [[nodiscard]] T& value() noexcept {
    BLOCKD_ASSERT(ok());
    return value_;
  }
  [[nodiscard]] const T& value() const noexcept {
    BLOCKD_ASSERT(ok());
    return value_;
  }

 private:
  T value_{};
  Error error_;
};

}  // namespace blockd
