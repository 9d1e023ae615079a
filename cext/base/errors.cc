#include "blockd/errors.h"

#include <cerrno>

namespace blockd {

const char* error_name(Error error) noexcept {
  switch (error) {
#define BLOCKD_ERROR(number, name, kind, nbd, grpc, exit, meaning) \
  case Error::name:                                                \
    return #name;
#include "blockd/errors.def"
#undef BLOCKD_ERROR
  }
  return "Unknown";
}

const char* error_meaning(Error error) noexcept {
  switch (error) {
#define BLOCKD_ERROR(number, name, kind, nbd, grpc, exit, meaning) \
  case Error::name:                                                \
    return meaning;
#include "blockd/errors.def"
#undef BLOCKD_ERROR
  }
  return "an error of a newer version";
}

int error_nbd_errno(Error error) noexcept {
  switch (error) {
#define BLOCKD_ERROR(number, name, kind, nbd, grpc, exit, meaning) \
  case Error::name:                                                \
    return nbd;
#include "blockd/errors.def"
#undef BLOCKD_ERROR
  }
  return EIO;
}

}  // namespace blockd
