// Attention's kernels, run by the emulator, agree with Cpu: forward and backward, with every mask.
#include <tessera/kernels/attention.cuh>
#include <tessera/simt.hpp>

#include "support/catch.hpp"
#include "support/random.hpp"
#include "support/simt.hpp"

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
  bool operator==(const Results&) const = default;
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
  Context<Simt> device;
  const Shape<4> q_shape{c.items, c.queries, c.heads, c.channels}, k_shape{c.items, c.keys, c.heads, c.channels};
  const auto query = random_tensor<T>(ctx, q_shape, 1), key = random_tensor<T>(ctx, k_shape, 2);
  const auto value = random_tensor<T>(ctx, k_shape, 3), d_out = random_tensor<T>(ctx, q_shape, 4);
  Tensor<int32_t, 1> lengths;
  Tensor<int32_t, 1, Simt> device_lengths;
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
           {1, 70, 300, 1, 64},
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
