#include <omp.h>

#include <functional>
#include <support/catch.hpp>
#include <support/random.hpp>
#include <tessera/autograd/gradcheck.hpp>
#include <tessera/autograd/interpolate.hpp>
#include <tessera/io/tensor_source.hpp>

using namespace tessera;
using namespace tessera_test;

namespace {

constexpr Interpolation modes[] = {Interpolation::nearest, Interpolation::bilinear, Interpolation::bicubic};

/// The kernel of a mode: the weight of an input cell at distance x from the sampled point.
double kernel(Interpolation mode, double x) {
  x = std::abs(x);
  const double a = -0.75;
  if (mode == Interpolation::bilinear) return x < 1 ? 1 - x : 0;
  if (x < 1) return (a + 2) * x * x * x - (a + 3) * x * x + 1;
  return x < 2 ? a * x * x * x - 5 * a * x * x + 8 * a * x - 4 * a : 0;
}
/// Weights of all input cells at coordinate s, from the kernel; cells beyond the border count for the border cell.
std::vector<double> weights(Interpolation mode, double s, int64_t input) {
  std::vector<double> w(static_cast<size_t>(input));
  for (int64_t i = int64_t(std::floor(s)) - 3; i <= int64_t(std::floor(s)) + 4; ++i)
    w[size_t(std::clamp<int64_t>(i, 0, input - 1))] += kernel(mode, s - double(i));
  return w;
}
/// The input coordinate of every output.
using Coordinate = std::function<double(int64_t)>;

/// y [P, h, w] from x [P, H, W], straight from the kernel's definition in double.
std::vector<double> reference(const std::vector<double>& x, int64_t height, int64_t width, int64_t out_height,
                              int64_t out_width, Interpolation mode, const Coordinate& row, const Coordinate& column) {
  const int64_t planes = int64_t(x.size()) / (height * width);
  std::vector<double> y;
  for (int64_t p = 0; p < planes; ++p)
    for (int64_t oy = 0; oy < out_height; ++oy)
      for (int64_t ox = 0; ox < out_width; ++ox) {
        const auto wy = weights(mode, row(oy), height), wx = weights(mode, column(ox), width);
        double sum = 0;
        for (int64_t i = 0; i < height; ++i)
          for (int64_t j = 0; j < width; ++j)
            sum += wy[size_t(i)] * wx[size_t(j)] * x[size_t((p * height + i) * width + j)];
        y.push_back(sum);
      }
  return y;
}
Coordinate torch_coordinate(int64_t input, int64_t output, bool align_corners) {
  if (align_corners) return [=](int64_t o) { return output > 1 ? double(o * (input - 1)) / double(output - 1) : 0.0; };
  return [=](int64_t o) { return double(input) / double(output) * (double(o) + 0.5) - 0.5; };
}
template <class T>
std::vector<double> as_double(const std::vector<T>& v) {
  std::vector<double> d;
  for (const T& x : v) d.push_back(double(widen(x)));
  return d;
}
/// [B, C, H, W] with the channels moved last, and back.
template <class T>
Tensor<T, 4> channels_last(Context<Cpu>& ctx, const Tensor<T, 4>& x) {
  Tensor<T, 4> y(ctx, {x.shape[0], x.shape[2], x.shape[3], x.shape[1]});
  for (int64_t b = 0; b < x.shape[0]; ++b)
    for (int64_t c = 0; c < x.shape[1]; ++c)
      for (int64_t i = 0; i < x.shape[2]; ++i)
        for (int64_t j = 0; j < x.shape[3]; ++j) y(b, i, j, c) = x(b, c, i, j);
  return y;
}
template <class T>
Tensor<double, 4> to_double(Context<Cpu>& ctx, const Tensor<T, 4>& x) {
  Tensor<double, 4> y(ctx, x.shape);
  for (int64_t i = 0; i < x.size(); ++i) y.data[i] = widen(x.data[i]);
  return y;
}

}  // namespace

TEMPLATE_TEST_CASE("interpolate: forward is the kernel's definition, in both layouts", "[ops][interpolate]", float,
                   double, bfloat16) {
  using T = TestType;
  // float coordinates near 200 have an error of 2^-17 cells
  const double tolerance = std::is_same_v<T, bfloat16> ? 8e-3 : std::is_same_v<T, float> ? 3e-5 : 1e-12;
  auto ctx = nan_filled_context();
  const Shape<4> sizes[] = {{1, 1, 1, 1}, {1, 1, 5, 9},    {5, 4, 1, 1},     {7, 5, 7, 5},    {6, 7, 12, 28},
                            {9, 8, 4, 3}, {64, 3, 65, 10}, {3, 127, 2, 129}, {2, 197, 3, 63}, {65, 1, 63, 2}};
  for (const auto& [height, width, out_height, out_width] : sizes)
    for (Interpolation mode : {Interpolation::bilinear, Interpolation::bicubic})
      for (bool align_corners : {false, true}) {
        INFO(height << "x" << width << " to " << out_height << "x" << out_width << ", mode " << int(mode)
                    << ", align_corners " << align_corners);
        const auto x = random_tensor<T, 4>(ctx, {2, 3, height, width}, 1);
        const InterpolateOptions options{.mode = mode, .align_corners = align_corners};
        const Shape<2> size{out_height, out_width};
        const auto y = interpolate(ctx, x, size, options);
        const auto expected = reference(as_double(to_host(x)), height, width, out_height, out_width, mode,
                                        torch_coordinate(height, out_height, align_corners),
                                        torch_coordinate(width, out_width, align_corners));
        CHECK(largest_difference(to_host(y), expected) <= tolerance);
        const auto tokens = interpolate_tokens(ctx, channels_last(ctx, x), size, options);
        CHECK(largest_difference(to_host(tokens), to_host(channels_last(ctx, y))) <= tolerance);
      }
}

TEST_CASE("interpolate: values, gradients and nearest cells are PyTorch's", "[ops][interpolate]") {
  auto ctx = nan_filled_context();
  const auto golden = io::TensorSource::open(TESSERA_TEST_DIR "/golden/interpolate.safetensors");
  int cases = 0;
  const auto check = [&]<class T>(T, const std::string& name, double tolerance) {
    const auto x = golden.read<T, 4>(ctx, name + "x"), d_y = golden.read<T, 4>(ctx, name + "d_y");
    const auto factor = golden.read_vector<double>(name + "scale_factor");
    InterpolateOptions options{.mode = modes[golden.read_vector<int32_t>(name + "mode")[0]],
                               .align_corners = golden.read_vector<int32_t>(name + "align_corners")[0] == 1};
    if (factor[0] > 0) {
      options.rows = AxisSampling::scale_factor(factor[0]);
      options.columns = AxisSampling::scale_factor(factor[1]);
      CHECK(d_y.shape[2] == int64_t(double(x.shape[2]) * factor[0]));
    }
    Tensor<T, 4> y(ctx, d_y.shape), d_x(ctx, x.shape);
    interpolate_forward(ctx, view(y), x, options);
    interpolate_backward(ctx, view(d_x), d_y, options);
    CHECK(largest_difference(to_host(y), golden.read_vector<T>(name + "y")) < tolerance);
    CHECK(largest_difference(to_host(d_x), golden.read_vector<T>(name + "d_x")) < tolerance);
    const auto last = channels_last(ctx, x);
    Tensor<T, 4> d_last(ctx, last.shape);
    CHECK(to_host(interpolate_tokens(ctx, last, {y.shape[2], y.shape[3]}, options)) == to_host(y));  // one channel
    interpolate_tokens_backward(ctx, view(d_last), channels_last(ctx, d_y), options);
    CHECK(to_host(d_last) == to_host(d_x));
  };
  for (; golden.contains(sentence("case", cases, ".x")); ++cases) {
    const std::string name = sentence("case", cases, ".");
    INFO(name);
    if (golden.dtype(name + "x") == Dtype::f64)
      check(double(), name, 1e-13);
    else
      check(float(), name, 2e-6);
  }
  CHECK(cases == 44);

  int pairs = 0;
  for (int input = 1; input <= 100; ++input)
    for (int output = 1; output <= 100; ++output) {
      const std::string name = sentence("nearest.", input, ".", output);
      if (!golden.contains(name)) continue;
      ++pairs;
      INFO(name);
      const auto cells = golden.read_vector<int32_t>(name);
      Tensor<float, 4> x(ctx, {1, 1, 1, input});
      for (int i = 0; i < input; ++i) x.data[i] = float(i);
      const auto y = interpolate(ctx, x, {1, output}, {.mode = Interpolation::nearest});
      CHECK(to_host(y) == std::vector<float>(cells.begin(), cells.end()));
    }
  CHECK(pairs == 12);
}

TEST_CASE("interpolate: gradients agree with finite differences", "[ops][interpolate]") {
  auto ctx = nan_filled_context();
  const auto x = random_variable<4>(ctx, {2, 3, 5, 4}, 1);
  for (Interpolation mode : modes)
    for (bool align_corners : {false, true}) {
      if (align_corners && mode == Interpolation::nearest) continue;
      for (Shape<2> size : {Shape<2>{11, 9}, {3, 2}, {1, 7}, {5, 4}}) {
        const InterpolateOptions options{.mode = mode, .align_corners = align_corners};
        const auto maps = gradcheck(
            ctx, [&](auto& tape, auto a) { return interpolate(tape, a, size, options); }, x);
        INFO(maps.message);
        CHECK(maps);
        const auto tokens = gradcheck(
            ctx, [&](auto& t, auto a) { return interpolate_tokens(t, a, size, options); }, x);
        INFO(tokens.message);
        CHECK(tokens);
      }
    }
  const auto cells = gradcheck(
      ctx,
      [](auto& tape, auto a) {
        return interpolate(tape, a, {20, 9},
                           {.rows = AxisSampling::cells(0.25, -0.5), .columns = AxisSampling::cells(1.5, 1.25)});
      },
      x);
  INFO(cells.message);
  CHECK(cells);
}

TEST_CASE("interpolate: the backward pass in float is that in double, and the forward's transpose",
          "[ops][interpolate]") {
  auto ctx = nan_filled_context();
  for (Interpolation mode : modes)
    for (Shape<2> size : {Shape<2>{63, 130}, {9, 11}}) {
      INFO("mode " << int(mode) << ", height " << size[0]);
      const auto x = random_tensor<float, 4>(ctx, {2, 5, 17, 33}, 1);
      const auto d_y = random_tensor<float, 4>(ctx, {2, 5, size[0], size[1]}, 2);
      const InterpolateOptions options{.mode = mode};
      Tensor<float, 4> d_x(ctx, x.shape), d_last(ctx, channels_last(ctx, x).shape);
      Tensor<double, 4> d_wide(ctx, x.shape);
      interpolate_backward(ctx, view(d_x), d_y, options);
      interpolate_backward(ctx, view(d_wide), to_double(ctx, d_y), options);
      CHECK(largest_difference(view(d_x), view(d_wide)) < 1e-5);  // float coordinates near 33
      interpolate_tokens_backward(ctx, view(d_last), channels_last(ctx, d_y), options);
      CHECK(largest_difference(to_host(d_last), to_host(channels_last(ctx, d_x))) < 1e-6);

      const auto y = interpolate(ctx, to_double(ctx, x), size, options);
      double forward = 0, backward = 0;
      for (int64_t i = 0; i < y.size(); ++i) forward += y.data[i] * double(d_y.data[i]);
      for (int64_t i = 0; i < x.size(); ++i) backward += d_wide.data[i] * double(x.data[i]);
      CHECK(forward == Approx(backward).epsilon(1e-10));
      CHECK_NOTHROW(interpolate_backward(ctx, TensorView<float, 4>{}, d_y, options));
    }
}

TEST_CASE("interpolate: equal extents leave all bits", "[ops][interpolate]") {
  auto ctx = nan_filled_context();
  auto x = random_tensor<float, 4>(ctx, {1, 2, 6, 5}, 1);
  x.data[7] = -0.0f;
  x.data[9] = std::numeric_limits<float>::infinity();
  for (Interpolation mode : modes) {
    const auto y = interpolate(ctx, x, {6, 5}, {.mode = mode});
    CHECK(std::memcmp(y.data, x.data, size_t(x.size()) * sizeof(float)) == 0);
  }
}

TEST_CASE("interpolate: cells of one's own are sampled at their centres, borders repeated", "[ops][interpolate]") {
  auto ctx = nan_filled_context();
  // 15 x 15 tokens with centres at pixels 4, 8, …, 60 (edges at whole numbers), wanted at every pixel of 64 x 64
  const auto axis = AxisSampling::centres(4, 4, 0.5, 1);
  CHECK(axis.step == 0.25);
  CHECK(axis.offset == -0.5);
  const auto x = random_tensor<double, 4>(ctx, {1, 2, 15, 15}, 1);
  const Coordinate at_pixel = [](int64_t o) { return std::clamp((double(o) + 0.5 - 4) / 4, 0.0, 14.0); };
  for (Interpolation mode : {Interpolation::bilinear, Interpolation::bicubic}) {
    // Repeating the border is clamping the coordinate for bilinear; for bicubic the interior is compared.
    const auto y = interpolate(ctx, x, {64, 64}, {.mode = mode, .rows = axis, .columns = axis});
    const auto expected = reference(to_host(x), 15, 15, 64, 64, mode, at_pixel, at_pixel);
    for (int64_t i = 0; i < y.size(); ++i) {
      const int64_t row = i / 64 % 64, column = i % 64;
      if (mode == Interpolation::bicubic && (row < 4 || row > 59 || column < 4 || column > 59)) continue;
      CHECK(std::abs(y.data[i] - expected[size_t(i)]) < 1e-13);
    }
  }
  const auto nearest = interpolate(ctx, x, {64, 64}, {.mode = Interpolation::nearest, .rows = axis, .columns = axis});
  CHECK(nearest(0, 0, 0, 0) == x(0, 0, 0, 0));
  CHECK(nearest(0, 0, 6, 13) == x(0, 0, 1, 2));  // 6.5 and 13.5 are nearest to the centres 8 and 12
  CHECK(nearest(0, 1, 63, 63) == x(0, 1, 14, 14));
  // Far outside, everything is the border.
  for (Interpolation mode : modes) {
    const auto far =
        interpolate(ctx, x, {2, 1},
                    {.mode = mode, .rows = AxisSampling::cells(900, -500), .columns = AxisSampling::cells(1, 1000)});
    CHECK(far(0, 0, 0, 0) == Approx(x(0, 0, 0, 14)).epsilon(1e-12));
    CHECK(far(0, 0, 1, 0) == Approx(x(0, 0, 14, 14)).epsilon(1e-12));
  }
}

TEST_CASE("resize_positional_embedding: class row, equal grids, overlapping patches, gradients", "[ops][interpolate]") {
  auto ctx = nan_filled_context();
  const auto table = random_tensor<float, 2>(ctx, {1 + 6 * 4, 10}, 1);
  const auto same =
      resize_positional_embedding(ctx, table, {.stored_height = 6, .stored_width = 4, .height = 6, .width = 4});
  CHECK(to_host(same) == to_host(table));
  const auto larger =
      resize_positional_embedding(ctx, table, {.stored_height = 6, .stored_width = 4, .height = 9, .width = 7});
  const auto grid = interpolate_tokens(ctx, table.slice(0, 1, 25).reshape(Shape<4>{1, 6, 4, 10}), {9, 7},
                                       {.mode = Interpolation::bicubic});
  CHECK(std::equal(table.data, table.data + 10, larger.data));
  CHECK(std::equal(grid.data, grid.data + grid.size(), larger.data + 10));

  // Patches of 8 pixels every 4 on an image of 64: token k has its centre at pixel 4 + 4 k, in cells of the stored 8 x
  // 8 grid at (k + 1) / 2 from the border.
  const auto plain = random_tensor<double, 2>(ctx, {64, 3}, 2);
  const PositionalGrid overlapping{.stored_height = 8,
                                   .stored_width = 8,
                                   .height = 15,
                                   .width = 15,
                                   .class_token = false,
                                   .patch_size = 8,
                                   .stride = 4};
  CHECK(overlapping.sampling().rows.step == 0.5);
  CHECK(overlapping.sampling().rows.offset == 0.25);
  const auto dense = resize_positional_embedding(ctx, plain, overlapping);
  const Coordinate centre = [](int64_t k) { return 0.5 * double(k + 1) - 0.5; };
  std::vector<double> first_channel;
  for (int64_t i = 0; i < 64; ++i) first_channel.push_back(plain(i, 0));
  const auto expected = reference(first_channel, 8, 8, 15, 15, Interpolation::bicubic, centre, centre);
  for (int64_t i = 0; i < 225; ++i) CHECK(std::abs(dense(i, 0) - expected[size_t(i)]) < 1e-13);
  // Not overlapping, it is PyTorch's rule whether the patch is named or not.
  CHECK(to_host(resize_positional_embedding(
            ctx, table,
            {.stored_height = 6, .stored_width = 4, .height = 9, .width = 7, .patch_size = 16, .stride = 16})) ==
        to_host(larger));

  const auto variable = random_variable<2>(ctx, {1 + 12, 5}, 3);
  for (bool class_token : {true, false}) {
    const PositionalGrid target{.stored_height = class_token ? 4 : 1,
                                .stored_width = class_token ? 3 : 13,
                                .height = 5,
                                .width = 6,
                                .class_token = class_token};
    const auto result = gradcheck(
        ctx, [&](auto& tape, auto positions) { return resize_positional_embedding(tape, positions, target); },
        variable);
    INFO(result.message);
    CHECK(result);
  }
  // A bfloat16 table's gradient is summed in float.
  const Parameter<bfloat16, 2> parameter(random_tensor<bfloat16, 2>(ctx, {5, 4}, 4), true);
  Tape tape(ctx);
  const auto positions =
      resize_positional_embedding(tape, parameter, {.stored_height = 2, .stored_width = 2, .height = 3, .width = 3});
  tape.backward(positions, random_tensor<bfloat16, 2>(ctx, {10, 4}, 5));
  CHECK(std::is_same_v<decltype(parameter.grad().data), float*>);
  CHECK(parameter.grad().shape == Shape<2>{5, 4});
}

TEST_CASE("interpolate: equal bits on any number of threads", "[ops][interpolate]") {
  auto ctx = nan_filled_context();
  const int before = omp_get_max_threads();
  for (Interpolation mode : modes) {
    const auto run = [&](int threads) {
      omp_set_num_threads(threads);
      const auto x = random_tensor<float, 4>(ctx, {2, 19, 23, 31}, 1),
                 d_y = random_tensor<float, 4>(ctx, {2, 19, 90, 77}, 2);
      Tensor<float, 4> d_x(ctx, x.shape);
      interpolate_backward(ctx, view(d_x), d_y, {.mode = mode});
      const auto tokens = interpolate_tokens(ctx, x, {40, 50}, {.mode = mode});
      return std::tuple(to_host(interpolate(ctx, x, {90, 77}, {.mode = mode})), to_host(tokens), to_host(d_x));
    };
    const auto one = run(1);
    for (int threads : {2, 3, 16}) CHECK(run(threads) == one);
  }
  omp_set_num_threads(before);
}

TEST_CASE("interpolate: errors name the argument, the axis and the numbers", "[ops][interpolate]") {
  auto ctx = nan_filled_context();
  const auto x = random_tensor<float, 4>(ctx, {2, 3, 4, 5}, 1);
  Tensor<float, 4> y(ctx, {2, 4, 8, 8});
  REQUIRE_ERROR(interpolate_forward(ctx, view(y), x), ShapeError,
                "interpolate_forward: axis C of y [2, 4, 8, 8] is 4 but must be 3 (from x)");
  REQUIRE_ERROR(interpolate(ctx, x, {0, 3}), ShapeError, "need rows and columns");
  REQUIRE_ERROR(interpolate(ctx, x.slice(3, 0, 4), {8, 8}), ShapeError, "needs it contiguous");
  REQUIRE_ERROR(interpolate(ctx, x, {8, 8}, {.mode = Interpolation::nearest, .align_corners = true}), ValueError,
                "align_corners has no meaning for nearest");
  REQUIRE_ERROR(interpolate(ctx, x, {8, 8}, {.align_corners = true, .rows = AxisSampling::scale_factor(2)}), ValueError,
                "rows must be left at its default");
  REQUIRE_ERROR(interpolate(ctx, x, {8, 8}, {.columns = AxisSampling::cells(0, 1)}), ValueError, "columns.step is 0");
  REQUIRE_ERROR(interpolate(ctx, x, {8, 8}, {.columns = AxisSampling::scale_factor(0)}), ValueError,
                "columns.step is inf");
  const auto table = random_tensor<float, 2>(ctx, {17, 3}, 1);
  REQUIRE_ERROR(
      resize_positional_embedding(ctx, table, {.stored_height = 4, .stored_width = 5, .height = 2, .width = 2}),
      ShapeError, "axis P of table [17, 3] is 17 but must be 21 (from the stored grid)");
  REQUIRE_ERROR(resize_positional_embedding(ctx, table, {.stored_height = 4, .stored_width = 4}), ValueError,
                "need rows and columns");
  REQUIRE_ERROR(
      resize_positional_embedding(
          ctx, table,
          {.stored_height = 4, .stored_width = 4, .height = 2, .width = 2, .class_token = true, .patch_size = 8}),
      ValueError, "must both be positive or both be 0");
}
