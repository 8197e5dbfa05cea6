// A row of the benchmark: inputs of seeded normal numbers, the work that is timed, and the outputs that a peer
// compares. Rows are named operation/pass/device/type/shape: layernorm/forward/cpu/f32/1576x768.
#pragma once
#include <functional>
#include <initializer_list>
#include <string>
#include <utility>
#include <vector>

#include <tessera/core/context.hpp>
#include <tessera/core/tensor.hpp>
#include <tessera/io/safetensors.hpp>

namespace bench {

using namespace tessera;

/// Fills with normal numbers times `deviation`; `stream` names the sequence. (A table of 65,536 draws, visited in a
/// scrambled order: filling a tower's weights must not take longer than running it.)
template <class T>
void fill_normal(T* values, int64_t count, uint64_t stream, double deviation = 1) {
  static const std::vector<float> table = [] {
    const RandomStream random{.seed = 1};
    std::vector<float> draws(65536);
    for (size_t i = 0; i < draws.size(); ++i) draws[i] = random.normal(i);
    return draws;
  }();
  for (int64_t i = 0; i < count; ++i) {
    uint64_t h = (uint64_t(i) + (stream << 40) + 1) * 0x9E3779B97F4A7C15u;
    h = (h ^ h >> 32) * 0xD6E8FEB86659FD93u;
    values[i] = narrow<T>(accumulate_t<T>(deviation * table[h >> 48]));
  }
}

struct Row {
  Context<Cpu> ctx;
  std::function<void()> work;
  std::vector<io::NamedTensor> inputs;
  std::function<std::vector<io::NamedTensor>()> more_inputs;  // a model's parameters, collected when they are wanted
  std::vector<std::pair<std::string, std::function<AnyTensor()>>> outputs;  // read after the work
  double bytes_moved = 0;     // that one run reads and writes at least; 0: inputs and outputs once
  double work_megabytes = 0;  // that the first run took beyond inputs and outputs, at its peak
  double flops = 0;           // multiplications and additions of one run, where that is what bounds the work

  /// An input of normal numbers, times `deviation`.
  template <class T, size_t Rank>
  Tensor<T, int(Rank)> input(const std::string& name, const std::array<int64_t, Rank>& shape, double deviation = 1) {
    Tensor<T, int(Rank)> tensor(ctx, shape);
    fill_normal(tensor.data, tensor.size(), inputs.size(), deviation);
    add_input(name, tensor);
    return tensor;
  }
  /// An input of whole numbers in [0, below).
  template <size_t Rank>
  Tensor<int32_t, int(Rank)> numbers(const std::string& name, const std::array<int64_t, Rank>& shape, uint32_t below) {
    Tensor<int32_t, int(Rank)> tensor(ctx, shape);
    const RandomStream random{.seed = 2, .operation = uint32_t(inputs.size())};
    for (int64_t i = 0; i < tensor.size(); ++i) tensor.data[i] = int32_t(random.below(uint64_t(i), below));
    add_input(name, tensor);
    return tensor;
  }
  template <class T, int Rank>
  void add_input(const std::string& name, const Tensor<T, Rank>& tensor) {
    inputs.push_back({name, io::to_any(tensor)});
  }
  template <class T, size_t Rank>
  Tensor<T, int(Rank)> output(const std::string& name, const std::array<int64_t, Rank>& shape) {
    Tensor<T, int(Rank)> tensor(ctx, shape);
    outputs.emplace_back(name, [tensor] { return io::to_any(tensor); });
    return tensor;
  }
  double bytes() const {
    if (bytes_moved > 0) return bytes_moved;
    double sum = 0;
    for (const io::NamedTensor& named : inputs) sum += double(named.tensor.bytes());
    for (const auto& [name, read] : outputs) sum += double(read().bytes());
    return sum;
  }
};

using Prepare = std::function<void(Row&)>;
/// Registers a row. `prepare` makes inputs and work when the row is run.
void add_row(const std::string& name, Prepare prepare);

template <class T>
std::string row_name(const std::string& operation, const std::string& pass, const std::string& shape) {
  return sentence(operation, "/", pass, "/cpu/", std::is_same_v<T, bfloat16> ? "bf16" : "f32", "/", shape);
}
inline std::string extents(std::initializer_list<int64_t> shape) {
  std::string text;
  for (int64_t extent : shape) text += sentence(text.empty() ? "" : "x", extent);
  return text;
}

// One function a source file.
void add_elementwise_rows();
void add_normalisation_rows();
void add_product_rows();
void add_token_rows();
void add_loss_rows();
void add_assignment_rows();
void add_map_rows();
void add_optimiser_rows();
void add_tower_rows();
void add_training_rows();

}  // namespace bench
