// L2 normalisation's kernels, run by the emulator, agree with Cpu.
#include <tessera/kernels/matmul.cuh>
#include <tessera/kernels/similarity.cuh>

#include "support/catch.hpp"
#include "support/kernels.hpp"
#include "support/random.hpp"

using namespace tessera;
using namespace tessera_test;

TEMPLATE_TEST_CASE("similarity: l2_normalise's kernels agree with Cpu, forward and backward", "[kernels]", float,
                   bfloat16, float16) {
  using T = TestType;
  const double tolerance = std::is_same_v<T, float> ? 5e-7 : 4e-3;  // one rounding of T apart
  auto ctx = nan_filled_context();
  Context<Device> device;
  for (const double epsilon : {0.0, 20.0})
    for (const auto& [rows, channels] :
         {std::pair{1, 1}, {3, 63}, {4, 64}, {5, 65}, {33, 127}, {2, 128}, {70, 129}, {7, 197}, {31, 512}}) {
      const L2NormaliseOptions options{epsilon};
      const Shape<2> shape{rows, channels};
      auto x = random_tensor<T>(ctx, shape, 1, 3.0), d_y = random_tensor<T>(ctx, shape, 2);
      std::fill_n(x.data, channels, T{});  // a row without a direction
      Tensor<T, 2> y(ctx, shape), d_x(ctx, shape);
      Tensor<float, 1> norm(ctx, {rows});
      l2_normalise_forward(ctx, view(y), norm, x, options);
      l2_normalise_backward(ctx, view(d_x), d_y, norm, y, options);

      const auto x_s = on_device(device, x), d_y_s = on_device(device, d_y);
      Tensor<T, 2, Device> y_s(device, shape), d_x_s(device, shape);
      Tensor<float, 1, Device> norm_s(device, {rows});
      l2_normalise_forward(device, view(y_s), norm_s, x_s, options);
      l2_normalise_backward(device, view(d_x_s), d_y_s, norm_s, y_s, options);
      INFO("rows " << rows << ", channels " << channels << ", epsilon " << epsilon);
      CHECK(largest_difference(to_host(y_s), to_host(y)) < tolerance);
      CHECK(largest_difference(to_host(norm_s), to_host(norm)) < 1e-6);
      CHECK(largest_difference(to_host(d_x_s), to_host(d_x)) < 2 * tolerance);

      // No norm wanted, and both passes in place.
      l2_normalise_forward(device, view(x_s), {}, x_s, options);
      CHECK(largest_difference(to_host(x_s), to_host(y_s)) == 0);
      l2_normalise_backward(device, view(d_y_s), d_y_s, norm_s, y_s, options);
      CHECK(largest_difference(to_host(d_y_s), to_host(d_x_s)) == 0);
    }
}

TEST_CASE("similarity: no rows, NaN, and views that are not aligned", "[kernels]") {
  auto ctx = nan_filled_context();
  Context<Device> device;
  Tensor<float, 2, Device> none(device, {0, 8});
  CHECK(to_host(l2_normalise(device, none)).empty());

  auto values = random_tensor<float, 1>(ctx, {33}, 1);
  values.data[32] = std::nanf("");
  const auto values_s = on_device(device, values);
  for (const auto order : all_orders) {
    const InOrder in_order(order, 7);
    const auto y = to_host(l2_normalise(device, TensorView<float, 2, Device>(values_s.data + 1, {4, 8})));
    const auto expected = to_host(l2_normalise(ctx, TensorView<float, 2>(values.data + 1, {4, 8})));
    CHECK(largest_difference(std::vector<float>(y.begin(), y.begin() + 24),
                             std::vector<float>(expected.begin(), expected.begin() + 24)) < 5e-7);
    for (size_t i = 24; i < 32; ++i) CHECK(std::isnan(y[i]));
  }
}

TEMPLATE_TEST_CASE("similarity: cosines of patches with texts agree with Cpu", "[kernels]", float, bfloat16) {
  using T = TestType;
  const double tolerance = std::is_same_v<T, float> ? 2e-6 : 1e-2;
  auto ctx = nan_filled_context();
  Context<Device> device;
  const auto a = random_tensor<T, 3>(ctx, {2, 5, 65}, 1), d_y = random_tensor<T, 3>(ctx, {2, 5, 7}, 3);
  const auto b = random_tensor<T, 2>(ctx, {7, 65}, 2);
  Tensor<T, 3> y(ctx, d_y.shape), d_a(ctx, a.shape);
  Tensor<T, 2> d_b(ctx, b.shape);
  CosineSimilaritySaved<T, 3> saved(ctx, a.shape, b.shape);
  cosine_similarity_forward(ctx, view(y), saved, a, b);
  cosine_similarity_backward(ctx, view(d_a), d_b, d_y, saved);

  Tensor<T, 3, Device> y_s(device, d_y.shape), d_a_s(device, a.shape);
  Tensor<T, 2, Device> d_b_s(device, b.shape);
  CosineSimilaritySaved<T, 3, Device> saved_s(device, a.shape, b.shape);
  cosine_similarity_forward(device, view(y_s), saved_s, on_device(device, a), on_device(device, b));
  cosine_similarity_backward(device, view(d_a_s), d_b_s, on_device(device, d_y), saved_s);
  CHECK(largest_difference(to_host(y_s), to_host(y)) < tolerance);
  CHECK(largest_difference(to_host(d_a_s), to_host(d_a)) < tolerance);
  CHECK(largest_difference(to_host(d_b_s), to_host(d_b)) < tolerance);
}
