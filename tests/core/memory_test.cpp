#include <thread>

#include <tessera/core/tensor.hpp>

#include "support/catch.hpp"

using namespace tessera;

TEST_CASE("memory: the pool counts, caches and trims", "[core]") {
  const auto pool = std::make_shared<Pool<Cpu>>();
  auto a = pool->allocate(1000);
  const size_t in_use = pool->bytes_in_use();
  CHECK((in_use >= 1000 && in_use <= 1125));
  CHECK(reinterpret_cast<uintptr_t>(a.get()) % Memory<Cpu>::alignment == 0);
  void* const address = a.get();
  a.reset();
  CHECK((pool->bytes_in_use() == 0 && pool->bytes_cached() == in_use && pool->peak_bytes() == in_use));
  a = pool->allocate(990);  // the same size class
  CHECK((a.get() == address && pool->bytes_cached() == 0));
  auto b = pool->allocate(5000);
  CHECK(pool->peak_bytes() == pool->bytes_in_use());
  b.reset();
  pool->reset_peak();
  CHECK(pool->peak_bytes() == pool->bytes_in_use());
  pool->trim();
  CHECK(pool->bytes_cached() == 0);
}

TEST_CASE("memory: size classes waste an eighth at most", "[core]") {
  const auto pool = std::make_shared<Pool<Cpu>>();
  for (size_t bytes = 1024; bytes < 3'000'000; bytes = bytes * 21 / 20 + 1) {
    const auto block = pool->allocate(bytes);
    CHECK((pool->bytes_in_use() >= bytes && pool->bytes_in_use() <= bytes + bytes / 8 + 64));
  }
  CHECK(pool->allocate(0) != nullptr);
}

TEST_CASE("memory: without a cache nothing is kept; new buffers can be NaN", "[core]") {
  const auto pool = std::make_shared<Pool<Cpu>>(PoolOptions{.cache = false, .fill_with_nan = true});
  auto block = pool->allocate(64);
  CHECK(static_cast<const unsigned char*>(block.get())[63] == 0xff);
  block.reset();
  CHECK(pool->bytes_cached() == 0);
}

TEST_CASE("memory: freed blocks are kept up to a bound, the sizes in use longest", "[core]") {
  constexpr size_t unit = 64 * 1024;
  const auto pool = std::make_shared<Pool<Cpu>>(PoolOptions{.cached_bytes = 8 * unit});
  const auto use = [&](size_t units) { return pool->allocate(units * unit).get(); };  // and frees it
  // One block at a time, of ever new sizes: without a bound the cache would hold all of them.
  for (size_t units = 1; units <= 16; ++units) {
    use(units);
    CHECK(pool->bytes_cached() <= std::max(8 * unit, pool->peak_bytes()));
  }
  CHECK(pool->peak_bytes() == 16 * unit);
  CHECK(pool->bytes_cached() == 16 * unit);

  // Sizes that are asked for again and again stay; the one that is not goes.
  pool->trim();
  pool->reset_peak();
  void* const four = use(4);
  use(3);
  CHECK(use(4) == four);
  use(2);
  CHECK(pool->bytes_cached() == 6 * unit);  // 4 + 3 + 2 are more than 8: the 3 is gone
  CHECK(use(4) == four);

  // What was in use at once is kept, however much it is.
  std::vector<std::shared_ptr<void>> step;
  for (int i = 0; i < 20; ++i) step.push_back(pool->allocate(2 * unit));
  step.clear();
  CHECK(pool->bytes_cached() == 40 * unit);
  pool->trim(11 * unit);
  CHECK(pool->bytes_cached() == 10 * unit);
  pool->trim();
  CHECK(pool->bytes_cached() == 0);
}

TEST_CASE("memory: a tensor outlives its context", "[core]") {
  Tensor<float, 1> t;
  std::weak_ptr<Pool<Cpu>> pool;
  {
    Context<Cpu> ctx;
    pool = ctx.pool;
    t = Tensor<float, 1>(ctx, {1000});
  }
  REQUIRE(!pool.expired());
  t(999) = 3;
  CHECK(t(999) == 3);
  t = {};
  CHECK(pool.expired());
}

TEST_CASE("memory: impossible sizes are an error with the numbers", "[core]") {
  const auto pool = std::make_shared<Pool<Cpu>>();
  const auto held = pool->allocate(64);
  REQUIRE_ERROR(pool->allocate(size_t(-1)), Error, "more than memory can hold");
#if !defined(__SANITIZE_ADDRESS__)  // which ends the program where memory runs out
  REQUIRE_ERROR(pool->allocate(size_t(1) << 56), Error,
                "out of memory: 72057594037927936 bytes asked for while 64 are");
#endif
  CHECK(pool->bytes_in_use() == 64);
}

TEST_CASE("memory: threads may share a pool", "[core]") {
  const auto pool = std::make_shared<Pool<Cpu>>();
  std::vector<std::thread> threads;
  for (int id = 0; id < 4; ++id)
    threads.emplace_back([&pool, id] {
      for (size_t i = 1; i <= 2000; ++i) {
        const auto block = pool->allocate(i % 97 * 64 + 4);
        *static_cast<int*>(block.get()) = id;
      }
    });
  for (auto& thread : threads) thread.join();
  CHECK(pool->bytes_in_use() == 0);
}
