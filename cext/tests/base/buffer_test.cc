// Buffers go back when their last reference goes; waiters are told once, in order.
#include "base/buffer.h"

#include <doctest/doctest.h>

#include <cstdint>
#include <utility>
#include <vector>

#include "blockd/types.h"

using namespace blockd;

namespace {

struct Waiter : PoolWaiter {
  BufferPool* pool = nullptr;
  BufferRef got;
  int told = 0;
  bool take = true;
  explicit Waiter(BufferPool& from) : pool(&from) {
    ready = [](PoolWaiter& self) noexcept {
      auto& waiter = static_cast<Waiter&>(self);
      ++waiter.told;
      if (waiter.take) waiter.got = waiter.pool->get();
    };
  }
};

}  // namespace

TEST_CASE("a buffer is aligned, exclusive, and back when the last reference goes") {
  BufferPool pool(8192, 3);
  BufferRef a = pool.get();
  BufferRef b = pool.get();
  CHECK(reinterpret_cast<std::uintptr_t>(a.data()) % 4096 == 0);
  CHECK(a.data() != b.data());
  CHECK(a.capacity_bytes() == 8192);
  CHECK(pool.free_count() == 1);
  BufferRef copy = a;
  CHECK(a.use_count() == 2);
  a.reset();
  CHECK(pool.free_count() == 1);
  BufferRef moved = std::move(copy);
  CHECK_FALSE(copy);  // NOLINT moved from
  moved = BufferRef{};
  CHECK(pool.free_count() == 2);
}

TEST_CASE("an exhausted pool answers with a null reference and tells waiters in order") {
  BufferPool pool(4096, 1);
  BufferRef only = pool.get();
  CHECK_FALSE(pool.get());
  Waiter first(pool), second(pool), third(pool);
  for (Waiter* waiter : {&first, &second, &third}) pool.wait(*waiter);
  pool.wait(first);  // already waits
  pool.cancel(second);
  pool.cancel(second);
  only.reset();
  CHECK(first.told == 1);
  CHECK(first.got);
  CHECK(third.told == 0);
  first.got.reset();
  CHECK(third.told == 1);
  CHECK(third.got);
  CHECK(second.told == 0);
  third.got.reset();
  CHECK(first.told == 1);
}

TEST_CASE("a waiter that takes nothing passes the word on") {
  BufferPool pool(4096, 1);
  BufferRef only = pool.get();
  Waiter first(pool), second(pool);
  first.take = false;
  pool.wait(first);
  pool.wait(second);
  only.reset();
  CHECK(first.told == 1);
  CHECK(second.told == 0);
  pool.pass_on();
  CHECK(second.got);
}

TEST_CASE("the size classes: the smallest that fits") {
  Buffers buffers(2, 2, 2);
  CHECK(&buffers.pool_for(1) == &buffers.small);
  CHECK(&buffers.pool_for(4096) == &buffers.small);
  CHECK(&buffers.pool_for(4097) == &buffers.chunk);
  CHECK(&buffers.pool_for(kChunkBytes + kBlockBytes) == &buffers.chunk);
  CHECK(&buffers.pool_for(kMutationBytesMax + kBlockBytes) == &buffers.large);
}
