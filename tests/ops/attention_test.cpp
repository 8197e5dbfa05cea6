#include <omp.h>

#include <tessera/autograd/attention.hpp>
#include <tessera/autograd/gradcheck.hpp>

#include "support/catch.hpp"
#include "support/oracle.hpp"
#include "support/random.hpp"

using namespace tessera;
using namespace tessera_test;

namespace {

struct Reference {
  std::vector<double> out, log_sum_exp, d_query, d_key, d_value;
};

// Straight from the definition, in double: all scores, softmax, and the chain rule. d_out may be absent.
template <class T>
Reference reference(TensorView<const T, 4> query, TensorView<const T, 4> key, TensorView<const T, 4> value,
                    TensorView<const T, 4> d_out, const std::vector<int32_t>& lengths, bool causal, double scale) {
  const int64_t items = query.shape[0], queries = query.shape[1], heads = query.shape[2], channels = query.shape[3];
  const int64_t keys = key.shape[1];
  Reference r;
  r.out.resize(size_t(query.size()));
  r.log_sum_exp.resize(size_t(items * heads * queries));
  r.d_query.resize(size_t(query.size()));
  r.d_key.resize(size_t(key.size()));
  r.d_value.resize(size_t(key.size()));
  for (int64_t b = 0; b < items; ++b)
    for (int64_t h = 0; h < heads; ++h)
      for (int64_t i = 0; i < queries; ++i) {
        int64_t seen = lengths.empty() ? keys : lengths[size_t(b)];
        if (causal) seen = std::min(seen, i + 1);
        std::vector<double> p(static_cast<size_t>(seen)), d_p(static_cast<size_t>(seen));
        double sum = 0, weighted = 0;
        for (int64_t j = 0; j < seen; ++j) {
          double score = 0;
          for (int64_t c = 0; c < channels; ++c)
            score += double(widen(query(b, i, h, c))) * double(widen(key(b, j, h, c)));
          sum += p[size_t(j)] = std::exp(scale * score);
        }
        r.log_sum_exp[size_t((b * heads + h) * queries + i)] = std::log(sum);
        const auto at = [&](int64_t row, int64_t rows, int64_t c) {
          return size_t(((b * rows + row) * heads + h) * channels + c);
        };
        for (int64_t j = 0; j < seen; ++j) {
          p[size_t(j)] /= sum;
          for (int64_t c = 0; c < channels; ++c)
            r.out[at(i, queries, c)] += p[size_t(j)] * double(widen(value(b, j, h, c)));
        }
        if (!d_out) continue;
        for (int64_t j = 0; j < seen; ++j) {
          for (int64_t c = 0; c < channels; ++c) {
            const double d = double(widen(d_out(b, i, h, c)));
            d_p[size_t(j)] += d * double(widen(value(b, j, h, c)));
            r.d_value[at(j, keys, c)] += p[size_t(j)] * d;
          }
          weighted += p[size_t(j)] * d_p[size_t(j)];
        }
        for (int64_t j = 0; j < seen; ++j)
          for (int64_t c = 0; c < channels; ++c) {
            const double d_score = scale * p[size_t(j)] * (d_p[size_t(j)] - weighted);
            r.d_query[at(i, queries, c)] += d_score * double(widen(key(b, j, h, c)));
            r.d_key[at(j, keys, c)] += d_score * double(widen(query(b, i, h, c)));
          }
      }
  return r;
}

struct Case {
  int64_t items, queries, keys, heads, channels;
  bool causal = false;
  std::vector<int32_t> lengths = {};
};
const std::vector<Case> cases = {
    {1, 1, 1, 1, 1},
    {2, 63, 63, 2, 32},
    {1, 64, 65, 1, 64},
    {2, 65, 7, 3, 5},
    {1, 127, 128, 1, 17, true},
    {2, 128, 128, 1, 33, true, {128, 50}},
    {3, 129, 197, 2, 40, false, {197, 0, 1}},
    {1, 197, 197, 2, 64, true},
    {1, 40, 1100, 1, 8, false, {1030}},  // three tiles of keys
    {1, 600, 600, 1, 8, true},           // a tile that only the last queries see
    {16, 33, 530, 2, 4, false, {}},      // many heads: whole heads and ranges
    {2, 5, 40, 1, 3, true},              // fewer queries than keys
    {2, 40, 5, 1, 3, true, {5, 3}},
};

template <class T>
void check_case(Context<Cpu>& ctx, const Case& c, double tolerance) {
  INFO("B " << c.items << " Nq " << c.queries << " Nk " << c.keys << " H " << c.heads << " D " << c.channels
            << " causal " << c.causal);
  using A = accumulate_t<T>;
  const Shape<4> q_shape{c.items, c.queries, c.heads, c.channels}, k_shape{c.items, c.keys, c.heads, c.channels};
  auto query = random_tensor<T>(ctx, q_shape, 1), key = random_tensor<T>(ctx, k_shape, 2);
  auto value = random_tensor<T>(ctx, k_shape, 3), d_out = random_tensor<T>(ctx, q_shape, 4);
  Tensor<int32_t, 1> lengths;
  if (!c.lengths.empty()) lengths = Tensor<int32_t, 1>::from_host(ctx, {c.items}, c.lengths);
  const AttentionOptions options{.scale = 0.3, .causal = c.causal};
  Tensor<T, 4> out(ctx, q_shape), d_query(ctx, q_shape), d_key(ctx, k_shape), d_value(ctx, k_shape);
  Tensor<A, 3> log_sum_exp(ctx, {c.items, c.heads, c.queries});
  attention_forward(ctx, view(out), log_sum_exp, query, key, value, lengths, options);
  const auto expected = reference<T>(query, key, value, d_out, c.lengths, c.causal, 0.3);
  CHECK(largest_difference(to_host(out), expected.out) < tolerance);
  for (int64_t i = 0; i < log_sum_exp.size(); ++i) {
    const double e = expected.log_sum_exp[size_t(i)];
    if (std::isinf(e))
      CHECK(log_sum_exp.data[i] == -std::numeric_limits<A>::infinity());
    else
      CHECK(std::abs(double(log_sum_exp.data[i]) - e) < (std::is_same_v<T, double> ? 1e-13 : 5e-6));
  }
  attention_backward(ctx, view(d_query), d_key, d_value, d_out, log_sum_exp, out, query, key, value, lengths, options);
  const auto scale = [](const std::vector<double>& v) {  // a softmax over one key has no gradient: compare absolutely
    double s = 1;
    for (double x : v) s = std::max(s, std::abs(x));
    return s;
  };
  const auto check_gradient = [&](const Tensor<T, 4>& d, std::vector<double> e) {
    auto host = to_host(view(d));
    host.push_back(narrow<T>(A(scale(e))));
    e.push_back(double(widen(host.back())));
    CHECK(largest_difference(host, e) < tolerance);
  };
  check_gradient(d_query, expected.d_query);
  check_gradient(d_key, expected.d_key);
  check_gradient(d_value, expected.d_value);
}

}  // namespace

TEMPLATE_TEST_CASE("attention: forward and backward are the definition at every size, with every mask",
                   "[ops][attention]", float, double, bfloat16) {
  auto ctx = nan_filled_context();
  const bool is_double = std::is_same_v<TestType, double>;
  for (const Case& c : cases)
    check_case<TestType>(ctx, c, std::is_same_v<TestType, bfloat16> ? 1.2e-2 : is_double ? 1e-13 : 5e-6);
}

TEST_CASE("attention: the views of a packed projection give the bits of separate tensors", "[ops][attention]") {
  auto ctx = nan_filled_context();
  const int64_t items = 2, tokens = 70, heads = 3, channels = 20;
  auto qkv = random_tensor<float, 5>(ctx, {items, tokens, 3, heads, channels}, 1);
  Tensor<float, 5> d_qkv(ctx, qkv.shape);
  const Shape<4> shape{items, tokens, heads, channels};
  std::vector<Tensor<float, 4>> parts, d_parts;
  for (int64_t part = 0; part < 3; ++part) {
    parts.emplace_back(ctx, shape);
    d_parts.emplace_back(ctx, shape);
    for (int64_t b = 0; b < items; ++b)
      for (int64_t n = 0; n < tokens; ++n)
        for (int64_t h = 0; h < heads; ++h)
          for (int64_t c = 0; c < channels; ++c) parts.back()(b, n, h, c) = qkv(b, n, part, h, c);
  }
  auto out = attention(ctx, parts[0], parts[1], parts[2]);
  CHECK(to_host(attention(ctx, qkv.select(2, 0), qkv.select(2, 1), qkv.select(2, 2))) == to_host(out));
  auto d_out = random_tensor<float>(ctx, shape, 2);
  Tensor<float, 3> log_sum_exp(ctx, {items, heads, tokens});
  attention_forward(ctx, view(out), log_sum_exp, parts[0], parts[1], parts[2]);
  attention_backward(ctx, view(d_parts[0]), d_parts[1], d_parts[2], d_out, log_sum_exp, out, parts[0], parts[1],
                     parts[2]);
  attention_backward(ctx, d_qkv.select(2, 0), d_qkv.select(2, 1), d_qkv.select(2, 2), d_out, log_sum_exp, out,
                     qkv.select(2, 0), qkv.select(2, 1), qkv.select(2, 2));
  int64_t different = 0;
  for (int64_t part = 0; part < 3; ++part)
    for (int64_t b = 0; b < items; ++b)
      for (int64_t n = 0; n < tokens; ++n)
        for (int64_t h = 0; h < heads; ++h)
          for (int64_t c = 0; c < channels; ++c)
            different += d_qkv(b, n, part, h, c) != d_parts[size_t(part)](b, n, h, c);
  CHECK(different == 0);
}

TEST_CASE("attention: absent gradients are skipped and change no others", "[ops][attention]") {
  auto ctx = nan_filled_context();
  for (int64_t keys : {50, 700}) {
    const Shape<4> q_shape{2, 37, 2, 9}, k_shape{2, keys, 2, 9};
    auto query = random_tensor<float>(ctx, q_shape, 1), d_out = random_tensor<float>(ctx, q_shape, 4);
    auto key = random_tensor<float>(ctx, k_shape, 2), value = random_tensor<float>(ctx, k_shape, 3);
    Tensor<float, 4> out(ctx, q_shape), dq(ctx, q_shape), dk(ctx, k_shape), dv(ctx, k_shape);
    Tensor<float, 4> dq_alone(ctx, q_shape), dk_alone(ctx, k_shape), dv_alone(ctx, k_shape);
    Tensor<float, 3> lse(ctx, {2, 2, 37});
    attention_forward(ctx, view(out), lse, query, key, value);
    attention_backward(ctx, view(dq), dk, dv, d_out, lse, out, query, key, value);
    const TensorView<float, 4> absent;
    attention_backward(ctx, view(dq_alone), {}, {}, d_out, lse, out, query, key, value);
    attention_backward(ctx, absent, dk_alone, {}, d_out, lse, out, query, key, value);
    attention_backward(ctx, absent, {}, dv_alone, d_out, lse, out, query, key, value);
    CHECK(to_host(dq_alone) == to_host(dq));
    CHECK(to_host(dk_alone) == to_host(dk));
    CHECK(to_host(dv_alone) == to_host(dv));
  }
}

TEST_CASE("attention: empty batches and no keys", "[ops][attention]") {
  auto ctx = nan_filled_context();
  Tensor<float, 4> query(ctx, {2, 3, 1, 4}), keys(ctx, {2, 0, 1, 4}), d_query(ctx, {2, 3, 1, 4});
  query.set_zero();
  auto out = attention(ctx, query, keys, keys);
  CHECK(to_host(out) == std::vector<float>(24, 0.0f));
  Tensor<float, 3> lse(ctx, {2, 1, 3});
  attention_forward(ctx, view(out), lse, query, keys, keys);
  attention_backward(ctx, view(d_query), {}, {}, out, lse, out, query, keys, keys);
  CHECK(to_host(d_query) == std::vector<float>(24, 0.0f));
  Tensor<float, 4> nobody(ctx, {0, 3, 1, 4});
  CHECK(attention(ctx, nobody, nobody, nobody).size() == 0);
}

TEST_CASE("attention: large scores neither overflow nor lose the sum", "[ops][attention]") {
  auto ctx = nan_filled_context();
  const Shape<4> shape{1, 20, 1, 16};
  auto query = random_tensor<float>(ctx, shape, 1, 40.0), key = random_tensor<float>(ctx, shape, 2, 40.0);
  auto value = random_tensor<float>(ctx, shape, 3);
  auto out = attention(ctx, query, key, value);
  for (float x : to_host(out)) CHECK(std::isfinite(x));
}

TEST_CASE("attention: memory stays linear in the number of tokens", "[ops][attention]") {
  Context<Cpu> ctx;
  const int64_t tokens = 2048;
  const Shape<4> shape{1, tokens, 1, 16};
  auto query = random_tensor<float>(ctx, shape, 1), key = random_tensor<float>(ctx, shape, 2);
  Tensor<float, 4> out(ctx, shape), d_query(ctx, shape), d_key(ctx, shape), d_value(ctx, shape);
  Tensor<float, 3> lse(ctx, {1, 1, tokens});
  const size_t before = ctx.pool->bytes_in_use();
  ctx.pool->reset_peak();
  attention_forward(ctx, view(out), lse, query, key, key);
  attention_backward(ctx, view(d_query), d_key, d_value, query, lse, out, query, key, key);
  const size_t threads = size_t(omp_get_max_threads());
  CHECK(ctx.pool->peak_bytes() - before < threads * (1u << 19) + (1u << 20));  // all scores: 16 MiB
}

TEST_CASE("attention: 1, 2, 3 and 16 threads give equal bits", "[ops][attention]") {
  Context<Cpu> ctx;
  const int most = omp_get_max_threads();
  for (const Case& c :
       {Case{4, 100, 100, 3, 24, true}, Case{1, 700, 1500, 2, 16, false, {1400}}, Case{40, 20, 20, 4, 32}}) {
    const Shape<4> q_shape{c.items, c.queries, c.heads, c.channels}, k_shape{c.items, c.keys, c.heads, c.channels};
    auto query = random_tensor<float>(ctx, q_shape, 1), d_out = random_tensor<float>(ctx, q_shape, 4);
    auto key = random_tensor<float>(ctx, k_shape, 2), value = random_tensor<float>(ctx, k_shape, 3);
    Tensor<int32_t, 1> lengths;
    if (!c.lengths.empty()) lengths = Tensor<int32_t, 1>::from_host(ctx, {c.items}, c.lengths);
    std::vector<std::vector<float>> first;
    for (int threads : {1, 2, 3, 16}) {
      omp_set_num_threads(threads);
      Tensor<float, 4> out(ctx, q_shape), dq(ctx, q_shape), dk(ctx, k_shape), dv(ctx, k_shape);
      Tensor<float, 3> lse(ctx, {c.items, c.heads, c.queries});
      attention_forward(ctx, view(out), lse, query, key, value, lengths, {.causal = c.causal});
      attention_backward(ctx, view(dq), dk, dv, d_out, lse, out, query, key, value, lengths, {.causal = c.causal});
      std::vector<std::vector<float>> all = {to_host(out), to_host(lse), to_host(dq), to_host(dk), to_host(dv)};
      if (first.empty()) first = all;
      CHECK(all == first);
    }
  }
  omp_set_num_threads(most);
}

TEST_CASE("attention: gradients on the tape agree with finite differences", "[ops][attention]") {
  auto ctx = nan_filled_context();
  const auto lengths = Tensor<int32_t, 1>::from_host(ctx, {2}, std::vector<int32_t>{5, 3});
  for (bool causal : {false, true}) {
    auto qkv = random_variable<3>(ctx, {2, 5, 3 * 2 * 4}, 1);
    const auto packed = gradcheck(
        ctx, [&](auto& tape, auto x) { return self_attention(tape, x, 2, {.causal = causal}, lengths); }, qkv);
    INFO(packed.message);
    CHECK(packed);
  }
  auto query = random_variable<3>(ctx, {2, 3, 8}, 1);
  auto key = random_variable<3>(ctx, {2, 5, 8}, 2), value = random_variable<3>(ctx, {2, 5, 8}, 3);
  const auto cross = gradcheck(
      ctx, [&](auto& tape, auto q, auto k, auto v) { return attention(tape, q, k, v, 2, {.scale = 0.7}, lengths); },
      query, key, value);
  INFO(cross.message);
  CHECK(cross);
  // one variable as all three inputs: the contributions add up
  auto x = random_variable<3>(ctx, {2, 5, 8}, 4);
  const auto same = gradcheck(
      ctx, [&](auto& tape, auto v) { return attention(tape, v, v, v, 2); }, x);
  INFO(same.message);
  CHECK(same);
}

TEST_CASE("attention: errors name the argument, the axis and the numbers", "[ops][attention]") {
  auto ctx = nan_filled_context();
  Tensor<float, 4> query(ctx, {2, 3, 4, 8}), key(ctx, {2, 5, 4, 8}), value(ctx, {2, 6, 4, 8}), out(ctx, {2, 3, 4, 8});
  REQUIRE_ERROR(attention(ctx, query, key, value), ShapeError,
                "attention_forward: axis Nk of value [2, 6, 4, 8] is 6 but must be 5 (from key)");
  REQUIRE_ERROR(attention(ctx, query, Tensor<float, 4>(ctx, {2, 5, 4, 9}), value), ShapeError,
                "axis D of key [2, 5, 4, 9] is 9 but must be 8 (from query)");
  const auto lengths = Tensor<int32_t, 1>::from_host(ctx, {2}, std::vector<int32_t>{5, 6});
  REQUIRE_ERROR(attention(ctx, query, key, key, lengths), ValueError,
                "key_lengths[1] is 6 but must lie in [0, 5], the number of keys");
  REQUIRE_ERROR(attention(ctx, query, key, key, Tensor<int32_t, 1>(ctx, {3})), ShapeError, "axis B of key_lengths [3]");
  REQUIRE_ERROR(attention_forward(ctx, view(out), Tensor<float, 3>(ctx, {2, 3, 4}), query, key, key), ShapeError,
                "axis H of log_sum_exp [2, 3, 4] is 3 but must be 4");
  Tape<Cpu> tape(ctx);
  Variable<float, 3> x(Tensor<float, 3>(ctx, {1, 2, 25}));
  REQUIRE_ERROR(self_attention(tape, x, 4), ShapeError, "axis C of qkv [1, 2, 25] is not a multiple of 3 * 4 heads");
  REQUIRE_ERROR(attention(tape, x, x, x, 4), ShapeError, "axis C of query [1, 2, 25] is not a multiple of 4 heads");
}

TEMPLATE_TEST_CASE("attention: agrees with PyTorch's scaled_dot_product_attention", "[ops][attention]", float, double) {
  Oracle<TestType> oracle("attention");
  const auto lengths = oracle.template integers<int32_t, 1>("lengths");
  const auto packed = [&](const std::string& name, int64_t heads, AttentionOptions options,
                          const Tensor<int32_t, 1>& seen) {
    oracle.check(
        name, {"qkv"}, [&](auto& tape, const auto& qkv) { return self_attention(tape, qkv, heads, options, seen); },
        oracle.template input<3>(name + ".qkv"));
  };
  packed("packed", 2, {}, {});
  packed("packed_causal", 3, {.causal = true}, {});
  packed("packed_lengths", 2, {}, lengths);
  packed("packed_causal_lengths", 2, {.causal = true}, lengths);
  const auto cross = [&](const std::string& name, int64_t heads, AttentionOptions options,
                         const Tensor<int32_t, 1>& seen) {
    oracle.check(
        name, {"query", "key", "value"},
        [&](auto& tape, const auto& query, const auto& key, const auto& value) {
          return attention(tape, query, key, value, heads, options, seen);
        },
        oracle.template input<3>(name + ".query"), oracle.template input<3>(name + ".key"),
        oracle.template input<3>(name + ".value"));
  };
  cross("cross", 2, {}, {});
  cross("cross_scale", 1, {.scale = 1.7}, {});
  cross("cross_lengths", 2, {}, lengths);
}
