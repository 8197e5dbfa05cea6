#include <omp.h>

#include <tessera/autograd/embedding.hpp>
#include <tessera/autograd/gradcheck.hpp>

#include "support/catch.hpp"
#include "support/oracle.hpp"
#include "support/random.hpp"

using namespace tessera;
using namespace tessera_test;

namespace {
Tensor<int32_t, 2> random_ids(Context<Cpu>& ctx, const Shape<2>& shape, uint32_t vocabulary) {
  Tensor<int32_t, 2> ids(ctx, shape);
  for (int64_t i = 0; i < ids.size(); ++i) ids.data[i] = int32_t(RandomStream{9, 0, 0}.below(uint64_t(i), vocabulary));
  return ids;
}
}  // namespace

TEMPLATE_TEST_CASE("embedding: rows of the table, and sums back into it", "[ops][embedding]", float, double, bfloat16) {
  using T = TestType;
  using A = accumulate_t<T>;
  auto ctx = nan_filled_context();
  for (int64_t channels : {1, 63, 64, 129}) {
    auto table = random_tensor<T, 2>(ctx, {40, channels}, 1);
    auto ids = random_ids(ctx, {5, 13}, 37);  // 37, 38 and 39 never occur
    auto out = embedding(ctx, table, ids);
    REQUIRE(out.shape == Shape<3>{5, 13, channels});
    auto d_out = random_tensor<T, 3>(ctx, out.shape, 2);
    Tensor<A, 2> d_table(ctx, table.shape);
    embedding_backward(ctx, view(d_table), view(d_out), ids);
    std::vector<double> sums(size_t(40 * channels));
    bool same = true;
    for (int64_t i = 0; i < 65; ++i)
      for (int64_t c = 0; c < channels; ++c) {
        same = same && widen(out.data[i * channels + c]) == widen(table(ids.data[i], c));
        sums[size_t(ids.data[i] * channels + c)] += double(widen(d_out.data[i * channels + c]));
      }
    CHECK(same);
    CHECK(largest_difference(to_host(d_table), sums) < (std::is_same_v<T, double> ? 1e-15 : 1e-6));
    CHECK(d_table(39, 0) == 0);
    Tensor<T, 2> d_narrow(ctx, table.shape);  // a gradient in the storage type is rounded once
    embedding_backward(ctx, view(d_narrow), view(d_out), ids);
    CHECK(largest_difference(to_host(d_narrow), sums) < (std::is_same_v<T, bfloat16> ? 4e-3 : 1e-6));
  }
}

TEMPLATE_TEST_CASE("embedding: gather_tokens takes one token of each sequence", "[ops][embedding]", float, bfloat16) {
  using T = TestType;
  auto ctx = nan_filled_context();
  auto x = random_tensor<T, 3>(ctx, {4, 7, 65}, 1);
  auto index = Tensor<int32_t, 1>::from_host(ctx, {4}, {6, 0, 3, 3});
  auto y = gather_tokens(ctx, x, index);
  Tensor<T, 3> d_x(ctx, x.shape);
  gather_tokens_backward(ctx, view(d_x), y, index);
  bool right = true;
  for (int64_t b = 0; b < 4; ++b)
    for (int64_t n = 0; n < 7; ++n)
      for (int64_t c = 0; c < 65; ++c) {
        const bool chosen = n == index(b);
        if (chosen) right = right && widen(y(b, c)) == widen(x(b, n, c));
        right = right && widen(d_x(b, n, c)) == (chosen ? widen(x(b, n, c)) : 0.0f);
      }
  CHECK(right);
  CHECK(largest_difference(
            view(gather_tokens(ctx, x.slice(1, 2, 7), Tensor<int32_t, 1>::from_host(ctx, {4}, {4, 0, 1, 1}))),
            view(gather_tokens(ctx, x, Tensor<int32_t, 1>::from_host(ctx, {4}, {6, 2, 3, 3})))) == 0);
}

TEST_CASE("embedding: gradients agree with finite differences", "[ops][embedding]") {
  auto ctx = nan_filled_context();
  auto table = random_variable<2>(ctx, {6, 5}, 1);
  auto x = random_variable<3>(ctx, {3, 4, 5}, 2);
  const auto ids = random_ids(ctx, {2, 7}, 5);
  const auto index = Tensor<int32_t, 1>::from_host(ctx, {3}, {3, 0, 3});
  const auto lookup = gradcheck(
      ctx, [&](auto& tape, auto t) { return embedding(tape, t, ids); }, table);
  INFO(lookup.message);
  CHECK(lookup);
  const auto gather = gradcheck(
      ctx, [&](auto& tape, auto a) { return gather_tokens(tape, a, index); }, x);
  INFO(gather.message);
  CHECK(gather);
}

TEMPLATE_TEST_CASE("embedding: values and gradients are PyTorch's", "[ops][embedding]", float, double) {
  Oracle<TestType> oracle("embedding");
  const auto ids = oracle.template integers<int32_t, 2>("ids");
  const auto index = oracle.template integers<int32_t, 1>("index");
  const auto table = oracle.template input<2>("lookup.table");
  const auto x = oracle.template input<3>("gather.x");
  oracle.check(
      "lookup", {"table"}, [&](auto& tape, auto t) { return embedding(tape, t, ids); }, table);
  oracle.check(
      "gather", {"x"}, [&](auto& tape, auto a) { return gather_tokens(tape, a, index); }, x);
}

TEST_CASE("embedding: the number of threads changes no bit", "[ops][embedding]") {
  auto ctx = nan_filled_context();
  auto ids = random_ids(ctx, {60, 77}, 900);
  auto d_out = random_tensor<float, 3>(ctx, {60, 77, 33}, 2);
  const int before = omp_get_max_threads();
  std::vector<float> first;
  for (int threads : {1, 2, 3, 16}) {
    omp_set_num_threads(threads);
    Tensor<float, 2> d_table(ctx, {1000, 33});
    embedding_backward(ctx, view(d_table), view(d_out), ids);
    if (threads == 1) first = to_host(d_table);
    CHECK(to_host(d_table) == first);
  }
  omp_set_num_threads(before);
}

TEST_CASE("embedding: an id outside the table is named with its position, and nothing is written", "[ops][embedding]") {
  auto ctx = nan_filled_context();
  auto table = random_tensor<float, 2>(ctx, {10, 4}, 1);
  auto ids = Tensor<int32_t, 1>::from_host(ctx, {3}, {1, 10, 2});
  Tensor<float, 2> out = Tensor<float, 2>::zeros(ctx, {3, 4});
  REQUIRE_ERROR(embedding_forward(ctx, view(out), table, ids), ValueError,
                "embedding: id 10 at position 1 is not in [0, 10), the rows of the table");
  CHECK(to_host(out) == std::vector<float>(12, 0.0f));
  ids(1) = -1;
  REQUIRE_ERROR(embedding_backward(ctx, view(table), view(out), ids), ValueError, "id -1 at position 1");
  auto x = random_tensor<float, 3>(ctx, {3, 2, 4}, 1);
  REQUIRE_ERROR(gather_tokens(ctx, x, ids), ValueError, "gather_tokens: index -1 at position 1 is not in [0, 2)");
  REQUIRE_ERROR(gather_tokens(ctx, x.slice(0, 0, 2), ids), ShapeError, "axis B of index [3] is 3 but must be 2");
  Tensor<float, 2> narrow_out(ctx, {3, 3});
  REQUIRE_ERROR(embedding_forward(ctx, view(narrow_out), table, ids), ShapeError,
                "axis 1 of out [3, 3] is 3 but must be 4");
}
