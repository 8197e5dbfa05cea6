// A row of the GPU's benchmark: what is timed, and what it must at least move or compute. Rows are named
// operation/pass/type/shape; bench/gpu/peers.py has PyTorch's work of the same name.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include <tessera/core/tensor.hpp>
#include <tessera/cuda/context.hpp>

namespace gpu_bench {

using namespace tessera;

struct Row {
  std::string name;
  double bytes = 0;  ///< that one run reads and writes at least, each tensor once
  double flops = 0;  ///< of matrix products alone: what the tensor cores do
  /// Allocates the inputs and gives back the work, which may be called any number of times.
  std::function<std::function<void()>(Context<Cuda>&)> prepare;
};
using Rows = std::vector<Row>;

void add_layer_rows(Rows& rows);
void add_attention_rows(Rows& rows);
void add_loss_rows(Rows& rows);
void add_assignment_rows(Rows& rows);
void add_step_rows(Rows& rows);

/// Normal numbers times `deviation`: a million drawn on the host, repeated. (Zeros would be timed faster than they
/// are.)
template <class T, size_t Rank>
Tensor<T, int(Rank), Cuda> random_tensor(Context<Cuda>& ctx, const std::array<int64_t, Rank>& shape,
                                         double deviation = 1) {
  static const std::vector<float> draws = [] {
    std::vector<float> values(1000003);
    const RandomStream random{1, 0, 0};
    for (size_t i = 0; i < values.size(); ++i) values[i] = random.normal(i);
    return values;
  }();
  Tensor<T, int(Rank), Cuda> tensor(ctx, shape);
  std::vector<T> period(std::min(draws.size(), size_t(tensor.size())));
  for (size_t i = 0; i < period.size(); ++i) period[i] = narrow<T>(float(deviation) * draws[i]);
  Memory<Cuda>::from_host(tensor.data, period.data(), period.size() * sizeof(T));
  for (size_t done = period.size(); done < size_t(tensor.size());) {
    const size_t count = std::min(done, size_t(tensor.size()) - done);
    cuda::check(cudaMemcpy(tensor.data + done, tensor.data, count * sizeof(T), cudaMemcpyDeviceToDevice),
                "random data");
    done += count;
  }
  return tensor;
}
/// Whole numbers in [0, below).
template <size_t Rank>
Tensor<int32_t, int(Rank), Cuda> random_numbers(Context<Cuda>& ctx, const std::array<int64_t, Rank>& shape,
                                                uint32_t below) {
  std::vector<int32_t> values(size_t(element_count(shape)));
  const RandomStream random{2, 0, 0};
  for (size_t i = 0; i < values.size(); ++i) values[i] = int32_t(random.below(i, below));
  return Tensor<int32_t, int(Rank), Cuda>::from_host(ctx, shape, values);
}

}  // namespace gpu_bench
