// Elementwise operations on Cpu.
#pragma once
#include <tessera/core/parallel.hpp>
#include <tessera/ops/elementwise.hpp>

namespace tessera {

template <>
struct Backend<op::add_into, Cpu> {
  template <class T>
  static void run(Context<Cpu>&, Out<T, 1, Cpu> y, In<T, 1, Cpu> x) {
    parallel_for(y.size(), 16384, [&](int64_t begin, int64_t end) {
#pragma omp simd
      for (int64_t i = begin; i < end; ++i) y.data[i] = narrow<T>(widen(y.data[i]) + widen(x.data[i]));
    });
  }
};

template <>
struct Backend<op::activation, Cpu> {
  template <class T>
  static void forward(Context<Cpu>&, Out<T, 1, Cpu> y, In<T, 1, Cpu> x, Activation activation) {
    math::with_activation(activation, [&]<Activation a>(std::integral_constant<Activation, a>) {
      parallel_for(x.size(), 8192, [&](int64_t begin, int64_t end) {
#pragma omp simd
        for (int64_t i = begin; i < end; ++i) y.data[i] = narrow<T>(math::activate<a>(widen(x.data[i])));
      });
    });
  }
  template <class T>
  static void backward(Context<Cpu>&, Out<T, 1, Cpu> d_x, In<T, 1, Cpu> d_y, In<T, 1, Cpu> x, Activation activation) {
    math::with_activation(activation, [&]<Activation a>(std::integral_constant<Activation, a>) {
      parallel_for(x.size(), 8192, [&](int64_t begin, int64_t end) {
#pragma omp simd
        for (int64_t i = begin; i < end; ++i)
          d_x.data[i] = narrow<T>(widen(d_y.data[i]) * math::activate_derivative<a>(widen(x.data[i])));
      });
    });
  }
};

}  // namespace tessera
