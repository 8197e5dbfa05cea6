#include <omp.h>

#include <tessera/autograd/gradcheck.hpp>
#include <tessera/autograd/masked_mse.hpp>

#include "support/catch.hpp"
#include "support/oracle.hpp"
#include "support/random.hpp"

using namespace tessera;
using namespace tessera_test;

namespace {
/// Two rows in three count, the first among them.
template <size_t Rank>
Tensor<uint8_t, int(Rank)> some_rows(Context<Cpu>& ctx, const std::array<int64_t, Rank>& shape) {
  Tensor<uint8_t, int(Rank)> mask(ctx, shape);
  for (int64_t i = 0; i < mask.size(); ++i) mask.data[i] = i % 3 != 1;
  return mask;
}

template <class T>
double reference(const TensorView<T, 3>& prediction, const TensorView<T, 3>& target,
                 const TensorView<uint8_t, 2>& mask) {
  double sum = 0, count = 0;
  for (int64_t b = 0; b < mask.shape[0]; ++b)
    for (int64_t l = 0; l < mask.shape[1]; ++l) {
      if (!mask(b, l)) continue;
      double of_row = 0;
      for (int64_t c = 0; c < prediction.shape[2]; ++c) {
        const double difference = double(widen(prediction(b, l, c))) - double(widen(target(b, l, c)));
        of_row += difference * difference;
      }
      sum += of_row / double(prediction.shape[2]);
      ++count;
    }
  return count > 0 ? sum / count : 0;
}

template <class T>
struct MaskedRun {
  Tensor<accumulate_t<T>, 0> loss, count;
  Tensor<T, 3> d_prediction, d_target;

  MaskedRun(Context<Cpu>& ctx, const Tensor<T, 3>& prediction, const Tensor<T, 3>& target,
            const Tensor<uint8_t, 2>& mask)
      : loss(ctx, {}), count(ctx, {}), d_prediction(ctx, prediction.shape), d_target(ctx, prediction.shape) {
    const accumulate_t<T> d = accumulate_t<T>(1.5);
    const auto d_loss = Tensor<accumulate_t<T>, 0>::from_host(ctx, {}, &d);
    masked_mse_forward(ctx, loss, count, view(prediction), target, mask);
    masked_mse_backward(ctx, view(d_prediction), d_target, d_loss, count, prediction, target, mask);
  }
};
}  // namespace

TEMPLATE_TEST_CASE("masked_mse: forward and backward are the definition at every size", "[ops]", float, double,
                   bfloat16) {
  using T = TestType;
  const double tolerance = std::is_same_v<T, double> ? 1e-14 : 3e-6;
  const double of_gradient = std::is_same_v<T, bfloat16> ? 4e-3 : tolerance;
  auto ctx = nan_filled_context();
  const int64_t sizes[][3] = {{1, 1, 1}, {2, 5, 63}, {3, 64, 64}, {1, 65, 129}, {2, 197, 48}, {4, 30, 768}};
  for (const auto& [batch, length, channels] : sizes) {
    INFO("B " << batch << " L " << length << " C " << channels);
    const auto prediction = random_tensor<T, 3>(ctx, {batch, length, channels}, 1);
    const auto target = random_tensor<T, 3>(ctx, {batch, length, channels}, 2);
    const auto mask = some_rows(ctx, Shape<2>{batch, length});
    const MaskedRun<T> run(ctx, prediction, target, mask);
    const double expected = reference(view(prediction), view(target), view(mask));
    REQUIRE(expected > 0);
    CHECK(std::abs(double(*run.loss.data) - expected) < tolerance * expected);
    double counted = 0;
    for (uint8_t m : to_host(mask)) counted += m;
    CHECK(double(*run.count.data) == counted);
    std::vector<double> gradient;
    for (int64_t i = 0; i < prediction.size(); ++i)
      gradient.push_back(1.5 * 2 * mask.data[i / channels] *
                         (double(widen(prediction.data[i])) - double(widen(target.data[i]))) /
                         (counted * double(channels)));
    CHECK(largest_difference(to_host(run.d_prediction), gradient) < of_gradient);
    for (double& g : gradient) g = -g;
    CHECK(largest_difference(to_host(run.d_target), gradient) < of_gradient);
  }
}

TEST_CASE("masked_mse: gradients agree with finite differences, at any rank", "[ops]") {
  auto ctx = nan_filled_context();
  const auto check = [&]<size_t Rank>(const std::array<int64_t, Rank>& shape) {
    Shape<int(Rank) - 1> rows{};
    std::copy_n(shape.begin(), Rank - 1, rows.begin());
    const auto mask = some_rows(ctx, rows);
    const auto result = gradcheck(
        ctx, [&](auto& tape, auto p, auto t) { return masked_mse(tape, p, t, mask); },
        random_variable<Rank>(ctx, shape, 1), random_variable<Rank>(ctx, shape, 2));
    INFO(result.message);
    CHECK(result);
  };
  check(Shape<3>{2, 6, 5});
  check(Shape<2>{7, 3});
  check(Shape<1>{9});
}

TEMPLATE_TEST_CASE("masked_mse: values and gradients are PyTorch's", "[ops]", float, double) {
  Oracle<TestType> oracle("masked_mse");
  for (const std::string name : {"some", "one", "all"}) {
    const auto mask = oracle.template integers<uint8_t, 2>(name + ".mask");
    const auto prediction = oracle.template input<3>(name + ".prediction");
    const auto target = oracle.template input<3>(name + ".target");
    oracle.check(
        name, {"prediction", "target"}, [&](auto& tape, auto p, auto t) { return masked_mse(tape, p, t, mask); },
        prediction, target);
  }
}

TEST_CASE("masked_mse: rows that do not count are not read; none that counts is a loss of 0", "[ops]") {
  auto ctx = nan_filled_context();
  auto prediction = random_tensor<float, 3>(ctx, {1, 4, 3}, 1);
  const auto target = random_tensor<float, 3>(ctx, {1, 4, 3}, 2);
  auto mask = Tensor<uint8_t, 2>::from_host(ctx, {1, 4}, {1, 0, 255, 0});
  const MaskedRun<float> finite(ctx, prediction, target, mask);
  prediction(0, 1, 2) = std::nanf("");
  const MaskedRun<float> run(ctx, prediction, target, mask);
  CHECK(*run.loss.data == *finite.loss.data);
  CHECK(*run.count.data == 2);
  CHECK(to_host(run.d_prediction) == to_host(finite.d_prediction));
  CHECK((run.d_prediction(0, 1, 2) == 0 && run.d_target(0, 3, 0) == 0));
  mask.set_zero();
  const MaskedRun<float> none(ctx, prediction, target, mask);
  CHECK((*none.loss.data == 0 && *none.count.data == 0));
  for (float d : to_host(none.d_prediction)) CHECK(d == 0);
  for (float d : to_host(none.d_target)) CHECK(d == 0);
  const MaskedRun<float> empty(ctx, Tensor<float, 3>(ctx, {0, 4, 3}), Tensor<float, 3>(ctx, {0, 4, 3}),
                               Tensor<uint8_t, 2>(ctx, {0, 4}));
  CHECK(*empty.loss.data == 0);
}

TEST_CASE("masked_mse: one gradient alone, in place; the number of threads changes no bit", "[ops]") {
  auto ctx = nan_filled_context();
  const auto prediction = random_tensor<float, 3>(ctx, {4, 197, 100}, 1);
  const auto target = random_tensor<float, 3>(ctx, {4, 197, 100}, 2);
  const auto mask = some_rows(ctx, Shape<2>{4, 197});
  const int before = omp_get_max_threads();
  std::vector<MaskedRun<float>> runs;
  for (int threads : {1, 2, 3, 16}) {
    omp_set_num_threads(threads);
    runs.emplace_back(ctx, prediction, target, mask);
  }
  omp_set_num_threads(before);
  for (size_t i = 1; i < runs.size(); ++i) {
    CHECK(*runs[i].loss.data == *runs[0].loss.data);
    CHECK(to_host(runs[i].d_prediction) == to_host(runs[0].d_prediction));
    CHECK(to_host(runs[i].d_target) == to_host(runs[0].d_target));
  }
  const float d = 1.5f;
  const auto d_loss = Tensor<float, 0>::from_host(ctx, {}, &d);
  masked_mse_backward(ctx, TensorView<float, 3>{}, target, d_loss, runs[0].count, prediction, target, mask);
  CHECK(to_host(target) == to_host(runs[0].d_target));
  const auto same_target = random_tensor<float, 3>(ctx, {4, 197, 100}, 2);
  masked_mse_backward(ctx, view(prediction), {}, d_loss, runs[0].count, prediction, same_target, mask);
  CHECK(to_host(prediction) == to_host(runs[0].d_prediction));
}

TEST_CASE("masked_mse: errors name the argument, the axis and the numbers", "[ops]") {
  auto ctx = nan_filled_context();
  const Tensor<float, 3> x(ctx, {2, 5, 4}), other(ctx, {2, 5, 3});
  const Tensor<uint8_t, 2> mask(ctx, {2, 5});
  const Tensor<float, 0> scalar(ctx, {});
  REQUIRE_ERROR(masked_mse(ctx, view(x), other, mask), ShapeError,
                "masked_mse_forward: axis 2 of target [2, 5, 3] is 3 but must be 4 (from prediction)");
  REQUIRE_ERROR(masked_mse(ctx, view(x), x, Tensor<uint8_t, 2>(ctx, {2, 6})), ShapeError,
                "axis 1 of mask [2, 6] is 6 but must be 5");
  REQUIRE_ERROR(masked_mse(ctx, view(x), x, {}), ValueError, "mask is absent");
  REQUIRE_ERROR(masked_mse(ctx, x.slice(2, 0, 3), other, mask), ShapeError, "needs it contiguous");
  REQUIRE_ERROR(masked_mse_backward(ctx, view(x), {}, scalar, {}, x, x, mask), ValueError, "count is absent");
  REQUIRE_ERROR(masked_mse_backward(ctx, view(other), {}, scalar, scalar, x, x, mask), ShapeError,
                "axis 2 of d_prediction [2, 5, 3]");
}
