#include <omp.h>

#include <tessera/autograd/gradcheck.hpp>
#include <tessera/autograd/tokens.hpp>

#include "support/catch.hpp"
#include "support/oracle.hpp"
#include "support/random.hpp"

using namespace tessera;
using namespace tessera_test;

TEMPLATE_TEST_CASE("tokens: forward and backward are the definition at every size", "[ops][tokens]", float, double,
                   bfloat16) {
  using T = TestType;
  using A = accumulate_t<T>;
  auto ctx = nan_filled_context();
  const double rounding = std::is_same_v<T, bfloat16> ? 4e-3 : std::is_same_v<T, float> ? 1e-6 : 1e-15;
  const double sums = std::is_same_v<T, double> ? 1e-15 : 1e-6;
  for (bool has_class : {false, true})
    for (int64_t channels : {1, 63, 64, 65, 197})
      for (int64_t items : {1, 7}) {
        const int64_t first = has_class ? 1 : 0, count = 9 + first;
        INFO("class " << has_class << ", C " << channels << ", B " << items);
        auto class_embedding = random_tensor<T, 1>(ctx, {channels}, 1);
        auto patches = random_tensor<T, 3>(ctx, {items, 9, channels}, 2);
        auto positions = random_tensor<T, 2>(ctx, {count, channels}, 3);
        auto d_tokens = random_tensor<T, 3>(ctx, {items, count, channels}, 4);
        auto tokens = assemble_tokens(ctx, has_class ? class_embedding : Tensor<T, 1>{}, patches, positions);
        Tensor<T, 3> d_patches(ctx, patches.shape);
        Tensor<A, 1> d_class(ctx, {channels});
        Tensor<A, 2> d_positions(ctx, positions.shape);
        Tensor<T, 2> d_positions_stored(ctx, positions.shape);
        const Tensor<A, 1> d_class_or_absent = has_class ? d_class : Tensor<A, 1>{};
        assemble_tokens_backward(ctx, view(d_patches), d_class_or_absent, d_positions, d_tokens, has_class);
        assemble_tokens_backward(ctx, TensorView<T, 3>{}, {}, d_positions_stored, d_tokens, has_class);
        std::vector<double> expected, d_expected(size_t(count * channels));
        int64_t different = 0;
        for (int64_t b = 0; b < items; ++b)
          for (int64_t n = 0; n < count; ++n)
            for (int64_t c = 0; c < channels; ++c) {
              const T from = n < first ? class_embedding(c) : patches(b, n - first, c);
              expected.push_back(double(widen(from)) + double(widen(positions(n, c))));
              d_expected[size_t(n * channels + c)] += double(widen(d_tokens(b, n, c)));
              if (n >= first) different += widen(d_patches(b, n - first, c)) != widen(d_tokens(b, n, c));
            }
        CHECK(largest_difference(to_host(tokens), expected) < rounding);
        CHECK(different == 0);
        CHECK(largest_difference(to_host(d_positions), d_expected) < sums);
        CHECK(largest_difference(to_host(d_positions_stored), d_expected) < rounding);
        if (has_class) CHECK(to_host(d_class) == to_host(d_positions.slice(0, 0, 1)));
      }
}

TEST_CASE("tokens: gradients on the tape agree with finite differences", "[ops][tokens]") {
  auto ctx = nan_filled_context();
  auto class_embedding = random_variable<1>(ctx, {5}, 1);
  auto patches = random_variable<3>(ctx, {3, 4, 5}, 2);
  auto positions = random_variable<2>(ctx, {5, 5}, 3), without = random_variable<2>(ctx, {4, 5}, 4);
  const auto result = gradcheck(
      ctx, [](auto& tape, auto a, auto b, auto c) { return assemble_tokens(tape, a, b, c); }, class_embedding, patches,
      positions);
  INFO(result.message);
  CHECK(result);
  const auto classless = gradcheck(
      ctx, [](auto& tape, auto b, auto c) { return assemble_tokens(tape, {}, b, c); }, patches, without);
  INFO(classless.message);
  CHECK(classless);
}

TEST_CASE("tokens: 1, 2, 3 and 16 threads give equal bits", "[ops][tokens]") {
  Context<Cpu> ctx;
  const int most = omp_get_max_threads();
  auto d_tokens = random_tensor<float, 3>(ctx, {70, 50, 96}, 1);
  std::vector<float> first;
  for (int threads : {1, 2, 3, 16}) {
    omp_set_num_threads(threads);
    Tensor<float, 2> d_positions(ctx, {50, 96});
    assemble_tokens_backward(ctx, TensorView<float, 3>{}, {}, d_positions, d_tokens, true);
    if (first.empty()) first = to_host(d_positions);
    CHECK(to_host(d_positions) == first);
  }
  omp_set_num_threads(most);
}

TEST_CASE("tokens: errors name the argument, the axis and the numbers", "[ops][tokens]") {
  auto ctx = nan_filled_context();
  Tensor<float, 1> class_embedding(ctx, {8}), narrow_class(ctx, {7});
  Tensor<float, 3> patches(ctx, {2, 4, 8}), d_tokens(ctx, {2, 5, 8});
  Tensor<float, 2> positions(ctx, {4, 8});
  REQUIRE_ERROR(assemble_tokens(ctx, class_embedding, patches, positions), ShapeError,
                "assemble_tokens_forward: axis N of positional_embedding [4, 8] is 4 but must be 5 (from patches and "
                "class_embedding)");
  REQUIRE_ERROR(assemble_tokens(ctx, narrow_class, patches, positions), ShapeError, "axis C of class_embedding [7]");
  REQUIRE_ERROR(assemble_tokens_backward(ctx, view(patches), class_embedding, {}, d_tokens, false), ShapeError,
                "axis P of d_patches [2, 4, 8] is 4 but must be 5 (from d_tokens)");
  REQUIRE_ERROR(assemble_tokens_backward(ctx, TensorView<float, 3>{}, class_embedding, {}, d_tokens, false), ShapeError,
                "there is no class token");
}

TEMPLATE_TEST_CASE("tokens: agree with PyTorch's concatenation and sum", "[ops][tokens]", float, double) {
  Oracle<TestType> oracle("tokens");
  oracle.check(
      "class", {"class_embedding", "patches", "positions"},
      [](auto& tape, const auto& class_embedding, const auto& patches, const auto& positions) {
        return assemble_tokens(tape, class_embedding, patches, positions);
      },
      oracle.template input<1>("class.class_embedding"), oracle.template input<3>("class.patches"),
      oracle.template input<2>("class.positions"));
  oracle.check(
      "patches_only", {"patches", "positions"},
      [](auto& tape, const auto& patches, const auto& positions) {
        return assemble_tokens(tape, {}, patches, positions);
      },
      oracle.template input<3>("patches_only.patches"), oracle.template input<2>("patches_only.positions"));
}
