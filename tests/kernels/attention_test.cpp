// Attention's kernels, run by the emulator, agree with Cpu: forward and backward, with every mask.
#include <tessera/kernels/attention.cuh>

#include "support/catch.hpp"
#include "support/kernels.hpp"
#include "support/random.hpp"

using namespace tessera;
using namespace tessera_test;

namespace {

struct Case {
  int64_t items, queries, keys, heads, channels;
  bool causal = false;
  std::vector<int32_t> lengths = {};
};

template <class T>
struct Results {
  std::vector<T> out, d_query, d_key, d_value;
  std::vector<float> log_sum_exp;
};

template <class T, class Device>
Results<T> run(Context<Device>& ctx, const Case& c, const Tensor<T, 4, Device>& query, const Tensor<T, 4, Device>& key,
               const Tensor<T, 4, Device>& value, const Tensor<T, 4, Device>& d_out,
               const Tensor<int32_t, 1, Device>& lengths) {
  const AttentionOptions options{.scale = 0.3, .causal = c.causal};
  Tensor<T, 4, Device> out(ctx, query.shape), d_query(ctx, query.shape), d_key(ctx, key.shape), d_value(ctx, key.shape);
  Tensor<float, 3, Device> log_sum_exp(ctx, {c.items, c.heads, c.queries});
  attention_forward(ctx, view(out), log_sum_exp, query, key, value, lengths, options);
  attention_backward(ctx, view(d_query), d_key, d_value, d_out, log_sum_exp, out, query, key, value, lengths, options);
  return {to_host(out), to_host(d_query), to_host(d_key), to_host(d_value), to_host(log_sum_exp)};
}

// Like largest_difference, but numbers near 0 are compared absolutely: a softmax over one key has no gradient.
template <class T>
double difference(std::vector<T> a, std::vector<T> b) {
  a.push_back(narrow<T>(1.0f));
  b.push_back(narrow<T>(1.0f));
  return largest_difference(a, b);
}

template <class T>
void check_case(const Case& c, double tolerance) {
  INFO("B " << c.items << " Nq " << c.queries << " Nk " << c.keys << " H " << c.heads << " D " << c.channels
            << " causal " << c.causal << " lengths " << !c.lengths.empty());
  auto ctx = nan_filled_context();
  Context<Device> device;
  const Shape<4> q_shape{c.items, c.queries, c.heads, c.channels}, k_shape{c.items, c.keys, c.heads, c.channels};
  const auto query = random_tensor<T>(ctx, q_shape, 1), key = random_tensor<T>(ctx, k_shape, 2);
  const auto value = random_tensor<T>(ctx, k_shape, 3), d_out = random_tensor<T>(ctx, q_shape, 4);
  Tensor<int32_t, 1> lengths;
  Tensor<int32_t, 1, Device> device_lengths;
  if (!c.lengths.empty()) {
    lengths = Tensor<int32_t, 1>::from_host(ctx, {c.items}, c.lengths);
    device_lengths = on_device(device, lengths);
  }
  const auto expected = run(ctx, c, query, key, value, d_out, lengths);
  const auto found = run(device, c, on_device(device, query), on_device(device, key), on_device(device, value),
                         on_device(device, d_out), device_lengths);
  CHECK(difference(found.out, expected.out) < tolerance);
  CHECK(difference(found.d_query, expected.d_query) < tolerance);
  CHECK(difference(found.d_key, expected.d_key) < tolerance);
  CHECK(difference(found.d_value, expected.d_value) < tolerance);
  for (size_t i = 0; i < expected.log_sum_exp.size(); ++i) {
    const float e = expected.log_sum_exp[i], f = found.log_sum_exp[i];
    if (!(f == e || std::abs(f - e) < 3e-6f * std::max(1.0f, std::abs(e)))) {
      CHECK(f == e);
      break;
    }
  }
}

}  // namespace

TEMPLATE_TEST_CASE("attention: kernels agree with Cpu at every size, with every mask", "[kernels]", float, bfloat16) {
  using T = TestType;
  const double tolerance = std::is_same_v<T, float> ? 3e-6 : 1.2e-2;
  for (const Case& c : std::vector<Case>{
           {1, 1, 1, 1, 1},
           {2, 63, 63, 2, 32},
           {1, 64, 65, 1, 64},
           {2, 65, 7, 3, 5},
           {1, 127, 128, 1, 17, true},
           {2, 128, 128, 1, 33, true, {128, 50}},
           {3, 129, 197, 2, 40, false, {197, 0, 1}},
           {1, 197, 197, 2, 64, true},
           {2, 77, 77, 1, 64, true, {77, 12}},
           {1, 197, 256, 1, 64},
           {1, 70, 300, 1, 64},
           {1, 300, 100, 1, 64},
           {1, 300, 290, 1, 24, true},
           {1, 65, 129, 1, 128},
           {1, 66, 66, 1, 100, true},
           {2, 5, 40, 1, 3, true},
           {2, 40, 5, 1, 3, true, {5, 3}},
           {1, 8, 197, 2, 64},
           {2, 17, 129, 1, 128, false, {129, 60}},
           {1, 4, 300, 1, 16},
           {2, 9, 0, 1, 8},
       })
    check_case<T>(c, tolerance);
}

TEST_CASE("attention: kernels take float16", "[kernels]") {
  check_case<float16>({2, 33, 70, 1, 40, true, {70, 3}}, 1.5e-3);
}

TEST_CASE("attention: all but 128 channels of float backward have room on GPUs with 99 KiB a block", "[kernels]") {
  const SharedLimit limit(kernels::least_shared_bytes);
  check_case<bfloat16>({1, 20, 209, 1, 64}, 1.2e-2);  // too many keys for a resident block there
  check_case<bfloat16>({1, 40, 70, 1, 128}, 1.2e-2);
  check_case<float>({1, 40, 70, 1, 64, true}, 3e-6);
  auto ctx = nan_filled_context();
  Context<Device> device;  // the widest floats' forward pass, with few queries
  const auto x = random_tensor<float>(ctx, Shape<4>{1, 9, 1, 128}, 1);
  const auto x_s = on_device(device, x);
  Tensor<float, 4> out(ctx, x.shape);
  Tensor<float, 4, Device> out_s(device, x.shape);
  attention_forward(ctx, view(out), {}, x, x, x, {}, {});
  attention_forward(device, view(out_s), {}, x_s, x_s, x_s, {}, {});
  CHECK(largest_difference(to_host(out_s), to_host(out)) < 3e-6);
}

// One kernel of each kind: resident, tiled, tiled with the keys parted among the warps.
const std::vector<Case> kinds = {{2, 77, 77, 1, 64, true, {77, 12}}, {1, 70, 66, 2, 24}, {1, 8, 150, 1, 16}};

TEMPLATE_TEST_CASE("attention: kernels give the same bits in every order", "[kernels]", float, bfloat16) {
  using T = TestType;
  auto ctx = nan_filled_context();
  Context<Device> device;
  for (const Case& c : kinds) {
    const Shape<4> q_shape{c.items, c.queries, c.heads, c.channels}, k_shape{c.items, c.keys, c.heads, c.channels};
    const auto query = on_device(device, random_tensor<T>(ctx, q_shape, 1));
    const auto key = on_device(device, random_tensor<T>(ctx, k_shape, 2));
    const auto value = on_device(device, random_tensor<T>(ctx, k_shape, 3));
    const auto d_out = on_device(device, random_tensor<T>(ctx, q_shape, 4));
    Tensor<int32_t, 1, Device> lengths;
    if (!c.lengths.empty()) lengths = Tensor<int32_t, 1, Device>::from_host(device, {c.items}, c.lengths);
    std::vector<std::vector<float>> first;
    for (const Order order : all_orders) {
      const InOrder in_order(order, 7);
      const auto r = run(device, c, query, key, value, d_out, lengths);
      std::vector<std::vector<float>> results = {r.log_sum_exp};
      for (const auto& values : {r.out, r.d_query, r.d_key, r.d_value}) {
        results.emplace_back();
        for (const T v : values) results.back().push_back(widen(v));
      }
      if (first.empty()) first = results;
      CHECK(results == first);
    }
  }
}

TEMPLATE_TEST_CASE("attention: kernels take packed and misaligned views and skip absent outputs", "[kernels]", float,
                   bfloat16) {
  using T = TestType;
  auto ctx = nan_filled_context();
  Context<Device> device;
  for (const Case& c : kinds) {
    // Five packed tensors beside one another; from `offset` 1 on, no row is aligned.
    const int64_t rows = std::max(c.queries, c.keys);
    for (const int64_t offset : {0, 1}) {
      INFO("offset " << offset << ", D " << c.channels);
      const auto packed = random_tensor<T, 5>(ctx, {c.items, rows, 4, c.heads, c.channels + offset}, 5);
      const auto packed_device = on_device(device, packed);
      const auto part = [&](const auto& tensor, int index, int64_t count) {
        return tensor.select(2, index).slice(1, 0, count).slice(3, offset, offset + c.channels);
      };
      Tensor<int32_t, 1> lengths;
      Tensor<int32_t, 1, Device> device_lengths;
      if (!c.lengths.empty()) {
        lengths = Tensor<int32_t, 1>::from_host(ctx, {c.items}, c.lengths);
        device_lengths = on_device(device, lengths);
      }
      const AttentionOptions options{.causal = c.causal};
      Tensor<T, 4> out(ctx, {c.items, c.queries, c.heads, c.channels});
      Tensor<float, 3> log_sum_exp(ctx, {c.items, c.heads, c.queries});
      auto d_packed = Tensor<T, 5>::zeros(ctx, packed.shape);
      attention_forward(ctx, view(out), log_sum_exp, part(packed, 0, c.queries), part(packed, 1, c.keys),
                        part(packed, 2, c.keys), lengths, options);
      attention_backward(ctx, part(d_packed, 0, c.queries), part(d_packed, 1, c.keys), part(d_packed, 2, c.keys),
                         part(packed, 3, c.queries), log_sum_exp, out, part(packed, 0, c.queries),
                         part(packed, 1, c.keys), part(packed, 2, c.keys), lengths, options);

      Tensor<T, 4, Device> out_s(device, out.shape), again(device, out.shape);
      Tensor<float, 3, Device> log_sum_exp_s(device, log_sum_exp.shape);
      auto d_packed_s = Tensor<T, 5, Device>::zeros(device, packed.shape);
      auto d_alone_s = Tensor<T, 5, Device>::zeros(device, packed.shape);
      const auto q = part(packed_device, 0, c.queries), k = part(packed_device, 1, c.keys),
                 v = part(packed_device, 2, c.keys), d_o = part(packed_device, 3, c.queries);
      attention_forward(device, view(out_s), log_sum_exp_s, q, k, v, device_lengths, options);
      attention_forward(device, view(again), {}, q, k, v, device_lengths, options);
      attention_backward(device, part(d_packed_s, 0, c.queries), part(d_packed_s, 1, c.keys),
                         part(d_packed_s, 2, c.keys), d_o, log_sum_exp_s, out_s, q, k, v, device_lengths, options);
      const double tolerance = std::is_same_v<T, float> ? 3e-6 : 1.2e-2;
      CHECK(difference(to_host(out_s), to_host(out)) < tolerance);
      CHECK(largest_difference(to_host(again), to_host(out_s)) == 0);
      // All of the packed gradient, so that what lies between the views is seen to stay as it was.
      CHECK(difference(to_host(d_packed_s), to_host(d_packed)) < tolerance);
      // Each gradient alone has the bits that it has beside the others.
      attention_backward(device, part(d_alone_s, 0, c.queries), {}, {}, d_o, log_sum_exp_s, out_s, q, k, v,
                         device_lengths, options);
      attention_backward(device, TensorView<T, 4, Device>{}, part(d_alone_s, 1, c.keys), {}, d_o, log_sum_exp_s, out_s,
                         q, k, v, device_lengths, options);
      attention_backward(device, TensorView<T, 4, Device>{}, {}, part(d_alone_s, 2, c.keys), d_o, log_sum_exp_s, out_s,
                         q, k, v, device_lengths, options);
      CHECK(largest_difference(to_host(d_alone_s), to_host(d_packed_s)) == 0);
    }
  }
}

TEST_CASE("attention: keys beyond an item's length are not touched by what memory holds there", "[kernels]") {
  auto ctx = nan_filled_context();
  Context<Device> device;
  for (const int64_t queries : {4, 40, 70}) {
    const Case c{1, queries, 90, 1, 64, false, {37}};
    const Shape<4> q_shape{1, queries, 1, 64}, k_shape{1, 90, 1, 64};
    auto key = random_tensor<bfloat16>(ctx, k_shape, 2), value = random_tensor<bfloat16>(ctx, k_shape, 3);
    const auto query = on_device(device, random_tensor<bfloat16>(ctx, q_shape, 1));
    const auto d_out = on_device(device, random_tensor<bfloat16>(ctx, q_shape, 4));
    const auto lengths = Tensor<int32_t, 1, Device>::from_host(device, {1}, c.lengths);
    const auto clean = run(device, c, query, on_device(device, key), on_device(device, value), d_out, lengths);
    for (int64_t i = 37 * 64; i < 90 * 64; ++i)
      key.data[i] = value.data[i] = narrow<bfloat16>(std::numeric_limits<float>::quiet_NaN());
    const auto spoilt = run(device, c, query, on_device(device, key), on_device(device, value), d_out, lengths);
    CHECK(largest_difference(spoilt.out, clean.out) == 0);
    CHECK(largest_difference(spoilt.d_query, clean.d_query) == 0);
    CHECK(largest_difference(spoilt.d_key, clean.d_key) == 0);
    CHECK(largest_difference(spoilt.d_value, clean.d_value) == 0);
  }
}

TEST_CASE("attention: kernels refuse heads that are too wide", "[kernels]") {
  Context<Device> device;
  Tensor<float, 4, Device> wide(device, {1, 2, 1, 129});
  REQUIRE_ERROR(attention(device, wide, wide, wide), ShapeError, "at most 128");
}
