#include <omp.h>

#include <support/catch.hpp>
#include <support/random.hpp>
#include <tessera/autograd/cross_entropy.hpp>
#include <tessera/autograd/gradcheck.hpp>
#include <tessera/io/tensor_source.hpp>

using namespace tessera;
using namespace tessera_test;

namespace {

/// Straight from the definition, in double; -1 is an ignored row.
std::vector<double> reference(const std::vector<double>& logits, const std::vector<double>& soft, size_t classes) {
  std::vector<double> loss(logits.size() / classes);
  for (size_t r = 0; r < loss.size(); ++r) {
    const double* row = logits.data() + r * classes;
    const double largest = *std::max_element(row, row + classes);
    double sum = 0;
    for (size_t c = 0; c < classes; ++c) sum += std::exp(row[c] - largest);
    for (size_t c = 0; c < classes; ++c) loss[r] += soft[r * classes + c] * (largest - row[c] + std::log(sum));
  }
  return loss;
}
template <class T>
std::vector<double> as_double(const std::vector<T>& v) {
  std::vector<double> d;
  for (const T& x : v) d.push_back(double(widen(x)));
  return d;
}
Tensor<int32_t, 1> random_targets(Context<Cpu>& ctx, int64_t rows, int64_t classes, bool some_ignored = true) {
  Tensor<int32_t, 1> targets(ctx, {rows});
  const RandomStream random{9, 0, 0};
  for (int64_t r = 0; r < rows; ++r)
    targets.data[r] = some_ignored && r % 5 == 2 ? -100 : int32_t(random.below(uint64_t(r), uint32_t(classes)));
  return targets;
}
std::vector<double> one_hot(const Tensor<int32_t, 1>& targets, int64_t classes, double smoothing) {
  std::vector<double> soft(size_t(targets.size() * classes));
  for (int64_t r = 0; r < targets.size(); ++r) {
    if (targets.data[r] < 0) continue;
    for (int64_t c = 0; c < classes; ++c)
      soft[size_t(r * classes + c)] = (targets.data[r] == c ? 1 - smoothing : 0) + smoothing / double(classes);
  }
  return soft;
}

}  // namespace

TEMPLATE_TEST_CASE("cross_entropy: forward is the definition at every size", "[ops][cross_entropy]", float, double,
                   bfloat16) {
  using T = TestType;
  const double tolerance = std::is_same_v<T, double> ? 1e-14 : 2e-6;  // losses of bfloat16 logits are float
  auto ctx = nan_filled_context();
  for (int64_t classes : {1, 2, 63, 64, 65, 127, 128, 129, 197})
    for (int64_t rows : {1, 3, 197})
      for (double smoothing : {0.0, 0.1}) {
        INFO("rows " << rows << ", classes " << classes << ", smoothing " << smoothing);
        const auto logits = random_tensor<T, 2>(ctx, {rows, classes}, 1, 5.0);
        const auto targets = random_targets(ctx, rows, classes);
        const CrossEntropyOptions options{.label_smoothing = smoothing, .reduction = Reduction::sum};
        const auto expected =
            reference(as_double(to_host(logits)), one_hot(targets, classes, smoothing), size_t(classes));
        const auto row_loss = cross_entropy_rows(ctx, logits, targets, options);
        CHECK(largest_difference(to_host(row_loss), expected) <= tolerance);
        double total = 0;
        for (double loss : expected) total += loss;
        CHECK(double(*cross_entropy(ctx, logits, targets, options).data) ==
              Approx(total).epsilon(tolerance).margin(1e-30));

        const auto soft = random_tensor<T, 2>(ctx, {rows, classes}, 2);
        std::vector<double> smoothed = as_double(to_host(soft));
        double scale = 0;
        for (double& t : smoothed) t = (1 - smoothing) * t + smoothing / double(classes);
        const auto soft_expected = reference(as_double(to_host(logits)), smoothed, size_t(classes));
        for (double& t : smoothed) t = std::abs(t);
        for (double s : reference(as_double(to_host(logits)), smoothed, size_t(classes))) scale = std::max(scale, s);
        const auto soft_loss = to_host(soft_cross_entropy_rows(ctx, logits, soft, options));
        for (size_t r = 0; r < soft_loss.size(); ++r)
          CHECK(std::abs(double(soft_loss[r]) - soft_expected[r]) <= tolerance * scale);
      }
}

TEST_CASE("cross_entropy: gradients agree with finite differences", "[ops][cross_entropy]") {
  auto ctx = nan_filled_context();
  for (int64_t classes : {1, 5, 65}) {
    const auto targets = random_targets(ctx, 7, classes);
    const auto logits = random_variable<2>(ctx, {7, classes}, 1), soft = random_variable<2>(ctx, {7, classes}, 2);
    for (double smoothing : {0.0, 0.2})
      for (Reduction reduction : {Reduction::mean, Reduction::sum}) {
        const CrossEntropyOptions options{.label_smoothing = smoothing, .reduction = reduction};
        const GradcheckResult results[] = {
            gradcheck(
                ctx, [&](auto& tape, auto x) { return cross_entropy(tape, x, targets, options); }, logits),
            gradcheck(
                ctx, [&](auto& tape, auto x) { return cross_entropy_rows(tape, x, targets, options); }, logits),
            gradcheck(
                ctx, [&](auto& tape, auto x, auto t) { return soft_cross_entropy(tape, x, t, options); }, logits, soft),
            gradcheck(
                ctx, [&](auto& tape, auto x, auto t) { return soft_cross_entropy_rows(tape, x, t, options); }, logits,
                soft)};
        for (const GradcheckResult& result : results) {
          INFO(result.message);
          CHECK(result);
        }
      }
  }
}

TEST_CASE("cross_entropy: loss and gradients are PyTorch's", "[ops][cross_entropy]") {
  auto ctx = nan_filled_context();
  const auto golden = io::TensorSource::open(TESSERA_TEST_DIR "/golden/cross_entropy.safetensors");
  int cases = 0;
  for (; golden.contains(sentence("case", cases, ".logits")); ++cases) {
    const std::string name = sentence("case", cases, ".");
    INFO(name);
    const auto logits = golden.read<double, 2>(ctx, name + "logits");
    const int64_t rows = logits.shape[0];
    const int reduction = golden.read_vector<int32_t>(name + "reduction")[0];
    const CrossEntropyOptions options{.label_smoothing = golden.read_vector<double>(name + "label_smoothing")[0],
                                      .reduction = reduction == 1 ? Reduction::sum : Reduction::mean};
    const auto d_values = golden.read_vector<double>(name + "d_loss");
    Tensor<double, 0> loss(ctx, {}), d_loss;
    Tensor<double, 1> row_loss(ctx, {rows}), d_row_loss, log_sum_exp(ctx, {rows});
    if (reduction == 2)
      d_row_loss = Tensor<double, 1>::from_host(ctx, {rows}, d_values);
    else
      d_loss = Tensor<double, 0>::from_host(ctx, {}, d_values);
    Tensor<double, 2> d_logits(ctx, logits.shape), d_targets(ctx, logits.shape);
    const double tolerance = 2e-6;  // half of the cases are PyTorch's float32
    if (golden.contains(name + "d_targets")) {
      const auto targets = golden.read<double, 2>(ctx, name + "targets");
      soft_cross_entropy_forward(ctx, loss, row_loss, log_sum_exp, logits, targets, options);
      soft_cross_entropy_backward(ctx, view(d_logits), d_targets, d_loss, d_row_loss, log_sum_exp, logits, targets,
                                  options);
      CHECK(largest_difference(to_host(d_targets), golden.read_vector<double>(name + "d_targets")) < tolerance);
    } else {
      const auto targets = golden.read<int32_t, 1>(ctx, name + "targets");
      cross_entropy_forward(ctx, loss, row_loss, log_sum_exp, logits, targets, options);
      cross_entropy_backward(ctx, view(d_logits), d_loss, d_row_loss, log_sum_exp, logits, targets, options);
    }
    const auto ours = reduction == 2 ? to_host(row_loss) : to_host(loss);
    CHECK(largest_difference(ours, golden.read_vector<double>(name + "loss")) < tolerance);
    CHECK(largest_difference(to_host(d_logits), golden.read_vector<double>(name + "d_logits")) < tolerance);
  }
  CHECK(cases == 24);
}

TEST_CASE("cross_entropy: float agrees with double, absent outputs are skipped, d_logits may be logits",
          "[ops][cross_entropy]") {
  auto ctx = nan_filled_context();
  const int64_t rows = 300, classes = 151;
  auto logits = random_tensor<float, 2>(ctx, {rows, classes}, 1, 4.0);
  const auto soft = random_tensor<float, 2>(ctx, {rows, classes}, 2);
  const auto targets = random_targets(ctx, rows, classes);
  Tensor<double, 2> wide(ctx, logits.shape), d_wide(ctx, logits.shape), wide_soft(ctx, logits.shape),
      d_wide_soft(ctx, logits.shape), d_wide_targets(ctx, logits.shape);
  std::copy_n(logits.data, logits.size(), wide.data);
  std::copy_n(soft.data, soft.size(), wide_soft.data);
  const float one = 1.5f;
  const double wide_one = 1.5;
  const auto d_loss = Tensor<float, 0>::from_host(ctx, {}, &one);
  const auto d_wide_loss = Tensor<double, 0>::from_host(ctx, {}, &wide_one);
  Tensor<float, 1> log_sum_exp(ctx, {rows});
  Tensor<double, 1> wide_log_sum_exp(ctx, {rows});
  Tensor<float, 2> d_logits(ctx, logits.shape), d_soft(ctx, logits.shape), d_targets(ctx, logits.shape);
  const CrossEntropyOptions options{.label_smoothing = 0.1};
  cross_entropy_forward(ctx, {}, {}, log_sum_exp, logits, targets, options);
  cross_entropy_forward(ctx, {}, {}, wide_log_sum_exp, wide, targets, options);
  CHECK(largest_difference(view(log_sum_exp), view(wide_log_sum_exp)) < 2e-6);
  cross_entropy_backward(ctx, view(d_logits), d_loss, {}, log_sum_exp, logits, targets, options);
  cross_entropy_backward(ctx, view(d_wide), d_wide_loss, {}, wide_log_sum_exp, wide, targets, options);
  CHECK(largest_difference(view(d_logits), view(d_wide)) < 2e-6);
  soft_cross_entropy_backward(ctx, view(d_soft), d_targets, d_loss, {}, log_sum_exp, logits, soft, options);
  soft_cross_entropy_backward(ctx, view(d_wide_soft), d_wide_targets, d_wide_loss, {}, wide_log_sum_exp, wide,
                              wide_soft, options);
  CHECK(largest_difference(view(d_soft), view(d_wide_soft)) < 5e-6);
  CHECK(largest_difference(view(d_targets), view(d_wide_targets)) < 2e-6);

  Tensor<float, 2> d_targets_alone(ctx, logits.shape);
  soft_cross_entropy_backward(ctx, TensorView<float, 2>{}, d_targets_alone, d_loss, {}, log_sum_exp, logits, soft,
                              options);
  CHECK(to_host(d_targets_alone) == to_host(d_targets));
  cross_entropy_backward(ctx, view(logits), d_loss, {}, log_sum_exp, logits, targets, options);
  CHECK(to_host(logits) == to_host(d_logits));
}

TEST_CASE("cross_entropy: large logits cost no digits, a masked class no loss", "[ops][cross_entropy]") {
  auto ctx = nan_filled_context();
  const float infinity = std::numeric_limits<float>::infinity();
  const auto logits = Tensor<float, 2>::from_host(ctx, {2, 3}, {10000.0f, 10001.0f, 9990.0f, 1.0f, 2.0f, -infinity});
  const auto targets = Tensor<int32_t, 1>::from_host(ctx, {2}, {0, 1});
  const auto soft = Tensor<float, 2>::from_host(ctx, {2, 3}, {1.0f, 0.0f, 0.0f, 0.0f, 1.0f, 0.0f});
  const double expected[] = {1.3132738974, 0.3132616875};
  const auto hard_loss = cross_entropy_rows(ctx, logits, targets),
             soft_loss = soft_cross_entropy_rows(ctx, logits, soft);
  for (int r = 0; r < 2; ++r) {
    CHECK(double(hard_loss(r)) == Approx(expected[r]).epsilon(3e-7));
    CHECK(double(soft_loss(r)) == Approx(expected[r]).epsilon(3e-7));
  }
  Tensor<float, 1> log_sum_exp(ctx, {2});
  Tensor<float, 2> d_logits(ctx, {2, 3});
  const auto d_rows = Tensor<float, 1>::from_host(ctx, {2}, {1.0f, 1.0f});
  cross_entropy_forward(ctx, {}, {}, log_sum_exp, logits, targets);
  cross_entropy_backward(ctx, view(d_logits), {}, d_rows, log_sum_exp, logits, targets);
  CHECK(d_logits(1, 2) == 0);
  CHECK(double(d_logits(1, 0)) == Approx(0.2689414214).epsilon(1e-6));
}

TEST_CASE("cross_entropy: the mean over no rows is 0 and has no gradient", "[ops][cross_entropy]") {
  auto ctx = nan_filled_context();
  const Variable<float, 2> logits(random_tensor<float, 2>(ctx, {2, 3}, 1), true);
  Tape tape(ctx);
  const auto loss =
      cross_entropy(tape, logits, Tensor<int32_t, 1>::from_host(ctx, {2}, {255, 255}), {.ignore_index = 255});
  CHECK(*loss.value().data == 0);
  tape.backward(loss);
  CHECK(to_host(logits.grad()) == std::vector<float>(6, 0.0f));
  CHECK(*cross_entropy(ctx, Tensor<float, 2>(ctx, {0, 3}), Tensor<int32_t, 1>(ctx, {0})).data == 0);
  CHECK(*soft_cross_entropy(ctx, Tensor<float, 2>(ctx, {0, 3}), Tensor<float, 2>(ctx, {0, 3})).data == 0);
}

TEST_CASE("cross_entropy: equal bits on any number of threads", "[ops][cross_entropy]") {
  auto ctx = nan_filled_context();
  const int before = omp_get_max_threads();
  const int64_t rows = 1001, classes = 150;
  const auto targets = random_targets(ctx, rows, classes);
  const auto run = [&](int threads) {
    omp_set_num_threads(threads);
    const Variable<float, 2> logits(random_tensor<float, 2>(ctx, {rows, classes}, 1), true);
    const Variable<float, 2> soft(random_tensor<float, 2>(ctx, {rows, classes}, 2), true);
    Tape tape(ctx);
    const auto hard_loss = cross_entropy(tape, logits, targets), soft_loss = soft_cross_entropy(tape, logits, soft);
    tape.backward(hard_loss);
    const auto d_hard = to_host(logits.grad());
    Tape again(ctx);
    again.backward(soft_cross_entropy(again, logits, soft));
    return std::tuple(*hard_loss.value().data, *soft_loss.value().data, d_hard, to_host(logits.grad()),
                      to_host(soft.grad()));
  };
  const auto one = run(1);
  for (int threads : {2, 3, 16}) CHECK(run(threads) == one);
  omp_set_num_threads(before);
}

TEST_CASE("cross_entropy: errors name the row and the value, and nothing is written", "[ops][cross_entropy]") {
  auto ctx = nan_filled_context();
  const auto logits = random_tensor<float, 2>(ctx, {3, 4}, 1);
  const auto bad = Tensor<int32_t, 1>::from_host(ctx, {3}, {0, 4, 1});
  const auto negative = Tensor<int32_t, 1>::from_host(ctx, {3}, {0, 3, -1});
  REQUIRE_ERROR(cross_entropy(ctx, logits, bad), ValueError,
                "cross_entropy_forward: targets[1] is 4 but must be a class in [0, 4) or ignore_index -100");
  REQUIRE_ERROR(cross_entropy(ctx, logits, negative), ValueError, "targets[2] is -1");
  CHECK_NOTHROW(cross_entropy(ctx, logits, negative, {.ignore_index = -1}));
  Tensor<float, 1> row_loss = Tensor<float, 1>::zeros(ctx, {3});
  CHECK_THROWS_AS(cross_entropy_forward(ctx, {}, row_loss, {}, logits, bad), ValueError);
  CHECK(to_host(row_loss) == std::vector<float>(3, 0.0f));
  REQUIRE_ERROR(cross_entropy(ctx, logits, Tensor<int32_t, 1>(ctx, {2})), ShapeError,
                "axis R of targets [2] is 2 but must be 3 (from logits)");
  REQUIRE_ERROR(cross_entropy(ctx, Tensor<float, 2>(ctx, {3, 0}), bad), ShapeError, "have no classes");
  REQUIRE_ERROR(cross_entropy(ctx, logits, negative, {.label_smoothing = 1.5}), ValueError, "label_smoothing is 1.5");
  REQUIRE_ERROR(soft_cross_entropy(ctx, logits, Tensor<float, 2>(ctx, {3, 5})), ShapeError, "axis C of targets");
  Tensor<float, 2> d_logits(ctx, {3, 4});
  Tensor<float, 1> log_sum_exp(ctx, {3});
  Tensor<float, 0> d_loss = Tensor<float, 0>::zeros(ctx, {});
  REQUIRE_ERROR(cross_entropy_backward(ctx, view(d_logits), d_loss, {}, log_sum_exp, logits, bad), ValueError,
                "cross_entropy_backward: targets[1] is 4");
  REQUIRE_ERROR(cross_entropy_backward(ctx, view(d_logits), {}, {}, log_sum_exp, logits, negative), ValueError,
                "both d_loss and d_row_loss are absent");
}
