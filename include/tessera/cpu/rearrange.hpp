// Copies between views of any strides on Cpu.
#pragma once
#include <tessera/cpu/strided.hpp>
#include <tessera/ops/rearrange.hpp>

namespace tessera {

template <>
struct Backend<op::copy, Cpu> {
  template <class T, class TX, int Rank>
  static void run(Context<Cpu>&, TensorView<T, Rank, Cpu> y, TensorView<const TX, Rank, Cpu> x) {
    run(cpu::StridedLoop<2>(y.shape, {y.strides, x.strides}), y.data, x.data);
  }

 private:
  template <class T, class TX>
  static void run(const cpu::StridedLoop<2>& loop, T* y, const TX* x) {
    const int64_t y_step = loop.inner_stride(0), x_step = loop.inner_stride(1);
    const auto convert = [](TX value) {
      if constexpr (std::is_same_v<T, TX>)
        return value;
      else
        return narrow<T>(widen(value));
    };
    loop.run([&](const auto& at, int64_t n) {
      T* y_row = y + at[0];
      const TX* x_row = x + at[1];
      if (y_step == 1 && x_step == 1) {
#pragma omp simd
        for (int64_t i = 0; i < n; ++i) y_row[i] = convert(x_row[i]);
      } else if (y_step == 1 && x_step == 0) {
        std::fill_n(y_row, n, convert(*x_row));
      } else {
        for (int64_t i = 0; i < n; ++i) y_row[i * y_step] = convert(x_row[i * x_step]);
      }
    });
  }
};

template <>
struct Backend<op::sum_onto, Cpu> {
  template <class G, class T, int Rank>
  static void run(Context<Cpu>& ctx, TensorView<G, Rank, Cpu> y, TensorView<const T, Rank, Cpu> x) {
    cpu::sum_onto(ctx, y.data, y.shape, x.data, x.shape);
  }
};

}  // namespace tessera
