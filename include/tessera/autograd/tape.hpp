// The tape: records, for every operation, a function that calls its _backward, and runs them in reverse order. It knows
// operations' forward/backward pairs and no kernels.
#pragma once
#include <functional>
#include <vector>

#include <tessera/autograd/variable.hpp>
#include <tessera/ops/elementwise.hpp>

namespace tessera {

/// One forward pass's record. Not recording, it computes values only. `random` numbers come from the context, so a
/// recomputed part must restore the context's random state (recompute.hpp does).
template <class Device = Cpu>
class Tape {
 public:
  using Node = std::function<void(Tape&)>;

  /// With `recording` false, operations on this tape compute values and nothing else: for inference.
  explicit Tape(Context<Device>& context, bool recording = true) : ctx(context), recording_(recording) {}

  Context<Device>& ctx;  ///< of all operations on this tape

  /// Whether an operation on these inputs must be recorded.
  template <class... V>
  bool records(const V&... inputs) const {
    return recording_ && (inputs.requires_grad() || ...);
  }
  /// Whether operations are recorded at all.
  bool recording() const { return recording_; }
  /// Adds a step of the backward pass; steps run in reverse order.
  void record(Node node) { nodes_.push_back(std::move(node)); }

  /// Adds to v's gradient what `write` writes into the view that it is given; that view is absent where v needs no
  /// gradient. Contributions are added in the order of the tape. Calls may nest, for one variable too (multiply(x, x)).
  template <class V, class Write>
  void contribute(const V& v, Write&& write) {
    using Grad = decltype(v.state().grad);
    if (!v.requires_grad()) {
      write(Grad{});
      return;
    }
    Grad part(ctx, v.shape());
    write(part);
    Grad& grad = v.state().grad;  // looked at after write, which may have contributed to v itself
    if (!grad)
      grad = std::move(part);
    else
      add_into(ctx, grad, part);
  }
  /// Adds a finished gradient to v's: the tensor itself where it is v's first and nobody else holds it, else its
  /// values.
  template <class V>
  void give(const V& v, decltype(V::State::grad) part) {
    if (!v.requires_grad()) return;
    auto& grad = v.state().grad;
    if (grad) return add_into(ctx, grad, part);
    if (part.buffer.use_count() == 1) {
      grad = std::move(part);
      return;
    }
    auto own = filled<std::decay_t<decltype(grad)>>(v.shape(), 0);
    add_into(ctx, own, part);
    grad = std::move(own);
  }
  /// Calls add(g) where v needs a gradient; g is v's gradient so far (zero where nothing has arrived), to be added to:
  /// for operations that reach a part of v only.
  template <class V, class Add>
  void add_to_grad(const V& v, Add&& add) {
    if (!v.requires_grad()) return;
    auto& grad = v.state().grad;
    if (!grad) grad = filled<std::decay_t<decltype(grad)>>(v.shape(), 0);
    add(view(grad));
  }

  /// Gradients of sum(out * d_out) in all variables that require one. Frees the record as it goes: a second call
  /// without anything recorded in between throws ValueError.
  template <class V>
  void backward(const V& out, decltype(V::State::grad) d_out) {
    expect_shape("Tape::backward", "d_out", d_out.shape, out.shape(), "", "out");
    require(out.requires_grad(), "Tape::backward: the output depends on no variable that requires a gradient");
    require(!spent_ || !nodes_.empty(),
            "Tape::backward: the record was used up by the backward pass before; add losses up and call it once, or "
            "compute the loss anew");
    out.state().grad = std::move(d_out);
    run();
  }
  /// Gradients of a scalar loss.
  template <class T, class G>
  void backward(const Variable<T, 0, Device, G>& loss) {
    backward(loss, filled<Tensor<G, 0, Device>>({}, 1));
  }

 private:
  // On the context's stream and without a copy from the host: a step may be captured as a graph.
  template <class Grad>
  Grad filled(const decltype(Grad::shape)& shape, double value) {
    Grad grad(ctx, shape);
    fill(ctx, view(grad), value);
    return grad;
  }
  void run() {
    while (!nodes_.empty()) {
      Node node = std::move(nodes_.back());
      nodes_.pop_back();
      node(*this);
    }
    spent_ = true;
  }
  bool recording_, spent_ = false;
  std::vector<Node> nodes_;
};

/// A result's gradient in its recorded backward function: taken out, so that it is freed after use. Absent where the
/// result was not used by the loss.
template <class T, int Rank, class Device, class G>
Tensor<G, Rank, Device> take_grad(const Variable<T, Rank, Device, G>& result) {
  return std::exchange(result.state().grad, {});
}

}  // namespace tessera
