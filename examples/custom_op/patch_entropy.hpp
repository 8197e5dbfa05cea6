// patch_entropy, an operation that tessera does not have: how undecided is a patch? Every row of logits [..., K], the
// scores of K classes at a patch, becomes the entropy in nats of softmax(logits / temperature), from 0 (one class has
// it all) to log K. It marks the parts of a picture for which no word was given, and minimising it adapts a model to
// pictures without labels (Wang et al., Tent, 2021).
//
// With t = (x - max(x)) / temperature, Z = sum(e^t) and p = e^t / Z:
//   forward   H = log Z - sum(p t)
//   backward  d_x = -d_h / temperature * p * (log p + H),  log p = t - log Z
// A logit of -infinity (a class that is left out) has p = 0 and adds nothing; a row of nothing else has H = 0.
#pragma once
#include <cmath>
#include <limits>

#include <tessera/autograd/tape.hpp>
#include <tessera/core/math.hpp>
#include <tessera/core/parallel.hpp>

namespace undecided {

// The tag by which implementations for devices are found.
struct patch_entropy_op;

struct EntropyOptions {
  double temperature = 1;
};

/// h [R] = entropy of softmax(x [R, K] / temperature), row by row. T, the logits' type, is named by the caller: h, of
/// the type that sums have, does not tell it. Throws ShapeError where shapes differ.
template <class T, class Device>
void patch_entropy_forward(tessera::Context<Device>& ctx, tessera::Out<tessera::accumulate_t<T>, 1, Device> h,
                           tessera::In<T, 2, Device> x, EntropyOptions options = {}) {
  tessera::require(options.temperature > 0, "patch_entropy: temperature ", options.temperature, " must be positive");
  tessera::expect_shape("patch_entropy_forward", "h", h.shape, {x.shape[0]}, "R", "x");
  tessera::expect_contiguous("patch_entropy_forward", "h", h);
  tessera::expect_contiguous("patch_entropy_forward", "x", x);
  tessera::Backend<patch_entropy_op, Device>::template forward<T>(ctx, h, x, 1 / options.temperature);
}

/// d_x [R, K] from d_h [R] and what the forward pass was given.
template <class T, class Device>
void patch_entropy_backward(tessera::Context<Device>& ctx, tessera::TensorView<T, 2, Device> d_x,
                            tessera::In<tessera::accumulate_t<T>, 1, Device> d_h, tessera::In<T, 2, Device> x,
                            EntropyOptions options = {}) {
  tessera::expect_shape("patch_entropy_backward", "d_x", d_x.shape, x.shape, "", "x");
  tessera::expect_shape("patch_entropy_backward", "d_h", d_h.shape, {x.shape[0]}, "R", "x");
  tessera::expect_contiguous("patch_entropy_backward", "d_x", d_x);
  tessera::expect_contiguous("patch_entropy_backward", "d_h", d_h);
  tessera::expect_contiguous("patch_entropy_backward", "x", x);
  tessera::Backend<patch_entropy_op, Device>::template backward<T>(ctx, d_x, d_h, x, 1 / options.temperature);
}

/// The operation on a tape: h [R] of logits x [R, K].
template <class T, class Device>
tessera::Variable<tessera::accumulate_t<T>, 1, Device> patch_entropy(tessera::Tape<Device>& tape,
                                                                     const tessera::Variable<T, 2, Device>& x,
                                                                     EntropyOptions options = {}) {
  using A = tessera::accumulate_t<T>;
  const bool records = tape.records(x);
  tessera::Variable<A, 1, Device> h(tessera::Tensor<A, 1, Device>(tape.ctx, {x.shape()[0]}), records);
  patch_entropy_forward<T>(tape.ctx, h.value(), x.value(), options);
  if (records)
    tape.record([=](tessera::Tape<Device>& t) {
      const auto d_h = take_grad(h);
      if (!d_h) return;  // h did not reach the loss
      t.contribute(x, [&](auto d_x) { patch_entropy_backward(t.ctx, view(d_x), d_h, x.value(), options); });
    });
  return h;
}

}  // namespace undecided

// For Cpu: the reference that every other device is compared with.
template <>
struct tessera::Backend<undecided::patch_entropy_op, tessera::Cpu> {
  /// What both passes know of a row.
  template <class A>
  struct Row {
    A largest, log_z, entropy;
  };

  template <class A, class T>
  static Row<A> statistics(const T* x, int64_t classes, A scale) {
    A largest = -std::numeric_limits<A>::infinity();
    for (int64_t k = 0; k < classes; ++k) largest = std::max(largest, A(widen(x[k])));
    if (largest == -std::numeric_limits<A>::infinity()) return {0, 0, 0};
    A z = 0, weighted = 0;
#pragma omp simd reduction(+ : z, weighted)
    for (int64_t k = 0; k < classes; ++k) {
      const A t = (A(widen(x[k])) - largest) * scale, e = math::exp(t);
      z += e;
      weighted += e > 0 ? e * t : A(0);  // not 0 times -infinity
    }
    const A log_z = std::log(z);
    return {largest, log_z, log_z - weighted / z};
  }

  template <class T, class A = accumulate_t<T>>
  static void forward(Context<Cpu>&, Out<A, 1, Cpu> h, In<T, 2, Cpu> x, double scale) {
    const int64_t classes = x.shape[1];
    parallel_for(x.shape[0], row_grain(classes), [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) h.data[r] = statistics(x.data + r * classes, classes, A(scale)).entropy;
    });
  }

  template <class T, class A = accumulate_t<T>>
  static void backward(Context<Cpu>&, Out<T, 2, Cpu> d_x, In<A, 1, Cpu> d_h, In<T, 2, Cpu> x, double scale) {
    const int64_t classes = x.shape[1];
    parallel_for(x.shape[0], row_grain(classes), [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) {
        const T* x_row = x.data + r * classes;
        T* d_x_row = d_x.data + r * classes;
        const auto row = statistics(x_row, classes, A(scale));
        const A factor = -d_h.data[r] * A(scale);
#pragma omp simd
        for (int64_t k = 0; k < classes; ++k) {
          const A log_p = (A(widen(x_row[k])) - row.largest) * A(scale) - row.log_z, p = math::exp(log_p);
          d_x_row[k] = narrow<T>(p > 0 ? factor * p * (log_p + row.entropy) : A(0));
        }
      }
    });
  }
};
