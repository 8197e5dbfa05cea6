// The Cuda device itself: memory, streams, events, staging, graphs of whole steps, and how it fails.
#include <tessera/kernels/matmul.cuh>
#include <tessera/kernels/elementwise.cuh>
#include <tessera/kernels/layernorm.cuh>

#include <tessera/cuda/graph.hpp>
#include <tessera/cuda/nvtx.hpp>

#include "support/catch.hpp"
#include "support/kernels.hpp"

using namespace tessera;
using namespace tessera_test;

TEST_CASE("cuda: a tensor outlives its context, and its memory comes back", "[cuda]") {
  std::shared_ptr<Pool<Cuda>> pool;
  Tensor<float, 1, Cuda> kept;
  {
    Context<Cuda> ctx;
    pool = ctx.pool;
    kept = Tensor<float, 1, Cuda>::from_host(ctx, {3}, {1, 2, 3});
    const void* first = Tensor<float, 1, Cuda>(ctx, {1000}).data;
    CHECK(Tensor<float, 1, Cuda>(ctx, {1000}).data == first);
  }
  CHECK(to_host(kept) == std::vector<float>{1, 2, 3});
  CHECK(pool->bytes_in_use() == 64);
  kept = {};
  CHECK(pool->bytes_in_use() == 0);
  CHECK(pool->bytes_cached() > 0);
  pool->trim();
  CHECK(pool->bytes_cached() == 0);
}

TEST_CASE("cuda: fills and NaN-filled contexts", "[cuda]") {
  Context<Cuda> ctx({.seed = 0, .memory = {.fill_with_nan = true}});
  Tensor<float, 1, Cuda> t(ctx, {5});
  for (const float v : to_host(t)) CHECK(std::isnan(v));
  t.set_zero();
  CHECK(to_host(t) == std::vector<float>(5, 0.0f));
}

TEST_CASE("cuda: more memory than there is, is an error with a sentence", "[cuda]") {
  Context<Cuda> ctx;
  REQUIRE_ERROR((Tensor<float, 1, Cuda>(ctx, {int64_t(1) << 43})), Error, "out of memory");
  CHECK(to_host(Tensor<float, 1, Cuda>::zeros(ctx, {2})) == std::vector<float>{0, 0});  // and all goes on
}

TEST_CASE("cuda: staged copies larger than their buffers arrive whole", "[cuda]") {
  Context<Cuda> ctx;
  cuda::Staging staging(1 << 12);
  std::vector<float> values(10000);
  for (size_t i = 0; i < values.size(); ++i) values[i] = float(i);
  Tensor<float, 1, Cuda> t(ctx, {10000});
  staging.copy_to_device(*ctx.stream, t.data, values.data(), values.size() * sizeof(float));
  const auto expected = values;
  std::fill(values.begin(), values.end(), -1.0f);  // the copy has been taken already
  CHECK(to_host(t) == expected);
}

TEST_CASE("cuda: a stream waits for another's event; events tell the time", "[cuda]") {
  Context<Cuda> first, second;
  const auto x = Tensor<float, 1, Cuda>::from_host(first, {1 << 20}, std::vector<float>(1 << 20, 1.0f));
  cuda::Event begun, done;
  begun.record(*first.stream);
  auto sum = add(first, x, x);
  for (int i = 0; i < 20; ++i) sum = add(first, sum, x);
  done.record(*first.stream);
  second.stream->wait(done);
  const auto twice = add(second, sum, sum);
  second.synchronize();
  CHECK(to_host(twice).back() == 44.0f);
  CHECK(cuda::milliseconds_between(begun, done) > 0.0f);
}

TEST_CASE("cuda: a captured step repeats itself on new contents of the same tensors", "[cuda]") {
  Context<Cuda> ctx;
  auto x = Tensor<float, 2, Cuda>::from_host(ctx, {4, 64}, std::vector<float>(256, 1.0f));
  const auto weight = Tensor<float, 1, Cuda>::from_host(ctx, {64}, std::vector<float>(64, 2.0f));
  const auto bias = Tensor<float, 1, Cuda>::from_host(ctx, {64}, std::vector<float>(64, 0.5f));
  const auto matrix = Tensor<float, 2, Cuda>::from_host(ctx, {64, 64}, std::vector<float>(64 * 64, 0.01f));
  Tensor<float, 2, Cuda> out(ctx, {4, 64});
  const auto step = [&] {
    const cuda::Range range("step");
    const auto normalised = layernorm(ctx, x, weight, bias);
    auto zeros = Tensor<float, 2, Cuda>::zeros(ctx, {4, 64});
    const auto shifted = add(ctx, normalised, zeros);
    matmul_forward(ctx, view(out), {}, shifted, matrix, {});
  };
  step();
  const auto pool = ctx.pool;
  auto graph = cuda::capture(ctx, step);
  CHECK(ctx.pool == pool);
  CHECK(graph.nodes() >= 4);
  std::vector<float> values(256);
  for (int round = 0; round < 3; ++round) {
    for (size_t i = 0; i < values.size(); ++i) values[i] = float((i * 7 + size_t(round)) % 13);
    Memory<Cuda>::from_host(x.data, values.data(), values.size() * sizeof(float));
    step();
    const auto expected = to_host(out);
    out.set_zero();
    Tensor<float, 1, Cuda>(ctx, {256}).set_zero();  // would hit the graph's memory if it were not its own
    graph.launch(ctx);
    CHECK(to_host(out) == expected);
  }
}

TEST_CASE("cuda: what a graph cannot repeat is refused, and the context is as before", "[cuda]") {
  Context<Cuda> ctx;
  auto x = Tensor<float, 1, Cuda>::zeros(ctx, {8});
  REQUIRE_ERROR(cuda::capture(ctx, [&] { to_host(x); }), cuda::Fault, "captured as a graph");
  REQUIRE_ERROR(cuda::capture(ctx, [&] { cuda::capture(ctx, [] {}); }), cuda::Fault, "already capturing");
  CHECK(to_host(add(ctx, x, x)) == std::vector<float>(8, 0.0f));
}

TEST_CASE("cuda: a launch that cannot be names its kernel", "[cuda]") {
  Context<Cuda> ctx;
  Tensor<float, 1, Cuda> x(ctx, {8});
  REQUIRE_ERROR(kernels::launch("too_many_threads", kernels::layernorm_sum_parts_kernel, 1u, 4096u, 0, ctx, x.data,
                                x.data, x.data, int64_t(1), int64_t(1)),
                cuda::Fault, "too_many_threads: the launch of 1x1x1 blocks of 4096x1x1 threads");
}

TEMPLATE_TEST_CASE("cuda: products by the library, with every epilogue, batch and transpose", "[cuda]", float,
                   bfloat16) {
  using T = TestType;
  const double tolerance = std::is_same_v<T, float> ? 2e-6 : 8e-3;
  auto ctx = nan_filled_context();
  Context<Cuda> device;
  for (const auto& [m, n, k] : std::vector<Shape<3>>{{1, 1, 1}, {5, 63, 65}, {128, 64, 197}})
    for (const Activation activation : {Activation::none, Activation::relu, Activation::gelu, Activation::gelu_tanh})
      for (const bool with_bias : {false, true})
        for (const int transposes : {0, 1, 2, 3}) {
          const bool ta = transposes & 1, tb = transposes & 2;
          auto a = random_tensor<T>(ctx, Shape<3>{2, ta ? k : m, ta ? m : k}, 1);
          auto b = random_tensor<T>(ctx, Shape<3>{2, tb ? n : k, tb ? k : n}, 2);
          auto bias = random_tensor<float>(ctx, Shape<1>{n}, 3);
          const MatmulOptions options{ta, tb, activation};
          Tensor<T, 3> c(ctx, {2, m, n});
          Tensor<T, 3, Cuda> c_d(device, {2, m, n});
          const auto a_d = on_device(device, a), b_d = on_device(device, b);
          const auto bias_d = on_device(device, bias);
          if (with_bias) {
            matmul_forward(ctx, view(c), {}, view(a), view(b), bias, options);
            matmul_forward(device, view(c_d), {}, view(a_d), view(b_d), bias_d, options);
          } else {
            matmul_forward(ctx, view(c), {}, view(a), view(b), {}, options);
            matmul_forward(device, view(c_d), {}, view(a_d), view(b_d), {}, options);
          }
          INFO(m << "x" << n << "x" << k << " " << activation_name(activation) << " bias " << with_bias
                 << " transposes " << transposes);
          CHECK(largest_difference(to_host(c_d), to_host(c)) < tolerance);
        }
}

TEST_CASE("cuda: a product of nothing is the bias", "[cuda]") {
  Context<Cuda> ctx;
  Tensor<float, 2, Cuda> a(ctx, {2, 0}), b(ctx, {0, 3}), c(ctx, {2, 3});
  const auto bias = Tensor<float, 1, Cuda>::from_host(ctx, {3}, {1, -2, 3});
  matmul_forward(ctx, view(c), {}, view(a), view(b), bias, {.activation = Activation::relu});
  CHECK(to_host(c) == std::vector<float>{1, 0, 3, 1, 0, 3});
}
