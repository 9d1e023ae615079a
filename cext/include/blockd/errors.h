// The error codes of errors.def as a C++ enum; what every layer returns.
#pragma once

#include <cstdint>
#include <exception>
#include <string>

namespace blockd {

enum class Error : std::uint16_t {
#define BLOCKD_ERROR(number, name, kind, nbd, grpc, exit, meaning) name = number,
#include "blockd/errors.def"
#undef BLOCKD_ERROR
};

[[nodiscard]] const char* error_name(Error error) noexcept;     // "EpochFenced"
[[nodiscard]] const char* error_meaning(Error error) noexcept;  // the last column of errors.def
[[nodiscard]] int error_nbd_errno(Error error) noexcept;  // as the NBD specification numbers them

// Thrown at start-up only (format, open, listen); ends in border/ and carries the line a user
// reads.
class Fault : public std::exception {
 public:
  Fault(Error code, std::string message) : code_(code), message_(std::move(message)) {}
  [[nodiscard]] const char* what() const noexcept override { return message_.c_str(); }
  [[nodiscard]] Error code() const noexcept { return code_; }

 private:
  Error code_;
  std::string message_;
};

}  // namespace blockd
