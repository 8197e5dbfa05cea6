// Rows chosen by number: the kernels, run by the emulator, agree with Cpu.
#include <tessera/kernels/embedding.cuh>

#include "support/catch.hpp"
#include "support/kernels.hpp"
#include "support/random.hpp"

using namespace tessera;
using namespace tessera_test;

namespace {
/// Ids below `vocabulary`, of which every third is 1 (a token that all texts have, in segments of several parts).
Tensor<int32_t, 2> random_ids(Context<Cpu>& ctx, const Shape<2>& shape, uint32_t vocabulary) {
  Tensor<int32_t, 2> ids(ctx, shape);
  for (int64_t i = 0; i < ids.size(); ++i)
    ids.data[i] = i % 3 == 0 ? int32_t(std::min(1u, vocabulary - 1))
                             : int32_t(RandomStream{9, 0, 0}.below(uint64_t(i), vocabulary));
  return ids;
}
}  // namespace

TEMPLATE_TEST_CASE("embedding: rows of the table, and sums back into it", "[kernels]", float, bfloat16) {
  using T = TestType;
  auto ctx = nan_filled_context();
  Context<Device> device;
  for (const auto& [vocabulary, channels, texts] :
       {std::tuple{1, 1, 1}, {40, 63, 3}, {255, 64, 9}, {256, 65, 5}, {257, 12, 9}, {40, 8, 260}, {66000, 4, 20}}) {
    if (vocabulary > 60000 && !std::is_same_v<T, float>) continue;  // three passes of the sort: once is enough
    INFO(vocabulary << " rows of " << channels << ", " << texts << " texts");
    auto table = random_tensor<T>(ctx, Shape<2>{vocabulary, channels}, 1);
    auto ids = random_ids(ctx, {texts, 13}, uint32_t(vocabulary));
    const auto table_s = on_device(device, table);
    const auto ids_s = on_device(device, ids);
    const auto out = embedding(ctx, table, ids);
    const auto out_s = embedding(device, table_s, ids_s);
    CHECK(largest_difference(to_host(out_s), to_host(out)) == 0);
    auto d_out = random_tensor<T>(ctx, out.shape, 2);
    const auto d_out_s = on_device(device, d_out);
    Tensor<float, 2> d_table(ctx, table.shape);
    Tensor<float, 2, Device> d_table_s(device, table.shape), again(device, table.shape);
    embedding_backward(ctx, view(d_table), view(d_out), ids);
    embedding_backward(device, view(d_table_s), view(d_out_s), ids_s);
    CHECK(largest_difference(to_host(d_table_s), to_host(d_table)) < 1e-6);
    Tensor<T, 2, Device> narrowed(device, table.shape);
    embedding_backward(device, view(narrowed), view(d_out_s), ids_s);
    CHECK(largest_difference(to_host(narrowed), to_host(d_table)) < (std::is_same_v<T, float> ? 1e-6 : 4e-3));
    const InOrder in_order(Order::random, uint64_t(vocabulary));
    embedding_backward(device, view(again), view(d_out_s), ids_s);
    CHECK(to_host(again) == to_host(d_table_s));
  }
}

TEST_CASE("embedding: no ids, and ids outside the table stop the kernel", "[kernels]") {
  Context<Device> device;
  Tensor<float, 2, Device> table = Tensor<float, 2, Device>::zeros(device, {5, 8}), d_table(device, {5, 8});
  Tensor<int32_t, 1, Device> none(device, {0});
  CHECK(to_host(embedding(device, table, none)).empty());
  embedding_backward(device, view(d_table), view(Tensor<float, 2, Device>(device, {0, 8})), none);
  CHECK(to_host(d_table) == std::vector<float>(40, 0.0f));
  if constexpr (survives_faults)
    for (const int32_t bad : {-1, 5}) {
      const auto ids = Tensor<int32_t, 1, Device>::from_host(device, {1}, {bad});
      embedding(device, table, ids);
      CHECK_THROWS_AS(device.synchronize(), Fault);
      Tensor<float, 2, Device> d_out = Tensor<float, 2, Device>::zeros(device, {1, 8});
      embedding_backward(device, view(d_table), view(d_out), ids);
      CHECK_THROWS_AS(device.synchronize(), Fault);
    }
}

TEMPLATE_TEST_CASE("embedding: gather_tokens takes one token of each sequence", "[kernels]", float, bfloat16) {
  using T = TestType;
  auto ctx = nan_filled_context();
  Context<Device> device;
  for (const int64_t channels : {1, 63, 64, 197}) {
    auto x = random_tensor<T>(ctx, Shape<3>{4, 7, channels}, 1);
    const auto x_s = on_device(device, x);
    const auto index = Tensor<int32_t, 1>::from_host(ctx, {4}, {6, 0, 3, 3});
    const auto index_s = on_device(device, index);
    const auto y = gather_tokens(ctx, x, index);
    const auto y_s = gather_tokens(device, x_s, index_s);
    CHECK(largest_difference(to_host(y_s), to_host(y)) == 0);
    const auto part = Tensor<int32_t, 1, Device>::from_host(device, {4}, {1, 0, 2, 2});
    const auto from = x.slice(1, 2, 5);
    CHECK(largest_difference(
              to_host(gather_tokens(device, x_s.slice(1, 2, 5), part)),
              to_host(gather_tokens(ctx, from, Tensor<int32_t, 1>::from_host(ctx, {4}, {1, 0, 2, 2})))) == 0);
    Tensor<T, 3> d_x(ctx, x.shape);
    Tensor<T, 3, Device> d_x_s(device, x.shape);
    gather_tokens_backward(ctx, view(d_x), y, index);
    gather_tokens_backward(device, view(d_x_s), y_s, index_s);
    CHECK(largest_difference(to_host(d_x_s), to_host(d_x)) == 0);
  }
}
