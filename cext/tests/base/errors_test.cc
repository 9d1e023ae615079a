// The error table gives every error a name, a meaning and an NBD errno; Random repeats itself.
#include "blockd/errors.h"

#include <doctest/doctest.h>

#include <cerrno>
#include <set>
#include <string>

#include "base/random.h"
#include "base/result.h"

using namespace blockd;

TEST_CASE("errors are named, explained, and numbered once") {
  std::set<std::string> names;
  int count = 0;
#define BLOCKD_ERROR(number, name, kind, nbd, grpc, exit, meaning) \
  CHECK(static_cast<int>(Error::name) == number);                  \
  CHECK(std::string(error_name(Error::name)) == #name);            \
  CHECK(std::string(error_meaning(Error::name)).size() > 3);       \
  CHECK(error_nbd_errno(Error::name) == nbd);                      \
  names.insert(#name);                                             \
  ++count;
#include "blockd/errors.def"
#undef BLOCKD_ERROR
  CHECK(names.size() == static_cast<std::size_t>(count));
  CHECK(std::string(error_name(static_cast<Error>(9999))) == "Unknown");
  CHECK(error_nbd_errno(static_cast<Error>(9999)) == EIO);
}

TEST_CASE("a result is a value or an error") {
  const Result<int> value = 7;
  const Result<int> error = Error::NoSpace;
  CHECK(value.ok());
  CHECK(value.value() == 7);
  CHECK_FALSE(error.ok());
  CHECK(error.error() == Error::NoSpace);
}

TEST_CASE("the same seed gives the same numbers, within their bounds") {
  Random a(42), b(42), c(43);
  bool differs = false;
  for (int i = 0; i < 1000; ++i) {
    const std::uint64_t x = a.next();
    CHECK(x == b.next());
    differs = differs || x != c.next();
  }
  CHECK(differs);
  for (int i = 0; i < 1000; ++i) {
    CHECK(a.below(7) < 7);
    const std::uint64_t x = a.between(5, 9);
    CHECK(x >= 5);
    CHECK(x <= 9);
  }
  CHECK_FALSE(a.chance(0));
  CHECK(a.chance(1));
}
