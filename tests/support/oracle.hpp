// Agreement with PyTorch: a case of a file that tests/oracle/<op>.py wrote holds inputs, the output y, a cotangent d_y
// and the gradients d_<input>, in double.
#pragma once
#include <string>
#include <vector>

#include <support/catch.hpp>
#include <support/random.hpp>
#include <tessera/autograd/tape.hpp>
#include <tessera/io/tensor_source.hpp>

namespace tessera_test {

template <class T>
class Oracle {
 public:
  /// The committed file of operation `op`.
  explicit Oracle(const std::string& op)
      : file_(tessera::io::TensorSource::open(std::string(TESSERA_TEST_DIR "/golden/") + op + ".safetensors")) {}

  /// An input of a case, as a variable that requires a gradient.
  template <int Rank>
  tessera::Variable<T, Rank> input(const std::string& name) {
    return tessera::Variable<T, Rank>(file_.read<T, Rank>(ctx, name), true);
  }
  template <class I, int Rank>
  tessera::Tensor<I, Rank> integers(const std::string& name) {
    return file_.read<I, Rank>(ctx, name);
  }
  /// Runs f(tape, inputs...) and compares its result and the gradients of all inputs, whose names are given in order.
  template <class F, class... V>
  void check(const std::string& name, const std::vector<std::string>& names, F&& f, const V&... inputs) {
    INFO(name);
    tessera::Tape<tessera::Cpu> tape(ctx);
    const auto y = f(tape, inputs...);
    using Value = std::decay_t<decltype(y.value())>;
    const auto read = [&](const auto& like, const std::string& tensor) {
      using Like = std::decay_t<decltype(like)>;
      return file_.template read<typename Like::value_type, Like::rank>(ctx, tensor);
    };
    CHECK(difference(y.value(), read(y.value(), name + ".y")) < tolerance);
    tape.backward(y, Value(read(y.value(), name + ".d_y")));
    size_t number = 0;
    const auto compare = [&](const auto& input) {
      INFO("d_" << names[number]);
      CHECK(difference(input.grad(), read(input.grad(), name + ".d_" + names[number])) < tolerance);
      ++number;
    };
    (compare(inputs), ...);
  }

  tessera::Context<tessera::Cpu> ctx = nan_filled_context();
  double tolerance = std::is_same_v<T, float> ? 3e-6 : 1e-12;

 private:
  // Infinities that agree do not count, so that masked log-probabilities can be compared.
  template <class X>
  static double difference(const X& ours, const X& theirs) {
    if (!ours || ours.shape != theirs.shape) return std::numeric_limits<double>::infinity();
    auto a = tessera::to_host(tessera::view(ours)), b = tessera::to_host(tessera::view(theirs));
    for (size_t i = 0; i < a.size(); ++i)
      if (std::isinf(a[i]) && a[i] == b[i]) a[i] = b[i] = 0;
    return largest_difference(a, b);
  }
  tessera::io::TensorSource file_;
};

}  // namespace tessera_test
