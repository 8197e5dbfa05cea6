// Variable: a tensor and its gradient behind one shared handle.
#pragma once
#include <memory>
#include <utility>

#include <tessera/core/tensor.hpp>

namespace tessera {

/// G is the gradient's element type: T for activations, accumulate_t<T> for parameters. Copies share value and
/// gradient. A gradient is allocated when its first contribution arrives.
template <class T, int Rank, class Device = Cpu, class G = T>
class Variable {
 public:
  using value_type = T;
  static constexpr int rank = Rank;
  struct State {
    Tensor<T, Rank, Device> value;
    Tensor<G, Rank, Device> grad;
    bool requires_grad;
  };

  Variable() = default;
  /// Takes part in the backward pass where requires_grad.
  explicit Variable(Tensor<T, Rank, Device> value, bool requires_grad = false)
      : state_(std::make_shared<State>(State{std::move(value), {}, requires_grad})) {}

  /// Whether there is a value: an optional argument (a bias) may be an empty handle.
  explicit operator bool() const { return state_ != nullptr; }
  /// The values; not of an empty handle.
  const Tensor<T, Rank, Device>& value() const { return state_->value; }
  const Shape<Rank>& shape() const { return state_->value.shape; }
  /// Absent before backward() and where no gradient arrives.
  const Tensor<G, Rank, Device>& grad() const { return state_->grad; }
  /// Whether backward() brings a gradient here.
  bool requires_grad() const { return state_ && state_->requires_grad; }
  /// The parts, for the tape, optimisers and loaders.
  State& state() const { return *state_; }

 private:
  std::shared_ptr<State> state_;
};

/// A trainable value whose gradient is summed in accumulate_t<T>.
template <class T, int Rank, class Device = Cpu>
using Parameter = Variable<T, Rank, Device, accumulate_t<T>>;

}  // namespace tessera
